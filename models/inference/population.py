"""p(x | w) = sum_k w_k e_k [p(x | c_k) + p(x' | c_k)] / sum_k w_k e_k: an emulator as a population.

Event x' is x with its two masses exchanged: an observer orders a pair by mass, not by which star
was the heavier one. Conditions c_k that are summed over, such as metallicity, have weights w_k and,
where it is known, the merger efficiency e_k. `PopulationModel` is what bilby and gwpopulation call
a model: a hashable callable on dictionaries of arrays that returns a density. It takes an
`Emulator` (numpy in, numpy out), or an `ArrayFlow` or `Table` (numpy, cupy or JAX, with `jit` and
gradients).

Array names end in their axes:
    N rows    F event columns    C conditions    K values that are summed over
    S the axes of the data
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from data_prep.errors import InputError
from models.arrays.flow import PARTS, ArrayFlow
from models.arrays.table import Table
from models.bundle.domain import Floats, Regions, inside
from models.bundle.efficiency import Efficiency
from models.namespaces import Array, Namespace, log_sum, namespace

MASSES = ("Mass_0", "Mass_1")
"""Event columns that are the two masses: of the initially heavier star, and of the other one."""
HARMLESS = 10.0
"""Mass in solar masses that takes the place of an impossible one, whose density is 0 anyway."""
Over = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""Conditions that are summed over: values and weights of each."""


class PopulationError(InputError):
    """A model or a catalogue that cannot be used. The message is one sentence with the remedy."""


