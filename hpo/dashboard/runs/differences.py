"""Runs side by side: the settings that differ, and cautions on comparing their results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hpo.dashboard.runs.history import rate_unit
from hpo.dashboard.runs.tables import ENVIRONMENT
from hpo.records.record import RunRecord
from models.config import OBJECTIVES

_GROUPS = ("configuration", "data", "environment")


def difference(records: Mapping[str, RunRecord]) -> list[dict[str, object]]:
    """One row for each setting that differs: `group`, `setting`, and the value of every run.

    Groups are `configuration` (what was chosen or given, pruner and seeds included), `data` and
    `environment`. A run that has no such setting has None.
    """
    settings = {key: _settings(record) for key, record in records.items()}
    places = dict.fromkeys(place for each in settings.values() for place in each)
    found = []
    for group, setting in sorted(places, key=lambda place: _GROUPS.index(place[0])):
        values = {key: each.get((group, setting)) for key, each in settings.items()}
        if len({repr(each) for each in values.values()}) > 1:
            found.append({"group": group, "setting": setting, **values})
    return found


def cautions(records: Iterable[RunRecord]) -> list[str]:
    """Sentences on comparisons of these runs that would mislead."""
    given = list(records)
    if len(given) < 2:
        return _of_ends(given)
    return [*_of_data(given), *_of_thesis(given), *_of_ends(given), *_of_time(given)]


def _settings(record: RunRecord) -> dict[tuple[str, str], object]:
    """Everything that was given, as (group, name) -> value."""
    where = record.environment
    groups: dict[str, dict[str, object]] = {
        "configuration": {
            # The sampler's choices are among the resolved options once more.
            **record.params,
            **record.flow,
            **record.training,
            **{f"pruner: {name}": each for name, each in record.pruner.items()},
            **{f"seed: {name}": each for name, each in record.seeds.items()},
        },
        "data": {
            "folder": record.data.path,
            "fingerprint": record.data.fingerprint,
            **{f"{split} rows": count for split, count in record.data.rows.items()},
            "held-out cells": _cells(record),
        },
        "environment": {
            **{name: getattr(where, name) for name in ENVIRONMENT},
            **{f"{name} version": each for name, each in where.versions.items()},
        },
    }
    return {
        (group, name): value if isinstance(value, str | int | float | None) else str(value)
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
