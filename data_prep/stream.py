"""Prepared Parquet -> shuffled float32 batches, in bounded memory, from any position.

Rows are shuffled at rest. An epoch goes through the row groups in a new order, joins consecutive
ones to windows, permutes each window, and cuts equal batches across windows. Order and
permutations come from `SeedSequence((seed, epoch, window))`, so a batch is a pure function of
(files, seed, epoch, number), and an epoch can be entered anywhere: what lies before is not decoded.

Tensor names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.columns import SPLITS, DataError, Dataset

Floats = NDArray[np.float32]

WINDOW_ROWS = 262_144
"""Rows permuted together; what the reader holds is a few times this."""
READ_AHEAD = 2
"""Finished windows that may wait for the consumer."""


class Batch(NamedTuple):
    """Rows in physical units."""

    events: Floats
    """Shape `(N, F)`."""
    conditions: Floats
    """Shape `(N, C)`."""


@dataclass(frozen=True, slots=True)
class _Group:
    """One row group of one part file."""

    path: Path
    index: int
    rows: int


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
        drop_last: bool = False,
    ) -> None:
        """Look at the files; nothing is decoded yet.

        Args:
            folder: A prepared dataset.
            split: train, val or test.
            batch_size: Rows of every batch but the last of an epoch.
            seed: Of the order of rows.
            shuffle: False gives the rows in file order, the same in every epoch.
            memory_mb: Decoded rows are kept after the first pass if they fit in this.
            drop_last: Leave out a last batch that is not full.

        Raises:
            DataError: If `folder` is no prepared dataset or its files do not fit together.
            ValueError: If `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.dataset = Dataset.read(Path(folder))
        self.rows = self.dataset.rows.get(split, 0)
        self.batch_size = batch_size
        self.batches = self.rows // batch_size if drop_last else -(-self.rows // batch_size)
        self._seed = seed
        self._shuffle = shuffle
        self._groups = _groups(Path(folder), split, self.dataset)
        self._names = [c.name for c in self.dataset.event_columns]
        self._events = len(self._names)
        self._names += [c.name for c in self.dataset.condition_columns]
        self._keeps = self.rows * len(self._names) * 4 <= memory_mb * 1e6
        self._kept: dict[int, Floats] = {}

    def epoch(self, index: int, *, start: int = 0) -> Iterator[Batch]:
        """Batches `start`, `start + 1`, ... of epoch `index`.

        The same files, seed and index give the same batches, whatever is cached. Closing the
        iterator ends the read-ahead.

        Raises:
            DataError: If a part file cannot be decoded. Names the file.
            ValueError: If `start` is not a position of this epoch.
        """
        if not 0 <= start <= self.batches:
            raise ValueError(f"start must lie in 0..{self.batches}, got {start}")
        return self._batches(self._plan(index), start)

    def _batches(self, windows: list[_Window], start: int) -> Iterator[Batch]:
        first, skip = _enter(windows, start * self.batch_size)
        ahead = _ReadAhead(windows[first:], self._permuted)
        rest: list[Floats] = []
        try:
            for number in range(start, self.batches):
                size = min(self.batch_size, self.rows - number * self.batch_size)
                while sum(map(len, rest)) < size:
                    rest.append(ahead.next()[skip:])
                    skip = 0
                joined = rest[0] if len(rest) == 1 else np.concatenate(rest)
                rest = [joined[size:]]
                yield Batch(joined[:size, : self._events], joined[:size, self._events :])
        finally:
            ahead.close()

    def _plan(self, epoch: int) -> list[_Window]:
        """Which row groups go into which window, from metadata alone."""
        order: Sequence[int] = range(len(self._groups))
        if self._shuffle:
            order = np.random.default_rng((self._seed, epoch)).permutation(order).tolist()
        windows: list[_Window] = []
        groups: list[int] = []
        rows = 0
        for group in order:
            groups.append(group)
            rows += self._groups[group].rows
            if rows >= WINDOW_ROWS or group == order[-1]:
                windows.append(_Window(tuple(groups), rows, (self._seed, epoch, len(windows))))
                groups, rows = [], 0
        return windows

    def _permuted(self, window: _Window) -> Floats:
        joined = np.concatenate([self._decoded(group) for group in window.groups])
        if not self._shuffle:
            return joined
        return joined[np.random.default_rng(window.seed).permutation(len(joined))]

    def _decoded(self, number: int) -> Floats:
        if number in self._kept:
            return self._kept[number]
        rows_NK = _decode(self._groups[number], self._names)
        if self._keeps:
            self._kept[number] = rows_NK
        return rows_NK


@dataclass(frozen=True, slots=True)
class _Window:
    groups: tuple[int, ...]
    rows: int
    seed: tuple[int, int, int]


def read_split(folder: Path, split: str) -> Batch:
    """A whole part in memory, in file order: `(N, F)` events and `(N, C)` conditions.

    Raises:
        DataError: If `folder` is no prepared dataset or a part file cannot be decoded.
    """
    dataset = Dataset.read(Path(folder))
    columns = [*dataset.event_columns, *dataset.condition_columns]
    names = [column.name for column in columns]
    groups = _groups(Path(folder), split, dataset)
    parts = [np.empty((0, len(names)), np.float32), *(_decode(group, names) for group in groups)]
    rows_NK = np.concatenate(parts)
    events = len(dataset.event_columns)
    return Batch(
        np.ascontiguousarray(rows_NK[:, :events]), np.ascontiguousarray(rows_NK[:, events:])
    )


def _groups(folder: Path, split: str, dataset: Dataset) -> list[_Group]:
    """All row groups of a part, checked against `dataset.json`."""
    if split not in SPLITS:
        raise DataError(f"there is no part {split!r} of a dataset: choose {', '.join(SPLITS)}")
    groups = []
    for path in sorted((folder / split).glob("part-*.parquet")):
        try:
            metadata = pq.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error
        groups += [
            _Group(path, index, metadata.row_group(index).num_rows)
            for index in range(metadata.num_row_groups)
        ]
    found = sum(group.rows for group in groups)
    if found != dataset.rows[split]:
        raise DataError(
            f"{folder / split} holds {found} rows where dataset.json says {dataset.rows[split]}: "
            "prepare the dataset again"
        )
    return groups


def _decode(group: _Group, names: Sequence[str]) -> Floats:
    try:
        with pq.ParquetFile(group.path, memory_map=False, pre_buffer=False) as file:
            table = file.read_row_group(group.index, columns=list(names), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(group.path, error) from error
    rows_NK = np.empty((table.num_rows, len(names)), np.float32)
    for number, name in enumerate(names):
        rows_NK[:, number] = table.column(name).to_numpy()
    return rows_NK


def _damaged(path: Path, error: Exception) -> DataError:
    first = (str(error).strip() or repr(error)).splitlines()[0]
    return DataError(f"{path} cannot be decoded ({first}): prepare the dataset again")


def _enter(windows: Sequence[_Window], row: int) -> tuple[int, int]:
    """The window that holds a row of the epoch, and the row's place in it."""
    for number, window in enumerate(windows):
        if row < window.rows:
            return number, row
        row -= window.rows
    return len(windows), 0


class _ReadAhead:
    """Works on the next windows in a thread while the consumer uses the last one."""

    def __init__(self, windows, work) -> None:  # type: ignore[no-untyped-def]
        self._ready: queue.Queue[Floats | BaseException] = queue.Queue(READ_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(windows, work), name="hpo-stream", daemon=True
        )
        self._thread.start()

    def next(self) -> Floats:
        found = self._ready.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self._closed.set()
        while self._thread.is_alive():
            try:  # a worker that waits for room has to get it before it can see that it is over
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue
        self._thread.join()

    def _run(self, windows, work) -> None:  # type: ignore[no-untyped-def]
        try:
            for window in windows:
                if self._closed.is_set():
                    return
                self._ready.put(work(window))
        except BaseException as error:
            self._ready.put(error)
