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
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes

from data_prep.columns import pair_of
from models.arrays.members import Member, Mixed, one
from models.bounds import or_nan
from models.bundle import domain
from models.bundle.domain import Extrapolation, Floats
from models.bundle.efficiency import Efficiency
from models.bundle.files import misfit, read
from models.bundle.reliability import Reliability
from models.layout import (
    check_values,
    members_of,
)
from models.namespaces import Array, Namespace, log_sum, namespace

Precision = Literal["float32", "float64"]
PARTS = 2_048
"""Rows that go through a flow together under numpy: their hidden units stay in the cache."""


class ArrayFlow:
    """p(events | conditions) in physical units, of one flow or of an ensemble.

    Example:
        >>> flow = ArrayFlow.load("emulator/")
        >>> flow.log_prob([[9.0, 8.0], [20.0, 21.0]], Z=0.001, alpha=1.0).shape
        (2,)
        >>> jax.grad(lambda c: flow.log_density(x, c).sum())(jnp.array([0.001, 1.0]))
    """

    def __init__(self, members: Sequence[Member | Mixed]) -> None:
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

    @property
    def members(self) -> tuple[Self, ...]:
        """Each flow of an ensemble by itself; a single flow is its own only member."""
        if len(self._members) == 1:
            return (self,)
        return tuple(type(self)([one]) for one in self._members)

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

    @cached_property
    def reliability(self) -> Reliability | None:
        """As `Emulator.reliability`; None of a single member of an ensemble."""
        return Reliability.from_card(self._card)

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
        return cls([one(*pair, np.dtype(dtype), xp) for pair in each])

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
            EmulatorError: As `Emulator.log_prob`.
        """
        x_NF = domain.events(self.event_columns, events)
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
            Shape `S`; -inf outside the support, where gradients are 0, and NaN where conditions
            cannot be at all, such as a metallicity of 0. The domain is not checked.
        """
        xp = xp or namespace(x, c)
        c = xp.asarray(c)
        each = [member.log_density(xp, x, c) for member in self._members]
        ln = each[0]
        if len(each) > 1:
            ln = log_sum(xp, xp.stack(each), axis=0) - math.log(len(each))
        return or_nan(xp, ln, self.condition_supports, c)

    def from_noise(self, noise: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        """The events, shape `(*S, F)`, that the flow makes of standard normal noise.

        Args:
            noise: Shape `(*S, noise_columns)`.
            c: Conditions, as for `log_density`.
            xp: The array library; by default that of `noise` and `c`.

        NaN where conditions cannot be at all.
        """
        xp = xp or namespace(noise, c)
        c = xp.asarray(c)
        own = noise[..., : self._members[0].noise_columns]
        each = [member.from_noise(xp, own, c) for member in self._members]
        out = each[0]
        for k, other in enumerate(each[1:], start=1):
            edge = NormalDist().inv_cdf(k / len(each))
            out = xp.where(noise[..., -1:] > edge, other, out)
        return or_nan(xp, out, self.condition_supports, c[..., None, :])


def in_parts(function: Any, x_NF: NDArray[Any], c_NC: NDArray[Any], rows: int = PARTS) -> Floats:
    """`function(x, c)` of rows, so many at a time; `c_NC` has a row for each or one for all."""
    out_N = np.empty(len(x_NF))
    for at in range(0, len(x_NF), rows):
        part = slice(at, at + rows)
        out_N[part] = function(x_NF[part], c_NC if len(c_NC) == 1 else c_NC[part])
    return out_N
