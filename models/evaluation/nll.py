"""The NLL of a flow on a split of a dataset, of all rows or of chosen cells.

Every NLL is in nats per event in the data's own units, over a whole split in evaluation mode.

Array names end in their axes:
    N rows    C condition columns    K cells
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep import cells as naming
from data_prep.cells import Named
from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.stream import Batch, Stream
from models.bundle.ensemble import Density
from models.flow.batched import log_prob


@dataclass(frozen=True, slots=True)
class Nll:
    """Mean NLL of a split in nats per event."""

    mean: float
    error: float
    """Standard error of the mean, from the spread over rows."""
    rows: int


@dataclass(frozen=True, slots=True)
class CellNll:
    """Mean NLL of one cell's rows of a split."""

    conditions: dict[str, float]
    nll: Nll | None
    """None where the cell has no row in the split."""


def nll(
    flow: Density,
    folder: Path,
    split: str,
    *,
    without: Named = (),
    only: Named | None = None,
) -> Nll:
    """Mean NLL of a whole split, in evaluation mode.

    Args:
        flow: Of which it is.
        folder: A prepared dataset.
        split: train, val or test.
        without: Cells whose rows are left out, each as a value of every condition column.
        only: Cells whose rows alone are taken; None takes all.

    Raises:
        DataError: If the dataset has other columns than the flow or lacks a cell, or there are no
            rows.
    """
    stream = _in_file_order(flow, folder, split, without=without, only=only)
    tally = Tally()
    for batch in stream.epoch(0):
        tally.add(nll_of(flow, batch))
    score = tally.nll()
    if score is None:
        where = "in these cells" if without or only is not None else ""
        raise DataError(f"the {split} part of {folder} has no rows {where}".rstrip())
    return score


def cell_nlls(flow: Density, folder: Path, split: str, cells: Named) -> list[CellNll]:
    """The NLL of each of these cells on its own, in the dataset's order, read in one pass.

    Raises:
        DataError: If the dataset has other columns than the flow, or lacks a cell.
    """
    stream = _in_file_order(flow, folder, split, only=cells)
    found = naming.find(stream.dataset, cells, Path(folder))
    tallies = [Tally() for _ in found]
    values_KC = np.array([cell.conditions for cell in found], np.float32)
    for batch in stream.epoch(0):
        nll_N = nll_of(flow, batch)
        for values_C, tally in zip(values_KC, tallies, strict=True):
            tally.add(nll_N[(batch.conditions == values_C).all(axis=1)])
    return [
        CellNll(naming.name_of(stream.dataset, cell), tally.nll())
        for cell, tally in zip(found, tallies, strict=True)
    ]


def nll_of(flow: Density, batch: Batch) -> NDArray[np.float64]:
    """The NLL of each event."""
    return -log_prob(flow, batch.events, batch.conditions)


def mean_of(nll_N: NDArray[np.float64]) -> Nll:
    """The mean of some events' NLLs; one event shows no spread, and the error is not a number."""
    error = float(nll_N.std()) / math.sqrt(len(nll_N)) if len(nll_N) > 1 else math.nan
    return Nll(float(nll_N.mean()), error, len(nll_N))


def check_columns(flow: Density, dataset: Dataset, folder: Path) -> None:
    """Raises DataError if the dataset's columns are not those of the flow, in that order."""
    for what in ("event_columns", "condition_columns"):
        have, want = ([c.name for c in getattr(x, what)] for x in (dataset, flow))
        if have != want:
            raise DataError(
                f"{folder} has the {what.replace('_', ' ')} {', '.join(have) or 'none'}, "
                f"the flow {', '.join(want) or 'none'}: prepare the data with those columns"
            )


@dataclass(slots=True)
class Tally:
    """Number, mean and summed squared deviation of values that come in parts."""

    rows: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def add(self, values_N: NDArray[np.float64]) -> None:
        if not len(values_N):
            return
        gap, total = float(values_N.mean()) - self.mean, self.rows + len(values_N)
        within = float(values_N.var()) * len(values_N)
        self.m2 += within + gap**2 * self.rows * len(values_N) / total
        self.mean, self.rows = self.mean + gap * len(values_N) / total, total

    def nll(self) -> Nll | None:
        if not self.rows:
            return None
        return Nll(self.mean, math.sqrt(self.m2 / self.rows / self.rows), self.rows)


def _in_file_order(
    flow: Density,
    folder: Path,
    split: str,
    *,
    without: Named = (),
    only: Named | None = None,
) -> Stream:
    """The rows of a split, which has the flow's columns."""
    stream = Stream(
        Path(folder),
        split,
        batch_size=65_536,
        shuffle=False,
        memory_mb=0,
        without=without,
        only=only,
    )
    check_columns(flow, stream.dataset, folder)
    return stream
