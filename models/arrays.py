"""`ArrayFlow`: an exported flow in plain array operations, for codes that bring no torch.

Reads a bundle's `emulator.json` and `weights.safetensors` and works out densities and draws with
what numpy, cupy and JAX have in common: under JAX it compiles (`jax.jit`) and has gradients in
events and conditions, at the edges of the support too. The same numbers as `models/flow.py`, which
explains them: to 1e-5 in float32, 1e-10 in float64. Neither this module nor what it imports needs
torch.

`xp` is the array library, `numpy`, `cupy` or `jax.numpy`. Array names end in their axes:
    F event columns    C conditions    P parameters of one feature    H hidden units
    S any axes of events and conditions, broadcast    K bins of a spline
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes

from data_prep.columns import Column
from data_prep.errors import InputError
from models.config import FlowConfig

Array = Any
"""An array of whatever library: numpy, cupy or JAX."""
Namespace = Any
"""Its functions: `numpy`, `cupy` or `jax.numpy`."""
CARD, WEIGHTS = "emulator.json", "weights.safetensors"
FORMATS = (1, 2)
"""Versions of the bundle that can be read."""
PARTS = 16_384
"""Rows that go through a flow together under numpy: their hidden units stay in the cache."""
ROUNDING = 1e-6
"""Relative distance beyond the domain that is still inside: conditions are stored as float32."""
SMALLEST_BIN, SMALLEST_SLOPE, LARGEST_RAW = 3e-3, 3e-2, 20.0
"""As in `models/spline.py`."""
UNIT_SLOPE = math.log(math.expm1(1 - SMALLEST_SLOPE))
LOG_SCALE_LAYER, LOG_SCALE_TOTAL = 3.0, 30.0
"""As in `models/autoregressive.py`."""
LOG_TINY, LOG_HUGE = math.log(1.2e-38), math.log(3.4e38)
"""Logarithms of the smallest and largest value of a positive column when drawn."""
ERF_REACH, ERF_DEGREE = 6.0, 44
"""Beyond 6 the error function is 1 to double precision; within, this degree in x^2 gives it."""
_LIBRARIES = {"jax": "jax.numpy", "jaxlib": "jax.numpy", "cupy": "cupy"}


class ArrayFlowError(InputError):
    """A bundle or a call that cannot be used. The message is one sentence with the remedy."""


class ExtrapolationWarning(UserWarning):
    """A condition lies outside the range that the emulator was trained on."""


class ArrayFlow:
    """p(events | conditions) in physical units, of one flow or of an ensemble.

    Example:
        >>> flow = ArrayFlow.load("emulator/")
        >>> flow.log_prob([[9.0, 8.0], [20.0, 21.0]], Z=0.001, alpha=1.0).shape
        (2,)
        >>> jax.grad(lambda c: flow.log_density(x, c).sum())(jnp.array([0.001, 1.0]))
    """

    def __init__(self, members: Sequence[_Member]) -> None:
        """Args: flows of the same columns, to be mixed in equal parts."""
        self._members = tuple(members)
        first = self._members[0]
        self.event_columns = tuple(column.name for column in first.event_columns)
        """Names of the columns of an event, in order."""
        self.condition_columns = tuple(column.name for column in first.condition_columns)
        """Names of the conditions, in order."""
        self.positive_columns = tuple(column.positive for column in first.event_columns)
        """Of each event column, whether its values are above 0."""
        self.pair = first.events.pair
        """Which two event columns are of one unit, such as two masses; None for none."""
        ranges = [member.domain for member in self._members]
        self.domain = {
            name: (max(each[name][0] for each in ranges), min(each[name][1] for each in ranges))
            for name in self.condition_columns
        }
        """Range of each condition in the data."""
        self.noise_columns = len(self.event_columns) + (len(self._members) > 1)
        """Numbers that an event is made of; the last one of an ensemble chooses the member."""

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        dtype: Literal["float32", "float64"] = "float64",
        xp: Namespace = np,
    ) -> Self:
        """The flow of a bundle, its weights compared with their sha256.

        Args:
            folder: An emulator bundle, as `hpo export` writes it.
            dtype: Of everything that is worked out. JAX has float64 only if it is asked to
                (`jax.config.update("jax_enable_x64", True)`), and float32 otherwise; on a GPU
                it may multiply matrices of float32 with fewer digits, unless
                `jax_default_matmul_precision` is "highest".
            xp: Where the weights are kept. `cupy` puts them on the GPU once and for all.

        Raises:
            ArrayFlowError: If the folder is no bundle, is of a newer format, or its weights are
                missing or changed.
        """
        folder = Path(folder)
        card = _read_card(folder)
        state = _read_weights(folder, card)
        try:
            return cls.from_description(card["architecture"], state, dtype=dtype, xp=xp)
        except (KeyError, TypeError, ValueError) as error:
            raise ArrayFlowError(
                f"{folder / WEIGHTS} does not fit {CARD} ({error}): export the emulator again"
            ) from error

    @classmethod
    def from_description(
        cls,
        description: Mapping[str, Any],
        state: Mapping[str, NDArray[Any]],
        *,
        dtype: Literal["float32", "float64"] = "float64",
        xp: Namespace = np,
    ) -> Self:
        """The flow of a torch module's `describe()` and its state dict as numpy arrays.

        Raises:
            KeyError, TypeError, ValueError: If the two do not belong together.
        """
        precision = np.dtype(dtype)
        if "members" not in description:
            return cls([_Builder(description, state, precision, xp, prefix="").member()])
        return cls(
            [
                _Builder(each, state, precision, xp, prefix=f"members.{k}.").member()
                for k, each in enumerate(description["members"])
            ]
        )

    def log_prob(
        self,
        events: ArrayLike,
        *,
        on_extrapolation: Literal["warn", "raise", "ignore"] = "warn",
        **conditions: ArrayLike,
    ) -> NDArray[np.float64]:
        """Natural-log density of events, per unit of each event column, by numpy.

        For JAX and cupy, and inside `jax.jit`, use `log_density`.

        Args:
            events: Shape `(N, F)`, in the units of the event columns.
            on_extrapolation: What to do outside the domain: warn, raise or ignore.
            **conditions: Every condition, a number or one value per event, in physical units.

        Returns:
            Array of shape `(N,)`; -inf outside the support.

        Raises:
            ArrayFlowError: If events are of another shape, or a condition is missing, unknown,
                not finite or of a wrong length, or outside the domain under "raise".
        """
        x_NF = np.asarray(events)
        if x_NF.ndim != 2 or x_NF.shape[1] != len(self.event_columns):
            raise ArrayFlowError(
                f"events must have shape (N, {len(self.event_columns)}), one column for each of "
                f"{', '.join(self.event_columns)}, got {x_NF.shape}"
            )
        c_NC = self._conditions(conditions, len(x_NF), on_extrapolation)
        return in_parts(lambda x, c: self.log_density(x, c, xp=np), x_NF, c_NC)

    def log_density(self, x: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        """Natural-log density: nothing but array operations, to be compiled and differentiated.

        Args:
            x: Events, shape `(*S, F)`, in the units of the event columns.
            c: Conditions, shape `(*S, C)` or one that broadcasts to it, in the order of
                `condition_columns`. What depends on conditions alone is worked out in their own
                shape: one row for all events is cheaper than one for each.
            xp: The array library; by default that of `x` and `c`.

        Returns:
            Shape `S`; -inf outside the support, where gradients are 0. The domain is not checked.
        """
        xp = xp or namespace(x, c)
        each = [member.log_density(xp, x, c) for member in self._members]
        return each[0] if len(each) == 1 else _log_mean(xp, each)

    def from_noise(self, noise: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        """The events, shape `(*S, F)`, that the flow makes of standard normal noise.

        Args:
            noise: Shape `(*S, noise_columns)`.
            c: Conditions, as for `log_density`.
            xp: The array library; by default that of `noise` and `c`.
        """
        xp = xp or namespace(noise, c)
        features = len(self.event_columns)
        each = [member.from_noise(xp, noise[..., :features], c) for member in self._members]
        out = each[0]
        for k, other in enumerate(each[1:], start=1):
            edge = NormalDist().inv_cdf(k / len(each))
            out = xp.where(noise[..., -1:] > edge, other, out)
        return out

    def _conditions(
        self, given: Mapping[str, ArrayLike], rows: int, on_extrapolation: str
    ) -> NDArray[np.float64]:
        """In the flow's order, checked: `(rows, C)`, or `(1, C)` if all are numbers."""
        names = self.condition_columns
        if set(given) != set(names):
            missing, unknown = sorted(set(names) - set(given)), sorted(set(given) - set(names))
            raise ArrayFlowError(
                f"conditions are {', '.join(names) or 'none'}: "
                f"missing {', '.join(missing) or 'none'}, unknown {', '.join(unknown) or 'none'}"
            )
        if on_extrapolation not in ("warn", "raise", "ignore"):
            raise ArrayFlowError(
                f"on_extrapolation must be warn, raise or ignore, got {on_extrapolation!r}"
            )
        one_for_all = all(np.ndim(value) == 0 for value in given.values())
        c_NC = np.empty((min(rows, 1) if one_for_all else rows, len(names)))
        for k, name in enumerate(names):
            value = np.asarray(given[name], np.float64)
            if value.shape not in ((), (1,), (rows,)) or not np.isfinite(value).all():
                raise ArrayFlowError(
                    f"{name} must be a finite number or one for each of the {rows} events, "
                    f"got {given[name]!r}"
                )
            self._check_domain(name, value, on_extrapolation)
            c_NC[:, k] = value
        return c_NC

    def _check_domain(self, name: str, value: NDArray[np.float64], action: str) -> None:
        outside = value[~inside(np, value, self.domain[name])]
        if action == "ignore" or not outside.size:
            return
        low, high = self.domain[name]
        message = (
            f"{name} = {outside.flat[0]:g} is outside the range [{low:g}, {high:g}] that the "
            "emulator was trained on: what it says there is a guess"
        )
        if action == "raise":
            raise ArrayFlowError(message)
        warnings.warn(message, ExtrapolationWarning, stacklevel=4)


