"""The NLL of a flow on a split of a dataset, of all rows or of chosen cells.

Every NLL is in nats per event in the data's own units, over a whole split in evaluation mode. Of
weighted rows it is the weighted mean.

Array names end in their axes:
    N rows    C condition columns    K cells
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep import cells as naming
from data_prep.cells import Named
from data_prep.columns import Value
from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.regions import numbers
from data_prep.stream import Batch, Stream
from models.bundle.batched import log_prob
from models.bundle.ensemble import Density
from models.evaluation import weighted
from models.evaluation.weighted import Weights


@dataclass(frozen=True, slots=True)
class Nll:
    """Mean NLL of a split in nats per event."""

    mean: float
    error: float
    """Standard error of the mean, from the spread over rows."""
    rows: int
    effective_rows: float
    """Rows of equal weight that would tell as much: all, where rows have no weights."""


@dataclass(frozen=True, slots=True)
class CellNll:
    """Mean NLL of one cell's rows of a split."""

    conditions: dict[str, Value]
    nll: Nll | None
    """None where the cell has no row in the split."""


def nll(
    flow: Density, folder: Path, split: str, *, without: Named = (), only: Named | None = None
) -> Nll:
    """Mean NLL of a whole split, in evaluation mode.

    Args:
        folder: A prepared dataset.
        split: train, val or test.
        without: Cells whose rows are left out, each as a value of every condition column.
        only: Cells whose rows alone are taken; None takes all.

    Raises:
        DataError: If the dataset has other columns than the flow or lacks a cell, or there are no
            rows.
    """
    score = _score(*_read(flow, folder, split, without, only)[2:])
    if score is None:
        where = "in these cells" if without or only is not None else ""
        raise DataError(f"the {split} part of {folder} has no rows {where}".rstrip())
    return score


def cell_nlls(flow: Density, folder: Path, split: str, cells: Named) -> list[CellNll]:
    """The NLL of each of these cells on its own, in the dataset's order.

    Raises:
        DataError: If the dataset has other columns than the flow, or lacks a cell.
    """
    dataset, c_NC, nll_N, weights_N = _read(flow, folder, split, (), cells)
    told, number_N = [], numbers(dataset, c_NC)
    for cell in naming.find(dataset, cells, Path(folder)):
        here_N = number_N == dataset.cells.index(cell)
        score = _score(nll_N[here_N], weighted.of(weights_N, here_N))
        told.append(CellNll(naming.name_of(dataset, cell), score))
    return told


def nll_of(flow: Density, batch: Batch) -> NDArray[np.float64]:
    """The NLL of each event."""
    return -log_prob(flow, batch.events, batch.conditions)


def mean_of(nll_N: NDArray[np.float64], weights_N: Weights = None) -> Nll:
    """The mean of some events' NLLs; one event shows no spread, and the error is not a number."""
    error = weighted.error_of_mean(nll_N, weights_N) if len(nll_N) > 1 else math.nan
    mean = float(np.average(nll_N, weights=weights_N))
    return Nll(mean, error, len(nll_N), weighted.effective(weights_N, len(nll_N)))


def check_columns(flow: Density, dataset: Dataset, folder: Path) -> None:
    """Raises DataError if the dataset's columns are not those of the flow, in that order."""
    for what in ("event_columns", "condition_columns"):
        have, want = ([c.title for c in getattr(x, what)] for x in (dataset, flow))
        if have != want:
            raise DataError(
                f"{folder} has the {what.replace('_', ' ')} {', '.join(have) or 'none'}, "
                f"the flow {', '.join(want) or 'none'}: prepare the data with those columns"
            )


def _score(nll_N: NDArray[np.float64], weights_N: Weights) -> Nll | None:
    """The mean of some rows' NLLs, one row without an error; None of no rows."""
    if not len(nll_N):
        return None
    score = mean_of(nll_N, weights_N)
    return score if len(nll_N) > 1 else replace(score, error=0.0)


def _read(
    flow: Density, folder: Path, split: str, without: Named, only: Named | None
) -> tuple[Dataset, NDArray[np.float32], NDArray[np.float64], Weights]:
    """The dataset, and the conditions, NLL and weight of each row of a split."""
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
    c_NC = np.empty((stream.rows, len(flow.condition_columns)), np.float32)
    nll_N, start, weights = np.empty(stream.rows), 0, list[Weights]()
    for batch in stream.epoch(0):
        rows = slice(start, start := start + len(batch.events))
        c_NC[rows], nll_N[rows] = batch.conditions, nll_of(flow, batch)
        weights.append(batch.weights)
    return stream.dataset, c_NC, nll_N, weighted.joined(weights)
