"""Keeps workers going until all trials of a study are done."""

from __future__ import annotations

import time
from collections.abc import Callable

import optuna

from data_prep.atomic import naming
from data_prep.errors import InputError
from hpo.execution.local import LocalWorkers
from hpo.execution.plan import Plan
from hpo.execution.slurm import LaunchError, SlurmJobs
from hpo.queue.slots import Slots
from hpo.records.record import RunRecord
from hpo.storage import filesystem
from hpo.study.status import StudyStatus, read_status
from hpo.study.study import reap_lost_trials, record_of

POLL_S = 1.0
"""Seconds between looks at the database."""


class DiskError(InputError):
    """The folder of the runs cannot be written any more. The message says why and the way out."""


def follow(
    plan: Plan,
    study: optuna.Study,
    slots: Slots,
    *,
    show: Callable[[StudyStatus, list[RunRecord]], None],
    tell: Callable[[str], None],
) -> StudyStatus:
    """Keep workers going until the study is done, and give back its last status.

    Args:
        plan: Whose workers they are.
        study: As `begin` made it.
        slots: Its trials.
        show: Takes the study's status and the records of the trials that ended since the last call.
        tell: Takes a sentence for the user.

    Raises:
        LaunchError: If workers keep ending without having finished a trial.
        KeyboardInterrupt: On Ctrl-C, after the local workers have handed their trials back.
    """
    return _Follower(plan, study, slots, tell).follow(show)


class _Follower:
    """Keeps the workers going and shows what they do."""

    def __init__(
        self, plan: Plan, study: optuna.Study, slots: Slots, tell: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._study = study
        self._slots = slots
        self._shown = self._finished()
        self._workers: SlurmJobs | LocalWorkers = (
            SlurmJobs(plan, slots, tell) if plan.on == "slurm" else LocalWorkers(plan)
        )
        self._futile = 0
        self._progress_at_start = -1
        plan.worker_folder.mkdir(parents=True, exist_ok=True)

    def follow(self, show: Callable[[StudyStatus, list[RunRecord]], None]) -> StudyStatus:
        try:
            while True:
                self._refuse_gone()
                reap_lost_trials(self._study, self._slots)
                status = read_status(self._study, self._plan.spec, self._slots)
                show(status, self._ended())
                if not status.running and (status.stopping or not status.waiting):
                    break
                self._start_missing(status)
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            self._workers.hand_back()
            raise
        return status

    def _start_missing(self, status: StudyStatus) -> None:
        """Start as many workers as are wanted and not there: those of an earlier launch count."""
        running = sum(one.stale is None for one in status.running)
        if status.stopping or not status.waiting:
            return
        there = self._workers.count(running)
        wanted = min(self._plan.workers, status.waiting + running) - there
        if wanted <= 0:
            return
        if there == 0:
            self._count_futile()
        with naming(self._plan.worker_folder):
            self._workers.add(wanted)

    def _refuse_gone(self) -> None:
        """A new folder in the place of one that was taken away would lack what that holds."""
        if not self._plan.worker_folder.is_dir():
            raise DiskError(
                f"{self._plan.folder} is gone: bring it back (is its disk mounted?), then "
                "run the same command again"
            )

    def _count_futile(self) -> None:
        progress_now = self._slots.progress()
        self._futile = self._futile + 1 if progress_now == self._progress_at_start else 0
        self._progress_at_start = progress_now
        if self._futile and (fault := filesystem.write_fault(self._plan.worker_folder)):
            raise DiskError(
                f"the workers can write nothing to {fault}: no trial is lost, make room or have it "
                "mounted for writing, then run the same command again"
            )
        # A trial that kills its workers has failed by then, which is progress.
        if self._futile > self._plan.spec.study.max_restarts + 1:
            raise LaunchError(
                f"all workers ended {self._futile} times without having finished a trial: "
                f"read {self._workers.output} for the reason, then launch again"
            )

    def _ended(self) -> list[RunRecord]:
        """Records of trials that ended and were not shown yet."""
        records = [
            record
            for number in sorted(self._finished() - self._shown)
            if (record := record_of(self._study, number))
        ]
        self._shown.update(record.trial for record in records)
        return records

    def _finished(self) -> set[int]:
        return {one.number for one in self._slots.summaries() if one.state.is_finished()}
