"""What a worker does around trials, in processes that begin together: of several benchmarks."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event

from hpo.queue.leases import Claim, Owner
from hpo.queue.slots import Slots
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.sampling import pruner_of, sampler_of, search_space
from hpo.study.spec import StudySpec, parse
from hpo.study.study import load_study, reap_lost_trials, stop_reason

MEETING_S = 120.0
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A study by name, and where it is."""

    name: str
    url: str

    def ours(self) -> RDBStorage:
        """The storage as `hpo` opens it."""
        return open_storage(url_of(self.url, Path()))

    def plain(self, spec: StudySpec, rank: int) -> optuna.Study:
        """The study as Optuna opens it by itself."""
        return optuna.load_study(
            study_name=self.name,
            storage=url_of(self.url, Path()).render_as_string(hide_password=False),
            sampler=sampler_of(spec, rank),
            pruner=pruner_of(spec),
        )

    def delete(self) -> None:
        """Leave nothing behind in a database that others use, too."""
        if not self.url.startswith("sqlite"):
            optuna.delete_study(study_name=self.name, storage=self.ours())


class Loop:
    """What a worker does around trials, with the time that each step takes."""

    def __init__(self, place: Place, spec: StudySpec) -> None:
        self.study, _ = load_study(place.ours(), place.name)
        self.folder = Path(place.name)
        self.spec = spec
        self.study.pruner = pruner_of(self.spec)
        self.slots = Slots(self.study, max_restarts=self.spec.study.max_restarts)
        self.owner = Owner.this_process()
        self.known = search_space()
        self.seconds: Counter[str] = Counter()

    def step(self, objective: Objective) -> Claim | None:
        """One trial; None when none waits. As in `worker.work` and `trial.run`."""
        self._last = time.perf_counter()
        if stop_reason(self.spec, self.slots.attributes(), lambda: self.slots.look().trials):
            return None
        self._lap("stopping")
        reap_lost_trials(self.study, self.slots, self.folder, self.owner)
        self._lap("reap")
        claim = self.slots.claim(self.owner)
        self._lap("claim")
        if claim is None:
            return None
        self.study.sampler = sampler_of(self.spec, claim.number, self.known)
        trial = self.slots.trial_of(claim)
        self._lap("trial_of")
        names = itertools.chain(["suggest"], itertools.repeat("report, prune"))

        def on_epoch() -> None:
            self._lap(next(names))
            self.slots.renew(claim)
            self._lap("renew")

        try:
            value, state = objective(trial, on_epoch), TrialState.COMPLETE
        except optuna.TrialPruned:
            value, state = None, TrialState.PRUNED
        self._lap("report, prune")
        self.slots.finish(claim, state, value)
        self._lap("finish")
        return claim

    def _lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now


Objective = Callable[[optuna.Trial, Callable[[], None]], float]


def reported(trial: optuna.Trial, value: float) -> float:
    trial.report(value, 1)
    if trial.should_prune():
        raise optuna.TrialPruned
    return value


@contextmanager
def listening(engine: Any) -> Iterator[Counter[str]]:
    """Counts what goes through the engine meanwhile."""
    heard: Counter[str] = Counter()

    def statement(_connection: Any, _cursor: Any, text: str, *_more: Any) -> None:
        if not text.startswith("BEGIN"):  # of ours on SQLite; elsewhere drivers say it unheard
            heard["statement"] += 1

    def transaction(_connection: Any) -> None:
        heard["transaction"] += 1

    def connection(_connection: Any, _record: Any) -> None:
        heard["connection"] += 1

    hooks: list[tuple[str, Callable[..., None]]] = [
        ("before_cursor_execute", statement),
        ("begin", transaction),
        ("connect", connection),
    ]
    for name, hook in hooks:
        event.listen(engine, name, hook)
    try:
        yield heard
    finally:
        for name, hook in hooks:
            event.remove(engine, name, hook)


class Meeting:
    """Lets processes wait for one another."""

    def __init__(self, barrier: Any) -> None:
        self._barrier = barrier

    def __call__(self) -> float:
        """The moment at which all are there, on the machine's one monotonic clock."""
        self._barrier.wait()
        return time.monotonic()


def together(function: Callable[..., T], many: int, *arguments: Any) -> list[T]:
    """What the function gives in each of `many` new processes, for a meeting and its rank."""
    # Forked from one that has loaded them: sixty that load for themselves take a minute.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hpo.study.study", "hpo.storage.open", "hpo.study.space"])
    barrier = context.Barrier(many, timeout=MEETING_S)
    with ProcessPoolExecutor(
        many, mp_context=context, initializer=_invite, initargs=(barrier,)
    ) as pool:
        futures = [pool.submit(_attend, function, rank, *arguments) for rank in range(many)]
        return [future.result() for future in futures]


_meeting: Meeting


def _invite(barrier: Any) -> None:
    global _meeting
    _meeting = Meeting(barrier)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _attend(function: Callable[..., T], rank: int, *arguments: Any) -> T:
    try:
        return function(_meeting, rank, *arguments)
    except BaseException:
        _meeting._barrier.abort()  # else the others would wait for this one
        raise


def spec_of(place: Place, sampler: str, *, pruner: str) -> StudySpec:
    """A study file's content; the objective is judged at its first epoch, which is a rung."""
    return parse(
        {
            "study": {"name": place.name},
            "sampler": {"kind": sampler},
            "pruner": {"kind": pruner, "min_epochs": 1},
        },
        source="the benchmark's study",
    )
