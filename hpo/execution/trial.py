"""One trial: suggest, train, report, prune, record. Training and Optuna meet here.

`models.training` knows no Optuna; its `on_epoch` is a function of this module that writes the
record, reports the epoch, and raises to prune.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from data_prep.dataset import Dataset
from hpo.queue.fence import Fence, fenced
from hpo.queue.jobs import job_of_this_process
from hpo.queue.leases import Claim, LeaseLost
from hpo.queue.slots import Slots
from hpo.records import environment
from hpo.records.folder import read
from hpo.records.record import NAME, RecordError, RunRecord, State, now
from hpo.records.scores import score, score_held_out, with_cost, with_history
from hpo.study import space
from hpo.study.spec import StudySpec
from hpo.study.study import blank_record, record_of
from models.config import FlowConfig, TrainConfig
from models.training import checkpoint
from models.training.checkpoint import Checkpoint
from models.training.history import Epoch
from models.training.train import train

log = logging.getLogger("hpo.execution.trial")

SURROUNDINGS = (SQLAlchemyError, StorageInternalError, OSError)
"""Errors of the database and the disk, which no trial causes."""

_TOLD: dict[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "stopped_early": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True, slots=True)
class ClaimedTrial:
    """A trial that a worker holds, with all that it needs to run it."""

    study: optuna.Study
    spec: StudySpec
    claim: Claim
    slots: Slots
    folder: Path
    """The trial's own folder."""


def run(job: ClaimedTrial) -> RunRecord:
    """Run a claimed trial to its end, or go on with it where its last worker left it.

    A trial that goes wrong fails by itself: its reason is in its record, and the worker goes on.

    Raises:
        LeaseLost: If the trial was handed to another worker meanwhile. Nothing is written then.
        SQLAlchemyError, StorageInternalError, OSError: If the database or the disk fails, which
            is not the configuration's fault: the trial is there to be gone on with.
    """
    # The claim leaves nothing in the folder when the study is told: nobody comes back to a trial
    # that has ended.
    with fenced(job.slots, job.claim, job.folder) as fence, _log_file(job.folder):
        record = _known(job.folder)
        # One that ended was recorded by a worker that died before it told the study.
        if record is None or record.state == "running":
            record = _attempt(job, fence, (record and record.started) or now())
        if record.state != "failed":  # else kept as it is, to be looked into
            checkpoint.trim(job.folder, save=partial(_save, fence))
        log.info("trial %d %s: %s", record.trial, record.state, record.reason or "all epochs ran")
    value = record.best_objective if _TOLD[record.state] is TrialState.COMPLETE else None
    job.slots.finish(job.claim, _TOLD[record.state], value)
    return record


def _attempt(job: ClaimedTrial, fence: Fence, started: str) -> RunRecord:
    """The record of the trial as it ended, failed if anything went wrong but the surroundings."""
    try:
        return _train(job, fence, started)
    except (LeaseLost, *SURROUNDINGS) as error:
        log.error("trial %d was broken off: %s", job.claim.number, error)
        raise
    except Exception as error:  # whatever a configuration does wrong is that trial's end alone
        log.error("trial %d failed\n%s", job.claim.number, traceback.format_exc())
        reason = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
        study, number = job.study, job.claim.number
        record = record_of(job.folder.parent, number) or blank_record(study, number)
        return _put(fence, dataclasses.replace(record, state="failed", reason=reason))


