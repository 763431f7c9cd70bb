"""Spooled rows -> the part files of train, val and test: dealt, shuffled, written.

Each row is dealt to a part and to a random bucket of it; each bucket is shuffled in memory and
written. A random bucket for every row and a random order in every bucket are a random order of the
whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.dataset import SPLITS, Cell
from data_prep.preparation import split
from data_prep.preparation.request import Request
from data_prep.preparation.spool import Spool

BUCKET_ROWS = 1_000_000
"""Rows shuffled in memory at once, about."""
GROUP_ROWS = 65_536
"""Rows of a row group: what a stream decodes at once."""
PART_ROWS = 64 * GROUP_ROWS
"""Rows of a part file, about 30 MB."""


@dataclass(frozen=True, slots=True)
class Written:
    """The part files of a dataset."""

    rows: dict[str, int]
    """Of each part."""
    cells: tuple[Cell, ...]
    fingerprint: str


def write(spool: Spool, folder: Path, seed: int) -> Written:
    """Write the parts into `folder`; the spooled rows are read twice and deleted.

    Args:
        spool: All rows.
        folder: Where the folders of the parts are made.
        seed: Of split and order.
    """
    for_split, for_order = np.random.SeedSequence(seed).spawn(2)
    request = spool.request
    values = np.array(sorted(spool.cells))
    rank = np.argsort([number for _, number in sorted(spool.cells.items())])
    counts = sum(np.bincount(block["cell"], minlength=len(rank)) for block in _ranked(spool, rank))
    shares = split.shares(np.asarray(counts), request.split)

    buckets = _deal(spool, rank, shares, np.random.default_rng(for_split))
    spool.path.unlink()

    meaning = (request.event_columns, request.condition_columns, values.tolist())
    digest = hashlib.sha256(repr(meaning).encode())
    rng = np.random.default_rng(for_order)
    for name in SPLITS:
        digest.update(name.encode())
        with _PartWriter(folder / name, request, values) as writer:
            for bucket in buckets[name]:
                records = np.fromfile(bucket, request.record)
                bucket.unlink()
                records = records[rng.permutation(len(records))]
                digest.update(records.tobytes())
                writer.write(records)
    cells = tuple(
        Cell(tuple(value), *share)
        for value, share in zip(values.tolist(), shares.tolist(), strict=True)
    )
    rows = dict(zip(SPLITS, shares.sum(axis=0).tolist(), strict=True))
    return Written(rows, cells, digest.hexdigest())


def _ranked(spool: Spool, rank: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """The rows, their cells numbered in ascending order of the conditions."""
    for block in spool.blocks():
        records = block.copy()
        records["cell"] = rank[records["cell"]]
        yield records


def _deal(
    spool: Spool, rank: NDArray[np.int64], shares: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, list[Path]]:
    """The spooled rows as bucket files of each part."""
    dealer = split.Assigner(shares, rng)
    buckets = {
        name: [spool.folder / f"{name}-{at}" for at in range(max(1, -(-rows // BUCKET_ROWS)))]
        for name, rows in zip(SPLITS, shares.sum(axis=0).tolist(), strict=True)
    }
    for path in (path for paths in buckets.values() for path in paths):
        path.touch()
    for records in _ranked(spool, rank):
        parts = dealer.parts(records["cell"])
        for part, paths in enumerate(buckets.values()):
            of_part = records[parts == part]
            bucket = rng.integers(len(paths), size=len(of_part))
            for at, path in enumerate(paths):
                # Opened anew each time: a large table has more buckets than a process may open.
                with path.open("ab") as file:
                    file.write(of_part[bucket == at].tobytes())
    return buckets


class _PartWriter:
    """Rows of one part -> `part-00000.parquet`, `part-00001.parquet`, ... in full row groups."""

    def __init__(self, folder: Path, request: Request, values: NDArray[np.float64]) -> None:
        folder.mkdir()
        self._folder = folder
        self._request = request
        self._values = values
        self._schema = pa.schema(
            [pa.field(name, pa.float32(), nullable=False) for name in request.events]
            + [pa.field(name, pa.float64(), nullable=False) for name in request.conditions]
        )
        self._waiting = np.empty(0, request.record)
        self._file: pq.ParquetWriter | None = None
        self._files = 0
        self._rows = 0

    def __enter__(self) -> _PartWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and (len(self._waiting) or not self._files):
            self._put(self._waiting)
        self._close()

    def write(self, records: NDArray[Any]) -> None:
        """Add rows in their final order."""
        joined = np.concatenate([self._waiting, records])
        full = len(joined) - len(joined) % GROUP_ROWS
        for start in range(0, full, GROUP_ROWS):
            self._put(joined[start : start + GROUP_ROWS])
        self._waiting = joined[full:].copy()

    def _put(self, records: NDArray[Any]) -> None:
        if self._file is None:
            self._file = self._open()
        columns = [*records["events"].T, *self._values[records["cell"]].T]
        arrays = [pa.array(np.ascontiguousarray(column)) for column in columns]
        self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows += len(records)
        if self._rows >= PART_ROWS:
            self._close()

    def _open(self) -> pq.ParquetWriter:
        path = self._folder / f"part-{self._files:05d}.parquet"
        self._files += 1
        return pq.ParquetWriter(
            path,
            self._schema,
            use_dictionary=list(self._request.conditions),
            column_encoding=dict.fromkeys(self._request.events, "BYTE_STREAM_SPLIT"),
            compression="zstd",
            compression_level=15,
            write_statistics=False,
            store_schema=False,
        )

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._rows = None, 0
