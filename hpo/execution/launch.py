"""`hpo launch`: make or continue a study, start workers, follow them until all trials are done.

The number of trials is the study's total. Whatever ended the last launch, the same command finishes
what is missing.
"""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from sqlalchemy.engine import URL

from data_prep import cells
from data_prep.atomic import naming
from data_prep.dataset import SAMPLE, Dataset
from data_prep.errors import InputError
from hpo.doctor import machine
from hpo.execution import optuna_note, slurm
from hpo.execution.slurm import Plan
from hpo.queue.jobs import JobState, job_states
from hpo.queue.slots import Slots
from hpo.records.folder import read_all
from hpo.records.record import RunRecord
from hpo.storage import filesystem
from hpo.storage.address import VARIABLE, hand_down, masked
from hpo.storage.open import open_storage
from hpo.study.space import grid
from hpo.study.spec import SpecError, StudySpec, load
from hpo.study.status import StudyStatus, read_status
from hpo.study.study import create_study, load_study, reap_lost_trials, record_of, runs_of

POLL_S = 1.0
"""Seconds between looks at the database."""
SQUEUE_S = 10.0
"""Seconds between looks at SLURM's queue, which other users ask as well."""
RETRY_S, REFUSALS = 30.0, 5
"""Pause before SLURM is asked again for jobs that it refused; how often, if it takes none."""
HAND_BACK_S = 15.0
"""Longest wait for workers that were told to end."""


class LaunchError(RuntimeError):
    """The workers could not do their work. The message names the file that says why."""


class DiskError(InputError):
    """The folder of the runs cannot be written any more. The message says why and the way out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """A study ready to run."""

    plan: Plan
    trials: int
    url: URL
    dataset: Dataset
    force_sqlite: bool = False
    """Whether SQLite is used where its locks may not hold."""

    command: str = ""
    """As it was typed, without the storage; kept with the study for people to read."""

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
    force_sqlite: bool = False,
    command: str = "",
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
    count = workers or spec.study.workers or min(8, slurm.cores())
    plan = Plan(spec=spec, runs=runs.absolute(), on=on, workers=min(count, total))
    return Launch(
        plan=plan,
        trials=total,
        url=url,
        dataset=dataset,
        force_sqlite=force_sqlite,
        command=command,
    )


def begin(launch: Launch) -> tuple[optuna.Study, Slots]:
    """Make the study, or continue it, with all its trials waiting.

    Raises:
        PreflightError: If this machine, the database or the cluster is not fit. Lists all faults.
        SpecError: If a study of that name searches something else, or its folder is another's.
        StorageError: If the database does not answer.
    """
    _check(launch)
    study, slots = _made(launch)
    spec = launch.plan.spec
    points = grid(spec.space) if spec.sampler.kind == "grid" else None
    slots.top_up(launch.trials, points=points)
    hand_down(launch.url)
    return study, slots


def opened_or_made(reference: str, *, runs: Path, url: URL) -> tuple[StudySpec, Slots]:
    """A study by its name, or by its file, which makes it if it is new, without any trial yet.

    Raises:
        StorageError: If there is no study of that name.
        SpecError: As `begin`.
    """
    if Path(reference).suffix != ".toml":
        study, spec = load_study(open_storage(url), reference)
        return spec, Slots(study, max_restarts=spec.study.max_restarts)
    launch = prepare(load(reference), trials=None, workers=1, on="local", runs=runs, url=url)
    study, slots = _made(launch)
    return launch.plan.spec, slots


def follow(
    launch: Launch,
    study: optuna.Study,
    slots: Slots,
    *,
    show: Callable[[StudyStatus, list[RunRecord]], None],
    tell: Callable[[str], None],
) -> StudyStatus:
    """Keep workers going until the study is done, and give back its last status.

    Args:
        launch: Whose workers they are.
        study: It.
        slots: Its trials.
        show: Takes the study's status and the records of the trials that ended since the last call.
        tell: Takes a sentence for the user.

    Raises:
        LaunchError: If workers keep ending without having finished a trial.
        KeyboardInterrupt: On Ctrl-C, after the local workers have handed their trials back.
    """
    return _Follower(launch, study, slots).follow(show, tell)


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


def _check(launch: Launch) -> None:
    plan = launch.plan
    checks = machine.check(
        plan.spec,
        on=plan.on,
        runs=plan.runs,
        url=launch.url,
        workers=plan.workers,
        force_sqlite=launch.force_sqlite,
    )
    machine.refuse(checks)


def _made(launch: Launch) -> tuple[optuna.Study, Slots]:
    """The study, with the trials that it has."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = launch.plan.spec
    storage = open_storage(launch.url)
    _refuse_leftovers(storage, launch.plan)
    study = create_study(
        storage, spec, runs=launch.plan.runs, fingerprint=launch.dataset.fingerprint
    )
    _described(study, launch)
    return study, Slots(study, max_restarts=spec.study.max_restarts)


