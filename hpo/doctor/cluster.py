"""Whether a SLURM cluster would take a study's jobs: its partitions, its limits, its own word.

Nothing is submitted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.doctor.check import Check, Verdict
from hpo.queue.jobs import SchedulerError, ask_slurm, cluster_settings, slurm_available
from hpo.study.spec import SlurmTable, StudySpec


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Nodes of a partition that are alike: a line of sinfo's."""

    partition: str
    default: bool
    state: str
    """Of the partition: `up`, `down`, `drain` or `inactive`, which takes no jobs either."""
    limit_min: float
    count: int
    cpus: int
    memory_gb: float
    gpus: int

    def describe(self) -> str:
        """What there is, for people."""
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        return f"{self.count} nodes of {self.cpus} CPUs, {self.memory_gb:.0f} GB{gpus}"


def looks(spec: StudySpec | None, workers: int) -> list[Check]:
    """Whether SLURM answers, and then what it says of a study's jobs.

    Args:
        spec: The study; None looks at the default partition.
        workers: How many would run at once.
    """
    if not slurm_available():
        found = "sbatch, squeue, scontrol or scancel is not on this machine"
        return [Check("slurm", "failed", found, "go to a login node, or use --on local")]
    try:
        controllers = ask_slurm("scontrol", "ping").strip()
    except SchedulerError as error:
        controllers = str(error)
    if " is UP" not in controllers:
        return [Check("slurm", "failed", _in_a_line(controllers), "try again when it answers")]
    table = spec.slurm if spec else None
    return [
        Check("slurm", "ok", _in_a_line(controllers)),
        *_asked("slurm partition", lambda: _partition(table)),
        *_asked("slurm arrays", lambda: _arrays(workers, table)),
        *([_request(table)] if table else []),
    ]


def _asked(what: str, look: Callable[[], Check]) -> list[Check]:
    try:
        return [look()]
    except (SchedulerError, ValueError, KeyError) as error:  # no answer, or of another shape
        return [Check(what, "warning", f"could not be checked: {_in_a_line(str(error))}")]


def _partition(table: SlurmTable | None) -> Check:
    """Whether the partition is there and has nodes for such a job.

    With EnforcePartLimits=NO, which is SLURM's default, sbatch accepts what never can start.
    """
    columns = "%P|%a|%l|%D|%c|%m|%G"
    everything = _nodes(ask_slurm("sinfo", "--noheader", "--all", "--exact", f"--format={columns}"))
    wanted = table.partition if table else None
    nodes = [one for one in everything if _is_wanted(one, wanted)]
    if not nodes:
        found = f"there is no partition {wanted!r}" if wanted else "no partition is the default"
        names = ", ".join(sorted({one.partition for one in everything})) or "none"
        remedy = f"choose [slurm] partition from: {names}"
        return Check("slurm partition", "failed", found, remedy)
    faults = _shortfalls(table, nodes) if table else []
    doubts = _doubts(table, nodes)
    if faults or doubts:
        verdict: Verdict = "failed" if faults else "warning"
        remedy = "change [slurm] of the study file, or choose another partition"
        return Check("slurm partition", verdict, "; ".join([*faults, *doubts]), remedy)
    what = "; ".join(one.describe() for one in nodes)
    found = f"{wanted or nodes[0].partition}: {what}; limit {_limit(nodes):g} min"
    return Check("slurm partition", "ok", found)


def _is_wanted(nodes: _Nodes, wanted: str | None) -> bool:
    return nodes.partition in wanted.split(",") if wanted else nodes.default


def _limit(nodes: Iterable[_Nodes]) -> float:
    return max(one.limit_min for one in nodes)


