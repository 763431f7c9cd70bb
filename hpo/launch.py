"""`hpo launch`: make or continue a study, start workers, follow them until all trials are done.

The number of trials is the study's total. Whatever ended the last launch, the same command finishes
what is missing.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from rich.console import Console
from sqlalchemy.engine import URL

from data_prep import cells
from data_prep.columns import SAMPLE, Dataset
from hpo import cluster, progress, status
from hpo import study as studies
from hpo.cluster import Plan
from hpo.record import RunRecord
from hpo.slots import Slots
from hpo.space import grid
from hpo.spec import SpecError, StudySpec
from hpo.storage import VARIABLE, StorageError, hand_down, masked, open_storage

POLL_S = 1.0
"""Seconds between looks at the database."""


class LaunchError(RuntimeError):
    """The workers could not do their work. The message names the file that says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """A study ready to run."""

    plan: Plan
    trials: int
    url: URL
    dataset: Dataset

    def describe(self) -> str:
        """The resolved study, for people."""
        spec, data = self.plan.spec, self.dataset
        rows = sum(data.rows.values())
        return "\n".join(
            [
                f"study    {spec.study.name}: {self.trials} trials, {self.plan.workers} workers "
                f"({self.plan.on}), threads of each: {self.plan.threads}",
                f"data     {spec.data.path}: {rows:,} rows in {len(data.cells)} cells"
                f"{self._held_out()}",
                f"search   {spec.sampler.kind}, pruner {spec.pruner.kind}, "
                f"at most {spec.training.epochs} epochs a trial",
                f"storage  {masked(self.url)}",
                f"runs     {self.plan.runs / spec.study.name}",
            ]
        )

    def _held_out(self) -> str:
        count = len(self.plan.spec.data.hold_out_cells)
        return f", {count} of them held out" if count else ""


def prepare(
    spec: StudySpec,
    *,
    trials: int | None,
    workers: int | None,
    on: str,
    runs: Path,
    url: URL,
) -> Launch:
    """Check everything that can be checked before anything is made.

    Raises:
        SpecError: If the trials do not fit a grid, or the cells to be held out not the data.
        DataError: If the data is not a prepared dataset.
    """
    data = SAMPLE if spec.data.path == "sample" else Path(spec.data.path).absolute()
    dataset = Dataset.read(data)
    table = dataclasses.replace(
        spec.data, path=str(data), hold_out_cells=_held_out(spec, dataset, data)
    )
    spec = dataclasses.replace(spec, data=table)
    total = trials or spec.study.trials
    if spec.sampler.kind == "grid" and total > (points := len(grid(spec.space))):
        fault = f"its grid has {points} points, so --trials can be {points} at most, not {total}"
        raise SpecError(f"the study {spec.study.name!r}", [fault])
    count = workers or spec.study.workers or min(8, cluster.cores())
    plan = Plan(spec=spec, runs=runs.absolute(), on=on, workers=min(count, total))
    return Launch(plan=plan, trials=total, url=url, dataset=dataset)


