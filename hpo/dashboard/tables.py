"""Runs as the numbers and tables that the page shows: columns, curves, differences, cautions.

Between the catalog and the figures: knows neither Dash nor Plotly. Rows are those of the catalog,
which are those of `hpo.runs` with the run's key in the column `run`.

Axes of the arrays:
    E epochs, oldest first
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import InputError
from hpo import runs
from hpo.listing import columns_of
from hpo.record import NAME, RunRecord
from hpo.runs import Row
from models.config import OBJECTIVES

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Array = NDArray[np.float64]

Group = Literal["run", "parameters", "results", "options", "data", "environment"]
Kind = Literal["number", "text", "time"]

NLL = "nats/event"
"""Unit of every NLL: the density is in the data's own units."""

FEWEST = 8
"""Runs with a result below which nothing is said of which parameter matters."""

WIDE = 50
"""Numbers whose largest is more than so many times the smallest are seen on a logarithmic axis."""

_RUN = ("study", "trial", "state", "label", "reason", "restarts", "started", "updated")

_RESULTS = {
    "epochs": ("epochs trained", ""),
    "best_epoch": ("best epoch", ""),
    "best_val_nll": ("best validation NLL", NLL),
    "best_held_out_nll": ("best held-out NLL", NLL),
    "reported_epochs": ("epochs, as reported", ""),
    "reported_val_nll": ("best running mean of the validation NLL", NLL),
    "test_nll": ("test NLL", NLL),
    "test_error": ("standard error of the test NLL", NLL),
    "held_out_nll": ("held-out test NLL", NLL),
    "held_out_error": ("standard error of the held-out test NLL", NLL),
    "loss_rate": ("last loss rate", ""),
    "seconds": ("wall-clock time", "s"),
    "parameters": ("trainable parameters", ""),
    "flops_per_event": ("cost of a log-density", "FLOP/event"),
}
"""What came of a run: label and unit; that of the loss rate depends on the runs."""

_OPTIONS = {
    "training_epochs": ("epochs asked for", ""),
    "blocks": ("blocks", ""),
    "bound": ("reach of the splines", "standard deviations"),
    "hidden": ("hidden units", ""),
    "depth": ("hidden layers", ""),
    "batch_size": ("batch size", "rows"),
    "ema": ("weight of the past (EMA)", ""),
    "eval_every": ("evaluate every", "steps"),
    "min_rate": ("least loss rate", ""),
    "max_minutes": ("time budget", "min"),
    "memory_mb": ("memory for rows", "MB"),
    "clip_norm": ("longest gradient", "nats per unit of the weights"),
}

_SPLIT_ROWS = re.compile(r"(train|val|test)_rows")
_DATA = ("data", "fingerprint", "hold_out_cells")
_ENVIRONMENT = ("device", "host", "threads", "slurm_job_id", "git_commit")
_TIMES = ("started", "updated")

_TRIAL = re.compile(r"trial-0*(\d+)")
_OF_THESIS = re.compile(r"blocks_(\d+)_hidden_(\d+)_A_([a-z]+)(_.*)?")


class TablesError(InputError):
    """Something that these runs cannot tell. The message is one sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """What a column of the runs is."""

    name: str
    """As in the rows, in filters and in `hpo runs`."""

    label: str
    """For people."""

    unit: str
    """Empty where it has none."""

    group: Group
    """What kind of thing it tells of a run."""

    kind: Kind
    """How it is sorted and drawn."""

    @property
    def title(self) -> str:
        """Label and unit, as it stands at an axis."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """How a run learned, one value an epoch; NaN where nothing finite was measured."""

    epoch: Array
    """Counted from 1. Shape `(E,)`, as all of them."""

    minutes: Array
    """Wall-clock time from the beginning to the end of the epoch, pauses between restarts not
    counted; NaN from the first epoch on whose time is unknown."""

    rows_seen: Array
    """Rows of the training split that went by until the end of the epoch, repeats counted."""

    train_nll: Array
    """Nats per event."""

    val_nll: Array
    """Nats per event."""

    held_out_nll: Array
    """Nats per event."""

    loss_rate: Array
    """Nats per `training.rate_per`."""

    learning_rate: Array
    """At the end of the epoch."""

    best: int | None
    """Index of the epoch whose weights were kept."""

    threshold: float | None
    """Loss rate below which the run stops early; None where it never does."""

    def __len__(self) -> int:
        return len(self.epoch)


def columns(rows: Sequence[Row]) -> list[Column]:
    """What the rows' columns are, in their order, without `run`."""
    names = columns_of(rows)
    searched = set(_parameters(names))
    groups = {name: _group(name, names, searched) for name in names if name != "run"}
    return [_column(name, group, rows) for name, group in groups.items()]


