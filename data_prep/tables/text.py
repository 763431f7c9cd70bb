"""Tables of text: CSV, or separated by tabs or blanks, each also gzipped."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from data_prep.errors import DataError
from data_prep.tables.chunk import Chunk, as_floats

BLOCK_BYTES = 8 * 2**20
"""Text parsed at once."""
LONGEST_LINE = 8 * 2**20
"""Bytes without a line break after which a file is not a table."""
DELIMITERS = {"csv": ",", "tab": "\t", "whitespace": " "}
"""Of each layout; runs of blanks are made single ones first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A table of text."""

    path: Path
    layout: str
    """csv, tab or whitespace."""
    header: tuple[str, ...]
    units: Mapping[str, str]

    @classmethod
    def open(cls, path: Path) -> Text:
        """Layout and column names, told by the first line: the names of files mislead."""
        with _opened(path) as file:
            line = file.readline(LONGEST_LINE).decode("utf-8-sig").strip().lstrip("#").strip()
        if not line:
            raise DataError(f"{path} is empty: it should begin with a line of column names")
        for layout in ("csv", "tab"):
            if DELIMITERS[layout] in line:
                names = next(csv.reader([line], delimiter=DELIMITERS[layout]))
                header = tuple(name.strip() for name in names)
                return cls(path=path, layout=layout, header=header, units={})
        header = tuple(next(csv.reader([" ".join(line.split())], delimiter=" ")))
        return cls(path=path, layout="whitespace", header=header, units={})

    def chunks(self, names: Mapping[str, str], numbers: Collection[str]) -> Iterator[Chunk]:
        """The columns `names`, name in the file by name in the chunk.

        The columns in `numbers` must hold numbers; the first rows decide of the others.
        """
        start = 0
        kinds = dict.fromkeys(numbers, True)
        floats = {names[name] for name in numbers}
        for block in _blocks(self.path, self.layout):
            if not block.strip():
                continue
            if len(names) == len(numbers):
                # Text that is not UTF-8 is no number, or not read; Arrow quotes it to `note`.
                block = block.decode(errors="replace").encode()
            types = {old: pa.float64() if old in floats else pa.string() for old in names.values()}
            try:
                table, ragged = _parsed(block, self.layout, self.header, types)
            except pa.ArrowInvalid:
                # Some text is no number. Read all as text: the caller is told which and where.
                as_text = dict.fromkeys(types, pa.string())
                table, ragged = _parsed(block, self.layout, self.header, as_text)
            found = {name: table.column(old).combine_chunks() for name, old in names.items()}
            for name in found.keys() - kinds.keys():
                kinds[name] = as_floats(found[name]) is not None
            total = table.num_rows + len(ragged)
            rows = np.arange(start + 1, start + 1 + total)
            if ragged:
                rows = np.delete(rows, [min(number, total) - 1 for number, _ in ragged])
            broken = tuple((start + number, what) for number, what in ragged)
            start += total
            yield Chunk.read(rows, start, found, kinds, broken)


def _parsed(
    block: bytes, layout: str, header: Sequence[str], types: Mapping[str, pa.DataType]
) -> tuple[pa.Table, list[tuple[int, str]]]:
    """The columns of `types`, and the rows without one value per column: number, what is wrong."""
    ragged: list[tuple[int, str]] = []

    def note(row: pa_csv.InvalidRow) -> str:
        # Arrow numbers rows only when it parses in one thread.
        ragged.append((row.number, f"{row.actual_columns} values for {len(header)} columns"))
        return "skip"

    table = pa_csv.read_csv(
        pa.BufferReader(block),
        pa_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=header),
        pa_csv.ParseOptions(delimiter=DELIMITERS[layout], invalid_row_handler=note),
        pa_csv.ConvertOptions(
            include_columns=list(types),
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return table, ragged


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


def _separated(block: bytes, layout: str) -> bytes:
    """Runs of blanks become one separator, since Arrow knows single characters only."""
    if layout != "whitespace":
        return block
    return re.sub(rb"[ \t]+", b" ", re.sub(rb"(?m)^[ \t]+|[ \t\r]+$", b"", block))
