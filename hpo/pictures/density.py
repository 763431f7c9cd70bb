"""The numbers behind a picture of a density: bins, smoothing, contours, marginals.

Knows neither the emulator nor how it is drawn. A picture of data beside an emulator treats both
alike: the same bins, the same smoothing, so that what differs are the two. Weights of the data are
those of rows over their mean; what is told of n rows goes by effective ones.

Letters of the arrays:
    N rows    X, Y bins along the two axes    P points of a line
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

from models.evaluation.weighted import Weights, effective, error_of_mean, quantile

Array = NDArray[np.float64]
Edges = tuple[Array, Array]
LEVELS = (0.5, 0.9, 0.99)
"""Fractions of all events that the contours enclose, highest density first."""
BINS = 90
"""Bins along each axis of the plane; the marginals of few rows join two or three of them."""
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
    wider = 0.3 * (high - low) or 0.05 * abs(high) or 1.0
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
    across, up = (
        max(1.0, shrink * _spread(np.clip(column, each[0], each[-1]), weights_N) / np.diff(each)[0])
        for column, each in zip(data_N2.T, edges, strict=True)
    )
    return across, up


def _spread(values_N: Array, weights_N: Weights) -> float:
    if weights_N is None:
        return float(np.std(values_N))
    mean = np.average(values_N, weights=weights_N)
    return math.sqrt(np.average((values_N - mean) ** 2, weights=weights_N))


def smooth(counts_XY: Array, spreads: tuple[float, float]) -> Array:
    """The histogram under a Gaussian of so many bins; what leaves over an edge is given back."""
    smoothed = counts_XY
    for axis, spread in enumerate(spreads):
        bins = np.arange(counts_XY.shape[axis])
        kernel = np.exp(-0.5 * ((bins[:, None] - bins) / spread) ** 2)
        # Column j holds where bin j goes: sums to one, so that nothing is lost.
        smoothed = np.moveaxis(
            np.tensordot(kernel / kernel.sum(axis=0), smoothed, axes=(1, axis)), 0, axis
        )
    return smoothed


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
    """The line along which the density has this height, shape `(P, 2)`; NaN between its pieces."""
    across, up = ((each[1:] + each[:-1]) / 2 for each in edges)
    pieces = contour_generator(across, up, density_XY.T).lines(height)
    gap = np.full((1, 2), math.nan)
    return np.concatenate([part for piece in pieces for part in (piece, gap)] or [gap])


def sure(rows: float) -> list[float]:
    """The `LEVELS` that a contour of so many effective rows of data can tell."""
    return [each for each in LEVELS if rows * (1 - each) >= SURE]


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


def standard_error(values_N: Array, weights_N: Weights = None) -> float:
    """Of their mean; NaN for a single value, or where one is not finite."""
    if len(values_N) < 2 or not np.isfinite(values_N).all():
        return math.nan
    if weights_N is not None:
        return error_of_mean(values_N, weights_N)
    return float(values_N.std(ddof=1)) / math.sqrt(len(values_N))


def numbered(rows: int, effective: float | None = None) -> str:
    """`n = 1,234`, and as many of equal weight would tell as much."""
    return f"n = {rows:,}" + ("" if effective is None else f" (effective: {effective:,.0f})")
