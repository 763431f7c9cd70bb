"""How good a flow is and what it costs: NLL, per-cell distances, unphysical fractions, speed.

Every NLL is in nats per event in the data's own units, over a whole split in evaluation mode.

Tensor names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.columns import DataError, Dataset
from data_prep.stream import Batch, Stream, read_split
from models.autoregressive import TriangularLinear
from models.flow import ConditionalFlow

if TYPE_CHECKING:
    from models.emulator import Emulator

ROWS = 2048
"""Rows that go through a flow together: their activations stay in the cache of a CPU core."""
CELL_ROWS = 200
"""Cells with fewer test rows are left out of the distances: their floor hides everything."""
SPEED_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Nll:
    """Mean NLL of a split in nats per event."""

    mean: float
    error: float
    """Standard error of the mean, from the spread over rows."""
    rows: int


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
    """The same between two random halves of the cell's rows, scaled to all of them."""


def nll(flow: ConditionalFlow, folder: Path, split: str) -> Nll:
    """Mean NLL of a whole split, in evaluation mode.

    Raises:
        DataError: If the dataset has other columns than the flow, or the split has no rows.
    """
    stream = Stream(Path(folder), split, batch_size=65_536, shuffle=False, memory_mb=0)
    check_columns(flow, stream.dataset, folder)
    rows, mean, m2 = 0, 0.0, 0.0
    for batch in stream.epoch(0):
        values = -log_prob(flow, batch.events, batch.conditions)
        gap, total = float(values.mean()) - mean, rows + len(values)
        m2 += float(values.var()) * len(values) + gap**2 * rows * len(values) / total
        mean, rows = mean + gap * len(values) / total, total
    if not rows:
        raise DataError(f"the {split} part of {folder} has no rows")
    return Nll(mean, math.sqrt(m2 / rows / rows), rows)


def log_prob(
    flow: ConditionalFlow, events_NF: NDArray[Any], conditions_NC: NDArray[Any]
) -> NDArray[np.float64]:
    """Log density of each event in evaluation mode, part by part in bounded memory."""
    return _in_parts(flow, flow.log_prob, events_NF, conditions_NC)


def from_noise(
    flow: ConditionalFlow, noise_NF: NDArray[Any], conditions_NC: NDArray[Any]
) -> NDArray[np.float64]:
    """The events that the flow makes of noise, part by part in bounded memory."""
    return _in_parts(flow, flow.from_noise, noise_NF, conditions_NC)


def cost(flow: ConditionalFlow) -> Cost:
    """Parameters and operations; what a mask switches off is neither stored nor counted."""
    parameters = sum(p.numel() for p in flow.parameters())
    weights = sum(m.weights for m in flow.modules() if isinstance(m, TriangularLinear))
    return Cost(parameters, 2 * weights)


