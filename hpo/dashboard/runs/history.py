"""A run's epochs as arrays: time, losses and rates, as the page draws them.

Axes of the arrays:
    E epochs, oldest first
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.dashboard.runs.tables import TablesError, number, per
from hpo.records.record import RunRecord

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A run's losses and rates, one value an epoch; NaN where nothing finite was measured."""

    epoch: Array
    """Counted from 1. Shape `(E,)`, as all of them."""
    minutes: Array
    """Wall-clock time from the beginning to the end of the epoch, pauses between restarts not
    counted; NaN from the first epoch on whose time is unknown."""
    rows_seen: Array
    """Rows of the training split until the end of the epoch, repeats counted."""
    train_nll: Array
    """Nats per event."""
    val_nll: Array
    """Nats per event."""
    loss_rate: Array
    """Nats per `training.rate_per`."""
    best: int | None
    """Index of the epoch whose weights were kept."""
    threshold: float | None
    """Loss rate below which the run stops early; None where it never does."""


def curve(record: RunRecord) -> Curve:
    """The record's epochs as arrays.

    An epoch sees the rows of the training split (of held-out cells too, whose number the record
    does not tell), or `eval_every` batches; where neither is known, the speed times the
    time, which counts the time of the evaluation in.
    """
    least = number(record.training.get("min_rate"))
    at = [row.epoch for row in record.epochs]
    return Curve(
        epoch=np.array(at, dtype=np.float64),
        minutes=np.cumsum(_values(record, "seconds")) / 60,
        rows_seen=np.cumsum(_rows_of_each(record)),
        train_nll=_values(record, "train_nll"),
        val_nll=_values(record, "val_nll"),
        loss_rate=_values(record, "loss_rate"),
        best=at.index(record.best_epoch) if record.best_epoch in at else None,
        threshold=least if least and least > 0 else None,
    )


def rate_unit(record: RunRecord) -> str:
    """Unit of the record's loss rates; the thesis's are per second."""
    return f"nats/{per(record.training.get('rate_per'))}"


def smoothed(values_E: Array, weight: float) -> Array:
    """Exponential moving average that is not drawn towards zero at its beginning.

    A value that is not finite stays a gap, and the average goes on behind it as if it were absent.

    Args:
        values_E: Any unit, shape `(E,)`.
        weight: Of the past, in [0, 1); 0 changes nothing.

    Raises:
        TablesError: If the weight is outside.

    Source:
        Kingma & Ba (2015), https://arxiv.org/abs/1412.6980, section 3, as TensorBoard does it.
    """
    if not 0 <= weight < 1:
        raise TablesError(f"the weight of the smoothing must lie in [0, 1), got {weight}")
    result = np.full(len(values_E), math.nan)
    total, correction = 0.0, 0.0
    for index in np.flatnonzero(np.isfinite(values_E)):
        total = weight * total + (1 - weight) * float(values_E[index])
        correction = weight * correction + (1 - weight)
        result[index] = total / correction
    return result


def _values(record: RunRecord, name: str) -> Array:
    """The values by epoch, NaN where there is none or where it is not finite."""
    values = [getattr(row, name) for row in record.epochs]
    found = np.array([math.nan if each is None else each for each in values], dtype=np.float64)
    return np.where(np.isfinite(found), found, math.nan)


def _rows_of_each(record: RunRecord) -> Array:
    """Rows trained on in each epoch."""
    every = number(record.training.get("eval_every"))
    batch = number(record.training.get("batch_size"))
    train = record.data.rows.get("train")
    if every and batch:
        return np.full(len(record.epochs), every * batch)
    if train:
        return np.full(len(record.epochs), float(train))
    return _values(record, "samples_per_second") * _values(record, "seconds")
