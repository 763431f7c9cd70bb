"""level(x) = P(p(X) > p(x)), X drawn from p: uniform on [0, 1] if events x follow the density p.

The highest-density region of content q is where the density is highest, and holds the fraction q
of its draws; a level is the content of the smallest such region that holds the event. Coverage is
the fraction of events in a region, so below a level. The level is the probability integral
transform of log p(x), for any number of event columns. Of weighted events, fractions and
distribution functions are sums of weights.

The transform of one event column is its rank among draws at the conditions of the event: it tells
which column errs and to which side.

Axes:
    N events    M draws

Hyndman (1996), The American Statistician 50, 120.
Gneiting, Balabdaoui & Raftery (2007), Journal of the Royal Statistical Society B 69, 243.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.evaluation.weighted import effective, joined, mean_and_spread, ratios, shares

CONTENTS = (0.5, 0.9)
"""Of the regions whose coverage is told."""
KOLMOGOROV_MEAN = math.sqrt(math.pi / 2) * math.log(2)
"""Of the largest gap to the true distribution function, times the root of the number of values."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Fraction of events inside the highest-density regions of one content."""

    nominal: float
    """Their content: what a calibrated density covers."""
    fraction: float
    """Above nominal: the density is too wide. Below: too narrow, or beside the data."""
    error: float
    """Standard error if the density is calibrated: binomial, of weighted events from the weights
    inside and outside; and of the finite draws."""


@dataclass(frozen=True, slots=True)
class Transform:
    """The probability integral transform of one event column."""

    ks: float
    """Largest gap between its distribution function and the uniform one."""
    ks_floor: float
    """Mean of that gap for uniform values, as many and from as many draws."""
    mean: float
    """0.5 if calibrated. Above: the data lie at larger values than the density says."""
    spread: float
    """Standard deviation, 0.289 if calibrated. Below: the column's density is too wide."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A summary of the levels of events and of the ranks of each column."""

    coverage: dict[str, Coverage]
    """By content in percent."""
    level_ks: float
    """Largest gap between the distribution function of the levels and the uniform one."""
    level_ks_floor: float
    """Mean of that gap for uniform levels, as many and from as many draws."""
    rows: int
    """Events that have a level."""
    effective_rows: float
    """Events of equal weight that would tell as much: all, where they have no weights."""
    pit: dict[str, Transform]
    """By event column."""


class Levels(NamedTuple):
    """The levels of events and their ranks, cell by cell."""

    cells: list[NDArray[np.float64]]
    """Of each cell's events that have one."""
    draws: list[int]
    """Of those cells."""
    weights: list[NDArray[Any]] | None
    """Of those events; None where rows have none."""
    ranks: dict[str, list[NDArray[np.float64]]]
    """Of those events, by event column."""
    small: list[bool]
    """Whether the cell is one of those with too few rows for distances."""

    def of_small(self) -> Levels:
        """Those of the small cells."""
        chosen = list(itertools.compress(range(len(self.small)), self.small))
        return Levels(
            cells=[self.cells[k] for k in chosen],
            draws=[self.draws[k] for k in chosen],
            weights=None if self.weights is None else [self.weights[k] for k in chosen],
            ranks={name: [each[k] for k in chosen] for name, each in self.ranks.items()},
            small=[True] * len(chosen),
        )

    def calibration(self) -> Calibration:
        """Their calibration."""
        ranks_of_columns = {name: np.concatenate(each) for name, each in self.ranks.items()}
        return calibration(self.cells, self.draws, ranks_of_columns, self.weights)


