"""Spooled rows -> the part files of train, val and test: dealt, shuffled, written.

Each row is dealt to a part and to a random bucket of it; each bucket is shuffled in memory and
written. A random bucket for every row and a random order in every bucket are a random order of the
whole.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
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
PART_GROUPS = 64
"""Row groups of a part file, about 30 MB."""


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
        shuffled = _shuffled(buckets[name], request, rng, digest)
        _write_part(folder / name, _groups(shuffled), request, values)
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
    )
    numbered = itertools.groupby(enumerate(groups), lambda each: each[0] // PART_GROUPS)
    for number, part in numbered:
        with pq.ParquetWriter(
            folder / f"part-{number:05d}.parquet",
            schema,
            use_dictionary=list(request.conditions),
            column_encoding=dict.fromkeys(request.events, "BYTE_STREAM_SPLIT"),
            compression="zstd",
            compression_level=15,
            write_statistics=False,
            store_schema=False,
        ) as file:
            for _, records in part:
                columns = [*records["events"].T, *values[records["cell"]].T]
                arrays = [pa.array(np.ascontiguousarray(column)) for column in columns]
                file.write_table(pa.Table.from_arrays(arrays, schema=schema))
