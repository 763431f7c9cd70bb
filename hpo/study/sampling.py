"""The sampler that chooses a trial's parameters, and the pruner that ends a bad trial."""

from __future__ import annotations

from typing import Any

import optuna
from optuna import pruners
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial

from hpo.study.space import seed_of
from hpo.study.spec import StudySpec


def sampler_of(
    spec: StudySpec, number: int, known: IntersectionSearchSpace | None = None
) -> BaseSampler:
    """The sampler that chooses the parameters of trial `number`.

    Seeded by the number: workers that shared one seed would all try the same configuration first
    (optuna#4714). `known` is the search space of the finished trials that this process has seen,
    updated by the later ones; without it all trials are compared anew.
    """
    seed = seed_of(spec.study.seed, number)
    if spec.sampler.kind == "tpe":
        # Running trials count as bad ones, so that workers do not all try the same.
        return _Tpe(
            search_space() if known is None else known,
            seed=seed,
            n_startup_trials=spec.sampler.startup_trials,
            multivariate=True,
            constant_liar=True,
        )
    return RandomSampler(seed=seed)  # a grid's points are given with the trials


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
