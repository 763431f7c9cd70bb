"""Run JSONs of the thesis whose code this project succeeds, read into our record.

Its file `<label>.json` holds the configuration and two lists by epoch: `epoch_time` (seconds since
the start) and `d_score_rate` (change of its validation loss per second, from the second epoch on).
NaN and Infinity stand there as bare tokens. The curves are in `<label>_loss.npz` beside it, arrays
`train_loss` and `valid_loss`; its third array is a pickle and is never opened. Paths inside the
JSON lead nowhere and are not followed.

Its rate is negative while the loss falls; `loss_rate` is the fall, as everywhere here.

Two things there are not what their names say:

- `valid_loss` is the mean of every validation value since the first step. The rows here hold what
  each epoch itself added, `i v_i - (i - 1) v_{i-1}`, and `best_val_nll` is the lowest of those:
  nats per event, comparable with ours up to its batch norm, which saw the validation batch. Its own
  best stays in `reported.val_nll`. From the first NaN or infinity on nothing can be recovered; such
  a run counts as failed.
- `epochs` is the index of the last epoch, so one less than were trained when it stopped early. It
  stays in `reported.epochs`; the rows are what was trained.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from io import BytesIO
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.untrusted import LARGEST_JSON, adapter, fault_of, finite
from hpo.records.record import (
    Cost,
    DataUsed,
    Environment,
    EpochRow,
    RecordError,
    Reported,
    RunRecord,
    Scalar,
    contents,
)

STUDY = "thesis"
"""The study that its runs are listed under."""

Curve = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """The keys that are read of its JSON; any may be missing."""

    label: str | None = None
    A: str | None = None
    """Activation."""
    blocks: int | None = None
    hidden: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    dataloader: bool | None = None
    early_stop: bool | None = None
    stopped_early: bool = False
    epochs: int | None = None
    best_loss: float | None = None
    """Lowest running mean of the validation loss, nats per event."""
    runtime: float | None = None
    """Seconds."""
    device: str | None = None
    training_file: str = ""
    epoch_time: tuple[float, ...] = ()
    """Seconds since the start, by epoch."""
    d_score_rate: tuple[float, ...] = ()
    """Change of the running mean, nats per second, from the second epoch on."""


def parse(path: Path, text: bytes) -> RunRecord:
    """The record of the run in `path`; its trial's number is the file's place among its neighbours.

    Raises:
        RecordError: If this is no run of the thesis, or its curves are broken. Missing curves are
            no fault; the reason says so then.
    """
    saved = _saved(path, text)
    source = path.with_name(f"{path.stem}_loss.npz")
    train, running = _curves(source)
    rows = _rows(saved, train, running)
    lost = _first_lost(saved, running)
    measured = [(row.val_nll, row.epoch) for row in rows if row.val_nll is not None]
    best_val_nll, best_epoch = min(measured, default=(None, None))
    params = _given(blocks=saved.blocks, hidden=saved.hidden, activation=saved.A)
    options = ("batch_size", "workers", "dataloader", "early_stop")
    return RunRecord(
        study=STUDY,
        trial=sum(other.stem < path.stem for other in path.parent.glob("*.json")),
        state="failed" if lost else "stopped_early" if saved.stopped_early else "complete",
        reason=_reason(saved, lost, None if len(running) else source.name),
        params=params,
        flow=dict(params),
        training=_given(**{name: getattr(saved, name) for name in options}),
        data=DataUsed(path=Path(saved.training_file).name, fingerprint=None, rows={}),
        environment=Environment(
            versions={}, device=saved.device or "unknown", host=None, threads=None
        ),
        epochs=rows,
        best_epoch=best_epoch,
        best_val_nll=best_val_nll,
        cost=Cost(parameters=None, flops_per_event=None, seconds=finite(saved.runtime)),
        started=None,
        updated=None,
        reported=Reported(
            label=saved.label or path.stem, epochs=saved.epochs, val_nll=finite(saved.best_loss)
        ),
    )


def each_epoch(running: Curve) -> Curve:
    """The value of each epoch, from the running means `(E,)`; NaN from a non-finite one on."""
    count = np.arange(1, len(running) + 1)
    with np.errstate(over="ignore", invalid="ignore"):
        totals = np.where(np.isfinite(running), count * running, np.nan)
        return np.diff(totals, prepend=0.0)


def _saved(path: Path, text: bytes) -> Saved:
    from pydantic import ValidationError

    try:
        saved = adapter(Saved).validate_json(text)
    except ValidationError as error:
        raise RecordError(f"{path} {fault_of(error, 'a run JSON of the thesis')}") from error
    if saved.blocks is None and saved.best_loss is None and not saved.epoch_time:
        raise RecordError(
            f"{path} is neither a run.json nor a run JSON of the thesis: "
            "it has none of 'blocks', 'best_loss' and 'epoch_time'"
        )
    return saved


def _curves(path: Path) -> tuple[Curve, Curve]:
    """Training loss and running mean of the validation loss, each `(epochs,)` or both empty."""
    if not path.exists():
        return np.empty(0), np.empty(0)
    if path.resolve().parent != path.parent.resolve():
        raise RecordError(f"{path} is a link that leads elsewhere: not followed")
    try:
        with zipfile.ZipFile(BytesIO(contents(path))) as archive:
            return _curve(archive, "train_loss"), _curve(archive, "valid_loss")
    except RecordError:
        raise
    except Exception as error:  # of zipfile, zlib, or numpy's reading of headers, each its own
        raise RecordError(f"{path} cannot be read as loss curves: {error}") from error


def _curve(archive: zipfile.ZipFile, name: str) -> Curve:
    # Not numpy.load: the size is known here before anything is unpacked.
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > LARGEST_JSON:
        raise ValueError(f"{name} unpacks to {entry.file_size} bytes, over {LARGEST_JSON}")
    with archive.open(entry) as file:
        values = np.lib.format.read_array(file, allow_pickle=False)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise ValueError(f"{name} is {values.dtype} of shape {values.shape}, not a row of numbers")
    return values.astype(np.float64)


def _rows(saved: Saved, train: Curve, running: Curve) -> tuple[EpochRow, ...]:
    with np.errstate(over="ignore", invalid="ignore"):
        seconds = np.diff(np.asarray(saved.epoch_time, dtype=np.float64), prepend=0.0)
    # There is no rate at the first epoch: nothing came before it.
    rates = (math.nan, *(-each for each in saved.d_score_rate)) if saved.d_score_rate else ()
    columns = (train.tolist(), each_epoch(running).tolist(), seconds.tolist(), rates)
    return tuple(
        EpochRow(
            epoch=epoch,
            train_nll=finite(train_nll),
            val_nll=finite(val_nll),
            learning_rate=None,
            seconds=finite(took),
            samples_per_second=None,
            loss_rate=finite(rate),
        )
        for epoch, (train_nll, val_nll, took, rate) in enumerate(zip_longest(*columns), start=1)
    )


def _first_lost(saved: Saved, running: Curve) -> int | None:
    """The first epoch whose validation loss was not finite."""
    # Without the curve, the rate tells: entry i leads from epoch i + 1 to epoch i + 2.
    values, first = (running, 1) if len(running) else (np.asarray(saved.d_score_rate), 2)
    lost = np.flatnonzero(~np.isfinite(values))
    return int(lost[0]) + first if len(lost) else None


def _reason(saved: Saved, lost: int | None, missing: str | None) -> str | None:
    parts = []
    if lost is not None:
        parts.append(f"its validation loss is not finite from epoch {lost} on")
    elif saved.stopped_early:
        parts.append("stopped early by its own rule")
    if missing:
        parts.append(f"no loss curves: {missing} is not there")
    return "; ".join(parts) or None


def _given(**values: Scalar) -> dict[str, Scalar]:
    return {name: value for name, value in values.items() if value is not None}
