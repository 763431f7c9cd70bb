"""Checked rows -> the part files of train, val and test: spooled, dealt, shuffled, written.

Rows wait on disk until all cells are known. Then each is dealt to a part and to a random bucket of
it, and each bucket is shuffled in memory and written. A random bucket for every row and a random
order in every bucket are a random order of the whole.

Where conditions are scattered, rows keep them, since no number of a cell tells them, and regions
that are made from a sample of the rows are numbered in the place of cells.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.columns import Column
from data_prep.dataset import SPLITS, Cell
from data_prep.preparation import split
from data_prep.preparation.request import Request
from data_prep.preparation.spool import Spool
from data_prep.regions import Partition

SAMPLE_ROWS = 65_536
"""Rows that regions are made from, about."""
BUCKET_ROWS = 1_000_000
"""Rows shuffled in memory at once, about."""
GROUP_ROWS = 65_536
"""Rows of a row group: what a stream decodes at once."""
PART_GROUPS = 64
"""Row groups of a part file, about 30 MB."""


def write(spool: Spool, folder: Path, seed: int) -> tuple[tuple[Cell, ...], str, int]:
    """Write the parts into `folder`: cells in ascending order, fingerprint, rows that are copies.

    The spooled rows are deleted.
    """
    for_split, for_order, for_regions = np.random.SeedSequence(seed).spawn(3)
    request = spool.request
    layout = _Scattered(spool, for_regions) if spool.scattered else _Grid(spool)
    repeats = spool.repeats(seed)
    buckets = _deal(spool, layout, repeats, seed, np.random.default_rng(for_split))
    spool.path.unlink()

    digest = hashlib.sha256(_meaning(request, layout.meaning).encode())
    rng = np.random.default_rng(for_order)
    tally = _Tally(layout.values)
    for number, name in enumerate(SPLITS):
        digest.update(name.encode())
        shuffled = _shuffled(buckets[name], spool.record, rng, digest)
        _write_part(folder / name, _groups(tally.counted(shuffled, number)), request, layout)
    return tally.cells(spool), digest.hexdigest(), repeats.copies


class _Grid:
    """Cells as the source has them, and each dealt on its own."""

    def __init__(self, spool: Spool) -> None:
        self.order = [number for _, number in sorted(spool.cells.items())]
        self.numbers = np.argsort(self.order)
        self.values = np.array(sorted(spool.cells))
        self.meaning = str(self.values.tolist())
        self.counts = spool.counts[self.order]
        """Rows of each group that is dealt on its own."""
        self.continuous: tuple[str, ...] = ()

    def number(self, records: NDArray[Any]) -> None:
        """Set the rows' cells."""
        records["cell"] = self.numbers[records["cell"]]

    def group(self, records: NDArray[Any]) -> NDArray[np.integer[Any]]:
        """The group of each row."""
        cell_N: NDArray[np.integer[Any]] = records["cell"]
        return cell_N

    def conditions(self, records: NDArray[Any]) -> NDArray[np.float64]:
        conditions_NC: NDArray[np.float64] = self.values[records["cell"]]
        return conditions_NC


class _Scattered:
    """Regions, made from a sample of the rows; all rows are dealt as one."""

    def __init__(self, spool: Spool, seed: np.random.SeedSequence) -> None:
        rng, share = np.random.default_rng(seed), SAMPLE_ROWS / spool.rows
        kept = [block[rng.random(len(block)) < share] for block in spool.blocks()]
        sample = np.concatenate(kept)
        weight = sample["weight"] if spool.request.weights else np.ones(len(sample))
        columns, c_SC = spool.request.condition_columns, sample["conditions"]
        self.partition = Partition.of(c_SC, weight, columns, spool.rows)
        self.values = self.partition.middle_KC
        self.meaning = "scattered"
        self.counts = np.array([spool.rows])
        self.continuous = tuple(
            column.name
            for column, values in zip(columns, c_SC.T, strict=True)
            if len(np.unique(values)) > len(values) / 4
        )
        """Conditions that are not worth a dictionary."""

    def number(self, records: NDArray[Any]) -> None:
        records["cell"] = self.partition.numbers(records["conditions"])

    def group(self, records: NDArray[Any]) -> NDArray[np.integer[Any]]:
        return np.zeros(len(records), np.int64)

    def conditions(self, records: NDArray[Any]) -> NDArray[np.float64]:
        conditions_NC: NDArray[np.float64] = records["conditions"]
        return conditions_NC


class _Tally:
    """What the rows of each cell add up to in each part, counted as they are written."""

    def __init__(self, values_KC: NDArray[np.float64]) -> None:
        self.values_KC = values_KC
        shape = len(values_KC), len(SPLITS)
        self.rows_KP = np.zeros(shape, np.int64)
        self.sums_2KP = np.zeros((2, *shape))
        self.box_2KC = np.full((2, *values_KC.shape), [[[math.inf]], [[-math.inf]]])

    def counted(self, buckets: Iterable[NDArray[Any]], part: int) -> Iterator[NDArray[Any]]:
        """The buckets of a part as they are."""
        for records in buckets:
            cell, names = records["cell"], records.dtype.names or ()
            self.rows_KP[:, part] += np.bincount(cell, minlength=len(self.values_KC))
            if "weight" in names:
                weight = records["weight"].astype(np.float64)
                for total, values in zip(self.sums_2KP, (weight, weight**2), strict=True):
                    total[:, part] += np.bincount(cell, values, len(self.values_KC))
            if "conditions" in names:
                np.minimum.at(self.box_2KC[0], cell, records["conditions"])
                np.maximum.at(self.box_2KC[1], cell, records["conditions"])
            yield records

    def cells(self, spool: Spool) -> tuple[Cell, ...]:
        weighed = spool.request.weights is not None
        boxes = np.moveaxis(self.box_2KC, 0, 2).tolist()
        told = zip(
            self.values_KC.tolist(),
            self.rows_KP.tolist(),
            *self.sums_2KP.tolist(),
            boxes,
            strict=True,
        )
        return tuple(
            Cell(
                tuple(value),
                **dict(zip(SPLITS, rows, strict=True)),
                box=tuple(map(tuple, box)) if spool.scattered else (),
                weights=tuple(once) if weighed else (),
                squares=tuple(twice) if weighed else (),
            )
            for value, rows, once, twice, box in told
        )


