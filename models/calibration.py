"""Whether a density says truly how sure it is: how many events lie in its densest regions.

The highest-density region of content p is where the density is highest, and holds the fraction p
of its draws. An event's level is the content of the smallest such region that holds the event, so
the fraction of draws that are denser. If the data follow the density, levels are uniform on
[0, 1], whatever the number of event columns: the probability integral transform of log p(x).

Axes:
    N events    M draws

Hyndman (1996), The American Statistician 50, 120.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
class Calibration:
    """What the levels of events tell."""

    coverage: dict[str, Coverage]
    """By content in percent."""
    level_ks: float
    """Largest gap between the distribution function of the levels and the uniform one."""
    level_ks_floor: float
    """Mean of the same for uniform levels, as many and from as many draws."""
    rows: int
    """Events that have a level."""


def levels(
    log_prob_N: NDArray[Any], drawn_log_prob_M: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The level of each event of one cell, in [0, 1].

    Args:
        log_prob_N: Log density of the events; -inf outside the support is level 1.
        drawn_log_prob_M: The same of draws at the same conditions.
        rng: Places an event between its two neighbours, which makes levels uniform exactly,
            however few draws there are.
    """
    drawn_M = np.sort(drawn_log_prob_M)
    upto_N = np.searchsorted(drawn_M, log_prob_N, "right")
    below_N = np.searchsorted(drawn_M, log_prob_N, "left")
    denser_N, equal_N = len(drawn_M) - upto_N, upto_N - below_N
    level_N = (denser_N + (equal_N + 1) * rng.random(len(denser_N))) / (len(drawn_M) + 1)
    return np.where(np.isneginf(log_prob_N), 1.0, level_N)


def calibration(levels_of_cells: Sequence[NDArray[Any]], draws: Sequence[int]) -> Calibration:
    """Coverage, and how far from uniform the levels are.

    Args:
        levels_of_cells: The levels of each cell's events, which were compared with the same draws.
        draws: How many draws, of each cell.
    """
    level_N = np.sort(np.concatenate(levels_of_cells))
    counts_K = np.array([len(each) for each in levels_of_cells], np.float64)
    # Events that share their draws agree a little: the content of a region that M draws bound has
    # a Beta distribution, of variance p (1 - p) / (M + 2).
    excess = 1 + float((counts_K * (counts_K - 1) / (np.array(draws) + 2)).sum() / len(level_N))
    events = len(level_N) / excess
    return Calibration(
        {
            f"{100 * p:g}": Coverage(
                p, float((level_N <= p).mean()), math.sqrt(p * (1 - p) / events)
            )
            for p in CONTENTS
        },
        _gap_to_uniform(level_N),
        # Mean of Kolmogorov's distribution.
        math.sqrt(math.pi / 2) * math.log(2) / math.sqrt(events),
        len(level_N),
    )


def _gap_to_uniform(sorted_N: NDArray[np.float64]) -> float:
    steps = np.arange(len(sorted_N) + 1) / len(sorted_N)
    return float(max((steps[1:] - sorted_N).max(), (sorted_N - steps[:-1]).max()))
