"""A worker: takes trials from the study until none is left, or its job's time is up.

submitit pickles `work` and its arguments, which are names and numbers; the database's URL comes in
the environment. A worker that is told to end hands its trial back with all epochs so far:

    SIGUSR2                     the time limit is near, or another job wants the node: hand back
    SIGTERM, SIGINT, SIGHUP     somebody cancelled, or a terminal was closed: hand back

A signal's handler only raises; the database is told where the exception is caught. Other workers
find a worker that died without a signal by the lease that it no longer renews.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import psutil
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from data_prep.atomic import draft_of
from hpo.cluster.jobs import SchedulerError, job_of_this_process, requeue_job
from hpo.doctor.machine import cores, gpus
from hpo.queue.leases import Claim, LeaseLost, Owner, alive
from hpo.queue.slots import Slots
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.storage.retry import of_disk
from hpo.study.place import WORKERS
from hpo.study.sampling import pruner_of, sampler_of, search_space
from hpo.study.spec import StudySpec
from hpo.study.study import (
    end_trial,
    load_study,
    reap_lost_trials,
    slots_of,
    stop_reason,
    trial_name,
)

if TYPE_CHECKING:
    from models.training.stack.meeting import Meeting

HEARTBEAT_S = 20.0
"""Seconds between renewals of a lease; well under `leases.LEASE_S`, so that some may be missed."""
SIGNAL_S = 90
"""Seconds before its time limit at which SLURM sends SIGUSR2."""
WORTHWHILE_EPOCHS = 3
"""A trial is begun only if there is time for so many of its epochs."""
INSIST_S = 1.0
"""Seconds after which an exception that nobody heard is raised again."""
TERMINAL = frozenset({signal.SIGINT, signal.SIGHUP})
"""Signals that a terminal sends to all processes of a command."""
REFUSED = "refused.txt"
"""In the folder of the workers' files: why one that has ended could begin no trial."""

log = logging.getLogger("hpo.execution.worker")


