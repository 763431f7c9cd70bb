"""Workers as jobs: local processes or a SLURM array, both through submitit. Its only importer."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from data_prep.errors import InputError
from hpo.execution.worker import SIGNAL_S, work
from hpo.queue.jobs import SchedulerError, cluster_settings
from hpo.study.spec import StudySpec

YEAR_MIN = 365 * 24 * 60
"""Time limit of a local worker: submitit's own default would end it after five minutes."""
_CONTROLLER, _WORKER = "submitit.local._local", "submitit.core._submit"
"""Modules that submitit runs for each local worker: the one starts the other and waits for it."""


class ClusterError(InputError):
    """Workers that cannot be asked for. The message is one sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Workers that could be started."""

    spec: StudySpec
    runs: Path
    """Folder of all studies' runs, seen by the workers under the same path."""

    on: str
    """`local` or `slurm`."""

    workers: int

    @property
    def folder(self) -> Path:
        """Where submitit keeps the workers' pickles and output."""
        return self.runs / self.spec.study.name / "workers"

    @property
    def threads(self) -> int:
        """CPU threads of each worker: together they use the cores once."""
        if self.on == "slurm":
            return max(1, self.spec.slurm.cpus // self.tasks)
        return max(1, cores() // self.workers)

    @property
    def tasks(self) -> int:
        """Workers of each job."""
        return self.spec.slurm.tasks if self.on == "slurm" else 1

    @property
    def jobs(self) -> int:
        """Jobs that hold all workers."""
        return -(-self.workers // self.tasks)


class Workers:
    """Local processes that were started."""

    def __init__(self, jobs: Sequence[submitit.Job[int]]) -> None:
        self._jobs = list(jobs)

    @property
    def running(self) -> int:
        """How many have not ended."""
        return sum(not job.done() for job in self._jobs)

    @property
    def output(self) -> Path | None:
        """The standard error of the last one, where a worker that cannot start says why."""
        return self._jobs[-1].paths.stderr if self._jobs else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """Jobs that SLURM accepted, and what it said of those that it did not."""

    jobs: tuple[str, ...]
    refusal: str | None = None


def count_local(plan: Plan) -> int:
    """How many workers the study has on this machine, whichever launch started them."""
    return len(_local_workers(plan))


def interrupt_local(plan: Plan, wait_s: float) -> None:
    """Have the study's workers on this machine hand their trials back and end.

    Those that this process started, and those whose launch has died; not those of one that runs.

    Args:
        plan: Whose workers they are.
        wait_s: Longest wait for them.
    """
    me = psutil.Process()
    # Who loses its parent gets one of these, which has started this process, too.
    above = {1, *(process.pid for process in me.parents())}
    orphans = [top for top in _local_workers(plan) if _parent(top) in above]
    # Another user's cannot be told, and need not be waited for.
    told = list(filter(_interrupt, [*me.children(recursive=True), *orphans, *_below(orphans)]))
    deadline = time.monotonic() + wait_s
    while any(map(_runs, told)) and time.monotonic() < deadline:
        time.sleep(0.1)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start(plan: Plan, count: int) -> Workers:
    """Start `count` workers on this machine."""
    arguments = _arguments(plan)
    with _deaf_to_interrupts(), _outside_of_jobs():
        return Workers([_local(plan, index).submit(work, *arguments) for index in range(count)])


def submit(plan: Plan, jobs: int, on_accepted: Callable[[Sequence[str]], None]) -> Submitted:
    """Send jobs to SLURM, in arrays as large as it takes.

    Args:
        plan: Whose workers they are.
        jobs: How many, with `plan.tasks` workers each.
        on_accepted: Is told the ids of each array as soon as it is accepted: what is not known any
            more cannot be cancelled.
    """
    accepted: list[str] = []
    try:
        largest = max(1, int(cluster_settings().get("MaxArraySize", "1001")))
        while left := jobs - len(accepted):
            ids = _submit_array(plan, min(left, largest))
            on_accepted(ids)
            accepted += ids
    except (FailedJobError, FailedSubmissionError, SchedulerError) as error:
        return Submitted(jobs=tuple(accepted), refusal=_last_line(str(error)))
    return Submitted(jobs=tuple(accepted))


def output_of(plan: Plan, job: str) -> Path:
    """The standard error of a job's first worker."""
    return plan.folder / f"{job}_0_log.err"


def _local_workers(plan: Plan) -> list[psutil.Process]:
    """Of each of the study's workers on this machine its controller, or itself if that is gone."""
    found: dict[str, list[psutil.Process]] = {_CONTROLLER: [], _WORKER: []}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            for module, processes in found.items():
                if module in words and words[-1] == str(plan.folder):
                    processes.append(process)
    controllers = {process.pid for process in found[_CONTROLLER]}
    alone = [process for process in found[_WORKER] if _parent(process) not in controllers]
    return [*found[_CONTROLLER], *alone]


def _interrupt(process: psutil.Process) -> bool:
    """Whether it could be told."""
    try:
        process.send_signal(signal.SIGINT)
    except psutil.Error:
        return False
    return True


def _parent(process: psutil.Process) -> int | None:
    """Its parent's pid; None once it has ended."""
    with contextlib.suppress(psutil.Error):
        return process.ppid()
    return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _below(processes: Iterable[psutil.Process]) -> Iterator[psutil.Process]:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            yield from process.children(recursive=True)


def _submit_array(plan: Plan, count: int) -> list[str]:
    executor = submitit.SlurmExecutor(folder=plan.folder)
    executor.update_parameters(**_slurm_parameters(plan, count))
    with executor.batch():
        sent = [executor.submit(work, *_arguments(plan)) for _ in range(count)]
    return [job.job_id for job in sent]


def _arguments(plan: Plan) -> tuple[str, str, int, int]:
    """Of `work`."""
    return plan.spec.study.name, str(plan.runs), plan.threads, plan.workers


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason given"


def sbatch_text(plan: Plan) -> str:
    """The script that `sbatch` would get, for `--dry-run`. Nothing is written."""
    executor = _Unsent(folder=plan.folder)
    executor.update_parameters(**_slurm_parameters(plan, plan.jobs))
    if plan.jobs > 1:
        executor.parameters["map_count"] = plan.jobs
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "0")
    return text


class _Unsent(submitit.SlurmExecutor):
    """Writes the script, on a machine without SLURM too."""

    @classmethod
    def affinity(cls) -> int:
        """Says that SLURM is there, which submitit asks for before it writes anything."""
        return 1


def _local(plan: Plan, index: int) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(folder=plan.folder, cluster="local")
    executor.update_parameters(timeout_min=YEAR_MIN, name=plan.spec.study.name)
    gpus = _gpus()
    if gpus:
        executor.update_parameters(gpus_per_node=1)
        executor._executor.update_parameters(visible_gpus=[gpus[index % len(gpus)]])
    return executor


def _slurm_parameters(plan: Plan, jobs: int) -> dict[str, Any]:
    table = plan.spec.slurm
    if not str(plan.runs).isprintable():
        # It stands in the script's comments, which a line break would end.
        raise ClusterError(f"--runs must be a path of printable text, got {str(plan.runs)!r}")
    asked = {
        "partition": table.partition,
        "account": table.account,
        "qos": table.qos,
        "constraint": table.constraint,
        "exclude": table.exclude,
    }
    return {key: value for key, value in asked.items() if value is not None} | {
        "job_name": plan.spec.study.name,
        "wckey": None,  # submitit's own is refused where such keys are checked
        "time": table.timeout_min,
        "signal_delay_s": SIGNAL_S,
        "mem": f"{table.memory_gb}GB",
        "gpus_per_node": table.gpus or None,
        "cpus_per_task": plan.threads,
        "ntasks_per_node": table.tasks,
        "nodes": 1,
        "array_parallelism": jobs,
        "setup": table.setup,
        # srun inside sbatch does not inherit --cpus-per-task in SLURM 22.05 to 23.02.
        "srun_args": [f"--cpus-per-task={plan.threads}"],
        # Without it a job that its cluster ends for another's sake is not queued again.
        "additional_parameters": {"requeue": True, **_extra(table.extra)},
    }


def _extra(options: Mapping[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Options of sbatch as submitit takes them."""
    return {key.lstrip("-").replace("-", "_"): value for key, value in options.items()}


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started in here do not hear Ctrl-C until they say otherwise, as `work` does.

    It reaches the whole process group: submitit's controllers would kill their workers on it. It
    is blocked, not ignored, so that one that comes meanwhile reaches this process afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Processes started in here do not know of the SLURM job that this one may run in.

    Each would take itself for that job's first worker, started anew, and the others' trials for
    what its job lost.
    """
    of_job = [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]
    hidden = {name: os.environ.pop(name) for name in of_job}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _gpus() -> list[int]:
    """Numbers of this machine's GPUs. submitit hides them all from a job that asks for none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [int(one) for one in visible.split(",") if one.strip().isdigit()]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return list(range(sum(line.startswith("GPU ") for line in listing.stdout.splitlines())))
