"""Source tables, read in bounded chunks, with their columns under the names of the dataset.

Only this module knows what a source file is; one module for each format decodes it. Everything else
sees `Chunk`s with the 1-based numbers of their rows, so that a complaint can name the row.
"""

from __future__ import annotations

import hashlib
import lzma
import shlex
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from data_prep.errors import DataError, first_line
from data_prep.names.hints import missing
from data_prep.tables import beside, content, hdf5, place
from data_prep.tables.arrow import Arrow
from data_prep.tables.astronomy import Astronomy
from data_prep.tables.chunk import Chunk, Table, twins
from data_prep.tables.text.table import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a user says of how tables are to be read, where files do not tell."""

    table: str | None = None
    """The table in a file that can hold several (HDF5, FITS, VOTable, zip)."""
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
    given: Path
    """The file or folder that the user named."""
    table: Table
    renamed: dict[str, str]
    """Name in the file, by the name that the rest of the program uses."""
    constants: dict[str, float | str] = field(default_factory=dict)
    """Values that the file's path tells, the same in every row, by name before renaming."""

    @classmethod
    def all(
        cls, given: Iterable[Path], columns: Mapping[str, str], reading: Reading = AS_TOLD
    ) -> tuple[Source, ...]:
        """The sources of files, and of the tables in folders.

        Raises:
            DataError: As `open` does; or if a folder holds none, or tables of different columns.
        """
        found: list[Source] = []
        for one in map(Path, given):
            group = [cls.open(path, columns, reading, one) for path in place.tables_in(one)]
            for source in group[1:]:
                if other := set(source.header) ^ set(group[0].header):
                    raise DataError(
                        f"{one} holds tables of different columns: {min(other)!r} is not in both "
                        f"{group[0].path} and {source.path}: name the tables that belong together"
                    )
            found += group
        # A value that is a text in one path is none of the numbers in the others.
        texts = {
            name for one in found for name, value in one.constants.items() if isinstance(value, str)
        }
        return tuple(one._with_texts(texts) for one in found)

    @classmethod
    def open(
        cls,
        path: Path,
        columns: Mapping[str, str],
        reading: Reading = AS_TOLD,
        given: Path | None = None,
    ) -> Source:
        """Look at a file's head; `columns` gives new names by those in the file.

        Raises:
            DataError: If the file is missing, unreadable, empty, or no table.
        """
        path = Path(path)
        if path.is_dir():
            raise DataError(f"{path} is a folder: name the tables in it")
        with _reading(path):
            table = _table(path, reading)
        told = {
            name: value
            for name, value in place.partitions(path).items()
            if name not in table.header  # some writers keep the column in the file, too
        }
        if reading.from_path is not None:
            told |= place.matched(path, reading.from_path)
        if double := set(told).intersection(table.header):
            raise DataError(
                f"{path} has a column {min(double)!r}, which --from-path tells, too: give the "
                "value of the path another name"
            )
        header = (*table.header, *told)
        renamed = _renamed(header, columns)
        return cls(path=path, given=given or path, table=table, renamed=renamed, constants=told)

    @property
    def layout(self) -> str:
        """The format: csv, tab, whitespace, parquet, ..."""
        return self.table.layout

    @property
    def header(self) -> tuple[str, ...]:
        """Column names as in the file, and of the values in its path."""
        return (*self.table.header, *self.constants)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each column that the file tells one of, by name after renaming."""
        told = self.table.units
        return {name: told[old] for name, old in self.renamed.items() if old in told}

    @property
    def names(self) -> tuple[str, ...]:
        """Column names after renaming."""
        return tuple(self.renamed)

    @property
    def readable(self) -> tuple[str, ...]:
        """Names of the columns that can be read, whoever asks for them."""
        unread = getattr(self.table, "unread", ())
        return tuple(name for name, old in self.renamed.items() if old not in unread)

    def chunks(self, numbers: Sequence[str], others: Iterable[str] = ()) -> Iterator[Chunk]:
        """The file from its first row to its last.

        Args:
            numbers: Columns that must hold numbers.
            others: Columns that may hold numbers or texts; what the first rows hold decides.

        Raises:
            DataError: If the file breaks off or cannot be decoded.
        """
        wanted = [*numbers, *others]
        if absent := [name for name in dict.fromkeys(wanted) if name not in self.renamed]:
            there = [each for each in self.renamed if each not in wanted]
            raise DataError(self.lacks(absent, there))
        names = {name: self.renamed[name] for name in wanted}
        told = {name: self.constants[old] for name, old in names.items() if old in self.constants}
        names = {name: old for name, old in names.items() if name not in told}
        if not names:
            raise DataError(
                f"{self.path}: {', '.join(told)} are values of its path, and no column of its "
                "table is asked for: name one as an event"
            )
        alike = {twin: name for name, old in names.items() for twin in twins(self.header, old)}
        read = names | {twin: twin for twin in alike}
        numeric = [name for name in read if alike.get(name, name) in numbers]
        with _reading(self.path):
            for chunk in self.table.chunks(read, numeric):
                for twin, name in alike.items():
                    self._refuse_unlike(chunk, name, twin)
                chunk = chunk.under({name: name for name in names}) if alike else chunk
                yield chunk.with_constants(told, numbers) if told else chunk

    def lacks(self, absent: Sequence[str], there: Sequence[str]) -> str:
        """Says that the columns `absent` are not there, and what to type instead."""
        patterns = {name: place.pattern_with(self.path, name) for name in absent}
        told = [name for name in absent if patterns[name] and not self.constants]
        if not told:
            return missing(self.path, absent, there)
        said = f"if the name of its folder tells {' and '.join(told)}, pass --from-path "
        rest = [name for name in absent if name not in told]
        fault = (
            missing(self.path, rest, there) if rest else f"{self.path} has no column {told[0]!r}"
        )
        return f"{fault}{';' if rest else ':'} {said}{shlex.quote(str(patterns[told[0]]))}"

    def holds_texts(self, names: Collection[str]) -> dict[str, bool]:
        """Whether columns are made of texts that are no numbers, as far as the first rows tell.

        A column without any value is left out.
        """
        constants = {
            name: isinstance(self.constants[old], str)
            for name, old in self.renamed.items()
            if name in names and old in self.constants
        }
        found: dict[str, bool] = {}
        wanted = set(names) - constants.keys()
        for chunk in self.chunks([], sorted(wanted)) if wanted else ():
            told = {name: chunk.holds_texts(name) for name in wanted - found.keys()}
            found |= {name: one for name, one in told.items() if one is not None}
            if found.keys() == wanted:
                break
        return found | constants

    def sha256(self) -> str:
        """Of the file's bytes."""
        with _reading(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _with_texts(self, names: Collection[str]) -> Source:
        told = {
            name: f"{value:g}" if name in names and isinstance(value, float) else value
            for name, value in self.constants.items()
        }
        return replace(self, constants=told)

    def _refuse_unlike(self, chunk: Chunk, name: str, twin: str) -> None:
        """Refuse two columns of one name that do not hold the same."""
        unlike = chunk.unlike(name, twin)
        if unlike.any():
            old = self.renamed[name]
            raise DataError(
                f"{self.path} has two columns {old!r}, which differ in row "
                f"{chunk.rows[unlike.argmax()]}: take one away, or take the second by "
                f"--columns {shlex.quote(f'{twin}={name}')}"
            )


def sha256(sources: Sequence[Source]) -> str:
    """Of the bytes of a file; of a folder, of the lines that `sha256sum` writes of its tables."""
    given = sources[0].given
    if [source.path for source in sources] == [given]:
        return sources[0].sha256()
    lines = (f"{one.sha256()}  {one.path.relative_to(given).as_posix()}\n" for one in sources)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong below into one sentence that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path") from None
    except PermissionError:
        raise DataError(f"{path} may not be read by you: ask its owner for the right") from None
    except pa.ArrowMemoryError as error:  # for what a file says of itself, before it is read
        raise DataError(
            f"{path} cannot be read (it says that it is larger than this machine's memory): it "
            "may be damaged, so copy or download it again, or write it in smaller batches"
        ) from error
    except (
        pa.ArrowException, OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
        RuntimeError,
    ) as error:  # fmt: skip
        raise DataError(
            f"{path} cannot be read ({first_line(error)}): it may be damaged or cut off, so copy "
            "or download it again"
        ) from error


DOORS: Mapping[bytes, Callable[[Path, str | None], Table]] = {
    b"PAR1": lambda path, _: Arrow.parquet(path),
    b"ARROW1": lambda path, _: Arrow.feather(path),
    b"\xff\xff\xff\xff": lambda path, _: Arrow.stream(path),
    b"SIMPLE  =": Astronomy.fits,
    hdf5.MAGIC: beside.opened,
}
"""How binary files of tables begin, and what opens the table of a name in them."""


def _table(path: Path, reading: Reading) -> Table:
    """The table in a file, whose format its first bytes tell: names of files mislead."""
    start, packed = content.first_bytes(path, reading.table)
    door = next((door for magic, door in DOORS.items() if start.startswith(magic)), None)
    if start[512 : 512 + len(hdf5.MAGIC)] == hdf5.MAGIC:
        door = beside.opened  # below a block of the user, as MATLAB's files have it
    if b"<VOTABLE" in start:
        door = Astronomy.votable
    if reading.names is not None and door is not None:
        raise DataError(f"{path} has names for its columns: leave --names out")
    if door is not None:
        return door(path, reading.table)
    if fault := content.foreign(start):
        raise DataError(f"{path} {fault}")
    if path.suffix.lower() in (".parquet", ".pq"):
        raise DataError(
            f"{path} is not a Parquet file (it begins with {start[:4]!r}): copy or download it "
            "again"
        )
    if reading.table is not None and packed != "zip":
        raise DataError(f"{path} holds one table only: leave --table out")
    return Text.open(path, reading.table, reading.names)


def _renamed(header: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Name in the file by new name. A renamed column wins over one that had the name before."""
    taken = {new for old, new in columns.items() if old in header}
    names = {name: name for name in header if name not in columns and name not in taken}
    return names | {new: old for old, new in columns.items() if old in header}
