"""Records of runs, made up."""

import dataclasses

from hpo.records import table
from hpo.records.record import Cost, DataUsed, Environment, EpochRow, RunRecord

BASE = RunRecord(
    study="bbh",
    trial=0,
    state="complete",
    params={"blocks": 2, "learning_rate": 1e-3},
    flow={"blocks": 2, "hidden": 48},
    training={"epochs": 3, "learning_rate": 1e-3, "batch_size": 10, "rate_per": "epoch"},
    data=DataUsed(path="prepared", fingerprint="ab", rows={"train": 60, "val": 20}),
    environment=Environment(versions={"torch": "2.7"}, device="cpu", host="node07", threads=2),
    cost=Cost(parameters=1000, flops_per_event=2000, seconds=6.0),
    started="2026-05-01T12:00:00+00:00",
    updated="2026-05-01T12:00:05+00:00",
)


def epoch(number, val=5.0, **more):
    values = {
        "train_nll": 4.9,
        "val_nll": val,
        "learning_rate": 1e-3,
        "seconds": 30.0,
        "samples_per_second": 4.0,
        "loss_rate": 0.1,
    }
    return EpochRow(epoch=number, **values | more)


def run(trial=0, **changes):
    return dataclasses.replace(BASE, trial=trial, **changes)


def trained(*vals, trial=0, each=None, **changes):
    """A run of epochs with these validation NLLs, None of one that was not finite."""
    told = [each for each in vals if each is not None]
    best = min(told, default=None)
    return run(
        trial,
        epochs=tuple(epoch(number, val, **each or {}) for number, val in enumerate(vals, start=1)),
        best_epoch=vals.index(best) + 1 if told else None,
        best_val_nll=best,
        **changes,
    )


def row(key, record):
    return {"run": key, **table.row(record)}


def searched(*pairs, **more):
    """Rows of finished runs from (parameters, NLL)."""
    return [
        row(f"bbh/trial-{trial:05d}", run(trial, params=params, best_val_nll=nll, **more))
        for trial, (params, nll) in enumerate(pairs)
    ]