def _shortfalls(table: SlurmTable, nodes: Sequence[_Nodes]) -> list[str]:
    """What a job asks for and no node of these has."""
    cpus = table.tasks * max(1, table.cpus // table.tasks)
    asked = {"gpus": table.gpus, "cpus": cpus, "memory_gb": table.memory_gb}
    faults = [
        f"no node has {key} = {value:g}, the largest has {largest:g}"
        for key, value in asked.items()
        if (largest := max(getattr(one, key) for one in nodes)) < value
    ]
    if not faults and not any(
        all(getattr(one, key) >= value for key, value in asked.items()) for one in nodes
    ):
        together = ", ".join(f"{key} = {value:g}" for key, value in asked.items())
        faults = [f"no node has {together} together"]
    if table.timeout_min > _limit(nodes) and table.qos is None:
        faults.append(_too_long(table, nodes))
    if not any(one.state in ("up", "down") for one in nodes):
        faults.append(f"the partition takes no jobs: it is {nodes[0].state}")
    return faults


def _doubts(table: SlurmTable | None, nodes: Sequence[_Nodes]) -> list[str]:
    """What may keep a job from its start."""
    doubts = []
    if table and table.timeout_min > _limit(nodes) and table.qos is not None:
        doubts.append(f"{_too_long(table, nodes)}, unless the QOS {table.qos!r} lifts it")
    states = {one.state for one in nodes}
    if "down" in states and "up" not in states:
        doubts.append("no job starts until the partition is up: it is down")
    return doubts


def _too_long(table: SlurmTable, nodes: Iterable[_Nodes]) -> str:
    limit = f"the partition's limit of {_limit(nodes):g} min"
    return f"timeout_min = {table.timeout_min} is above {limit}"


def _nodes(text: str) -> list[_Nodes]:
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 6]
    return [
        _Nodes(
            partition=partition.rstrip("*"),
            default=partition.endswith("*"),
            state=state,
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


def _arrays(workers: int, table: SlurmTable | None) -> Check:
    largest = int(cluster_settings()["MaxArraySize"])
    jobs = -(-workers // (table.tasks if table else 1))
    if largest < 1:
        remedy = "ask the cluster's administrators for MaxArraySize, or use --on local"
        return Check("slurm arrays", "failed", "the cluster allows no job arrays", remedy)
    chunks = [min(largest, jobs - start) for start in range(0, jobs, largest)]
    found = f"at most {largest} jobs each: {jobs} go as {' + '.join(map(str, chunks))}"
    return Check("slurm arrays", "ok", found)


_MAY_COME = (
    "are busy",
    "not available now",
    "down, drained or reserved",
    # Said of nodes that lack something, too, but those _partition has found.
    "node configuration is not available",
)
"""In what `sbatch --test-only` says of a job that waits for nodes or a partition that is down."""


def _request(table: SlurmTable) -> Check:
    """What sbatch would say to a job of the study. None is submitted."""
    try:
        ask_slurm("sbatch", "--test-only", *_words(table), "--wrap=true")
    except SchedulerError as error:
        said = _in_a_line(str(error))
        verdict: Verdict = "warning" if any(text in said for text in _MAY_COME) else "failed"
        return Check("slurm request", verdict, said, "change [slurm] of the study file")
    return Check("slurm request", "ok", f"sbatch accepts {' '.join(_words(table))}")


def sbatch_options(table: SlurmTable) -> dict[str, Any]:
    """Options of sbatch for a job of the study, by names with underscores."""
    asked = {
        "partition": table.partition,
        "account": table.account,
        "qos": table.qos,
        "constraint": table.constraint,
        "exclude": table.exclude,
        "nodes": 1,
        "ntasks_per_node": table.tasks,
        "cpus_per_task": max(1, table.cpus // table.tasks),
        "gpus_per_node": table.gpus or None,
        "mem": f"{table.memory_gb}GB",
        "time": table.timeout_min,
    }
    return {key: value for key, value in asked.items() if value is not None}


def extra_options(table: SlurmTable) -> dict[str, str | int | bool]:
    """Options of sbatch that the study's file adds, by names with underscores."""
    return {key.lstrip("-").replace("-", "_"): value for key, value in table.extra.items()}


def _words(table: SlurmTable) -> list[str]:
    """The options as words of a command line."""
    asked = sbatch_options(table) | extra_options(table)
    dashed = {key.replace("_", "-"): value for key, value in asked.items()}
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in dashed.items()]


def _in_a_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
