"""The reaper: finds running trials whose owners are gone and takes them back.

A trial can also be RUNNING without any lease, when another tool claimed it; it is left alone.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from optuna.trial import TrialState

from hpo.queue.jobs import job_states
from hpo.queue.leases import AskSlurm, LeaseLost, Owner, jobs_of
from hpo.queue.slots import Slots


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaped:
    """Numbers of the trials of dead owners that wait again, and that failed."""

    released: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()


def reap(slots: Slots, me: Owner | None = None, *, ask: AskSlurm = job_states) -> Reaped:
    """Take the trials of dead owners back; those whose attempts were futile too often fail.

    Of `me`, a worker, what its job held before it was started anew counts as lost. `ask` says which
    jobs there are; None for "no answer".
    """
    released, failed = [], []
    leases = slots.leases()
    if any(lease.silent_s < 0 for lease in leases):
        slots.date_back()
    jobs = jobs_of(leases, ask=ask)
    for lease in leases:
        if lease.lives(jobs) and not (me is not None and me.succeeds(lease.owner)):
            continue
        if slots.futile(lease) <= slots.max_restarts:
            if slots.release(lease, lost=True):
                released.append(lease.number)
            continue
        with contextlib.suppress(LeaseLost):  # another process was quicker
            slots.finish(lease, TrialState.FAIL)
            failed.append(lease.number)
    return Reaped(released=tuple(released), failed=tuple(failed))