def _described(study: optuna.Study, launch: Launch) -> None:
    """Have optuna-dashboard tell what the study is."""
    origin = optuna_note.Origin(
        dataset=launch.dataset,
        runs=launch.plan.runs / study.study_name,
        command=launch.command,
    )
    _for_show("description", lambda: optuna_note.describe(study, launch.plan.spec, origin))


def _pictured(study: optuna.Study) -> None:
    """Have optuna-dashboard show the runs' learning curves, and what their results cost."""
    found = (record for _, record in read_all(runs_of(study)))
    records = [record for record in found if isinstance(record, RunRecord)]
    _for_show("pictures", lambda: optuna_note.plot(study, records))


def _for_show(what: str, write: Callable[[], None]) -> None:
    """Write what only a page shows: a study is not given up for it."""
    try:
        write()
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        told = f"the {what} of the study for optuna-dashboard could not be kept: {said}"
        warnings.warn(told, stacklevel=2)


class _Follower:
    """Keeps the workers going and shows what they do."""

    def __init__(self, launch: Launch, study: optuna.Study, slots: Slots) -> None:
        self._plan = launch.plan
        self._study = study
        self._slots = slots
        self._told = self._finished()
        self._told_before = len(self._told)
        self._crew = (
            _Jobs(self._plan, slots) if self._plan.on == "slurm" else _Processes(self._plan)
        )
        self._futile = 0
        self._progress_at_start = -1
        self._plan.folder.mkdir(parents=True, exist_ok=True)

    def follow(
        self,
        show: Callable[[StudyStatus, list[RunRecord]], None],
        tell: Callable[[str], None],
    ) -> StudyStatus:
        try:
            while True:
                self._refuse_gone()
                reap_lost_trials(self._study, self._slots)
                status = read_status(self._study, self._plan.spec, self._slots)
                show(status, self._ended())
                if not status.running and (status.stopping or not status.waiting):
                    break
                self._start_missing(status)
                for sentence in self._crew.news():
                    tell(sentence)
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            self._crew.hand_back()
            raise
        if len(self._told) > self._told_before:
            _pictured(self._study)
        return status

    def _start_missing(self, status: StudyStatus) -> None:
        """Start as many workers as are wanted and not there: those of an earlier launch count."""
        running = sum(one.stale is None for one in status.running)
        if status.stopping or not status.waiting:
            return
        there = self._crew.count(running)
        wanted = min(self._plan.workers, status.waiting + running) - there
        if wanted <= 0:
            return
        if there == 0:
            self._count_futile()
        with naming(self._plan.folder):
            self._crew.add(wanted)

    def _refuse_gone(self) -> None:
        """A new folder in the place of one that was taken away would lack what that holds."""
        if not self._plan.folder.is_dir():
            raise DiskError(
                f"{self._plan.folder.parent} is gone: bring it back (is its disk mounted?), then "
                "run the same command again"
            )

    def _count_futile(self) -> None:
        progress_now = self._slots.progress()
        self._futile = self._futile + 1 if progress_now == self._progress_at_start else 0
        self._progress_at_start = progress_now
        if self._futile and (fault := filesystem.write_fault(self._plan.folder)):
            raise DiskError(
                f"the workers can write nothing to {fault}: no trial is lost, make room or have it "
                "mounted for writing, then run the same command again"
            )
        # A trial that kills its workers has failed by then, which is progress.
        if self._futile > self._plan.spec.study.max_restarts + 1:
            raise LaunchError(
                f"all workers ended {self._futile} times without having finished a trial: "
                f"read {self._crew.output} for the reason, then launch again"
            )

    def _ended(self) -> list[RunRecord]:
        """Records of trials that ended and were not told of yet."""
        records = [
            record
            for number in sorted(self._finished() - self._told)
            if (record := record_of(self._study, number))
        ]
        self._told.update(record.trial for record in records)
        return records

    def _finished(self) -> set[int]:
        return {one.number for one in self._slots.summaries() if one.state.is_finished()}


