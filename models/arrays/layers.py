"""The layers of a flow in plain array operations, of which `ArrayFlow` is made.

They repeat the modules of `models/flow`, which explain them, with the functions that numpy, cupy
and JAX have in common. Bins are found by comparison and nothing is done in place, so that JAX
compiles and differentiates it.

`xp` is the array library. Array names end in their axes:
    F event columns    C conditions    P parameters of one feature    H hidden units
    S any axes of events and conditions, broadcast    K bins of a spline
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from models import boxes
from models.bounds import Interval
from models.config import FlowConfig
from models.layout import (
    HUGE,
    LARGEST_RAW,
    LOG_SCALE_LAYER,
    LOG_SCALE_TOTAL,
    SMALLEST_BIN,
    SMALLEST_SLOPE,
    TINY,
    UNIT_SLOPE,
)
from models.namespaces import Array, Namespace, log_sum

ERF_REACH, ERF_DEGREE = 6.0, 44
"""Beyond 6 the error function is 1 to double precision; within, this degree in x^2 gives it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standardise:
    """Columns in physical units <-> coordinates of mean 0 and spread 1: see `models/flow`."""

    positive: tuple[bool, ...]
    bounded: Mapping[int, Interval]
    """The columns that have bounds, by number."""
    pair: tuple[int, int] | None
    total: bool
    turned: bool
    """Whether the pair of masses becomes a mass and a ratio."""
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    texts: Mapping[int, int] = field(default_factory=dict)
    """How many texts the columns that are categories have, by number."""

    def forward(self, xp: Namespace, x: Sequence[Array]) -> tuple[list[Array], Array, Array]:
        """Standardised columns, the log-Jacobian, and whether a row lies in the support."""
        x = [one for k, value in enumerate(x) for one in self._spelled(k, value)]
        logs, log_det, within = [], -sum(map(math.log, self.spread)), True
        for k, (value, positive) in enumerate(zip(x, self.positive, strict=True)):
            # Harmless numbers on both sides of the log, or else gradients are NaN.
            if interval := self.bounded.get(k):
                its_own = interval.holds(xp, value)
                value = xp.where(its_own, value, interval.harmless)
                value, slope = interval.forward(xp, value)
                log_det = log_det + slope
            else:
                its_own = xp.isfinite(value) & ((value > 0) if positive else True)
                value = xp.where(its_own, value, 1.0 if positive else 0.0)
                value = xp.log(value) if positive else value
                log_det = log_det - value if positive else log_det
            logs.append(value)
            within = within & its_own
        scales = zip(self._turn(xp, logs), self.mean, self.spread, strict=True)
        return [(value - mean) / spread for value, mean, spread in scales], log_det, within

    def inverse(self, xp: Namespace, y: Sequence[Array]) -> list[Array]:
        """Physical values, in the support and finite for any input."""
        scales = zip(y, self.mean, self.spread, strict=True)
        logs = self._turn_back(xp, [value * spread + mean for value, mean, spread in scales])
        out = [
            xp.exp(xp.clip(value, math.log(TINY), math.log(HUGE))) if positive else value
            for value, positive in zip(logs, self.positive, strict=True)
        ]
        for k, interval in self.bounded.items():
            out[k] = interval.inverse(xp, out[k])
        return out

    def _spelled(self, k: int, value: Array) -> list[Array]:
        """A category as columns of 0 and 1, any other column as it is."""
        numbers = range(self.texts.get(k, 0))
        return [(value == number).astype(value.dtype) for number in numbers] or [value]

    def _turn(self, xp: Namespace, logs: list[Array]) -> list[Array]:
        if self.pair is None or not self.turned:
            return logs
        first, second = (logs[k] for k in self.pair)
        logs[self.pair[0]] = xp.logaddexp(first, second) if self.total else first
        logs[self.pair[1]] = second - first
        return logs

    def _turn_back(self, xp: Namespace, y: list[Array]) -> list[Array]:
        if self.pair is None or not self.turned:
            return y
        first, ratio = (y[k] for k in self.pair)
        first = first - xp.logaddexp(ratio, 0.0) if self.total else first
        y[self.pair[0]], y[self.pair[1]] = first, first + ratio
        return y


