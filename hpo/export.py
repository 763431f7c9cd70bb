"""The best trial of a study as an emulator bundle, read back and compared before it says done."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import InputError
from hpo.record import NAME, RunRecord, read_all
from hpo.status import usable
from models import checkpoint
from models.emulator import Emulator


class ExportError(InputError):
    """A study that has no such trial to export. The message says which there are."""


def export(
    folder: Path, out: Path, *, trial: int | None = None, max_cost: int | None = None
) -> RunRecord:
    """Write the bundle of the best trial below `folder` to `out`.

    Args:
        folder: Of the study: holds `trial-*/run.json`.
        out: Folder to be made.
        trial: Takes this one, whether it is the best or not.
        max_cost: Takes the best of those with at most so many FLOPs per event.

    Returns:
        The record of the trial exported.

    Raises:
        ExportError: If there is no such trial, or it has no result.
        EmulatorError: If `out` holds something else.
    """
    record, source = _chosen(folder, trial, max_cost)
    flow = checkpoint.best_flow(source)
    trained = Emulator(flow, _card(record))
    extra = {NAME: source / NAME}
    # A copy is read back first: `out` may hold an older bundle, which a bad one must not replace.
    with tempfile.TemporaryDirectory() as folder_of_copy:
        _compare(trained, Emulator.load(trained.save(Path(folder_of_copy) / "copy", extra=extra)))
    trained.save(out, extra=extra)
    return record


def _chosen(folder: Path, trial: int | None, max_cost: int | None) -> tuple[RunRecord, Path]:
    found = [(one, path.parent) for path, one in read_all(folder) if isinstance(one, RunRecord)]
    if trial is not None:
        found = [(one, path) for one, path in found if one.trial == trial]
        if not found:
            raise ExportError(f"{folder} has no trial {trial}")
        if not usable(found[0][0]):
            state = found[0][0].state
            raise ExportError(f"trial {trial} is {state}: only one that ended well can be exported")
        return found[0]
    able = [(one, path) for one, path in found if usable(one) and _cheap(one, max_cost)]
    if not able:
        limit = f" with at most {max_cost} FLOPs per event" if max_cost else ""
        raise ExportError(f"{folder} has no trial{limit} that ended well, of {len(found)} there")
    return min(able, key=lambda pair: _objective(pair[0]))


def _objective(record: RunRecord) -> float:
    return math.inf if record.best_objective is None else record.best_objective


def _cheap(record: RunRecord, max_cost: int | None) -> bool:
    flops = record.cost.flops_per_event
    return max_cost is None or (flops is not None and flops <= max_cost)


def _card(record: RunRecord) -> dict[str, object]:
    """What the bundle tells of where it comes from."""
    test = record.test
    metrics: dict[str, object] = {
        "val_nll": record.best_val_nll,
        "test_nll": test.nll if test else None,
        "test_nll_error": test.error if test else None,
    }
    if held_out := record.held_out:
        metrics |= {
            "held_out_nll": held_out.nll,
            "held_out_nll_error": held_out.error,
            "held_out_cells": [asdict(cell) for cell in held_out.cells],
        }
    return {
        "metrics": metrics,
        "provenance": {
            "study": record.study,
            "trial": record.trial,
            "data_fingerprint": record.data.fingerprint,
            "data_rows": record.data.rows,
            "versions": record.environment.versions,
            "git_commit": record.environment.git_commit,
            "trained": record.updated,
        },
    }


def _compare(trained: Emulator, loaded: Emulator) -> None:
    """Make sure that what was read back is what was trained."""
    at: dict[str, Any] = {name: float(np.mean(ends)) for name, ends in trained.domain.items()}
    ours, theirs = (one.sample(1000, seed=0, **at) for one in (trained, loaded))
    np.testing.assert_array_equal(theirs, ours)
    np.testing.assert_array_equal(loaded.log_prob(ours, **at), trained.log_prob(ours, **at))
