"""Tables in Arrow's formats, decoded batch by batch: Parquet, Feather, streams of batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from data_prep.tables.chunk import Chunk, apart, is_text
from data_prep.tables.text.header import units_in_yaml

CHUNK_ROWS = 131_072
"""Rows decoded at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrow:
    """A file of record batches, of one of three kinds."""

    path: Path
    layout: str
    """parquet, feather or arrow (a stream)."""
    schema: pa.Schema

    @classmethod
    def parquet(cls, path: Path) -> Arrow:
        """A Parquet file."""
        return cls(path=path, layout="parquet", schema=pq.read_schema(path))

    @classmethod
    def feather(cls, path: Path) -> Arrow:
        """An Arrow file, as Feather is since its second version."""
        with pa.memory_map(str(path)) as file:
            return cls(path=path, layout="feather", schema=pa.ipc.open_file(file).schema)

    @classmethod
    def stream(cls, path: Path) -> Arrow:
        """A stream of batches in a file."""
        with pa.OSFile(str(path)) as file:
            return cls(path=path, layout="arrow", schema=pa.ipc.open_stream(file).schema)

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns."""
        return apart(self.schema.names)

    @property
    def units(self) -> dict[str, str]:
        """Units that the writer put in the metadata of fields, or of the table, as astropy does."""
        told = zip(self.header, (field.metadata or {} for field in self.schema), strict=True)
        units = {
            name: data[b"unit"].decode(errors="replace") for name, data in told if data.get(b"unit")
        }
        of_astropy = (self.schema.metadata or {}).get(b"table_meta_yaml", b"")
        return units | units_in_yaml(of_astropy.decode(errors="replace"))

    def chunks(self, names: Mapping[str, str], numbers: Collection[str]) -> Iterator[Chunk]:
        """The columns `names`, name in the file by name in the chunk; `numbers` must be some."""
        place = {old: self.header.index(old) for old in names.values()}
        types = {old: self.schema.field(at).type for old, at in place.items()}
        kinds = {name: name in numbers or not is_text(types[old]) for name, old in names.items()}
        start = 0
        for columns in self._batches(place, types):
            found = {name: columns[old] for name, old in names.items()}
            count = len(next(iter(columns.values())))
            rows = np.arange(start + 1, start + 1 + count)
            start += count
            yield Chunk.read(rows, start, found, kinds)

    def _batches(
        self, place: Mapping[str, int], types: Mapping[str, pa.DataType]
    ) -> Iterator[dict[str, pa.Array]]:
        """The columns at these places, so many rows at once."""
        if self.layout == "parquet":
            yield from self._parquet_batches(place, types)
            return
        chosen = sorted(set(place.values()))
        options = pa.ipc.IpcReadOptions(included_fields=chosen, use_threads=False)
        with pa.memory_map(str(self.path)) as file:
            for batch in _read(file, options, stream=self.layout == "arrow"):
                # Else a file that is damaged makes Arrow read beyond its end.
                batch.validate(full=True)
                for at in range(0, max(len(batch), 1), CHUNK_ROWS):
                    rows = batch.slice(at, CHUNK_ROWS)
                    yield {old: rows.column(chosen.index(to)) for old, to in place.items()}

    def _parquet_batches(
        self, place: Mapping[str, int], types: Mapping[str, pa.DataType]
    ) -> Iterator[dict[str, pa.Array]]:
        # Each distinct text once: a small file can repeat a long one a million times.
        once = [old for old in place if _is_flat_text(types[old])]
        doubled = len(set(self.schema.names)) < len(self.schema.names)
        wanted = None if doubled else list(place)
        with pq.ParquetFile(
            self.path, memory_map=False, pre_buffer=False, read_dictionary=once
        ) as file:
            for batch in file.iter_batches(CHUNK_ROWS, columns=wanted, use_threads=False):
                yield {old: batch.column(at if doubled else old) for old, at in place.items()}


def _read(
    file: pa.NativeFile, options: pa.ipc.IpcReadOptions, *, stream: bool
) -> Iterator[pa.RecordBatch]:
    if stream:
        yield from pa.ipc.open_stream(file, options=options)
        return
    reader = pa.ipc.open_file(file, options=options)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _is_flat_text(kind: pa.DataType) -> bool:
    """Whether a Parquet keeps it as texts or bytes, which can be read as a dictionary."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in (*tests, pa.types.is_binary, pa.types.is_large_binary))
