"""One trial: suggest, train, report, prune, record. Training and Optuna meet here.

`models.training` knows no Optuna; its `on_epoch` is a function of this module that writes the
record, reports the epoch, and raises to prune.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from data_prep.dataset import Dataset
from data_prep.errors import DataError
from hpo.cluster.jobs import job_of_this_process
from hpo.queue.fence import Fence, fenced
from hpo.queue.leases import Claim, LeaseLost
from hpo.queue.slots import Slots
from hpo.records import environment
from hpo.records.folder import read
from hpo.records.record import NAME, RecordError, RunRecord, State, now
from hpo.records.scores import scored, used, with_cost, with_history
from hpo.records.weights import WHOLE, belongs
from hpo.study import space
from hpo.study.adoption import misfit, told
from hpo.study.spec import StudySpec
from hpo.study.study import DATA_ATTRIBUTE, blank_record, record_of
from models.config import FlowConfig, TrainConfig
from models.training import checkpoint
from models.training.checkpoint import Checkpoint, CheckpointError
from models.training.history import Epoch
from models.training.stack.meeting import Meeting
from models.training.train import train

log = logging.getLogger("hpo.execution.trial")

THREAD = "trial"
"""Begins the names of the threads in which trials are run, where there are several."""
SURROUNDINGS = (SQLAlchemyError, StorageInternalError, OSError)
"""Errors of the database and the disk, which no trial causes."""


@dataclass(frozen=True, slots=True)
class ClaimedTrial:
    """A trial that a worker holds, with all that it needs to run it."""

    study: optuna.Study
    spec: StudySpec
    claim: Claim
    slots: Slots
    folder: Path
    """The trial's own folder."""
    meeting: Meeting | None = None
    """Where the trial is trained together with others."""
    suggested: Callable[[dict[str, Any]], None] = lambda _: None
    """Called with its parameters as soon as it has all of them."""


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
        record = _attempt(job, fence)
        if record.state != "failed":  # else kept as it is, to be looked into
            checkpoint.trim(job.folder, save=partial(_save, fence))
        log.info("trial %d %s: %s", record.trial, record.state, record.reason or "all epochs ran")
    job.slots.finish(job.claim, *told(record))
    return record


def _attempt(job: ClaimedTrial, fence: Fence) -> RunRecord:
    """The record of the trial as it ended, failed if anything went wrong but the surroundings."""
    try:
        record = _known(job, fence)
        # One that ended was recorded by a worker that died before it told the study.
        if record and record.state != "running":
            _catch_up(job, record)
            return record
        try:
            return _train(job, fence, (record and record.started) or now())
        except CheckpointError as error:
            _set_aside(fence, str(error))
            return _train(job, fence, now())
    except (LeaseLost, *SURROUNDINGS) as error:
        log.error("trial %d was broken off: %s", job.claim.number, error)
        raise
    except Exception as error:  # whatever a configuration does wrong is that trial's end alone
        log.error("trial %d failed\n%s", job.claim.number, traceback.format_exc())
        reason = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
        study, number = job.study, job.claim.number
        record = record_of(job.folder.parent, number) or dataclasses.replace(
            blank_record(study, number), params=job.slots.point(job.claim)
        )
        return _put(fence, dataclasses.replace(record, state="failed", reason=reason))


def _known(job: ClaimedTrial, fence: Fence) -> RunRecord | None:
    """The record that an earlier worker left; what is not of this trial is set aside.

    A trial of which the database knows no parameters, since it was restored from a backup, has
    those of the record from then on.
    """
    try:
        record = read(job.folder / NAME)
    except RecordError as error:
        if (job.folder / NAME).exists():
            log.warning("%s: the trial is run as if it had none", error)
        return None
    known = job.slots.point(job.claim)
    fault = misfit(
        record, job.spec, job.claim.number, fingerprint=_fingerprint(job), known=known
    ) or _other_weights(record, job.folder)
    if fault:
        _set_aside(fence, f"{job.folder / NAME} is not of this trial: {fault}")
        return None
    if known != record.params:
        job.slots.fix(job.claim, record.params)
    return record


def _fingerprint(job: ClaimedTrial) -> str | None:
    """Of the data that the trial would be trained on now; as at the launch, if they are gone."""
    try:
        return Dataset.read(Path(job.spec.data.path)).fingerprint
    except DataError:
        return str(job.study.user_attrs[DATA_ATTRIBUTE])


def _other_weights(record: RunRecord, folder: Path) -> str | None:
    """Whether a checkpoint lies beside a whole record to which it does not belong."""
    try:
        stored = checkpoint.load(folder) if record.state in WHOLE else None
    except CheckpointError as error:
        return str(error)
    return "its checkpoint is of another run" if stored and not belongs(record, stored) else None


def _set_aside(fence: Fence, why: str) -> None:
    log.warning("%s; it is now in %s, and the trial begins anew", why, fence.set_aside())


