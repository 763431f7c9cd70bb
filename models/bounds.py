"""Bounded columns <-> the real line: x between its bounds becomes y, with log |dy / dx|.

Between two bounds u is the share of the way from one to the other, and

    y = sign(u - 1/2) sqrt(-log(4 u (1 - u))),    u = (1 + sign(y) sqrt(1 - exp(-y^2))) / 2.

Up to a factor this is Polya's approximation of the normal quantile, whose error is 0.0032 in u at
most: a density that is level up to its bounds becomes nearly normal, as the noise of a flow is.
With one bound y is the logarithm of the distance from it.

A row can have the value of a bound. Distances are therefore taken from a point beyond it, as far
off as single precision cannot tell from the bound, so that y is finite there.

The same text serves torch, numpy, cupy and JAX: `xp` is any of them. Values and gradients are
finite wherever `holds` is true, and for any finite y.

Polya (1949), Proceedings of the Berkeley Symposium on Mathematical Statistics and Probability
    (1945, 1946), 63.
Williams (1946), Annals of Mathematical Statistics 17, 363.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.columns import Column
from models.layout import HUGE, TINY
from models.namespaces import Array

RESOLUTION = 1e-12
"""Least distance from a bound, in units of the range, or of 1 where there is no other bound."""
CENTRE = 0.1
"""Where y^2 or (2 u - 1)^2 is below this, a series stands for a difference of like numbers."""
ATANH = tuple(1 / (2 * k + 1) for k in range(6))
"""Coefficients of artanh(z) / z in z^2, exact to 1e-16 in the centre."""
SINH = tuple(1 / math.factorial(2 * k + 1) for k in range(5))
"""Coefficients of sinh(z) / z in z^2, exact to 1e-16 in the centre."""
FARTHEST = 9.0
"""Beyond this, y is a bound. exp(-81) is still a float32 with all its digits."""


class Interval:
    """The values between two bounds, both inclusive, or above or below one."""

    def __init__(self, low: float, high: float) -> None:
        """Args: the bounds in the column's unit, one of them infinite where there is none."""
        self.low, self.high = _single(low), _single(high)
        """As rows have them, which are kept in single precision."""
        self.inside = min(low, self.low), max(high, self.high)
        """What is neither beyond the bounds as they were said, nor as rows have them."""
        self.drawn = _inner(low, math.inf), _inner(high, -math.inf)
        """Least and greatest float32 between the bounds as they were said."""
        self.harmless = min(max(0.0, self.drawn[0]), self.drawn[1])
        """A value that can stand for one that is not held."""
        span = self.high - self.low
        least = max(RESOLUTION * (span if math.isfinite(span) else 1.0), TINY)
        self._steps = max(_step(self.low, math.inf), least), max(_step(self.high, -math.inf), least)
        self._ends = self.low - self._steps[0], self.high + self._steps[1]
        self._half = 0.5 * (self._ends[1] - self._ends[0])

    def holds(self, xp: Any, x: Array) -> Array:
        """Whether values are finite and lie between the bounds."""
        least, greatest = self.inside
        return xp.isfinite(x) & (x >= least) & (x <= greatest)

    def forward(self, xp: Any, x: Array) -> tuple[Array, Array]:
        """y and log |dy / dx| of values that `holds` is true of."""
        # Clipped, since a compiler may add up bound and step first, and 1 + step is 1.
        from_low, from_high = (
            xp.clip(distance + step, step, None)
            for distance, step in zip((x - self.low, self.high - x), self._steps, strict=True)
        )
        if math.isinf(self.high):
            y = xp.log(from_low)
            return y, -y
        if math.isinf(self.low):
            y = -xp.log(from_high)
            return y, y
        from_low, from_high = from_low / self._half, from_high / self._half
        # y = r sqrt(w / r^2) has no hole at r = 0, where the ratio is 1.
        r, product = 0.5 * (from_low - from_high), from_low * from_high
        centre = r * r < CENTRE
        square = xp.where(centre, r * r, 0.5 * CENTRE)
        near = 2 / (2 - square) * _series(ATANH, (square / (2 - square)) ** 2)
        product = xp.where(centre, 0.5, product)
        w = xp.where(centre, square * near, -xp.log(product))
        ratio = xp.where(centre, near, w / (1 - product))
        return r * xp.sqrt(ratio), w - 0.5 * xp.log(ratio) - math.log(self._half)

    def inverse(self, xp: Any, y: Array) -> Array:
        """The value between the bounds that has this y."""
        if math.isinf(self.high):
            return xp.clip(self.low + (_exp(xp, y) - self._steps[0]), *self.drawn)
        if math.isinf(self.low):
            return xp.clip(self.high - (_exp(xp, -y) - self._steps[1]), *self.drawn)
        y = xp.clip(y, -FARTHEST, FARTHEST)
        centre = y * y < CENTRE
        square = xp.where(centre, y * y, 0.5 * CENTRE)
        ratio = xp.exp(-0.5 * square) * _series(SINH, (0.5 * square) ** 2)
        middle = 0.5 * sum(self._ends) + self._half * y * xp.sqrt(ratio)
        # From the nearer bound, whose distance keeps its digits.
        product = xp.exp(-xp.where(centre, 1.0, y * y))
        distance = self._half * product / (1 + xp.sqrt(1 - product))
        from_low, from_high = (distance - step for step in self._steps)
        edge = xp.where(y < 0, self.low + from_low, self.high - from_high)
        return xp.clip(xp.where(centre, middle, edge), *self.drawn)


def intervals(columns: Sequence[Column]) -> dict[int, Interval]:
    """Of the columns that have bounds, by number."""
    return {k: Interval(*column.limits) for k, column in enumerate(columns) if column.bounds}


def _exp(xp: Any, y: Array) -> Array:
    return xp.exp(xp.clip(y, math.log(TINY), math.log(HUGE)))


def _series(coefficients: tuple[float, ...], z: Array) -> Array:
    """sum_k a_k z^k by Horner's rule."""
    total: Array = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = total * z + coefficient
    return total


def _single(bound: float) -> float:
    """The nearest float32; infinite beyond them."""
    with np.errstate(over="ignore"):
        return float(np.float32(bound))


def _inner(bound: float, towards: float) -> float:
    """The nearest float32 that is not beyond the bound, seen from `towards`; never infinite."""
    kept = _single(bound)
    beyond = kept < bound if towards > 0 else kept > bound
    inner = _next(kept, towards) if beyond else kept
    return min(max(inner, -HUGE), HUGE)


def _step(bound: float, towards: float) -> float:
    """Half the way from a bound to the next float32; 0 where there is none."""
    return 0.0 if math.isinf(bound) else 0.5 * abs(_next(bound, towards) - bound)


def _next(single: float, towards: float) -> float:
    return float(np.nextafter(np.float32(single), np.float32(towards)))


def or_nan(xp: Any, out: Array, columns: Sequence[Column], c: Array) -> Array:
    """`out`, shape `S`, but NaN where conditions `(*S, C)` of these columns cannot be at all.

    A number that can be is finite and in its column's support, and of a category the place of a
    text. The domain is another question.
    """
    if not columns:
        return out
    held = [xp.isfinite(c[..., k]) & one.holds(c[..., k]) for k, one in enumerate(columns)]
    for k, one in enumerate(columns):
        if one.categories:
            place = c[..., k]
            held[k] = held[k] & (place == xp.floor(place)) & (place >= 0)
            held[k] = held[k] & (place < len(one.categories))
    return xp.where(functools.reduce(operator.and_, held), out, math.nan)
