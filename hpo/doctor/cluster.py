"""Whether a SLURM cluster would take a study's jobs: `sbatch --test-only`, and what it leaves out.

Nothing is submitted. With `EnforcePartLimits=NO`, SLURM's default, sbatch accepts a job above the
time limit of its partition, which then never starts, and says the same of nodes that are too small
and of nodes that are drained today. Both are told by `sinfo`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpo.doctor.check import Check, Verdict
from hpo.queue.jobs import SchedulerError, ask_slurm, slurm_available
from hpo.study.spec import SlurmTable, StudySpec

_MAY_COME = (
    "are busy",
    "not available now",
    "down, drained or reserved",
    "node configuration is not available",
)
"""Parts of sbatch's answer for a job that waits for nodes; `_partition` finds nodes too small."""


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Nodes of a partition that are alike: a line of sinfo's."""

    partition: str
    default: bool
    up: bool
    limit_min: float
    count: int
    cpus: int
    memory_gb: float
    gpus: int

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        return f"{self.count} nodes of {self.cpus} CPUs, {self.memory_gb:.0f} GB{gpus}"


def cluster_checks(spec: StudySpec | None) -> list[Check]:
    """Whether SLURM answers, and then what it says of a study's jobs.

    Args:
        spec: The study; None looks at the default partition.
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
    table = spec.slurm if spec else None
    return [
        Check("slurm", "ok", _in_a_line(controllers)),
        _answered("slurm partition", lambda: _partition(table)),
        *([_request(table)] if table else []),
    ]


def _answered(what: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except (SchedulerError, ValueError) as error:  # no answer, or of another shape
        return Check(what, "warning", f"could not be checked: {_in_a_line(str(error))}")


def _partition(table: SlurmTable | None) -> Check:
    """Whether the partition is there and has nodes and time for such a job."""
    everything = _nodes(
        ask_slurm("sinfo", "--noheader", "--all", "--exact", "--format=%P|%a|%l|%D|%c|%m|%G")
    )
    wanted = table.partition if table else None
    nodes = [
        one for one in everything if (one.partition in wanted.split(",") if wanted else one.default)
    ]
    if not nodes:
        found = f"there is no partition {wanted!r}" if wanted else "no partition is the default"
        names = ", ".join(sorted({one.partition for one in everything})) or "none"
        remedy = f"choose [slurm] partition from: {names}"
        return Check("slurm partition", "failed", found, remedy)
    limit_min = max(one.limit_min for one in nodes)
    there = "; ".join(map(str, nodes))
    if table and (fault := _too_small(table, nodes)):
        remedy = "change [slurm] of the study file, or choose another partition"
        return Check("slurm partition", "failed", f"{fault}: it has {there}", remedy)
    if table and table.timeout_min > limit_min:
        found = f"timeout_min = {table.timeout_min} is above the limit of {limit_min:g} min"
        lifted = f", unless the QOS {table.qos!r} lifts it" if table.qos else ""
        verdict: Verdict = "warning" if lifted else "failed"
        return Check("slurm partition", verdict, found + lifted, "lower [slurm] timeout_min")
    if not any(one.up for one in nodes):
        found = "no job starts until the partition is up"
        return Check("slurm partition", "warning", found, "choose another, or wait")
    found = f"{wanted or nodes[0].partition}: {there}; limit {limit_min:g} min"
    return Check("slurm partition", "ok", found)


def _too_small(table: SlurmTable, nodes: Sequence[_Nodes]) -> str | None:
    """Why the nodes never take a job."""
    cpus = table.tasks * max(1, table.cpus // table.tasks)
    if any(
        one.cpus >= cpus and one.memory_gb >= table.memory_gb and one.gpus >= table.gpus
        for one in nodes
    ):
        return None
    asked = f"cpus = {cpus}, memory_gb = {table.memory_gb}, gpus = {table.gpus}"
    return f"no node of the partition has {asked}"


def _nodes(text: str) -> list[_Nodes]:
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 6]
    return [
        _Nodes(
            partition=partition.rstrip("*"),
            default=partition.endswith("*"),
            up=state == "up",
            limit_min=_minutes(limit),
            count=int(count),
            cpus=int(cpus.rstrip("+")),
            memory_gb=int(memory.rstrip("+")) / 1024,
            gpus=_gpus(gres),
        )
        for partition, state, limit, count, cpus, memory, gres in rows
    ]


def _minutes(limit: str) -> float:
    """A time limit as sinfo writes it: `30:00`, `4:00:00`, `1-00:00:00` or `infinite`."""
    if not limit[:1].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = [0, 0, *(int(part) for part in clock.split(":"))][-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _gpus(gres: str) -> int:
    """GPUs of a node: 6 for `gpu:a100:4(S:0-1),gpu:v100:2`."""
    items = [item.split(":") for item in re.sub(r"\([^)]*\)", "", gres).split(",")]
    return sum(
        int(item[-1]) if item[-1].isdigit() else 1 for item in items if item[0].lower() == "gpu"
    )


def _request(table: SlurmTable) -> Check:
    """What sbatch says to an array of the study's jobs. None is submitted."""
    asked = table.options | table.extra_options
    named = {key.replace("_", "-"): value for key, value in asked.items()}
    words = [f"--{key}" if value is True else f"--{key}={value}" for key, value in named.items()]
    try:
        ask_slurm("sbatch", "--test-only", "--array=0", *words, "--wrap=true")
    except SchedulerError as error:
        said = _in_a_line(str(error))
        verdict: Verdict = "warning" if any(text in said for text in _MAY_COME) else "failed"
        return Check("slurm request", verdict, said, "change [slurm] of the study file")
    return Check("slurm request", "ok", f"sbatch accepts {' '.join(words)}")


def _in_a_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
