"""The status of a study: counts by state, the best trial, the running ones and the stale ones.

Made of one look at the database and of the run JSONs; changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import optuna
from optuna.trial import TrialState

from data_prep.words.numbers import duration
from hpo.cluster.jobs import JobState
from hpo.queue.leases import Lease, jobs_of
from hpo.queue.trials import Snapshot, TrialSummary
from hpo.records.folder import Stamp, read, stamp
from hpo.records.record import FINISHED, NAME, RecordError, RunRecord
from hpo.study.spec import StudySpec
from hpo.study.study import ON_ATTRIBUTE, stop_reason, trial_name

KEPT = 1024
"""Records that are kept in memory: of all trials that run at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A trial in a worker's hands."""

    trial: int
    epoch: int
    epochs: int
    val_nll: float | None
    """After the last epoch, nats per event."""
    samples_per_second: float | None
    eta_s: float | None
    """Seconds until its last epoch at the rate of the latest one, without pruning or stopping."""
    host: str
    pid: int
    job: str | None
    restarts: int
    device: str | None
    """`cpu` or `cuda`; None until its worker has told."""
    at_a_time: int | None
    """Trials that its worker trains at a time; likewise."""
    stale: str | None
    """Why it makes no progress; None when it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStatus:
    """A study at one moment."""

    study: str
    runs: Path
    total: int
    """Trials of the study."""
    waiting: int
    running: tuple[Running, ...]
    complete: int
    """Trials with a usable result, `stopped_early` among them."""
    pruned: int
    failed: int
    best_trial: int | None
    best_val_nll: float | None
    """Of the best trial, nats per event in the data's units."""
    stopping: str | None
    """Why no new trial starts; None when one may."""
    best_held_out_nll: float | None = None
    """Of the best trial in the held-out cells, where this is the study's objective."""
    on: str = "local"
    """Where the workers of the last launch were: `local` or `slurm`."""
    eta_s: float | None = None
    """Seconds until the last trial ends, from the mean time of the ended ones and the number of
    workers now; None until a trial ended, and when none runs."""

    @property
    def best_objective(self) -> float | None:
        """The NLL by which the best trial is chosen."""
        held_out = self.best_held_out_nll
        return self.best_val_nll if held_out is None else held_out

    @property
    def finished(self) -> int:
        """Trials that ended: complete, pruned or failed."""
        return self.complete + self.pruned + self.failed


class Records:
    """Records of a study's trials with their last epochs alone, read anew only if they changed.

    Args:
        folder: That of the study's trials.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read = functools.lru_cache(KEPT)(_last_epoch)

    def of(self, number: int) -> RunRecord | None:
        """The record of a trial; None while there is none that can be read."""
        path = self.folder / trial_name(number) / NAME
        return self._read(path, stamp(path))


def status_of(
    study: optuna.Study, spec: StudySpec, seen: Snapshot, records: Records
) -> StudyStatus:
    """The study as it was when it was seen, its running trials as their records tell now."""
    counts, jobs = seen.counts, jobs_of(seen.leases)
    best = next(iter(seen.ranked), None)
    value = val_nll = best.value if best else None
    by_held_out = spec.training.objective == "held_out_nll"
    if best and by_held_out:  # the database has the held-out NLL alone
        record = records.of(best.number)
        val_nll = record.best_val_nll if record else None
    return StudyStatus(
        study=study.study_name,
        runs=records.folder,
        total=seen.total,
        waiting=counts[TrialState.WAITING],
        running=tuple(_running(records.of(one.number), one, spec, jobs) for one in seen.leases),
        complete=counts[TrialState.COMPLETE],
        pruned=counts[TrialState.PRUNED],
        failed=counts[TrialState.FAIL],
        best_trial=best.number if best else None,
        best_val_nll=val_nll,
        stopping=stop_reason(spec, seen.attributes, lambda: seen.trials),
        best_held_out_nll=value if by_held_out else None,
        on=str(seen.attributes.get(ON_ATTRIBUTE, "local")),
        eta_s=_eta_s(seen.trials, counts[TrialState.WAITING]),
    )


def usable(record: RunRecord) -> bool:
    """Whether the trial ended with a result that can be ranked and exported."""
    return record.state in FINISHED and record.best_val_nll is not None


def _last_epoch(path: Path, _stamp: Stamp) -> RunRecord | None:
    try:
        return read(path, last_epoch=True)
    except RecordError:
        return None


def _running(
    record: RunRecord | None, lease: Lease, spec: StudySpec, jobs: Mapping[str, JobState] | None
) -> Running:
    last = record.epochs[-1] if record and record.epochs else None
    left = spec.training.epochs - (last.epoch if last else 0)
    return Running(
        trial=lease.number,
        epoch=last.epoch if last else 0,
        epochs=spec.training.epochs,
        val_nll=last.val_nll if last else None,
        samples_per_second=last.samples_per_second if last else None,
        eta_s=last.seconds * left if last and last.seconds is not None else None,
        host=lease.owner.host,
        pid=lease.owner.pid,
        job=lease.owner.job,
        restarts=lease.restarts,
        device=(record and record.environment.device.partition(" ")[0]) or None,
        at_a_time=record.environment.stack if record else None,
        stale=_stale(lease, jobs),
    )


def _stale(lease: Lease, jobs: Mapping[str, JobState] | None) -> str | None:
    if lease.lives(jobs):
        return None
    owner = lease.owner
    silent = duration(round(lease.silent_s))
    if lease.doubtful and jobs is None:
        return (
            f"its worker (process {owner.pid} on {owner.host}) was last heard of {silent} ago, and "
            "squeue does not answer: `hpo launch` goes on with it"
        )
    return (
        f"its worker (process {owner.pid} on {owner.host}) is gone, last heard of {silent} ago: "
        "`hpo launch` goes on with it"
    )


def _eta_s(summaries: Sequence[TrialSummary], waiting: int) -> float | None:
    took_s = [
        (one.ended - one.began).total_seconds() for one in summaries if one.began and one.ended
    ]
    begun = [one.began for one in summaries if one.began and one.state is TrialState.RUNNING]
    if not took_s or not begun:
        return None
    mean_s, now = sum(took_s) / len(took_s), datetime.now(UTC)
    left_s = [max(mean_s - (now - start).total_seconds(), 0.0) for start in begun]
    return (sum(left_s) + waiting * mean_s) / len(begun)
