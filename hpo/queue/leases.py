"""Leases: which process holds a running trial, and whether it still lives.

A lease is renewed while its owner lives. On the owner's machine the process is looked up; elsewhere
the renewals tell, and SLURM is asked where they fall silent. Times are the server's: nodes' clocks
differ.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from hpo.cluster.jobs import JobState, job_of_this_process, job_states

LEASE_S = 180.0
"""Seconds without a renewal after which SLURM is asked about an owner on another host."""
GIVE_UP_S = 1800.0
"""Seconds without a renewal after which an owner elsewhere counts as dead where SLURM does not
answer. While it does it is believed, since a job can be suspended for days."""


class LeaseLost(RuntimeError):
    """The trial was taken away because its worker seemed dead; the worker must not write now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The process that holds a trial."""

    host: str
    pid: int
    started: float
    """When the process began, as `began` tells it: a process id alone is used again."""
    machine: str | None = None
    """Where the process id counts, as `this_machine` tells it; None where nobody knows."""
    job: str | None = None
    """The scheduler's job id."""
    rank: int = 0
    """Its number among the job's workers."""

    @classmethod
    def this_process(cls, *, rank: int = 0) -> Owner:
        """The process that calls."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=began(os.getpid()),
            machine=this_machine(),
            job=job_of_this_process(),
            rank=rank,
        )

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process that this one would see."""
        return self.machine == this_machine()

    def runs(self) -> bool:
        """Whether the process runs, on this machine."""
        try:
            same = abs(began(self.pid) - self.started) < 1.0
            return same and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def is_same(self, other: Owner) -> bool:
        """Whether both are one process."""
        same = (self.machine, self.pid, self.rank) == (other.machine, other.pid, other.rank)
        return same and abs(self.started - other.started) < 1.0

    def succeeds(self, other: Owner) -> bool:
        """Whether this process took the other's place when their job was started anew."""
        in_its_place = self.job is not None and (self.job, self.rank) == (other.job, other.rank)
        return in_its_place and self != other


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A trial in a process's hands."""

    number: int
    trial_id: int
    token: str
    restarts: int
    """How many owners lost it before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease(Claim):
    """A claim with its owner, and when the owner was last heard of."""

    owner: Owner
    silent_s: float

    @property
    def doubtful(self) -> bool:
        """Whether only the scheduler can tell if the owner lives."""
        return not self.owner.here and self.owner.job is not None and self.silent_s >= LEASE_S

    def lives(self, jobs: Mapping[str, JobState] | None) -> bool:
        """Whether the owner still runs: looked up on this machine, else told by its renewals.

        Args:
            jobs: What `jobs_of` told, None without an answer. A suspended job has its processes;
                one that waits again has none any more.
        """
        if self.owner.here:
            return self.owner.runs()
        if not self.doubtful or self.owner.job is None:
            return self.silent_s < LEASE_S
        if jobs is None:
            return self.silent_s < GIVE_UP_S
        return self.owner.job in jobs and jobs[self.owner.job].started


AskSlurm = Callable[[Iterable[str]], Mapping[str, JobState] | None]


def jobs_of(
    leases: Iterable[Lease], *, ask: AskSlurm = job_states
) -> Mapping[str, JobState] | None:
    """What SLURM says of the jobs whose owners are in doubt; None without an answer.

    It is asked only if need be, and once for all.
    """
    doubtful = [one.owner.job for one in leases if one.doubtful and one.owner.job]
    return ask(doubtful) if doubtful else {}


def alive(leases: Collection[Lease]) -> set[Owner]:
    """The owners that live; one may hold several trials."""
    jobs = jobs_of(leases)
    return {one.owner for one in leases if one.lives(jobs)}


@functools.cache
def this_machine() -> str:
    """Where a process id means one process: the host since its boot, within a PID namespace.

    Host names do not tell: containers and cloned machines share them.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:  # no Linux
        boot, namespace = f"{psutil.boot_time():.0f}", ""
    return f"{boot}:{namespace}:{socket.gethostname()}"[:255]


def began(pid: int) -> float:
    """When a process of this machine began, by a clock that is never set.

    Returns:
        Seconds since the boot where /proc tells them (proc(5)), else since 1970. There the time of
        day is not in it; on Linux psutil's would jump whenever that is set.

    Raises:
        psutil.NoSuchProcess: If there is none.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return psutil.Process(pid).create_time()
    after_name = text.rpartition(")")[2].split()
    return int(after_name[19]) / os.sysconf("SC_CLK_TCK")
