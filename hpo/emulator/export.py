"""The best trials of a study as an emulator bundle, read back and compared before it says done."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from data_prep.dataset import Dataset
from data_prep.errors import DataError, InputError
from data_prep.untrusted import finite
from hpo.queue.trials import Snapshot, TrialReader, TrialSummary
from hpo.records import weights
from hpo.records.folder import data_found
from hpo.records.record import NAME, RunRecord
from hpo.records.scores import scored
from hpo.study.status import usable
from hpo.study.study import record_of, trial_name
from models.bundle.card import Terms
from models.bundle.domain import limits_of, texts_of
from models.bundle.efficiency import Efficiency
from models.bundle.emulator import Emulator
from models.bundle.ensemble import Density, Ensemble
from models.evaluation.nll import nll
from models.evaluation.summary import summary

MOST_VALUES, MOST_SOURCES = 1_000, 1_000
"""Values of a condition, and source files, at most that the bundle lists."""

Metrics = dict[str, object]


class ExportError(InputError):
    """A study that has no such trial to export. The message says which there are."""


def export(
    study: optuna.Study,
    folder: Path,
    out: Path,
    *,
    trial: int | None = None,
    max_cost: int | None = None,
    ensemble: int = 1,
    terms: Terms | None = None,
) -> list[RunRecord]:
    """Write the bundle of a study's best trial, or of several mixed, to `out`.

    Args:
        study: Its database says which trials are the best.
        folder: Of its trials: holds `trial-*/run.json`.
        out: Folder to be made.
        trial: Takes this one, whether it is the best or not.
        max_cost: Takes the best of those with at most so many FLOPs per event.
        ensemble: How many of the best, with equal weights; their records are returned.
        terms: Licence, authors and references, for the model card.

    Raises:
        ExportError: If there is no such trial, too few have a result, or the folder does not hold
            what the study says of one that is wanted.
        WeightsError, CheckpointError: If the weights of one are not there, or of another run.
        EmulatorError: If `out` holds something else.
        DataError: If the data are those of the training, and their test part is damaged.
    """
    chosen = _chosen(study, folder, trial, max_cost, ensemble)
    sources = [folder / trial_name(record.trial) for record in chosen]
    flows = [weights.flow_of(*each) for each in zip(chosen, sources, strict=True)]
    records = [data_found(*each) for each in zip(chosen, sources, strict=True)]
    density = flows[0] if len(flows) == 1 else Ensemble(flows)
    trained = Emulator(density, _card(records, density) | (terms or Terms()).to_card())
    extra = {NAME: sources[0] / NAME}
    # A copy is read back first: `out` may hold an older bundle, which a bad one must not replace.
    with tempfile.TemporaryDirectory() as folder_of_copy:
        _compare(trained, Emulator.load(trained.save(Path(folder_of_copy) / "copy", extra=extra)))
    trained.save(out, extra=extra)
    return records


def _chosen(
    study: optuna.Study, folder: Path, trial: int | None, max_cost: int | None, ensemble: int
) -> list[RunRecord]:
    """The records of the trials to be exported, the best first."""
    name, seen = study.study_name, TrialReader(study).look()
    count = len(seen.trials)
    if trial is not None and trial >= count:
        raise ExportError(f"the study {name!r} has no trial {trial}: it has {count}")
    best = [one for one in seen.ranked if trial in (None, one.number)]
    if trial is not None and not best:
        state = seen.trials[trial].state.name.lower()
        raise ExportError(f"trial {trial} is {state}: only one that ended well can be exported")
    found: list[RunRecord] = []
    for one in best:
        record = record_of(folder, one.number)
        if record is None or not _agrees(one, record):
            raise ExportError(_difference(name, seen, one, record, folder))
        flops = record.cost.flops_per_event
        if max_cost is None or (flops is not None and flops <= max_cost):
            found.append(record)
        if len(found) == ensemble:
            return found
    limit = f" with at most {max_cost} FLOPs per event" if max_cost else ""
    if not found:
        raise ExportError(f"{name!r} has no trial{limit} that ended well, of {count} there")
    raise ExportError(
        f"{name!r} has {len(found)} trials{limit} that ended well, too few for an ensemble of "
        f"{ensemble}"
    )


def _agrees(one: TrialSummary, record: RunRecord) -> bool:
    """Whether the record is of this trial and has its value."""
    if not usable(record) or record.best_objective is None or one.value is None:
        return False
    same = math.isclose(record.best_objective, one.value, rel_tol=1e-12)
    return same and record.trial == one.number


def _difference(
    name: str, seen: Snapshot, one: TrialSummary, record: RunRecord | None, folder: Path
) -> str:
    """The sentence for a trial whose record is not there or says otherwise."""
    path = folder / trial_name(one.number) / NAME
    if record is None:
        fault = f"{path} is not there, or cannot be read"
    else:
        fault = f"{path} is of trial {record.trial}, {record.state}, with {record.best_objective}"
    remedy = "bring its folder back"
    for other in seen.ranked:
        found = record_of(folder, other.number)
        if found and _agrees(other, found):
            best = other.number
            remedy = f"bring its folder back, or export the best that is there by --trial {best}"
            break
    return (
        f"trial {one.number} of {name!r} has the NLL {one.value} in the database, by "
        f"which the best is told, and {fault}: {remedy}"
    )


def _card(records: Sequence[RunRecord], density: Density) -> dict[str, object]:
    """The bundle's card: its quality, its origin, how many mergers there are."""
    best, alone = records[0], len(records) == 1
    folder, kept_out = Path(best.data.path), best.data.kept_out
    dataset = _dataset(best)
    each = [_metrics(one, one.best_val_nll) for one in records]
    metrics = each[0] if alone else {}
    origin: dict[str, object] = {
        "study": best.study,
        **({"trial": best.trial} if alone else {"trials": [one.trial for one in records]}),
        "data_fingerprint": best.data.fingerprint,
        "data_rows": best.data.rows,
    }
    if best.data.weights:
        origin |= {
            "data_weights": best.data.weights,
            "data_effective_rows": best.data.effective_rows,
        }
    card: dict[str, object] = {"metrics": metrics, "provenance": origin}
    if dataset:
        if not alone:  # no record tells of an ensemble
            val_nll = nll(density, folder, "val", without=kept_out).mean
            metrics |= _metrics(scored(best, density, folder), val_nll)
        metrics |= summary(density, folder, held_out=kept_out)
        origin["data"] = _data(dataset)
        if efficiency := Efficiency.of_dataset(dataset):
            card["efficiency"] = efficiency.to_card()
    if alone:
        origin |= _training(best)
    else:
        metrics["members"] = each
        origin["members"] = [{"trial": one.trial, **_training(one)} for one in records]
    return card


