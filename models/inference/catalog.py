"""ln L = sum_j ln <p(theta | c) / prior(theta)>_j - J ln P_det(c): the likelihood of a catalogue.

The rate, of a prior flat in its logarithm, is marginalised over: Mandel, Farr & Gair (2019). So is
the error of an ensemble's emulator: L is the mean of its members' likelihoods, each of the whole
catalogue, since the error of a member is common to all events.

Array names end in their axes:
    N rows    M members    J events of a catalogue    L posterior samples of one of them
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from models.bundle.reliability import Reliability, ReliabilityWarning, power_of
from models.inference.mixture import PopulationError
from models.namespaces import Array, Namespace, log_sum, namespace

Selection = Callable[[Array], tuple[Array, Array]]
"""What the number of events adds to log-likelihoods at logs of detected fractions, and the
derivatives of log-likelihoods by these; of shapes that count by a power."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A catalogue's log-likelihood, and how well its Monte-Carlo sums are known."""

    log_likelihood: Array
    """In nats, up to a constant; -inf where an event or the detectable population has no weight."""
    variance: Array
    """Of the log-likelihood, from the finite number of posterior samples and injections."""
    detected_fraction: Array
    """Expected fraction of the population's mergers that is detected."""
    effective_injections: Array
    """Effective number of injections: Farr asks for four times the number of events at least."""
    effective_samples_J: Array
    """Effective number of posterior samples of every event."""
    log_likelihood_M: Array
    """Of each member of an ensemble, whose mean in the likelihood is `log_likelihood`. What comes
    before is of the members by their shares in that mean."""


