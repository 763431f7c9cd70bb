"""The sampler that chooses a trial's parameters, and the pruner that ends a bad trial."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna import pruners
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial

from hpo.study.space import seed_of
from hpo.study.spec import StudySpec
from models.config import OF_STACK


class Company:
    """What trials of one worker have in common, so that they can be trained as one.

    Of so many trials that have no values yet the sampler chooses freely for the first. The next
    ones get its values of what a stack has in common (`models.config.OF_STACK`), and the sampler
    chooses the rest. Trials whose values were given, or are known from an earlier worker, keep
    them; they are of the company if these are the same.
    """

    def __init__(self, size: int) -> None:
        """Args: how many trials, the first one included."""
        self.size = size
        self._numbers: set[int] = set()
        self._common: dict[str, Any] = {}

    @property
    def values(self) -> Mapping[str, Any]:
        """What the next trial is given; nothing where it is the first."""
        return {} if self._full else self._common

    def add(self, number: int, params: Mapping[str, Any]) -> None:
        """Tell that a trial has all of its parameters; one that begins anew may tell it twice."""
        common = {name: params[name] for name in OF_STACK if name in params}
        if number in self._numbers:
            return
        if self._full:
            self._numbers, self._common = {number}, common
        elif common == self._common:
            self._numbers.add(number)

    @property
    def _full(self) -> bool:
        return len(self._numbers) in (0, self.size)


def sampler_of(
    spec: StudySpec,
    number: int,
    known: IntersectionSearchSpace | None = None,
    company: Company | None = None,
) -> BaseSampler:
    """The sampler that chooses the parameters of trial `number`.

    Seeded by the number: workers that shared one seed would all try the same configuration first
    (optuna#4714).

    Args:
        spec: The study.
        number: Of the trial.
        known: The search space of the finished trials that this process has seen, updated by the
            later ones; without it all trials are compared anew.
        company: What it may have in common with others of its worker; None if nothing.
    """
    given = company.values if company else {}
    seed = seed_of(spec.study.seed, number)
    chosen: BaseSampler = RandomSampler(seed=seed)  # a grid's points are given with the trials
    if spec.sampler.kind == "tpe":
        # What a company has in common is chosen as often at random as it would be without one.
        free = 1 if given or company is None else company.size
        # Running trials count as bad ones, so that workers do not all try the same.
        chosen = _Tpe(
            search_space() if known is None else known,
            seed=seed,
            n_startup_trials=spec.sampler.startup_trials * free,
            multivariate=True,
            constant_liar=True,
        )
    if not given:
        return chosen
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PartialFixedSampler(dict(given), chosen)


def pruner_of(spec: StudySpec) -> pruners.BasePruner:
    """The pruner, its resources explicit: Optuna's "auto" waits for the first trial to end."""
    table, first = spec.pruner, spec.pruner.min_epochs
    if table.kind == "asha":
        return pruners.SuccessiveHalvingPruner(first, table.reduction_factor)
    if table.kind == "hyperband":
        return pruners.HyperbandPruner(first, spec.training.epochs, table.reduction_factor)
    if table.kind == "median":
        return pruners.MedianPruner(n_warmup_steps=first)
    return pruners.NopPruner()


def search_space() -> IntersectionSearchSpace:
    """An empty memory of the search space for `sampler_of`, kept from trial to trial."""
    return IntersectionSearchSpace(include_pruned=True)


class _Tpe(TPESampler):
    """Optuna's sampler for one trial, with a search space that outlives it.

    Optuna's own space compares the parameters of all trials for every new one.
    """

    def __init__(self, known: IntersectionSearchSpace, **options: Any) -> None:
        super().__init__(**options)
        self._known = known

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that are sampled together; those of a single value are left out."""
        found = self._known.calculate(study, use_cache=True)
        return {name: each for name, each in found.items() if not each.single()}
