"""One training of `benchmarks/flow.py`, on one thread, and everything that is measured of it.

Its results are one JSON object and, beside the results file, an `.npz` of long arrays: the log
density of every test row and of events between the cells, and, where the density is known, on a
grid of masses for the picture.

Tensor and array names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rivals
import torch
from flow_data import truth_of
from flow_jobs import (
    HELD_OUT,
    HISTOGRAMS,
    POINT,
    THESIS_BATCH,
    THESIS_STEPS,
    Job,
    commit,
)
from numpy.typing import NDArray
from processor_time import Clock, counted
from rival_training import Recipe, fit
from smoothed_histogram import SmoothedHistograms

from data_prep.dataset import Dataset
from data_prep.stream import Batch, read_split
from models import Emulator
from models.bundle import batched
from models.training.train import train

Floats = NDArray[np.floating]

GRID_0, GRID_1 = np.linspace(4, 44, 241), np.linspace(4, 44, 241)
"""Masses of the picture, Msun."""
SPEED_ROWS, REPEATS = 200_000, 5
RIVAL_PARTS = (4096, 65_536)
"""Rows that go through a rival together; the quicker counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A fitted density, of whatever make, in physical units."""

    log_prob: Callable[[Floats, Floats], Floats]
    """Of events, `(N, F)`, under conditions, `(N, C)`."""
    log_prob_ways: tuple[Callable[[Floats, Floats], Any], ...]
    """Several ways to the same log density; the quickest counts."""
    sample_ways: tuple[Callable[[Floats], Any], ...]
    """Draw an event under each condition, `(N, C)`."""
    sample_one_ways: tuple[Callable[[], Any], ...]
    """Draw `SPEED_ROWS` events at `POINT`."""
    rows_per_second: float
    parameters: int
    seconds: float
    """Processor time of the training, without what reads and standardises the rows."""
    notes: Mapping[str, Any]


def run(job: Job, folder: Path, arrays: Path) -> dict[str, Any]:
    """Train and measure; writes `arrays`, returns the line of the results file."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(job.seed)
    kinds = {HISTOGRAMS: train_histograms}
    trained = (train_ours if job.ours else kinds.get(job.flow, train_rival))(job, folder)

    test, fingerprint = read_split(folder, "test"), Dataset.read(folder).fingerprint
    test_N = trained.log_prob(test.events, test.conditions)
    kept = {"test_N": test_N}
    truth = truth_of(job.data, folder)
    if truth is not None and not job.speed:
        kept["between_N"] = trained.log_prob(truth.events_NF, truth.conditions_NC)
        kept["grid_N"] = trained.log_prob(*grid())
    arrays.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arrays, **{name: values.astype("f4") for name, values in kept.items()})
    return {
        "digest": job.digest(fingerprint),
        **job.settings(fingerprint),
        "commit": commit(),
        "took_s": trained.seconds,
        "test_nll": float(-test_N.mean()),
        "rows_per_s": trained.rows_per_second,
        "parameters": trained.parameters,
        **trained.notes,
        **(speeds(trained, test) if job.speed else {}),
    }


def train_ours(job: Job, folder: Path) -> Trained:
    """Ours as anybody calls it, but for the clock."""
    with counted():
        flow, fitted = train(folder, *job.configs(), hold_out=HELD_OUT if job.held_out else ())
    emulator = Emulator(flow)
    log_prob = partial(batched.log_prob, flow)
    return Trained(
        log_prob=log_prob,
        log_prob_ways=(log_prob,),
        sample_ways=(lambda c_NC: batched.draw(flow, c_NC, np.random.default_rng(0)),),
        sample_one_ways=(lambda: emulator.sample(SPEED_ROWS, seed=0, **POINT),),
        rows_per_second=statistics.median(e.samples_per_second for e in fitted.history),
        parameters=batched.cost(flow).parameters,
        seconds=sum(epoch.seconds for epoch in fitted.history),
        notes={"epochs": len(fitted.history), "stopped": fitted.stopped},
    )