class _Processes:
    """The workers of a study on this machine."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._started: list[slurm.Workers] = []

    @property
    def output(self) -> Path | None:
        """Where a worker that cannot start says why."""
        return self._started[-1].output if self._started else None

    def count(self, running: int) -> int:
        """Workers that there are, those of an earlier launch too; `running` trials have one.

        A worker has none while it starts and from one trial to the next.
        """
        # Asked here, so that what has ended is waited for.
        self._started = [one for one in self._started if one.running] or self._started[-1:]
        return max(slurm.count_local(self._plan), running)

    def add(self, workers: int) -> None:
        """Start so many more."""
        self._started.append(slurm.start(self._plan, workers))

    def news(self) -> list[str]:
        """What the user should know, each sentence once."""
        return []

    def hand_back(self) -> None:
        """End the workers and wait until they have handed their trials back."""
        slurm.interrupt_local(self._plan, HAND_BACK_S)


class _Jobs:
    """The workers of a study on SLURM, those of earlier launches too."""

    def __init__(self, plan: Plan, slots: Slots) -> None:
        self._plan = plan
        self._slots = slots
        self._states: dict[str, JobState] = {}
        self._asked_s = -math.inf
        self._refused = 0
        self._not_before_s = 0.0
        self._news: list[str] = []
        self._stuck: set[str] = set()

    @property
    def output(self) -> Path:
        """Where a worker that cannot start says why."""
        jobs = self._slots.jobs()
        return slurm.output_of(self._plan, jobs[-1]) if jobs else self._plan.folder

    def count(self, running: int) -> int:
        """Workers that there are or will be; as many as are wanted while squeue does not answer."""
        now_s = time.monotonic()
        if now_s - self._asked_s > SQUEUE_S:
            states = job_states(self._slots.jobs())
            if states is None:
                return self._plan.workers
            self._states, self._asked_s = states, now_s
            self._tell_stuck()
        if now_s < self._not_before_s:
            return self._plan.workers
        return max(self._plan.tasks * sum(one.alive for one in self._states.values()), running)

    def add(self, workers: int) -> None:
        """Submit jobs for so many more; what is refused is tried again later.

        Raises:
            LaunchError: If SLURM refuses again and again while no job is left.
        """
        jobs = -(-workers // self._plan.tasks)
        sent = slurm.submit(self._plan, jobs, self._slots.add_jobs)
        self._asked_s = -math.inf
        if sent.jobs:
            arrays = sorted({job.partition("_")[0] for job in sent.jobs})
            self._news.append(f"submitted {len(sent.jobs)} jobs: {', '.join(arrays)}")
        if sent.refusal is None:
            self._refused = 0
            return
        self._refused += 1
        alive = sum(one.alive for one in self._states.values())
        if self._refused >= REFUSALS and not sent.jobs and not alive:
            raise LaunchError(f"SLURM takes no job: {sent.refusal}")
        self._not_before_s = time.monotonic() + RETRY_S
        self._news.append(
            f"SLURM refused {jobs - len(sent.jobs)} of {jobs} jobs, which are tried again in "
            f"{RETRY_S:.0f} s: {sent.refusal}"
        )

    def news(self) -> list[str]:
        """What the user should know, each sentence once."""
        news, self._news = self._news, []
        return news

    def hand_back(self) -> None:
        """Nothing: jobs run on without their launcher."""

    def _tell_stuck(self) -> None:
        for job, state in self._states.items():
            if state.stuck and job not in self._stuck:
                self._stuck.add(job)
                self._news.append(
                    f"job {job} will not start as it was asked for ({state.reason}): see [slurm], "
                    f"then scancel {job}"
                )


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
