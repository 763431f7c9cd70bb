"""Source tables, read in bounded chunks: CSV, whitespace tables (both also gzipped) and Parquet.

The only module that opens a source file. Everything else sees `Chunk`s: numpy columns with
the 1-based numbers of their rows, so that a complaint can name the row.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.errors import DataError

BLOCK_BYTES = 8 * 2**20
"""Text parsed at once."""
CHUNK_ROWS = 131_072
"""Parquet rows decoded at once."""
GRID_VALUES = 4096
"""Distinct values in a chunk up to which a single-precision column is taken for a grid."""
DELIMITERS = {"csv": ",", "tab": "\t", "whitespace": " "}
"""Of each layout of text; runs of blanks are made single ones first."""
LONGEST_LINE = 8 * 2**20
"""Bytes without a line break after which a file is not a table."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of one source."""

    rows: NDArray[np.int64]
    """1-based number of each row in its file, the header not counted."""
    end: int
    """Rows of the file up to the end of this chunk, whether still in it or not."""
    columns: dict[str, NDArray[Any]]
    """float64 (NaN where missing or unreadable), or objects for a column of texts."""
    texts: dict[str, dict[int, str]] = field(default_factory=dict)
    """Of each number column: the texts found in it, by position in the chunk."""
    ragged: tuple[tuple[int, str], ...] = ()
    """Rows that do not have one value per column: number, and what is wrong."""

    def take(self, kept: NDArray[Any]) -> Chunk:
        """The rows of a mask or an index; what was wrong with rows is left behind."""
        columns = {name: data[kept] for name, data in self.columns.items()}
        return Chunk(self.rows[kept], self.end, columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One source file and how to read it."""

    path: Path
    layout: str
    """csv, tab, whitespace or parquet."""
    header: tuple[str, ...]
    """Column names as in the file."""
    renamed: dict[str, str]
    """Name in the file, by the name that the rest of the program uses."""

    @classmethod
    def open(cls, path: Path, columns: Mapping[str, str]) -> Source:
        """Look at a file's head.

        Args:
            path: The file.
            columns: New name of a column by its name in the file.

        Raises:
            DataError: If the file is missing, unreadable, empty or has a doubled column.
        """
        path = Path(path)
        if path.is_dir():
            raise DataError(f"{path} is a folder: name the tables in it")
        with _reading(path):
            layout, header = _head(path)
        doubled = sorted({name for name in header if header.count(name) > 1})
        if doubled:
            raise DataError(f"{path} has two columns {doubled[0]!r}: rename one in its header")
        return cls(path=path, layout=layout, header=header, renamed=_renamed(header, columns))

    @property
    def names(self) -> tuple[str, ...]:
        """Column names after renaming."""
        return tuple(self.renamed)

    def require(self, wanted: Iterable[str]) -> None:
        """Refuse a file that lacks a column, with the nearest name and the way to rename."""
        wanted = list(wanted)
        for name in wanted:
            if name not in self.renamed:
                others = [each for each in self.names if each not in set(wanted)]
                raise DataError(_missing(self.path, name, others))

    def chunks(self, numbers: Sequence[str], others: Sequence[str] = ()) -> Iterator[Chunk]:
        """The file from its first row to its last.

        Args:
            numbers: Columns that must hold numbers.
            others: Columns that may hold numbers or texts; what the first rows hold decides.

        Raises:
            DataError: If the file breaks off or cannot be decoded.
        """
        self.require([*numbers, *others])
        read = self._parquet if self.layout == "parquet" else self._text
        with _reading(self.path):
            yield from read(tuple(numbers), tuple(name for name in others if name not in numbers))

    def sha256(self) -> str:
        """Of the file's bytes."""
        with _reading(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _parquet(self, numbers: tuple[str, ...], others: tuple[str, ...]) -> Iterator[Chunk]:
        start = 0
        names = {name: self.renamed[name] for name in (*numbers, *others)}
        types = pq.read_schema(self.path)
        kinds = {name: not _is_text(types.field(names[name]).type) for name in others}
        kinds |= dict.fromkeys(numbers, True)
        # Each distinct text once: a small file can repeat a long one a million times.
        once = [old for old in set(names.values()) if _is_flat_text(types.field(old).type)]
        with pq.ParquetFile(
            self.path, memory_map=False, pre_buffer=False, read_dictionary=once
        ) as file:
            for batch in file.iter_batches(
                CHUNK_ROWS, columns=list(dict.fromkeys(names.values())), use_threads=False
            ):
                found = {name: batch.column(old) for name, old in names.items()}
                rows = np.arange(start + 1, start + 1 + len(batch))
                start += len(batch)
                yield _chunk(rows, start, found, kinds)

    def _text(self, numbers: tuple[str, ...], others: tuple[str, ...]) -> Iterator[Chunk]:
        start = 0
        kinds = dict.fromkeys(numbers, True)
        names = {name: self.renamed[name] for name in (*numbers, *others)}
        for block in _blocks(self.path, self.layout):
            if not block.strip():
                continue
            if not others:  # what is not UTF-8 is then no number, or in a column not read
                block = _utf8(block)
            table, ragged = self._parse(
                block, list(dict.fromkeys(names.values())), [names[name] for name in numbers]
            )
            found = {name: table.column(old) for name, old in names.items()}
            for name in others:
                kinds.setdefault(name, _castable(found[name]))
            total = table.num_rows + len(ragged)
            rows = np.arange(start + 1, start + 1 + total)
            if ragged:
                rows = np.delete(rows, [min(number, total) - 1 for number, _ in ragged])
            broken = tuple((start + number, what) for number, what in ragged)
            start += total
            yield _chunk(rows, start, found, kinds, broken)

    def _parse(
        self, block: bytes, wanted: list[str], numbers: list[str]
    ) -> tuple[pa.Table, list[tuple[int, str]]]:
        """One block as a table: numbers as float64 where all can be read, else as texts."""
        try:
            return self._read_block(block, wanted, dict.fromkeys(numbers, pa.float64()))
        except pa.ArrowInvalid:
            # Some text is no number. Read all as text: the caller is told which and where.
            return self._read_block(block, wanted, {})

    def _read_block(
        self, block: bytes, wanted: list[str], types: Mapping[str, pa.DataType]
    ) -> tuple[pa.Table, list[tuple[int, str]]]:
        ragged: list[tuple[int, str]] = []

        def note(row: pa_csv.InvalidRow) -> str:
            # Arrow numbers rows only when it parses in one thread.
            ragged.append(
                (row.number, f"{row.actual_columns} values for {len(self.header)} columns")
            )
            return "skip"

        table = pa_csv.read_csv(
            pa.BufferReader(block),
            pa_csv.ReadOptions(
                use_threads=False, block_size=len(block) + 1, column_names=self.header
            ),
            pa_csv.ParseOptions(delimiter=DELIMITERS[self.layout], invalid_row_handler=note),
            pa_csv.ConvertOptions(
                include_columns=wanted,
                column_types={name: types.get(name, pa.string()) for name in wanted},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        return table, ragged


def _chunk(
    rows: NDArray[np.int64],
    end: int,
    found: Mapping[str, pa.Array],
    kinds: Mapping[str, bool],
    ragged: tuple[tuple[int, str], ...] = (),
) -> Chunk:
    columns: dict[str, NDArray[Any]] = {}
    texts: dict[str, dict[int, str]] = {}
    for name, array in found.items():
        if kinds[name]:
            columns[name], wrong = _numbers(array)
            if wrong:
                texts[name] = wrong
        else:
            columns[name] = _texts(array)
    return Chunk(rows, end, columns, texts, ragged)


def _texts(array: pa.Array) -> NDArray[np.object_]:
    """Texts, None where there is none; equal ones of a dictionary are one in memory."""
    if not pa.types.is_dictionary(array.type):
        return np.array(array.cast(pa.string()).to_pylist(), dtype=object)
    used, places = _used(array)
    return np.array([*used.cast(pa.string()).to_pylist(), None], dtype=object)[places]


def _used(array: pa.DictionaryArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """The values that the rows have, and the place of each row's; the last and one for none.

    A dictionary also holds what other batches of its file have.
    """
    here = array.indices.cast(pa.int64())
    used, places = np.unique(here.drop_null().to_numpy(), return_inverse=True)
    place_N = np.full(len(array), len(used), np.int64)
    place_N[here.is_valid().to_numpy(zero_copy_only=False)] = places
    return array.dictionary.take(pa.array(used, pa.int64())), place_N


def _numbers(array: pa.Array) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Values as float64, NaN where there is none, and the texts that are no number."""
    if pa.types.is_dictionary(array.type):
        used, places = _used(array)
        distinct, wrong = _numbers(used)
        found = {row: wrong[place] for row, place in enumerate(places) if place in wrong}
        return np.append(distinct, np.nan)[places], found
    if _is_text(array.type):
        array = pc.utf8_trim_whitespace(array.cast(pa.string()))
        if not _castable(array):
            return _one_by_one(array.to_pylist())
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if pa.types.is_float32(array.type):
        return _as_meant(values), {}
    return np.asarray(values, np.float64), {}


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
        if text:
            try:
                values[index] = float(text.replace("_", "?"))  # Python takes 1_000, tables do not
            except ValueError:
                wrong[index] = text
    return values, wrong


def _castable(array: pa.Array) -> bool:
    try:
        array.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _is_flat_text(kind: pa.DataType) -> bool:
    """Whether a Parquet keeps it as texts or bytes, which can be read as a dictionary."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in (*tests, pa.types.is_binary, pa.types.is_large_binary))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong below into one sentence that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is damaged or was cut off ({error}): copy or download it again"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is neither a text table with a line of names nor Parquet ({error}): "
            "name another file"
        ) from error
    except (pa.ArrowException, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise DataError(
            f"{path} cannot be read ({first}): it may be damaged or cut off, "
            "or not be a table (CSV, whitespace or Parquet)"
        ) from error


def _head(path: Path) -> tuple[str, tuple[str, ...]]:
    """Layout and column names, told by the content: names of files mislead."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        with pq.ParquetFile(path) as parquet:
            return "parquet", tuple(parquet.schema_arrow.names)
    if path.suffix.lower() in (".parquet", ".pq"):
        raise DataError(
            f"{path} is not a Parquet file (it begins with {magic!r}): copy or download it again"
        )
    with _opened(path) as file:
        line = file.readline(LONGEST_LINE).decode("utf-8-sig").strip().lstrip("#").strip()
    if not line:
        raise DataError(f"{path} is empty: it should begin with a line of column names")
    for layout in ("csv", "tab"):
        if DELIMITERS[layout] in line:
            names = next(csv.reader([line], delimiter=DELIMITERS[layout]))
            return layout, tuple(name.strip() for name in names)
    return "whitespace", tuple(next(csv.reader([" ".join(line.split())], delimiter=" ")))


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path) if gzipped else path.open("rb"))


def _blocks(path: Path, layout: str) -> Iterator[bytes]:
    """The rows below the header, cut at line ends."""
    with _opened(path) as file:
        file.readline(LONGEST_LINE)
        rest = b""
        while lump := file.read(BLOCK_BYTES):
            end = lump.rfind(b"\n") + 1
            if end:
                yield _separated(rest + lump[:end], layout)
                rest = lump[end:]
            else:
                rest += lump
            if len(rest) > LONGEST_LINE:
                raise DataError(f"{path} has a line of over {len(rest)} bytes: is it a table?")
        if rest:
            yield _separated(rest, layout)


def _utf8(block: bytes) -> bytes:
    """The block with a mark in place of what is not UTF-8: Arrow quotes rows of it to `note`."""
    try:
        block.decode()
    except UnicodeDecodeError:
        return block.decode(errors="replace").encode()
    return block


def _separated(block: bytes, layout: str) -> bytes:
    """Runs of blanks become one separator, since Arrow knows single characters only."""
    if layout != "whitespace":
        return block
    return re.sub(rb"[ \t]+", b" ", re.sub(rb"(?m)^[ \t]+|[ \t\r]+$", b"", block))


def _renamed(header: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Name in the file by new name. A renamed column wins over one that had the name before."""
    taken = {new for old, new in columns.items() if old in header}
    names = {name: name for name in header if name not in columns and name not in taken}
    return names | {new: old for old, new in columns.items() if old in header}


def _missing(path: Path, name: str, names: Sequence[str]) -> str:
    near = [other for other in names if other.casefold() == name.casefold()]
    near += [n for n in difflib.get_close_matches(name, names, n=3) if n not in near]
    if near:
        hint = f"the nearest is {near[0]!r}; if that is it, pass --columns {near[0]}={name}"
    else:
        listed = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
        hint = f"it has {listed}; name the right one with --columns OLD={name}"
    return f"{path} has no column {name!r}: {hint}"