@dataclass(frozen=True, slots=True)
class Layer:
    """An autoregressive layer, and the normalisation before it."""

    config: FlowConfig
    conditioner: Separate | Masked
    scale: tuple[Array, Array] | None
    """Log-scale and shift of every feature, if the layer is normalised."""

    def forward(self, xp: Namespace, y: Sequence[Array], c_CS: Array) -> tuple[list[Array], Array]:
        """Data to noise, and the log-determinant."""
        log_det: Array = 0.0
        if self.scale is not None:
            scales = zip(y, *self.scale, strict=True)
            y = [xp.exp(scale) * value + shift for value, scale, shift in scales]
            log_det = self.scale[0].sum()
        curve = _spline if self.config.kind == "spline" else _affine
        out: list[Array] = []
        state: list[list[Array]] = []
        for f, value in enumerate(y):
            parameters = self.conditioner.group(xp, c_CS, y[:f], state)
            z, its_log_det = curve(xp, value, parameters, self.config)
            out.append(z)
            log_det = log_det + its_log_det
        return out, log_det

    def inverse(self, xp: Namespace, z: Sequence[Array], c_CS: Array) -> list[Array]:
        """Noise to data."""
        curve = _spline_inverse if self.config.kind == "spline" else _affine_inverse
        y: list[Array] = []
        state: list[list[Array]] = []
        for value in z:
            parameters = self.conditioner.group(xp, c_CS, y, state)
            y.append(curve(xp, value, parameters, self.config))
        if self.scale is None:
            return y
        scales = zip(y, *self.scale, strict=True)
        return [(value - shift) * xp.exp(-scale) for value, scale, shift in scales]


@dataclass(frozen=True, kw_only=True, slots=True)
class Separate:
    """A network for each feature: `models/flow/conditioners.py`."""

    weights: tuple[tuple[Array, ...], ...]
    """Of every layer of each feature's network."""
    biases: tuple[tuple[Array, ...], ...]
    activation: str
    residual: bool

    def group(
        self, xp: Namespace, c_CS: Array, before: Sequence[Array], state: list[list[Array]]
    ) -> Array:
        """Parameters of the feature after those in `before`, `(P, *S)`."""
        weights, biases = self.weights[len(before)], self.biases[len(before)]
        conditions = len(c_CS)
        h_HS = _linear(xp, weights[0][:, :conditions], c_CS, biases[0])
        for f, value in enumerate(before, start=conditions):
            h_HS = h_HS + _outer(xp, weights[0][:, f : f + 1], value)
        for number in range(1, len(weights)):
            active_HS = _activate(xp, self.activation, h_HS)
            y_HS = _linear(xp, weights[number], active_HS, biases[number])
            h_HS = h_HS + y_HS if self.residual and number < len(weights) - 1 else y_HS
        return h_HS


@dataclass(frozen=True, kw_only=True, slots=True)
class Masked:
    """One masked network for all features: `models/flow/conditioners.py`."""

    first: tuple[tuple[Array, ...], ...]
    """Of every layer, what each group reads from group 0."""
    weights: tuple[tuple[Array, ...], ...]
    """Of every layer, what each group after the first reads from the groups 1 up to itself."""
    biases: tuple[tuple[Array, ...], ...]
    activation: str

    def group(
        self, xp: Namespace, c_CS: Array, before: Sequence[Array], state: list[list[Array]]
    ) -> Array:
        """Parameters of the feature after those in `before`, `(P, *S)`.

        `state` holds the hidden groups of each layer: empty at the first feature.
        """
        if not before:
            state.extend([] for _ in self.first[:-1])
        x = [c_CS, *(value[None] for value in before)]
        for number, groups in enumerate(state):
            groups.append(_activate(xp, self.activation, self._layer(xp, number, x)))
            x = groups
        return self._layer(xp, len(state), x)

    def _layer(self, xp: Namespace, number: int, x: Sequence[Array]) -> Array:
        group = len(x) - 1
        out = _linear(xp, self.first[number][group], x[0], self.biases[number][group])
        at = 0
        for values in x[1:]:
            weight = self.weights[number][group - 1][:, at : at + len(values)]
            out = out + xp.tensordot(weight, values, axes=1)
            at += len(values)
        return out


