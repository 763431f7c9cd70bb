"""The reaper: finds running trials whose owners are gone and takes them back.

A trial can also be RUNNING without any lease, when another tool claimed it; it is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from hpo.cluster.jobs import job_states
from hpo.queue.leases import AskSlurm, Claim, Lease, LeaseLost, Owner, jobs_of
from hpo.queue.slots import Slots

log = logging.getLogger("hpo.queue.reaper")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaped:
    """Numbers of the trials of dead owners that wait again, and that failed."""

    released: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()


def reap(
    slots: Slots,
    me: Owner | None = None,
    *,
    leases: Sequence[Lease] | None = None,
    end: Callable[[Claim], None] | None = None,
    ask: AskSlurm = job_states,
) -> Reaped:
    """Take the trials of dead owners back; those whose attempts were futile too often fail.

    Each trial is dealt with for itself: where a folder cannot be written, the rest goes on, and the
    next reaper comes back to it.

    Args:
        slots: Of the study.
        me: A worker: what its job held before it was started anew counts as lost.
        leases: Those of the running trials, if they have just been read.
        end: Ends a trial that nobody goes on with, and tells the study; by default just that.
        ask: Says which jobs there are; None for "no answer".
    """
    end = end or (lambda claim: slots.finish(claim, TrialState.FAIL))
    released, failed = [], []
    for lease in _lost(slots, slots.leases() if leases is None else leases, me, ask):
        try:
            if slots.futile(lease) > slots.max_restarts:
                end(slots.take(lease))
                failed.append(lease.number)
            elif slots.release(lease, lost=True):
                released.append(lease.number)
        except LeaseLost:
            pass  # another process was quicker
        except (SQLAlchemyError, StorageInternalError):
            raise  # the database is away, for every trial
        except Exception:
            log.exception("trial %d, whose worker is gone, was not ended", lease.number)
    return Reaped(released=tuple(released), failed=tuple(failed))


def _lost(slots: Slots, leases: Sequence[Lease], me: Owner | None, ask: AskSlurm) -> list[Lease]:
    """Those of the leases whose owners are dead."""
    if any(lease.silent_s < 0 for lease in leases):
        slots.date_back()
    jobs = jobs_of(leases, ask=ask)
    return [
        lease
        for lease in leases
        if not lease.lives(jobs) or (me is not None and me.succeeds(lease.owner))
    ]