def _meaning(request: Request, cells: str) -> str:
    """What the rows mean, as the fingerprint has it; `cells` tells of their conditions.

    Spelled out, since the same data must keep their fingerprint when a column's class changes: it
    is the text that Python showed for columns and cells when there were no other fields.
    """
    events, conditions = map(_columns, (request.event_columns, request.condition_columns))
    weighted = f", {request.weights!r}" if request.weights else ""
    return f"({events}, {conditions}, {cells}{weighted})"


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
    spool: Spool,
    layout: _Grid | _Scattered,
    repeats: split.Repeats,
    seed: int,
    rng: np.random.Generator,
) -> dict[str, list[Path]]:
    """The spooled rows as bucket files of each part, with the numbers of their cells."""
    left = split.shares(_singles(spool, layout, repeats, seed), spool.request.split)
    expected = left.sum(axis=0) + (spool.rows - left.sum()) * np.array(spool.request.split)
    buckets = {
        name: [spool.folder / f"{name}-{at}" for at in range(max(1, -(-int(rows) // BUCKET_ROWS)))]
        for name, rows in zip(SPLITS, expected, strict=True)
    }
    for path in (path for paths in buckets.values() for path in paths):
        path.touch()
    for records in spool.blocks():
        hash_N = spool.hashes(records, seed) if repeats.copies else np.zeros(0, np.uint64)
        layout.number(records)
        parts = _parts(layout.group(records), hash_N, repeats, left, spool.request.split, rng)
        for part, paths in enumerate(buckets.values()):
            of_part = records[parts == part]
            bucket = rng.integers(len(paths), size=len(of_part))
            for at, path in enumerate(paths):
                # Opened anew each time: a large table has more buckets than a process may open.
                with path.open("ab") as file:
                    file.write(of_part[bucket == at].tobytes())
    return buckets


def _singles(
    spool: Spool, layout: _Grid | _Scattered, repeats: split.Repeats, seed: int
) -> NDArray[np.int64]:
    """Rows of each group that are dealt: those without a copy."""
    counts = layout.counts.copy()
    for records in spool.blocks() if repeats.copies else ():
        several = repeats.among(spool.hashes(records, seed))
        layout.number(records)
        counts -= np.bincount(layout.group(records)[several], minlength=len(counts))
    return counts


def _parts(
    group_N: NDArray[np.integer[Any]],
    hash_N: NDArray[np.uint64],
    repeats: split.Repeats,
    left: NDArray[np.int64],
    shares: Sequence[float],
    rng: np.random.Generator,
) -> NDArray[np.int8]:
    """The part of each row of a block."""
    if not repeats.copies:
        return split.deal(group_N, left, rng)
    several = repeats.among(hash_N)
    parts = split.by_hash(hash_N, shares)
    parts[~several] = split.deal(group_N[~several], left, rng)
    return parts


def _shuffled(
    buckets: Iterable[Path],
    record: np.dtype[Any],
    rng: np.random.Generator,
    digest: hashlib._Hash,
) -> Iterator[NDArray[Any]]:
    """Each bucket in its final order; it is deleted."""
    for bucket in buckets:
        records = np.fromfile(bucket, record)
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
    folder: Path, groups: Iterable[NDArray[Any]], request: Request, layout: _Grid | _Scattered
) -> None:
    """`part-00000.parquet`, `part-00001.parquet`, ... of so many row groups each."""
    folder.mkdir()
    floats = request.events + layout.continuous
    few = [name for name in request.conditions if name not in layout.continuous]
    weight = ["weight"] if request.weights else []
    names = [*request.events, *request.conditions, *filter(None, [request.weights])]
    types = [pa.float64() if name in few else pa.float32() for name in names]
    fields = zip(names, types, strict=True)
    schema = pa.schema([pa.field(*field, nullable=False) for field in fields])
    numbered = itertools.groupby(enumerate(groups), lambda each: each[0] // PART_GROUPS)
    for number, part in numbered:
        with pq.ParquetWriter(
            folder / f"part-{number:05d}.parquet",
            schema,
            use_dictionary=few,
            column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
            compression="zstd",
            compression_level=15,
            write_statistics=False,
            store_schema=False,
        ) as file:
            for _, records in part:
                columns = [*records["events"].T, *layout.conditions(records).T]
                columns += [records[name] for name in weight]
                arrays = [
                    pa.array(np.ascontiguousarray(column, each.to_pandas_dtype()))
                    for column, each in zip(columns, types, strict=True)
                ]
                file.write_table(pa.Table.from_arrays(arrays, schema=schema))
