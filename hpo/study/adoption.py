"""What an earlier worker left in a trial's folder: is it this trial's, and what came of it?

The database may lag behind the folder, since a worker died between the two or a backup of it was
restored, and a folder may hold anything that was copied there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from hpo.records.record import DataUsed, RunRecord, State
from hpo.study import space
from hpo.study.space import Range, fits
from hpo.study.spec import DataTable, StudySpec
from models.config import FREE_TO_CHANGE, ConfigError, FlowConfig, TrainConfig

_TOLD: dict[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "stopped_early": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def told(record: RunRecord) -> tuple[TrialState, float | None]:
    """How the study is told of a run that ended: its state, and the value of a complete one."""
    state = _TOLD[record.state]
    return state, record.best_objective if state is TrialState.COMPLETE else None


def misfit(
    record: RunRecord,
    spec: StudySpec,
    number: int,
    *,
    fingerprint: str | None,
    known: Mapping[str, Any],
) -> str | None:
    """Why a record is not that of this trial, as a clause; None where it is.

    The name of its study is not looked at, since a study can be renamed: what has the trial's data,
    seed, parameters and options is the trial's run.

    Args:
        record: As it lies in the trial's folder.
        spec: Of the study.
        number: Of the trial.
        fingerprint: Of the study's data.
        known: The parameters that the database has of the trial: all, some, or none yet.
    """
    searched = {key: line for key, line in spec.space.items() if isinstance(line, Range | list)}
    if record.params.keys() != searched.keys():
        return f"its parameters are {sorted(record.params)}, the study's {sorted(searched)}"
    for key, value in record.params.items():
        if value is None or not fits(value, searched[key]):
            return f"its {key} is {value!r}, which is not in the study's [space]"
    seeds = {"study": spec.study.seed, "trial": space.seed_of(spec.study.seed, number)}
    training = dataclasses.replace(spec.training, seed=seeds["trial"])
    ours: dict[str, Any] = {"trial": number, "data": fingerprint, "seeds": seeds}
    ours |= _kept_out(spec.data)
    ours |= _options(*space.resolve({**spec.space, **record.params}, spec.flow, training))
    ours |= known
    try:
        options = FlowConfig.from_dict(record.flow), TrainConfig.from_dict(record.training)
    except ConfigError as error:
        return f"its options are not of this version ({error})"
    theirs: dict[str, Any] = {
        "trial": record.trial,
        "data": record.data.fingerprint,
        "seeds": record.seeds,
    }
    theirs |= _kept_out(record.data)
    theirs |= _options(*options) | record.params
    return next(
        (
            f"its {key} is {theirs[key]!r}, the trial's {ours[key]!r}"
            for key in ours
            if key in theirs and theirs[key] != ours[key]
        ),
        None,
    )


def _options(*configs: FlowConfig | TrainConfig) -> dict[str, Any]:
    """What decides the course of a training, by name."""
    every = {key: value for one in configs for key, value in dataclasses.asdict(one).items()}
    return {key: value for key, value in every.items() if key not in FREE_TO_CHANGE}


def _kept_out(data: DataTable | DataUsed) -> dict[str, Any]:
    """The cells that are not trained on, without an order, neither theirs nor of conditions."""
    named = {"held-out cells": data.hold_out_cells, "report cells": data.report_cells}
    return {what: sorted(sorted(cell.items()) for cell in cells) for what, cells in named.items()}