def train_rival(job: Job, folder: Path) -> Trained:
    """A rival by the loop of `rival_training`."""
    train_rows, val_rows = (
        tensors(seen(side) if job.held_out else side) for side in splits(folder)
    )
    limits: dict[str, float] = {"seconds": job.budget_s}
    if job.flow == rivals.THESIS:
        recipe = Recipe(
            batch=THESIS_BATCH, learning_rate=1e-3, cosine=False, clip_norm=1e9, average=0
        )
        limits = limits if job.speed else {"steps": THESIS_STEPS}
        flow = rivals.build(job.flow, {}, train_rows)
    else:
        assert job.config is not None
        recipe = Recipe(**job.config["recipe"])
        flow = rivals.build(job.flow, job.config["shape"], train_rows)
    fitted = fit(flow, recipe, train_rows, val_rows, **limits)

    def log_prob(part: int, events_NF: Floats, conditions_NC: Floats) -> Floats:
        rows = tensors(Batch(events_NF, conditions_NC))
        return rivals.log_prob(flow, rows, part).double().numpy()

    def sample(part: int, conditions_NC: Floats) -> Any:
        return rivals.sample(flow, torch.as_tensor(conditions_NC), part)

    one_NC = np.tile(point(), (SPEED_ROWS, 1))
    return Trained(
        log_prob=partial(log_prob, rivals.EVALUATION_ROWS),
        log_prob_ways=tuple(partial(log_prob, part) for part in RIVAL_PARTS),
        sample_ways=tuple(partial(sample, part) for part in RIVAL_PARTS),
        sample_one_ways=tuple(partial(sample, part, one_NC) for part in RIVAL_PARTS),
        rows_per_second=fitted.rows_per_second,
        parameters=sum(p.numel() for p in flow.parameters()),
        seconds=fitted.seconds,
        notes={"made_steps": fitted.steps, "skipped": fitted.skipped},
    )


def train_histograms(job: Job, folder: Path) -> Trained:
    """Smoothed histograms of the cells; they need less than the budget."""
    clock, sides = Clock(), [(rows.events, rows.conditions) for rows in splits(folder)]
    density = SmoothedHistograms(*sides)
    took_s, rng = clock(), np.random.default_rng(0)
    one_NC = np.tile(point(), (SPEED_ROWS, 1))
    return Trained(
        log_prob=density.log_prob,
        log_prob_ways=(density.log_prob,),
        sample_ways=(lambda c_NC: density.sample(c_NC, rng),),
        sample_one_ways=(lambda: density.sample(one_NC, rng),),
        rows_per_second=len(sides[0][0]) / took_s,
        parameters=density.parameters,
        seconds=took_s,
        notes={},
    )


def speeds(trained: Trained, test: Batch) -> dict[str, float]:
    """Events per second of density and of drawing, under one condition and each under its own."""
    rng, one_NC = np.random.default_rng(1), np.tile(point(), (SPEED_ROWS, 1))
    x_NF = np.resize(test.events, (SPEED_ROWS, 2))
    limits = np.log([test.conditions.min(0), test.conditions.max(0)])
    own_NC = np.exp(rng.uniform(*limits, (SPEED_ROWS, 2))).astype(np.float32)
    calls = {
        "log_prob_one": [partial(way, x_NF, one_NC) for way in trained.log_prob_ways],
        "log_prob_many": [partial(way, x_NF, own_NC) for way in trained.log_prob_ways],
        "samples_one": list(trained.sample_one_ways),
        "samples_many": [partial(way, own_NC) for way in trained.sample_ways],
    }
    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, ways in calls.items():
            found[f"{name}_{threads}"] = SPEED_ROWS / min(least_s(way) for way in ways)
    return found


def least_s(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of the quickest of several calls. Infinite where it fails.

    nflows' spline refuses, by an assertion, some noise that rounding pushes out of its bins.
    """
    seconds = []
    try:
        for _ in range(REPEATS):
            start_s = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start_s)
    except AssertionError:
        return float("inf")
    return min(seconds)


def grid() -> tuple[Floats, Floats]:
    """The masses of the picture as events, `(N, 2)`, and conditions at `POINT`."""
    mass_0, mass_1 = np.meshgrid(GRID_0, GRID_1, indexing="ij")
    events_N2 = np.stack([mass_0.ravel(), mass_1.ravel()], axis=1).astype(np.float32)
    return events_N2, np.tile(point(), (len(events_N2), 1))


def point() -> Floats:
    """`POINT` as a row of conditions."""
    return np.array([list(POINT.values())], np.float32)


def splits(folder: Path) -> Iterator[Batch]:
    """The training and the validation split."""
    return (read_split(folder, split) for split in ("train", "val"))


def seen(rows: Batch) -> Batch:
    """The rows outside the held-out cells."""
    return rows.take(~np.any([in_cell(rows, cell) for cell in HELD_OUT], axis=0))


def in_cell(rows: Batch, cell: Mapping[str, float]) -> NDArray[np.bool_]:
    """Which rows are of this cell."""
    values_C = np.array(list(cell.values()), np.float32)
    matching: NDArray[np.bool_] = (rows.conditions == values_C).all(axis=1)
    return matching


def tensors(rows: Batch) -> rivals.Rows:
    events_NF, conditions_NC = (np.ascontiguousarray(part, np.float32) for part in rows.arrays[:2])
    return torch.from_numpy(events_NF), torch.from_numpy(conditions_NC)
