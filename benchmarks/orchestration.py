"""What the bookkeeping around trials costs, beside plain Optuna, and how busy it keeps workers.

    pip install '.[postgres]'
    python benchmarks/orchestration.py [--postgres URL] [--parts overhead,statements,poll]
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

Processes meet after a trial of their own, which warms them up; clocks start then.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError
from verdict import verdict
from worker_loop import Loop, Meeting, Place, listening, reported, spec_of, together

from hpo.execution.follow import look
from hpo.queue.leases import Claim, Owner
from hpo.queue.slots import Slots
from hpo.records.record import EpochRow
from hpo.storage.address import VARIABLE
from hpo.study.spec import StudySpec
from hpo.study.status import Records
from hpo.study.study import blank_record, create_study, load_study, trial_folder

PARTS = ("overhead", "statements", "poll")
SAMPLERS = ("random", "tpe")
COUNTED = 3
"""Trials whose statements are counted, after one that is not."""
POLLS = 10
EPOCHS = 50
WAITING = 1000


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
                {"overhead": overhead, "statements": statements, "poll": poll}[part](base, options)


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


if __name__ == "__main__":
    sys.exit(main())
