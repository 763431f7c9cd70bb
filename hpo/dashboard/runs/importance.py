"""The importance of each parameter (PED-ANOVA), and the Pareto front of objective and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from hpo.dashboard.runs.tables import TablesError, logarithmic, number, objective, parameters
from hpo.records import table
from hpo.records.listing import columns_of
from hpo.records.table import Row

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FEWEST = 2
"""Runs with a result below which nothing is said of which parameter matters: as Optuna does."""

CLEAR = 0.3
"""Rank correlation with the NLL from which on a parameter has a direction."""


def importance(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """The importance of each parameter, as shares of one, highest first.

    A parameter is important if its values tell the better runs from all runs that came to their own
    end. All of these runs must have it, and it must differ. The better runs are the best tenth, but
    at least five and at most half.

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
    varied = [
        name
        for name in parameters(columns_of(able))
        if all(row.get(name) is not None for row in able)
        and len({repr(row[name]) for row in able}) > 1
    ]
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


def direction(rows: Sequence[Row], name: str) -> str:
    """Which values of a parameter the better of the finished runs have, in words.

    Of a number it is the sign of Spearman's rank correlation with the objective, of other values
    the one with the lowest median.
    """
    able = [row for row in table.ranked(rows) if row.get(name) is not None]
    values = [number(row[name]) for row in able]
    nlls = [objective(row) or 0.0 for row in able]
    if len(able) < 3 or len({repr(row[name]) for row in able}) < 2:
        return ""
    if None in values:
        by_value: dict[str, list[float]] = {}
        for row, nll in zip(able, nlls, strict=True):
            by_value.setdefault(str(row[name]), []).append(nll)
        return f"best: {min(by_value, key=lambda each: median(by_value[each]))}"
    if len(set(nlls)) < 2:
        return ""
    import scipy.stats

    rho = scipy.stats.spearmanr(values, nlls).statistic
    if abs(rho) < CLEAR:
        return "no clear direction"
    return "better when low" if rho > 0 else "better when high"


def front(rows: Sequence[Row], cost: str) -> list[Row]:
    """The finished runs that no other beats in objective and cost, cheapest first.

    A run is beaten by one that is no worse in either and better in one; equals both stay.
    """
    kept: list[tuple[float, float, Row]] = []
    priced = [
        (price, nll, row)
        for row in table.ranked(rows)
        if (price := number(row.get(cost))) is not None and (nll := objective(row)) is not None
    ]
    for price, nll, row in sorted(priced, key=lambda each: each[:2]):
        if not kept or nll < kept[-1][1] or (price, nll) == kept[-1][:2]:
            kept.append((price, nll, row))
    return [row for _, _, row in kept]


def _ped_anova(rows: Sequence[Row], names: Sequence[str], better: float) -> list[tuple[str, float]]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    columns = {name: _suggested([row[name] for row in rows]) for name in names}
    spaces = {name: space for name, (space, _) in columns.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it announces each new study
    study = optuna.create_study()
    for index, row in enumerate(rows):
        params = {name: values[index] for name, (_, values) in columns.items()}
        study.add_trial(
            optuna.create_trial(params=params, distributions=spaces, value=objective(row))
        )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=better)
    found = get_param_importances(study, evaluator=evaluator)
    return sorted(found.items(), key=lambda each: (-each[1], each[0]))


def _suggested(values: Sequence[Any]) -> tuple[BaseDistribution, Sequence[Any]]:
    """A space that just holds these values, since the records do not say what was searched."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if any(number(each) is None for each in values):
        texts = list(map(str, values))
        return CategoricalDistribution(sorted(set(texts))), texts
    low, high = min(values), max(values)
    whole = all(isinstance(each, int) for each in values)
    space = IntDistribution if whole else FloatDistribution
    return space(low, high, log=logarithmic([low, high])), values