def namespace(*arrays: Array) -> Namespace:
    """The library that these arrays are of; numpy for numbers, lists and numpy's own."""
    for array in arrays:
        library = _LIBRARIES.get(type(array).__module__.partition(".")[0])
        if library is not None:
            return importlib.import_module(library)
    return np


def inside(xp: Namespace, value: Array, limits: tuple[float, float]) -> Array:
    """Whether a condition is in its range, but for the rounding of float32."""
    low, high = limits
    margin = ROUNDING * max(abs(low), abs(high))
    return (value >= low - margin) & (value <= high + margin)


def in_parts(
    function: Any, x_NF: NDArray[Any], c_NC: NDArray[Any], rows: int = PARTS
) -> NDArray[np.float64]:
    """`function(x, c)` of rows, so many at a time; `c_NC` has a row for each or one for all."""
    out_N = np.empty(len(x_NF))
    for at in range(0, len(x_NF), rows):
        part = slice(at, at + rows)
        out_N[part] = function(x_NF[part], c_NC if len(c_NC) == 1 else c_NC[part])
    return out_N


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """One flow."""

    event_columns: tuple[Column, ...]
    condition_columns: tuple[Column, ...]
    domain: dict[str, tuple[float, float]]
    events: _Standardise
    conditions: _Standardise
    layers: tuple[_Layer, ...]
    dtype: np.dtype[Any]

    def log_density(self, xp: Namespace, x: Array, c: Array) -> Array:
        columns, c_CS = self._columns(xp, x, c)
        y, log_det, within = self.events.forward(xp, columns)
        for number, layer in enumerate(self.layers):
            # The features in reverse order from layer to layer.
            y, its_log_det = layer.forward(xp, y[::-1] if number else y, c_CS)
            log_det = log_det + its_log_det
        constant = 0.5 * len(y) * math.log(2 * math.pi)
        log_prob = log_det - 0.5 * sum(z * z for z in y) - constant
        return xp.where(within, log_prob, -math.inf)

    def from_noise(self, xp: Namespace, noise: Array, c: Array) -> Array:
        y, c_CS = self._columns(xp, noise, c)
        for number, layer in reversed(list(enumerate(self.layers))):
            y = layer.inverse(xp, y, c_CS)
            y = y[::-1] if number else y
        return xp.stack(xp.broadcast_arrays(*self.events.inverse(xp, y)), -1)

    def _columns(self, xp: Namespace, x: Array, c: Array) -> tuple[list[Array], Array]:
        """Columns of both, with as many axes; conditions standardised and stacked, `(C, *S)`."""
        x, c = (_as(xp, array, self.dtype) for array in (x, c))
        axes = max(x.ndim, c.ndim)
        x, c = (array.reshape((1,) * (axes - array.ndim) + array.shape) for array in (x, c))
        columns = [x[..., f] for f in range(len(self.event_columns))]
        given = [c[..., k] for k in range(len(self.condition_columns))]
        if not given:
            return columns, _as(xp, xp.zeros((0,) + (1,) * (axes - 1)), self.dtype)
        return columns, xp.stack(self.conditions.forward(xp, given)[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Standardise:
    """Columns in physical units <-> coordinates of mean 0 and spread 1: `models/preprocess.py`."""

    positive: tuple[bool, ...]
    pair: tuple[int, int] | None
    total: bool
    turned: bool
    """Whether the pair of masses becomes a mass and a ratio."""
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    def forward(self, xp: Namespace, x: Sequence[Array]) -> tuple[list[Array], Array, Array]:
        """Standardised columns, the log-Jacobian, and whether a row lies in the support."""
        logs, log_det, within = [], -sum(map(math.log, self.spread)), True
        for value, positive in zip(x, self.positive, strict=True):
            its_own = xp.isfinite(value) & ((value > 0) if positive else True)
            # Harmless numbers on both sides of the log, or else gradients are NaN.
            value = xp.where(its_own, value, 1.0 if positive else 0.0)
            value = xp.log(value) if positive else value
            log_det = log_det - value if positive else log_det
            logs.append(value)
            within = within & its_own
        scales = zip(self._turn(xp, logs), self.mean, self.spread, strict=True)
        return [(value - mean) / spread for value, mean, spread in scales], log_det, within

    def inverse(self, xp: Namespace, y: Sequence[Array]) -> list[Array]:
        """Physical values; positive columns are above 0 and finite for any input."""
        scales = zip(y, self.mean, self.spread, strict=True)
        logs = self._turn_back(xp, [value * spread + mean for value, mean, spread in scales])
        return [
            xp.exp(xp.clip(value, LOG_TINY, LOG_HUGE)) if positive else value
            for value, positive in zip(logs, self.positive, strict=True)
        ]

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
        first = first - _softplus(xp, ratio) if self.total else first
        y[self.pair[0]], y[self.pair[1]] = first, first + ratio
        return y


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """An autoregressive layer, and the normalisation before it."""

    config: FlowConfig
    conditioner: _Separate | _Masked
    log_scale_F: Array | None
    shift_F: Array | None

    def forward(self, xp: Namespace, y: Sequence[Array], c_CS: Array) -> tuple[list[Array], Array]:
        """Data to noise, and the log-determinant."""
        log_det: Array = 0.0
        y = list(y)
        if self.log_scale_F is not None and self.shift_F is not None:
            scales = zip(y, self.log_scale_F, self.shift_F, strict=True)
            y = [xp.exp(scale) * value + shift for value, scale, shift in scales]
            log_det = self.log_scale_F.sum()
        curve = _spline if self.config.kind == "spline" else _affine
        out, state = [], self.conditioner.start()
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
        state = self.conditioner.start()
        for value in z:
            parameters = self.conditioner.group(xp, c_CS, y, state)
            y.append(curve(xp, value, parameters, self.config))
        if self.log_scale_F is None or self.shift_F is None:
            return y
        scales = zip(y, self.log_scale_F, self.shift_F, strict=True)
        return [(value - shift) * xp.exp(-scale) for value, scale, shift in scales]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Separate:
    """A network for each feature: `models/networks.py`."""

    weights: tuple[tuple[Array, ...], ...]
    """Of every layer of each feature's network."""
    biases: tuple[tuple[Array, ...], ...]
    activation: str
    residual: bool

    def start(self) -> list[list[Array]]:
        """Nothing is kept from one feature to the next."""
        return []

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
            y_HS = _linear(
                xp, weights[number], _activate(xp, self.activation, h_HS), biases[number]
            )
            h_HS = h_HS + y_HS if self.residual and number < len(weights) - 1 else y_HS
        return h_HS


@dataclass(frozen=True, kw_only=True, slots=True)
class _Masked:
    """One masked network for all features: `models/masked.py`."""

    first: tuple[tuple[Array, ...], ...]
    """Of every layer, what each group reads from group 0."""
    weights: tuple[tuple[Array, ...], ...]
    """Of every layer, what each group after the first reads from the groups 1 up to itself."""
    biases: tuple[tuple[Array, ...], ...]
    activation: str

    def start(self) -> list[list[Array]]:
        """An empty store of hidden groups, to be filled by `group` from 0 upwards."""
        return [[] for _ in self.first[:-1]]

    def group(
        self, xp: Namespace, c_CS: Array, before: Sequence[Array], state: list[list[Array]]
    ) -> Array:
        """Parameters of the feature after those in `before`, `(P, *S)`."""
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
    gate = xp.tanh(0.5 * x) if name == "silu" else _erf(xp, x * math.sqrt(0.5))
    return 0.5 * x * (1 + gate)


def _softplus(xp: Namespace, x: Array) -> Array:
    return xp.logaddexp(x, xp.zeros_like(x))


def _erf(xp: Namespace, x: Array) -> Array:
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
        _softplus(xp, xp.take_along_axis(raw, number + side, axis=0)[0]) + SMALLEST_SLOPE
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


def _log_mean(xp: Namespace, each: Sequence[Array]) -> Array:
    """log of the mean of densities given by their logs; without NaN where all are -inf."""
    stacked = xp.stack(each)
    top = stacked.max(0)
    finite = xp.isfinite(top)
    top = xp.where(finite, top, 0.0)
    mean = xp.exp(xp.where(finite, stacked, 0.0) - top).mean(0)
    return xp.where(finite, xp.log(mean) + top, -math.inf)


def _as(xp: Namespace, array: Array, dtype: np.dtype[Any]) -> Array:
    array = xp.asarray(array)
    # JAX without 64 bits has no float64, and warns if asked for it.
    wanted = xp.zeros(0).dtype if dtype == np.float64 else dtype
    return array if array.dtype == wanted else array.astype(wanted)


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        version, _ = card["format"], card["files"][WEIGHTS]
    except FileNotFoundError:
        raise ArrayFlowError(
            f"{folder} is not an emulator (it has no {CARD}): make one with `hpo export`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArrayFlowError(f"{path} cannot be read: export the emulator again") from error
    if version not in FORMATS:
        raise ArrayFlowError(
            f"{path} has format {version}, this version reads up to {max(FORMATS)}: "
            "upgrade hpo-flows"
        )
    return dict(card)


def _read_weights(folder: Path, card: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise ArrayFlowError(f"{path} is missing: export or copy the emulator again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != card["files"][WEIGHTS]:
        raise ArrayFlowError(
            f"{path} is not the file that was exported (its sha256 differs from {CARD}): "
            "export or copy the emulator again"
        )
    try:
        return from_bytes(content)
    except SafetensorError as error:
        raise ArrayFlowError(f"{path} cannot be read: export the emulator again") from error


class _Builder:
    """Makes a flow of its description and state dict."""

    def __init__(
        self,
        description: Mapping[str, Any],
        state: Mapping[str, NDArray[Any]],
        dtype: np.dtype[Any],
        xp: Namespace,
        *,
        prefix: str,
    ) -> None:
        self.description, self.state, self.dtype, self.xp = description, state, dtype, xp
        self.prefix = prefix
        self.config = FlowConfig.from_dict(description["config"])

    def member(self) -> _Member:
        events, conditions = (
            tuple(Column(**column) for column in self.description[f"{what}_columns"])
            for what in ("event", "condition")
        )
        domain = self.description["domain"]
        return _Member(
            event_columns=events,
            condition_columns=conditions,
            domain={name: (low, high) for name, (low, high) in domain.items()},
            events=self._standardise("events", events, self.config.coordinates),
            conditions=self._standardise("conditions", conditions, "log"),
            layers=tuple(self._layers(len(events))),
            dtype=self.dtype,
        )

    def _standardise(self, what: str, columns: Sequence[Column], kind: str) -> _Standardise:
        mean, spread = (self.state[f"{self.prefix}{what}.{n}_K"] for n in ("mean", "spread"))
        return _Standardise(
            positive=tuple(column.positive for column in columns),
            pair=_pair(columns),
            total=kind == "log_total",
            turned=kind != "log",
            mean=tuple(float(value) for value in mean),
            spread=tuple(float(value) for value in spread),
        )

    def _layers(self, features: int) -> list[_Layer]:
        layers, place = [], 0
        for block in range(self.config.blocks):
            place += bool(block)
            log_scale_F = shift_F = None
            if self.config.normalise:
                log_scale_F = self._array(f"{place}.log_scale")
                shift_F = self._array(f"{place}.shift")
                place += 1
            conditioner = self._conditioner(f"{place}.autoregressive_net", features)
            place += 1
            layers.append(
                _Layer(
                    config=self.config,
                    conditioner=conditioner,
                    log_scale_F=log_scale_F,
                    shift_F=shift_F,
                )
            )
        return layers

    def _conditioner(self, name: str, features: int) -> _Separate | _Masked:
        layers = self.config.depth + 1
        if self.config.conditioner == "separate":
            each = [f"{name}.networks.{f}" for f in range(features)]
            return _Separate(
                weights=tuple(self._arrays(f"{one}.weight", layers) for one in each),
                biases=tuple(self._arrays(f"{one}.bias", layers) for one in each),
                activation=self.config.activation,
                residual=self.config.residual,
            )
        each = [f"{name}.layers.{number}" for number in range(layers)]
        return _Masked(
            first=tuple(self._arrays(f"{one}.first", features) for one in each),
            weights=tuple(self._arrays(f"{one}.weight", features - 1) for one in each),
            biases=tuple(self._arrays(f"{one}.bias", features) for one in each),
            activation=self.config.activation,
        )

    def _arrays(self, name: str, count: int) -> tuple[Array, ...]:
        return tuple(self._array(f"{name}.{number}") for number in range(count))

    def _array(self, name: str) -> Array:
        stored = self.state[f"{self.prefix}net._transform._transforms.{name}"]
        return self.xp.asarray(stored.astype(self.dtype))


def _pair(columns: Sequence[Column]) -> tuple[int, int] | None:
    """The first two positive columns of one unit; None where there are none."""
    positive = [(k, column.unit) for k, column in enumerate(columns) if column.positive]
    for number, (k, unit) in enumerate(positive):
        for other, its_unit in positive[number + 1 :]:
            if unit and unit == its_unit:
                return k, other
    return None