class HandBack(KeyboardInterrupt):
    """This process has to end. Not an Exception: nothing may take it for a trial's failure."""

    heard = False
    """Set where it is caught: until then it is raised again and again."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"told by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class NoGpuError(RuntimeError):
    """The study wants a GPU and torch sees none here. The message says where, and the way out."""


def work(study_name: str, runs: str, threads: int, workers: int, stack: int = 1) -> int:
    """Run trials of the study until none waits or the time is up; say how many were run.

    Args:
        study_name: Of a study that `hpo launch` made.
        runs: Folder of all studies' runs.
        threads: CPU threads for torch.
        workers: Of the study, in all.
        stack: Trials that this one trains at a time, those of one shape together.

    Raises:
        NoGpuError: If the study would be trained on a processor although it wants a GPU.
    """
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    rank = int(os.environ.get("SLURM_LOCALID", "0")) if job_of_this_process() else 0
    _choose_gpu(rank)
    _choose_threads(threads)
    storage = open_storage(url_of(None, Path(runs)))
    study, spec = load_study(storage, study_name)
    _choose_device(spec, Path(runs, study_name, WORKERS, REFUSED))
    slots = slots_of(study, spec)
    owner = Owner.this_process(rank=rank)
    if int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0):
        others = [lease for lease in slots.leases() if not owner.succeeds(lease.owner)]
        if len(alive(others)) >= workers:
            log.info("others took this worker's place while its job waited to start again")
            return 0
    # A launch tells its workers by it, though it may itself be deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with handing_back(*TERMINAL, signal.SIGTERM, signal.SIGUSR2):
        made = partial(_Worker, spec=spec, owner=owner, runs=Path(runs))
        whole = made(study=study, slots=slots)
        if stack > 1:
            # Each with a study of its own, which has a sampler and remembers the last trials.
            meeting = whole.meeting = _meeting(stack)
            studies = (load_study(storage, study_name)[0] for _ in range(stack))
            whole.mates = [
                made(study=one, slots=slots_of(one, spec), meeting=meeting) for one in studies
            ]
        return whole.work()


@dataclass(kw_only=True)
class _Worker:
    """Takes one trial after another, or has its mates do so, each in a thread."""

    study: optuna.Study
    spec: StudySpec
    slots: Slots
    owner: Owner
    runs: Path
    """Folder of all studies' runs."""

    meeting: Meeting | None = None
    """Where trials are trained together, if they are."""
    mates: list[_Worker] = field(default_factory=list)

    known: IntersectionSearchSpace = field(default_factory=search_space)
    done: int = 0
    """Trials that were run."""
    epoch_s: float = 0.0
    """The longest epoch so far."""

    def __post_init__(self) -> None:
        self.study.pruner = pruner_of(self.spec)

    @property
    def folder(self) -> Path:
        """The folder of the study's trials."""
        return self.runs / self.study.study_name

    def work(self) -> int:
        try:
            if self.mates:
                self._take_together()
            else:
                self._take()
        except HandBack as told:
            told.heard = True
            log.info("%s", told)
            # A claim that the signal cut short: the database knows of it, this process not yet.
            for claim in self.slots.claims_of(self.owner):
                self._hand_back(claim)
            if told.signal_number == signal.SIGUSR2:
                self._start_again()
        log.info("%d trials of %s run here", self.done, self.study.study_name)
        return self.done

    def _take(self) -> None:
        """Run trials until there is no next one."""
        while claim := self._next():
            self._run(claim)

    def _take_together(self) -> None:
        """Run trials in a thread for each of the mates; all of them have ended when it returns."""
        from hpo.execution import trial

        def broken_by(error: BaseException) -> Callable[[], HandBack]:
            told = error if isinstance(error, HandBack) else HandBack(signal.SIGTERM)
            told.heard = True
            return partial(HandBack, told.signal_number)

        assert self.meeting is not None
        taking = [mate._take for mate in self.mates]
        try:
            self.meeting.run(taking, thread=trial.THREAD, broken_by=broken_by)
        finally:
            self.done = sum(mate.done for mate in self.mates)

    def _next(self) -> Claim | None:
        """The next trial; None when there is none, or no time for it."""
        if self.meeting:
            self.meeting.check()
        if reason := self._stop_reason():
            log.info("no new trial starts: %s", reason)
            return None
        reap_lost_trials(self.study, self.slots, self.folder, self.owner)
        # The first is begun in any case: a job that began none would do so again and again.
        needed_s = WORTHWHILE_EPOCHS * self.epoch_s
        end_s = end_of_job(self.spec.slurm.timeout_min)
        if self.done and time.time() + needed_s > end_s - SIGNAL_S:
            if self.slots.look().counts[TrialState.WAITING]:
                log.info("no time for another trial before the limit")
                self._start_again()
            return None
        return self.slots.claim(self.owner)

    def _stop_reason(self) -> str | None:
        return stop_reason(self.spec, self.slots.attributes(), lambda: self.slots.look().trials)

    def _run(self, claim: Claim) -> None:
        """Run one trial under a heartbeat; hand it back if this process is told to end."""
        from hpo.execution import trial

        self.study.sampler = sampler_of(self.spec, claim.number, self.known)
        folder = self.folder / trial_name(claim.number)
        claimed = trial.ClaimedTrial(
            self.study, self.spec, claim, self.slots, folder, meeting=self.meeting
        )
        try:
            with _heartbeat(self.slots, claim):
                record = trial.run(claimed)
            self.epoch_s = max([self.epoch_s, *(row.seconds or 0.0 for row in record.epochs)])
            self.done += 1
        except LeaseLost as lost:
            log.warning("%s", lost)
        except trial.SURROUNDINGS as error:
            # No configuration's fault, so it counts as no restart.
            if of_disk(error) or not self.runs.is_dir():
                self._hand_back(claim)
            raise
        except HandBack as told:
            told.heard = True
            self._hand_back(claim, timed_out=told.signal_number == signal.SIGUSR2)
            raise

    def _hand_back(self, claim: Claim, *, timed_out: bool = False) -> None:
        """Let others go on with the trial, unless not one of its epochs fits into a job."""
        futile = self.slots.futile(claim) if timed_out else 0
        if futile > self.slots.max_restarts:
            reason = (
                f"{futile} jobs reached their time limit before an epoch ended: "
                "raise [slurm] timeout_min"
            )
            with contextlib.suppress(LeaseLost):
                end_trial(self.study, self.slots, claim, self.folder, reason)
            return
        self.slots.release(claim, lost=futile > 0)
        log.info("trial %d handed back", claim.number)

    def _start_again(self) -> None:
        """Have SLURM start this job anew, with all of its time, since trials are left."""
        job = self.owner.job
        if job is None or self.owner.rank:
            return
        try:
            requeue_job(job)
            log.info("job %s is queued again", job)
        except SchedulerError as error:  # a launcher that runs starts another one
            log.warning("job %s is not queued again: %s", job, error)


