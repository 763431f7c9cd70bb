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
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from data_prep.atomic import draft_of
from data_prep.dataset import Dataset
from data_prep.errors import DataError
from hpo.cluster.jobs import SchedulerError, end_of_job, job_of_this_process, requeue_job
from hpo.cluster.signals import TERMINAL, HandBack, handing_back
from hpo.doctor.machine import cores, gpus
from hpo.execution.plan import at_a_time, of_one_shape, stackable
from hpo.queue.crew import Crew
from hpo.queue.leases import Claim, LeaseLost, Owner, alive
from hpo.queue.slots import Slots
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.storage.retry import of_disk
from hpo.study.place import WORKERS
from hpo.study.sampling import Company, pruner_of, sampler_of, search_space
from hpo.study.space import largest
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
REFUSED = "refused.txt"
"""In the folder of the workers' files: why one that has ended could begin no trial."""

log = logging.getLogger("hpo.execution.worker")


class NoGpuError(RuntimeError):
    """The study wants a GPU and torch sees none here. The message says where, and the way out."""


def work(
    study_name: str, runs: str, threads: int, workers: int, stack: int | Literal["auto"] = 1
) -> int:
    """Run trials of the study until none waits or the time is up; say how many were run.

    Args:
        study_name: Of a study that `hpo launch` made.
        runs: Folder of all studies' runs.
        threads: CPU threads for torch.
        workers: Of the study, in all.
        stack: Trials that this one trains at a time, those of one shape together; auto: as many
            as its device makes worth while.

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
    device = _choose_device(spec, Path(runs, study_name, WORKERS, REFUSED))
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
        size = _size(stack, spec, slots, workers, on_gpu=device != "cpu")
        log.info("trials at a time: %d", size)
        meeting = _meeting(size) if size > 1 else None
        company = Company(of_one_shape(stack, size, trials=slots.look().total))
        shared = partial(_Worker, crew=Crew(), company=company, meeting=meeting)
        made = partial(shared, spec=spec, owner=owner, runs=Path(runs))
        whole = made(study=study, slots=slots)
        if meeting:
            # Each with a study of its own, which has a sampler and remembers the last trials.
            studies = (load_study(storage, study_name)[0] for _ in range(size))
            whole.mates = [made(study=one, slots=slots_of(one, spec)) for one in studies]
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
    crew: Crew = field(default_factory=Crew)
    company: Company = field(default_factory=lambda: Company(1))
    """Both are its mates', too."""

    known: IntersectionSearchSpace = field(default_factory=search_space)

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
            if self.crew.left:
                self._start_again()
        except HandBack as told:
            told.heard = True
            log.info("%s", told)
            # A claim that the signal cut short: the database knows of it, this process not yet.
            for claim in self.slots.claims_of(self.owner):
                self._hand_back(claim)
            if told.signal_number == signal.SIGUSR2:
                self._start_again()
        log.info("%d trials of %s run here", self.crew.done, self.study.study_name)
        return self.crew.done

    def _take(self) -> None:
        """Run trials until there is no next one, and none is trained here that may leave one."""
        while True:
            with contextlib.ExitStack() as turn:
                turn.enter_context(self.crew.turn)
                while (claim := self._next()) is None:
                    if not self.crew.wait():
                        return
                self._run(claim, turn.close)

    def _take_together(self) -> None:
        """Run trials in a thread for each of the mates; all of them have ended when it returns."""
        from hpo.execution import trial

        def broken_by(error: BaseException) -> Callable[[], HandBack]:
            told = error if isinstance(error, HandBack) else HandBack(signal.SIGTERM)
            told.heard = True
            return partial(HandBack, told.signal_number)

        assert self.meeting is not None
        taking = [mate._take for mate in self.mates]
        self.meeting.run(taking, thread=trial.THREAD, broken_by=broken_by)

    def _next(self) -> Claim | None:
        """The next trial; None when there is none, or no time for it."""
        if self.meeting:
            self.meeting.check()
        if self.crew.over:
            return None
        before, self.crew.stopped = self.crew.stopped, self._stop_reason()
        if self.crew.stopped:
            if self.crew.stopped != before:
                log.info("no new trial starts: %s", self.crew.stopped)
            return None
        reap_lost_trials(self.study, self.slots, self.folder, self.owner)
        # The first is begun in any case: a job that began none would do so again and again.
        needed_s = WORTHWHILE_EPOCHS * self.crew.epoch_s
        end_s = end_of_job(self.spec.slurm.timeout_min)
        if self.crew.done and time.time() + needed_s > end_s - SIGNAL_S:
            self.crew.over = True
            if self.slots.look().counts[TrialState.WAITING]:
                log.info("no time for another trial before the limit")
                self.crew.left = True
            return None
        return self.slots.claim(self.owner)

    def _stop_reason(self) -> str | None:
        return stop_reason(self.spec, self.slots.attributes(), lambda: self.slots.look().trials)

    def _run(self, claim: Claim, pass_on: Callable[[], None]) -> None:
        """Run one trial under a heartbeat; hand it back if this process is told to end.

        Args: `pass_on` gives the turn to the next of the mates.
        """
        from hpo.execution import trial

        self.study.sampler = sampler_of(self.spec, claim.number, self.known, self.company)

        def suggested(params: dict[str, Any]) -> None:
            self.company.add(claim.number, params)
            pass_on()

        folder = self.folder / trial_name(claim.number)
        claimed = trial.ClaimedTrial(
            self.study,
            self.spec,
            claim,
            self.slots,
            folder,
            meeting=self.meeting,
            suggested=suggested,
        )
        try:
            with self.crew.training(), _heartbeat(self.slots, claim):
                record = trial.run(claimed)
                self.crew.count(max((row.seconds or 0.0 for row in record.epochs), default=0.0))
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