def cell_distances(
    flow: ConditionalFlow, test: Batch, *, least: int = CELL_ROWS, seed: int = 0
) -> list[CellDistance]:
    """Distances in every cell with at least `least` rows, most populated first."""
    rng = np.random.default_rng(seed)
    cells_KC, cell_N = np.unique(test.conditions, axis=0, return_inverse=True)
    counts_K = np.bincount(cell_N.ravel(), minlength=len(cells_KC))
    chosen = [k for k in np.argsort(-counts_K) if counts_K[k] >= least]
    names = [column.name for column in flow.condition_columns]
    return [
        _cell(
            flow,
            # By way of text, which gives the 0.0001 that was written and not its nearest float32.
            {name: float(str(value)) for name, value in zip(names, cells_KC[k], strict=True)},
            test.events[cell_N.ravel() == k],
            cells_KC[k],
            rng,
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


def unphysical_fraction(flow: ConditionalFlow, events_NF: NDArray[Any]) -> float:
    """Fraction of events with a value that is not finite, or not positive where it has to be."""
    positive = np.array([column.positive for column in flow.event_columns])
    good_NF = np.isfinite(events_NF) & ((events_NF > 0) | ~positive)
    return float(1 - good_NF.all(axis=1).mean())


def evaluate(
    emulator: Emulator | ConditionalFlow, folder: Path, split: str = "test", *, seed: int = 0
) -> dict[str, Any]:
    """Everything that is said about a flow, JSON-ready: NLL, cells, unphysical fraction, speed.

    Raises:
        DataError: If the dataset has other columns than the flow, or the split has no rows.
    """
    flow = emulator if isinstance(emulator, ConditionalFlow) else emulator.module
    score, test = nll(flow, folder, split), read_split(Path(folder), split)
    rng = np.random.default_rng(seed)
    drawn_NF = _draw(flow, test.conditions, rng)
    cells = cell_distances(flow, test, seed=seed)
    return {
        "split": split,
        f"{split}_nll": asdict(score),
        "cells": [asdict(cell) for cell in cells],
        "median_ks_over_floor": _median_ratio(cells),
        "unphysical_fraction": unphysical_fraction(flow, drawn_NF),
        "cost": asdict(cost(flow)),
        "speed": _speed(flow, test, rng),
    }


def check_columns(flow: ConditionalFlow, dataset: Dataset, folder: Path) -> None:
    """Raises DataError if the dataset's columns are not those of the flow, in that order."""
    for what in ("event_columns", "condition_columns"):
        have, want = ([c.name for c in getattr(x, what)] for x in (dataset, flow))
        if have != want:
            raise DataError(
                f"{folder} has the {what.replace('_', ' ')} {', '.join(have) or 'none'}, "
                f"the flow {', '.join(want) or 'none'}: prepare the data with those columns"
            )


def _cell(
    flow: ConditionalFlow,
    conditions: dict[str, float],
    events_NF: NDArray[Any],
    cell_C: NDArray[Any],
    rng: np.random.Generator,
) -> CellDistance:
    rows = len(events_NF)
    drawn_NF = _draw(flow, np.repeat(cell_C[None], max(20_000, 5 * rows), axis=0), rng)
    first, second = np.array_split(rng.permutation(events_NF), 2)
    names = [column.name for column in flow.event_columns]
    ks = {n: ks_distance(drawn_NF[:, f], events_NF[:, f]) for f, n in enumerate(names)}
    # Two halves of n/2 rows differ by twice what n rows differ from endless ones.
    floor = {n: ks_distance(first[:, f], second[:, f]) / 2 for f, n in enumerate(names)}
    return CellDistance(conditions, rows, ks, floor)


def _median_ratio(cells: Sequence[CellDistance]) -> float | None:
    """Median over cells and columns of the distance divided by the median floor."""
    if not cells:
        return None
    pairs = [(cell.ks[name], cell.floor[name]) for cell in cells for name in cell.ks]
    ratios = [distance / floor for distance, floor in pairs if floor > 0]
    return float(np.median(ratios)) if ratios else None


def _draw(
    flow: ConditionalFlow, conditions_NC: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    noise_NF = rng.standard_normal((len(conditions_NC), len(flow.event_columns)), np.float32)
    return from_noise(flow, noise_NF, conditions_NC)


def _speed(flow: ConditionalFlow, test: Batch, rng: np.random.Generator) -> dict[str, float]:
    """Events per second of drawing and of evaluating, on this machine."""
    c_NC = np.resize(test.conditions, (SPEED_ROWS, test.conditions.shape[1]))
    x_NF = np.resize(test.events, (SPEED_ROWS, test.events.shape[1]))
    log_prob(flow, x_NF[:ROWS], c_NC[:ROWS])  # the first call pays for starting threads
    start_s = time.perf_counter()
    _draw(flow, c_NC, rng)
    middle_s = time.perf_counter()
    log_prob(flow, x_NF, c_NC)
    return {
        "samples_per_second": SPEED_ROWS / (middle_s - start_s),
        "log_prob_per_second": SPEED_ROWS / (time.perf_counter() - middle_s),
    }


@torch.no_grad()
def _in_parts(
    flow: ConditionalFlow,
    function: Callable[[Tensor, Tensor, list[int] | None], Tensor],
    first_NF: NDArray[Any],
    conditions_NC: NDArray[Any],
) -> NDArray[np.float64]:
    """Apply a method of the flow in evaluation mode; the result in float64."""
    flow.eval()
    like = flow.events.mean_K
    rows = ROWS if like.device.type == "cpu" else 64 * ROWS
    # One condition for all is the usual case; what depends on it alone is worked out once.
    same = len(conditions_NC) > 1 and bool((conditions_NC == conditions_NC[0]).all())
    parts = []
    for i in range(0, max(1, len(first_NF)), rows):  # one empty part has the right shape, too
        first = _tensor(first_NF[i : i + rows], like)
        given = _tensor(conditions_NC[i : i + 1 if same else i + rows], like)
        part = function(first, given, [len(first)] if same else None)
        parts.append(part.double().cpu().numpy())
    return np.concatenate(parts)


def _tensor(values: NDArray[Any], like: Tensor) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=like.dtype, device=like.device)