def levels(
    log_prob_N: NDArray[Any], drawn_log_prob_M: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The level of each event of one cell, in [0, 1], by its log density and that of draws there.

    An event outside the support, of log density -inf, has level 1; `rng` as in `ranks`.
    """
    level_N = ranks(-log_prob_N, -drawn_log_prob_M, rng)
    return np.where(np.isneginf(log_prob_N), 1.0, level_N)


def ranks(
    values_N: NDArray[Any], drawn_M: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The fraction of draws below each value, in [0, 1]: uniform if both are of one distribution.

    Both are one column at the conditions of one cell. `rng` places a value between its two
    neighbours, which makes ranks uniform exactly, however few draws there are.
    """
    drawn_M = np.sort(drawn_M)
    below_N = np.searchsorted(drawn_M, values_N, "left")
    equal_N = np.searchsorted(drawn_M, values_N, "right") - below_N
    return (below_N + (equal_N + 1) * rng.random(len(below_N))) / (len(drawn_M) + 1)


def calibration(
    levels_of_cells: Sequence[NDArray[Any]],
    draws: Sequence[int],
    ranks_of_columns: Mapping[str, NDArray[Any]],
    weights_of_cells: Sequence[NDArray[Any]] | None = None,
) -> Calibration:
    """Coverage, and how far from uniform the levels and the ranks of each column are.

    The levels of a cell's events are all of one set of `draws` draws.
    """
    level_N, ratio_N = np.concatenate(levels_of_cells), ratios(joined(weights_of_cells or ()))
    rows = len(level_N)
    size = effective(ratio_N, rows)
    agree = _pairs_that_agree(levels_of_cells, draws, ratio_N)
    # How many events with draws of their own would tell as much as these.
    events = size / (1 + agree / (rows**2 / size))
    floor = KOLMOGOROV_MEAN / math.sqrt(events)
    coverage = {}
    for p in CONTENTS:
        inside_N = level_N <= p
        error = math.sqrt(p * (1 - p) / events)
        if ratio_N is not None:
            own = float((ratio_N**2 * (inside_N - p) ** 2).mean())
            error = math.sqrt((own + p * (1 - p) * agree / rows) / rows)
        fraction = float(np.average(inside_N, weights=ratio_N))
        coverage[f"{100 * p:g}"] = Coverage(p, fraction, error)
    pit = {
        name: Transform(_gap_to_uniform(rank_N, ratio_N), floor, *mean_and_spread(rank_N, ratio_N))
        for name, rank_N in ranks_of_columns.items()
    }
    return Calibration(coverage, _gap_to_uniform(level_N, ratio_N), floor, rows, size, pit)


def gap_error(
    levels_of_cells: Sequence[NDArray[Any]],
    others_of_cells: Sequence[NDArray[Any]],
    draws: Sequence[int],
    content: float,
    weights_of_cells: Sequence[NDArray[Any]] | None = None,
) -> float:
    """Standard error of the difference of two densities' coverages at one content.

    Taken event by event: an event inside both regions, or outside both, adds nothing. The levels of
    the two densities are of as many draws in each cell.
    """
    both = zip(levels_of_cells, others_of_cells, strict=True)
    gap_N = np.concatenate([(a <= content) * 1.0 - (b <= content) for a, b in both])
    rows, ratio_N = len(gap_N), ratios(joined(weights_of_cells or ()))
    of_draws = 2 * content * (1 - content) * _pairs_that_agree(levels_of_cells, draws, ratio_N)
    own = gap_N.var()
    if ratio_N is not None:
        own = (ratio_N**2 * (gap_N - np.average(gap_N, weights=ratio_N)) ** 2).mean()
    return math.sqrt((own + of_draws / rows) / rows)


def _pairs_that_agree(
    cells: Sequence[NDArray[Any]], draws: Sequence[int], ratio_N: NDArray[np.float64] | None
) -> float:
    """Ordered pairs of events, each by the correlation that their common draws give the two.

    The content of a region that M draws bound has a Beta distribution, of variance
    p (1 - p) / (M + 2), and all events of a cell are held against the same one. A pair of weighted
    events counts by the product of their weights over the mean.
    """
    counts_K = np.array([len(each) for each in cells], np.float64)
    pairs_K = counts_K * (counts_K - 1)
    if ratio_N is not None:
        of_cells = np.split(ratio_N, np.cumsum([len(each) for each in cells])[:-1])
        pairs_K = np.array([each.sum() ** 2 - each @ each for each in of_cells])
    return float((pairs_K / (np.array(draws) + 2)).sum())


def _gap_to_uniform(values_N: NDArray[np.float64], weights_N: NDArray[np.float64] | None) -> float:
    order_N = np.argsort(values_N)
    sorted_N = values_N[order_N]
    steps = np.arange(len(sorted_N) + 1) / len(sorted_N)
    if weights_N is not None:
        steps = np.concatenate([[0.0], np.cumsum(shares(weights_N[order_N]))])
    return float(max((steps[1:] - sorted_N).max(), (sorted_N - steps[:-1]).max()))
