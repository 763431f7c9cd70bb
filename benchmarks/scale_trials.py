"""What the trials of a study cost: bytes, statements, and the time of every look at them.

Studies are made up: the parameters of the shipped study `bbh`, three of four trials pruned at its
first rung and most others at its second, intermediate values, and a run JSON each, written as those
of real trials are. Rows go into Optuna's tables in bulk, since `study.add_trial` takes longer than
all that is measured here.

The choice of a trial to export is timed in a fresh process, which this file is when it is run:

    python benchmarks/scale_trials.py FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dashboard
import numpy as np
import optuna
import sqlalchemy as sql
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState
from playwright.sync_api import sync_playwright
from worker_loop import Loop, Meeting, Place, listening, together

from hpo.emulator.choice import best
from hpo.queue.leases import Owner
from hpo.queue.slots import Slots
from hpo.records.record import RunRecord
from hpo.storage.address import VARIABLE, url_of
from hpo.storage.open import open_storage
from hpo.study import space
from hpo.study.spec import StudySpec, load
from hpo.study.study import create_study, load_study, trial_name

COUNTED = 10
"""Trials that are timed, after the first, for which a worker reads all that there are."""
EPOCHS = 8
"""Of each of them, past the first rung."""
BESIDE = 8
"""Trials that run meanwhile."""
RUNGS = ((0.75, 4), (0.94, 16))
"""Which share of the trials is pruned at these epochs or before."""
SAMPLERS = ("random", "tpe")
Figures = dict[str, Any]


def measured(
    folder: Path | None, counts: Sequence[int], repeats: int, postgres: str | None
) -> Iterator[Figures]:
    """A line for each database and number of trials, and one for each number of run JSONs.

    All studies are made first and take turns, so that a busy moment of the machine hits all alike.
    """
    databases = ("SQLite", "PostgreSQL") if postgres else ("SQLite",)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scale-", dir=folder)))
        trials, subjects = {}, []
        for count in counts:
            spec = load("bbh", name=f"scale-{uuid.uuid4().hex[:8]}")
            trials[count] = spec, list(invented(spec, count))
            for database in databases:
                made = stack.enter_context(_place(database, postgres, place, spec))
                subjects.append(_subject(database, made, *trials[count], place))
        print(f"       {len(subjects)} studies made", flush=True)
        rounds = [[_looked_at(one, place) for one in subjects] for _ in range(repeats)]
        for one, figures in zip(subjects, zip(*rounds, strict=True), strict=True):
            yield one.line | medians(figures)
        for count, (spec, those) in trials.items():
            yield {"trials": count} | _of_records(place / f"runs-{count}", spec, those, repeats)
            print(f"       {count:,} run JSONs done", flush=True)


def medians(figures: Sequence[Figures]) -> Figures:
    """The median of each figure, inside of groups, too."""
    return {
        name: medians([each[name] for each in figures])
        if isinstance(value, dict)
        else statistics.median(each[name] for each in figures)
        for name, value in figures[0].items()
    }


# ---- a study that is made up


@dataclass(frozen=True, kw_only=True, slots=True)
class Invented:
    """A finished trial, as the database and its run JSON tell of it."""

    frozen: optuna.trial.FrozenTrial
    record: RunRecord


def invented(spec: StudySpec, count: int) -> Iterator[Invented]:
    """Trials as a search of this study leaves them."""
    rng = np.random.default_rng(0)
    memory = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(count):
        trial = memory.ask()
        flow, training = space.suggest(trial, spec.space, spec.flow, spec.training, seed=number)
        luck = rng.random()
        epochs = next((at for share, at in RUNGS if luck < share), spec.training.epochs)
        pruned = epochs < spec.training.epochs
        record = dataclasses.replace(
            dashboard.invented(rng, number, epochs),
            study=spec.study.name,
            state="pruned" if pruned else "complete",
            params=dict(trial.params),
            flow=dataclasses.asdict(flow),
            training=dataclasses.asdict(training),
            pruner=dataclasses.asdict(spec.pruner),
        )
        yield Invented(frozen=_frozen(trial, record, pruned=pruned), record=record)


def _frozen(trial: optuna.Trial, record: RunRecord, *, pruned: bool) -> optuna.trial.FrozenTrial:
    start = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=1, seconds=-trial.number)
    values = {row.epoch: row.val_nll for row in record.epochs if row.val_nll is not None}
    passed = [at for _, at in RUNGS if at <= len(record.epochs)]
    frozen = optuna.trial.create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=values[len(record.epochs)] if pruned else record.best_val_nll,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=values,
        system_attrs={f"completed_rung_{rung}": values[at] for rung, at in enumerate(passed)},
    )
    frozen.number = trial.number
    frozen.datetime_start, frozen.datetime_complete = start, start + timedelta(seconds=300)
    return frozen


def put(engine: sql.Engine, study_id: int, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
    """Write the trials into Optuna's tables."""
    with engine.begin() as connection:
        connection.execute(
            sql.insert(models.TrialModel.__table__),
            [
                {
                    "study_id": study_id,
                    "number": one.number,
                    "state": one.state,
                    "datetime_start": one.datetime_start,
                    "datetime_complete": one.datetime_complete,
                }
                for one in trials
            ],
        )
        table = models.TrialModel.__table__
        here = sql.select(table.c.number, table.c.trial_id).where(table.c.study_id == study_id)
        ids = {row.number: row.trial_id for row in connection.execute(here)}
        for model, rows_of in _CHILDREN.items():
            rows = [{"trial_id": ids[one.number]} | row for one in trials for row in rows_of(one)]
            connection.execute(sql.insert(model.__table__), rows)


