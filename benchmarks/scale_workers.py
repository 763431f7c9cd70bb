"""What workers cost one another: 1 to 64 processes that share a database.

Each takes trials for some seconds, asleep for lognormal times (sigma 1), with all that a worker
does around a trial. What it was not asleep is bookkeeping: the processor's time for
it, and waiting, for the database or, on a machine of few cores, for a core.

    SQLite, PostgreSQL   ours, straight to the database
    PgBouncer            ours, by a pooler that gives a connection away after each transaction
"""

from __future__ import annotations

import functools
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sql
from worker_loop import Loop, Meeting, Place, reported, spec_of, together

from hpo.queue.slots import Slots
from hpo.storage.address import url_of
from hpo.study.spec import StudySpec
from hpo.study.study import create_study

SIGMA = 1.0
MANY_TRIALS = 1_000_000
LOOK_S = 0.1
"""Between two looks at the server's connections."""
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A way from a worker to the database."""

    name: str
    url: str
    server: str | None = None
    """Where the server's connections are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stint:
    """What one worker did in its time."""

    trials: int
    asleep_s: float
    cpu_s: float
    """Of its process."""
    claim_s: float
    """Of the bookkeeping, until a trial was its own."""


def measured(
    folder: Path,
    counts: Sequence[int],
    *,
    mean_s: float,
    stint_s: float,
    repeats: int,
    postgres: str | None,
    pooler: str | None,
    only: Sequence[str] | None = None,
) -> Iterator[Figures]:
    """A line for each route and number of workers."""
    for route in _routes(folder, postgres, pooler):
        if only is not None and route.name not in only:
            continue
        for count in counts if route.name in ("SQLite", "PostgreSQL") else counts[-2:]:
            rounds = [_round(route, count, mean_s, stint_s) for _ in range(repeats)]
            medians = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
            yield {"route": route.name, "workers": count, "mean_s": mean_s} | medians
            print(f"       {route.name}, {count} workers done", flush=True)


def _routes(folder: Path, postgres: str | None, pooler: str | None) -> Iterator[Route]:
    yield Route(name="SQLite", url=f"sqlite:///{folder / 'hpo.db'}")
    if postgres:
        yield Route(name="PostgreSQL", url=postgres, server=postgres)
        if pooler:
            yield Route(name="PgBouncer", url=pooler, server=postgres)


def _round(route: Route, workers: int, mean_s: float, stint_s: float) -> Figures:
    place = Place(name=f"scale-{uuid.uuid4().hex[:12]}", url=route.url)
    spec = spec_of(place, "random", pruner="none")
    storage = place.ours()
    study = create_study(storage, spec, runs=Path(), fingerprint="")
    Slots(study, max_restarts=3).set_total(MANY_TRIALS)
    storage.engine.dispose()
    with _counted(route.server) as seen:
        stints = together(functools.partial(_work, mean_s, stint_s), workers, place, spec)
    place.delete()
    trials = sum(one.trials for one in stints)
    whole_s = workers * stint_s
    return {
        "trials_per_s": trials / stint_s,
        "busy": sum(one.asleep_s for one in stints) / whole_s,
        "ms": 1e3 * (whole_s - sum(one.asleep_s for one in stints)) / trials,
        "cpu_ms": 1e3 * sum(one.cpu_s for one in stints) / trials,
        "claim_ms": 1e3 * sum(one.claim_s for one in stints) / trials,
        "connections": max((one for one, _ in seen), default=0),
        "waiting": statistics.mean(two for _, two in seen) if seen else 0.0,
    }


class Sleeper:
    """The objective of a worker, for as long as its stint lasts."""

    def __init__(self, rank: int, mean_s: float) -> None:
        self._rng = np.random.default_rng(rank)
        self._scale_s = mean_s / np.exp(SIGMA**2 / 2)
        self.end_s = float("inf")
        self.asleep_s = 0.0

    def __call__(self, trial: optuna.Trial, on_epoch: Callable[[], None] = lambda: None) -> float:
        for name in ("x", "y"):
            trial.suggest_float(name, 0, 1)
        began = time.monotonic()
        wanted_s = self._scale_s * self._rng.lognormal(sigma=SIGMA)
        time.sleep(max(0.0, min(wanted_s, self.end_s - began)))
        self.asleep_s += time.monotonic() - began
        on_epoch()
        return reported(trial, 0.0)


def _work(
    mean_s: float, stint_s: float, meet: Meeting, rank: int, place: Place, spec: StudySpec
) -> Stint:
    """Trials until the time is over; the last one is cut short, and not counted."""
    loop, sleeper = Loop(place, spec), Sleeper(rank, mean_s)
    loop.step(Sleeper(rank, 0.0))
    loop.seconds.clear()
    sleeper.end_s = meet() + stint_s
    cpu_s, trials = time.process_time(), 0
    while True:
        loop.step(sleeper)
        if time.monotonic() >= sleeper.end_s:
            break
        trials += 1
    return Stint(
        trials=trials,
        asleep_s=sleeper.asleep_s,
        cpu_s=time.process_time() - cpu_s,
        claim_s=loop.seconds["claim"],
    )


@contextmanager
def _counted(server: str | None) -> Iterator[list[tuple[int, int]]]:
    """The connections begun while the body runs, and how many of them wait for a lock."""
    seen: list[tuple[int, int]] = []
    if server is None:
        yield seen
        return
    ended = threading.Event()
    engine = sql.create_engine(url_of(server, Path()), isolation_level="AUTOCOMMIT")

    def look() -> None:
        with engine.connect() as connection:
            began = connection.exec_driver_sql("select now()").scalar_one()
            while not ended.wait(LOOK_S):
                seen.append(tuple(connection.exec_driver_sql(_CONNECTIONS, (began,)).one()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        engine.dispose()


_CONNECTIONS = """
    select count(*), count(*) filter (where wait_event_type = 'Lock') from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend'
    and pid <> pg_backend_pid() and backend_start >= %s
"""
