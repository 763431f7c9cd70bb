"""Workers as SLURM jobs, sent in arrays through submitit."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from data_prep.errors import InputError
from data_prep.words.numbers import counted
from hpo.cluster.jobs import (
    JobState,
    SchedulerError,
    cluster_settings,
    job_states,
    outside_of_jobs,
    queue_has_changed,
)
from hpo.cluster.request import SlurmTable
from hpo.execution.plan import Plan
from hpo.execution.worker import SIGNAL_S, work
from hpo.queue.slots import Slots
from hpo.storage.address import FILE_VARIABLE, VARIABLE
from hpo.study.place import WORKERS
from hpo.study.spec import StudySpec

RETRY_S, REFUSALS = 30.0, 5
"""Pause before SLURM is asked again for jobs that it refused; how often, if it takes none."""


class LaunchError(RuntimeError):
    """The workers could not do their work. The message names the file that says why."""


class SlurmJobs:
    """The workers of a study on SLURM, those of earlier launches too."""

    def __init__(self, plan: Plan, slots: Slots, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._slots = slots
        self._tell = tell
        self._states: dict[str, JobState] = {}
        self._refused = 0
        self._not_before_s = 0.0
        self._stuck: set[str] = set()

    @property
    def output(self) -> Path:
        """Where a worker that cannot start says why: standard error of the last job's first."""
        folder, jobs = self._plan.worker_folder, self._slots.jobs()
        return folder / f"{jobs[-1]}_0_log.err" if jobs else folder

    def count(self, running: int) -> int:
        """Workers of jobs that run or wait; the plan's number while squeue does not answer."""
        states = job_states(self._slots.jobs())
        if states is None:
            return self._plan.workers
        self._states = states
        for job in {job for job, state in states.items() if state.stuck} - self._stuck:
            self._stuck.add(job)
            self._tell(
                f"job {job} will not start as it was asked for ({states[job].reason}): see "
                f"[slurm], then scancel {job}"
            )
        if time.monotonic() < self._not_before_s:
            return self._plan.workers
        return max(self._plan.tasks * self._alive(), running)

    def add(self, workers: int) -> None:
        """Submit jobs for so many more; what is refused is tried again later.

        Raises:
            LaunchError: If SLURM refuses again and again while no job is left.
        """
        jobs = math.ceil(workers / self._plan.tasks)
        sent, refusal = self._submit(jobs)
        queue_has_changed()
        if sent:
            arrays = sorted({job.partition("_")[0] for job in sent})
            self._tell(f"submitted {counted(len(sent), 'job')}: {', '.join(arrays)}")
        if refusal is None:
            self._refused = 0
            return
        self._refused += 1
        if self._refused >= REFUSALS and not sent and not self._alive():
            raise LaunchError(f"SLURM takes no job: {refusal}")
        self._not_before_s = time.monotonic() + RETRY_S
        self._tell(
            f"SLURM refused {jobs - len(sent)} of {jobs} jobs, which are tried again in "
            f"{RETRY_S:.0f} s: {refusal}"
        )

    def hand_back(self) -> None:
        """Do nothing: jobs run on without their launcher."""

    def _submit(self, jobs: int) -> tuple[list[str], str | None]:
        """The ids of the jobs that SLURM took, in arrays as large as it allows, and its refusal."""
        sent: list[str] = []
        folder = self._plan.worker_folder
        try:
            while left := jobs - len(sent):
                count = min(left, _largest_array())
                executor = submitit.SlurmExecutor(folder=folder)
                executor.update_parameters(**_parameters(self._plan.spec, folder, count))
                with outside_of_jobs(), executor.batch():
                    array = [executor.submit(work, *self._plan.arguments) for _ in range(count)]
                ids = [job.job_id for job in array]
                # At once: a job that is not known any more cannot be cancelled.
                self._slots.add_jobs(ids)
                sent += ids
        except (FailedJobError, FailedSubmissionError, SchedulerError) as error:
            return sent, (str(error).strip() or "no reason given").splitlines()[-1]
        return sent, None

    def _alive(self) -> int:
        return sum(one.alive for one in self._states.values())


def sbatch_text(spec: StudySpec, runs: Path, workers: int) -> str:
    """The script that `sbatch` gets, the first of several for many jobs. Nothing is written.

    Args:
        spec: The study.
        runs: Folder of all studies' runs.
        workers: Of the study, in all.

    Raises:
        InputError: If the folder's name cannot stand in a script.
    """
    folder = runs / spec.study.name / WORKERS
    jobs = min(math.ceil(workers / spec.slurm.tasks), _largest_array())
    executor = _Unsent(folder=folder)
    executor.update_parameters(**_parameters(spec, folder, jobs))
    if jobs > 1:
        executor.parameters["map_count"] = jobs
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "0")
    return text


class _Unsent(submitit.SlurmExecutor):
    """Writes the script, on a machine without SLURM too."""

    @classmethod
    def affinity(cls) -> int:
        """Says that SLURM is there, which submitit asks for before it writes anything."""
        return 1


def _largest_array() -> int:
    try:
        return max(1, int(cluster_settings()["MaxArraySize"]))
    except (SchedulerError, KeyError):
        return 1001  # SLURM's default


def _export(table: SlurmTable) -> dict[str, str]:
    """`--export` of a job that shall not inherit everything: it has to find its database.

    By name alone: a value would stand in the script for all to read. As with `NONE`, SLURM adds
    the login environment to a list.
    """
    wanted = str(table.extra_options.get("export", "ALL"))
    if wanted.upper().partition(",")[0] == "ALL":
        return {}
    others = [] if wanted.upper() in ("NONE", "NIL") else [wanted]
    return {"export": ",".join([*others, VARIABLE, FILE_VARIABLE])}


def _parameters(spec: StudySpec, folder: Path, jobs: int) -> dict[str, Any]:
    """Parameters of submitit's executor."""
    # The path stands in the script's comments, which a line break would end, and as a pattern of
    # log files, in which SLURM and submitit replace %j.
    if not str(folder).isprintable() or {"%", "\\"} & {*str(folder)}:
        raise InputError(
            "--runs must be a path of printable text without % and \\ for SLURM, which would "
            f"replace parts of it, got {str(folder.parent.parent)!r}"
        )
    table = spec.slurm
    return table.options | {
        # A habit where every job needs one; all other variables of sbatch's are left aside.
        "account": table.account or os.environ.get("SBATCH_ACCOUNT"),
        "job_name": spec.study.name,
        "wckey": None,  # submitit's own is refused where such keys are checked
        "signal_delay_s": SIGNAL_S,
        "array_parallelism": jobs,
        "setup": table.setup,
        # Neither is inherited from sbatch in every case: the processors not in SLURM 22.05 to
        # 23.02, and of `--export` only the list.
        "srun_args": [f"--cpus-per-task={table.options['cpus_per_task']}", "--export=ALL"],
        # Without it a job that its cluster ends for another's sake is not queued again.
        "additional_parameters": {"requeue": True, **table.extra_options, **_export(table)},
    }
