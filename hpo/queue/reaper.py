"""The reaper: finds running trials whose owners are gone and takes them back.

A trial can also be RUNNING without any lease, when another tool claimed it; it is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sql
from optuna.trial import TrialState

from hpo.queue.jobs import JobState, job_states
from hpo.queue.leases import Lease, LeaseLost, Owner
from hpo.queue.slots import Slots
from hpo.queue.tables import LEASES, Now
from hpo.storage.retry import retried

AskSlurm = Callable[[Iterable[str]], Mapping[str, JobState] | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaped:
    """Numbers of the trials of dead owners that wait again, and that failed."""

    released: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()


def reap(slots: Slots, me: Owner | None = None, *, ask: AskSlurm = job_states) -> Reaped:
    """Take the trials of dead owners back; those restarted too often fail.

    Args:
        slots: The trials.
        me: The process that calls, if it is a worker: what its job held before it was started anew
            is lost.
        ask: Says which jobs there are; None for "no answer".
    """
    released: list[int] = []
    failed: list[int] = []
    for lease in _lost(slots, me, ask):
        if lease.restarts < slots.max_restarts:
            if slots.release(lease, futile=True):
                released.append(lease.number)
            continue
        try:
            slots.finish(lease, TrialState.FAIL)
        except LeaseLost:  # another process was quicker
            continue
        failed.append(lease.number)
    return Reaped(released=tuple(released), failed=tuple(failed))


def _lost(slots: Slots, me: Owner | None, ask: AskSlurm) -> list[Lease]:
    """The leases of dead owners; SLURM is asked at most once, and only if need be."""
    leases = slots.leases()
    if any(lease.silent_s < 0 for lease in leases):
        _date_back(slots.engine)
    doubtful = [lease.owner.job for lease in leases if lease.doubtful and lease.owner.job]
    jobs = ask(doubtful) if doubtful else {}
    return [
        lease
        for lease in leases
        if not lease.lives(jobs) or (me is not None and me.succeeds(lease.owner))
    ]


@retried
def _date_back(engine: sql.Engine) -> None:
    """Date renewals of the future, before the server's clock was set back, to now.

    Else an owner that died since would count as alive until that time has come.
    """
    with engine.begin() as connection:
        connection.execute(
            sql.update(LEASES).where(LEASES.c.renewed > Now() + 1.0).values(renewed=Now())
        )
