"""The studies of a database, to be listed, renamed and deleted with all that belongs to them.

Every step can be taken again, and what is the database's comes last: killed anywhere, a rename or a
deletion is finished by the same command.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
from optuna.storages import RDBStorage

from data_prep.errors import InputError
from data_prep.words.numbers import counted
from hpo.cluster.jobs import job_states
from hpo.queue.slots import Slots
from hpo.queue.trials import TrialReader
from hpo.records.folder import read_all
from hpo.records.record import NAME, RunRecord
from hpo.study.place import PlaceError, folder_of, holds, places
from hpo.study.study import (
    RENAMING_ATTRIBUTE,
    SPEC_ATTRIBUTE,
    STOP_ATTRIBUTE,
    load_study,
    new_name,
    slots_of,
)


class RegisterError(InputError):
    """A study that cannot be renamed or deleted now. The message says why and the remedy."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Belongings:
    """What there is of a study."""

    trials: int
    """Trials that have begun."""
    folder: Path | None
    """Of its trials; None where it is not there."""
    files: int
    size: int
    """Of the files, in bytes."""


def listing(storage: RDBStorage, told: Path | None) -> list[dict[str, object]]:
    """A row for each study: trials that ended and in all, the best, its folder, when it last did
    anything.

    `best` is of the study's objective, in nats per event; `active` is in UTC. Of a study that
    another program made only the name and the number of trials are told.
    """
    return [_row(storage, name, told) for name in optuna.get_all_study_names(storage)]


def belongings(storage: RDBStorage, name: str, told: Path | None) -> Belongings:
    """What `delete` would take away.

    Raises:
        StorageError, SpecError: If there is no such study, or another program made it.
        PlaceError: If `--runs` names another folder than that of its runs.
        RegisterError: If workers are at it.
    """
    study, slots = _idle(storage, name)
    found = _folders(storage, study, told)
    files = [path for each in found for path in each.rglob("*") if not path.is_dir()]
    return Belongings(
        trials=sum(one.began is not None for one in slots.look().trials),
        folder=found[-1] if found else None,
        files=len(files),
        size=sum(path.lstat().st_size for path in files),
    )


def delete(storage: RDBStorage, name: str, told: Path | None) -> None:
    """Delete a study: its folder, then its rows in the database. Raises as `belongings`."""
    study, slots = _idle(storage, name)
    study.set_user_attr(STOP_ATTRIBUTE, True)  # a job that starts meanwhile begins no trial
    for folder in _folders(storage, study, told):
        hidden = _hidden(folder.parent, name)
        os.rename(folder, hidden)  # at once: to remove its files takes time
        shutil.rmtree(hidden.resolve())
        if hidden.is_symlink():
            hidden.unlink()
    slots.delete()
    optuna.delete_study(study_name=name, storage=storage)


def rename(storage: RDBStorage, old: str, new: str, told: Path | None) -> Path:
    """Rename a study: its folder, its records, what is stored of it. Gives the folder.

    Raises:
        StorageError, SpecError: If there is no such study, or another program made it.
        ConfigError: If the new name cannot be one.
        PlaceError: If its folder is not found.
        RegisterError: If workers are at it, or the new name is taken.
    """
    study, slots = _idle(storage, old)
    _, spec = load_study(storage, old)
    spec = dataclasses.replace(spec, study=dataclasses.replace(spec.study, name=new))
    if new in optuna.get_all_study_names(storage):
        raise RegisterError(f"there is a study {new!r} already: choose another name")
    if (begun := new_name(study)) not in (None, new):
        raise RegisterError(f"{old!r} is half renamed: run hpo rename {old} {begun} first")
    folder = _moved(storage, study, new, told)
    for path, record in read_all(folder) if folder.is_dir() else ():
        if path.name == NAME and isinstance(record, RunRecord) and record.study != new:
            dataclasses.replace(record, study=new).write(path.parent, parents=False)
    study.set_user_attr(SPEC_ATTRIBUTE, spec.to_json())
    slots.rename(new)
    study.set_user_attr(RENAMING_ATTRIBUTE, None)
    return folder


def _idle(storage: RDBStorage, name: str) -> tuple[optuna.Study, Slots]:
    """The study, at which nobody works."""
    study, spec = load_study(storage, name)
    slots = slots_of(study, spec)
    jobs = job_states(slots.jobs())
    running = sum(lease.lives(jobs) for lease in slots.leases())
    if running or jobs:
        raise RegisterError(
            f"{name!r} has {counted(running, 'trial')} in the hands of workers and "
            f"{counted(len(jobs or ()), 'job')} in SLURM: run hpo stop {name} --now first"
        )
    return study, slots


def _folders(storage: RDBStorage, study: optuna.Study, told: Path | None) -> list[Path]:
    """The folder of the study, where it is there, after what a broken deletion left of it."""
    name = study.study_name
    hidden = (_hidden(runs, name) for runs in places(storage, study, told))
    found = [one for one in hidden if os.path.lexists(one)]
    try:
        folder = folder_of(storage, study, told)
        return [*found, folder] if holds(folder) else found
    except PlaceError as error:
        if error.lost:
            return found
        raise


def _hidden(runs: Path, name: str) -> Path:
    """Where the folder of a study is while it is deleted: no name of a study begins with a dot."""
    return runs / f".{name}.deleted"


def _moved(storage: RDBStorage, study: optuna.Study, new: str, told: Path | None) -> Path:
    """The folder of the study under its new name, which it may have from a rename broken off."""
    if new_name(study):
        for runs in places(storage, study, told):
            if holds(runs / new):
                return runs / new
    before = folder_of(storage, study, told)
    after = before.with_name(new)
    if os.path.lexists(after):
        raise RegisterError(f"{after} is there already: move it away, or choose another name")
    study.set_user_attr(RENAMING_ATTRIBUTE, new)
    if holds(before):
        os.rename(before, after)
    return after


def _row(storage: RDBStorage, name: str, told: Path | None) -> dict[str, object]:
    study = optuna.load_study(study_name=name, storage=storage)
    if SPEC_ATTRIBUTE not in study.user_attrs:
        unknown = dict.fromkeys(("ended", "trials", "best", "runs", "active"))
        return {"study": name} | unknown | {"trials": storage.get_n_trials(study._study_id)}
    seen, now = TrialReader(study).look(), datetime.now(UTC)
    times = [time for one in seen.trials for time in (one.began, one.ended) if time]
    times += [now - timedelta(seconds=lease.silent_s) for lease in seen.leases]
    try:
        folder = folder_of(storage, study, told)
    except PlaceError as error:
        folder = error.folder
    return {
        "study": name,
        "ended": len(seen.finished),
        "trials": seen.total,
        "best": next((one.value for one in seen.ranked), None),
        "runs": str(folder) if holds(folder) else None,
        "active": max(times).isoformat(timespec="seconds") if times else None,
    }
