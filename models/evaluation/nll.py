"""How good a flow is and what it costs: NLL, per-cell distances, unphysical fractions.

Every NLL is in nats per event in the data's own units, over a whole split in evaluation mode.

Tensor names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep import cells as naming
from data_prep.cells import Named
from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.stream import Batch, Stream
from models.bundle.ensemble import Density
from models.evaluation.distances import HALVINGS
from models.flow.density import distinct
from models.flow.masked import TriangularLinear
from models.flow.separate import Network
from models.training.loss import Rows, parts_of

ROWS = 16_384
"""Rows that go through a flow together: their activations stay in the cache of a CPU core."""
EvaluationPart = tuple[Rows, Tensor, list[int]]
"""Which rows, their distinct conditions, and rows of each."""
LEAST_DRAWS_OF_CELL = 20_000
"""Draws in a cell at least, and five for each row: they add little to a distance."""
CELL_ROWS = 200
"""Cells with fewer test rows are left out of the distances: their floor hides everything."""


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


@dataclass(frozen=True, slots=True)
class Cost:
    """What one evaluation of a flow takes."""

    parameters: int
    flops_per_event: int
    """Of one log_prob, a multiplication and an addition counted as two; only weights in use."""


@dataclass(frozen=True, slots=True)
class CellDistance:
    """Kolmogorov-Smirnov distances in one cell between drawn events and the data's."""

    conditions: dict[str, float]
    rows: int
    ks: dict[str, float]
    """By event column."""
    floor: dict[str, float]
    """What a perfect flow would reach on average: the same between random halves of the cell's
    rows, scaled to all of them and to as many draws."""


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
    tally = _Tally()
    for batch in stream.epoch(0):
        tally.add(-log_prob(flow, batch.events, batch.conditions))
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
    tallies = [_Tally() for _ in found]
    values_KC = np.array([cell.conditions for cell in found], np.float32)
    for batch in stream.epoch(0):
        nll_N = -log_prob(flow, batch.events, batch.conditions)
        for values_C, tally in zip(values_KC, tallies, strict=True):
            tally.add(nll_N[(batch.conditions == values_C).all(axis=1)])
    return [
        CellNll(naming.name_of(stream.dataset, cell), tally.nll())
        for cell, tally in zip(found, tallies, strict=True)
    ]


def log_prob(
    flow: Density, events_NF: NDArray[Any], conditions_NC: NDArray[Any]
) -> NDArray[np.float64]:
    """Log density of each event in evaluation mode, part by part in bounded memory.

    Conditions: one row for each event, or one for all.
    """
    return _in_parts(flow, flow.log_prob, events_NF, conditions_NC)


def from_noise(
    flow: Density, noise_NF: NDArray[Any], conditions_NC: NDArray[Any]
) -> NDArray[np.float64]:
    """The events that the flow makes of noise, part by part in bounded memory.

    Conditions: one row for each event, or one for all.
    """
    return _in_parts(flow, flow.from_noise, noise_NF, conditions_NC)


