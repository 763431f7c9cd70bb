"""Source tables, read in bounded chunks, with their columns under the names of the dataset.

Only this module knows what a source file is; one module for each format decodes it. Everything else
sees `Chunk`s with the 1-based numbers of their rows, so that a complaint can name the row.
"""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from data_prep.errors import DataError, first_line, nearest
from data_prep.tables import arrow, beside, hdf5, text
from data_prep.tables.chunk import Chunk, Table

FIRST_BYTES = 4096
"""Of a file, by which its format is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a user says of how tables are to be read, where files do not tell."""

    table: str | None = None
    """The table in a file that can hold several (HDF5)."""
    names: tuple[str, ...] | None = None
    """Names of the columns of a text without a line of names."""
    from_path: str | None = None
    """Names of folders or files that hold values, such as `sevn_output_Z{Z}A{alpha}`."""


AS_TOLD = Reading()
"""Nothing that the files do not tell themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One source file and how to read it."""

    path: Path
    table: Table
    renamed: dict[str, str]
    """Name in the file, by the name that the rest of the program uses."""
    constants: dict[str, float | str] = field(default_factory=dict)
    """Values that the file's path tells, the same in every row, by name before renaming."""

    @classmethod
    def open(cls, path: Path, columns: Mapping[str, str], reading: Reading = AS_TOLD) -> Source:
        """Look at a file's head; `columns` gives new names by those in the file.

        Raises:
            DataError: If the file is missing, unreadable, empty or has a doubled column.
        """
        path = Path(path)
        if path.is_dir():
            raise DataError(f"{path} is a folder: name the tables in it")
        with _reading(path):
            table = _table(path, reading)
        header = table.header
        doubled = sorted({name for name in header if header.count(name) > 1})
        if doubled:
            raise DataError(f"{path} has two columns {doubled[0]!r}: rename one in its header")
        return cls(path=path, table=table, renamed=_renamed(header, columns))

    @property
    def layout(self) -> str:
        """The format: csv, tab, whitespace, parquet, ..."""
        return self.table.layout

    @property
    def header(self) -> tuple[str, ...]:
        """Column names as in the file."""
        return self.table.header

    @property
    def units(self) -> dict[str, str]:
        """Unit of each column that the file tells one of, by name after renaming."""
        told = self.table.units
        return {name: told[old] for name, old in self.renamed.items() if old in told}

    @property
    def names(self) -> tuple[str, ...]:
        """Column names after renaming."""
        return tuple(self.renamed)

    def chunks(self, numbers: Sequence[str], others: Iterable[str] = ()) -> Iterator[Chunk]:
        """The file from its first row to its last.

        Args:
            numbers: Columns that must hold numbers.
            others: Columns that may hold numbers or texts; what the first rows hold decides.

        Raises:
            DataError: If the file breaks off or cannot be decoded.
        """
        wanted = [*numbers, *others]
        for name in wanted:
            if name not in self.renamed:
                others = [each for each in self.renamed if each not in wanted]
                raise DataError(_missing(self.path, name, others))
        names = {name: self.renamed[name] for name in wanted}
        with _reading(self.path):
            yield from self.table.chunks(names, numbers)

    def sha256(self) -> str:
        """Of the file's bytes."""
        with _reading(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong below into one sentence that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is neither a text table with a line of names nor Parquet ({error}): "
            "name another file"
        ) from error
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read ({first_line(error)}): it may be damaged or cut off, so copy "
            "or download it again, or not be a table (CSV, whitespace or Parquet)"
        ) from error


def _table(path: Path, reading: Reading) -> Table:
    """The table in a file, whose format its first bytes tell: names of files mislead."""
    with path.open("rb") as file:
        start = file.read(FIRST_BYTES)
    if start.startswith(hdf5.MAGIC):
        return beside.opened(path, reading.table)
    if reading.table is not None:
        raise DataError(
            f"--table {reading.table}: {path} is no HDF5 file, and holds one table: leave it out"
        )
    if start.startswith(b"PAR1"):
        return arrow.Parquet.open(path)
    if path.suffix.lower() in (".parquet", ".pq"):
        raise DataError(
            f"{path} is not a Parquet file (it begins with {start[:4]!r}): copy or download it "
            "again"
        )
    return text.Text.open(path)


def _renamed(header: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Name in the file by new name. A renamed column wins over one that had the name before."""
    taken = {new for old, new in columns.items() if old in header}
    names = {name: name for name in header if name not in columns and name not in taken}
    return names | {new: old for old, new in columns.items() if old in header}


def _missing(path: Path, name: str, names: Sequence[str]) -> str:
    if near := nearest(name, names):
        hint = f"the nearest is {near!r}; if that is it, pass --columns {near}={name}"
    else:
        listed = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
        hint = f"it has {listed}; name the right one with --columns OLD={name}"
    return f"{path} has no column {name!r}: {hint}"
