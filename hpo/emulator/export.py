"""Runs as an emulator bundle, read back and compared before it says done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.cells import Named
from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.untrusted import finite
from hpo.emulator.choice import Run
from hpo.emulator.members import differing
from hpo.records import weights
from hpo.records.record import NAME, RunRecord
from hpo.records.scores import scored
from models.bundle.domain import limits_of, texts_of
from models.bundle.efficiency import Efficiency
from models.bundle.emulator import Emulator, refuse_other
from models.bundle.ensemble import Density, Ensemble
from models.bundle.readme.card import Terms
from models.bundle.reliability import CELLS, HELD_OUT, KEY, Reliability
from models.evaluation.catalogs.coverage import Step, measure
from models.evaluation.cells import keys
from models.evaluation.nll import nll
from models.evaluation.summary import summary

MOST_VALUES, MOST_SOURCES = 1_000, 1_000
"""Values of a condition, and source files, at most that the bundle lists."""

Metrics = dict[str, object]


def write(
    runs: Sequence[Run],
    out: Path,
    terms: Terms | None = None,
    *,
    chosen: RunRecord | None = None,
    folds: Sequence[Sequence[Run]] = (),
    catalogs: int = 0,
    step: Step = lambda done, total: None,
) -> list[RunRecord]:
    """Write the bundle of one run, or of several mixed with equal weights; their records.

    Args:
        runs: What is written.
        out: Folder to be made.
        terms: Licence, authors and references, for the model card.
        chosen: The trial by whose configuration they were trained anew, if they were.
        folds: Further members of that configuration, each time without other interior cells.
        catalogs: Of each size at most that are made of validation rows, to measure for how many
            events it is good; 0 leaves that out.
        step: Called with the number of their posteriors that are done, and of all.

    Raises:
        WeightsError, CheckpointError: If the weights of one are not there, or of another run.
        EmulatorError: If `out` holds something else.
        DataError: If the data are those of the training, and their test part is damaged.
    """
    refuse_other(out)  # before minutes are spent
    records = [run.record for run in runs]
    density = _density(runs)
    card = _card(records, density, chosen) | (terms or Terms()).to_card()
    if folds:
        records_of = [[one.record for one in fold] for fold in folds]
        card["metrics"] |= {"interpolation": _interpolation(records_of)}
    trained = Emulator(density, card)
    if catalogs:
        unseen = [(_density(fold), fold[0].record.data.report_cells) for fold in folds]
        found = _reliability(trained, records[0], unseen, catalogs, step)
        trained.card[KEY] = found.to_card()
    extra = {NAME: runs[0].folder / NAME}
    # Before it takes its place: `out` may hold an older bundle, which a bad one must not replace.
    trained.save(out, extra=extra, check=lambda draft: _compare(trained, Emulator.load(draft)))
    return records


def _card(
    records: Sequence[RunRecord], density: Density, chosen: RunRecord | None
) -> dict[str, Any]:
    """The bundle's card: its quality, its origin, how many mergers there are."""
    best, alone = records[0], len(records) == 1
    folder, kept_out = Path(best.data.path), best.data.kept_out
    dataset = _dataset(best)
    each = [_metrics(one, one.best_val_nll) for one in records]
    metrics = each[0] if alone else {}
    origin: dict[str, object] = {
        "study": best.study,
        **(
            {"trial": best.trial} if alone or chosen else {"trials": [one.trial for one in records]}
        ),
        "data_fingerprint": best.data.fingerprint,
        "data_rows": best.data.rows,
    }
    if best.data.weights:
        origin |= {
            "data_weights": best.data.weights,
            "data_effective_rows": best.data.effective_rows,
        }
    card: dict[str, Any] = {"metrics": metrics, "provenance": origin}
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
    if chosen:
        origin["changed"] = differing(chosen, best)
        metrics["trial"] = _metrics(chosen, chosen.best_val_nll) | {
            "objective": chosen.training.get("objective")
        }
    return card


def _density(runs: Sequence[Run]) -> Density:
    flows = [weights.flow_of(run.record, run.folder) for run in runs]
    return flows[0] if len(flows) == 1 else Ensemble(flows)


def _reliability(
    emulator: Emulator,
    record: RunRecord,
    unseen: Sequence[tuple[Density, Named]],
    catalogs: int,
    step: Step,
) -> Reliability:
    """For how many events it is good, by rows that no member was trained on.

    In held-out cells `unseen` is measured, or, without any, the emulator in those that it lacks.
    """
    dataset = _dataset(record)
    if dataset is None:
        why = "the data were not there when it was exported"
        return Reliability(measured=(), missing={CELLS: why, HELD_OUT: why})
    if not unseen and record.data.kept_out:
        unseen = [(emulator.module, record.data.kept_out)]
    return measure(
        emulator.module,
        Path(record.data.path),
        catalogs=catalogs,
        held_out=[(density, keys(dataset, out)) for density, out in unseen],
        step=step,
    )


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


def _interpolation(folds: Sequence[Sequence[RunRecord]]) -> Metrics:
    """The NLL of cells that were not trained on, over flows each of which lacks others of them.

    Of the members that lack the same ones it is the mean, whose error is that of one: their rows
    are the same.
    """
    found = [[one.report for one in fold if one.report] for fold in folds]
    firsts = [fold[0] for fold in found]
    rows = np.array([one.effective_rows or one.rows for one in firsts])
    nlls, errors = (
        np.array([np.mean([np.nan if v is None else v for v in fold]) for fold in each])
        for each in (
            [[getattr(one, name) for one in fold] for fold in found] for name in ("nll", "error")
        )
    )
    worst = [asdict(one.worst) for one in firsts if one.worst]
    interpolation = {
        "folds": len(folds),
        "nll": float(nlls @ rows / rows.sum()),
        "error": float(np.hypot.reduce(errors * rows) / rows.sum()),
        "worst": max(
            worst, key=lambda cell: np.inf if cell["nll"] is None else cell["nll"], default=None
        ),
        "cells": [asdict(cell) for one in firsts for cell in one.cells],
    }
    return finite(interpolation)  # type: ignore[no-any-return]


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
