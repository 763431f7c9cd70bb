"""ln L = J ln N - N P_det + sum_j ln <p(theta | c) / prior(theta)>_j: mergers are counted, too.

N is the number of mergers, seen or not, in what was surveyed, and J that of the events. Where
`CatalogLikelihood` takes the mean over all N, this likelihood has a rate: a parameter, or what an
emulator's merger efficiency makes of a mass of stars. Of an ensemble, L is the mean over members.

Array names end in their axes:
    M members
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from models.inference.catalog import CatalogLikelihood, Estimate
from models.inference.mixture import PopulationError
from models.namespaces import Array, namespace

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
        ...     efficiency=model.efficiency,
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
            efficiency: The rate as a function of the model's parameters, such as the method of a
                `PopulationModel`; None makes it a parameter.
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
        some = rate > 0
        ln_mergers = xp.log(self._exposure * xp.where(some, rate, 1.0))

        def selection(ln_detected_M: Array) -> tuple[Array, Array]:
            count, ln_expected_M = len(self._samples_J), ln_detected_M + ln_mergers
            expected_M = xp.exp(ln_expected_M)
            added_M = count * ln_expected_M - expected_M
            return xp.where(some, added_M, -math.inf), count - expected_M

        return self._estimate(of_model, selection)