class CatalogLikelihood:
    """The log-likelihood of a catalogue of mergers with selection effects, rate marginalised.

    ln L = sum_j ln <p(theta | conditions) / prior(theta)>_j - J ln P_det(conditions), the averages
    over the posterior samples of event j, and over injections for the detected fraction P_det. Of a
    model of an ensemble, L is the mean over its members, each of which has an equal prior
    probability: what the members disagree in widens the posterior, at no cost beyond that of the
    ensemble's mean density. A model with `sample_member` leaves the mean to the sampler. All of it
    counts by N / (J + N), with N the number of events that the emulator is `worth`: a power
    posterior, as wide as the data and the emulator's error leave it (Holmes & Walker).

    Mandel, Farr & Gair (2019), https://arxiv.org/abs/1809.02063
    Farr (2019), https://arxiv.org/abs/1904.10879 (effective number of injections)
    Essick & Farr (2022), https://arxiv.org/abs/2204.00461 (variance of the sums)
    Hoeting et al. (1999), https://doi.org/10.1214/ss/1009212519 (averages over models)
    Holmes & Walker (2017), https://arxiv.org/abs/1701.08515 (powers of likelihoods)

    Example:
        >>> likelihood = CatalogLikelihood(model, events, injections, drawn=1_000_000)
        >>> emcee.EnsembleSampler(32, len(likelihood.names), likelihood)
        >>> dynesty.NestedSampler(likelihood, prior_transform, len(likelihood.names))
    """

    def __init__(
        self,
        model: Any,
        events: Sequence[Mapping[str, ArrayLike]],
        injections: Mapping[str, ArrayLike],
        *,
        drawn: int,
        largest_variance: float = 1.0,
        worth: float | None = None,
    ) -> None:
        """Put the catalogue and the injections together.

        Args:
            model: A `PopulationModel`, or anything with `ln_prob(dataset, **parameters)` and
                `variable_names`; with `ln_prob_of_members`, an array of one row for each member,
                that takes its place.
            events: Of each event its posterior samples: what the model reads (`mass_1`, ...) and
                `prior`, the density that they were drawn under, per unit of the same quantities.
                Numbers of samples may differ.
            injections: Of the found ones the same, `prior` being the density they were drawn from.
            drawn: Injections that were made, found or not.
            largest_variance: Of the log-likelihood, beyond which it is taken as -inf: there the
                sums are noise, which a sampler would climb. `math.inf` switches that off.
            worth: Number of events N that the emulator is worth; None takes what its export
                measured (`emulator.reliability.worth`), `math.inf` takes it for exact.

        Raises:
            PopulationError: If there is no event, arrays differ in length, a `prior` is missing or
                not positive, fewer injections were drawn than found, or worth is not above 0.

        Warns:
            ReliabilityWarning: If there are more events than the emulator is known to be good for.
        """
        self.model, self.largest_variance, self.drawn = model, largest_variance, int(drawn)
        self.names: list[str] = list(model.variable_names)
        """Parameters, in the order in which `__call__` takes them."""
        if not events:
            raise PopulationError("a catalogue has at least one event, got none")
        tables = [_table(f"event {number}", event) for number, event in enumerate(events)]
        tables.append(_table("the injections", injections))
        reliability: Reliability | None = getattr(model, "reliability", None)
        if reliability and (told := reliability.warning(len(events))):
            # At the line that makes the likelihood, this one or a kind of it.
            level = 2 + (type(self) is not CatalogLikelihood)
            warnings.warn(told, ReliabilityWarning, stacklevel=level)
        if worth is None:
            worth = reliability.worth if reliability else math.inf
        if not worth > 0:
            raise PopulationError(f"worth must be a number of events above 0, got {worth}")
        self.power = power_of(len(events), worth)
        """By which the log-likelihood of masses counts: 1 if the emulator is taken for exact."""
        *lengths, found = (len(table["prior"]) for table in tables)
        if self.drawn < found:
            raise PopulationError(
                f"drawn must count all injections, at least the {found} found ones, got {drawn}"
            )
        shared = set.intersection(*(set(table) for table in tables))
        data = {name: np.concatenate([table[name] for table in tables]) for name in sorted(shared)}
        self._ln_prior_N = np.log(data.pop("prior"))
        self._data, self._samples_J = data, np.array(lengths, float)
        ends_J1, lengths_J1 = np.cumsum(lengths)[:, None], np.array(lengths)[:, None]
        at_L = np.arange(max(lengths))
        self._rows_JL = np.where(at_L < lengths_J1, ends_J1 - lengths_J1 + at_L, -1)
        """Rows of the samples of every event, filled up with -1."""

    def __call__(self, theta: ArrayLike) -> Any:
        """The log-likelihood in nats of parameters in the order of `names`; never NaN.

        A float; of rows of parameters, as emcee gives them with `vectorize=True`, an array.
        """
        theta = np.asarray(theta, float)
        if theta.ndim > 1:
            return np.array([self(row) for row in theta])
        return float(self.log_likelihood(theta))

    def log_likelihood(self, theta: Array) -> Array:
        """The log-likelihood as an array operation, for `jax.jit` and `jax.grad`."""
        if len(theta) != len(self.names):
            raise PopulationError(
                f"theta has the parameters {', '.join(self.names)}, got {len(theta)} numbers"
            )
        estimate = self.estimate(**{name: theta[k] for k, name in enumerate(self.names)})
        xp = namespace(theta)
        sure = estimate.variance <= self.largest_variance
        return xp.where(sure, estimate.log_likelihood, -math.inf)

    def estimate(self, **parameters: Array) -> Estimate:
        """The log-likelihood with the error of its Monte-Carlo sums."""
        return self._estimate(parameters, lambda ln_detected_M: (0.0 * ln_detected_M, 0.0))

    def _estimate(self, parameters: dict[str, Array], selection: Selection) -> Estimate:
        xp = namespace(*parameters.values())
        data = {name: xp.asarray(values) for name, values in self._data.items()}
        ln_prob_MN = self._ln_prob_of_members(data, parameters)
        ln_weights_MN = ln_prob_MN - xp.asarray(self._ln_prior_N)
        # The last row weighs nothing: it fills up shorter events, and a list of no injections.
        nothing_M1 = xp.full((len(ln_weights_MN), 1), -math.inf)
        padded_MN = xp.concatenate([ln_weights_MN, nothing_M1], axis=1)
        ln_MJL = padded_MN[:, xp.asarray(self._rows_JL)]
        ln_MN = padded_MN[:, int(self._samples_J.sum()) :]
        ln_sum_MJ, ln_found_M = log_sum(xp, ln_MJL, axis=2), log_sum(xp, ln_MN, axis=1)
        ln_detected_M = ln_found_M - math.log(max(self.drawn, 1))
        samples_J = xp.asarray(self._samples_J)

        possible_M = xp.isfinite(ln_detected_M) & xp.isfinite(ln_sum_MJ).all(1)
        ln_events_MJ = xp.where(xp.isfinite(ln_sum_MJ), ln_sum_MJ, 0.0) - xp.log(samples_J)
        ln_some_M = xp.where(possible_M, ln_detected_M, 0.0)
        ln_shape_M = self.power * (ln_events_MJ.sum(1) - len(self._samples_J) * ln_some_M)
        ln_number_M, slope_M = selection(ln_some_M)
        ln_M = xp.where(possible_M, ln_shape_M + ln_number_M, -math.inf)

        ln_share_M = _ln_shares(xp, ln_M)
        effective_J = _effective(xp, ln_share_M, ln_MJL, ln_sum_MJ)
        effective = _effective(xp, ln_share_M, ln_MN, ln_found_M)
        variance = self.power**2 * xp.sum(_inverse(xp, effective_J) - 1 / samples_J)
        slope = xp.sum(xp.exp(ln_share_M) * (slope_M - self.power * len(self._samples_J)))
        variance = variance + slope**2 * (_inverse(xp, effective) - 1 / max(self.drawn, 1))
        return Estimate(
            log_likelihood=log_sum(xp, ln_M, axis=0) - math.log(len(ln_M)),
            variance=variance,
            detected_fraction=xp.exp(log_sum(xp, ln_share_M + ln_detected_M, axis=0)),
            effective_injections=effective,
            effective_samples_J=effective_J,
            log_likelihood_M=ln_M,
        )

    def _ln_prob_of_members(self, data: Mapping[str, Array], parameters: dict[str, Array]) -> Array:
        """Log densities, `(M, N)`; a model that knows no members is the only one of its own."""
        if hasattr(self.model, "ln_prob_of_members"):
            return self.model.ln_prob_of_members(data, **parameters)
        return self.model.ln_prob(data, **parameters)[None]


