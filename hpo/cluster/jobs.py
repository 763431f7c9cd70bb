"""SLURM's own commands: states of jobs, cancel, requeue, settings.

`squeue` is asked, not `sacct`: it does not lag, and a cluster without accounting has it, too.
If squeue does not answer, `job_states` gives None: no answer does not mean that there is no job.

Every command runs in `clean_environment`. SLURM's commands take options from it, a job gets a copy
of it, and what an allocation or a shell's profile has set there outranks a script.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psutil

ANSWER_S = 30.0
"""Longest wait for an answer: squeue's own limit is shorter."""
SQUEUE_S = 10.0
"""Seconds for which an answer of squeue's, which other users ask as well, is kept."""
STARTED = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"})
"""States in which processes of the job may be there."""
QUEUED = frozenset({"PENDING", "CONFIGURING", "RESIZING", "REQUEUED", "REQUEUE_FED"})
_LATER = "BeginTime"
"""The reason for which a requeued job waits two minutes, without a worker."""
_NEVER = tuple(
    "PartitionConfig PartitionTimeLimit PartitionNodeLimit BadConstraints InvalidAccount "
    "InvalidQOS JobHeldUser JobHeldAdmin".split()
)
_PLACE = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"})
"""Variables that say which cluster there is, and who asks."""
_OF_JOBS = tuple(
    "SLURM_ SLURMD_ SRUN_ SBATCH_ SALLOC_ SQUEUE_ SINFO_ SCANCEL_ SCONTROL_ SUBMITIT_ "
    "CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES ZE_AFFINITY_MASK".split()
)
"""Beginnings of variables that describe another job, or preset an option."""


class SchedulerError(RuntimeError):
    """A command of SLURM's failed. The message is its output."""


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of a job, or of one task of an array, from squeue."""

    job: str
    """As users write it: `123`, or `123_4` for a task of an array."""
    state: str
    reason: str
    """Why it waits; `None` when it does not."""

    @property
    def started(self) -> bool:
        """Whether processes of it may be there."""
        return self.state in STARTED

    @property
    def alive(self) -> bool:
        """Whether it works or will as soon as there is room."""
        return self.started or (self.state in QUEUED and self.reason != _LATER)

    @property
    def stuck(self) -> bool:
        """Whether it will wait until somebody changes the request or the cluster."""
        return self.state == "PENDING" and self.reason.startswith(_NEVER)


def slurm_available() -> bool:
    """Whether SLURM's commands are here."""
    return all(shutil.which(command) for command in ("sbatch", "squeue", "scontrol", "scancel"))


def job_of_this_process() -> str | None:
    """The job in which this process runs; None outside of SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:  # SLURM_JOB_ID of an array's task is another number than the one users see
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def end_of_job(timeout_min: int) -> float:
    """When this process's job ends, in seconds since 1970: as SLURM says, else as was asked for."""
    if job_of_this_process() is None:
        return math.inf
    said = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(said) if said.isdigit() else psutil.Process().create_time() + 60 * timeout_min


def clean_environment() -> dict[str, str]:
    """This process's environment as it is outside of any job, with no option of SLURM's preset."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PLACE or not name.startswith(_OF_JOBS)
    }


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Have `clean_environment` be this process's own, which what is started in here inherits."""
    clean = clean_environment()
    hidden = {name: os.environ.pop(name) for name in {*os.environ} - {*clean}}
    try:
        yield
    finally:
        os.environ.update(hidden)


def job_states(jobs: Iterable[str]) -> dict[str, JobState] | None:
    """The states of jobs that squeue knows, by id (`123`, `123_4`); None without an answer.

    An id of a whole array (`123`) stands for all of its tasks. The answer may be `SQUEUE_S` old,
    unless this process has changed the queue since.
    """
    arrays = {job.partition("_")[0] for job in jobs}
    if not arrays:
        return {}
    queue = _queue.look()
    if queue is None:
        return None
    return {job: state for job, (array, state) in queue.items() if array in arrays}


class _Queue:
    """The last answer of squeue's, for all that ask in this process."""

    def __init__(self) -> None:
        self._answer: dict[str, tuple[str, JobState]] | None = None
        self._asked_s = -math.inf

    def look(self) -> dict[str, tuple[str, JobState]] | None:
        """The array and the state of each of the user's jobs; None if squeue does not answer."""
        if time.monotonic() - self._asked_s > SQUEUE_S:
            try:
                # By user, not by id: of an id that it has forgotten it knows nothing but an error.
                text = ask_slurm("squeue", "--noheader", "--array", "--me", "--format=%i|%F|%T|%r")
                rows = [line.split("|", 3) for line in text.splitlines() if line.count("|") >= 3]
                self._answer = {
                    job: (array, JobState(job, state, reason)) for job, array, state, reason in rows
                }
            except SchedulerError:
                self._answer = None
            self._asked_s = time.monotonic()  # now: it can take long to say nothing
        return self._answer

    def forget(self) -> None:
        self._asked_s = -math.inf


_queue = _Queue()


def queue_has_changed() -> None:
    """Have squeue asked anew by the next that wants to know: jobs were submitted or ended."""
    _queue.forget()


def cancel_jobs(jobs: Sequence[str]) -> None:
    """End these jobs; raises SchedulerError if the controller does not answer."""
    if jobs:
        ask_slurm("scancel", *jobs)
        queue_has_changed()


def requeue_job(job: str) -> None:
    """Put a running job back into the queue; raises SchedulerError if that is refused."""
    ask_slurm("scontrol", "requeue", job)
    queue_has_changed()


def cluster_settings() -> Mapping[str, str]:
    """The cluster's configuration by name, such as `MaxArraySize`; may raise SchedulerError."""
    pairs = (line.partition("=") for line in ask_slurm("scontrol", "show", "config").splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def ask_slurm(command: str, *words: str, told: str = "") -> str:
    """The output of a command of SLURM's, in a clean environment.

    Args:
        command, words: The command and its arguments.
        told: Text on its standard input.

    Raises:
        SchedulerError: If it is not there, fails or does not answer.
    """
    try:
        done = subprocess.run(
            [command, *words],
            input=told,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=False,
        )
    except FileNotFoundError:
        raise SchedulerError(f"{command} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{command} did not answer within {ANSWER_S:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise SchedulerError(f"{command}: {said}")
    return done.stdout
