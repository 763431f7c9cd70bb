"""The Optuna study behind a study file: made, opened, continued.

The resolved study file is stored in the study (`hpo:spec`), so that a worker or a later command
needs only the database and a name. A study whose search was changed is another study.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.queue.fence import fenced
from hpo.queue.leases import Claim, Lease, Owner
from hpo.queue.reaper import Reaped, reap
from hpo.queue.slots import Slots
from hpo.queue.tables import make_tables
from hpo.queue.trials import TrialSummary
from hpo.records.folder import read
from hpo.records.record import NAME, Cost, DataUsed, Environment, RecordError, RunRecord, now
from hpo.storage.open import open_study
from hpo.study.adoption import told
from hpo.study.place import store_place
from hpo.study.spec import SpecError, StudySpec
from models.config import FREE_TO_CHANGE

SPEC_ATTRIBUTE = "hpo:spec"
DATA_ATTRIBUTE = "hpo:data"
STOP_ATTRIBUTE = "hpo:stop"
ON_ATTRIBUTE = "hpo:on"
"""Where the workers of the last launch were: `local` or `slurm`."""
RENAMING_ATTRIBUTE = "hpo:renaming"


def create_study(
    storage: RDBStorage, spec: StudySpec, *, runs: Path, fingerprint: str
) -> optuna.Study:
    """The study that `spec` describes: a new one, or the one of that name to be continued.

    The data's path in `spec` is absolute, and its held-out cells are named; the dataset's
    fingerprint is stored with it, since a folder's content can change under its name.

    Raises:
        SpecError: If a study of that name searches something else. Lists what differs.
    """
    assert spec.data.hold_out is None, "the cells that it stands for are named in a plan"
    make_tables(storage.engine)  # which lets nothing of a deleted study be taken for the new one's
    study = optuna.create_study(
        study_name=spec.study.name, storage=storage, load_if_exists=True, direction="minimize"
    )
    if new := new_name(study):
        fault = f"it is half renamed: run hpo rename {study.study_name} {new} first"
        raise SpecError(f"the study {study.study_name!r}", [fault])
    # One without trials may be left by a launch that died as it made it.
    if SPEC_ATTRIBUTE in study.user_attrs or study.get_trials(deepcopy=False):
        faults = list(_differences(study, spec, fingerprint))
        if faults:
            hint = (
                "give this one another name (--name), or take these changes back: hpo launch "
                f"{study.study_name} goes on with it as it is"
            )
            raise SpecError(f"the study {spec.study.name!r}", [*faults, hint])
    store_place(storage, study, runs)
    study.set_user_attr(DATA_ATTRIBUTE, fingerprint)
    study.set_user_attr(SPEC_ATTRIBUTE, spec.to_json())  # last: a study that has it is whole
    return study


def load_study(storage: RDBStorage, name: str) -> tuple[optuna.Study, StudySpec]:
    """The study of that name and its resolved file.

    Raises:
        StorageError: If there is none.
        SpecError: If another program made it.
    """
    study = open_study(storage, name)
    text = study.user_attrs.get(SPEC_ATTRIBUTE)
    if text is None:
        raise SpecError(f"the study {name!r}", ["it was not made by `hpo launch`"])
    return study, StudySpec.from_json(text)


def slots_of(study: optuna.Study, spec: StudySpec) -> Slots:
    """The trials of a study, to be claimed."""
    return Slots(study, max_restarts=spec.study.max_restarts)


def new_name(study: optuna.Study) -> str | None:
    """The name that the study gets, where a rename was broken off; else None."""
    new = study.user_attrs.get(RENAMING_ATTRIBUTE)
    return None if new == study.study_name else new


def trial_folder(runs: Path, study: str, number: int) -> Path:
    """Where trial `number` keeps its record, checkpoint and log."""
    return runs / study / trial_name(number)


def record_of(folder: Path, number: int) -> RunRecord | None:
    """The record of a trial in its study's folder; None while there is none that can be read."""
    try:
        return read(folder / trial_name(number) / NAME)
    except RecordError:
        return None


def reap_lost_trials(
    study: optuna.Study,
    slots: Slots,
    folder: Path,
    me: Owner | None = None,
    *,
    leases: Sequence[Lease] | None = None,
) -> Reaped:
    """Take back the trials of dead workers, and end those that were lost too often."""
    reason = (
        f"its worker died {slots.max_restarts + 1} times before an epoch ended: see log.txt, "
        "and the folder workers for what the workers said"
    )

    def end(claim: Claim) -> None:
        end_trial(study, slots, claim, folder, reason)

    return reap(slots, me, leases=leases, end=end)


