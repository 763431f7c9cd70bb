"""What the first bytes of a file say: that it is packed, and how; or that it is no table.

Packed text is unpacked while it is read, in bounded memory. A file of a kind that nothing here
reads is named, with the way to one that can be read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, cast

import pyarrow as pa

from data_prep.errors import DataError

FIRST_BYTES = 4096
"""Of a file, by which its format is told."""
BINARY = {
    b"PAR1": "a Parquet table",
    b"ARROW1": "a Feather table",
    b"\xff\xff\xff\xff": "a stream of Arrow tables",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"SIMPLE  =": "a FITS file",
}
"""How binary tables begin that are read, if they are not packed."""


def _by_pandas(reading: str) -> str:
    return f"write it as Parquet with pandas: pandas.{reading}.to_parquet('NEW.parquet')"


def _by_astropy(what: str, kind: str) -> tuple[str, str]:
    reading = f"astropy.table.Table.read('FILE', format='ascii.{kind}')"
    return what, f"write it as ECSV with astropy: {reading}.write('NEW.ecsv')"


_UTF16 = ("text in UTF-16", "write it in UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW")
_WEB_PAGE = ("a web page (HTML)", "download the file itself, by the link that says raw or download")
_PICTURE = ("a picture", "name the table that it shows")
_R = ("an R file", "write the table in R: write.csv(TABLE, 'NEW.csv', row.names = FALSE)")
FOREIGN: Mapping[bytes, tuple[str, str]] = MappingProxyType(
    {
        rb"\x93NUMPY": (
            "a NumPy array",
            "write it as Parquet with names for its columns: "
            "pandas.DataFrame(numpy.load('FILE'), columns=[...]).to_parquet('NEW.parquet')",
        ),
        rb"\x80[\x02-\x05]": (
            "a pickle, which can run any program and is not read",
            _by_pandas("read_pickle('FILE')"),
        ),
        rb"\xd0\xcf\x11\xe0": ("an Excel workbook", _by_pandas("read_excel('FILE')")),
        rb"SQLite format 3\0": ("a SQLite database", _by_pandas("read_sql(QUERY, CONNECTION)")),
        rb"version https://git-lfs": (
            "a pointer of Git LFS and not the file that it stands for",
            "fetch that by git lfs pull",
        ),
        rb"%PDF": ("a PDF document", "ask for the table that it was made from"),
        rb"(?i)\s*<(!doctype html|html|head|body|table|div)": _WEB_PAGE,
        rb"(?i)\s*<(\?xml|!doctype)": ("an XML file", _by_pandas("read_xml('FILE')")),
        rb"<stata_dta>": ("a Stata file", _by_pandas("read_stata('FILE')")),
        rb"\{.*\}\s*\n\{": ("JSON, an object a line", _by_pandas("read_json('FILE', lines=True)")),
        rb"\s*(\{\s*[\"}]|\[\s*([\[{\"]|\d+\s*,))": ("JSON", _by_pandas("read_json('FILE')")),
        rb"ORC": ("an ORC table", _by_pandas("read_orc('FILE')")),
        rb"FEA1": ("a Feather table of the first version", _by_pandas("read_feather('FILE')")),
        rb"RD[AX]\d\n|X\n\0\0": _R,
        rb"MATLAB [45]": ("a MATLAB file", "write it in MATLAB: writetable(TABLE, 'NEW.csv')"),
        rb"SR\0\x04": ("an IDL save file", "read it with scipy.io.readsav, and write a CSV"),
        rb"Obj\x01": ("an Avro file", "write the table as Parquet or CSV"),
        rb"CDF[\x01\x02\x05]": ("a NetCDF file", "write the table as Parquet or CSV with xarray"),
        rb"\x0e\x03\x13\x01": ("an HDF4 file", "convert it to HDF5: h4toh5 FILE"),
        rb"#ASDF": ("an ASDF file", "write the table with astropy: TABLE.write('NEW.ecsv')"),
        rb"root\0": ("a ROOT file", "write the table as Parquet or CSV with uproot"),
        rb"\\documentclass|\\begin\{": ("a LaTeX document", "ask for the table behind it"),
        rb"(?s).*\nByte-by-byte Description": _by_astropy("a machine-readable table (MRT)", "mrt"),
        rb"(\\[^\n]*\n)*(\|[^\n]*\|\s*\n){2,}[^|\n]+\n": _by_astropy("an IPAC table", "ipac"),
        rb"\{\\rtf": ("a word processor's document", "save it as plain text"),
        rb"7z\xbc\xaf": ("a 7-zip archive", "unpack it: 7z x FILE"),
        rb"Rar!": ("a RAR archive", "unpack it: unrar x FILE"),
        rb"(?s).{257}ustar": ("a tar archive", "unpack it (tar -xf FILE) and name what is in it"),
        rb"\x1f\x9d": ("a file packed by compress", "unpack it: uncompress FILE"),
        rb"\x89PNG|\xff\xd8\xff|GIF8": _PICTURE,
        rb"\x7fELF|MZ\x90": ("a program", "name the table that it writes"),
        rb"\xff\xfe|\xfe\xff": _UTF16,
        rb"(?s)[^\0]\0[^\0]\0": _UTF16,
    }
)
"""How a file begins that is not read: what it is, and what to do."""


def foreign(start: bytes) -> str | None:
    """What is wrong with a file that begins so, and the remedy; None if it can be text."""
    for pattern, (what, remedy) in FOREIGN.items():
        if re.match(pattern, start):
            return f"is {what}: {remedy}"
    if b"\0" in start:
        return (
            f"is a binary file of a kind that is not known (it begins with {start[:8]!r}): "
            "write the table as Parquet or CSV"
        )
    return None


def packing(start: bytes) -> str | None:
    """The name of the packing by which a file begins so, if any."""
    return next((name for magic, name in _PACKINGS.items() if start.startswith(magic)), None)


@contextmanager
def opened(path: Path, member: str | None = None) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where it is packed.

    Args:
        path: Of the file.
        member: The table in a zip archive of several.

    Raises:
        DataError: If a zip archive holds several files, none, or not the one asked for.
    """
    with path.open("rb") as packed:
        kind = packing(packed.read(8))
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            name = _member(path, archive, member)
            try:
                file = archive.open(name)
            except (RuntimeError, NotImplementedError) as error:  # a password, a rare method
                raise DataError(f"{path} cannot be unpacked here ({error}): unpack it") from error
            with file:
                yield file
    else:
        with _OPENERS[kind](path) as unpacked:
            yield unpacked


