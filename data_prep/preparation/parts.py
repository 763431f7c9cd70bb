"""Checked rows -> the part files of train, val and test: spooled, dealt, shuffled, written.

Rows wait on disk until all cells are known. Then each is dealt to a part and to a random bucket of
it, and each bucket is shuffled in memory and written. A random bucket for every row and a random
order in every bucket are a random order of the whole.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.columns import Column
from data_prep.dataset import SPLITS, Cell
from data_prep.errors import DataError
from data_prep.preparation import split
from data_prep.preparation.request import Request
from data_prep.tables.chunk import Chunk
from data_prep.tables.source import Source

MAX_CELLS = 65_536
"""Distinct condition combinations above which the table is no grid."""
BLOCK_ROWS = 262_144
"""Rows dealt to the parts at once. Part of what a seed means: changing it changes the split."""
BUCKET_ROWS = 1_000_000
"""Rows shuffled in memory at once, about."""
GROUP_ROWS = 65_536
"""Rows of a row group: what a stream decodes at once."""
PART_GROUPS = 64
"""Row groups of a part file, about 30 MB."""


class Spool:
    """Rows of `Request.record`, with the cells and ranges met on the way."""

    def __init__(self, folder: Path, request: Request) -> None:
        self.folder = folder
        self.request = request
        self.cells: dict[tuple[float, ...], int] = {}
        """Number of each cell, in order of appearance."""
        self.counts = np.zeros(0, np.int64)
        """Rows of each cell."""
        self.ranges: dict[str, tuple[float, float]] = {}
        self.path = folder / "kept"
        self.path.touch()

    def add(self, chunk: Chunk, source: Source) -> None:
        """Append the rows of a chunk."""
        if not len(chunk.rows):
            return
        records = np.empty(len(chunk.rows), self.request.record)
        for number, name in enumerate(self.request.events):
            records["events"][:, number] = chunk.numbers[name]
            self._widen(name, records["events"][:, number])
        if self.request.weights:
            records["weight"] = chunk.numbers[self.request.weights]
        for name in self.request.conditions:
            self._widen(name, chunk.numbers[name])
        records["cell"] = self._numbered(chunk, source)
        counts = np.bincount(records["cell"], minlength=len(self.cells))
        counts[: len(self.counts)] += self.counts
        self.counts = counts
        with self.path.open("ab") as file:
            file.write(records.tobytes())

    def blocks(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """The rows in their order; their cells get these numbers."""
        with self.path.open("rb") as file:
            while lump := file.read(BLOCK_ROWS * self.request.record.itemsize):
                records = np.frombuffer(lump, self.request.record).copy()
                records["cell"] = numbers[records["cell"]]
                yield records

    def _widen(self, name: str, values: NDArray[Any]) -> None:
        low, high = self.ranges.get(name, (math.inf, -math.inf))
        self.ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))

    def _numbered(self, chunk: Chunk, source: Source) -> NDArray[np.int64]:
        """Number of each row's cell; cells not met before get the next numbers."""
        conditions = self.request.conditions
        values = np.stack([chunk.numbers[name] for name in conditions], axis=1)
        found, place = np.unique(values, axis=0, return_inverse=True)
        numbers = [self.cells.setdefault(tuple(cell), len(self.cells)) for cell in found.tolist()]
        if len(self.cells) > MAX_CELLS:
            raise DataError(
                f"{source.path} has over {MAX_CELLS:,} combinations of {', '.join(conditions)}: "
                "conditions must be a grid of few values, so name other condition columns"
            )
        return np.array(numbers, np.int64)[place.reshape(-1)]


def write(spool: Spool, folder: Path, seed: int) -> tuple[tuple[Cell, ...], str]:
    """Write the parts into `folder`: the cells in ascending order, and the fingerprint.

    The spooled rows are deleted.
    """
    for_split, for_order = np.random.SeedSequence(seed).spawn(2)
    request = spool.request
    order = [number for _, number in sorted(spool.cells.items())]
    values = np.array(sorted(spool.cells))
    shares = split.shares(spool.counts[order], request.split)
    buckets = _deal(spool, np.argsort(order), shares, np.random.default_rng(for_split))
    spool.path.unlink()

    digest = hashlib.sha256(_meaning(request, values).encode())
    rng = np.random.default_rng(for_order)
    sums = np.zeros((2, len(values), len(SPLITS)))
    for number, name in enumerate(SPLITS):
        digest.update(name.encode())
        shuffled = _shuffled(buckets[name], request, rng, digest)
        if request.weights:
            shuffled = _summed(shuffled, sums[:, :, number])
        _write_part(folder / name, _groups(shuffled), request, values)
    weighed = request.weights is not None
    cells = tuple(
        Cell(
            tuple(value),
            **dict(zip(SPLITS, share, strict=True)),
            weights=tuple(once) if weighed else (),
            squares=tuple(twice) if weighed else (),
        )
        for value, share, once, twice in zip(
            values.tolist(), shares.tolist(), *sums.tolist(), strict=True
        )
    )
    return cells, digest.hexdigest()


