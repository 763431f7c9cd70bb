"""Checked rows on disk until all of them are known: `Spool`, and whether conditions are a grid.

A row waits with the number of its cell. Where conditions are scattered, no number tells them, and
it waits with the conditions themselves; that is seen at the latest when all rows are there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError
from data_prep.preparation import split
from data_prep.preparation.request import Request
from data_prep.regions import LEAST_ROWS, MOST, hashes
from data_prep.tables.chunk import Chunk
from data_prep.tables.source import Source

MAX_CELLS = 65_536
"""Distinct condition combinations above which the table is no grid."""
OF_ITS_OWN = 0.8
"""Values of one condition for each cell, above which cells hardly share any, as in no grid."""
FEW_CELLS = 20
"""Cells that are a grid, whatever their values and rows."""
BLOCK_ROWS = 262_144
"""Rows dealt to the parts at once. Part of what a seed means: changing it changes the split."""


class Spool:
    """Rows of `Request.record`, with the cells and ranges met on the way."""

    def __init__(self, folder: Path, request: Request) -> None:
        self.folder = folder
        self.request = request
        self.scattered = request.scattered is True
        """Whether rows keep their conditions, since these are no grid."""
        self.rows = 0
        self.cells: dict[tuple[float, ...], int] = {}
        """Number of each cell of a grid, in order of appearance."""
        self.counts = np.zeros(0, np.int64)
        """Rows of each cell."""
        self.ranges: dict[str, tuple[float, float]] = {}
        self.ranks: dict[int, NDArray[np.float64]] = {}
        """Of each condition that is text, by its place, the number of a text in ascending order,
        by the number in which texts were met.
        """
        self.path = folder / "kept"
        self.path.touch()

    @property
    def record(self) -> np.dtype[Any]:
        return self.request.record(self.scattered)

    def add(self, chunk: Chunk, source: Source) -> None:
        """Append the rows of a chunk."""
        if not len(chunk.rows):
            return
        names = self.request.conditions
        conditions_NC = np.stack([chunk.numbers[name] for name in names], axis=1)
        cell_N = np.zeros(len(chunk.rows), np.int64)
        if not self.scattered:
            cell_N = self._numbered(conditions_NC, source)
        records = np.zeros(len(chunk.rows), self.record)
        records["cell"] = cell_N
        if self.scattered:
            records["conditions"] = conditions_NC
        for number, name in enumerate(self.request.events):
            records["events"][:, number] = chunk.numbers[name]
            self._widen(name, records["events"][:, number])
        if self.request.weights:
            records["weight"] = chunk.numbers[self.request.weights]
            self._widen(self.request.weights, records["weight"])
        for name in names:
            self._widen(name, chunk.numbers[name])
        self.rows += len(records)
        with self.path.open("ab") as file:
            file.write(records.tobytes())

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The rows in their order."""
        with self.path.open("rb") as file:
            while lump := file.read(BLOCK_ROWS * self.record.itemsize):
                records = np.frombuffer(lump, self.record).copy()
                if self.scattered:
                    self._sort(records["conditions"])
                yield records

    def settle(self) -> None:
        """See from all rows whether their conditions are a grid, unless the request says it.

        Texts are numbered in ascending order from here on.
        """
        if self.request.scattered is None and not self.scattered:
            cells_KC = np.array(list(self.cells))
            if is_scattered(cells_KC, self.counts):
                self._scatter()
        for name, known in self.request.texts.items():
            texts = sorted(known)
            place = self.request.conditions.index(name)
            self.ranks[place] = np.array([texts.index(text) for text in known], np.float64)
            known.clear()
            known.update({text: number for number, text in enumerate(texts)})
        cells_KC = np.array(list(self.cells)).reshape(-1, len(self.request.conditions))
        self._sort(cells_KC)
        self.cells = {tuple(cell): number for number, cell in enumerate(cells_KC.tolist())}

    def repeats(self, seed: int) -> split.Repeats:
        """The rows with copies; those with every event at an atom are many, and none is a copy."""
        columns = self.request.event_columns
        atoms = [np.array(column.atoms, np.float32) for column in columns]

        def blocks() -> Iterator[NDArray[np.uint64]]:
            for records in self.blocks():
                events_FN = records["events"].T
                at_atoms = [np.isin(x_N, each) for x_N, each in zip(events_FN, atoms, strict=True)]
                yield self.hashes(records, seed)[~np.logical_and.reduce(at_atoms)]

        return split.Repeats.of(blocks(), self.rows, self.folder)

    def hashes(self, records: NDArray[Any], seed: int) -> NDArray[np.uint64]:
        """A number for the events and conditions of each row."""
        if self.scattered:
            return hashes(records["events"], records["conditions"], seed=seed)
        cells_KC = np.array(list(self.cells))
        return hashes(records["events"], cells_KC[records["cell"]], seed=seed)

    def _sort(self, conditions_NC: NDArray[np.float64]) -> None:
        """Give texts their final numbers, in place."""
        for place, rank in self.ranks.items():
            conditions_NC[:, place] = rank[conditions_NC[:, place].astype(int)]

    def _widen(self, name: str, values: NDArray[Any]) -> None:
        low, high = self.ranges.get(name, (math.inf, -math.inf))
        self.ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))

    def _numbered(self, values: NDArray[np.float64], source: Source) -> NDArray[np.int64]:
        """Number of each row's cell; cells not met before get the next numbers."""
        found, place = np.unique(values, axis=0, return_inverse=True)
        numbers = [self.cells.setdefault(tuple(cell), len(self.cells)) for cell in found.tolist()]
        if len(self.cells) > MAX_CELLS:
            if self.request.scattered is False:
                raise DataError(
                    f"{source.path} has over {MAX_CELLS:,} combinations of "
                    f"{', '.join(self.request.conditions)}, which are no grid: leave out --grid"
                )
            self._scatter()
            return np.zeros(len(values), np.int64)
        cell_N = np.array(numbers, np.int64)[place.reshape(-1)]
        counts = np.bincount(cell_N, minlength=len(self.cells))
        counts[: len(self.counts)] += self.counts
        self.counts = counts
        return cell_N

    def _scatter(self) -> None:
        """Keep the conditions of every row, which the number of its cell told so far."""
        cells_KC = np.array(list(self.cells))
        before = self.blocks()
        draft = self.folder / "scattered"
        with draft.open("wb") as file:
            for records in before:
                wider = np.zeros(len(records), self.request.record(True))
                for name in records.dtype.names or ():
                    wider[name] = records[name]
                wider["conditions"] = cells_KC[records["cell"]]
                file.write(wider.tobytes())
        draft.replace(self.path)
        self.scattered, self.cells = True, {}


def is_scattered(cells_KC: NDArray[np.float64], rows_K: NDArray[np.int64]) -> bool:
    """Whether combinations of conditions with so many rows each are too scattered for a grid.

    They are where most rows are in cells that cannot be in all parts, and where the values of a
    condition do not come again from cell to cell, as they do in a grid of two conditions or more.
    One condition alone always looks like a grid: there, many cells of few rows decide.
    """
    if len(cells_KC) <= FEW_CELLS:
        return False
    if rows_K[rows_K < split.EVERYWHERE].sum() > rows_K.sum() / 2:
        return True
    values_C = [len(np.unique(values)) for values in cells_KC.T]
    if sum(count > 1 for count in values_C) < 2:
        return len(cells_KC) > MOST and bool(rows_K.mean() < LEAST_ROWS / 5)
    return max(values_C) > OF_ITS_OWN * len(cells_KC)
