"""Tables that a code lays beside each other in one HDF5 file, read as one.

COSMIC has the evolution of each binary in `bpp`, its metallicity and efficiency of the common
envelope in `initC`, and what all binaries share in `initC_settings`. COMPAS has them in
`BSE_System_Parameters`. The columns of such tables are joined to the rows of the main one by the
number of the binary, and only those that are wanted are in memory, once for each binary of the
main table.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.errors import DataError
from data_prep.tables import hdf5
from data_prep.tables.chunk import Chunk, Table
from data_prep.tables.hdf5 import HDF5

TAKEN = "bpp"
"""The table of a file that is read where none is named: COSMIC's."""
LAYOUTS = (
    (r"bpp", "bin_num", ("initC", "initCond", "initC_settings", "stroopwafel")),
    (r"BSE_(?!System_Parameters).*", "SEED", ("BSE_System_Parameters",)),
)
"""Of COSMIC and COMPAS: a main table, the column that numbers its binaries, the tables beside it.

One of them without that column holds one row for all binaries, or binary k in row k (0-based).
"""

_NUMBER = "number of the binary"


def opened(path: Path, name: str | None) -> Table:
    """The table `name` of an HDF5 file, with what lies beside it.

    Raises:
        DataError: If it cannot be read, or has several tables and none is named.
    """
    found = hdf5.tables(path)
    main = hdf5.choose(path, found, TAKEN if name is None and TAKEN in found else name)
    for pattern, key, names in LAYOUTS:
        others = tuple(found[other] for other in names if other in found)
        if re.fullmatch(pattern, main.name) and key in main.header and others:
            return Joined(main=main, key=key, others=others)
    return main


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """A table with those columns of others that it lacks itself."""

    main: HDF5
    key: str
    """The column that numbers the binaries."""
    others: tuple[HDF5, ...]
    layout: str = "hdf5"

    @property
    def header(self) -> tuple[str, ...]:
        return self.main.header + tuple(self._lent())

    @property
    def unread(self) -> frozenset[str]:
        return self.main.unread.union(*(other.unread for other in self.others))

    @property
    def units(self) -> Mapping[str, str]:
        lent = {
            name: other.units[name] for name, other in self._lent().items() if name in other.units
        }
        return {**self.main.units, **lent}

    def chunks(self, names: Mapping[str, str], numbers: Collection[str]) -> Iterator[Chunk]:
        """As of any `Table`.

        Raises:
            DataError: If a table has two rows of different values for one binary.
        """
        lent = self._lent()
        own = {name: old for name, old in names.items() if old not in lent}
        if len(own) == len(names):
            yield from self.main.chunks(own, numbers)
            return
        binaries = self._binaries()
        values: dict[str, _Values] = {}
        for other in self.others:
            taken = {name: old for name, old in names.items() if lent.get(old) is other}
            if taken:
                values |= self._read(other, binaries, taken, numbers)
        own[_NUMBER] = self.key
        for chunk in self.main.chunks(own, [*(n for n in numbers if n in own), _NUMBER]):
            at = np.searchsorted(binaries, chunk.numbers[_NUMBER])
            for name, (found, texts) in values.items():
                if texts is None:
                    chunk.numbers[name] = found[at]
                else:
                    codes = pa.array(found[at], from_pandas=True).cast(pa.int32())
                    chunk.texts[name] = pa.DictionaryArray.from_arrays(codes, pa.array(texts))
            yield chunk

    def _lent(self) -> dict[str, HDF5]:
        """The columns that the main table lacks, each with the first table that has it."""
        found: dict[str, HDF5] = {}
        for other in self.others:
            found |= {name: other for name in other.header if name not in found}
        return {name: other for name, other in found.items() if name not in self.main.header}

    def _binaries(self) -> NDArray[np.float64]:
        """The numbers of the main table's binaries, in order."""
        chunks = self.main.chunks({_NUMBER: self.key}, [_NUMBER])
        found = [np.unique(chunk.numbers[_NUMBER]) for chunk in chunks]
        return np.unique(np.concatenate([np.empty(0), *found]))

    def _read(
        self,
        other: HDF5,
        binaries: NDArray[np.float64],
        names: Mapping[str, str],
        numbers: Collection[str],
    ) -> dict[str, _Values]:
        """The columns `names` of another table: the values of these binaries."""
        keyed = self.key in other.header
        asked = [name for name in names if name in numbers] + [_NUMBER] * keyed
        texts: dict[str, dict[str, int]] = {}
        values = {name: np.full(len(binaries), np.nan) for name in names}
        for chunk in other.chunks({**names, **({_NUMBER: self.key} if keyed else {})}, asked):
            if other.rows == 1 and not keyed:
                of, at = np.zeros(len(binaries), int), np.arange(len(binaries))
            else:
                number = chunk.numbers[_NUMBER] if keyed else chunk.rows - 1.0
                of = np.flatnonzero(np.isin(number, binaries))
                at = np.searchsorted(binaries, number[of])
            for name in names:
                if name in chunk.numbers:
                    new = chunk.numbers[name][of]
                else:
                    new = _codes(chunk.texts[name], texts.setdefault(name, {}))[of]
                before = values[name][at]
                values[name][at] = new
                # A binary can be in the table twice: in one chunk, or in two.
                clash = (values[name][at] != new) | (before != new) & ~np.isnan(before)
                if (clash & ~np.isnan(new)).any():
                    number_of = binaries[at][clash.argmax()]
                    raise DataError(
                        f"{self.main.path}: table {other.name} has two rows with {self.key} "
                        f"{number_of:g} and different {names[name]!r}: keep one of each"
                    )
        return {name: (values[name], [*texts[name]] if name in texts else None) for name in names}


_Values: TypeAlias = tuple[NDArray[np.float64], list[str] | None]
"""Numbers, or codes of these texts."""


def _codes(array: pa.Array, known: dict[str, int]) -> NDArray[np.float64]:
    """The texts as numbers, by which they are known from now on; NaN where there is none."""
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    number = [known.setdefault(text, len(known)) for text in array.dictionary.to_pylist()]
    codes: NDArray[np.float64] = (
        pa.array(number, pa.float64()).take(array.indices).to_numpy(zero_copy_only=False)
    )
    return codes