def _summed(
    buckets: Iterable[NDArray[Any]], sums_2K: NDArray[np.float64]
) -> Iterator[NDArray[Any]]:
    """The buckets as they are; each cell's weights and their squares are added to `sums_2K`."""
    for records in buckets:
        weight = records["weight"].astype(np.float64)
        for total, values in zip(sums_2K, (weight, weight**2), strict=True):
            total += np.bincount(records["cell"], values, len(total))
        yield records


def _meaning(request: Request, values: NDArray[np.float64]) -> str:
    """What the rows mean, as the fingerprint has it.

    Spelled out, since the same data must keep their fingerprint when a column's class changes: it
    is the text that Python showed for columns and cells when there were no other fields.
    """
    events, conditions = map(_columns, (request.event_columns, request.condition_columns))
    weighted = f", {request.weights!r}" if request.weights else ""
    return f"({events}, {conditions}, {values.tolist()}{weighted})"


def _columns(columns: Iterable[Column]) -> str:
    each = []
    for one in columns:
        text = f"name={one.name!r}, unit={one.unit!r}, positive={one.positive}"
        for what in ("low", "high", "atoms", "categories"):
            if (value := getattr(one, what)) not in (None, ()):
                text += f", {what}={value!r}"
        each.append(f"Column({text})")
    return f"({each[0]},)" if len(each) == 1 else f"({', '.join(each)})"


def _deal(
    spool: Spool, numbers: NDArray[np.int64], shares: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, list[Path]]:
    """The spooled rows as bucket files of each part."""
    left = shares.copy()
    buckets = {
        name: [spool.folder / f"{name}-{at}" for at in range(max(1, -(-rows // BUCKET_ROWS)))]
        for name, rows in zip(SPLITS, shares.sum(axis=0).tolist(), strict=True)
    }
    for path in (path for paths in buckets.values() for path in paths):
        path.touch()
    for records in spool.blocks(numbers):
        parts = split.deal(records["cell"], left, rng)
        for part, paths in enumerate(buckets.values()):
            of_part = records[parts == part]
            bucket = rng.integers(len(paths), size=len(of_part))
            for at, path in enumerate(paths):
                # Opened anew each time: a large table has more buckets than a process may open.
                with path.open("ab") as file:
                    file.write(of_part[bucket == at].tobytes())
    return buckets


def _shuffled(
    buckets: Iterable[Path], request: Request, rng: np.random.Generator, digest: hashlib._Hash
) -> Iterator[NDArray[Any]]:
    """Each bucket in its final order; it is deleted."""
    for bucket in buckets:
        records = np.fromfile(bucket, request.record)
        bucket.unlink()
        records = records[rng.permutation(len(records))]
        digest.update(records.tobytes())
        yield records


def _groups(buckets: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The rows in groups of `GROUP_ROWS`; a last group that is not full may be empty."""
    waiting: list[NDArray[Any]] = []
    for records in buckets:
        joined = np.concatenate([*waiting, records])
        while len(joined) > GROUP_ROWS:
            yield joined[:GROUP_ROWS]
            joined = joined[GROUP_ROWS:]
        waiting = [joined.copy()]
    yield from waiting


def _write_part(
    folder: Path, groups: Iterable[NDArray[Any]], request: Request, values: NDArray[np.float64]
) -> None:
    """`part-00000.parquet`, `part-00001.parquet`, ... of so many row groups each."""
    folder.mkdir()
    schema = pa.schema(
        [pa.field(name, pa.float32(), nullable=False) for name in request.events]
        + [pa.field(name, pa.float64(), nullable=False) for name in request.conditions]
        + [pa.field(name, pa.float32(), nullable=False) for name in filter(None, [request.weights])]
    )
    weight = ["weight"] if request.weights else []
    numbered = itertools.groupby(enumerate(groups), lambda each: each[0] // PART_GROUPS)
    for number, part in numbered:
        with pq.ParquetWriter(
            folder / f"part-{number:05d}.parquet",
            schema,
            use_dictionary=list(request.conditions),
            column_encoding=dict.fromkeys(schema.names[: len(request.events)], "BYTE_STREAM_SPLIT"),
            compression="zstd",
            compression_level=15,
            write_statistics=False,
            store_schema=False,
        ) as file:
            for _, records in part:
                columns = [*records["events"].T, *values[records["cell"]].T]
                columns += [records[name] for name in weight]
                arrays = [pa.array(np.ascontiguousarray(column)) for column in columns]
                file.write_table(pa.Table.from_arrays(arrays, schema=schema))
