"""Tables in Arrow's formats: Parquet, decoded batch by batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.tables.chunk import Chunk, is_text

CHUNK_ROWS = 131_072
"""Rows decoded at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parquet:
    """A Parquet file."""

    path: Path
    header: tuple[str, ...]
    units: Mapping[str, str]
    layout: str = "parquet"

    @classmethod
    def open(cls, path: Path) -> Parquet:
        """Look at the file's schema."""
        schema = pq.read_schema(path)
        return cls(path=path, header=tuple(schema.names), units=_units(schema))

    def chunks(self, names: Mapping[str, str], numbers: Collection[str]) -> Iterator[Chunk]:
        """The columns `names`, name in the file by name in the chunk; `numbers` must be some."""
        start = 0
        types = pq.read_schema(self.path)
        kinds = {
            name: name in numbers or not is_text(types.field(old).type)
            for name, old in names.items()
        }
        wanted = list(dict.fromkeys(names.values()))
        # Each distinct text once: a small file can repeat a long one a million times.
        once = [old for old in wanted if _is_flat_text(types.field(old).type)]
        with pq.ParquetFile(
            self.path, memory_map=False, pre_buffer=False, read_dictionary=once
        ) as file:
            for batch in file.iter_batches(CHUNK_ROWS, columns=wanted, use_threads=False):
                found = {name: batch.column(old) for name, old in names.items()}
                rows = np.arange(start + 1, start + 1 + len(batch))
                start += len(batch)
                yield Chunk.read(rows, start, found, kinds)


def _units(schema: pa.Schema) -> dict[str, str]:
    """Units that the writer put in the fields' metadata, as astropy does."""
    told = {field.name: (field.metadata or {}).get(b"unit", b"") for field in schema}
    return {name: unit.decode(errors="replace") for name, unit in told.items() if unit}


def _is_flat_text(kind: pa.DataType) -> bool:
    """Whether a Parquet keeps it as texts or bytes, which can be read as a dictionary."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in (*tests, pa.types.is_binary, pa.types.is_large_binary))