def draw(
    flow: Density, conditions_NC: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """One event for each row of conditions, `(N, F)` in the columns' units."""
    noise_NF = rng.standard_normal((len(conditions_NC), flow.noise_columns), np.float32)
    return from_noise(flow, noise_NF, conditions_NC)


def cost(flow: Density) -> Cost:
    """Parameters and operations; what a mask switches off is neither stored nor counted."""
    parameters = sum(p.numel() for p in flow.parameters())
    weights = sum(m.weights for m in flow.modules() if isinstance(m, (TriangularLinear, Network)))
    return Cost(parameters, 2 * weights)


def cell_distances(
    flow: Density,
    test: Batch,
    *,
    least: int = CELL_ROWS,
    seed: int = 0,
    most: int | None = None,
) -> list[CellDistance]:
    """Distances in every cell with at least `least` rows, most populated first.

    With `most` draws at most, over all cells, where there are not too many cells for that.
    """
    # The halves by numbers of their own: so that the floors of two flows are the same.
    rng, split_rng = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    cells_KC, cell_N = np.unique(test.conditions, axis=0, return_inverse=True)
    counts_K = np.bincount(cell_N.ravel(), minlength=len(cells_KC))
    chosen = [k for k in np.argsort(-counts_K) if counts_K[k] >= least]
    names = [column.name for column in flow.condition_columns]
    draws_K = np.maximum(LEAST_DRAWS_OF_CELL, 5 * counts_K)
    if most is not None and draws_K[chosen].sum() > most:
        draws_K = np.maximum(1, draws_K * most // draws_K[chosen].sum())
    return [
        _cell(
            flow,
            # By way of text, which gives the 0.0001 that was written and not its nearest float32.
            {name: float(str(value)) for name, value in zip(names, cells_KC[k], strict=True)},
            test.events[cell_N.ravel() == k],
            cells_KC[k],
            int(draws_K[k]),
            rng,
            split_rng,
        )
        for k in chosen
    ]


def ks_distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest gap between the empirical distribution functions of two samples.

    Source:
        Smirnov (1948), Annals of Mathematical Statistics 19, 279 (two-sample form).
    """
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate([a, b])
    gaps = np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)
    return float(np.abs(gaps).max())


def unphysical_fraction(flow: Density, events_NF: NDArray[Any]) -> float:
    """Fraction of events with a value that is not finite, or not positive where it has to be."""
    positive = np.array([column.positive for column in flow.event_columns])
    good_NF = np.isfinite(events_NF) & ((events_NF > 0) | ~positive)
    return float(1 - good_NF.all(axis=1).mean())


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
class _Tally:
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


def _cell(
    flow: Density,
    conditions: dict[str, float],
    events_NF: NDArray[Any],
    cell_C: NDArray[Any],
    draws: int,
    rng: np.random.Generator,
    split_rng: np.random.Generator,
) -> CellDistance:
    rows = len(events_NF)
    drawn_NF = draw(flow, np.repeat(cell_C[None], draws, axis=0), rng)
    names = [column.name for column in flow.event_columns]
    ks = {n: ks_distance(drawn_NF[:, f], events_NF[:, f]) for f, n in enumerate(names)}
    halves = [np.array_split(split_rng.permutation(events_NF), 2) for _ in range(HALVINGS)]
    # As sqrt(1/n + 1/m) of n and m events, where they are of one density.
    scale = math.sqrt((1 / rows + 1 / draws) / (1 / (rows // 2) + 1 / (rows - rows // 2)))
    floor = {
        n: scale * float(np.mean([ks_distance(a[:, f], b[:, f]) for a, b in halves]))
        for f, n in enumerate(names)
    }
    return CellDistance(conditions, rows, ks, floor)


@torch.no_grad()
def _in_parts(
    flow: Density,
    function: Callable[[Tensor, Tensor, list[int]], Tensor],
    first_NF: NDArray[Any],
    conditions_NC: NDArray[Any],
) -> NDArray[np.float64]:
    """Apply a method of the flow in evaluation mode, a part in each thread; the result in float64.

    Equal conditions are worked out once, wherever their rows are.
    """
    flow.eval()
    like = flow.events.mean_K
    first, rows = _tensor(first_NF, like), ROWS if like.device.type == "cpu" else 64 * ROWS
    if not len(first):  # an empty part has the right shape, too
        return function(first, _tensor(conditions_NC, like), []).double().cpu().numpy()
    c_UC, index_N = _distinct(_tensor(conditions_NC, like), len(first))
    parts = list(parts_of(c_UC, index_N, rows))
    results = _threaded(lambda part: function(first[part[0]], *part[1:]).double(), parts, like)
    out = torch.empty(len(first), *results[0].shape[1:], dtype=torch.float64)
    for part, result in zip(parts, results, strict=True):
        out[part[0] if isinstance(part[0], slice) else part[0].cpu()] = result.cpu()
    return out.numpy()


def _distinct(c_NC: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """As `distinct`; one condition for all, the usual case, is seen without sorting."""
    if len(c_NC) == 1 or bool((c_NC == c_NC[0]).all()):
        return c_NC[:1], torch.zeros(rows, dtype=torch.long, device=c_NC.device)
    return distinct(c_NC)


def _threaded(
    work: Callable[[EvaluationPart], Tensor], parts: list[EvaluationPart], like: Tensor
) -> list[Tensor]:
    """What becomes of each part, in threads that take whole parts."""
    threads = min(torch.get_num_threads(), len(parts))
    if like.device.type != "cpu" or threads == 1:
        return [work(part) for part in parts]

    @torch.no_grad()
    def alone(part: EvaluationPart) -> Tensor:
        return work(part)

    # A setting of the single thread: threads inside of threads would only wait for each other.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(alone, parts))


def _tensor(values: NDArray[Any], like: Tensor) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=like.dtype, device=like.device)
