"""Checked rows on disk, until all are known and can be dealt to the parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError
from data_prep.preparation.request import Request
from data_prep.tables.chunk import Chunk
from data_prep.tables.source import Source

MAX_CELLS = 65_536
"""Distinct condition combinations above which the table is no grid."""
BLOCK_ROWS = 262_144
"""Rows dealt to the parts at once. Part of what a seed means: changing it changes the split."""


class Spool:
    """Rows of `Request.record`, with the cells and ranges met on the way."""

    def __init__(self, folder: Path, request: Request) -> None:
        self.folder = folder
        self.request = request
        self.rows = 0
        self.cells: dict[tuple[float, ...], int] = {}
        """Number of each cell, in order of appearance."""
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
        for name in self.request.conditions:
            self._widen(name, chunk.numbers[name])
        records["cell"] = self._numbers(chunk, source)
        with self.path.open("ab") as file:
            file.write(records.tobytes())
        self.rows += len(records)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The rows in their order; their cells are numbered in order of appearance."""
        with self.path.open("rb") as file:
            while lump := file.read(BLOCK_ROWS * self.request.record.itemsize):
                yield np.frombuffer(lump, self.request.record)

    def _widen(self, name: str, values: NDArray[Any]) -> None:
        low, high = self.ranges.get(name, (math.inf, -math.inf))
        self.ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))

    def _numbers(self, chunk: Chunk, source: Source) -> NDArray[np.int64]:
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
        coded: NDArray[np.int64] = np.array(numbers)[place.reshape(-1)]
        return coded