def _params(one: optuna.trial.FrozenTrial) -> Iterator[Figures]:
    for name, value in one.params.items():
        distribution = one.distributions[name]
        yield {
            "param_name": name,
            "param_value": distribution.to_internal_repr(value),
            "distribution_json": distribution_to_json(distribution),
        }


def _values(one: optuna.trial.FrozenTrial) -> Iterator[Figures]:
    stored, kind = models.TrialValueModel.value_to_stored_repr(one.value)
    yield {"objective": 0, "value": stored, "value_type": kind}


def _reports(one: optuna.trial.FrozenTrial) -> Iterator[Figures]:
    of = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    for step, value in one.intermediate_values.items():
        stored, kind = of(value)
        yield {"step": step, "intermediate_value": stored, "intermediate_value_type": kind}


def _attributes(one: optuna.trial.FrozenTrial) -> Iterator[Figures]:
    for key, value in one.system_attrs.items():
        yield {"key": key, "value_json": json.dumps(value)}


_CHILDREN: dict[Any, Callable[[optuna.trial.FrozenTrial], Iterator[Figures]]] = {
    models.TrialParamModel: _params,
    models.TrialValueModel: _values,
    models.TrialIntermediateValueModel: _reports,
    models.TrialSystemAttributeModel: _attributes,
}


# ---- the database


