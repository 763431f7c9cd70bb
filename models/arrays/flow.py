"""`ArrayFlow`: an exported flow in plain array operations, for codes that bring no torch.

Reads a bundle's `emulator.json` and `weights.safetensors` and works out densities and draws with
what numpy, cupy and JAX have in common: under JAX it compiles (`jax.jit`) and has gradients in
events and conditions, at the edges of the support too. Its numbers are those of
`models/flow`, which explains them: to 1e-5 in float32, 1e-10 in float64. No import of this module
needs torch.

`xp` is the array library, `numpy`, `cupy` or `jax.numpy`. Array names end in their axes:
    F event columns    C conditions    P parameters of one feature    H hidden units
    S any axes of events and conditions, broadcast    K bins of a spline
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes

from data_prep.columns import Column, pair_of, single
from models.arrays.layers import Layer, Masked, Separate, Standardise, erf
from models.bounds import intervals
from models.bundle import domain
from models.bundle.domain import Extrapolation, Floats
from models.bundle.efficiency import Efficiency
from models.bundle.files import misfit, read
from models.config import FlowConfig
from models.layout import CHOOSER, FLOWS, NET, Layout, below, check_values, inputs_of, members_of
from models.namespaces import Array, Namespace, log_sum, namespace
from models.patterns import is_of, left

Precision = Literal["float32", "float64"]
PARTS = 16_384
"""Rows that go through a flow together under numpy: their hidden units stay in the cache."""


class ArrayFlow:
    """p(events | conditions) in physical units, of one flow or of an ensemble.

    Example:
        >>> flow = ArrayFlow.load("emulator/")
        >>> flow.log_prob([[9.0, 8.0], [20.0, 21.0]], Z=0.001, alpha=1.0).shape
        (2,)
        >>> jax.grad(lambda c: flow.log_density(x, c).sum())(jnp.array([0.001, 1.0]))
    """

    def __init__(self, members: Sequence[_Member | _Mixed]) -> None:
        """Args: flows of the same columns, an ensemble with equal weights."""
        self._members = tuple(members)
        self._card: dict[str, Any] = {}
        first = self._members[0]
        self.event_columns = tuple(column.name for column in first.layout.event_columns)
        """Names of the columns of an event, in order."""
        self.condition_columns = tuple(column.name for column in first.layout.condition_columns)
        """Names of the conditions, in order."""
        self.event_supports = first.layout.event_columns
        """The columns of an event, with where their values lie."""
        self.condition_supports = first.layout.condition_columns
        """Those of the conditions."""
        self.pair = pair_of(first.layout.event_columns)
        """Which two event columns are of one unit, such as two masses; None for none."""
        self._domain = domain.common([member.layout.domain for member in self._members])
        self.domain = domain.told(self.condition_supports, self._domain)
        """Range of each condition in the data; of a category its texts."""
        self.regions = domain.Regions.common(
            [member.layout.regions for member in self._members], self.condition_supports
        )
        """Where rows are near, of scattered conditions; None where the range is all."""
        self.noise_columns = first.noise_columns + (len(self._members) > 1)
        """Numbers that an event is made of; the last one of an ensemble chooses the member."""

    @classmethod
    def load(cls, folder: Path | str, *, dtype: Precision = "float64", xp: Namespace = np) -> Self:
        """The flow of a bundle, its weights compared with their sha256.

        Args:
            folder: An emulator bundle, as `hpo export` writes it.
            dtype: Of everything that is worked out. JAX has float64 only if it is asked to
                (`jax.config.update("jax_enable_x64", True)`), and float32 otherwise; on a GPU
                it may multiply matrices of float32 with fewer digits, unless
                `jax_default_matmul_precision` is "highest".
            xp: Where the weights are kept. `cupy` puts them on the GPU once and for all.

        Raises:
            EmulatorError: If the folder is no bundle, is of a newer format, or its weights are
                missing or changed.
        """
        folder = Path(folder)
        card, content = read(folder, whole=False)
        try:
            state = from_bytes(content)
            flow = cls.from_description(card["architecture"], state, dtype=dtype, xp=xp)
            check_values(state)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise misfit(folder, error) from error
        flow._card = card
        return flow

    @cached_property
    def efficiency(self) -> Efficiency:
        """Mergers per simulated binary or Msun, by numpy, as `Emulator.efficiency`."""
        return Efficiency.from_card(self._card, self.condition_supports)

    @classmethod
    def from_description(
        cls,
        description: Mapping[str, Any],
        state: Mapping[str, NDArray[Any]],
        *,
        dtype: Precision = "float64",
        xp: Namespace = np,
    ) -> Self:
        """The flow of a torch module's `describe()` and its state dict as numpy arrays.

        Raises KeyError, TypeError or ValueError if the two do not belong together.
        """
        each = members_of(description, state)
        return cls([_one(*one, np.dtype(dtype), xp) for one in each])

    def log_prob(
        self,
        events: ArrayLike,
        *,
        on_extrapolation: Extrapolation = "warn",
        **conditions: ArrayLike,
    ) -> Floats:
        """Natural-log density of events by numpy, with the arguments of `Emulator.log_prob`.

        For JAX and cupy, and inside `jax.jit`, use `log_density`.

        Raises:
            EmulatorError: If events are of another shape, or a condition is missing, unknown,
                not finite, none of its categories or of a wrong length, or outside the domain
                under "raise".
        """
        x_NF = np.asarray(events)
        domain.check_shape(self.event_columns, x_NF)
        c_NC = domain.conditions(
            self.condition_supports,
            self._domain,
            conditions,
            len(x_NF),
            on_extrapolation,
            self.regions,
        )
        return in_parts(lambda x, c: self.log_density(x, c, xp=np), x_NF, c_NC)

    def log_density(self, x: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        """Natural-log density: nothing but array operations, to be compiled and differentiated.

        Args:
            x: Events, shape `(*S, F)`, in the units of the event columns.
            c: Conditions, shape `(*S, C)` or one that broadcasts to it, in the order of
                `condition_columns`; a category by the place of its text in `domain`. Functions of
                conditions alone are worked out in the shape of `c`: one row for all events is
                cheaper than one for each.
            xp: The array library; by default that of `x` and `c`.

        Returns:
            Shape `S`; -inf outside the support, where gradients are 0. The domain is not checked.
        """
        xp = xp or namespace(x, c)
        each = [member.log_density(xp, x, c) for member in self._members]
        if len(each) == 1:
            return each[0]
        return log_sum(xp, xp.stack(each), axis=0) - math.log(len(each))

    def from_noise(self, noise: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        """The events, shape `(*S, F)`, that the flow makes of standard normal noise.

        Args:
            noise: Shape `(*S, noise_columns)`.
            c: Conditions, as for `log_density`.
            xp: The array library; by default that of `noise` and `c`.
        """
        xp = xp or namespace(noise, c)
        own = noise[..., : self._members[0].noise_columns]
        each = [member.from_noise(xp, own, c) for member in self._members]
        out = each[0]
        for k, other in enumerate(each[1:], start=1):
            edge = NormalDist().inv_cdf(k / len(each))
            out = xp.where(noise[..., -1:] > edge, other, out)
        return out


def in_parts(function: Any, x_NF: NDArray[Any], c_NC: NDArray[Any], rows: int = PARTS) -> Floats:
    """`function(x, c)` of rows, so many at a time; `c_NC` has a row for each or one for all."""
    out_N = np.empty(len(x_NF))
    for at in range(0, len(x_NF), rows):
        part = slice(at, at + rows)
        out_N[part] = function(x_NF[part], c_NC if len(c_NC) == 1 else c_NC[part])
    return out_N


@dataclass(frozen=True, kw_only=True, slots=True)
class _One:
    """What a flow has, with or without atoms."""

    layout: Layout
    conditions: Standardise
    dtype: np.dtype[Any]

    def _columns(self, xp: Namespace, x: Array, c: Array) -> tuple[list[Array], Array]:
        """Columns of both, with as many axes; conditions standardised and stacked, `(C, *S)`."""
        x, c = (_as(xp, array, self.dtype) for array in (x, c))
        axes = max(x.ndim, c.ndim)
        x, c = (array.reshape((1,) * (axes - array.ndim) + array.shape) for array in (x, c))
        columns = [x[..., f] for f in range(x.shape[-1])]
        given = [c[..., k] for k in range(len(self.layout.condition_columns))]
        if not given:
            return columns, _as(xp, xp.zeros((0,) + (1,) * (axes - 1)), self.dtype)
        return columns, xp.stack(self.conditions.forward(xp, given)[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member(_One):
    """One flow."""

    events: Standardise
    layers: tuple[Layer, ...]

    @property
    def noise_columns(self) -> int:
        return len(self.layout.event_columns)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mixed(_One):
    """The flows of the patterns of columns with atoms: `models/flow/atoms.py`."""

    chooser: Separate
    parts: Mapping[int, _Member]

    @property
    def noise_columns(self) -> int:
        return len(self.layout.event_columns) + 1

    def log_density(self, xp: Namespace, x: Array, c: Array) -> Array:
        x_F, c_CS = self._columns(xp, x, c)
        singles, ln_KS = [value.astype("float32") for value in x_F], self._ln(xp, c_CS)
        out: Array = -math.inf
        for k, pattern in enumerate(self.layout.patterns):
            ln, rest = ln_KS[k], [x_F[f] for f in left(pattern)]
            if rest:
                ln = ln + self.parts[k].log_density(xp, xp.stack(rest, -1), c)
            here = is_of(pattern, self.layout.event_columns, singles)
            out = xp.where(here, ln, out)
        return out

    def from_noise(self, xp: Namespace, noise: Array, c: Array) -> Array:
        (*noise_F, chosen), c_CS = self._columns(xp, noise, c)
        u, edges_KS = 0.5 * (1 + erf(xp, chosen * 0.5**0.5)), xp.exp(self._ln(xp, c_CS)).cumsum(0)
        out: Array = None
        for k, pattern in enumerate(self.layout.patterns):
            event = [xp.zeros_like(chosen) + single(atom or 0.0) for atom in pattern]
            if rest := left(pattern):
                drawn = self.parts[k].from_noise(xp, xp.stack([noise_F[f] for f in rest], -1), c)
                for number, f in enumerate(rest):
                    event[f] = drawn[..., number]
            event_F = xp.stack(xp.broadcast_arrays(*event), -1)
            out = event_F if k == 0 else xp.where((u > edges_KS[k - 1])[..., None], event_F, out)
        return out

    def _ln(self, xp: Namespace, c_CS: Array) -> Array:
        """Natural logarithm of the patterns' probabilities, `(K, *S)`."""
        raw_KS = self.chooser.group(xp, c_CS, [], [])
        return raw_KS - log_sum(xp, raw_KS, axis=0)


