"""One flow in array operations, without or with atoms, as `ArrayFlow` is made of.

`xp` is the array library. Array names end in their axes:
    F event columns    C conditions    K patterns
    S any axes of events and conditions, broadcast
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import Column, pair_of, single
from models import boxes
from models.arrays.layers import Layer, Masked, Mixture, Separate, Standardise, erf
from models.bounds import intervals
from models.config import FlowConfig
from models.layout import BASE, CHOOSER, FLOWS, NET, Layout, below, inputs_of
from models.namespaces import Array, Namespace, log_sum
from models.patterns import is_of, left


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
class Member(_One):
    """One flow."""

    events: Standardise
    layers: tuple[Layer, ...]
    base: Mixture | None

    @property
    def noise_columns(self) -> int:
        return len(self.layout.event_columns) + (self.base is not None)

    def log_density(self, xp: Namespace, x: Array, c: Array) -> Array:
        columns, c_CS = self._columns(xp, x, c)
        y, log_det, within = self.events.forward(xp, columns)
        for number, layer in enumerate(self.layers):
            # The features in reverse order from layer to layer.
            y, its_log_det = layer.forward(xp, y[::-1] if number else y, c_CS)
            log_det = log_det + its_log_det
        if self.base is None:
            constant = 0.5 * len(y) * math.log(2 * math.pi)
            log_prob = log_det - 0.5 * sum(z * z for z in y) - constant
        else:
            log_prob = log_det + self.base.log_density(xp, y, c_CS)
        return xp.where(within, log_prob, -math.inf)

    def from_noise(self, xp: Namespace, noise: Array, c: Array) -> Array:
        y, c_CS = self._columns(xp, noise, c)
        if self.base is not None:
            y = self.base.from_noise(xp, y, c_CS)
        for number, layer in reversed(list(enumerate(self.layers))):
            y = layer.inverse(xp, y, c_CS)
            y = y[::-1] if number else y
        return xp.stack(xp.broadcast_arrays(*self.events.inverse(xp, y)), -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixed(_One):
    """The flows of the patterns of columns with atoms: `models/flow/atoms.py`."""

    chooser: Separate
    parts: Mapping[int, Member]

    @property
    def noise_columns(self) -> int:
        return len(self.layout.event_columns) + 1 + (self.layout.config.base == "mixture")

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
                own = [noise_F[f] for f in (*rest, *range(len(pattern), len(noise_F)))]
                drawn = self.parts[k].from_noise(xp, xp.stack(own, -1), c)
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


def one(
    description: Mapping[str, Any],
    state: Mapping[str, NDArray[Any]],
    dtype: np.dtype[Any],
    xp: Namespace,
) -> Member | Mixed:
    """The flow of one description and state dict."""
    layout = Layout.of(description)
    layout.check(state)
    weights = _Weights(state, dtype, xp)
    if not layout.patterns:
        return weights.member(layout)
    return Mixed(
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

    def member(self, layout: Layout) -> Member:
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
        return Member(
            layout=layout,
            conditions=self.standardise("conditions", layout.condition_columns, None),
            dtype=self.dtype,
            events=self.standardise("events", layout.event_columns, config.coordinates),
            layers=tuple(layers),
            base=self._base(config),
        )

    def _base(self, config: FlowConfig) -> Mixture | None:
        if config.base == "normal":
            return None
        network = self.networks([BASE], config.of_base)
        return Mixture(network, config.components, boxes.limits(config.smallest_width))

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
