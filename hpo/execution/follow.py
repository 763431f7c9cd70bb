"""Keeps workers going until all trials of a study are done."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import optuna

from data_prep.atomic import naming
from data_prep.errors import InputError
from hpo.cluster.signals import TERMINAL, HandBack, handing_back
from hpo.execution.local import LocalWorkers
from hpo.execution.plan import Plan
from hpo.execution.slurm import LaunchError, SlurmJobs
from hpo.execution.worker import REFUSED
from hpo.queue.slots import Slots
from hpo.queue.trials import Snapshot
from hpo.records.record import RunRecord
from hpo.storage import filesystem
from hpo.study.spec import StudySpec
from hpo.study.status import Records, StudyStatus, status_of
from hpo.study.study import reap_lost_trials, record_of

POLL_S = 1.0
"""Seconds between looks at the database."""


class DiskError(InputError):
    """The folder of the runs cannot be written any more. The message says why and the way out."""


@handing_back(*TERMINAL, signal.SIGTERM)
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
        plan, study, slots: As `begin` took and made them.
        show: Takes the study's status and the records of the trials that ended since the last call.
        tell: Takes a sentence for the user.

    Raises:
        LaunchError: If workers can begin no trial, or keep ending without having finished one.
        KeyboardInterrupt: On Ctrl-C, a hang-up or a signal to end, after the local workers have
            handed their trials back.
    """
    records, shown = Records(plan.folder), slots.look().finished
    workers = SlurmJobs(plan, slots, tell) if plan.on == "slurm" else LocalWorkers(plan)
    plan.worker_folder.mkdir(parents=True, exist_ok=True)
    futile, progress, at_a_time = 0, -1, plan.at_a_time
    refused = plan.worker_folder / REFUSED
    refused.unlink(missing_ok=True)
    try:
        while True:
            # A new folder in the place of one that was taken away would lack what that holds.
            if not plan.worker_folder.is_dir():
                raise DiskError(
                    f"{plan.folder} is gone: bring it back (is its disk mounted?), then "
                    "run the same command again"
                )
            seen, status = look(study, plan.spec, slots, records)
            new = [record_of(plan.folder, number) for number in sorted(seen.finished - shown)]
            ended = [record for record in new if record]
            shown.update(record.trial for record in ended)
            show(status, ended)
            living = [one for one in status.running if one.stale is None]
            running = len({(one.host, one.pid) for one in living})
            wanted = min(plan.workers, -(-status.waiting // at_a_time) + running)
            if status.stopping or not status.waiting:
                if not status.running:
                    return status
            # Workers of an earlier launch count, too.
            elif (there := workers.count(running)) < wanted:
                if there == 0:
                    before, progress = progress, slots.progress()
                    futile = futile + 1 if progress == before else 0
                    _refuse_futile(plan, futile, workers)
                elif refused.exists():
                    tell(refused.read_text("utf-8"))
                    refused.unlink()
                with naming(plan.worker_folder):
                    workers.add(wanted - there)
            time.sleep(POLL_S)
    except KeyboardInterrupt as told:
        if isinstance(told, HandBack):
            told.heard = True
        workers.hand_back()
        raise


def look(
    study: optuna.Study, spec: StudySpec, slots: Slots, records: Records
) -> tuple[Snapshot, StudyStatus]:
    """Take lost trials back, and see the study as it is then."""
    seen = slots.look()
    reaped = reap_lost_trials(study, slots, records.folder, leases=seen.leases)
    if reaped.released or reaped.failed:
        seen = slots.look()
    return seen, status_of(study, spec, seen, records)


def _refuse_futile(plan: Plan, futile: int, workers: SlurmJobs | LocalWorkers) -> None:
    """Start no more workers if all of them ended so often without having finished a trial."""
    if futile and (fault := filesystem.write_fault(plan.worker_folder)):
        raise DiskError(
            f"the workers can write nothing to {fault}: no trial is lost, make room or have it "
            "mounted for writing, then run the same command again"
        )
    if futile and (refused := plan.worker_folder / REFUSED).exists():
        raise LaunchError(refused.read_text("utf-8"))
    # A trial that kills its workers has failed by then, which is progress.
    if futile > plan.spec.study.max_restarts + 1:
        raise LaunchError(
            f"all workers ended {futile} times without having finished a trial: "
            f"read {workers.output} for the reason, then launch again"
        )