@dataclass(frozen=True, slots=True)
class Mixture:
    """The density of the noise: `models/flow/mixture`."""

    network: Separate
    components: int
    limits: tuple[float, float]
    """Of widths."""

    def log_density(self, xp: Namespace, z: Sequence[Array], c_CS: Array) -> Array:
        """In nats, `S`."""
        raw, log = boxes.log_density(xp, z, self._parameters(xp, c_CS), self.limits)
        raw = raw - log_sum(xp, raw, axis=0)
        # Not `log_sum`: all of it is finite, and what guards against more takes half of the time.
        log = raw + log
        top = log.max(0)
        return xp.log(xp.exp(log - top).sum(0)) + top

    def from_noise(self, xp: Namespace, noise: Sequence[Array], c_CS: Array) -> list[Array]:
        """Features made of standard normal noise, of which the last chooses the component."""
        *u, chosen = (0.5 * (1 + erf(xp, value * 0.5**0.5)) for value in noise)
        parameters = self._parameters(xp, c_CS)
        raw = parameters[0]
        edges = xp.exp(raw - log_sum(xp, raw, axis=0)).cumsum(0)[:-1]
        number = (chosen > edges).sum(0)
        if parameters[0, 0].size == 1:
            own = xp.take(parameters.reshape(parameters.shape[:2]), number, axis=1)
        else:
            shape = parameters.shape[:2] + number.shape
            own = xp.broadcast_to(parameters, shape)
            own = xp.take_along_axis(own, number[None, None], axis=1)[:, 0]
        return boxes.draw(xp, u, own, self.limits)

    def _parameters(self, xp: Namespace, c_CS: Array) -> Array:
        """Of all components, `(P, K, *S)`."""
        out = self.network.group(xp, c_CS, [], [])
        return out.reshape((-1, self.components) + out.shape[1:])


def _linear(xp: Namespace, weight: Array, x_HS: Array, bias: Array) -> Array:
    return xp.tensordot(weight, x_HS, axes=1) + bias.reshape((-1,) + (1,) * (x_HS.ndim - 1))


def _outer(xp: Namespace, weight_H1: Array, value_S: Array) -> Array:
    return weight_H1.reshape((-1,) + (1,) * value_S.ndim) * value_S


def _activate(xp: Namespace, name: str, x: Array) -> Array:
    if name == "relu":
        return xp.maximum(x, 0)
    if name == "tanh":
        return xp.tanh(x)
    # The sigmoid by tanh, which overflows nowhere.
    gate = xp.tanh(0.5 * x) if name == "silu" else erf(xp, x * math.sqrt(0.5))
    return 0.5 * x * (1 + gate)


def erf(xp: Namespace, x: Array) -> Array:
    """The error function to 1e-13, since numpy has none: an odd polynomial, by Clenshaw's rule."""
    x = xp.clip(x, -ERF_REACH, ERF_REACH)
    u = 2 * (x / ERF_REACH) ** 2 - 1
    coefficients = _erf_series()
    later = last = xp.zeros_like(x)
    for coefficient in coefficients[:0:-1]:
        last, later = 2 * u * last - later + coefficient, last
    return x * (u * last - later + coefficients[0])


@lru_cache
def _erf_series() -> tuple[float, ...]:
    """Chebyshev coefficients of erf(x) / x in x^2."""

    def ratio(u: Any) -> Any:
        x = ERF_REACH * np.sqrt((u + 1) / 2)
        return np.array([math.erf(value) / value for value in x])

    series = np.polynomial.chebyshev.chebinterpolate(ratio, ERF_DEGREE)
    return tuple(float(coefficient) for coefficient in series)


def _affine(xp: Namespace, x: Array, parameters: Array, config: FlowConfig) -> tuple[Array, Array]:
    log_scale = _log_scale(xp, parameters[0], config)
    return x * xp.exp(log_scale) + parameters[1], log_scale


def _affine_inverse(xp: Namespace, z: Array, parameters: Array, config: FlowConfig) -> Array:
    return (z - parameters[1]) * xp.exp(-_log_scale(xp, parameters[0], config))


def _log_scale(xp: Namespace, raw: Array, config: FlowConfig) -> Array:
    limit = min(LOG_SCALE_LAYER, LOG_SCALE_TOTAL / config.blocks)
    return limit * xp.tanh(raw / limit)