def first_bytes(path: Path, member: str | None = None) -> tuple[bytes, str | None]:
    """How a file begins, unpacked, and its packing."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no file that can be read twice: write it to one, and name that")
    with path.open("rb") as file:
        start = file.read(FIRST_BYTES)
    kind = packing(start)
    if kind is None:
        return start, None
    with opened(path, member) as file:
        start = file.read(FIRST_BYTES)
    inner = packing(start)
    if what := f"a file that is packed by {inner}" if inner else _binary(start):
        raise DataError(f"{path} holds {what}, packed by {kind}: unpack it first ({_UNPACK[kind]})")
    return start, kind


def _binary(start: bytes) -> str | None:
    if b"<VOTABLE" in start:
        return "a VOTable"
    return next((what for magic, what in BINARY.items() if start.startswith(magic)), None)


_PACKINGS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
_UNPACK = {
    "gzip": "gunzip FILE",
    "bzip2": "bunzip2 FILE",
    "xz": "unxz FILE",
    "zstd": "unzstd FILE",
    "lz4": "unlz4 FILE",
    "zip": "unzip FILE",
}


def _by_arrow(kind: str) -> Callable[[Path], IO[bytes]]:
    def opener(path: Path) -> IO[bytes]:
        return cast(IO[bytes], io.BufferedReader(pa.input_stream(str(path), compression=kind)))

    return opener


_OPENERS: dict[str | None, Callable[[Path], IO[bytes]]] = {
    None: lambda path: path.open("rb"),
    "gzip": lambda path: cast(IO[bytes], gzip.open(path)),
    "bzip2": lambda path: cast(IO[bytes], bz2.open(path)),
    "xz": lambda path: cast(IO[bytes], lzma.open(path)),
    "zstd": _by_arrow("zstd"),
    "lz4": _by_arrow("lz4"),
}


def _member(path: Path, archive: zipfile.ZipFile, wanted: str | None) -> str:
    """The one table in an archive, or the one that is wanted."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    _refuse_documents(path, names)
    # macOS adds its own notes, and hidden files, to what people pack.
    tables = [name for name in names if not re.search(r"(^|/)(\.|__MACOSX/)", name)]
    if wanted is not None:
        found = [name for name in tables if wanted in (name, Path(name).name, Path(name).stem)]
    else:
        found = tables
    if len(found) != 1:
        listed = ", ".join(tables[:20]) + (", ..." if len(tables) > 20 else "")
        many = f"holds {len(tables)} files ({listed})" if tables else "holds no file"
        remedy = "name one with --table" if tables else "pack the table again"
        no = f"has no file {wanted!r}: it " if wanted is not None else ""
        raise DataError(f"{path} {no}{many}: {remedy}")
    return found[0]


def _refuse_documents(path: Path, names: list[str]) -> None:
    """Refuses what is a zip archive by its bytes alone: workbooks and stores of arrays."""
    kinds = {
        r"xl/.*": ("an Excel workbook", _by_pandas("read_excel('FILE')")),
        r"content\.xml": ("an OpenDocument file", _by_pandas("read_excel('FILE')")),
        r"word/.*": ("a word processor's document", "save it as plain text"),
        r".*\.npy": (
            "a store of NumPy arrays",
            "write them as Parquet: pandas.DataFrame({'Mass_0': numpy.load('FILE')['Mass_0'], "
            "...}).to_parquet('NEW.parquet')",
        ),
        r".*data\.pkl": ("a PyTorch file", "write the table as Parquet or CSV"),
    }
    for pattern, (what, remedy) in kinds.items():
        if any(re.fullmatch(pattern, name) for name in names):
            raise DataError(f"{path} is {what}: {remedy}")
