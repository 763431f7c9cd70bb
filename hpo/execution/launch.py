"""`hpo launch`: make or continue a study.

The number of trials is the study's total. Whatever ended the last launch, the same command finishes
what is missing.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from sqlalchemy.engine import URL

from data_prep.dataset import located
from data_prep.words.numbers import counted
from hpo.doctor import machine
from hpo.execution import optuna_note
from hpo.execution.plan import Plan, make_plan
from hpo.execution.slurm import sbatch_text
from hpo.queue.slots import Slots
from hpo.queue.total import NewTotal
from hpo.storage.address import VARIABLE, StorageError, hand_down
from hpo.storage.open import kept_in_file, open_storage
from hpo.study.place import folder_of, runs_of_launch
from hpo.study.space import Scalar, default_point, grid
from hpo.study.spec import SpecError, StudySpec, load
from hpo.study.study import (
    DATA_ATTRIBUTE,
    ON_ATTRIBUTE,
    SPEC_ATTRIBUTE,
    STOP_ATTRIBUTE,
    create_study,
    load_study,
    slots_of,
)


def begin(
    plan: Plan, *, tell: Callable[[str], None] = lambda _: None
) -> tuple[optuna.Study, Slots]:
    """Make the study, or continue it, with all its trials waiting.

    `tell` takes a sentence where it comes to another number of trials than `plan` has.

    Raises:
        PreflightError: If this machine, the database or the cluster is not fit. Lists all faults.
        SpecError: If a study of that name searches something else, or its folder is another's.
        InputError: If SLURM could not write to a folder of that name.
        StorageError: If the database does not answer.
    """
    spec = plan.spec
    machine.refuse(
        machine.check(
            spec,
            on=plan.on,
            runs=plan.runs,
            url=plan.url,
            workers=plan.workers,
            force_sqlite=plan.force_sqlite,
            script=sbatch_text(spec, plan.runs, plan.workers) if plan.on == "slurm" else None,
        )
    )
    study, slots = _make(plan)
    made = slots.set_total(plan.trials, lower=plan.lowers, points=_points(study, spec))
    if told := _told(plan, made):
        tell(told)
    study.set_user_attr(STOP_ATTRIBUTE, False)
    study.set_user_attr(ON_ATTRIBUTE, plan.on)
    hand_down(plan.url)
    return study, slots


def _points(study: optuna.Study, spec: StudySpec) -> list[dict[str, Scalar]]:
    """Parameters of trials that no sampler chooses: a grid's, or the default for the first one.

    It may well be among the best, and the Parzen estimator then begins from what it came to.
    """
    if spec.sampler.kind == "grid":
        return grid(spec.space)
    if spec.sampler.kind == "random" or study.get_trials(deepcopy=False):
        return []
    point = default_point(spec.space, spec.flow, spec.training)
    return [point] if point else []


def asked_for(
    reference: str, *, settings: Sequence[str], name: str | None, runs: Path | None, url: URL
) -> StudySpec:
    """The study by its file, or by its name in the database, with all that it was made with.

    Args:
        reference: A name; of a shipped study or a file, if the database has none of that name.
        settings: `TABLE.KEY=VALUE` each, laid over it.
        name: Makes another study of the file's.
        runs: As `--runs` says.
        url: Of the database.

    Raises:
        SpecError: As `load`.
        PlaceError: If the study's folder is not where it should be.
    """
    stored = None
    if not (name or reference.endswith(".toml") or Path(reference).is_file()):
        stored = _stored(reference, runs, url)
    if stored is None:
        return load(reference, settings=settings, name=name)
    return StudySpec.from_json(stored.to_json(), settings)


def _stored(name: str, runs: Path | None, url: URL) -> StudySpec | None:
    """The study of that name with the trials that it has, and its data where they are now."""
    try:
        storage = open_storage(url, reading=True, retrying=False)
    except StorageError:  # none yet; any other fault is told by the launch, with all others
        return None
    try:
        if name not in optuna.get_all_study_names(storage):
            return None
        study = optuna.load_study(study_name=name, storage=storage)
        if SPEC_ATTRIBUTE not in study.user_attrs:  # another program's, or a half made one
            return None
        study, spec = load_study(storage, name)
        data = located(
            Path(spec.data.path), study.user_attrs[DATA_ATTRIBUTE], folder_of(storage, study, runs)
        )
        return dataclasses.replace(
            spec,
            study=dataclasses.replace(spec.study, trials=slots_of(study, spec).look().total),
            data=dataclasses.replace(spec.data, path=str(data)),
        )
    finally:
        storage.engine.dispose()


def open_or_make(reference: str, *, runs: Path | None, url: URL) -> tuple[StudySpec, Slots]:
    """A study by its name, or by its file, which makes it if it is new, without any trial yet.

    Raises:
        StorageError: If there is no study of that name.
        SpecError: As `begin`.
    """
    if Path(reference).suffix != ".toml":
        study, spec = load_study(open_storage(url), reference)
        return spec, slots_of(study, spec)
    spec = load(reference)
    place = runs_of_launch(url, spec.study.name, runs)
    plan = make_plan(spec, trials=None, workers=1, on="local", runs=place, url=url)
    return plan.spec, _make(plan)[1]


def detach(arguments: Sequence[str], plan: Plan) -> Path:
    """Run the same command in the background and give back the file with what it prints.

    Args:
        arguments: Of `hpo`, without the storage: everyone can read a command line. `begin` has put
            it into the environment.
        plan: The plan that they mean.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    output = plan.folder / "launch.log"
    with output.open("ab") as file:
        subprocess.Popen(
            [sys.executable, "-m", "hpo.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return output


def _told(plan: Plan, made: NewTotal) -> str | None:
    """What a user has to know about the number of trials; None if all is as the plan has it."""
    name, asked = plan.spec.study.name, plan.trials
    if asked == made.now >= made.before:
        return None
    if not plan.lowers:
        total = counted(made.now, "trial")
        return f"{name}: goes on to {total}, as before: --trials sets another number"
    change = f"{made.before} -> {made.now}" if made.now < made.before else f"{made.now}"
    more = made.now - max(asked, made.begun)
    points = "waiting point" if made.removed == 1 else "waiting points"
    reasons = [
        *([f"{made.begun} have begun"] if made.begun > asked else []),
        *([f"{more} {'was' if more == 1 else 'were'} enqueued beyond {asked}"] if more else []),
        *([f"{made.removed} {points} removed"] if made.removed else []),
    ]
    return f"{name}: {change} trials" + (f": {', '.join(reasons)}" if reasons else "")


def _make(plan: Plan) -> tuple[optuna.Study, Slots]:
    """The study, with the trials that it has."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(plan.url)
    name = plan.spec.study.name
    if name not in optuna.get_all_study_names(storage) and any(plan.folder.glob("trial-*")):
        hint = kept_in_file(storage, name, plan.runs)
        if not hint and os.environ.get(VARIABLE):
            hint = " (is HPO_STORAGE set to another one?)"
        fault = (
            f"{plan.folder} holds trials of an earlier study of that name, which the database does "
            f"not know{hint}: move the folder away, or give this study another --name"
        )
        raise SpecError(f"the study {name!r}", [fault])
    study = create_study(storage, plan.spec, runs=plan.runs, fingerprint=plan.dataset.fingerprint)
    optuna_note.describe(study, plan)
    return study, slots_of(study, plan.spec)