def _spline(xp: Namespace, x: Array, parameters: Array, config: FlowConfig) -> tuple[Array, Array]:
    """The rational-quadratic curves at `x` and the logarithms of their derivatives."""
    bound = config.bound
    within = abs(x) < bound
    at = (xp.where(within, x, 0.0) + bound) / (2 * bound)
    left, width, bottom, height, slope_0, slope_1 = _bins(xp, at, parameters, by_height=False)
    t = xp.clip((at - left) / width, 0, 1)
    s, u = height / width, 1 - t
    above = t * (s * t + slope_0 * u)
    below = s + (slope_0 + slope_1 - 2 * s) * (t * u)
    slopes = slope_1 * t * t + (2 * s * t + slope_0 * u) * u
    z = (bottom + height * above / below) * (2 * bound) - bound
    log_det = 2 * xp.log(s) + xp.log(slopes) - 2 * xp.log(below)
    return xp.where(within, z, x), xp.where(within, log_det, 0.0)


def _spline_inverse(xp: Namespace, z: Array, parameters: Array, config: FlowConfig) -> Array:
    """Where the curves are `z`."""
    bound = config.bound
    within = abs(z) < bound
    at = (xp.where(within, z, 0.0) + bound) / (2 * bound)
    left, width, bottom, height, slope_0, slope_1 = _bins(xp, at, parameters, by_height=True)
    rise, s = at - bottom, height / width
    # Of a quadratic equation divided by its largest slope, whose square might overflow.
    scale = 1 / (slope_0 + slope_1 + 2 * s)
    first, mean = slope_0 * scale, s * scale
    bend = rise * (first + slope_1 * scale - 2 * mean)
    a, b = height * (mean - first) + bend, height * first - bend
    large = abs(b) + xp.sqrt(xp.maximum(b * b + 4 * a * mean * rise, 1e-30))
    # b and the root with one sign: nothing cancels. Where b <= 0, a = mean height - b > 0.
    rising = b > 0
    t = xp.where(rising, 2 * mean * rise / large, large / (2 * xp.where(rising, 1.0, a)))
    x = (xp.clip(t, 0, 1) * width + left) * (2 * bound) - bound
    return xp.where(within, x, z)


def _bins(xp: Namespace, at: Array, parameters: Array, *, by_height: bool) -> tuple[Array, ...]:
    """Of the bin of each value: left, width, bottom, height, and the slopes at both its edges."""
    count = (len(parameters) + 1) // 3
    raw = xp.clip(parameters[: 2 * count], -LARGEST_RAW, LARGEST_RAW)
    widths, heights = xp.exp(raw[:count]), xp.exp(raw[count:])
    edges = _edges(xp, widths), _edges(xp, heights)
    upper = edges[int(by_height)]
    # Found by comparison: a search has no counterpart in every library, nor a batching rule.
    number = xp.minimum((upper <= at * upper[-1:]).sum(0), count - 1)[None]
    left, width = _edge_and_size(xp, widths, edges[0], number)
    bottom, height = _edge_and_size(xp, heights, edges[1], number)
    end = xp.full_like(parameters[:1], UNIT_SLOPE)
    raw = xp.concatenate([end, parameters[2 * count :], end])
    slope_0, slope_1 = (
        xp.logaddexp(xp.take_along_axis(raw, number + side, axis=0)[0], 0.0) + SMALLEST_SLOPE
        for side in (0, 1)
    )
    return left, width, bottom, height, slope_0, slope_1


def _edges(xp: Namespace, sizes: Array) -> Array:
    """Upper edges of the bins, each at least a part of the sum of all sizes."""
    count = len(sizes)
    least = (SMALLEST_BIN * np.arange(1, count + 1)[:, None]).astype(sizes.dtype)
    if xp is np:
        # One product: numpy's running sums over the first axis take several times as long.
        return np.tensordot(np.tri(count, dtype=sizes.dtype) + least, sizes, axes=1)
    # Not a product, which a GPU may work out with fewer digits.
    return xp.cumsum(sizes, axis=0) + _outer(xp, xp.asarray(least), sizes.sum(0))


def _edge_and_size(xp: Namespace, sizes: Array, upper: Array, number: Array) -> tuple[Array, Array]:
    whole, count = upper[-1], len(sizes)
    least = SMALLEST_BIN / (1 + count * SMALLEST_BIN) * whole
    size = xp.take_along_axis(sizes, number, axis=0)[0] + least
    edge = xp.take_along_axis(upper, number, axis=0)[0] - size
    return edge / whole, size / whole
