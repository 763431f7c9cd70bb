"""`hpo stop`: no new trial, or none at all."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass

from optuna.storages import RDBStorage

from hpo.cluster.jobs import SchedulerError, cancel_jobs, job_states
from hpo.queue.leases import alive
from hpo.storage.open import open_study
from hpo.study.study import STOP_ATTRIBUTE, load_study, slots_of

WAIT_S = 30.0
"""Longest wait for the workers to hand their trials back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """Workers that were ended."""

    jobs: int
    processes: int
    running: int
    """Trials whose workers had not ended after `WAIT_S`."""

    elsewhere: tuple[str, ...]
    """Other hosts with workers that no scheduler knows."""


def stop_study(storage: RDBStorage, name: str) -> None:
    """Start no new trial of the study.

    Raises:
        StorageError: If there is no such study.
    """
    open_study(storage, name).set_user_attr(STOP_ATTRIBUTE, True)


def end_workers(storage: RDBStorage, name: str) -> Ended:
    """End the workers of a study that is stopped; they hand their trials back.

    Raises:
        StorageError: If there is no such study.
        SchedulerError: If SLURM does not answer.
    """
    study, spec = load_study(storage, name)
    slots = slots_of(study, spec)
    jobs = job_states(slots.jobs())  # those that wait, too
    if jobs is None:
        raise SchedulerError("squeue does not answer: nothing was cancelled")
    cancel_jobs(sorted(jobs))
    leases = (one for one in slots.leases() if one.owner.job is None and one.lives({}))
    owners = {lease.owner for lease in leases}
    here = {owner for owner in owners if owner.here}
    for owner in here:
        with contextlib.suppress(ProcessLookupError):
            os.kill(owner.pid, signal.SIGTERM)
    deadline = time.monotonic() + WAIT_S
    while (left := alive(slots.leases())) and time.monotonic() < deadline:
        time.sleep(0.2)
    return Ended(
        jobs=len(jobs),
        processes=len(here),
        running=sum(lease.owner in left for lease in slots.leases()),
        elsewhere=tuple(sorted({owner.host for owner in owners - here})),
    )
