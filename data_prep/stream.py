"""Prepared Parquet -> shuffled float32 batches, in bounded memory, from any position.

Rows are shuffled at rest. An epoch goes through the row groups in a new order, joins consecutive
ones to windows, permutes each window, and cuts equal batches across windows. Order and
permutations come from `SeedSequence((seed, epoch, window))`, so a batch is a pure function of
(files, seed, epoch, number), and an epoch can be entered anywhere: what lies before is not decoded.

Cells can be left out, or read alone. The rows of each row group that stay are counted beforehand,
in the columns of the conditions alone; from then on a row group is as if it held no others.

A bag is a bootstrap (Breiman 1996, Machine Learning 24, 123): each row is read as often as its own
Poisson number of mean one says (Oza & Russell 2001, AISTATS, 105), in every epoch the same, which
follows from the bag's seed and the row's place in the files. Of a cell about as many rows are read.

Array names end in their axes:
    N rows    F event columns    C condition columns    K cells
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep import cells
from data_prep.cells import Named
from data_prep.dataset import SPLITS, Cell, Dataset
from data_prep.errors import DataError, first_line
from data_prep.regions import numbers

Floats = NDArray[np.float32]
_Order = NDArray[np.intp]

WINDOW_ROWS = 262_144
"""Rows permuted together, at least. Of two doubles and two floats they are 4 MB."""
LUMP_ROWS = 65_536
"""Rows handed over at once: a hand-over of every small batch would cost more than the batch."""
READ_AHEAD = 3
"""Hand-overs that are made before the consumer asks for them."""


class Batch(NamedTuple):
    """Rows in physical units."""

    events: Floats
    """Shape `(N, F)`."""
    conditions: Floats
    """Shape `(N, C)`."""
    weights: Floats | None = None
    """Shape `(N,)`; None where all rows count alike."""

    @property
    def arrays(self) -> tuple[Floats, ...]:
        """Those that are there."""
        return tuple(array for array in self if array is not None)

    def evenly(self, count: int) -> NDArray[np.intp]:
        """So many of the rows, each as often as its weight says: equal ones stand for them all."""
        weights_N = np.ones(len(self.events)) if self.weights is None else self.weights
        sums_N = np.cumsum(weights_N, dtype=np.float64)
        # In the middle of equal parts of the whole: no random numbers, and nothing by luck.
        at_N = (np.arange(count) + 0.5) / count * sums_N[-1]
        found: NDArray[np.intp] = np.searchsorted(sums_N, at_N)
        return found

    def take(self, rows: slice | NDArray[Any]) -> Batch:
        """These rows: views of them for a slice."""
        return Batch(*(array[rows] for array in self.arrays))


class Stream:
    """The rows of one part of a prepared dataset, epoch after epoch."""

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        memory_mb: float = 512,
        without: Named = (),
        only: Named | None = None,
        bag: int | None = None,
    ) -> None:
        """Look at the files; nothing is decoded yet but, where cells are named, their conditions.

        Args:
            folder: A prepared dataset.
            split: train, val or test.
            batch_size: Rows of every batch but the last of an epoch.
            seed: Of the order of rows.
            shuffle: False gives the rows in file order in every epoch.
            memory_mb: Decoded rows are kept after the first pass if they fit in this.
            without: Cells whose rows are left out, each as a value of every condition column.
            only: Cells whose rows alone are read; None reads all.
            bag: Seed of a bootstrap of these rows; None reads each of them once an epoch.

        Raises:
            DataError: If `folder` is no prepared dataset, its files do not fit together, or a
                named cell is not there.
            ValueError: If `batch_size` is below 1, `memory_mb` below 0, or cells are named both
                ways.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not memory_mb >= 0:
            raise ValueError(f"memory_mb must be at least 0, got {memory_mb}")
        if without and only is not None:
            raise ValueError("cells can be left out or read alone, not both")
        self._table = _Table.open(Path(folder), split)
        self.dataset = self._table.dataset
        """All of it, whichever cells are read."""
        if without or only is not None:
            named, inside = (without, False) if only is None else (only, True)
            chosen = cells.find(self.dataset, named, Path(folder))
            self._table = self._table.of_cells(chosen, inside=inside, split=split)
        if bag is not None:
            self._table = replace(self._table, bag=bag).counted()
        self.rows = self._table.rows
        """Rows of an epoch."""
        self.batch_size = batch_size
        self.batches = -(-self.rows // batch_size)
        """Batches of an epoch."""
        self._seed = seed
        self._shuffle = shuffle
        fits = self._table.decoded_bytes <= memory_mb * 1e6
        self._kept = _Store(self._table, self.rows) if fits else None

    def epoch(self, index: int, *, start: int = 0) -> Iterator[Batch]:
        """Batches `start`, `start + 1`, ... of epoch `index`.

        Equal files, seed and index give equal batches, cached or not, so `(index, start)`
        is all that has to be saved to go on later. A thread reads ahead from the first `next`
        on; closing the iterator ends it. The arrays of a batch belong to the consumer.

        Raises:
            ValueError: If `start` is not a position of this epoch.
            DataError: If a part file cannot be decoded. Names the file. Raised by `next`.
        """
        if not 0 <= start <= self.batches:
            raise ValueError(f"start must lie in [0, {self.batches}], got {start}")
        return _read_ahead(self._lumps(index, start))

    def in_memory(self, epoch: int) -> tuple[Batch, _Order] | None:
        """All rows in file order, and where those of an epoch's batches are; None if too large."""
        if self._kept is None:
            return None
        return self._kept.rows, np.concatenate([*self._orders(self._kept, epoch, 0)])

    def _lumps(self, epoch: int, start: int) -> Iterator[list[Batch]]:
        """The batches from `start` on, in lists of some `LUMP_ROWS` rows."""
        # Without a cache all windows share one store: a window is used up when the next is asked
        # for. Only the places of the rows depend on the cache, never their order.
        largest = WINDOW_ROWS + max((group.rows for group in self._table.groups), default=0)
        store = self._kept or _Store(self._table, min(largest, self.rows))
        batches = self._cut(store, self._orders(store, epoch, start * self.batch_size), start)
        while lump := list(itertools.islice(batches, max(1, LUMP_ROWS // self.batch_size))):
            yield lump

    def _cut(self, store: _Store, orders: Iterator[_Order], start: int) -> Iterator[Batch]:
        """Batches cut across windows, in new arrays: a consumer may keep or change them."""
        order = np.empty(0, np.intp)
        for number in range(start, self.batches):
            size = min(self.batch_size, self.rows - number * self.batch_size)
            batch = self._table.batch(size)
            filled = 0
            while filled < size:
                if not len(order):
                    order = next(orders)
                taken, order = order[: size - filled], order[size - filled :]
                for found, wanted in zip(store.rows.arrays, batch.arrays, strict=True):
                    # take: indexing with [taken] is ten times slower on rows of a few bytes.
                    # "clip": the default would copy once more, to leave the output whole if it
                    # raised.
                    found.take(taken, 0, wanted[filled : filled + len(taken)], "clip")
                filled += len(taken)
            yield batch

    def _orders(self, store: _Store, epoch: int, skipped: int) -> Iterator[_Order]:
        """Of each window from a row of the epoch on: where its rows are in `store`, in order."""
        groups = list(range(len(self._table.groups)))
        if self._shuffle:
            groups = np.random.default_rng((self._seed, epoch)).permutation(groups).tolist()
        number, window, rows = 0, list[int](), 0
        for group in groups:
            window.append(group)
            rows += self._table.groups[group].rows
            if rows < WINDOW_ROWS and group != groups[-1]:
                continue
            if skipped < rows:
                if store is not self._kept:
                    store.clear()
                order = np.concatenate([store.hold(each) for each in window])
                if self._shuffle:
                    np.random.default_rng((self._seed, epoch, number)).shuffle(order)
                yield order[skipped:]
            skipped = max(0, skipped - rows)
            number, window, rows = number + 1, [], 0


def read_split(folder: Path, split: str) -> Batch:
    """A whole part in memory, in file order.

    Raises:
        DataError: If `folder` is no prepared dataset or a part file cannot be decoded.
    """
    table = _Table.open(Path(folder), split)
    store = _Store(table, table.rows)
    for group in range(len(table.groups)):
        store.hold(group)
    return store.rows


@dataclass(frozen=True, slots=True)
class _Group:
    """One row group of one part file, with `stored` rows, from which `rows` are read."""

    path: Path
    metadata: pq.FileMetaData
    index: int
    stored: int
    rows: int


@dataclass(frozen=True, slots=True)
class _Table:
    """The part files of one part, seen as one list of row groups."""

    dataset: Dataset
    groups: tuple[_Group, ...]
    chosen: Callable[[Floats], NDArray[np.bool_]] | None = None
    """Of each row's conditions, whether it is read; None reads all rows."""
    bag: int | None = None
    """Seed of the bootstrap of these rows; None reads each once."""

    @classmethod
    def open(cls, folder: Path, split: str) -> _Table:
        """Read the files' footers and check them against `dataset.json`."""
        if split not in SPLITS:
            raise DataError(f"a dataset has no part {split!r}: choose one of {', '.join(SPLITS)}")
        dataset = Dataset.read(folder)
        paths = sorted((folder / split).glob("part-*.parquet"))
        table = cls(dataset, tuple(group for path in paths for group in _groups(path)))
        if table.rows != dataset.rows[split]:
            raise DataError(
                f"{folder / split} holds {table.rows} rows where {folder / 'dataset.json'} says "
                f"{dataset.rows[split]}: a part file is missing or strange, prepare the data again"
            )
        return table

    def of_cells(self, named: Sequence[Cell], *, inside: bool, split: str) -> _Table:
        """The table as if it held only the rows of these cells, or only all others."""
        wanted = [self.dataset.cells.index(cell) for cell in named]
        chosen = partial(_chosen, self.dataset, wanted, inside)
        table = replace(self, chosen=chosen).counted()
        rows = sum(getattr(cell, split) for cell in named)
        expected = rows if inside else self.rows - rows
        if table.rows != expected:
            raise DataError(
                f"the {split} part has {table.rows} rows in the cells to be read where "
                f"dataset.json says {expected}: prepare the data again"
            )
        return table

    def counted(self) -> _Table:
        """The table as it is read: a row group without a row to read is not decoded."""
        counted = [replace(group, rows=int(self._times(group).sum())) for group in self.groups]
        return replace(self, groups=tuple(group for group in counted if group.rows))

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def decoded_bytes(self) -> int:
        return sum(part.nbytes for part in self.batch(1).arrays) * self.rows

    def batch(self, rows: int) -> Batch:
        """Room for so many rows, not filled."""
        columns = (self.dataset.event_columns, self.dataset.condition_columns)
        weights = [np.empty(rows, np.float32)] if self.dataset.weight_column else []
        return Batch(*(np.empty((rows, len(each)), np.float32) for each in columns), *weights)

    def decode(self, number: int, into: Batch) -> None:
        """Fill `into` with the rows of a row group that are read, in file order."""
        group = self.groups[number]
        if self.bag is None and group.rows == group.stored:
            self.fill(group, into)
            return
        whole = self.batch(group.stored)
        self.fill(group, whole)
        read_R = np.repeat(np.arange(group.stored), self._times(group, whole.conditions))
        for found, wanted in zip(whole.arrays, into.arrays, strict=True):
            found.take(read_R, 0, wanted, "clip")

    def fill(self, group: _Group, into: Batch) -> None:
        """Fill `into` with all rows of a row group; a part of it without columns is not read."""
        events = [column.name for column in self.dataset.event_columns][: into.events.shape[1]]
        conditions = [column.name for column in self.dataset.condition_columns]
        wanted = dict(zip(events, into.events.T, strict=True))
        wanted |= dict(zip(conditions, into.conditions.T, strict=True))
        if into.weights is not None and self.dataset.weight_column:
            wanted[self.dataset.weight_column.name] = into.weights
        try:
            with pq.ParquetFile(group.path, metadata=group.metadata, pre_buffer=False) as file:
                table = file.read_row_group(group.index, columns=[*wanted], use_threads=False)
            for name, rows_N in wanted.items():
                values = table.column(name)
                if not pa.types.is_floating(values.type) or values.null_count:
                    raise ValueError(f"column {name!r} is not made of numbers alone")
                rows_N[:] = values.to_numpy()
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise _damaged(group.path, error) from error

    def _times(self, group: _Group, conditions_NC: Floats | None = None) -> NDArray[np.int64]:
        """How often each stored row of a row group is read; decodes conditions that it needs."""
        times_N = np.ones(group.stored, np.int64)
        if self.bag is not None:
            place = f"{group.path.name} {group.index}".encode()
            drawn = np.random.default_rng(np.random.SeedSequence(self.bag, spawn_key=[*place]))
            times_N = drawn.poisson(1.0, group.stored)
        if self.chosen is None:
            return times_N
        if conditions_NC is None:
            conditions_NC = self.batch(group.stored).conditions
            self.fill(group, Batch(np.empty((group.stored, 0), np.float32), conditions_NC))
        return times_N * self.chosen(conditions_NC)


def _groups(path: Path) -> Iterator[_Group]:
    try:
        metadata = pq.read_metadata(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    for index in range(metadata.num_row_groups):
        rows = metadata.row_group(index).num_rows
        yield _Group(path, metadata, index, rows, rows)


def _chosen(
    dataset: Dataset, wanted: Sequence[int], inside: bool, conditions_NC: Floats
) -> NDArray[np.bool_]:
    """Of each row, whether it is in one of the cells, or in none of them."""
    return np.isin(numbers(dataset, conditions_NC), wanted, invert=not inside)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be decoded ({first_line(error)}): prepare the data again")


class _Store:
    """Decoded row groups in one block of memory; in file order if there is room for all."""

    def __init__(self, table: _Table, rows: int) -> None:
        self.rows = table.batch(rows)
        self._table, self._whole = table, rows == table.rows
        self._lock = threading.Lock()  # two epochs of one stream may share a store
        self.clear()

    def clear(self) -> None:
        self._places, self._filled = dict[int, int](), 0

    def hold(self, group: int) -> _Order:
        """Where the rows of a row group are; decodes it unless it is here already."""
        groups, rows = self._table.groups, self._table.groups[group].rows
        with self._lock:
            if group not in self._places:
                at = sum(one.rows for one in groups[:group]) if self._whole else self._filled
                self._table.decode(group, self.rows.take(slice(at, at + rows)))
                self._places[group] = at
                self._filled += rows
            return np.arange(self._places[group], self._places[group] + rows)


def _read_ahead(lumps: Iterator[list[Batch]]) -> Iterator[Batch]:
    """The batches of the lumps; a thread makes the next lumps while the consumer uses the last.

    Closing the iterator ends the thread and waits for it; the lump in work is finished first.
    """
    pool = ThreadPoolExecutor(1, "read-ahead")
    try:
        ahead = deque(pool.submit(next, lumps, None) for _ in range(READ_AHEAD))
        while lump := ahead.popleft().result():
            ahead.append(pool.submit(next, lumps, None))
            yield from lump
    finally:
        pool.shutdown(cancel_futures=True)
