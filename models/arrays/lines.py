"""Densities along a line, kept as knots: placed where the density bends, and read between them.

A line has K + 1 knots, the shares of the K bins between them, and its log density at the knots. In
a bin the cumulative distribution is the rational quadratic with these slopes at both ends, so that
the density is positive and a bin's integral is its share. Weighted means of lines are lines again:
between the lines that are kept, too, every density integrates to one, and edges move as the knots
do. Means are taken of knots, shares and log densities of the same number.

`xp` is the array library. Array names end in their axes:
    S any axes    L lines    K bins, or knots

Gregory & Delbourgo (1982), IMA Journal of Numerical Analysis 2, 123 (the rational quadratic).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.namespaces import Array, Namespace

Floats = NDArray[np.float64]
Corners = Sequence[tuple[Array, Array]]
"""Numbers of lines and their weights, which are not below 0 and have a sum of 1."""
TAIL = 1e-7
"""What lies farther out than this part of a line gets no knots of its own."""
LEAST = -80.0
"""Least log density, and share 1e-30: single precision has both."""


class Lines(NamedTuple):
    """Lines, along the last axis; the axes before it number them."""

    places: Array
    """Knots."""
    shares: Array
    """Of the bins; of every line they have a sum of 1."""
    ln_density: Array
    """At the knots."""

    def mean(self, xp: Namespace, corners: Corners) -> Lines:
        """Means of lines, of which the corners tell the numbers along the first axis, `(L,)`."""
        each = []
        for array in map(xp.asarray, self):
            shape = (-1,) + (1,) * (array.ndim - 1)
            each.append(sum(weight.reshape(shape) * array[line] for line, weight in corners))
        return Lines(*each)


def read(
    xp: Namespace, lines: Lines, corners: Corners, y: Array
) -> tuple[Array, Array, list[tuple[Array, Array]]]:
    """The mean of the lines at the corners, at `y`.

    Returns:
        The log density; whether y lies between the first and the last knot; and the corners of the
        next axis, whose lines are numbered by these lines and then by their knots.
    """
    bins = lines.shares.shape[-1]
    places, shares, ln_density = (xp.asarray(array).reshape(-1) for array in lines)

    def at(array: Array, number: Array, size: int) -> Array:
        return sum(weight * xp.take(array, line * size + number) for line, weight in corners)

    # The last knot that is not beyond y, by halving: a search has no counterpart in every library.
    number = xp.zeros(np.shape(y), int)
    for power in reversed(range((bins - 1).bit_length())):
        further = xp.minimum(number + 2**power, bins - 1)
        number = xp.where(at(places, further, bins + 1) <= y, further, number)
    left, right = (at(places, number + side, bins + 1) for side in (0, 1))
    some = right > left
    width = xp.where(some, right - left, 1.0)
    t = xp.clip((y - left) / width, 0, 1)
    first, last = (xp.exp(at(ln_density, number + side, bins + 1)) for side in (0, 1))
    mean = at(shares, number, bins) / width
    u = 1 - t
    ln = 2 * xp.log(mean) + xp.log(last * t * t + 2 * mean * (t * u) + first * u * u)
    ln = ln - 2 * xp.log(mean + (first + last - 2 * mean) * (t * u))
    after = [
        (line * (bins + 1) + number + side, weight * (t if side else u))
        for line, weight in corners
        for side in (0, 1)
    ]
    return ln, some & (left <= y) & (y <= right), after


def moved(places_LK: Floats, ln_LK: Floats) -> Floats:
    """Where better knots lie, as numbers of the old ones, not whole: `(L, K)`.

    Half of them part the probability, as evenly as a normal's quantiles are far apart, and half of
    them the curvature of the root of the density, to the power at which pieces of second order
    have errors of one size (de Boor 1973, Lecture Notes in Mathematics 363, 12).
    """
    step_LK = np.diff(places_LK).clip(1e-15)
    root_LK = np.exp(0.5 * (ln_LK - ln_LK.max(-1, keepdims=True)))
    slope_LK = np.diff(root_LK) / step_LK
    bend_LK = np.abs(np.diff(slope_LK)) / (step_LK[:, 1:] + step_LK[:, :-1])
    bend_LK = np.pad(bend_LK, ((0, 0), (1, 1)), mode="edge")
    bent_LK = (bend_LK[:, 1:] + bend_LK[:, :-1]) ** 0.4 * step_LK + 1e-30
    p_LK = root_LK**2
    below_LK = np.pad(np.cumsum((p_LK[:, 1:] + p_LK[:, :-1]) * step_LK, -1), ((0, 0), (1, 0)))
    u_LK = np.clip(below_LK / below_LK[:, -1:], TAIL, 1 - TAIL)
    score_LK = np.copysign(np.sqrt(-np.log(4 * u_LK * (1 - u_LK)).clip(None, 0)), u_LK - 0.5)
    weight_LK = sum(_smooth(w / w.sum(-1, keepdims=True)) for w in (np.diff(score_LK), bent_LK))
    cumulative_LK = np.pad(np.cumsum(weight_LK, -1), ((0, 0), (1, 0)))
    cumulative_LK /= cumulative_LK[:, -1:]
    # All lines at once: each has a unit of the axis for itself.
    own_L1, count = 2.0 * np.arange(len(places_LK))[:, None], places_LK.shape[1]
    wanted_LK = own_L1 + np.linspace(0, 1, count)
    numbers_LK = np.tile(np.arange(float(count)), len(places_LK))
    found = np.interp(wanted_LK.ravel(), (own_L1 + cumulative_LK).ravel(), numbers_LK)
    return found.reshape(places_LK.shape)


def _smooth(weight_LK: Floats) -> Floats:
    """Each between its neighbours, so that knots have a like number under a like condition."""
    padded = np.pad(weight_LK, ((0, 0), (1, 1)), mode="edge")
    out: Floats = 0.25 * (padded[:, 2:] + padded[:, :-2]) + 0.5 * weight_LK
    return out


def resampled(array: Floats, axis: int, numbers: Floats) -> Floats:
    """Values of an array between those along an axis; `numbers` has the axes up to that one."""
    first = np.clip(np.floor(numbers), 0, array.shape[axis] - 2)
    shape = numbers.shape + (1,) * (array.ndim - numbers.ndim)
    whole, rest = first.astype(int).reshape(shape), (numbers - first).reshape(shape)
    low, high = (np.take_along_axis(array, whole + side, axis) for side in (0, 1))
    out: Floats = low + rest * (high - low)
    return out


def integral(places: Floats, ln: Floats) -> Floats:
    """Log integral along the last axis, by the trapezoidal rule."""
    top = ln.max(-1, keepdims=True)
    out: Floats = np.log(np.trapezoid(np.exp(ln - top), places)) + top[..., 0]
    return out


def halved(places: Floats, ln: Floats) -> tuple[Lines, Floats]:
    """Lines of every second point, by Simpson's rule, and the logs of their integrals."""
    top = ln.max(-1, keepdims=True)
    p, width = np.exp(ln - top), places[..., 2::2] - places[..., :-2:2]
    shares = width / 6 * (p[..., :-2:2] + 4 * p[..., 1::2] + p[..., 2::2])
    total = shares.sum(-1, keepdims=True)
    ln_total = np.log(total) + top
    own = np.clip(ln - ln_total, LEAST, None)[..., ::2]
    return Lines(places[..., ::2], (shares / total).clip(1e-30), own), ln_total[..., 0]
