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
from collections.abc import Iterator
from pathlib import Path

import psutil
import submitit
from submitit.helpers import clean_env

from hpo.execution.plan import Plan
from hpo.execution.worker import work

HAND_BACK_S = 15.0
"""Longest wait for workers that were told to end."""
YEAR_MIN = 365 * 24 * 60
"""Time limit of a local worker: submitit's own default would end it after five minutes."""
_MODULES = frozenset({"submitit.local._local", "submitit.core._submit"})
"""Controller and worker: submitit's local one starts the other and waits for it."""


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
        # A worker that knew of the SLURM job in which this launch may run would take itself for the
        # job's first worker, started anew, and the trials of the others for its own lost ones.
        with _deaf_to_interrupts(), clean_env():
            gpus = _gpus()
            for index in range(workers):
                executor = submitit.AutoExecutor(folder=self._plan.worker_folder, cluster="local")
                executor.update_parameters(timeout_min=YEAR_MIN, name=self._plan.spec.study.name)
                if gpus:
                    executor.update_parameters(gpus_per_node=1)
                    executor._executor.update_parameters(visible_gpus=[gpus[index % len(gpus)]])
                self._jobs.append(executor.submit(work, *self._plan.arguments))

    def hand_back(self) -> None:
        """Have the study's workers here hand their trials back and end, and wait for them.

        Workers of another launch are told only if that launch has died.
        """
        me = psutil.Process()
        # A process that loses its parent gets one of these, which has started this one, too.
        above = {1, *(process.pid for process in me.parents())}
        theirs, told = me.children(recursive=True), []
        for top in _top_processes(self._plan):
            with contextlib.suppress(psutil.Error):
                if top.info["ppid"] in above:
                    theirs += [top, *top.children(recursive=True)]
        for process in theirs:
            # A process of another user cannot be told, and need not be waited for.
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGINT)
                told.append(process)
        psutil.wait_procs(told, timeout=HAND_BACK_S)


def _top_processes(plan: Plan) -> list[psutil.Process]:
    """The controllers of the study's workers here, and workers whose controllers are gone."""
    folder, found = str(plan.worker_folder), {}
    for process in psutil.process_iter(["cmdline", "ppid"]):
        words = process.info["cmdline"]
        if words and words[-1] == folder and _MODULES.intersection(words):
            found[process.pid] = process
    return [one for one in found.values() if one.info["ppid"] not in found]


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


def _gpus() -> list[int]:
    """Numbers of this machine's GPUs. submitit hides them all from a job that asks for none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [int(one) for one in visible.split(",") if one.strip().isdigit()]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return list(range(sum(line.startswith("GPU ") for line in listing.stdout.splitlines())))
