"""FITS and VOTable through astropy, which is installed beside this package where it is wanted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.errors import DataError, first_line
from data_prep.tables.chunk import Chunk, apart, is_text
from data_prep.tables.text.header import unit_in

CHUNK_ROWS = 131_072
"""Rows decoded at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Astronomy:
    """A table of a FITS file, which is mapped into memory, or of a VOTable, which is read whole."""

    path: Path
    layout: str
    """fits or votable."""
    rows: Callable[[], AbstractContextManager[Any]]
    """Opens an array of named columns, masked where values are missing."""
    names: tuple[str, ...]
    units: dict[str, str]

    @classmethod
    def fits(cls, path: Path, table: str | None) -> Astronomy:
        """A table of a FITS file: the one of that name or number, or the only one."""
        with _astropy(path, "a FITS file"):
            from astropy.io import fits

            with fits.open(path, memmap=True) as file:
                found = {
                    (unit.name or str(at)): (at, unit.columns)
                    for at, unit in enumerate(file)
                    if isinstance(unit, fits.BinTableHDU | fits.TableHDU)
                }
                at, columns = found[_chosen(path, list(found), table)]

        @contextmanager
        def rows() -> Iterator[Any]:
            with fits.open(path, memmap=True) as file:
                yield file[at].data

        return cls(
            path=path, layout="fits", rows=rows, names=tuple(columns.names),
            units=_units(columns.names, columns.units),
        )  # fmt: skip

    @classmethod
    def votable(cls, path: Path, table: str | None) -> Astronomy:
        """A table of a VOTable: the one of that name, or the only one."""
        with _astropy(path, "a VOTable"):
            from astropy.io import votable

            found = {
                (one.name or one.ID or str(at)): one
                for at, one in enumerate(votable.parse(str(path)).iter_tables())
            }
            one = found[_chosen(path, list(found), table)]
            rows = one.array
            names = [field.name for field in one.fields]
            rows.dtype.names = apart(names)
            units = [field.unit for field in one.fields]
        return cls(
            path=path, layout="votable", rows=lambda: nullcontext(rows), names=tuple(names),
            units=_units(names, units),
        )  # fmt: skip

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns."""
        return apart(self.names)

    def chunks(self, names: Mapping[str, str], numbers: Collection[str]) -> Iterator[Chunk]:
        """The columns `names`, name in the file by name in the chunk; `numbers` must be some."""
        place = {name: self.header.index(old) for name, old in names.items()}
        with _astropy(self.path, f"a {self.layout} table"), self.rows() as table:
            for start in range(0, len(table), CHUNK_ROWS):
                part = table[start : start + CHUNK_ROWS]
                columns = part.dtype.names
                found = {name: _arrow(part[columns[at]]) for name, at in place.items()}
                kinds = {name: name in numbers or not is_text(found[name].type) for name in names}
                rows = np.arange(start + 1, start + 1 + len(part))
                yield Chunk.read(rows, start + len(part), found, kinds)


def _arrow(column: Any) -> pa.Array:
    """A column of numpy's, as Arrow has it: values of this machine's byte order, texts."""
    values, missing = np.ma.getdata(column), np.ma.getmaskarray(column)
    values = np.asarray(values)
    if values.ndim > 1 or values.dtype.kind not in "biufSU":
        # Several values a row, or complex numbers: texts, which are refused where numbers belong.
        return pa.array([str(value) for value in values], pa.string())
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "U":
        return pa.array(values.astype(object), pa.string(), mask=missing)
    native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return pa.array(native, mask=missing if missing.any() else None)


def _chosen(path: Path, there: list[str], table: str | None) -> str:
    if table is None and len(there) == 1:
        return there[0]
    if table is not None and table in there:
        return table
    if not there:
        raise DataError(f"{path} holds no table, as an image does: name another file")
    what = f"has no table {table!r}" if table is not None else f"holds {len(there)} tables"
    raise DataError(f"{path} {what}: name one of {', '.join(there)} with --table")


def _units(names: Iterable[str], units: Iterable[Any]) -> dict[str, str]:
    told = ((name, unit_in(str(unit or ""))) for name, unit in zip(names, units, strict=True))
    return {name: unit for name, unit in told if unit}


@contextmanager
def _astropy(path: Path, what: str) -> Iterator[None]:
    """Turns what astropy says of a file into one sentence, and its absence into another."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of units that no standard has, such as Msun
            yield
    except ImportError:
        raise DataError(
            f"{path} is {what}, which needs astropy: pip install 'hpo-flows[astronomy]'"
        ) from None
    except DataError:
        raise
    except Exception as error:  # astropy raises of many kinds for a file that is damaged
        raise DataError(
            f"{path} cannot be read as {what} ({first_line(error)}): it may be damaged or cut "
            "off, so copy or download it again"
        ) from error
