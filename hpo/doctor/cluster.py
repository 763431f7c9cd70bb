"""Whether a SLURM cluster would take a study's jobs: what `sbatch --test-only` says of them.

Nothing is submitted. Two things sbatch does not say, and `sinfo` does: with `EnforcePartLimits=NO`,
SLURM's default, it accepts a time limit above the partition's, and such a job never starts; and it
has one sentence for nodes that are too small and for nodes that are drained today.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpo.cluster.jobs import SchedulerError, ask_slurm, slurm_available
from hpo.cluster.request import SlurmTable
from hpo.doctor.check import Check, Verdict, guarded

_USABLE = ("idle", "mixed", "allocated", "completing", "reserved")
"""States of nodes that take jobs, now or later."""
_MAY_COME = ("are busy", "not available now", "down, drained or reserved")
"""Parts of sbatch's answer for a job that waits for nodes."""
_OF_FILES = ("--output", "--error", "--open-mode")
_NO_SUCH_NODE = "node configuration is not available"


@dataclass(frozen=True, slots=True)
class _Partition:
    """A partition's nodes in one state: a line of sinfo's."""

    name: str
    up: bool
    limit_min: float
    nodes: int
    state: str

    @property
    def usable(self) -> bool:
        return self.state.rstrip("*~#!%$@^+-").startswith(_USABLE)


def cluster_checks(table: SlurmTable | None, script: str | None) -> list[Check]:
    """Whether SLURM answers, and takes a study's jobs; without a study, the default partition.

    Args:
        table: `[slurm]` of the study.
        script: What its launch would give to sbatch.
    """
    if not slurm_available():
        found = "sbatch, squeue, scontrol or scancel is not on this machine"
        return [Check("slurm", "failed", found, "go to a login node, or use --on local")]
    try:
        controllers = ask_slurm("scontrol", "ping")
    except SchedulerError as error:
        controllers = str(error)
    if " is UP" not in controllers:
        return [Check("slurm", "failed", _in_a_line(controllers), "try again when it answers")]
    partition = table.partition if table else None
    return [
        Check("slurm", "ok", _in_a_line(controllers)),
        *guarded("slurm partition", lambda: [_partition(table)]),
        *(guarded("slurm request", lambda: [_request(partition, script)]) if script else []),
    ]


def _partitions(wanted: str | None) -> list[_Partition]:
    """The partitions of these names, else the default one."""
    listing = ask_slurm("sinfo", "--noheader", "--all", "--exact", "--format=%P|%a|%l|%D|%T")
    rows = [line.split("|") for line in listing.splitlines() if line.count("|") == 4]
    return [
        _Partition(name.rstrip("*"), available == "up", _minutes(limit), int(nodes), state)
        for name, available, limit, nodes, state in rows
        if (name.rstrip("*") in wanted.split(",") if wanted else name.endswith("*"))
    ]


def _partition(table: SlurmTable | None) -> Check:
    """Whether the partition is there and gives such a job its time."""
    wanted = table.partition if table else None
    found = _partitions(wanted)
    if not found:
        missing = f"there is no partition {wanted!r}" if wanted else "no partition is the default"
        return Check("slurm partition", "failed", missing, "choose [slurm] partition: see sinfo")
    limit_min = max(one.limit_min for one in found)
    if table and table.timeout_min > limit_min:
        told = f"timeout_min = {table.timeout_min} is above the limit of {limit_min:g} min"
        lifted = f", unless the QOS {table.qos!r} lifts it" if table.qos else ""
        verdict: Verdict = "warning" if lifted else "failed"
        return Check("slurm partition", verdict, told + lifted, "lower [slurm] timeout_min")
    if not any(one.up for one in found):
        told = "no job starts until the partition is up"
        return Check("slurm partition", "warning", told, "choose another, or wait")
    states = ", ".join(f"{one.nodes} {one.state}" for one in found)
    told = f"{wanted or found[0].name}: {states}; limit {limit_min:g} min"
    return Check("slurm partition", "ok", told)


def _minutes(limit: str) -> float:
    """A time limit as sinfo writes it: `30:00`, `4:00:00`, `1-00:00:00` or `infinite`."""
    if not limit[:1].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = [0, 0, *(int(part) for part in clock.split(":"))][-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _request(partition: str | None, script: str) -> Check:
    """Whether sbatch would accept the jobs: it is given the very script of a launch."""
    try:
        ask_slurm("sbatch", "--test-only", told=script)
    except SchedulerError as error:
        said = _in_a_line(str(error))
        waits = any(text in said for text in _MAY_COME)
        if _NO_SUCH_NODE in said:
            waits = not any(one.usable for one in _partitions(partition))
        verdict: Verdict = "warning" if waits else "failed"
        return Check("slurm request", verdict, said, "change [slurm] of the study file")
    lines = (line.partition("#SBATCH ")[2] for line in script.splitlines())
    asked = (one for one in lines if one and not one.startswith(_OF_FILES))
    return Check("slurm request", "ok", f"sbatch accepts {' '.join(asked)}")


def _in_a_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
