"""Which parameters tell the better runs from the others, and which runs are worth their cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpo.dashboard.runs.tables import (
    TablesError,
    key_of,
    logarithmic,
    number,
    objective,
    parameters,
)
from hpo.records import table
from hpo.records.listing import columns_of
from hpo.records.table import Row

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

FEWEST = 8
"""Runs with a result below which nothing is said of which parameter matters."""


def importance(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """How much each parameter tells the better runs from all, as shares of one, highest first.

    Of runs that came to their own end, and parameters that all of these have and that differ. The
    better runs are the best tenth, but at least five of them and at most half.

    Raises:
        TablesError: If there are too few runs, if no parameter differs, or if none is better.

    Source:
        Watanabe, Bansal & Hutter (2023), https://arxiv.org/abs/2304.10255 (PED-ANOVA).
    """
    able = table.ranked(rows)
    if len(able) < FEWEST:
        raise TablesError(
            f"which parameters matter shows from {FEWEST} runs on that came to their own end: "
            f"there are {len(able)}"
        )
    varied = _varied(able)
    if not varied:
        raise TablesError(
            f"the {len(able)} finished runs have no parameter in common that differs between "
            "them: there is nothing to compare"
        )
    better = min(max(0.1, 5 / len(able)), 0.5)
    values = [each for row in able if (each := objective(row)) is not None]
    if values[math.ceil(better * len(values)) - 1] >= values[-1]:
        raise TablesError("no run is better than the others: there is nothing to explain")
    return _ped_anova(able, varied, better)


def front(rows: Sequence[Row], cost: str) -> list[str]:
    """Keys of the finished runs that no other beats in objective and cost, cheapest first.

    A run is beaten by one that is no worse in either and better in one; equals both stay.
    """
    kept: list[tuple[float, float, str]] = []
    for price, nll, key in sorted(_priced(rows, cost)):
        if not kept or nll < kept[-1][1] or (price, nll) == kept[-1][:2]:
            kept.append((price, nll, key))
    return [key for _, _, key in kept]


def _varied(rows: Sequence[Row]) -> list[str]:
    """Parameters that every row has and that differ between them."""
    return [
        name
        for name in parameters(columns_of(rows))
        if all(row.get(name) is not None for row in rows)
        and len({repr(row[name]) for row in rows}) > 1
    ]


def _ped_anova(
    rows: Sequence[Row], parameters: Sequence[str], better: float
) -> list[tuple[str, float]]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    spaces = {name: _distribution([row[name] for row in rows]) for name in parameters}
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it announces each new study
    study = optuna.create_study()
    study.add_trials([_trial(row, spaces) for row in rows])
    found = get_param_importances(
        study, evaluator=PedAnovaImportanceEvaluator(target_quantile=better)
    )
    return sorted(found.items(), key=lambda each: (-each[1], each[0]))


def _trial(row: Row, spaces: Mapping[str, BaseDistribution]) -> FrozenTrial:
    import optuna

    params = {name: _value(row[name], space) for name, space in spaces.items()}
    return optuna.create_trial(params=params, distributions=dict(spaces), value=objective(row))


def _distribution(values: Sequence[object]) -> BaseDistribution:
    """A space that just holds these values: what the study searched is not in the records."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    numbers = [each for each in values if number(each) is not None]
    if len(numbers) < len(values):
        return CategoricalDistribution(sorted(set(map(str, values))))
    ordered: list[Any] = sorted(numbers, key=lambda each: number(each) or 0.0)
    low, high = ordered[0], ordered[-1]
    whole = all(isinstance(each, int) for each in numbers)
    space = IntDistribution if whole else FloatDistribution
    return space(low, high, log=logarithmic([low, high]))


def _value(value: object, space: BaseDistribution) -> object:
    from optuna.distributions import CategoricalDistribution

    return str(value) if isinstance(space, CategoricalDistribution) else value


def _priced(rows: Sequence[Row], cost: str) -> list[tuple[float, float, str]]:
    """Cost, objective and key of each finished run that has both."""
    found = []
    for row in table.ranked(rows):
        price, nll = number(row.get(cost)), objective(row)
        if price is not None and nll is not None:
            found.append((price, nll, key_of(row)))
    return found
