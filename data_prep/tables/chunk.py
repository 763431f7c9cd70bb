"""Consecutive rows of a table: numbers as float64, texts as Arrow has them, and what is neither."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MISSING = ("NA", "N/A", "n/a", "--", "-", "null", "NULL", "None", "none", "")
"""Texts that stand for no value where numbers belong."""
NO_TEXT = {*MISSING, "nan", "NaN"} - {"none"}
"""Texts that stand for no value where texts belong: `none` is a choice of a code's."""
FORTRAN = r"^([+-]?[0-9]*\.?[0-9]*)[dD]([+-]?[0-9]+)$"
"""A number as Fortran writes it in double precision, 1.5D-03."""
GRID_VALUES = 4096
"""Distinct values in a chunk up to which a single-precision column is taken for a grid."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of one source."""

    rows: NDArray[np.int64]
    """1-based number of each row in its file, the header not counted."""
    end: int
    """Rows of the file up to the end of this chunk, whether still in it or not."""
    numbers: dict[str, NDArray[np.float64]]
    """NaN where missing or unreadable."""
    texts: dict[str, pa.Array] = field(default_factory=dict)
    """Columns of texts; from Parquet they are dictionary-encoded, so a text is in memory once."""
    wrong: dict[str, dict[int, str]] = field(default_factory=dict)
    """Of each number column: the texts found in it, by position in the chunk."""
    ragged: tuple[tuple[int, str], ...] = ()
    """Rows that do not have one value per column: number, and what is wrong."""

    @classmethod
    def read(
        cls,
        rows: NDArray[np.int64],
        end: int,
        found: Mapping[str, pa.Array],
        kinds: Mapping[str, bool],
        ragged: tuple[tuple[int, str], ...] = (),
    ) -> Chunk:
        """The chunk of these Arrow columns; `kinds` says of each whether it holds numbers."""
        read = {name: _numbers(array) for name, array in found.items() if kinds[name]}
        numbers = {name: values for name, (values, _) in read.items()}
        wrong = {name: texts for name, (_, texts) in read.items() if texts}
        others = {name: _texts(array) for name, array in found.items() if not kinds[name]}
        return cls(rows, end, numbers, others, wrong, ragged)

    def take(self, kept: NDArray[np.bool_]) -> Chunk:
        """The rows of a mask; what was wrong with rows is left behind."""
        numbers = {name: values[kept] for name, values in self.numbers.items()}
        texts = {name: array.filter(pa.array(kept)) for name, array in self.texts.items()}
        return Chunk(self.rows[kept], self.end, numbers, texts)

    def without_wrong(self, names: Collection[str]) -> Chunk:
        """The chunk with no value, and no fault, where a text is in these columns of numbers."""
        wrong = {name: texts for name, texts in self.wrong.items() if name not in names}
        return replace(self, wrong=wrong)

    def under(self, names: Mapping[str, str]) -> Chunk:
        """The chunk with other names of its columns: now, by new name."""
        numbers = {new: self.numbers[old] for new, old in names.items() if old in self.numbers}
        texts = {new: self.texts[old] for new, old in names.items() if old in self.texts}
        wrong = {new: self.wrong[old] for new, old in names.items() if old in self.wrong}
        return Chunk(self.rows, self.end, numbers, texts, wrong, self.ragged)

    def with_constants(self, told: Mapping[str, float | str], numbers: Collection[str]) -> Chunk:
        """The chunk with columns that have one value; those in `numbers` must be numbers."""
        count = len(self.rows)
        of_numbers, texts, wrong = dict(self.numbers), dict(self.texts), dict(self.wrong)
        for name, value in told.items():
            if isinstance(value, float) or name in numbers:
                number = value if isinstance(value, float) else np.nan
                of_numbers[name] = np.full(count, number)
                if not isinstance(value, float):
                    wrong[name] = dict.fromkeys(range(count), value)
            else:
                texts[name] = pa.array([value] * count, pa.string()).dictionary_encode()
        return replace(self, numbers=of_numbers, texts=texts, wrong=wrong)

    def holds_texts(self, name: str) -> bool | None:
        """Whether most of a column are texts that are no numbers; None where it has no value."""
        if name in self.numbers:
            some = bool(np.isfinite(self.numbers[name]).any())
            return False if some else bool(self.wrong.get(name)) or None
        texts, place = _distinct(self.texts[name])
        rows = np.bincount(place.drop_null().to_numpy(), minlength=len(texts))
        there = np.array([text is not None for text in texts], bool)
        no_number = np.isin(np.arange(len(texts)), list(_one_by_one(texts)[1]))
        return bool(2 * rows[no_number].sum() > rows[there].sum()) if there.any() else None

    def coded(self, known: Mapping[str, dict[str, int]]) -> Chunk:
        """The chunk with numbers in the place of some columns of texts.

        `known` has the number of each text that was met before, by column; a new one gets the next.
        """
        numbers = dict(self.numbers)
        for name in known.keys() & self.texts.keys():
            texts, place = _distinct(self.texts[name])
            each = [
                np.nan if text is None else float(known[name].setdefault(text, len(known[name])))
                for text in texts
            ]
            taken = pa.array(each, pa.float64()).take(place)
            numbers[name] = taken.to_numpy(zero_copy_only=False)
        return replace(self, numbers=numbers)

    def unlike(self, name: str, other: str) -> NDArray[np.bool_]:
        """The rows in which two columns differ."""
        if name in self.numbers and other in self.numbers:
            one, two = self.numbers[name], self.numbers[other]
            return np.asarray((one != two) & ~(np.isnan(one) & np.isnan(two)))
        if name in self.texts and other in self.texts:
            texts = zip(self.texts[name].to_pylist(), self.texts[other].to_pylist(), strict=True)
            return np.array([one != two for one, two in texts], bool)
        return np.ones(len(self.rows), bool)


