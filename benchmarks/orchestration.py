"""What the bookkeeping around trials costs, beside plain Optuna, and how busy it keeps workers.

    pip install '.[postgres]'
    python benchmarks/orchestration.py [--postgres URL] [--parts overhead,statements,poll,workers]
                                       [--samplers random,tpe] [--processes 4] [--trials 400]

No trial trains here. On SQLite, and on PostgreSQL where `--postgres` (or HPO_STORAGE) names one:

    overhead    trials a second. Ours does for each trial what `hpo.execution` does with the
                database: look whether to stop, reap, claim, suggest twice, renew the lease,
                report once, ask whether to prune, finish. Plain is `study.optimize` with the same
                objective, sampler and pruner, in as many processes that share the trials evenly,
                on a storage as Optuna makes it of the URL. Rounds alternate.
    statements  SQL statements, transactions and connections of one trial in a study that has 100
                or 5,000 finished ones, and, for ours, while 1,000 are waiting, as after a launch.
    poll        SQL statements, transactions and processor time of one look of a launcher, as it
                takes every second, at a study with 64 running trials of 50 epochs and 100 finished.
    workers     the share of their time for which eight workers are busy with trials that take
                lognormal times (sigma 1: the longest of 200 takes ten times the mean), asleep:
                ours, against a launcher that starts eight trials and waits for all of them. Both
                get the same times in the same order. No scheduler that has to keep the order
                could do better than the list schedule, which is given, too: its idle time is the
                tail, when the last trials run and none waits.

Processes meet after a trial of their own, which warms them up; clocks start then.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from hpo.execution.follow import look
from hpo.queue.leases import Claim, Owner
from hpo.queue.slots import Slots
from hpo.records.record import EpochRow
from hpo.storage.address import VARIABLE, url_of
from hpo.storage.open import open_storage
from hpo.study.sampling import pruner_of, sampler_of, search_space
from hpo.study.spec import StudySpec, parse
from hpo.study.status import Records
from hpo.study.study import (
    blank_record,
    create_study,
    load_study,
    reap_lost_trials,
    stop_reason,
    trial_folder,
)

PARTS = ("overhead", "statements", "poll", "workers")
SAMPLERS = ("random", "tpe")
COUNTED = 3
"""Trials whose statements are counted, after one that is not."""
POLLS = 10
EPOCHS = 50
WAITING = 1000
SIGMA = 1.0
ORDERS = 1000
"""Draws of trial times, for what the list schedule gives in the median."""
MEETING_S = 120.0
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A database, and the studies that are made in it."""

    name: str
    url: str | None
    """Of PostgreSQL; None for SQLite, where each study has a file of its own."""
    folder: Path

    def place(self) -> Place:
        """Where a new study may be made."""
        name = f"benchmark-{uuid.uuid4().hex[:12]}"
        return Place(name=name, url=self.url or f"sqlite:///{self.folder / name}.db")


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


def trivial(trial: optuna.Trial, on_epoch: Callable[[], None] = lambda: None) -> float:
    """An objective without any work."""
    value = sum((trial.suggest_float(name, 0, 1) - 0.5) ** 2 for name in ("x", "y"))
    on_epoch()
    return reported(trial, value)


def winning(trial: optuna.Trial, on_epoch: Callable[[], None] = lambda: None) -> float:
    """The same, but never pruned, so that trials do not differ in what they ask."""
    for name in ("x", "y"):
        trial.suggest_float(name, 0, 1)
    on_epoch()
    return reported(trial, -1.0)


def reported(trial: optuna.Trial, value: float) -> float:
    trial.report(value, 1)
    if trial.should_prune():
        raise optuna.TrialPruned
    return value