def usual(rows: Sequence[Row]) -> list[str]:
    """The columns that a person can take in, as in `hpo runs`."""
    return [name for name in runs.usual(rows) if name != "run"]


def differing(rows: Sequence[Row]) -> list[str]:
    """The columns that differ between the rows; study and trial are always among them."""
    return [name for name in columns_of(runs.select(rows, differing=True)) if name != "run"]


def axes(rows: Sequence[Row]) -> list[Column]:
    """The columns that can be an axis: numbers, and at least one of them given."""
    return [
        each
        for each in columns(rows)
        if each.kind == "number" and any(number(row.get(each.name)) is not None for row in rows)
    ]


def objective(row: Row) -> float | None:
    """What the run is ranked by, lowest first, in nats per event; None without a result."""
    return number(runs.objective(row))


def objective_label(rows: Iterable[Row]) -> str:
    """What `objective` is of these rows, for people, with its unit."""
    judged = {row.get("objective") == "held_out_nll" for row in rows}
    name = {frozenset({True}): "held-out NLL", frozenset({True, False}): "objective"}
    return f"best {name.get(frozenset(judged), 'validation NLL')} [{NLL}]"


def number(value: object) -> float | None:
    """The value as a float, None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def logarithmic(values: Iterable[float]) -> bool:
    """Whether these numbers are better seen on a logarithmic axis: see `WIDE`."""
    given = list(values)
    return bool(given) and min(given) > 0 and max(given) > WIDE * min(given)


def curve(record: RunRecord) -> Curve:
    """The record's epochs as arrays.

    Rows seen are those of the training split for each epoch (of held-out cells too, whose number
    the record does not tell), or `eval_every` batches; where neither is known, the speed times the
    time, which counts the time of the evaluation in.
    """
    least = number(record.training.get("min_rate"))
    at = [row.epoch for row in record.epochs]
    return Curve(
        epoch=np.array(at, dtype=np.float64),
        minutes=np.cumsum(_values(record, "seconds")) / 60,
        rows_seen=np.cumsum(_rows_of_each(record)),
        train_nll=_values(record, "train_nll"),
        val_nll=_values(record, "val_nll"),
        held_out_nll=_values(record, "held_out_nll"),
        loss_rate=_values(record, "loss_rate"),
        learning_rate=_values(record, "learning_rate"),
        best=at.index(record.best_epoch) if record.best_epoch in at else None,
        threshold=least if least and least > 0 else None,
    )


def rate_unit(record: RunRecord) -> str:
    """Unit of the record's loss rates; the thesis's are per second."""
    return f"nats/{_per(record.training.get('rate_per'))}"


def smoothed(values_E: Array, weight: float) -> Array:
    """Exponential moving average that is not drawn towards zero at its beginning.

    What is not finite stays a gap, and the average goes on behind it as if it were not there.

    Args:
        values_E: Any unit, shape `(E,)`.
        weight: Of the past, in [0, 1); 0 changes nothing.

    Raises:
        TablesError: If the weight is outside.

    Source:
        Kingma & Ba (2015), https://arxiv.org/abs/1412.6980, section 3, as TensorBoard does it.
    """
    if not 0 <= weight < 1:
        raise TablesError(f"the weight of the smoothing must lie in [0, 1), got {weight}")
    result = np.full(len(values_E), math.nan)
    total, correction = 0.0, 0.0
    for index in np.flatnonzero(np.isfinite(values_E)):
        total = weight * total + (1 - weight) * float(values_E[index])
        correction = weight * correction + (1 - weight)
        result[index] = total / correction
    return result


def difference(records: Mapping[str, RunRecord]) -> list[dict[str, object]]:
    """One row for each setting that differs: `group`, `setting`, and the value of every run.

    Groups are `configuration` (what was chosen or given, pruner and seeds included), `data` and
    `environment`. A run that has no such setting has None.
    """
    settings = {key: _settings(record) for key, record in records.items()}
    places = dict.fromkeys(place for each in settings.values() for place in each)
    found = [
        (place, {key: each.get(place) for key, each in settings.items()})
        for place in sorted(places, key=lambda place: _GROUPS.index(place[0]))
    ]
    return [
        {"group": group, "setting": setting, **values}
        for (group, setting), values in found
        if len({repr(each) for each in values.values()}) > 1
    ]


def cautions(records: Mapping[str, RunRecord] | Iterable[RunRecord]) -> list[str]:
    """Sentences on what must not be read out of these runs side by side."""
    given = list(records.values() if isinstance(records, Mapping) else records)
    if len(given) < 2:
        return _of_ends(given)
    return [*_of_data(given), *_of_thesis(given), *_of_ends(given), *_of_time(given)]


def importance(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """How much each parameter tells the better runs from all, as shares of one, highest first.

    Of runs that came to their own end, and parameters that all of these have and that differ. The
    better runs are the best tenth, but at least five of them and at most half.

    Raises:
        TablesError: If there are too few runs, if no parameter differs, or if none is better.

    Source:
        Watanabe, Bansal & Hutter (2023), https://arxiv.org/abs/2304.10255 (PED-ANOVA).
    """
    able = runs.ranked(rows)
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


def short(key: str) -> str:
    """A run's name for people: `bbh 17` for bbh/trial-00017."""
    *folders, last = key.removesuffix(f"/{NAME}").split("/")
    if found := _TRIAL.fullmatch(last):
        return f"{folders[-1] if folders else 'trial'} {found[1]}"
    last = last.removesuffix(".json")
    if found := _OF_THESIS.fullmatch(last):
        return f"thesis {found[1]}×{found[2]} {found[3]}"
    return last