class Table(Protocol):
    """One table of a file, opened: what the module of a format gives for it."""

    @property
    def layout(self) -> str:
        """The format, as `dataset.json` names it."""

    @property
    def header(self) -> tuple[str, ...]:
        """Column names as in the file, those that are there twice told `apart`."""

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of each column that the file tells one of."""

    def chunks(self, names: Mapping[str, str], numbers: Collection[str]) -> Iterator[Chunk]:
        """The columns `names`, name in the file by name in the chunk, from first to last row.

        Those in `numbers` must hold numbers; of the others the file's types or first rows decide.
        """


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold texts, which may be numbers or not."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    numeric = (
        pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean,
    )  # fmt: skip
    return not any(test(kind) for test in numeric)


def as_floats(array: pa.Array) -> pa.Array | None:
    """The array as float64, or None where it holds something else."""
    try:
        return array.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def holds_numbers(array: pa.Array) -> bool:
    """Whether texts are numbers, as far as they are there at all."""
    floats = _parsed(pc.utf8_trim_whitespace(array))
    return floats is not None and (floats.null_count < len(floats) or not _some(array))


def apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, told apart by their place where they are there twice."""
    met: set[str] = set()
    found = []
    for place, name in enumerate(names, start=1):
        found.append(f"{name} (column {place})" if name in met else name)
        met.add(name)
    return tuple(found)


def twins(header: Sequence[str], name: str) -> list[str]:
    """Columns that a file has under the name of another one, as `apart` calls them."""
    ends = ((at, f" (column {at})") for at in range(1, len(header) + 1))
    return [header[at - 1] for at, end in ends if header[at - 1] == name + end]


def _parsed(array: pa.Array) -> pa.Array | None:
    """Texts as float64, null where there is no value; None where one is no number.

    There are no blanks around them.
    """
    floats = as_floats(array)
    if floats is None:
        missing = pc.is_in(array, pa.array(MISSING))
        array = pc.if_else(missing, pa.scalar(None, pa.string()), array)
        floats = as_floats(array)
    if floats is None:
        floats = as_floats(pc.replace_substring_regex(array, FORTRAN, r"\1e\2"))
    return floats


def _some(array: pa.Array) -> bool:
    return bool(pc.any(pc.greater(pc.utf8_length(array), 0)).as_py())


def _texts(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        texts = array.dictionary.cast(pa.string())
        return pa.DictionaryArray.from_arrays(array.indices, texts)
    return array.cast(pa.string())


def _distinct(array: pa.Array) -> tuple[list[str | None], pa.Array]:
    """The distinct texts, None for those that stand for no value, and the place of each row's."""
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    # Only the values of these rows: a dictionary also holds values of other batches.
    used = array.indices.unique().drop_null()
    texts = pc.utf8_trim_whitespace(array.dictionary.take(used)).to_pylist()
    place = pc.index_in(array.indices, used, skip_nulls=True)
    return [None if text in NO_TEXT else text for text in texts], place


def _numbers(array: pa.Array) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Values as float64, NaN where there is none, and the texts that are no number."""
    if pa.types.is_dictionary(array.type):
        # Only the values of these rows: a dictionary also holds values of other batches.
        used = array.indices.unique().drop_null()
        distinct, wrong = _numbers(array.dictionary.take(used))
        place = pc.index_in(array.indices, used, skip_nulls=True)
        values = pa.array(distinct).take(place).to_numpy(zero_copy_only=False)
        rows = enumerate(place.to_pylist()) if wrong else ()
        return values, {row: wrong[at] for row, at in rows if at in wrong}
    if is_text(array.type):
        array = pc.utf8_trim_whitespace(array.cast(pa.string()))
        floats = _parsed(array)
    else:
        floats = as_floats(array)
    if floats is None:
        return _one_by_one(array.to_pylist())
    values = floats.to_numpy(zero_copy_only=False)
    return _as_meant(values) if pa.types.is_float32(array.type) else values, {}


def _as_meant(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Single-precision 0.0001 is 0.00009999999747; a grid value is the short decimal meant."""
    distinct, place = np.unique(values, return_inverse=True)
    if len(distinct) > GRID_VALUES:
        return values
    return np.array([float(str(np.float32(value))) for value in distinct])[place]


def _one_by_one(found: list[str | None]) -> tuple[NDArray[np.float64], dict[int, str]]:
    values = np.full(len(found), np.nan)
    wrong: dict[int, str] = {}
    for index, text in enumerate(found):
        if text and text not in MISSING:
            try:
                values[index] = float(text.replace("_", "?"))  # Python takes 1_000, tables do not
            except ValueError:
                wrong[index] = text
    return values, wrong