def _train(job: ClaimedTrial, fence: Fence, started: str) -> RunRecord:
    data, hold_out = Path(job.spec.data.path), job.spec.data.hold_out_cells
    trial = job.slots.trial_of(job.claim)
    seed = space.seed_of(job.spec.study.seed, job.claim.number)
    flow_config, train_config = space.suggest(
        trial, job.spec.space, job.spec.flow, job.spec.training, seed=seed
    )
    stored = checkpoint.load(job.folder)
    rows = [Epoch(**row) for row in stored.state["history"]] if stored else []
    record = _begun(job, trial.params, flow_config, train_config, started)
    record = dataclasses.replace(record, weights=checkpoint.digest(stored) if stored else None)
    log.info("on %s with %s", record.environment.device, record.params)
    _put(fence, with_history(record, rows))
    if rows:
        log.info("goes on after epoch %d", rows[-1].epoch)
    # The last worker may have saved epochs that it had not reported when it died.
    reported = job.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    for epoch in rows:
        if epoch.epoch not in reported:
            trial.report(epoch.objective(train_config), epoch.epoch)

    def save(folder: Path, reached: Checkpoint) -> None:
        nonlocal record
        record = dataclasses.replace(record, weights=checkpoint.digest(reached))
        _save(fence, folder, reached)

    def on_epoch(epoch: Epoch) -> None:
        rows.append(epoch)
        _put(fence, with_history(record, rows))
        held_out = "" if epoch.held_out_nll is None else f", held out {epoch.held_out_nll:.4f}"
        log.info(
            f"epoch {epoch.epoch}: train {epoch.train_nll:.4f}, val {epoch.val_nll:.4f}{held_out}"
        )
        value = epoch.objective(train_config)
        trial.report(value, epoch.epoch)
        if epoch.epoch < job.spec.training.epochs and trial.should_prune():
            raise optuna.TrialPruned(f"at epoch {epoch.epoch}: {value:.4f} nats per event")

    state: State
    try:
        _, fit = train(
            data,
            flow_config,
            train_config,
            hold_out=hold_out,
            checkpoint=job.folder,
            save=save,
            on_epoch=on_epoch,
        )
        state, reason = "stopped_early" if fit.stopped else "complete", fit.stopped
    except optuna.TrialPruned as pruned:
        state, reason = "pruned", str(pruned)
    ended = dataclasses.replace(with_history(record, rows), state=state, reason=reason)
    flow = checkpoint.best_flow(job.folder)
    ended = with_cost(ended, flow)
    if state != "pruned":
        test, held_out = score(flow, data, hold_out), score_held_out(flow, data, hold_out)
        ended = dataclasses.replace(ended, test=test, held_out=held_out)
    return _put(fence, ended)


def _begun(
    job: ClaimedTrial, params: dict[str, Any], flow: FlowConfig, training: TrainConfig, started: str
) -> RunRecord:
    """The record as the trial begins, or begins again."""
    record = blank_record(job.study, job.claim.number)
    dataset = Dataset.read(Path(job.spec.data.path))
    # The dataset is read anew: its files may have changed since the launch.
    data = dataclasses.replace(record.data, fingerprint=dataset.fingerprint, rows={**dataset.rows})
    return dataclasses.replace(
        record,
        params=params,
        flow=dataclasses.asdict(flow),
        training=dataclasses.asdict(training),
        pruner=dataclasses.asdict(job.spec.pruner),
        data=data,
        seeds={"study": job.spec.study.seed, "trial": training.seed},
        environment=environment.describe(training.device, job_of_this_process()),
        restarts=job.claim.restarts,
        started=started,
    )


def _put(fence: Fence, record: RunRecord) -> RunRecord:
    """Write the record, if the trial is still this worker's."""
    with fence.writing() as drafts:
        # A folder made anew would hide the one that comes back when the disk does.
        record.write(fence.folder, parents=False, within=drafts)
    return record


def _save(fence: Fence, folder: Path, reached: Checkpoint) -> None:
    """Save the checkpoint, if the trial is still this worker's."""
    with fence.writing() as drafts:
        checkpoint.save(folder, reached, within=drafts)


def _known(folder: Path) -> RunRecord | None:
    """The record that an earlier worker left."""
    try:
        return read(folder / NAME)
    except RecordError as error:
        if (folder / NAME).exists():
            log.warning("%s: the trial is run as if it had none", error)
        return None


@contextlib.contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """Send what the packages log to the trial's `log.txt` while it runs."""
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()
