"""Tables of text: their values separated by commas, tabs, semicolons, bars or blanks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from data_prep.errors import DataError
from data_prep.tables.chunk import Chunk, apart, holds_numbers
from data_prep.tables.content import opened
from data_prep.tables.text.header import COMMENTS, DELIMITERS, Head

BLOCK_BYTES = 8 * 2**20
"""Text parsed at once."""
LONGEST_LINE = 8 * 2**20
"""Bytes without a line break after which a file is not a table."""
HEAD_LINES, HEAD_ROWS = 10_000, 20
"""Lines looked at for the head of a table: so many at most, and so many that are no comments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A table of text."""

    path: Path
    member: str | None
    """In a zip archive of several files."""
    head: Head
    header: tuple[str, ...]

    @classmethod
    def open(
        cls, path: Path, member: str | None = None, names: tuple[str, ...] | None = None
    ) -> Text:
        """Layout and column names, told by the first lines: the names of files mislead."""
        with opened(path, member) as file:
            lines = list(_first_lines(file))
        if lines and "\r" in lines[0].rstrip("\r\n"):
            raise DataError(
                f"{path} has lines that end in CR alone: write it anew: tr '\\r' '\\n' < FILE > NEW"
            )
        try:
            head = Head.read(lines, names)
        except DataError as error:
            raise DataError(f"{path} {error}") from None
        if any("\ufffd" in name for name in head.names):
            raise DataError(f"{path} {_NOT_UTF8}")
        return cls(path=path, member=member, head=head, header=apart(head.names))

    @property
    def layout(self) -> str:
        """csv, tab, semicolon, pipe or whitespace."""
        return self.head.layout

    @property
    def units(self) -> dict[str, str]:
        """Of the columns that the head tells one of."""
        return self.head.units

    def chunks(self, names: Mapping[str, str], numbers: Collection[str]) -> Iterator[Chunk]:
        """The columns `names`, name in the file by name in the chunk.

        The columns in `numbers` must hold numbers; the first rows decide of the others.
        """
        start = 0
        kinds = dict.fromkeys(numbers, True)
        floats = {names[name] for name in numbers}
        for block in self._blocks():
            if not block.strip():
                continue
            if len(names) == len(numbers):
                # Text that is not UTF-8 is no number, or not read; Arrow quotes it to `note`.
                block = block.decode(errors="replace").encode()
            elif not _is_utf8(block):
                raise DataError(f"{self.path} {_NOT_UTF8}")
            types = {old: pa.float64() if old in floats else pa.string() for old in names.values()}
            try:
                table, ragged = _parsed(block, self.layout, self.header, types)
            except pa.ArrowInvalid:
                # Some text is no number. Read all as text: the caller is told which and where.
                as_text = dict.fromkeys(types, pa.string())
                table, ragged = _parsed(block, self.layout, self.header, as_text)
            found = {name: table.column(old).combine_chunks() for name, old in names.items()}
            for name in found.keys() - kinds.keys():
                kinds[name] = holds_numbers(found[name])
            total = table.num_rows + len(ragged)
            rows = np.arange(start + 1, start + 1 + total)
            if ragged:
                rows = np.delete(rows, [min(number, total) - 1 for number, _ in ragged])
            broken = tuple((start + number, what) for number, what in ragged)
            start += total
            yield Chunk.read(rows, start, found, kinds, broken)

    def _blocks(self) -> Iterator[bytes]:
        """The rows, cut at line ends."""
        with opened(self.path, self.member) as file:
            for _ in range(self.head.lines):
                file.readline(LONGEST_LINE)
            rest = b""
            while lump := file.read(BLOCK_BYTES):
                end = lump.rfind(b"\n") + 1
                if end:
                    yield self._separated(rest + lump[:end])
                    rest = lump[end:]
                else:
                    rest += lump
                if len(rest) > LONGEST_LINE:
                    raise DataError(
                        f"{self.path} has a line of over {len(rest)} bytes: is it a table?"
                    )
            if rest:
                yield self._separated(rest)

    def _separated(self, block: bytes) -> bytes:
        """Without comments, and values separated by one character: Arrow knows no other way."""
        if self.head.comments:
            marks = "|".join(map(re.escape, self.head.comments))
            block = re.sub(rf"(?m)^[ \t]*({marks}).*\n?".encode(), b"", block)
        if self.layout != "whitespace":
            return block
        return re.sub(rb"[ \t]+", b" ", re.sub(rb"(?m)^[ \t]+|[ \t\r]+$", b"", block))


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


def _first_lines(file: IO[bytes]) -> Iterator[str]:
    """The head and some rows, without a mark of encoding."""
    rows = size = 0
    for line in islice(iter(lambda: file.readline(LONGEST_LINE), b""), HEAD_LINES):
        text = line.decode("utf-8-sig" if not size else "utf-8", errors="replace")
        yield text
        rows += bool(text.strip()) and not text.lstrip().startswith(COMMENTS)
        size += len(line)
        if rows > HEAD_ROWS or size > LONGEST_LINE:
            return


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


_NOT_UTF8 = (
    "is text in another encoding than UTF-8: convert it: iconv -f LATIN1 -t UTF-8 FILE > NEW"
)