def _as(xp: Namespace, array: Array, dtype: np.dtype[Any]) -> Array:
    array = xp.asarray(array)
    # JAX without 64 bits has no float64, and warns if asked for it.
    wanted = xp.zeros(0).dtype if dtype == np.float64 else dtype
    return array if array.dtype == wanted else array.astype(wanted)


def _one(
    description: Mapping[str, Any],
    state: Mapping[str, NDArray[Any]],
    dtype: np.dtype[Any],
    xp: Namespace,
) -> _Member | _Mixed:
    """The flow of one description and state dict."""
    layout = Layout.of(description)
    layout.check(state)
    weights = _Weights(state, dtype, xp)
    if not layout.patterns:
        return weights.member(layout)
    return _Mixed(
        layout=layout,
        conditions=weights.standardise("conditions", layout.condition_columns, None),
        dtype=dtype,
        chooser=weights.networks([CHOOSER], layout.config),
        parts={
            k: _Weights(below(state, f"{FLOWS}.{k}."), dtype, xp).member(part)
            for k, part in layout.parts().items()
        },
    )


@dataclass(frozen=True, slots=True)
class _Weights:
    """A state dict, and of what its arrays are made."""

    state: Mapping[str, NDArray[Any]]
    dtype: np.dtype[Any]
    xp: Namespace

    def member(self, layout: Layout) -> _Member:
        """A flow without atoms."""
        config, layers, place = layout.config, [], 0
        for block in range(config.blocks):
            # Between two layers stands the reversal of the features.
            place += bool(block)
            scale = None
            if config.normalise:
                scale = (
                    self._array(f"{NET}.{place}.log_scale"),
                    self._array(f"{NET}.{place}.shift"),
                )
                place += 1
            name = f"{NET}.{place}.autoregressive_net"
            layers.append(Layer(config, self._conditioner(name, layout), scale))
            place += 1
        return _Member(
            layout=layout,
            conditions=self.standardise("conditions", layout.condition_columns, None),
            dtype=self.dtype,
            events=self.standardise("events", layout.event_columns, config.coordinates),
            layers=tuple(layers),
        )

    def standardise(self, what: str, columns: Sequence[Column], kind: str | None) -> Standardise:
        return Standardise(
            positive=tuple(column.positive for column in inputs_of(columns)),
            bounded={} if kind is None else intervals(columns),
            pair=pair_of(columns),
            total=kind == "log_total",
            turned=kind not in (None, "log"),
            mean=tuple(map(float, self.state[f"{what}.mean_K"])),
            spread=tuple(map(float, self.state[f"{what}.spread_K"])),
            texts={k: len(one.categories) for k, one in enumerate(columns) if one.categories},
        )

    def networks(self, names: Sequence[str], config: FlowConfig) -> Separate:
        """Of each feature, by the name of its weights."""
        layers = config.depth + 1
        return Separate(
            weights=tuple(self._arrays(f"{one}.weight", layers) for one in names),
            biases=tuple(self._arrays(f"{one}.bias", layers) for one in names),
            activation=config.activation,
            residual=config.residual,
        )

    def _conditioner(self, name: str, layout: Layout) -> Separate | Masked:
        config, features = layout.config, len(layout.event_columns)
        if config.conditioner == "separate":
            return self.networks([f"{name}.networks.{f}" for f in range(features)], config)
        each = [f"{name}.layers.{number}" for number in range(config.depth + 1)]
        return Masked(
            first=tuple(self._arrays(f"{one}.first", features) for one in each),
            weights=tuple(self._arrays(f"{one}.weight", features - 1) for one in each),
            biases=tuple(self._arrays(f"{one}.bias", features) for one in each),
            activation=config.activation,
        )

    def _array(self, name: str) -> Array:
        return self.xp.asarray(self.state[name].astype(self.dtype))

    def _arrays(self, name: str, count: int) -> tuple[Array, ...]:
        return tuple(self._array(f"{name}.{number}") for number in range(count))
