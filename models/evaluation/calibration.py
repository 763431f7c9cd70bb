"""level(x) = P(p(X) > p(x)), X drawn from p: uniform on [0, 1] if events x follow the density p.

The highest-density region of content q is where the density is highest, and holds the fraction q
of its draws; a level is the content of the smallest such region that holds the event. Coverage is
the fraction of events in a region, so below a level. The level is the probability integral
transform of log p(x), for any number of event columns.

The transform of one event column is its rank among draws at the conditions of the event: it tells
which column errs and to which side.

Axes:
    N events    M draws

Hyndman (1996), The American Statistician 50, 120.
Gneiting, Balabdaoui & Raftery (2007), Journal of the Royal Statistical Society B 69, 243.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONTENTS = (0.5, 0.9)
"""Of the regions whose coverage is told."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Fraction of events inside the highest-density regions of one content."""

    nominal: float
    """Their content: what a calibrated density covers."""
    fraction: float
    """Above nominal: the density is too wide. Below: too narrow, or beside the data."""
    error: float
    """Standard error if the density is calibrated: binomial, and of the finite draws."""


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
    pit: dict[str, Transform]
    """By event column."""


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
) -> Calibration:
    """Coverage, and how far from uniform the levels and the ranks of each column are.

    The levels of a cell's events are all of one set of `draws` draws.
    """
    level_N = np.concatenate(levels_of_cells)
    rows = len(level_N)
    # How many events with draws of their own would tell as much as these.
    events = rows / (1 + _pairs_that_agree(levels_of_cells, draws) / rows)
    # Mean of Kolmogorov's distribution.
    floor = math.sqrt(math.pi / 2) * math.log(2) / math.sqrt(events)
    coverage = {
        f"{100 * p:g}": Coverage(p, float((level_N <= p).mean()), math.sqrt(p * (1 - p) / events))
        for p in CONTENTS
    }
    pit = {
        name: Transform(_gap_to_uniform(rank_N), floor, float(rank_N.mean()), float(rank_N.std()))
        for name, rank_N in ranks_of_columns.items()
    }
    return Calibration(coverage, _gap_to_uniform(level_N), floor, rows, pit)


def gap_error(
    levels_of_cells: Sequence[NDArray[Any]],
    others_of_cells: Sequence[NDArray[Any]],
    draws: Sequence[int],
    content: float,
) -> float:
    """Standard error of the difference of two densities' coverages at one content.

    Taken event by event: an event inside both regions, or outside both, adds nothing. The levels of
    the two densities are of as many draws in each cell.
    """
    both = zip(levels_of_cells, others_of_cells, strict=True)
    gap_N = np.concatenate([(a <= content) * 1.0 - (b <= content) for a, b in both])
    of_draws = 2 * content * (1 - content) * _pairs_that_agree(levels_of_cells, draws)
    return math.sqrt((gap_N.var() + of_draws / len(gap_N)) / len(gap_N))


def _pairs_that_agree(cells: Sequence[NDArray[Any]], draws: Sequence[int]) -> float:
    """Ordered pairs of events, each by the correlation that their common draws give the two.

    The content of a region that M draws bound has a Beta distribution, of variance
    p (1 - p) / (M + 2), and all events of a cell are held against the same one.
    """
    counts_K = np.array([len(each) for each in cells], np.float64)
    return float((counts_K * (counts_K - 1) / (np.array(draws) + 2)).sum())


def _gap_to_uniform(values_N: NDArray[np.float64]) -> float:
    sorted_N = np.sort(values_N)
    steps = np.arange(len(sorted_N) + 1) / len(sorted_N)
    return float(max((steps[1:] - sorted_N).max(), (sorted_N - steps[:-1]).max()))
