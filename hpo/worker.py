"""A worker: takes trials from the study until none is left.

What submitit pickles and runs. It is handed a name and numbers only; the database's URL comes in
the environment.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from hpo import study as studies
from hpo.slots import Claim, LeaseLost, Owner, Slots
from hpo.storage import open_storage, url_of

if TYPE_CHECKING:
    from hpo.trial import Job

HEARTBEAT_S = 20.0
"""Seconds between renewals of a lease; well under `slots.LEASE_S`, so that some may be missed."""

log = logging.getLogger("hpo.worker")


def work(study_name: str, runs: str, threads: int) -> int:
    """Run trials of the study until none waits; say how many were run.

    Args:
        study_name: Of a study that `hpo launch` made.
        runs: Folder of all studies' runs.
        threads: CPU threads for torch.
    """
    # Here, so that the launcher, which only names this function, does not load torch.
    import torch

    from hpo.trial import Job

    # The launcher starts us deaf to Ctrl-C, for submitit's controllers; a worker hands back on it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    torch.set_num_threads(threads)
    study, spec = studies.opened(open_storage(url_of(None, Path(runs))), study_name)
    study.pruner = studies.pruner_of(spec)
    slots = Slots(study, max_restarts=spec.study.max_restarts)
    owner = Owner.this_process()

    done = 0
    while not studies.stopping(study):
        studies.reap(study, slots)
        claim = slots.claim(owner)
        if claim is None:
            break
        study.sampler = studies.sampler_of(spec, claim.number)
        folder = studies.trial_folder(Path(runs), study_name, claim.number)
        job = Job(study=study, spec=spec, claim=claim, slots=slots, folder=folder, job_id=owner.job)
        done += _run(job)
    log.info("no trial of %s waits any more: %d run here", study_name, done)
    return done


def _run(job: Job) -> bool:
    """Run one trial under a heartbeat; hand it back if this process is told to end."""
    from hpo import trial

    try:
        with _heartbeat(job.slots, job.claim):
            trial.run(job)
    except LeaseLost as lost:
        log.warning("%s", lost)
        return False
    except (KeyboardInterrupt, SystemExit):
        job.slots.release(job.claim)
        log.info("trial %d handed back", job.claim.number)
        raise
    return True


@contextlib.contextmanager
def _heartbeat(slots: Slots, claim: Claim) -> Iterator[None]:
    """Renew the lease while the body runs, through a dropped connection too."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            try:
                slots.renew(claim)
            except LeaseLost:
                return  # the main thread learns it at its own next renewal
            except SQLAlchemyError as error:
                log.warning("the lease of trial %d was not renewed: %s", claim.number, error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5.0)
