"""The runs to be exported: the best trials of a study, one by its number, one by its `run.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import optuna

from data_prep.errors import InputError
from hpo.queue.trials import Snapshot, TrialReader, TrialSummary
from hpo.records.folder import data_found, read
from hpo.records.record import NAME, RunRecord
from hpo.study.status import usable
from hpo.study.study import record_of, trial_name


class ExportError(InputError):
    """A study that has no such trial to export. The message says which there are."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that ended well."""

    record: RunRecord
    """It names the folder of its data as it is now."""
    folder: Path
    """Of its `run.json` and its checkpoint."""


def best(
    study: optuna.Study,
    folder: Path,
    *,
    trial: int | None = None,
    max_cost: int | None = None,
    count: int = 1,
) -> list[Run]:
    """The best trials of a study, the best first.

    Args:
        study: Its database says which trials are the best.
        folder: Of its trials: holds `trial-*/run.json`.
        trial: Takes this one, whether it is the best or not.
        max_cost: Takes the best of those with at most so many FLOPs per event.
        count: How many.

    Raises:
        ExportError: If there is no such trial, too few have a result, or the folder does not hold
            what the study says of one that is wanted.
    """
    chosen = _chosen(study, folder, trial, max_cost, count)
    return [_run(record, folder / trial_name(record.trial)) for record in chosen]


def named(path: Path) -> Run:
    """The run of a `run.json`.

    Raises:
        RecordError: If it is no record.
        ExportError: If the run has no result.
    """
    record = read(path)
    if not usable(record) or record.reported is not None:
        raise ExportError(
            f"{path} is of a run that is {record.state}, of which there is nothing to export: name "
            "the run.json of one of hpo's own that ended well"
        )
    return _run(record, path.parent)


def _run(record: RunRecord, folder: Path) -> Run:
    return Run(data_found(record, folder), folder)


def _chosen(
    study: optuna.Study, folder: Path, trial: int | None, max_cost: int | None, ensemble: int
) -> list[RunRecord]:
    """The records of the trials to be exported, the best first."""
    name, seen = study.study_name, TrialReader(study).look()
    count = len(seen.trials)
    if trial is not None and trial >= count:
        raise ExportError(f"the study {name!r} has no trial {trial}: it has {count}")
    best = [one for one in seen.ranked if trial in (None, one.number)]
    if trial is not None and not best:
        state = seen.trials[trial].state.name.lower()
        raise ExportError(f"trial {trial} is {state}: only one that ended well can be exported")
    found: list[RunRecord] = []
    for one in best:
        record = record_of(folder, one.number)
        if record is None or not _agrees(one, record):
            raise ExportError(_difference(name, seen, one, record, folder))
        flops = record.cost.flops_per_event
        if max_cost is None or (flops is not None and flops <= max_cost):
            found.append(record)
        if len(found) == ensemble:
            return found
    limit = f" with at most {max_cost} FLOPs per event" if max_cost else ""
    if not found:
        raise ExportError(f"{name!r} has no trial{limit} that ended well, of {count} there")
    raise ExportError(
        f"{name!r} has {len(found)} trials{limit} that ended well, too few for an ensemble of "
        f"{ensemble}"
    )


def _agrees(one: TrialSummary, record: RunRecord) -> bool:
    """Whether the record is of this trial and has its value."""
    if not usable(record) or record.best_objective is None or one.value is None:
        return False
    same = math.isclose(record.best_objective, one.value, rel_tol=1e-12)
    return same and record.trial == one.number


def _difference(
    name: str, seen: Snapshot, one: TrialSummary, record: RunRecord | None, folder: Path
) -> str:
    """The sentence for a trial whose record is not there or says otherwise."""
    path = folder / trial_name(one.number) / NAME
    if record is None:
        fault = f"{path} is not there, or cannot be read"
    else:
        fault = f"{path} is of trial {record.trial}, {record.state}, with {record.best_objective}"
    remedy = "bring its folder back"
    for other in seen.ranked:
        found = record_of(folder, other.number)
        if found and _agrees(other, found):
            best = other.number
            remedy = f"bring its folder back, or export the best that is there by --trial {best}"
            break
    return (
        f"trial {one.number} of {name!r} has the NLL {one.value} in the database, by "
        f"which the best is told, and {fault}: {remedy}"
    )