@contextmanager
def _place(database: str, postgres: str | None, folder: Path, spec: StudySpec) -> Iterator[Place]:
    """Where the study may be made: a file, or a schema of its own on the server."""
    name = spec.study.name
    if database == "SQLite":
        yield Place(name=name, url=f"sqlite:///{folder / name}.db")
        return
    url = url_of(postgres, folder)
    engine = sql.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'create schema "{name}"')
        try:
            mine = url.update_query_dict({"options": f"-csearch_path={name}"})
            yield Place(name=name, url=mine.render_as_string(hide_password=False))
        finally:
            connection.exec_driver_sql(f'drop schema "{name}" cascade')
    engine.dispose()


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A study with its finished trials, some that run, and enough that wait."""

    place: Place
    spec: StudySpec
    line: Figures
    """What is known of it before anything is timed."""


def _subject(
    database: str, place: Place, spec: StudySpec, trials: Sequence[Invented], folder: Path
) -> Subject:
    storage = place.ours()
    study = create_study(storage, spec, runs=folder / "runs", fingerprint="ab" * 32)
    put(storage.engine, study._study_id, [one.frozen for one in trials])
    size = _bytes(storage.engine)
    slots = Slots(study, max_restarts=spec.study.max_restarts)
    slots.set_total(len(trials) + 10_000)
    me = Owner.this_process()
    for _ in range(BESIDE):
        slots.claim(me)
    storage.engine.dispose()
    line = {"database": database, "trials": len(trials), "bytes": size}
    return Subject(place=place, spec=spec, line=line)


def _looked_at(one: Subject, folder: Path) -> Figures:
    command = ["status", one.spec.study.name, "--runs", str(folder / "runs")]
    return {
        sampler: together(_talk, 1, one.place, _with_sampler(one.spec, sampler))[0]
        for sampler in SAMPLERS
    } | {"status_s": _command_s(command, 1, storage=one.place.url)}


def _bytes(engine: sql.Engine) -> int:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            pages = connection.exec_driver_sql("pragma page_count").scalar_one()
            return int(pages * connection.exec_driver_sql("pragma page_size").scalar_one())
        return int(
            connection.exec_driver_sql(
                "select sum(pg_total_relation_size(oid)) from pg_class where relkind = 'r' "
                "and relnamespace = current_schema()::regnamespace"
            ).scalar_one()
        )


def _with_sampler(spec: StudySpec, kind: str) -> StudySpec:
    return dataclasses.replace(spec, sampler=dataclasses.replace(spec.sampler, kind=kind))


def _talk(meet: Meeting, rank: int, place: Place, spec: StudySpec) -> Figures:
    """What one worker says to its database for a trial, and how long that takes."""

    def objective(trial: optuna.Trial, on_epoch: Callable[[], None]) -> float:
        space.suggest(trial, spec.space, spec.flow, spec.training, seed=trial.number)
        for epoch in range(1, EPOCHS + 1):
            on_epoch()
            trial.report(-1.0 - trial.number, epoch)  # the best so far, so that none is pruned
            assert not trial.should_prune()
        return -1.0 - trial.number

    loop = Loop(place, spec)
    start = time.perf_counter()
    loop.step(objective)
    first_s = time.perf_counter() - start
    taken = []
    engine = loop.study._storage._backend.engine  # type: ignore[attr-defined]
    with listening(engine) as heard:
        for _ in range(COUNTED):
            loop.seconds.clear()
            start = time.perf_counter()
            loop.step(objective)
            taken.append({"whole": time.perf_counter() - start} | loop.seconds)
    laps = {name: 1e3 * statistics.median(one[name] for one in taken) for name in taken[0]}
    return {"first_s": first_s, "ms": laps, "statements": heard["statement"] / COUNTED}


# ---- what people look at


def _of_records(folder: Path, spec: StudySpec, trials: Sequence[Invented], repeats: int) -> Figures:
    of_study = folder / spec.study.name
    for one in trials:
        path = one.record.write(of_study / trial_name(one.frozen.number))
    size = sum(each.stat().st_size for each in of_study.glob("*/run.json"))
    storage = open_storage(url_of(None, folder))
    study = create_study(storage, spec, runs=folder, fingerprint="ab" * 32)
    put(storage.engine, study._study_id, [one.frozen for one in trials])
    storage.engine.dispose()
    chosen = [sys.executable, __file__, str(of_study)]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        watched = [dashboard.watched(browser, folder, path) for _ in range(repeats)]
        browser.close()
    return {
        "bytes": size,
        "runs_s": _command_s(["runs", str(folder), "--best", "10"], repeats),
        "runs_csv_s": _command_s(["runs", str(folder), "--format", "csv"], repeats),
        "export_s": statistics.median(
            float(subprocess.run(chosen, check=True, capture_output=True, text=True).stdout)
            for _ in range(repeats)
        ),
    } | {name: statistics.median(one[name] for one in watched) for name in watched[0]}


def _command_s(words: Sequence[str], repeats: int, *, storage: str | None = None) -> float:
    """Seconds of an `hpo` command, its start with it."""
    environment = os.environ | ({VARIABLE: storage} if storage else {})
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "hpo.cli", *words],
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment,
        )
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    folder = Path(sys.argv[1])
    start = time.perf_counter()
    study, _ = load_study(open_storage(url_of(None, folder.parent), reading=True), folder.name)
    best(study, folder)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
