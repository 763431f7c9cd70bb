"""Workers as processes on this machine, through submitit's local executor.

submitit runs each worker below a controller, a process of its own. Workers of an earlier launch are
found again by the command lines of both.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import submitit

from hpo.execution.plan import Plan
from hpo.execution.worker import work

HAND_BACK_S = 15.0
"""Longest wait for workers that were told to end."""
YEAR_MIN = 365 * 24 * 60
"""Time limit of a local worker: submitit's own default would end it after five minutes."""
_CONTROLLER, _WORKER = "submitit.local._local", "submitit.core._submit"
"""Modules that submitit runs for each local worker: the one starts the other and waits for it."""


class LocalWorkers:
    """The workers of a study on this machine."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._jobs: list[submitit.Job[int]] = []

    @property
    def output(self) -> Path | None:
        """Where a worker that cannot start says why."""
        return self._jobs[-1].paths.stderr if self._jobs else None

    def count(self, running: int) -> int:
        """Workers that there are, those of an earlier launch too; `running` trials have one.

        A worker has none while it starts and from one trial to the next.
        """
        # `done` also waits for a process that has ended, which would stay a zombie.
        self._jobs = [job for job in self._jobs if not job.done()] or self._jobs[-1:]
        return max(len(_top_processes(self._plan)), running)

    def add(self, workers: int) -> None:
        """Start so many more."""
        with _deaf_to_interrupts(), _outside_of_jobs():
            for index in range(workers):
                executor = _executor(self._plan, index)
                self._jobs.append(executor.submit(work, *self._plan.arguments))

    def hand_back(self) -> None:
        """Have the study's workers here hand their trials back and end, and wait for them.

        Workers of another launch are told only if that launch has died.
        """
        me = psutil.Process()
        # A process that loses its parent gets one of these, which has started this one, too.
        above = {1, *(process.pid for process in me.parents())}
        orphans = [top for top in _top_processes(self._plan) if top.info["ppid"] in above]
        theirs = [*me.children(recursive=True), *orphans]
        for process in orphans:
            with contextlib.suppress(psutil.Error):
                theirs += process.children(recursive=True)
        # A process of another user cannot be told, and need not be waited for.
        told = list(filter(_interrupt, theirs))
        deadline = time.monotonic() + HAND_BACK_S
        while any(map(_runs, told)) and time.monotonic() < deadline:
            time.sleep(0.1)


def _top_processes(plan: Plan) -> list[psutil.Process]:
    """The controllers of the study's workers here, and workers whose controllers are gone."""
    folder = str(plan.worker_folder)
    found = [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if process.info["cmdline"] and process.info["cmdline"][-1] == folder
    ]
    controllers = [one for one in found if _CONTROLLER in one.info["cmdline"]]
    below = {one.pid for one in controllers}
    workers = [one for one in found if _WORKER in one.info["cmdline"]]
    return [*controllers, *(one for one in workers if one.info["ppid"] not in below)]


def _interrupt(process: psutil.Process) -> bool:
    """Whether the process could be told."""
    try:
        process.send_signal(signal.SIGINT)
    except psutil.Error:
        return False
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _executor(plan: Plan, index: int) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(folder=plan.worker_folder, cluster="local")
    executor.update_parameters(timeout_min=YEAR_MIN, name=plan.spec.study.name)
    if gpus := _gpus():
        executor.update_parameters(gpus_per_node=1)
        executor._executor.update_parameters(visible_gpus=[gpus[index % len(gpus)]])
    return executor


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started in here do not hear Ctrl-C until they say otherwise, as `work` does.

    Ctrl-C reaches the whole process group, and submitit's controllers would kill their workers on
    it. The signal is blocked, not ignored: this process receives it afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Processes started in here do not know of the SLURM job that this one may run in.

    Each would take itself for the first worker of the job, started anew, and would take the trials
    of the others for its own lost ones.
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