def _catch_up(job: ClaimedTrial, record: RunRecord) -> None:
    """Have the database know the parameters and the epochs of a run that ended."""
    _suggested(job, {row.epoch: row.objective(record.training) for row in record.epochs})


def _suggested(
    job: ClaimedTrial, values: Mapping[int, float | None]
) -> tuple[optuna.Trial, FlowConfig, TrainConfig]:
    """The trial with its parameters, the options that follow from them, and just these reports.

    The last worker may have saved epochs that it had not reported when it died, and reported some
    whose checkpoint is not there any more.
    """
    spec, number = job.spec, job.claim.number
    trial = job.slots.trial_of(job.claim)
    reported = job.study.get_trials(deepcopy=False)[number].intermediate_values
    if wrong := [epoch for epoch, value in reported.items() if values.get(epoch) != value]:
        job.slots.retract(job.claim, wrong)
        trial = job.slots.trial_of(job.claim)
    seed = space.seed_of(spec.study.seed, number)
    configs = space.suggest(trial, spec.space, spec.flow, spec.training, seed=seed)
    job.suggested(trial.params)
    for epoch, value in values.items():
        if value is not None and reported.get(epoch) != value:
            trial.report(value, epoch)
    return trial, *configs


def _train(job: ClaimedTrial, fence: Fence, started: str) -> RunRecord:
    data = Path(job.spec.data.path)
    stored = checkpoint.load(job.folder)
    rows = checkpoint.history_of(stored) if stored else []
    values = {row.epoch: row.objective(job.spec.training) for row in rows}
    trial, flow_config, train_config = _suggested(job, values)
    record = _begun(job, trial.params, flow_config, train_config, started)
    record = dataclasses.replace(record, weights=checkpoint.digest(stored) if stored else None)
    log.info("on %s with %s", record.environment.device, record.params)
    record = _put(fence, with_history(record, rows))
    if rows:
        log.info("goes on after epoch %d", rows[-1].epoch)

    def save(folder: Path, reached: Checkpoint) -> None:
        nonlocal record
        record = dataclasses.replace(record, weights=checkpoint.digest(reached))
        record = with_history(record, checkpoint.history_of(reached))
        with fence.writing() as drafts:
            checkpoint.save(folder, reached, within=drafts)
            _write(fence, record, drafts)

    def on_epoch(epoch: Epoch) -> None:
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
            hold_out=job.spec.data.hold_out_cells,
            report=job.spec.data.report_cells,
            checkpoint=job.folder,
            save=save,
            on_epoch=on_epoch,
            meeting=job.meeting,
        )
        state, reason = "stopped_early" if fit.stopped else "complete", fit.stopped
    except optuna.TrialPruned as pruned:
        state, reason = "pruned", str(pruned)
    ended = dataclasses.replace(record, state=state, reason=reason, updated=now())
    flow = checkpoint.best_flow(job.folder)
    ended = with_cost(ended, flow)
    if state != "pruned":
        ended = scored(ended, flow, data)
    return _put(fence, ended)


def _begun(
    job: ClaimedTrial, params: dict[str, Any], flow: FlowConfig, training: TrainConfig, started: str
) -> RunRecord:
    """The record as the trial begins, or begins again."""
    record = blank_record(job.study, job.claim.number)
    dataset = Dataset.read(Path(job.spec.data.path))
    # The dataset is read anew: its files may have changed since the launch.
    data = dataclasses.replace(record.data, **used(dataset))
    return dataclasses.replace(
        record,
        params=params,
        flow=dataclasses.asdict(flow),
        training=dataclasses.asdict(training),
        pruner=dataclasses.asdict(job.spec.pruner),
        data=data,
        seeds={"study": job.spec.study.seed, "trial": training.seed},
        environment=environment.describe(
            training.device, job_of_this_process(), stack=job.meeting.size if job.meeting else 1
        ),
        restarts=job.claim.restarts,
        started=started,
    )


def _put(fence: Fence, record: RunRecord) -> RunRecord:
    """Write the record, if the trial is still this worker's."""
    with fence.writing() as drafts:
        _write(fence, record, drafts)
    return record


def _write(fence: Fence, record: RunRecord, drafts: Path) -> None:
    # A folder made anew would hide the one that comes back when the disk does.
    record.write(fence.folder, parents=False, within=drafts)


def _save(fence: Fence, folder: Path, reached: Checkpoint) -> None:
    """Save the checkpoint, if the trial is still this worker's."""
    with fence.writing() as drafts:
        checkpoint.save(folder, reached, within=drafts)


@contextlib.contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """Send what the packages log to the trial's `log.txt` while it runs, but of no other trial."""
    own = threading.get_ident()

    def wanted(record: logging.LogRecord) -> bool:
        return record.thread == own or not (record.threadName or "").startswith(THREAD)

    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(wanted)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
