"""The best trials of a study as an emulator bundle, read back and compared before it says done."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.columns import DataError, Dataset
from data_prep.errors import InputError
from hpo.record import NAME, RunRecord, read_all
from hpo.status import usable
from models import checkpoint, measure
from models.efficiency import Efficiency
from models.emulator import Emulator
from models.mixture import Density, Mixture


class ExportError(InputError):
    """A study that has no such trial to export. The message says which there are."""


def export(
    folder: Path,
    out: Path,
    *,
    trial: int | None = None,
    max_cost: int | None = None,
    ensemble: int = 1,
) -> list[RunRecord]:
    """Write the bundle of the best trial below `folder`, or of several mixed, to `out`.

    Args:
        folder: Of the study: holds `trial-*/run.json`.
        out: Folder to be made.
        trial: Takes this one, whether it is the best or not.
        max_cost: Takes the best of those with at most so many FLOPs per event.
        ensemble: How many of the best, with equal weights.

    Returns:
        The records of the trials exported, the best first.

    Raises:
        ExportError: If there is no such trial, or too few have a result.
        EmulatorError: If `out` holds something else.
    """
    chosen = _chosen(folder, trial, max_cost, ensemble)
    flows = [checkpoint.best_flow(source) for _, source in chosen]
    records = [record for record, _ in chosen]
    density = flows[0] if len(flows) == 1 else Mixture(flows)
    trained = Emulator(density, _card(records, density))
    extra = {NAME: chosen[0][1] / NAME}
    # A copy is read back first: `out` may hold an older bundle, which a bad one must not replace.
    with tempfile.TemporaryDirectory() as folder_of_copy:
        _compare(trained, Emulator.load(trained.save(Path(folder_of_copy) / "copy", extra=extra)))
    trained.save(out, extra=extra)
    return records


def _chosen(
    folder: Path, trial: int | None, max_cost: int | None, ensemble: int
) -> list[tuple[RunRecord, Path]]:
    found = [(one, path.parent) for path, one in read_all(folder) if isinstance(one, RunRecord)]
    if trial is not None:
        found = [(one, path) for one, path in found if one.trial == trial]
        if not found:
            raise ExportError(f"{folder} has no trial {trial}")
        if not usable(found[0][0]):
            state = found[0][0].state
            raise ExportError(f"trial {trial} is {state}: only one that ended well can be exported")
        return found
    able = [(one, path) for one, path in found if usable(one) and _cheap(one, max_cost)]
    limit = f" with at most {max_cost} FLOPs per event" if max_cost else ""
    if not able:
        raise ExportError(f"{folder} has no trial{limit} that ended well, of {len(found)} there")
    if len(able) < ensemble:
        raise ExportError(
            f"{folder} has {len(able)} trials{limit} that ended well, too few for an ensemble of "
            f"{ensemble}"
        )
    return sorted(able, key=lambda pair: pair[0].standing)[:ensemble]


def _cheap(record: RunRecord, max_cost: int | None) -> bool:
    flops = record.cost.flops_per_event
    return max_cost is None or (flops is not None and flops <= max_cost)


def _card(records: Sequence[RunRecord], density: Density) -> dict[str, object]:
    """What the bundle tells of where it comes from, and of how many mergers there are."""
    dataset = _dataset(records[0])
    efficiency = Efficiency.of_dataset(dataset) if dataset else None
    told = {"efficiency": efficiency.to_card()} if efficiency else {}
    return _origin(records, density) | told


def _origin(records: Sequence[RunRecord], density: Density) -> dict[str, object]:
    if len(records) == 1:
        return _card_of(records[0])
    members = [_card_of(record) for record in records]
    best = records[0]
    return {
        "metrics": _measured(best, density) | {"members": [one["metrics"] for one in members]},
        "provenance": {
            "study": best.study,
            "trials": [record.trial for record in records],
            "data_fingerprint": best.data.fingerprint,
            "data_rows": best.data.rows,
            "members": [one["provenance"] for one in members],
        },
    }


def _measured(record: RunRecord, density: Density) -> dict[str, object]:
    """The NLLs of a mixture; nothing where its data is not there any more."""
    folder, hold_out = Path(record.data.path), record.data.hold_out_cells
    if _dataset(record) is None:
        return {}
    test = measure.nll(density, folder, "test", without=hold_out)
    val = measure.nll(density, folder, "val", without=hold_out)
    return {"val_nll": val.mean, "test_nll": test.mean, "test_nll_error": test.error}


def _dataset(record: RunRecord) -> Dataset | None:
    """What the trial was trained on, if that is still there."""
    try:
        dataset = Dataset.read(Path(record.data.path))
    except DataError:
        return None
    return dataset if dataset.fingerprint == record.data.fingerprint else None


def _card_of(record: RunRecord) -> dict[str, object]:
    """What is told of one trial."""
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
    if "efficiency" in trained.card:
        rates = (one.efficiency(**at, on_extrapolation="ignore") for one in (trained, loaded))
        np.testing.assert_array_equal(*rates)
