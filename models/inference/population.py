"""p(x | w) = sum_k w_k e_k [p(x | c_k) + p(x' | c_k)] / sum_k w_k e_k: an emulator as a population.

Event x' is x with its two masses exchanged: an observer orders a pair by mass, not by which star
was the heavier one. Conditions c_k that are summed over, such as metallicity, have weights w_k and,
where it is known, the merger efficiency e_k. `PopulationModel` is what bilby and gwpopulation call
a model: a hashable callable on dictionaries of arrays that returns a density. It takes an
`Emulator` (numpy in, numpy out), or an `ArrayFlow` (numpy, cupy or JAX, with `jit` and gradients).

The texts of a category, such as formation channels, are mixed with free fractions f_t, of mergers:
p(x | f, c) = sum_t f_t p(x | t, c), each p(x | t, c) a density as above, with its own efficiency.

Array names end in their axes:
    N rows    F event columns    C conditions    K values that are summed over
    T texts of categories that are mixed    S the axes of the data
    M members, each under every rate    R functions that may be the merger efficiency
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from models.arrays.flow import PARTS
from models.bundle.domain import inside, limits_of, texts_of
from models.bundle.efficiency import Efficiency
from models.inference.members import MEMBER, Density, Members
from models.inference.mixture import Mixture, Over, PopulationError
from models.namespaces import Array, Namespace, log_sum, namespace

MASSES = ("Mass_0", "Mass_1")
"""Event columns that are the two masses: of the initially heavier star, and of the other one."""
HARMLESS = 10.0
"""Mass in solar masses that takes the place of an impossible one, whose density is 0 anyway."""


class PopulationModel:
    """p(mass_1, mass_2 | conditions), or p(mass_1, mass_ratio | conditions), mass_1 the heavier.

    The emulator knows which black hole comes from the initially heavier star, an observer does
    not: both ways round are added. It is hashed by identity and keeps no state. bilby's
    cache looks at the parameters alone, not at the data: give its `Model` `cache=False` if the
    model is called on more than one dataset, and always under `jax.jit`.

    A category that is not summed over is mixed: the fractions of all its texts but the last are
    parameters, called `channel_CE` for the text CE of `channel`, and the last one is what is left
    to 1. Where a fraction is below 0 the density is 0, so that flat priors of the parameters are
    flat over all mixtures. A call can give all fractions, whose sum must then be 1 to 1e-6 (else
    numpy raises, and the density is 0 under JAX), or one text: `channel="CE"`.

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
        sample_member: bool = False,
    ) -> None:
        """Make a model of an emulator.

        Args:
            emulator: An `Emulator` or `ArrayFlow`, or a sequence of them, which are then the
                members of an ensemble.
            second: The quantity beside mass_1 whose density it is; the key that is read.
            masses: Event columns that are the two masses. Any other event column is read from
                the data under its own name; a value at one of its atoms counts by its probability.
            over: Conditions that are not parameters but summed over, such as the metallicity of
                the progenitors: `{"Z": (values, weights)}`; weights are scaled to a sum of 1. Of a
                category the values are texts: `{"channel": (["CE", "SMT"], [1, 1])}`.
            efficiency: Of the emulator. With it, the weights w of `over` are of what is formed, in
                binaries or Msun, and each counts by the mergers e that come of it: the density is
                `sum_k w_k e_k p(x | c_k) / sum_k w_k e_k`. Without it, weights are of mergers.
                Free fractions are of mergers with and without it. The error of e is that of
                functions drawn from its posterior: each makes a member of its own of a flow.
            extrapolate: Whether conditions outside the domain, or far from all rows where they are
                scattered, of which the emulator knows nothing, are evaluated nevertheless;
                otherwise the density there is 0.
            sample_member: Whether the member of an ensemble is one more parameter, `member`, for
                codes that sample: a number from 0 to the number of members, of which the whole
                part counts; the rest chooses a function for the efficiency. Its prior is flat
                there, and the density elsewhere 0. Otherwise the density is the mean of the
                members'.

        Raises:
            PopulationError: If a name is not one of the emulator's, values and weights do not
                make a sum, members do not belong together, or one is to be sampled of a single
                flow.
        """
        self._density = Members(emulator)
        if sample_member and len(self._density.each) == 1:
            raise PopulationError(
                "sample_member draws one flow of an ensemble, and this emulator is a single one: "
                "export an ensemble (hpo export --train-on), or leave sample_member out"
            )
        self.sample_member = sample_member
        self.reliability = self._density.reliability
        """For how many events the emulator is good, as its export measured; None if unknown."""
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
        known = {name: texts_of(self._density.domain[name]) for name in conditions}
        self._mixture = Mixture({k: v for k, v in known.items() if v and k not in (over or {})})
        self._nodes, self._ln_weights_K = self._mixture.summed(
            over or {}, conditions, self._density.domain, extrapolate
        )
        self._numbers = [name for name in conditions if name not in self._nodes]
        if double := set(self._numbers).intersection(self._mixture.names):
            raise PopulationError(
                f"{min(double)!r} is the name of a condition and of a fraction: sum over one of "
                "them, or prepare the data with another name"
            )
        self._choice = [MEMBER] * sample_member
        if MEMBER in self._numbers and sample_member:
            raise PopulationError(
                f"{MEMBER!r} is the name of a condition and of the choice of a member: sum over "
                "the condition, or leave sample_member out"
            )
        self.variable_names = [*self._numbers, *self._mixture.free, *self._choice]
        """Names of the parameters: conditions that are not summed over, fractions, the member."""

    def __call__(self, dataset: Mapping[str, Array], **conditions: Array) -> Array:
        """The density, in the shape of the data; exactly 0 outside the support.

        Args:
            dataset: `mass_1` and `mass_2`, or `mass_ratio`, as arrays of any one shape: source
                frame, solar masses.
            **conditions: One for each of `variable_names`, a number or an array that broadcasts
                to the data; or in place of fractions a text.

        Returns:
            Per solar mass squared, or per solar mass if `second` is the mass ratio, and per unit
            of any other event column.

        Raises:
            PopulationError: If a key or a condition is missing, one is unknown, or all fractions
                of a category are given and their sum is not 1.
        """
        ln_prob = self.ln_prob(dataset, **conditions)
        return namespace(ln_prob).exp(ln_prob)

    def ln_prob(self, dataset: Mapping[str, Array], **conditions: Array) -> Array:
        """The natural logarithm of the density, which gwpopulation prefers; -inf where it is 0."""
        ln_MS = self.ln_prob_of_members(dataset, **conditions)
        if len(ln_MS) == 1:
            return ln_MS[0]
        return log_sum(namespace(ln_MS), ln_MS, axis=0) - math.log(len(ln_MS))

    def ln_prob_of_members(self, dataset: Mapping[str, Array], **conditions: Array) -> Array:
        """That of each member, `(M, *S)`; of the one that is chosen where `member` is a parameter.

        The error of an emulator is common to all events, so that a likelihood is averaged over
        members when it is that of the whole catalogue: `CatalogLikelihood` does so.
        """
        wanted = ("mass_1", self.second, *self._others)
        if missing := [name for name in wanted if name not in dataset]:
            raise PopulationError(
                f"the data has no {', '.join(missing)}, only {', '.join(map(str, dataset))}: "
                "give it, or choose another `second`"
            )
        read = [dataset[name] for name in wanted]
        xp = namespace(*read, *conditions.values())
        parameters = self._parameters(xp, conditions)
        given = [xp.asarray(value) for value in (*read, *parameters)]
        shape = np.broadcast_shapes(*(value.shape for value in given))
        if 0 in shape:
            return xp.zeros((1 if self.sample_member else len(self._density.each), *shape))
        # A number stays one row: all that depends on conditions alone is worked out once.
        rows = [shape if k < len(read) or v.ndim else (1,) for k, v in enumerate(given)]
        given_N = [xp.broadcast_to(*pair).reshape(-1) for pair in zip(given, rows, strict=True)]
        ln_MN = self._ln_prob_in_parts(xp, given_N)
        return ln_MN.reshape(len(ln_MN), *shape)

    def efficiency(self, **conditions: Array) -> Array:
        """Mergers per binary, or per Msun, that is formed: the mean over what is summed over.

        `conditions` are numbers, or arrays of one shape, one for each of `variable_names`, and a
        text of every category that is not summed over: fractions of mergers do not tell what was
        formed. The efficiency has their shape and is 0 outside the domain, as the density.

        Raises:
            PopulationError: If the model was made without `efficiency`, or a condition is missing
                or unknown.
        """
        return self._formed(conditions, draws=False)[0]

    def efficiencies(self, **conditions: Array) -> Array:
        """That of each function that may be the efficiency, and of each member: `(R, M, *S)`.

        M are the members of `ln_prob_of_members`, and R functions for each of them: a single one
        where the density of the member goes with it, since metallicities are summed over.

        Raises:
            PopulationError: As `efficiency`.
        """
        rates_RS, members = self._formed(conditions, draws=True), len(self._density.each)
        xp = namespace(rates_RS)
        if self._efficiency_counts:
            rates_RS = xp.concatenate([rates_RS] * members)[None]
        else:
            rates_RS = xp.stack([rates_RS] * members, 1)
        if not self.sample_member:
            return rates_RS
        member = xp.asarray(conditions[MEMBER])
        per = rates_RS.shape[1] // members
        row = (xp.clip(member, 0, members - 1e-9) * per).astype(int)
        row = xp.broadcast_to(row, rates_RS.shape[2:])[None, None]
        return xp.take_along_axis(rates_RS, row, axis=1)

    def _formed(self, conditions: Mapping[str, Array], *, draws: bool) -> Array:
        """The mean efficiency, or that of each function that may be it, `(R, *S)`."""
        if self._efficiency is None:
            raise PopulationError(
                "this model knows no merger efficiency: make it with "
                "PopulationModel(emulator, efficiency=emulator.efficiency)"
            )
        for name, texts in self._mixture.texts.items():
            if name not in conditions:
                raise PopulationError(
                    f"an efficiency is of one {name}: give {name}={texts[0]!r} or another of "
                    f"{', '.join(texts)}, or sum over it with over={{{name!r}: (texts, weights)}}"
                )
        xp = namespace(*conditions.values())
        parameters = self._parameters(xp, conditions)
        given = xp.broadcast_arrays(*map(xp.asarray, parameters)) if parameters else []
        if given and 0 in given[0].shape:
            return xp.zeros((1, *given[0].shape))
        c_KNC, known_N, ln_fraction_TN = self._conditions(xp, [v.reshape(-1) for v in given])
        of = self._efficiency
        ln_RKN = of.log_rates(c_KNC, xp=xp) if draws else of.log_rate(c_KNC, xp=xp)[None]
        ln_RKN = ln_RKN + xp.asarray(self._ln_weights_K)[:, None]
        rows = len(ln_RKN), -1, self._mixture.combinations, ln_RKN.shape[-1]
        ln_RKTN = ln_RKN.reshape(rows) + ln_fraction_TN
        ln_RN = log_sum(xp, ln_RKTN.reshape(len(ln_RKN), -1, ln_RKTN.shape[-1]), axis=1)
        rate_RN = xp.where(known_N, xp.exp(ln_RN), 0.0)
        return rate_RN.reshape(len(rate_RN), *(given[0].shape if given else ()))

    def _ln_prob_in_parts(self, xp: Namespace, given_N: list[Array]) -> Array:
        rows, size = len(given_N[0]), max(256, PARTS // (2 * len(self._ln_weights_K)))
        # Under JAX all at once, since a loop would be compiled part by part.
        if xp is not np or rows <= size:
            return self._ln_prob(xp, given_N)
        parts = [slice(at, at + size) for at in range(0, rows, size)]
        return np.concatenate(
            [self._ln_prob(np, [v if len(v) == 1 else v[p] for v in given_N]) for p in parts],
            axis=1,
        )

    def _ln_prob(self, xp: Namespace, given_N: list[Array]) -> Array:
        """Of each member, or of the one that rows choose, `(M, N)`."""
        members: Sequence[Density] = self._density.each
        index_N: Array = None
        if self.sample_member:
            *given_N, member_N = given_N
            members, index_N = self._density.chosen(xp, member_N)
        columns = len(self._density.event_columns)
        first_N, second_N, *others = given_N[:columns]
        within_N = xp.isfinite(xp.stack(given_N[:columns])).all(0) & (first_N > 0) & (second_N > 0)
        heavier_N = xp.where(within_N, first_N, HARMLESS)
        lighter_N = xp.where(within_N, second_N, 1.0)
        log_jacobian_N: Array = 0.0
        if self.second == "mass_ratio":
            lighter_N, log_jacobian_N = heavier_N * lighter_N, xp.log(heavier_N)
        within_N = within_N & (lighter_N <= heavier_N)
        c_KNC, known_N, ln_fraction_TN = self._conditions(xp, given_N[columns:])
        x_2NF = self._both_ways(xp, heavier_N, lighter_N, others)
        ln_weights_RKN = self._ln_weights_RKN(xp, c_KNC, ln_fraction_TN)
        each = (one.log_density(x_2NF[:, None], c_KNC[None], xp=xp) for one in members)
        draws = len(ln_weights_RKN)
        ln_MN = xp.concatenate(
            [
                log_sum(
                    xp,
                    (ln_2KN + ln_weights_RKN[:, None]).reshape(draws, -1, ln_2KN.shape[-1]),
                    axis=1,
                )
                for ln_2KN in each
            ]
        )
        if index_N is not None:
            known_N = known_N & (index_N >= 0)
            own_N = xp.where(index_N >= 0, member_N, 0.0)
            rest_N = own_N - xp.floor(own_N)
            row_N = xp.maximum(index_N, 0) * draws + (rest_N * draws).astype(int)
            row_N = xp.broadcast_to(row_N, ln_MN.shape[1:])
            ln_MN = xp.take_along_axis(ln_MN, row_N[None], axis=0)
        return xp.where(within_N & known_N, ln_MN + log_jacobian_N, -math.inf)

    def _ln_weights_RKN(self, xp: Namespace, c_KNC: Array, ln_fraction_TN: Array) -> Array:
        """Log weights of a density under all conditions: `(R, K, N or 1)`, K with the texts.

        Under each function that may be the merger efficiency, which is common to all events as
        the error of a member is; where nothing is summed over it makes no difference.
        """
        ln_RKN, summed = xp.asarray(self._ln_weights_K)[None, :, None], self._efficiency_counts
        if self._efficiency is not None and summed:
            ln_RKN = ln_RKN + self._efficiency.log_rates(c_KNC, xp=xp)
        draws, rows = len(ln_RKN), ln_RKN.shape[-1]
        ln_RKTN = ln_RKN.reshape(draws, -1, self._mixture.combinations, rows)
        if summed:
            ln_RKTN = ln_RKTN - log_sum(xp, ln_RKTN, axis=1)[:, None]
        ln_RKTN = ln_RKTN + ln_fraction_TN
        return ln_RKTN.reshape(draws, -1, ln_RKTN.shape[-1])

    @property
    def _efficiency_counts(self) -> bool:
        """Whether the density depends on the efficiency: whether anything is summed over."""
        return self._efficiency is not None and (
            len(self._ln_weights_K) > self._mixture.combinations
        )

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

    def _conditions(self, xp: Namespace, given_N: list[Array]) -> tuple[Array, Array, Array]:
        """Conditions `(K, N or 1, C)`, where the emulator knows them, and logs of fractions."""
        free_N = dict(zip(self._numbers, given_N, strict=False))
        ln_fraction_TN, known_N = self._mixture.logs(xp, given_N[len(self._numbers) :])
        columns = []
        for column in self._density.condition_supports:
            name = column.name
            if name in self._nodes:
                columns.append(xp.asarray(self._nodes[name])[:, None])
                continue
            low, high = limits_of(self._density.domain[name])
            value_N = free_N[name]
            its_own_N = xp.isfinite(value_N) & column.holds(value_N)
            if not self.extrapolate:
                its_own_N = its_own_N & inside(value_N, (low, high))
            known_N = known_N & its_own_N
            columns.append(xp.where(its_own_N, value_N, low)[None])
        if not columns:
            return xp.zeros((1, 1, 0)), known_N, ln_fraction_TN
        shape = np.broadcast_shapes((len(self._ln_weights_K), 1), *(v.shape for v in columns))
        c_KNC = xp.stack([xp.broadcast_to(value, shape) for value in columns], -1)
        regions = self._density.regions
        if regions is not None and not self.extrapolate:
            # A sum is known if all of its terms are that count.
            near_KN = regions.near(xp, c_KNC)
            near_KTN = near_KN.reshape(-1, len(ln_fraction_TN), near_KN.shape[-1])
            known_N = known_N & (near_KTN | ~xp.isfinite(ln_fraction_TN)).all((0, 1))
        return c_KNC, known_N, ln_fraction_TN

    def _parameters(self, xp: Namespace, conditions: Mapping[str, Array]) -> list[Array]:
        """The conditions that are numbers, then the fractions of all texts."""
        given, wanted = (
            self._mixture.complete(xp, conditions),
            [
                *self._numbers,
                *self._mixture.names,
                *self._choice,
            ],
        )
        if set(given) != set(wanted):
            raise PopulationError(
                f"the parameters are {', '.join(self.variable_names) or 'none'}, "
                f"got {', '.join(conditions) or 'none'}"
            )
        return [given[name] for name in wanted]