def names(keys: Iterable[str]) -> dict[str, str]:
    """`short` of each key; where two would be called the same, the keys themselves."""
    given = list(keys)
    often = Counter(map(short, given))
    return {key: short(key) if often[short(key)] == 1 else key for key in given}


def key_of(row: Row) -> str:
    """The row's key; for rows that did not come from a catalog, study and trial."""
    return str(row["run"]) if "run" in row else f"{row.get('study')} {row.get('trial')}"


_GROUPS = ("configuration", "data", "environment")


def _parameters(names: Sequence[str]) -> list[str]:
    """What the samplers chose: `hpo.runs` puts it between `state` and `epochs`."""
    if "state" not in names or "epochs" not in names:
        return []
    return list(names[names.index("state") + 1 : names.index("epochs")])


def _group(name: str, names: Sequence[str], searched: set[str]) -> Group:
    if name in searched:
        return "parameters"
    if name in _RUN:
        return "run"
    if name in _RESULTS:
        return "results"
    if name in _DATA or name.startswith("data_") or _SPLIT_ROWS.fullmatch(name):
        return "data"
    if name.startswith(("environment_", "version_")):
        return "environment"
    # The training has an option of that name; the device it ran on is then `environment_device`.
    if name in _ENVIRONMENT and f"environment_{name}" not in names:
        return "environment"
    return "options"


def _column(name: str, group: Group, rows: Sequence[Row]) -> Column:
    label, unit = _described(name, group, rows)
    return Column(name=name, label=label, unit=unit, group=group, kind=_kind(name, group, rows))


def _kind(name: str, group: Group, rows: Sequence[Row]) -> Kind:
    if name in _TIMES:
        return "time"
    if group == "results":  # also while no run has a value yet
        return "number"
    given = [row[name] for row in rows if row.get(name) is not None]
    return "number" if given and all(number(each) is not None for each in given) else "text"


def _described(name: str, group: Group, rows: Sequence[Row]) -> tuple[str, str]:
    """Label and unit."""
    if name in ("loss_rate", "min_rate"):
        return (_RESULTS | _OPTIONS)[name][0], _rate_units(name, rows)
    if group == "results":
        return _RESULTS[name]
    if name in _OPTIONS:
        return _OPTIONS[name]
    if found := _SPLIT_ROWS.fullmatch(name):
        return f"{found[1]} split", "rows"
    for prefix, label in _PREFIXES.items():
        if name.startswith(prefix):
            return label.format(name.removeprefix(prefix).replace("_", " ")), ""
    return name.replace("_", " "), ""


_PREFIXES = {
    "version_": "{} version",
    "seed_": "seed of the {}",
    "pruner_": "pruner: {}",
    "environment_": "{} used",
    "training_": "{} of the training",
    "flow_": "{} of the flow",
}
"""Of columns that `hpo.runs` prefixes, and what they are called instead."""


def _rate_units(name: str, rows: Iterable[Row]) -> str:
    units = {_per(row.get("rate_per")) for row in rows if row.get(name) is not None}
    return " or ".join(f"nats/{each}" for each in sorted(units)) or "nats/epoch"


def _per(unit: object) -> str:
    return "epoch" if unit == "epoch" else "s"