def end_of_job(timeout_min: int) -> float:
    """When this process's job ends, in seconds since 1970: as SLURM says, else as was asked for."""
    if job_of_this_process() is None:
        return math.inf
    said = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(said) if said.isdigit() else psutil.Process().create_time() + 60 * timeout_min


def _choose_gpu(rank: int) -> None:
    """Give each of several workers of one job a GPU of its own, or share them evenly."""
    if visible := gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[rank % len(visible)]


def _choose_threads(threads: int) -> None:
    """Set torch's threads, no more than there are cores: each would wait for another."""
    # Here, so that the launcher, which only names `work`, does not load torch.
    import torch

    if cores() < threads:
        log.warning("%d threads were asked for, this job may use %d cores", threads, cores())
    torch.set_num_threads(max(1, min(threads, cores())))


def _meeting(stack: int) -> Meeting:
    """Where so many trials are trained together, with the threads that this process was given."""
    import torch

    from models.training.stack.meeting import Meeting

    return Meeting(size=stack, threads=torch.get_num_threads())


def _choose_device(spec: StudySpec, refused: Path) -> None:
    """Tell on which device this worker trains; refuse a processor where a GPU was asked for."""
    import torch

    from hpo.records.environment import device_of

    option, in_job = spec.training.device, job_of_this_process() is not None
    device = device_of(option)
    log.info("trains on %s, with %d threads", device, torch.get_num_threads())
    if device != "cpu" or option == "cpu":
        return
    if option == "cuda":
        asked = "[training] device is 'cuda'"
    elif in_job and spec.slurm.gpu_count:
        asked = f"[slurm] gpus is {spec.slurm.gpus!r}"
    else:
        return
    said = (
        f"a worker on {socket.gethostname()} began no trial: torch {torch.__version__} sees no GPU "
        f"there, but {asked}: install a torch for the node's driver, or set training.device=cpu"
    )
    with draft_of(refused) as draft:
        draft.write_text(said, encoding="utf-8")
    raise NoGpuError(said)


@contextlib.contextmanager
def handing_back(*numbers: signal.Signals) -> Iterator[None]:
    """The first of these signals raises `HandBack` until that is heard; all later ones do nothing.

    Raised in a finalizer or a callback of a library's, it goes no further: Python prints it. In
    place of submitit's handlers, which requeue the job before the trial is handed back, and do not
    hear SIGTERM.
    """

    def tell(number: int, _frame: object) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        told = HandBack(number)

        def insist(*_: object) -> None:
            if not told.heard:
                raise told

        signal.signal(signal.SIGALRM, insist)
        signal.setitimer(signal.ITIMER_REAL, INSIST_S, INSIST_S)
        raise told

    # Whoever starts a command with nohup wants no hang-up to end it, nor a Ctrl-C one that a script
    # has in its background.
    deaf = {one for one in TERMINAL if signal.getsignal(one) is signal.SIG_IGN}
    before = {one: signal.signal(one, tell) for one in {*numbers} - deaf}
    before[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
    try:
        # The launcher starts its workers deaf to the terminal, for submitit's controllers.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


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
            except (SQLAlchemyError, OSError) as error:
                log.warning("the lease of trial %d was not renewed: %s", claim.number, error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5.0)
