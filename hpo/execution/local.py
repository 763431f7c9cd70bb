"""Workers as processes on this machine, through submitit's local executor.

submitit runs each worker below a controller, a process of its own. Workers of an earlier launch are
found again by the command lines of both.
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import submitit

from hpo.cluster.jobs import outside_of_jobs
from hpo.cluster.signals import TERMINAL
from hpo.doctor.machine import gpus
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
        """Start so many more, each on the GPU that the fewest workers have."""
        visible = gpus()
        used = Counter(_gpu_of(process) for process in _top_processes(self._plan))
        # A worker that knew of the SLURM job in which this launch may run would take itself for the
        # job's first worker, started anew, and the trials of the others for its own lost ones.
        with _deaf_to_interrupts(), outside_of_jobs():
            for _ in range(workers):
                executor = submitit.LocalExecutor(folder=self._plan.worker_folder)
                executor.update_parameters(timeout_min=YEAR_MIN)
                if visible:  # submitit hides all others, and its own check lets only numbers pass
                    least = min(visible, key=lambda gpu: used[gpu])
                    used[least] += 1
                    executor.parameters |= {"gpus_per_node": 1, "visible_gpus": [least]}
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
    """Processes started in here hear no Ctrl-C or hang-up until they say otherwise, as `work` does.

    Both reach the whole process group, and submitit's controllers would kill their workers on
    Ctrl-C. The signals are blocked, not ignored: this process receives them afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _gpu_of(process: psutil.Process) -> str | None:
    """The GPU that a worker was started on."""
    with contextlib.suppress(psutil.Error):
        return process.environ().get("CUDA_VISIBLE_DEVICES")
    return None