def main() -> None:
    options = parsed()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bases = [Base(name="SQLite", url=None, folder=Path(folder))]
        if options.postgres:
            bases.append(Base(name="PostgreSQL", url=options.postgres, folder=Path(folder)))
        bases = [base for base in bases if base.name.lower() in options.databases]
        print(f"Optuna {optuna.__version__}, {os.cpu_count()} cores")
        for part in options.parts:
            for base in bases:
                {"overhead": overhead, "statements": statements, "poll": poll, "workers": workers}[
                    part
                ](base, options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--postgres", metavar="URL", default=os.environ.get(VARIABLE))
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--folder", type=Path, help="of SQLite's files, for as long as this runs")
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--processes", type=int, default=4, help="overhead: on each side")
    parser.add_argument("--trials", type=int, default=400, help="overhead: of all processes")
    parser.add_argument("--rounds", type=int, default=5, help="overhead")
    parser.add_argument("--finished", default="100,5000", help="statements: trials in the study")
    parser.add_argument("--running", type=int, default=64, help="poll: running trials")
    parser.add_argument("--workers", type=int, default=8, help="workers: how many")
    parser.add_argument("--queue", type=int, default=200, help="workers: trials")
    parser.add_argument("--mean", type=float, default=1.0, help="workers: seconds of a trial")
    parser.add_argument("--seed", type=int, default=0, help="workers: of the trials' times")
    options = parser.parse_args()
    if options.postgres and not options.postgres.startswith("postgresql"):
        options.postgres = None
    options.parts = [part.strip() for part in options.parts.split(",")]
    options.samplers = [sampler.strip() for sampler in options.samplers.split(",")]
    options.finished = [int(count) for count in options.finished.split(",")]
    for known, given in ((PARTS, options.parts), (SAMPLERS, options.samplers)):
        if unknown := set(given) - set(known):
            parser.error(f"no {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    return options


# ---- overhead


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """What one process of a side did."""

    began: float
    ended: float
    faults: int = 0
    """Errors of the database that ended `study.optimize`."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Of each step."""


def overhead(base: Base, options: argparse.Namespace) -> None:
    """Trials a second of both sides."""
    share = options.trials // options.processes
    print(
        f"\n{base.name}: {options.processes} processes, {share * options.processes} trials without "
        f"work, medians of {options.rounds} rounds\n"
        f"{'trials/s':>16}{'ours':>9}{'plain':>9}{'ratio':>8}"
    )
    for sampler in options.samplers:
        ours, plain, faults, seconds = [], [], 0, Counter[str]()
        for _ in range(options.rounds):
            rate, spans = rate_of(run_ours, base, sampler, options.processes, share)
            ours.append(rate)
            seconds += sum((span.seconds for span in spans), Counter[str]())
            rate, spans = rate_of(run_plain, base, sampler, options.processes, share)
            plain.append(rate)
            faults += sum(span.faults for span in spans)
        # Of a round: a slow minute hits both of its sides.
        ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
        rates = f"{statistics.median(ours):9.1f}{statistics.median(plain):9.1f}"
        print(f"{sampler:>16}{rates}{ratio:8.2f}")
        print(f"{'':6}rounds, ours: {listed(ours)}; plain: {listed(plain)}")
        trials = share * options.processes * options.rounds
        steps = ", ".join(f"{name} {1e3 * s / trials:.2f}" for name, s in seconds.items())
        print(f"{'':6}ms of a trial of ours in its process: {steps}")
        if faults:
            print(f"{'':6}plain was broken off {faults} times by errors such as a locked database")
        verdict(f"{base.name}, {sampler}: trials/s, ours / plain", ratio, ">=", 0.8)


def rate_of(
    side: Callable[..., Span], base: Base, sampler: str, processes: int, share: int
) -> tuple[float, list[Span]]:
    """Trials a second of one side in a new study, without the first trial of each process."""
    place = base.place()
    spec = spec_of(place, sampler, pruner="asha")
    slots = made(place, spec)
    if side is run_ours:
        slots.set_total(processes * (share + 1))
    spans = together(side, processes, place, spec, share)
    finished = len(slots.look().finished) - processes
    place.delete()
    took_s = max(span.ended for span in spans) - min(span.began for span in spans)
    return finished / took_s, spans


def run_ours(meet: Meeting, rank: int, place: Place, spec: StudySpec, share: int) -> Span:
    loop = Loop(place, spec)
    loop.step(trivial)
    loop.seconds.clear()
    began = meet()
    while loop.step(trivial):
        pass
    return Span(began=began, ended=time.monotonic(), seconds=loop.seconds)


def run_plain(meet: Meeting, rank: int, place: Place, spec: StudySpec, share: int) -> Span:
    study = place.plain(spec, rank)
    study.optimize(trivial, n_trials=1)
    begun = faults = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal begun
        begun += 1
        return trivial(trial)

    began = meet()
    while begun < share:
        try:
            study.optimize(objective, n_trials=share - begun)
        except (SQLAlchemyError, StorageInternalError):  # a user would start it again
            faults += 1
    return Span(began=began, ended=time.monotonic(), faults=faults)


# ---- statements


@dataclass(frozen=True, kw_only=True, slots=True)
class Talk:
    """What a process says to its database for one trial."""

    statements: float
    transactions: float
    connections: float
    seconds: float


def statements(base: Base, options: argparse.Namespace) -> None:
    """Statements of a trial as the study grows."""
    found: dict[tuple[str, str, int, int], Talk] = {}
    for finished in options.finished:
        place = base.place()
        slots = made(place, spec_of(place, "random", pruner="asha"), finished=finished)
        # Plain first: once ours has opened a SQLite file, it keeps the faster journal.
        for side, waiting in (("plain", 0), ("ours", 0), ("ours", WAITING)):
            for sampler in options.samplers:
                if side == "ours":
                    have = len(slots.look().trials)
                    slots.set_total(have + COUNTED + 1 + waiting)
                spec = spec_of(place, sampler, pruner="asha")
                one = talk_of_ours if side == "ours" else talk_of_plain
                found[sampler, side, finished, waiting] = together(one, 1, place, spec)[0]
        place.delete()
    print(
        f"\n{base.name}: one trial in a study with finished ones\n"
        f"{'':8}{'':8}{'finished':>9}{'waiting':>9}{'statements':>12}{'transactions':>14}"
        f"{'connections':>13}{'ms':>8}"
    )
    for (sampler, side, finished, waiting), talk in sorted(found.items()):
        print(
            f"{sampler:8}{side:8}{finished:9,}{waiting:9,}{talk.statements:12.1f}"
            f"{talk.transactions:14.1f}{talk.connections:13.1f}{1e3 * talk.seconds:8.1f}"
        )
    first, last = options.finished[0], options.finished[-1]
    for sampler in options.samplers:
        ours, plain = (
            found[sampler, side, last, 0].statements - found[sampler, side, first, 0].statements
            for side in ("ours", "plain")
        )
        what = f"statements that {first:,} -> {last:,} finished trials add to one, ours"
        verdict(f"{base.name}, {sampler}: {what}", ours, "<=", max(plain, 0))


def talk_of_ours(meet: Meeting, rank: int, place: Place, spec: StudySpec) -> Talk:
    loop = Loop(place, spec)
    return measured(loop.study, lambda: loop.step(winning))


def talk_of_plain(meet: Meeting, rank: int, place: Place, spec: StudySpec) -> Talk:
    study = place.plain(spec, rank)
    # Optuna's own sampler object lives as long as the study; ours is another for each trial.
    return measured(study, lambda: told(study))


def told(study: optuna.Study) -> None:
    """A trial by Optuna's own ask and tell."""
    trial = study.ask()
    study.tell(trial, winning(trial))


def measured(study: optuna.Study, one: Callable[[], object]) -> Talk:
    """What a trial says, in the mean over a few."""
    one()  # fills the caches
    with listening(study._storage._backend.engine) as heard:  # type: ignore[attr-defined]
        start_s = time.perf_counter()
        for _ in range(COUNTED):
            one()
        took_s = time.perf_counter() - start_s
    return Talk(
        statements=heard["statement"] / COUNTED,
        transactions=heard["transaction"] / COUNTED,
        connections=heard["connection"] / COUNTED,
        seconds=took_s / COUNTED,
    )


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


# ---- poll


def poll(base: Base, options: argparse.Namespace) -> None:
    """What a launcher's look costs while many trials run."""
    place, running = base.place(), options.running
    runs = base.folder / place.name
    spec = spec_of(place, "random", pruner="asha")
    slots = made(place, spec, finished=100, runs=runs)
    study, spec = load_study(place.ours(), place.name)
    slots.set_total(100 + running + 10)
    for rank in range(running):
        owner = replace(Owner.this_process(rank=rank), host="elsewhere", machine="elsewhere")
        begun(study, slots.claim(owner), runs)
    slots = Slots(study, max_restarts=3)
    records = Records(runs / place.name)

    def one() -> None:
        look(study, spec, slots, records)

    seconds = []
    one()
    with listening(slots.engine) as heard:
        for _ in range(POLLS):
            start_s = time.process_time()
            one()
            seconds.append(time.process_time() - start_s)
    place.delete()
    print(
        f"\n{base.name}: a launcher's look at {running} running and 100 finished trials: "
        f"{heard['statement'] / POLLS:.1f} statements, {heard['transaction'] / POLLS:.1f} "
        f"transactions, {1e3 * statistics.median(seconds):.1f} ms of the processor"
    )


def begun(study: optuna.Study, claim: Claim | None, runs: Path) -> None:
    """Give a claimed trial the record of one that has run for `EPOCHS` epochs."""
    assert claim is not None
    rows = tuple(
        EpochRow(
            epoch=epoch + 1,
            train_nll=4.5,
            val_nll=4.5,
            learning_rate=1e-3,
            seconds=2.0,
            samples_per_second=1e5,
            loss_rate=None,
        )
        for epoch in range(EPOCHS)
    )
    record = replace(blank_record(study, claim.number), epochs=rows)
    record.write(trial_folder(runs, study.study_name, claim.number))


# ---- workers


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """What one process did, from the meeting to its last word."""

    began: float
    ended: float
    slept: tuple[tuple[float, float], ...]
    """From when to when it was, trial by trial."""


def workers(base: Base, options: argparse.Namespace) -> None:
    """How busy workers are with trials of very different lengths."""
    times_s = drawn(options.queue, options.mean, options.seed)
    total_s, many = float(times_s.sum()), options.workers
    best = listed_s(times_s, many)
    print(
        f"\n{base.name}: {many} workers, {len(times_s)} trials of lognormal times, mean "
        f"{options.mean:g} s, longest {times_s.max():.1f} s, {total_s:.0f} s in all\n"
        f"{'busy, share of the time':>30}{'until the end':>15}{'while trials wait':>19}{'took':>9}"
    )
    found = {}
    for name, side in (("ours", shift_of_ours), ("batch-synchronous", shift_in_batches)):
        place = base.place()
        spec = spec_of(place, "random", pruner="none")
        slots = made(place, spec)
        if side is shift_of_ours:
            slots.set_total(many + len(times_s))
        shifts = together(side, many, place, spec, tuple(map(float, times_s)))
        place.delete()
        found[name] = busy(name, shifts, total_s, many)
    print(f"{'list schedule, free of cost':>30}{total_s / many / best:15.3f}{1:19.3f}{best:8.1f}s")
    for waiting, share in zip(
        ("with the tail, when none waits", "while trials wait"), found["ours"], strict=True
    ):
        verdict(f"{base.name}: workers busy, {waiting}", share, ">=", 0.95)
    cost = found["ours"][0] / (total_s / many / best)
    print(f"       of what the list schedule has until the end, ours has {cost:.1%}")
    draws = (drawn(len(times_s), options.mean, seed) for seed in range(ORDERS))
    usual = statistics.median(float(t.sum()) / many / listed_s(t, many) for t in draws)
    print(f"       the list schedule's share in the median of {ORDERS:,} such draws: {usual:.3f}")


def busy(name: str, shifts: Sequence[Shift], total_s: float, many: int) -> tuple[float, float]:
    """Share of all workers' time for which they slept: until the end, and until the last start."""
    slept = [one for shift in shifts for one in shift.slept]
    began, ended = min(shift.began for shift in shifts), max(shift.ended for shift in shifts)
    last = max(start for start, _ in slept)
    while_waiting_s = sum(min(end, last) - start for start, end in slept)
    shares = total_s / (many * (ended - began)), while_waiting_s / (many * (last - began))
    print(f"{name:>30}{shares[0]:15.3f}{shares[1]:19.3f}{ended - began:8.1f}s", flush=True)
    return shares


def drawn(count: int, mean_s: float, seed: int) -> np.ndarray:
    """Times with exactly this mean."""
    times_s = np.random.default_rng(seed).lognormal(sigma=SIGMA, size=count)
    return times_s * (mean_s / times_s.mean())


def listed_s(times_s: Sequence[float] | np.ndarray, many: int) -> float:
    """How long the trials take if each starts, in their order, as soon as a worker is free."""
    free_s = [0.0] * many
    for time_s in times_s:
        heapq.heapreplace(free_s, free_s[0] + time_s)
    return max(free_s)


def sleeping(
    times_s: Sequence[float],
    slept: list[tuple[float, float]],
    trial: optuna.Trial,
    on_epoch: Callable[[], None],
) -> float:
    """The objective: takes its time, from which on until when is noted."""
    for name in ("x", "y"):
        trial.suggest_float(name, 0, 1)
    began = time.monotonic()
    time.sleep(times_s[trial.number])
    slept.append((began, time.monotonic()))
    on_epoch()
    return reported(trial, 0.0)


def shift_of_ours(
    meet: Meeting, rank: int, place: Place, spec: StudySpec, times_s: Sequence[float]
) -> Shift:
    loop, slept = Loop(place, spec), list[tuple[float, float]]()
    times_s = (0.0,) * meet.many + tuple(times_s)
    objective = functools.partial(sleeping, times_s, slept)
    loop.step(objective)
    slept.clear()
    began = meet()
    while loop.step(objective):
        pass
    return Shift(began=began, ended=time.monotonic(), slept=tuple(slept))


def shift_in_batches(
    meet: Meeting, rank: int, place: Place, spec: StudySpec, times_s: Sequence[float]
) -> Shift:
    # Our storage here, too: what is compared is the schedule.
    study = optuna.load_study(
        study_name=place.name,
        storage=place.ours(),
        sampler=sampler_of(spec, rank),
        pruner=pruner_of(spec),
    )
    slept = list[tuple[float, float]]()
    times_s = (0.0,) * meet.many + tuple(times_s)

    def one() -> None:
        trial = study.ask()
        study.tell(trial, sleeping(times_s, slept, trial, lambda: None))

    one()
    slept.clear()
    began = meet()
    for first in range(meet.many, len(times_s), meet.many):
        if first + rank < len(times_s):
            one()
        meet()
    return Shift(began=began, ended=time.monotonic(), slept=tuple(slept))


# ---- shared


class Meeting:
    """Lets processes wait for one another."""

    def __init__(self, barrier: Any, many: int) -> None:
        self._barrier, self.many = barrier, many

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
        many, mp_context=context, initializer=_invite, initargs=(barrier, many)
    ) as pool:
        futures = [pool.submit(_attend, function, rank, *arguments) for rank in range(many)]
        return [future.result() for future in futures]


_meeting: Meeting


def _invite(barrier: Any, many: int) -> None:
    global _meeting
    _meeting = Meeting(barrier, many)
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


def made(place: Place, spec: StudySpec, *, finished: int = 0, runs: Path = Path()) -> Slots:
    """The study with so many finished trials."""
    if not place.url.startswith("sqlite"):
        storage = place.ours()
    else:
        # As Optuna makes the file: one that our storage has opened keeps its faster journal.
        storage = RDBStorage(place.url)
    study = create_study(storage, spec, runs=runs, fingerprint="")
    filled(study, finished)
    return Slots(study, max_restarts=spec.study.max_restarts)


def filled(study: optuna.Study, finished: int) -> None:
    """Put finished trials into the study: two of three pruned at the first epoch."""
    rng = np.random.default_rng(0)
    space = {name: optuna.distributions.FloatDistribution(0, 1) for name in ("x", "y")}
    for number, (x, y, value) in enumerate(rng.random((finished, 3)).tolist()):
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if number % 3 else TrialState.COMPLETE,
                value=value,
                params={"x": x, "y": y},
                distributions=dict(space),
                intermediate_values={1: value},
                system_attrs={"completed_rung_0": value},
            )
        )


def listed(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.1f}" for number in numbers)


def verdict(what: str, found: float, sign: str, aim: float) -> None:
    """One line that says whether an aim is met."""
    met = found >= aim if sign == ">=" else found <= aim
    print(f"{'met   ' if met else 'MISSED'} {what}: {found:.4g} (aim {sign} {aim:g})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