def _dataset(record: RunRecord) -> Dataset | None:
    """The dataset of the trial's training, if it is still there."""
    try:
        dataset = Dataset.read(Path(record.data.path))
    except DataError:
        return None
    return dataset if dataset.fingerprint == record.data.fingerprint else None


def _metrics(record: RunRecord, val_nll: float | None) -> Metrics:
    """The quality of one flow, or of an ensemble, whose scores the record tells."""
    test = record.test
    metrics: Metrics = {
        "val_nll": val_nll,
        "test_nll": test.nll if test else None,
        "test_nll_error": test.error if test else None,
    }
    for name, found in (("held_out", record.held_out), ("report", record.report)):
        if found:
            metrics |= {
                f"{name}_nll": found.nll,
                f"{name}_nll_error": found.error,
                f"{name}_cells": [asdict(cell) for cell in found.cells],
                f"{name}_worst": asdict(found.worst) if found.worst else None,
            }
    return finite(metrics)  # type: ignore[no-any-return]


def _data(dataset: Dataset) -> dict[str, object]:
    """The dataset as a model card describes it."""
    grid = {
        column.name: [*map(column.value, sorted({cell.conditions[k] for cell in dataset.cells}))]
        for k, column in enumerate(dataset.condition_columns)
        if all(len(set(cell.box[k])) == 1 for cell in dataset.cells if cell.box)
    }
    known = ("file", "rows", "bytes", "sha256")
    return {
        "cells": len(dataset.cells),
        **({"scattered": True} if dataset.scattered else {}),
        "grid": {name: every for name, every in grid.items() if len(every) <= MOST_VALUES},
        "ranges": {c.name: list(dataset.ranges[c.name]) for c in dataset.event_columns},
        "where": dataset.where,
        "command": dataset.command,
        "sources": [
            {name: source[name] for name in known if name in source}
            for source in dataset.sources[:MOST_SOURCES]
        ],
        "source_files": len(dataset.sources),
    }


def _training(record: RunRecord) -> dict[str, object]:
    """How one flow was made."""
    ran = {
        "epochs_run": len(record.epochs),
        "best_epoch": record.best_epoch,
        "seconds": record.cost.seconds,
        "device": record.environment.device,
        "threads": record.environment.threads,
    }
    return {
        "training": record.training | ran,
        "versions": record.environment.versions,
        "git_commit": record.environment.git_commit,
        "trained": record.updated,
    }


def _compare(trained: Emulator, loaded: Emulator) -> None:
    """Make sure that what was read back is what was trained."""
    at: dict[str, Any] = {
        name: (texts_of(known) or [float(np.mean(limits_of(known)))])[0]
        for name, known in trained.domain.items()
    }
    ours, theirs = (one.sample(1000, seed=0, **at) for one in (trained, loaded))
    np.testing.assert_array_equal(theirs, ours)
    np.testing.assert_array_equal(loaded.log_prob(ours, **at), trained.log_prob(ours, **at))
    if "efficiency" in trained.card:
        rates = (one.efficiency(**at, on_extrapolation="ignore") for one in (trained, loaded))
        np.testing.assert_array_equal(*rates)
