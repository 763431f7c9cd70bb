"""SLURM's own commands: states of jobs, cancel, requeue, settings.

`squeue` is asked, not `sacct`: it does not lag, and a cluster without accounting has it, too.
If squeue does not answer, `job_states` gives None: no answer does not mean that there is no job.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ANSWER_S = 30.0
"""Longest wait for an answer: squeue's own limit is shorter."""
STARTED = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"})
"""States in which processes of the job may be there."""
QUEUED = frozenset({"PENDING", "CONFIGURING", "RESIZING", "REQUEUED", "REQUEUE_FED"})
_LATER = "BeginTime"
"""The reason for which a requeued job waits two minutes, without a worker."""
_NEVER = tuple(
    "PartitionConfig PartitionTimeLimit PartitionNodeLimit BadConstraints InvalidAccount "
    "InvalidQOS JobHeldUser JobHeldAdmin".split()
)


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


def job_states(jobs: Iterable[str]) -> dict[str, JobState] | None:
    """The states of jobs that squeue knows, by id (`123`, `123_4`); None without an answer.

    An id of a whole array (`123`) stands for all of its tasks.
    """
    arrays = sorted({job.partition("_")[0] for job in jobs})
    if not arrays:
        return {}
    try:
        # By user, not by id: of an id that it has forgotten, squeue knows nothing but an error.
        text = ask_slurm("squeue", "--noheader", "--array", "--me", "--format=%i|%F|%T|%r")
    except SchedulerError:
        return None
    rows = [line.split("|", 3) for line in text.splitlines() if line.count("|") >= 3]
    return {
        job: JobState(job, state, reason) for job, array, state, reason in rows if array in arrays
    }


def cancel_jobs(jobs: Sequence[str]) -> None:
    """End these jobs; raises SchedulerError if the controller does not answer."""
    if jobs:
        ask_slurm("scancel", *jobs)


def requeue_job(job: str) -> None:
    """Put a running job back into the queue; raises SchedulerError if that is refused."""
    ask_slurm("scontrol", "requeue", job)


def cluster_settings() -> Mapping[str, str]:
    """The cluster's configuration by name, such as `MaxArraySize`; may raise SchedulerError."""
    pairs = (line.partition("=") for line in ask_slurm("scontrol", "show", "config").splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def ask_slurm(command: str, *words: str) -> str:
    """The output of a command of SLURM's.

    Raises:
        SchedulerError: If it is not there, fails or does not answer.
    """
    try:
        done = subprocess.run(
            [command, *words], capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except FileNotFoundError:
        raise SchedulerError(f"{command} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{command} did not answer within {ANSWER_S:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise SchedulerError(f"{command}: {said}")
    return done.stdout