def _size(
    stack: int | Literal["auto"], spec: StudySpec, slots: Slots, workers: int, *, on_gpu: bool
) -> int:
    """How many trials this worker trains at a time."""
    if stack != "auto":
        return stack
    try:
        dataset = Dataset.read(Path(spec.data.path))
    except DataError as error:  # the trials tell why they fail
        log.warning("%s", error)
        return 1
    in_job = job_of_this_process() is not None
    # Workers of one machine may all be on this GPU.
    sharing = spec.slurm.workers_per_gpu if in_job else workers
    return at_a_time(
        stack,
        spec,
        dataset,
        trials=slots.look().total,
        workers=workers,
        room=_room(spec, dataset) // sharing if on_gpu and stackable(spec, dataset) else None,
        in_jobs=in_job,
    )


def _room(spec: StudySpec, dataset: Dataset) -> int:
    """How many of the study's largest trainings fit into what is free of the GPU's memory."""
    import torch

    from models.training.stack.memory import bytes_of_all, bytes_of_training

    configs = largest(spec.space, spec.flow, spec.training)
    sizes = [bytes_of_training(flow, dataset, one.batch_size) for flow, one in configs]
    free = torch.cuda.mem_get_info()[0] - bytes_of_all(dataset)
    return max(1, int(free / max(sizes))) if sizes else 1


def _choose_device(spec: StudySpec, refused: Path) -> str:
    """Tell on which device this worker trains; refuse a processor where a GPU was asked for."""
    import torch

    from hpo.records.environment import device_of

    option, in_job = spec.training.device, job_of_this_process() is not None
    device = device_of(option)
    log.info("trains on %s, with %d threads", device, torch.get_num_threads())
    if device != "cpu" or option == "cpu":
        return device
    if option == "cuda":
        asked = "[training] device is 'cuda'"
    elif in_job and spec.slurm.gpu_count:
        asked = f"[slurm] gpus is {spec.slurm.gpus!r}"
    else:
        return device
    said = (
        f"a worker on {socket.gethostname()} began no trial: torch {torch.__version__} sees no GPU "
        f"there, but {asked}: install a torch for the node's driver, or set training.device=cpu"
    )
    with draft_of(refused) as draft:
        draft.write_text(said, encoding="utf-8")
    raise NoGpuError(said)


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