def end_trial(study: optuna.Study, slots: Slots, claim: Claim, folder: Path, reason: str) -> None:
    """End a trial that no worker goes on with: its record in the study's folder, then the study.

    In this order, so that whoever comes back after a kill finds both still to be done. A run that
    ended before its worker died is told as what it was.

    Raises:
        LeaseLost: If the trial was taken away.
    """
    with fenced(slots, claim, folder / trial_name(claim.number)) as fence:
        known = slots.trial_of(claim).params
        record = record_of(folder, claim.number)
        if record and record.params != known:
            fence.set_aside()
            record = None
        if record is None:
            record = dataclasses.replace(blank_record(study, claim.number), params=known)
        if record.state == "running":
            record = dataclasses.replace(record, state="failed", reason=reason, updated=now())
            with fence.writing() as drafts:
                record.write(fence.folder, parents=False, within=drafts)
    slots.finish(claim, *told(record))


def blank_record(study: optuna.Study, number: int) -> RunRecord:
    """The record of a trial that was begun, with nothing else known of it."""
    spec = StudySpec.from_json(study.user_attrs[SPEC_ATTRIBUTE])
    return RunRecord(
        study=study.study_name,
        trial=number,
        state="running",
        params={},
        flow={},
        training={},
        data=DataUsed(
            path=spec.data.path,
            fingerprint=study.user_attrs[DATA_ATTRIBUTE],
            rows={},
            hold_out_cells=tuple(spec.data.hold_out_cells),
            report_cells=tuple(spec.data.report_cells),
        ),
        environment=Environment(versions={}, device="", host=None, threads=None),
        cost=Cost(parameters=None, flops_per_event=None, seconds=None),
        started=None,
        updated=now(),
    )


def stop_reason(
    spec: StudySpec, attributes: Mapping[str, Any], trials: Callable[[], Iterable[TrialSummary]]
) -> str | None:
    """Why no new trial starts: `hpo stop`, or the study's own rule. None when one may.

    Args:
        spec: The study's file.
        attributes: Its user attributes.
        trials: Gives its trials; called only where the study has such a rule.
    """
    if attributes.get(STOP_ATTRIBUTE, False):
        return "stopped by hpo stop"
    limit = spec.study.stop_after_no_improvement
    if limit and _since_best(trials()) >= limit:
        return f"no better trial among the last {limit} ([study] stop_after_no_improvement)"
    return None


def _since_best(summaries: Iterable[TrialSummary]) -> int:
    """Trials that ended after the best one did, or in all if none has a result."""
    ended = [one for one in summaries if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    ended.sort(key=lambda one: (one.ended or datetime.max.replace(tzinfo=UTC), one.number))
    values = [
        one.value if one.state is TrialState.COMPLETE and one.value is not None else math.inf
        for one in ended
    ]
    best = min(values, default=math.inf)
    return len(values) if best == math.inf else len(values) - 1 - values.index(best)


def _differences(study: optuna.Study, spec: StudySpec, fingerprint: str) -> Iterator[str]:
    """A sentence for each difference between the study in the database and this one."""
    text = study.user_attrs.get(SPEC_ATTRIBUTE)
    if text is None:
        yield "a study of that name was made by another program"
        return
    # Both as they are stored: a version that knows more options has filled them in on both sides.
    stored = StudySpec.from_json(text)
    there, here = _compared(stored), _compared(spec)
    for key in sorted(there.keys() | here.keys()):
        was, now = there.get(key, "absent"), here.get(key, "absent")
        if was != now:
            yield f"{key} is {was} there and {now} here"
    if study.user_attrs.get(DATA_ATTRIBUTE) != fingerprint:
        yield (
            f"its trials were trained on other data ({stored.data.path}) than "
            f"{spec.data.path} holds now"
        )


def _compared(spec: StudySpec) -> dict[str, str]:
    """The values that may not change in a study, as JSON, by table and key."""
    tables = json.loads(spec.to_json())
    values = {
        f"[{table}] {key}": value
        for table in ("space", "flow", "training", "pruner", "sampler")
        for key, value in tables[table].items()
        if key not in FREE_TO_CHANGE and value is not None
    }
    values["[study] seed"] = spec.study.seed
    # Neither the order of cells nor that of their conditions is a difference.
    for which in ("hold_out_cells", "report_cells"):
        cells = getattr(spec.data, which)
        values[f"[data] {which}"] = sorted(cells, key=lambda cell: sorted(cell.items()))
    return {key: json.dumps(value, sort_keys=True) for key, value in values.items()}


def trial_name(number: int) -> str:
    return f"trial-{number:05d}"