def _table(what: str, given: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """Columns of one event or of the injections, checked."""
    table = {str(name): np.asarray(given[name], float) for name in given}
    if "prior" not in table:
        raise PopulationError(
            f"{what} has no prior, only {', '.join(table) or 'nothing'}: give the density that "
            "its samples were drawn under"
        )
    shapes = {values.shape for values in table.values()}
    if len(shapes) != 1 or len(shapes.pop()) != 1:
        raise PopulationError(
            f"the columns of {what} must be of one length, each a list of numbers"
        )
    prior_L = table["prior"]
    if not (np.isfinite(prior_L) & (prior_L > 0)).all():
        raise PopulationError(f"the prior of {what} must be finite and above 0 at every sample")
    if not len(prior_L) and what != "the injections":
        raise PopulationError(f"{what} has no posterior samples: leave it out")
    return table


def _ln_shares(xp: Namespace, ln_M: Array) -> Array:
    """Log of the share of each member in the mean likelihood; equal ones where that is 0."""
    ln_total = log_sum(xp, ln_M, axis=0)
    some = xp.isfinite(ln_total)
    return xp.where(some, ln_M - xp.where(some, ln_total, 0.0), -math.log(len(ln_M)))


def _effective(xp: Namespace, ln_share_M: Array, ln_weights_M: Array, ln_sums_M: Array) -> Array:
    """The effective number of weights, `(M, *S, L)`, along the last axis: 1 / sum u^2.

    u is the weight as a part of the sum of all, of members by their shares: by how much the log of
    the mean likelihood changes with it. Members use the same samples, so that their errors are not
    independent; this holds them together. Of one member it is (sum w)^2 / sum w^2.
    """
    ln_part_M = ln_weights_M - xp.where(xp.isfinite(ln_sums_M), ln_sums_M, 0.0)[..., None]
    shares = ln_share_M.reshape((-1,) + (1,) * (ln_part_M.ndim - 1))
    ln_squares = log_sum(xp, 2 * log_sum(xp, ln_part_M + shares, axis=0), axis=-1)
    some = xp.isfinite(ln_squares)
    return xp.where(some, xp.exp(-xp.where(some, ln_squares, 0.0)), 0.0)


def _inverse(xp: Namespace, number: Array) -> Array:
    """1 / number; inf for none."""
    return xp.where(number > 0, 1 / xp.where(number > 0, number, 1.0), math.inf)