def begin(launch: Launch) -> tuple[optuna.Study, Slots]:
    """Make the study, or continue it, with all its trials waiting.

    Raises:
        SpecError: If a study of that name searches something else, or its folder is another's.
        StorageError: If the database does not answer, or is not for that many machines.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = launch.plan.spec
    if launch.plan.on == "slurm" and launch.url.get_backend_name() == "sqlite":
        raise StorageError(
            f"{masked(launch.url)} is for one machine: SQLite's locks do not hold between "
            "nodes; give a server with --storage postgresql+psycopg://user@host/database"
        )
    storage = open_storage(launch.url)
    _refuse_leftovers(storage, launch.plan)
    study = studies.create(
        storage, spec, runs=launch.plan.runs, fingerprint=launch.dataset.fingerprint
    )
    slots = Slots(study, max_restarts=spec.study.max_restarts)
    points = grid(spec.space) if spec.sampler.kind == "grid" else None
    slots.top_up(launch.trials, points=points)
    hand_down(launch.url)
    return study, slots


def follow(launch: Launch, study: optuna.Study, slots: Slots, console: Console) -> status.Look:
    """Keep workers going until the study is done, and give back the last look at it.

    Raises:
        LaunchError: If workers keep ending without having finished a trial.
        KeyboardInterrupt: On Ctrl-C, after the local workers have handed their trials back.
    """
    return _Follower(launch, study, slots).follow(console)


def detach(arguments: Sequence[str], launch: Launch) -> Path:
    """Run the same command in the background and give back the file with what it prints.

    Args:
        arguments: Of `hpo`, without the storage: everyone can read a command line. `begin` has put
            it into the environment.
        launch: What they mean.
    """
    folder = launch.plan.runs / launch.plan.spec.study.name
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "launch.log"
    with output.open("ab") as file:
        subprocess.Popen(
            [sys.executable, "-m", "hpo.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return output


def _held_out(spec: StudySpec, dataset: Dataset, data: Path) -> list[dict[str, float]]:
    """The cells to be held out, as the dataset writes them and in its order."""
    named = spec.data.hold_out_cells
    if faults := cells.faults(dataset, named):
        told = [f"[data] hold_out_cells: {fault}" for fault in faults]
        raise SpecError(f"the study {spec.study.name!r} on {data}", told)
    return [cells.name_of(dataset, cell) for cell in cells.find(dataset, named, data)]


class _Follower:
    """Keeps the workers going and shows what they do."""

    def __init__(self, launch: Launch, study: optuna.Study, slots: Slots) -> None:
        self._plan = launch.plan
        self._study = study
        self._slots = slots
        self._told = {record.trial for record in self._ended(set())}
        self._workers: list[cluster.Workers] = []
        self._futile = 0
        self._finished_at_start = -1

    def follow(self, console: Console) -> status.Look:
        with progress.shown(console) as show:
            try:
                while True:
                    studies.reap(self._study, self._slots)
                    look = status.look(self._study, self._plan.spec, self._slots)
                    show(look, self._ended(self._told))
                    if not look.running and (look.stopping or not look.waiting):
                        return look
                    self._start_missing(look)
                    time.sleep(POLL_S)
            except KeyboardInterrupt:
                self._hand_back()
                raise

    def _start_missing(self, look: status.Look) -> None:
        """Start as many workers as are wanted and not there: those of an earlier launch count."""
        ours = sum(workers.running for workers in self._workers)
        theirs = sum(one.stale is None for one in look.running)
        wanted = min(self._plan.workers, look.waiting + theirs) - max(ours, theirs)
        if look.stopping or not look.waiting or wanted <= 0:
            return
        if ours == 0:
            self._count_futile(look)
        self._workers.append(cluster.start(self._plan, wanted))

    def _count_futile(self, look: status.Look) -> None:
        self._futile = self._futile + 1 if look.finished == self._finished_at_start else 0
        self._finished_at_start = look.finished
        # A trial that kills its workers has failed by then, which counts as finished.
        if self._futile > self._plan.spec.study.max_restarts + 1:
            output = self._workers[-1].output
            raise LaunchError(
                f"all workers ended {self._futile} times without having finished a trial: "
                f"read {output} for the reason, then launch again"
            )

    def _ended(self, told: set[int]) -> list[RunRecord]:
        """Records of trials that ended and were not told of yet."""
        finished = self._study.get_trials(deepcopy=False)
        numbers = [one.number for one in finished if one.state.is_finished()]
        records = [
            record
            for number in numbers
            if number not in told and (record := studies.record_of(self._study, number))
        ]
        told.update(record.trial for record in records)
        return records

    def _hand_back(self) -> None:
        """End the local workers; SLURM jobs run on."""
        if self._plan.on == "slurm":
            return
        cluster.interrupt_local()
        deadline = time.monotonic() + 10
        while any(workers.running for workers in self._workers) and time.monotonic() < deadline:
            time.sleep(0.1)


def _refuse_leftovers(storage: optuna.storages.RDBStorage, plan: Plan) -> None:
    """A new study must not take the records of a forgotten one of its name for its own."""
    name = plan.spec.study.name
    folder = plan.runs / name
    if name in optuna.get_all_study_names(storage) or not any(folder.glob("trial-*")):
        return
    raise SpecError(
        f"the study {name!r}",
        [
            f"{folder} holds trials of an earlier study of that name, which the database does not "
            f"know{_elsewhere()}: move the folder away, or give this study another --name"
        ],
    )


def _elsewhere() -> str:
    return " (is HPO_STORAGE set to another one?)" if os.environ.get(VARIABLE) else ""
