"""Runs side by side: the settings that differ, and cautions on comparing their results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from data_prep.cells import Named
from data_prep.dataset import shown
from hpo.dashboard.runs.history import rate_unit
from hpo.records.record import RunRecord
from models.config import OBJECTIVES

ENVIRONMENT = ("device", "host", "threads", "slurm_job_id", "git_commit")

ASIDE = ("seed", "folder", "host", "threads", "slurm_job_id")
"""Settings that make no run better: which random numbers, and where it ran."""


def difference(records: Mapping[str, RunRecord]) -> dict[str, dict[str, object]]:
    """The settings that differ, with the value of every run, None where it has no such setting.

    The sampler's choices come first. Seeds and what tells where a run was made are left out.
    """
    by_run = {
        key: {name: each for group in settings(record).values() for name, each in group.items()}
        for key, record in records.items()
    }
    found = {}
    for name in dict.fromkeys(name for each in by_run.values() for name in each):
        values = {key: each.get(name) for key, each in by_run.items()}
        if not _aside(name) and len({repr(each) for each in values.values()}) > 1:
            found[name] = values
    return found


def _aside(name: str) -> bool:
    return name in ASIDE or name.startswith("seed: ")


def settings(record: RunRecord) -> dict[str, dict[str, object]]:
    """Everything that the run was given, by group and name."""
    where = record.environment
    return {
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
            "weights": record.data.weights,
            **{
                f"effective {split} rows": count
                for split, count in (record.data.effective_rows or {}).items()
            },
            "held-out cells": _cells(record.data.hold_out_cells),
            "report cells": _cells(record.data.report_cells),
        },
        "environment": {
            **{name: getattr(where, name) for name in ENVIRONMENT},
            **{f"{name} version": each for name, each in where.versions.items()},
        },
    }


def cautions(records: Iterable[RunRecord]) -> list[str]:
    """Sentences on comparisons of these runs that would mislead."""
    given = list(records)
    if len(given) < 2:
        return _of_ends(given)
    return [*_of_data(given), *_of_ends(given), *_of_time(given)]


def _cells(named: Named) -> str | None:
    """Cells as text, whatever the order in which they were given."""
    return "; ".join(sorted(shown(dict(sorted(cell.items()))) for cell in named)) or None


def _of_data(records: Sequence[RunRecord]) -> Iterator[str]:
    data = [each.data for each in records]
    if len({(_cells(each.hold_out_cells), _cells(each.report_cells)) for each in data}) > 1:
        yield "Different cells were held out of these runs: their NLLs are of different rows."
    judged = {str(each.training.get("objective", "val_nll")) for each in records}
    if len(judged) > 1:
        told = " and ".join(sorted(OBJECTIVES.get(each, each) for each in judged))
        yield f"These runs were judged by different things: {told}."


def _of_ends(records: Sequence[RunRecord]) -> list[str]:
    told = {
        "running": "Still training: {}. The best NLL may yet fall.",
        "pruned": "Pruned: {}. The best NLL is that of a shorter training.",
        "failed": "Failed: {}. The best NLL is that of the epochs before.",
    }
    found = {state: [each for each in records if each.state == state] for state in told}
    return [told[state].format(_listed(group)) for state, group in found.items() if group]


def _of_time(records: Sequence[RunRecord]) -> Iterator[str]:
    devices = sorted({each.environment.device for each in records})
    if len(devices) > 1:
        yield (
            f"These runs were trained on different devices ({', '.join(devices)}): their "
            "wall-clock times do not compare."
        )
    if len({rate_unit(each) for each in records}) > 1:
        yield (
            "The loss rates are nats per epoch in some of these runs and nats per second in "
            "others: they do not compare."
        )


def _listed(records: Sequence[RunRecord]) -> str:
    """The runs by name; of many, the first."""
    named = [f"{each.study} {each.trial}" for each in records]
    shown = named if len(named) <= 4 else [*named[:3], f"{len(named) - 3} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