class PopulationModel:
    """p(mass_1, mass_2 | conditions), or p(mass_1, mass_ratio | conditions), mass_1 the heavier.

    The emulator knows which black hole comes from the initially heavier star, an observer does
    not: both ways round are added. It is hashed by identity and keeps no state. bilby's
    cache looks at the parameters alone, not at the data: give its `Model` `cache=False` if the
    model is called on more than one dataset, and always under `jax.jit`.

    Example:
        >>> model = PopulationModel(ArrayFlow.load("emulator/"), second="mass_ratio")
        >>> model.variable_names
        ['Z', 'alpha']
        >>> density = model({"mass_1": m1, "mass_ratio": q}, Z=0.001, alpha=1.0)
        >>> density.shape == m1.shape
        True
    """

    def __init__(
        self,
        emulator: Any,
        *,
        second: Literal["mass_2", "mass_ratio"] = "mass_2",
        masses: tuple[str, str] = MASSES,
        over: Over | None = None,
        efficiency: Efficiency | None = None,
        extrapolate: bool = False,
    ) -> None:
        """Make a model of an emulator.

        Args:
            emulator: An `Emulator`, `ArrayFlow` or `Table`.
            second: The quantity beside mass_1 whose density it is; the key that is read.
            masses: Event columns that are the two masses. Any other event column is read from
                the data under its own name.
            over: Conditions that are not parameters but summed over, such as the metallicity of
                the progenitors: `{"Z": (values, weights)}`; weights are scaled to a sum of 1.
            efficiency: Of the emulator. With it, the weights w of `over` are of what is formed, in
                binaries or Msun, and each counts by the mergers e that come of it: the density is
                `sum_k w_k e_k p(x | c_k) / sum_k w_k e_k`. Without it, weights are of mergers.
            extrapolate: Whether conditions outside the domain, or far from all rows where they are
                scattered, of which the emulator knows nothing, are evaluated nevertheless;
                otherwise the density there is 0.

        Raises:
            PopulationError: If a name is not one of the emulator's, or values and weights do not
                make a sum.
        """
        self._density: ArrayFlow | Table | _ByTorch = (
            emulator if hasattr(emulator, "log_density") else _ByTorch(emulator)
        )
        self._efficiency = efficiency
        conditions = self._density.condition_columns
        if efficiency and tuple(column.name for column in efficiency.columns) != conditions:
            raise PopulationError(
                f"efficiency is of other conditions than the emulator's, {', '.join(conditions)}: "
                "give that of the same emulator"
            )
        if second not in ("mass_2", "mass_ratio"):
            raise PopulationError(f"second must be mass_2 or mass_ratio, got {second!r}")
        columns = self._density.event_columns
        if len(set(masses)) != 2 or not set(masses) <= set(columns):
            raise PopulationError(
                f"masses must be two of the emulator's event columns, {', '.join(columns)}, "
                f"got {', '.join(masses)}"
            )
        self.second, self.masses, self.extrapolate = second, tuple(masses), extrapolate
        self._others = [name for name in columns if name not in masses]
        self._nodes, self._ln_weights_K = self._sum(over or {})
        self.variable_names = [name for name in conditions if name not in self._nodes]
        """Names of the parameters: the conditions that are not summed over."""

    def __call__(self, dataset: Mapping[str, Array], **conditions: Array) -> Array:
        """The density, in the shape of the data; exactly 0 outside the support.

        Args:
            dataset: `mass_1` and `mass_2`, or `mass_ratio`, as arrays of any one shape: source
                frame, solar masses.
            **conditions: One for each of `variable_names`, a number or an array that broadcasts
                to the data.

        Returns:
            Per solar mass squared, or per solar mass if `second` is the mass ratio, and per unit
            of any other event column.

        Raises:
            PopulationError: If a key or a condition is missing, or one is unknown.
        """
        ln_prob = self.ln_prob(dataset, **conditions)
        return namespace(ln_prob).exp(ln_prob)

    def ln_prob(self, dataset: Mapping[str, Array], **conditions: Array) -> Array:
        """The natural logarithm of the density, which gwpopulation prefers; -inf where it is 0."""
        wanted = ("mass_1", self.second, *self._others)
        if missing := [name for name in wanted if name not in dataset]:
            raise PopulationError(
                f"the data has no {', '.join(missing)}, only {', '.join(map(str, dataset))}: "
                "give it, or choose another `second`"
            )
        self._check_conditions(conditions)
        read = [dataset[name] for name in wanted]
        parameters = [conditions[name] for name in self.variable_names]
        xp = namespace(*read, *parameters)
        given = [xp.asarray(value) for value in (*read, *parameters)]
        shape = np.broadcast_shapes(*(value.shape for value in given))
        # A number stays one row: all that depends on conditions alone is worked out once.
        rows = [shape if k < len(read) or v.ndim else (1,) for k, v in enumerate(given)]
        given_N = [xp.broadcast_to(*pair).reshape(-1) for pair in zip(given, rows, strict=True)]
        return self._ln_prob_in_parts(xp, given_N).reshape(shape)

    def efficiency(self, **conditions: Array) -> Array:
        """Mergers per binary, or per Msun, that is formed: the mean over what is summed over.

        `conditions` are numbers, or arrays of one shape, one for each of `variable_names`; the
        efficiency has their shape and is 0 outside the domain, as the density.

        Raises:
            PopulationError: If the model was made without `efficiency`, or a condition is missing
                or unknown.
        """
        if self._efficiency is None:
            raise PopulationError(
                "this model knows no merger efficiency: make it with "
                "PopulationModel(emulator, efficiency=emulator.efficiency)"
            )
        self._check_conditions(conditions)
        xp = namespace(*conditions.values())
        given = xp.broadcast_arrays(*map(xp.asarray, conditions.values())) if conditions else []
        free_N = dict(zip(conditions, (value.reshape(-1) for value in given), strict=True))
        c_KNC, known_N = self._conditions(xp, free_N)
        ln_N = log_sum(xp, self._ln_mergers_KN(xp, c_KNC), axis=0)
        rate_N = xp.where(known_N, xp.exp(ln_N), 0.0)
        return rate_N.reshape(given[0].shape if given else ())

    def _ln_prob_in_parts(self, xp: Namespace, given_N: list[Array]) -> Array:
        rows, size = len(given_N[0]), max(256, PARTS // (2 * len(self._ln_weights_K)))
        # Under JAX all at once, since a loop would be compiled part by part.
        if xp is not np or rows <= size:
            return self._ln_prob(xp, given_N)
        parts = [slice(at, at + size) for at in range(0, rows, size)]
        return np.concatenate(
            [self._ln_prob(np, [v if len(v) == 1 else v[p] for v in given_N]) for p in parts]
        )

    def _ln_prob(self, xp: Namespace, given_N: list[Array]) -> Array:
        columns = len(self._density.event_columns)
        first_N, second_N, *others = given_N[:columns]
        free_N = dict(zip(self.variable_names, given_N[columns:], strict=True))
        within_N = xp.isfinite(xp.stack(given_N[:columns])).all(0) & (first_N > 0) & (second_N > 0)
        heavier_N = xp.where(within_N, first_N, HARMLESS)
        lighter_N = xp.where(within_N, second_N, 1.0)
        log_jacobian_N: Array = 0.0
        if self.second == "mass_ratio":
            lighter_N, log_jacobian_N = heavier_N * lighter_N, xp.log(heavier_N)
        within_N = within_N & (lighter_N <= heavier_N)
        c_KNC, known_N = self._conditions(xp, free_N)
        x_2NF = self._both_ways(xp, heavier_N, lighter_N, others)
        ln_2KN = self._density.log_density(x_2NF[:, None], c_KNC[None], xp=xp)
        ln_weights_KN = self._ln_mergers_KN(xp, c_KNC)
        if self._efficiency is not None:
            ln_weights_KN = ln_weights_KN - log_sum(xp, ln_weights_KN, axis=0)
        ln_N = log_sum(xp, (ln_2KN + ln_weights_KN).reshape(-1, ln_2KN.shape[-1]), axis=0)
        return xp.where(within_N & known_N, ln_N + log_jacobian_N, -math.inf)

    def _ln_mergers_KN(self, xp: Namespace, c_KNC: Array) -> Array:
        """Log weight of each value that is summed over, times its mergers: `(K, N or 1)`."""
        ln_weights_K1 = xp.asarray(self._ln_weights_K)[:, None]
        if self._efficiency is None:
            return ln_weights_K1
        return ln_weights_K1 + self._efficiency.log_rate(c_KNC, xp=xp)

    def _both_ways(
        self, xp: Namespace, heavier_N: Array, lighter_N: Array, others: Sequence[Array]
    ) -> Array:
        """Events with the initially heavier star as the heavier black hole and as the lighter."""
        rest = [xp.where(xp.isfinite(value), value, 1.0) for value in others]
        ways = []
        for pair in ((heavier_N, lighter_N), (lighter_N, heavier_N)):
            columns = dict(zip((*self.masses, *self._others), (*pair, *rest), strict=True))
            ways.append(xp.stack([columns[name] for name in self._density.event_columns], -1))
        return xp.stack(ways)

    def _conditions(self, xp: Namespace, free_N: dict[str, Array]) -> tuple[Array, Array]:
        """Conditions `(K, N or 1, C)`, and where the emulator knows them."""
        known_N: Array = True
        columns = []
        for name in self._density.condition_columns:
            if name in self._nodes:
                columns.append(xp.asarray(self._nodes[name])[:, None])
                continue
            low, high = self._density.domain[name]
            value_N = free_N[name]
            its_own_N = xp.isfinite(value_N)
            if not self.extrapolate:
                its_own_N = its_own_N & inside(value_N, (low, high))
            known_N = known_N & its_own_N
            columns.append(xp.where(its_own_N, value_N, low)[None])
        if not columns:
            return xp.zeros((1, 1, 0)), known_N
        shape = np.broadcast_shapes((len(self._ln_weights_K), 1), *(v.shape for v in columns))
        c_KNC = xp.stack([xp.broadcast_to(value, shape) for value in columns], -1)
        regions = self._density.regions
        if regions is not None and not self.extrapolate:  # a sum is known if all of its terms are
            known_N = known_N & regions.near(xp, c_KNC).all(0)
        return c_KNC, known_N

    def _sum(self, over: Over) -> tuple[dict[str, Any], Any]:
        """Values of every condition that is summed over at all their combinations; log weights."""
        if not over:
            return {}, np.zeros(1)
        names, domain = self._density.condition_columns, self._density.domain
        if unknown := sorted(set(over) - set(names)):
            raise PopulationError(
                f"over names {', '.join(unknown)}, but the emulator's conditions are "
                f"{', '.join(names) or 'none'}"
            )
        terms = [
            _values_and_log_weights(name, *pair, None if self.extrapolate else domain[name])
            for name, pair in over.items()
        ]
        values, logs = (np.meshgrid(*part, indexing="ij") for part in zip(*terms, strict=True))
        nodes = {name: grid.ravel() for name, grid in zip(over, values, strict=True)}
        return nodes, sum(grid.ravel() for grid in logs)

    def _check_conditions(self, conditions: Mapping[str, Array]) -> None:
        if set(conditions) != set(self.variable_names):
            raise PopulationError(
                f"the parameters are {', '.join(self.variable_names) or 'none'}, "
                f"got {', '.join(conditions) or 'none'}"
            )


class _ByTorch:
    """An `Emulator` as a density on numpy arrays."""

    def __init__(self, emulator: Any) -> None:
        self._emulator = emulator
        self.event_columns: tuple[str, ...] = emulator.event_columns
        self.condition_columns: tuple[str, ...] = emulator.condition_columns
        self.domain: dict[str, tuple[float, float]] = emulator.domain
        self.regions: Regions | None = emulator.regions

    def log_density(self, x: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        if (xp or namespace(x, c)) is not np:
            raise PopulationError(
                "an Emulator works on numpy arrays alone: load the bundle with "
                "models.arrays.flow.ArrayFlow for JAX and cupy"
            )
        shape = np.broadcast_shapes(x.shape[:-1], c.shape[:-1])
        # A copy: torch warns of arrays that it may not write to.
        x_NF = np.array(np.broadcast_to(x, (*shape, x.shape[-1]))).reshape(-1, x.shape[-1])
        c = c if math.prod(c.shape[:-1]) == 1 else np.broadcast_to(c, (*shape, c.shape[-1]))
        c_NC = c.reshape(-1, c.shape[-1])
        c_CN = c_NC[0] if len(c_NC) == 1 else c_NC.T
        given = dict(zip(self.condition_columns, c_CN, strict=True))
        return self._emulator.log_prob(x_NF, on_extrapolation="ignore", **given).reshape(shape)


def _values_and_log_weights(
    name: str, values: ArrayLike, weights: ArrayLike, limits: tuple[float, float] | None
) -> tuple[Floats, Floats]:
    """Values of weight above 0, and the logs of their weights, which sum to 1."""
    values_K, weights_K = np.asarray(values, float), np.asarray(weights, float)
    good = values_K.ndim == 1 and values_K.shape == weights_K.shape
    if not good or not (weights_K >= 0).all() or not 0 < weights_K.sum() < math.inf:
        raise PopulationError(
            f"over[{name!r}] must be as many values as weights, the weights at least 0 and not "
            f"all 0, got shapes {values_K.shape} and {weights_K.shape}"
        )
    values_K, weights_K = values_K[weights_K > 0], weights_K[weights_K > 0]
    if limits and not (within_K := inside(values_K, limits)).all():
        raise PopulationError(
            f"over has {name} = {values_K[~within_K][0]:g}, outside the range [{limits[0]:g}, "
            f"{limits[1]:g}] that the emulator was trained on: leave it out, or set "
            "extrapolate=True"
        )
    return values_K, np.log(weights_K / weights_K.sum())