def _values(record: RunRecord, name: str) -> Array:
    """The values by epoch, NaN where there is none or where it is not finite."""
    values = [getattr(row, name) for row in record.epochs]
    found = np.array([math.nan if each is None else each for each in values], dtype=np.float64)
    return np.where(np.isfinite(found), found, math.nan)


def _rows_of_each(record: RunRecord) -> Array:
    """Rows trained on in each epoch."""
    every = number(record.training.get("eval_every"))
    batch = number(record.training.get("batch_size"))
    train = record.data.rows.get("train")
    if every and batch:
        return np.full(len(record.epochs), every * batch)
    if train:
        return np.full(len(record.epochs), float(train))
    return _values(record, "samples_per_second") * _values(record, "seconds")


def _settings(record: RunRecord) -> dict[tuple[str, str], object]:
    """Everything that was given, as (group, name) -> value."""
    # What the sampler chose is among the resolved options once more.
    configuration = {
        **record.params,
        **record.flow,
        **record.training,
        **{f"pruner: {name}": each for name, each in record.pruner.items()},
        **{f"seed: {name}": each for name, each in record.seeds.items()},
    }
    where = record.environment
    groups: dict[str, dict[str, object]] = {
        "configuration": configuration,
        "data": {
            "folder": record.data.path,
            "fingerprint": record.data.fingerprint,
            **{f"{split} rows": count for split, count in record.data.rows.items()},
            "held-out cells": _cells(record),
        },
        "environment": {
            **{name: getattr(where, name) for name in _ENVIRONMENT},
            **{f"{name} version": each for name, each in where.versions.items()},
        },
    }
    return {
        (group, name): _flat(value)
        for group, values in groups.items()
        for name, value in values.items()
    }


def _cells(record: RunRecord) -> str | None:
    """The held-out cells as text, whatever the order in which they were given."""
    cells = [
        ", ".join(f"{name} = {value:.7g}" for name, value in sorted(cell.items()))
        for cell in record.data.hold_out_cells
    ]
    return "; ".join(sorted(cells)) or None


def _flat(value: object) -> object:
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _of_data(records: Sequence[RunRecord]) -> list[str]:
    found = []
    prints = {each.data.fingerprint for each in records} - {None}
    if len(prints) > 1:
        found.append(
            f"These runs were trained on {len(prints)} different data sets: their NLLs do not "
            "compare."
        )
    if len({_cells(each) for each in records}) > 1:
        found.append(
            "Different cells were held out of these runs: their validation and test NLLs are "
            "means over different rows."
        )
    judged = {str(each.training.get("objective", "val_nll")) for each in records}
    if len(judged) > 1:
        told = " and ".join(sorted(OBJECTIVES.get(each, each) for each in judged))
        found.append(f"These runs were judged by different things: {told}.")
    return found


def _of_thesis(records: Sequence[RunRecord]) -> list[str]:
    theirs = [each for each in records if each.reported]
    if not theirs or len(theirs) == len(records):
        return []
    return [
        f"From the thesis's program: {_listed(theirs)}. Nothing tells whether their data are those "
        "of the other runs, and its batch norm saw the validation batch."
    ]


def _of_ends(records: Sequence[RunRecord]) -> list[str]:
    told = {
        "running": "Still training: {}. The best NLL may yet fall.",
        "pruned": "Pruned: {}. The best NLL is that of a shorter training.",
        "failed": "Failed: {}. The best NLL is that of the epochs before.",
    }
    found = {state: [each for each in records if each.state == state] for state in told}
    return [told[state].format(_listed(group)) for state, group in found.items() if group]


def _of_time(records: Sequence[RunRecord]) -> list[str]:
    found = []
    devices = sorted({each.environment.device for each in records})
    if len(devices) > 1:
        found.append(
            f"These runs were trained on different devices ({', '.join(devices)}): their "
            "wall-clock times do not compare."
        )
    if len({rate_unit(each) for each in records}) > 1:
        found.append(
            "The loss rates are nats per epoch in some of these runs and nats per second in "
            "others: they do not compare."
        )
    return found


def _listed(records: Sequence[RunRecord]) -> str:
    """The runs by name; of many, the first."""
    named = [f"{each.study} {each.trial}" for each in records]
    shown = named if len(named) <= 4 else [*named[:3], f"{len(named) - 3} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _varied(rows: Sequence[Row]) -> list[str]:
    """Parameters that every row has and that differ between them."""
    return [
        name
        for name in _parameters(columns_of(rows))
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
    for row in runs.ranked(rows):
        price, nll = number(row.get(cost)), objective(row)
        if price is not None and nll is not None:
            found.append((price, nll, key_of(row)))
    return found
