"""ln L = J ln N - N P_det + sum_j ln <p(theta | c) / prior(theta)>_j: mergers are counted, too.

N is the number of mergers, seen or not, in what was surveyed, and J that of the events. Where
`CatalogLikelihood` takes the mean over all N, this likelihood has a rate: a parameter, or what an
emulator's merger efficiency makes of a mass of stars. L is the mean over members of an ensemble,
and over functions that may be the efficiency.

Array names end in their axes:
    M members    R functions that may be the merger efficiency
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from models.inference.catalog import CatalogLikelihood, Estimate
from models.inference.mixture import PopulationError
from models.namespaces import Array, log_sum, namespace

RATE = "rate"
"""The parameter that is added."""


class PoissonLikelihood(CatalogLikelihood):
    """The log-likelihood of a catalogue of mergers and of their number, up to a constant.

    N = rate x exposure, and the rate is the last of `names` unless an efficiency tells it.

    Loredo (2004), https://arxiv.org/abs/astro-ph/0409387
    Mandel, Farr & Gair (2019), https://arxiv.org/abs/1809.02063

    Example:
        >>> volume = universe.hypervolume(injections.years)  # Gpc^3 yr
        >>> free = PoissonLikelihood(model, events, found, drawn=drawn, exposure=volume)
        >>> free.names  # the rate in mergers per Gpc^3 and year
        ['Z', 'alpha', 'rate']
        >>> made = PoissonLikelihood(
        ...     model, events, found, drawn=drawn,
        ...     exposure=1.5e7 * volume,  # Msun of stars, that form at 0.015 Msun / Mpc^3 / yr
        ...     efficiency=model.efficiencies,
        ... )  # fmt: skip
    """

    def __init__(
        self,
        model: Any,
        events: Sequence[Mapping[str, ArrayLike]],
        injections: Mapping[str, ArrayLike],
        *,
        drawn: int,
        exposure: float,
        efficiency: Callable[..., Array] | None = None,
        largest_variance: float = 1.0,
        worth: float | None = None,
    ) -> None:
        """Put the catalogue, the injections and what was surveyed together.

        Args:
            model: As for `CatalogLikelihood`, whose other arguments these are, too.
            events: Posterior samples of each event.
            injections: Those found.
            drawn: Injections that were made, found or not.
            exposure: What was surveyed, in the unit that the rate is per: Gpc^3 yr as
                `Universe.hypervolume` gives it, or the Msun of stars that formed in it.
            efficiency: The rate as a function of the model's parameters: a number, which is taken
                as exact, or the `efficiencies` of a `PopulationModel`, `(R, M)`, over whose error
                the likelihood is averaged. None makes the rate a parameter.
            largest_variance: Of the log-likelihood, beyond which it is taken as -inf.
            worth: Number of events that the emulator is worth. The number of events, which tells of
                the rate, counts in full.

        Raises:
            PopulationError: As `CatalogLikelihood`, or if the exposure is not above 0, or a
                parameter of the model is called rate.
        """
        super().__init__(
            model,
            events,
            injections,
            drawn=drawn,
            largest_variance=largest_variance,
            worth=worth,
        )
        if not 0 < exposure < math.inf:
            raise PopulationError(f"exposure must be a number above 0, got {exposure}")
        if efficiency is None and RATE in self.names:
            raise PopulationError(
                f"the model has a parameter {RATE!r} of its own: rename it, or give efficiency"
            )
        self._exposure, self._efficiency = float(exposure), efficiency
        if efficiency is None:
            self.names = [*self.names, RATE]

    def estimate(self, **parameters: Array) -> Estimate:
        """The log-likelihood with the error of its Monte-Carlo sums.

        The variance of the expected number is its relative variance times its square, where
        gwpopulation's `RateLikelihood` takes the number itself; the log-likelihood is the same.
        """
        xp = namespace(*parameters.values())
        of_model = {name: value for name, value in parameters.items() if name != RATE}
        if self._efficiency is None:
            if RATE not in parameters:
                raise PopulationError(
                    f"this likelihood has the parameter {RATE}, got {', '.join(parameters)}: give "
                    "it, or make the likelihood with an efficiency"
                )
            rate = xp.asarray(parameters[RATE])
        else:
            of_model, rate = parameters, self._efficiency(**parameters)
        rate_RM = xp.asarray(rate).reshape((-1, 1) if np.ndim(rate) < 2 else rate.shape)
        some_RM = rate_RM > 0
        ln_mergers_RM = xp.log(self._exposure * xp.where(some_RM, rate_RM, 1.0))

        def selection(ln_detected_M: Array) -> tuple[Array, Array]:
            count, ln_expected_RM = len(self._samples_J), ln_detected_M + ln_mergers_RM
            expected_RM = xp.exp(ln_expected_RM)
            ln_RM = xp.where(some_RM, count * ln_expected_RM - expected_RM, -math.inf)
            ln_sum_M = log_sum(xp, ln_RM, axis=0)
            share_RM = xp.exp(ln_RM - xp.where(xp.isfinite(ln_sum_M), ln_sum_M, 0.0))
            slope_M = count - (share_RM * expected_RM).sum(0)
            return ln_sum_M - math.log(len(ln_RM)), slope_M

        return self._estimate(of_model, selection)
