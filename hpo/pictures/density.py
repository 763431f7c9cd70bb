"""The numbers behind a picture of a density: bins, smoothing, contours, marginals.

Knows neither the emulator nor how it is drawn. Weights of the data are those of rows over their
mean; what is told of n rows goes by effective ones.

Letters of the arrays:
    N rows    X, Y bins along the two axes    P points of a line
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from models.evaluation.weighted import Weights, effective, mean_and_spread, quantile

Array = NDArray[np.float64]
Edges = tuple[Array, Array]
LEVELS = (0.5, 0.9, 0.99)
"""Fractions of all events that the contours enclose, highest density first."""
BINS = 90
"""Bins along each axis of the plane; the marginals of few rows join two or three of them."""
FINE = 180
"""Bins along each axis of an estimate, so that a sharp peak stays one."""
STEPS = (-3, 1)
"""Of an estimate's smoothing, in powers of sqrt(2): finer where the density is high."""
STEEP = 0.05
"""Events at an end of a column, of those in its fullest place, from which on it is a steep end."""
SURE = 20
"""Rows that must lie outside a contour of the data for it to be drawn: else it circles single
rows."""


def edges(
    data_N: Array,
    drawn_N: Array,
    weights_N: Weights = None,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Array:
    """Bins over nearly all events of both, but no wilder than the data for a wild emulator.

    None is beyond the bounds of the column, `within`.
    """
    low, high = quantile(data_N, (0.001, 0.999), weights_N)
    # A few rows do not tell how wide they would be.
    share = max(0.3, 30 / effective(weights_N, len(data_N)))
    wider = share * (high - low) or 0.5 * abs(high) or 1.0
    least, most = np.quantile(drawn_N, (0.002, 0.998))
    low = min(low, max(least, low - wider)) - wider / 4
    high = max(high, min(most, high + wider)) + wider / 4
    # A quantity that is never negative is not shown with room for negative values.
    never_negative = min(data_N.min(), least) >= 0
    low = max(low, within[0], 0.0 if never_negative else -math.inf)
    return np.linspace(low, min(high, within[1]), BINS + 1)


def counts(events_N2: Array, edges: Edges, weights_N: Weights = None) -> Array:
    """Events in each bin of the plane, or their weights, shape `(X, Y)`, but those outside."""
    x_N, y_N = events_N2.T
    counts_XY: Array = np.histogram2d(x_N, y_N, bins=list(edges), weights=weights_N)[0]
    return counts_XY


def spreads(data_N2: Array, edges: Edges, weights_N: Weights = None) -> tuple[float, float]:
    """Half of Scott's bandwidth along each axis, in bins: peaks stay, single rows go."""
    shrink = 0.5 * effective(weights_N, len(data_N2)) ** (-1 / 6)
    wide = []
    for column, each in zip(data_N2.T, edges, strict=True):
        _, spread = mean_and_spread(column.clip(each[0], each[-1]), weights_N)
        wide.append(max(1.0, shrink * spread / float(each[1] - each[0])))
    return wide[0], wide[1]


def smooth(counts_XY: Array, spreads: tuple[float, float]) -> Array:
    """The histogram under a Gaussian of so many bins; what leaves over an edge is reflected."""
    smoothed: Array = gaussian_filter(counts_XY, spreads, mode="reflect")
    return smoothed


@dataclass(frozen=True, slots=True)
class Plane:
    """A density over two columns."""

    edges: Edges
    held_XY: Array
    """Events in each bin, or their share."""
    whole: float
    """All events, or their share, with those outside the bins."""

    def contours(self, fractions: Sequence[float], seen: Plane | None = None) -> dict[float, Array]:
        """The line around each fraction of all events, as `outline` gives it.

        Without the fractions that the bins do not hold. The lines are those of another plane of the
        same density, of which a part is `seen`.
        """
        seen = seen or self
        levels = np.array(enclosing(self.held_XY, sorted(fractions), self.whole))
        levels *= seen.area / self.area
        lines = (outline(seen.held_XY, seen.edges, level) for level in levels.tolist())
        return dict(zip(sorted(fractions), lines, strict=False))

    @property
    def area(self) -> float:
        """Of a bin."""
        return math.prod(float(each[1] - each[0]) for each in self.edges)


def estimate(events_N2: Array, within: Edges, weights_N: Weights = None) -> Plane:
    """The density that events were drawn from.

    Smoothing is the finer the more events there are around each, so that a peak stays one. Where
    the events end steeply, as at a smallest mass, the bins end, too, and what smoothing would take
    over that end is reflected: a gap beyond it stays empty.

    Args:
        within: The ends of the picture, beyond which nothing is estimated.

    Source:
        Abramson (1982), The Annals of Statistics 10, 1217.
    """
    columns = zip(events_N2.T, within, strict=True)
    across, up = (_ends(column_N, each, weights_N) for column_N, each in columns)
    bins = (np.linspace(*across, FINE + 1), np.linspace(*up, FINE + 1))
    first, last = np.transpose([each[[0, -1]] for each in within])
    seen = ((events_N2 >= first) & (events_N2 <= last)).all(axis=1)
    # The few beyond a steep end are put on it.
    there_N2 = events_N2[seen].clip((across[0], up[0]), (across[1], up[1]))
    counts_XY = counts(there_N2, bins, None if weights_N is None else weights_N[seen])
    whole = float(len(events_N2) if weights_N is None else weights_N.sum())
    if not counts_XY.any():
        return Plane(bins, counts_XY, whole)
    coarse = spreads(events_N2, bins, weights_N)
    pilot_XY = smooth(counts_XY, coarse)
    held = counts_XY > 0
    typical = np.exp(np.average(np.log(pilot_XY[held]), weights=counts_XY[held]))
    # In steps of sqrt(2), each of which is one convolution.
    step_XY = np.log2(typical / np.maximum(pilot_XY, 1e-300)).clip(*STEPS).round().astype(int)
    smoothed = np.zeros_like(counts_XY)
    for step in np.unique(step_XY[held]):
        wide = coarse[0] * 2 ** (step / 2), coarse[1] * 2 ** (step / 2)
        smoothed += smooth(np.where(step_XY == step, counts_XY, 0.0), wide)
    return Plane(bins, smoothed, whole)


def _ends(values_N: Array, within: Array, weights_N: Weights) -> tuple[float, float]:
    """Where the values end steeply, else where the picture ends."""
    low, high = quantile(values_N, (0.0002, 0.9998), weights_N)
    low, high = max(low, within[0]), min(high, within[-1])
    if not high > low:
        return within[0], within[-1]
    held = np.histogram(values_N, BINS // 2, (low, high), weights=weights_N)[0]
    first, last = held[[0, -1]] > STEEP * held.max()
    return low if first else within[0], high if last else within[-1]


def enclosing(density_XY: Array, fractions: Sequence[float], whole: float) -> list[float]:
    """The density at the edge of the smallest region that holds each fraction of the whole.

    The whole counts events outside the bins, too; a fraction that the bins do not hold is left out.
    """
    falling = np.sort(density_XY, axis=None)[::-1]
    held = np.cumsum(falling) / whole
    # The bin that brings the sum up to the fraction still belongs to the region.
    last = [int(np.searchsorted(held, each)) for each in fractions]
    return [float(falling[each]) for each in last if each < len(falling)]


def outline(density_XY: Array, edges: Edges, height: float) -> Array:
    """The line along which the density has this height, shape `(P, 2)`; NaN between its pieces.

    Each piece is closed: beyond the bins there is nothing.
    """
    across, up = (np.r_[each[0], (each[1:] + each[:-1]) / 2, each[-1]] for each in edges)
    pieces = contour_generator(across, up, np.pad(density_XY, 1).T).lines(height)
    gap = np.full((1, 2), math.nan)
    return np.concatenate([part for piece in pieces for part in (piece, gap)] or [gap])


def sure(rows: float, fractions: Sequence[float] = LEVELS) -> list[float]:
    """Those fractions of which a contour of so many effective rows of data can tell."""
    return [each for each in fractions if rows * (1 - each) >= SURE]


def fading(counts_XY: Array) -> NDArray[Any]:
    """Counts as a shade in [0, 1], by their logarithm; bins without an event are masked."""
    shade = np.log1p(counts_XY) / np.log1p(max(counts_XY.max(), 1.0))
    return np.ma.masked_equal(shade, 0.0)


def joined(edges: Array, rows: float) -> Array:
    """The bins of a marginal: two or three joined where there are few rows."""
    return edges[:: 3 if rows < 1000 else 2 if rows < 10_000 else 1]


def marginal(events_N: Array, edges: Array, weights_N: Weights = None) -> Array:
    """Density in each bin, per unit of the column; what lies outside belongs to the whole."""
    whole = len(events_N) if weights_N is None else weights_N.sum()
    held: Array = np.histogram(events_N, edges, weights=weights_N)[0] / whole / np.diff(edges)
    return held


def numbered(rows: int, effective: float | None = None) -> str:
    """`n = 1,234`, and as many of equal weight would tell as much."""
    return f"n = {rows:,}" + ("" if effective is None else f" (effective: {effective:,.0f})")
