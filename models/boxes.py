"""Smooth boxes: densities of one column with edges, chained to components of several columns.

A box lies around a middle m and has a width w, edges of the scale w / D, and a tilt. With
A = (x - m) D / w + D / 2 its cumulative distribution without the tilt is

    t = (softplus(A) - softplus(A - D)) / D,

which rises by logistic steps at both edges. The tilt bends t by a rational-quadratic curve of one
bin from (0, 0) to (1, 1), whose slopes at both ends are the densities there, in units of 1 / w. All
of it is inverted in closed form. Tails fall exponentially, more slowly than a normal's.

In a component the column f has its box at m_f + sum_g S_fg (x_g - m_g), with the width
w_f exp(0.3 sum_g R_fg (x_g - m_g)), over the columns g before it: edges that are oblique, and open
or close. The density of a component is the product of its columns' boxes.

The same text serves torch, numpy, cupy and JAX: `xp` is any of them. Values and gradients are
finite for any finite x. Array names end in their axes:
    P parameters of a component    S any axes
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from models.namespaces import Array

Limits = tuple[Array, Array]
"""Least and greatest log-width: numbers, or arrays that broadcast to `S`."""

EACH = 5
"""Parameters of a column: middle, log-width, log-sharpness, log-slopes at both ends."""
WIDEST = 20.0
"""Greatest width of a box, in standard deviations."""
SHARPNESS = -1.0, 9.0
"""Least and greatest log(D - 1)."""
TILT = 6.0
"""Greatest |log-slope| at an end."""
OPENING = 0.3
"""Factor on what columns before tell of a width."""
FARTHEST = 1e15
"""What lies farther out, in standard deviations, has the density that there is here."""
SPENT = 80.0
"""Number of which exp(-number) adds nothing to a density. That of larger ones takes a processor ten
times as long, where it is smaller than normal numbers are."""
NEAREST = 1e-7
"""Share of a box that is left out at both ends when it is drawn from."""


class Box(NamedTuple):
    """Arrays that broadcast."""

    middle: Array
    width: Array
    sharpness: Array
    """D."""
    first: Array
    """Slope at the lower end."""
    last: Array
    """Slope at the upper end."""


def parameters_of(features: int) -> int:
    """Of a component: its weight, its boxes, and two for every pair of columns."""
    return 1 + EACH * features + features * (features - 1)


def limits(smallest: float) -> tuple[float, float]:
    """Of a least width, in standard deviations."""
    return math.log(smallest), math.log(WIDEST)


def log_density(
    xp: Any, x_F: Sequence[Array], parameters_PS: Array, limits: Limits
) -> tuple[Array, Array]:
    """Of components, given the columns of events, which broadcast to `S`.

    Args:
        xp: The array library.
        x_F: Columns, standardised.
        parameters_PS: What a network makes of the conditions.
        limits: Of widths.

    Returns:
        Each component's raw log-weight, and its log density.
    """
    terms: list[Array] = []
    offsets: list[Array] = []
    for f, x in enumerate(x_F):
        x = xp.clip(x, -FARTHEST, FARTHEST)
        terms.append(_log_density(xp, x, _box(xp, parameters_PS, f, offsets, limits)))
        offsets.append(x - parameters_PS[1 + EACH * f])
    return parameters_PS[0], functools.reduce(operator.add, terms)


def draw(xp: Any, u_F: Sequence[Array], parameters_PS: Array, limits: Limits) -> list[Array]:
    """Columns of events of one component each, made of a uniform number for each column."""
    x_F: list[Array] = []
    offsets: list[Array] = []
    for f, u in enumerate(u_F):
        x_F.append(_inverse(xp, u, _box(xp, parameters_PS, f, offsets, limits)))
        offsets.append(x_F[f] - parameters_PS[1 + EACH * f])
    return x_F


def _box(xp: Any, parameters_PS: Array, f: int, offsets: Sequence[Array], limits: Limits) -> Box:
    """The box of a column, given how far the columns before are from their own middles."""
    own, at = 1 + EACH * f, _pairs(parameters_PS, f)
    middle, log_width, sharpness, first, last = (parameters_PS[own + k] for k in range(EACH))
    for g, offset in enumerate(offsets):
        middle = middle + parameters_PS[at + 2 * g] * offset
        log_width = log_width + OPENING * parameters_PS[at + 2 * g + 1] * offset
    return Box(
        middle,
        xp.exp(xp.clip(log_width, *limits)),
        1 + xp.exp(xp.clip(sharpness, *SHARPNESS)),
        xp.exp(xp.clip(first, -TILT, TILT)),
        xp.exp(xp.clip(last, -TILT, TILT)),
    )


def _pairs(parameters_PS: Array, f: int) -> int:
    """Where the parameters of a column and those before it begin."""
    features = (math.isqrt((EACH - 1) ** 2 + 4 * (len(parameters_PS) - 1)) - (EACH - 1)) // 2
    return 1 + EACH * features + f * (f - 1)


def _log_density(xp: Any, x: Array, box: Box) -> Array:
    """In nats per unit of x."""
    sharpness, half = box.sharpness, 0.5 * box.sharpness
    middle = (x - box.middle) * (sharpness / box.width)
    low, high = middle + half, middle - half
    # softplus(A) = max(A, 0) + log(1 + exp(-|A|)), without a difference of large numbers.
    low_rest, high_rest = (1 + xp.exp(xp.clip(-abs(A), -SPENT, None)) for A in (low, high))
    # Not max(A, 0) - max(A - D, 0), whose difference is anything far out.
    above = xp.minimum(xp.clip(low, 0, None), sharpness)
    t = xp.clip((above + xp.log(low_rest / high_rest)) / sharpness, 0, 1)
    u = 1 - t
    slope = (box.last * t + 2 * u) * t + box.first * u * u
    bend = 1 + (box.first + box.last - 2) * t * u
    whole = (1 - xp.exp(-sharpness)) / box.width
    beyond = xp.clip(abs(middle) - half, 0, None)
    return xp.log(whole * slope / (low_rest * high_rest * bend * bend)) - beyond


def _inverse(xp: Any, u: Array, box: Box) -> Array:
    """The x below which the box has the share u."""
    u = xp.clip(u, NEAREST, 1 - NEAREST)
    bend = box.first + box.last - 2
    # t of a quadratic equation, by the root in which nothing cancels.
    a, b = 1 - box.first + u * bend, box.first - u * bend
    root = xp.sqrt(xp.clip(b * b + 4 * a * u, 0, None))
    rising = b > 0
    t = xp.where(
        rising, 2 * u / xp.where(rising, b + root, 1.0), (root - b) / xp.where(rising, 1.0, 2 * a)
    )
    t = xp.clip(t, NEAREST, 1 - NEAREST)
    # A = log(exp(D t) - 1) - log(1 - exp(-D (1 - t))), in numbers that do not overflow.
    below, above = box.sharpness * t, box.sharpness * (1 - t)
    A = below + _log_rest(xp, below) - _log_rest(xp, above)
    return box.middle + (A - 0.5 * box.sharpness) * (box.width / box.sharpness)


def _log_rest(xp: Any, x: Array) -> Array:
    """log(1 - exp(-x)) of x > 0; not by expm1, which the ONNX exporter does not know."""
    half = xp.tanh(0.5 * x)
    return xp.log(2 * half / (1 + half))
