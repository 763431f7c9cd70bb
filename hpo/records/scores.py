"""A training as its record tells it: epochs, cost, and NLLs on the test split in nats."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.cells import Named
from data_prep.dataset import Dataset
from data_prep.untrusted import finite
from hpo.records.record import CellNll, EpochRow, HeldOutNll, RunRecord, TestNll, now
from models.bundle import batched
from models.bundle.ensemble import Density
from models.config import TrainConfig
from models.evaluation.nll import cell_nlls, nll
from models.training.history import Epoch


def with_history(record: RunRecord, rows: Sequence[Epoch]) -> RunRecord:
    """The record with these epochs, their time and the best of them by the objective."""
    config = TrainConfig.from_dict(record.training)
    best = min(rows, key=lambda epoch: epoch.objective(config), default=None)
    return dataclasses.replace(
        record,
        epochs=tuple(EpochRow.of(epoch) for epoch in rows),
        best_epoch=best.epoch if best else None,
        best_val_nll=best.val_nll if best else None,
        best_val_error=None,
        best_held_out_nll=best.held_out_nll if best else None,
        cost=dataclasses.replace(record.cost, seconds=sum(epoch.seconds for epoch in rows)),
        updated=now(),
    )


def used(dataset: Dataset) -> dict[str, Any]:
    """What a record tells of the dataset that was trained on, as fields of `DataUsed`."""
    told: dict[str, Any] = {"fingerprint": dataset.fingerprint, "rows": {**dataset.rows}}
    if dataset.weight_column:
        effective = {split: dataset.effective(split) for split in dataset.rows}
        told |= {"weights": dataset.weight_column.name, "effective_rows": effective}
    return told


def with_cost(record: RunRecord, flow: Density) -> RunRecord:
    """The record with the parameters and the operations of a flow."""
    cost = dataclasses.asdict(batched.cost(flow))
    return dataclasses.replace(record, cost=dataclasses.replace(record.cost, **cost))


def scored(record: RunRecord, flow: Density, folder: Path) -> RunRecord:
    """The record with the scores of a flow on its data, which lie in `folder`.

    Those are of the test rows; of the validation rows, whose NLL is known, the error of that.
    """
    found, val = (
        nll(flow, folder, split, without=record.data.kept_out) for split in ("test", "val")
    )
    test = TestNll(
        nll=found.mean, error=found.error, rows=found.rows, effective_rows=found.effective_rows
    )
    held_out, report = (
        _score_unseen(flow, folder, cells)
        for cells in (record.data.hold_out_cells, record.data.report_cells)
    )
    error = finite(val.error)
    return dataclasses.replace(
        record, test=test, held_out=held_out, report=report, best_val_error=error
    )


def _score_unseen(flow: Density, folder: Path, named: Named) -> HeldOutNll | None:
    """In cells that were not trained on, together and each; None where there are none."""
    if not named:
        return None
    found = nll(flow, folder, "test", only=named)
    cells = tuple(
        CellNll(
            conditions=cell.conditions,
            nll=finite(cell.nll.mean) if cell.nll else None,
            error=finite(cell.nll.error) if cell.nll else None,
            rows=cell.nll.rows if cell.nll else 0,
            effective_rows=cell.nll.effective_rows if cell.nll else 0.0,
        )
        for cell in cell_nlls(flow, folder, "test", named)
    )
    told = [cell for cell in cells if cell.rows]
    return HeldOutNll(
        nll=finite(found.mean),
        error=finite(found.error),
        rows=found.rows,
        cells=cells,
        worst=max(told, key=lambda cell: math.inf if cell.nll is None else cell.nll, default=None),
        effective_rows=found.effective_rows,
    )
