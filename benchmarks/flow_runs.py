"""One training of `benchmarks/flow.py`, and everything that is measured of it.

A training is named by its `Job`. Its results are one JSON object and, beside the results file, an
`.npz` of long arrays: the log density of every test row and, where the density is known, the log
density on a grid of masses for the picture.

Tensor and array names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import known_density
import numpy as np
import rivals
import torch
from numpy.typing import NDArray

from data_prep.dataset import Dataset
from data_prep.stream import Batch, read_split
from models import Emulator
from models.bundle import batched
from models.config import FlowConfig, TrainConfig
from models.evaluation import distances
from models.training.train import train

Floats = NDArray[np.floating]

OURS = "ours"
HALF = "ours, half the time"
"""As ours, with half of the budget, in which its learning rate comes down."""
FLOWS = (OURS, *rivals.RIVALS)
MEASURES = 2
"""Raised when what is measured changes, so that old results are not taken for new ones."""
OUR_TRAINING: Mapping[str, Mapping[str, Any]] = {"cosmic": {}, "known": {}}
"""Options other than the default on each data set."""

HELD_OUT = (
    {"Z": 0.0002, "alpha": 3.0},
    {"Z": 0.0006, "alpha": 1.0},
    {"Z": 0.001, "alpha": 3.0},
    {"Z": 0.002, "alpha": 1.0},
)
"""Cells of the COSMIC table with neighbours on all sides."""
POINT = {"Z": 0.0014, "alpha": 2.2}
"""Where events are drawn for speed and density is shown: between the cells of both grids."""
GRID_0, GRID_1 = np.linspace(4, 44, 241), np.linspace(4, 44, 241)
"""Masses of the picture, Msun."""

SPEED_TRAINING_S = 5.0
SPEED_ROWS, REPEATS = 200_000, 5
SAMPLES = {"few": 100_000, "many": 1_000_000}
"""Drawn for speed from a rival, and from ours."""
OFF_GRID_POINTS, OFF_GRID_EVENTS = 20, 5_000
CELL_ROWS, CELL_SAMPLES, HALVINGS = 500, 100_000, 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training."""

    flow: str
    data: str
    seed: int
    seconds: float
    """Time budget of the training."""
    threads: int
    held_out: bool = False
    """Whether it never sees the cells in `HELD_OUT`."""
    speed: bool = False
    """Whether a short training is measured for its speed of use, and for nothing else."""

    @property
    def ours(self) -> bool:
        return self.flow in (OURS, HALF)

    @property
    def budget_s(self) -> float:
        if self.speed:
            return SPEED_TRAINING_S
        return self.seconds / 2 if self.flow == HALF else self.seconds

    def training(self) -> TrainConfig:
        """How ours is trained."""
        return TrainConfig(
            max_minutes=self.budget_s / 60,
            seed=self.seed,
            device="cpu",
            **OUR_TRAINING[self.data],
        )

    def settings(self, folder: Path) -> dict[str, Any]:
        """Everything but the machine on which the result depends; for ours the code, too."""
        settings: dict[str, Any] = {**asdict(self), "measures": MEASURES}
        settings["dataset"] = Dataset.read(folder).fingerprint
        if self.held_out:
            settings["cells"] = list(HELD_OUT)
        if self.ours:
            configs = {"shape": asdict(FlowConfig()), "recipe": asdict(self.training())}
            return settings | configs | {"code": code()}
        return settings | rivals.settings(self.flow, self.data)

    def digest(self, folder: Path) -> str:
        """Names the job among all that were ever done."""
        text = json.dumps(self.settings(folder), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A fitted flow, of whatever make, in physical units."""

    log_prob: Callable[[Floats, Floats], Floats]
    """Of events, `(N, F)`, under conditions, `(N, C)`."""
    log_prob_ways: Mapping[str, Callable[[Floats, Floats], Floats]]
    """Several ways to the same log density; the fastest counts."""
    sample_ways: Mapping[str, Callable[[], Any]]
    """Draw `samples` events at `POINT`."""
    samples: int
    curve: list[tuple[float, float]]
    """Seconds and validation NLL."""
    rows_per_second: float
    parameters: int
    seconds: float
    """Duration of the training."""
    notes: Mapping[str, Any]
    flow: Any = None
    """Ours only."""


def run(job: Job, folder: Path, arrays: Path) -> dict[str, Any]:
    """Train and measure; writes `arrays`, returns the line of the results file."""
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(job.seed)
    trained = (train_ours if job.ours else train_rival)(job, folder)
    torch.set_num_threads(job.threads)

    test, settings = read_split(folder, "test"), job.settings(folder)
    log_prob_N = trained.log_prob(test.events, test.conditions)
    kept = {"log_prob_N": log_prob_N.astype(np.float32)}
    result = {
        "digest": job.digest(folder),
        **settings,
        "commit": commit(),
        "took_s": trained.seconds,
        "curve": trained.curve,
        "val_nll": min(nll for _, nll in trained.curve),
        "test_nll": float(-log_prob_N.mean()),
        "rows_per_s": trained.rows_per_second,
        "parameters": trained.parameters,
        **trained.notes,
    }
    if job.speed:
        result |= speeds(trained, test)
    elif not job.held_out and job.flow != HALF:
        if job.data == "known":
            result |= against_truth(trained, test, log_prob_N)
            kept["grid_01"] = on_grid(trained)
        elif job.ours:
            result |= against_cells(trained, test, job.seed)
    arrays.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arrays, **kept)
    return result


def train_ours(job: Job, folder: Path) -> Trained:
    """Ours as anybody calls it."""
    start_s = time.perf_counter()
    flow, fit = train(
        folder, FlowConfig(), job.training(), hold_out=HELD_OUT if job.held_out else ()
    )
    took_s, emulator = time.perf_counter() - start_s, Emulator(flow)
    at_s = np.cumsum([epoch.seconds for epoch in fit.history])
    log_prob = partial(batched.log_prob, flow)
    return Trained(
        log_prob=log_prob,
        log_prob_ways={"": log_prob},
        sample_ways={"": lambda: emulator.sample(SAMPLES["many"], seed=0, **POINT)},
        samples=SAMPLES["many"],
        curve=[(float(s), epoch.val_nll) for s, epoch in zip(at_s, fit.history, strict=True)],
        rows_per_second=statistics.median(epoch.samples_per_second for epoch in fit.history),
        parameters=batched.cost(flow).parameters,
        seconds=took_s,
        notes={"evaluations": len(fit.history), "stopped": fit.stopped},
        flow=flow,
    )


def train_rival(job: Job, folder: Path) -> Trained:
    """A rival by the loop of `rivals`."""
    sides = [read_split(folder, split) for split in ("train", "val")]
    train_rows, val_rows = (tensors(seen(side) if job.held_out else side) for side in sides)
    flow = rivals.build(job.flow, train_rows)
    recipe = rivals.recipe(job.flow, job.data)
    fit = rivals.fit(flow, recipe, train_rows, val_rows, seconds=job.budget_s, threads=job.threads)

    def log_prob(threads: int, part: int, events_NF: Floats, conditions_NC: Floats) -> Floats:
        torch.set_num_threads(threads)
        rows = tensors(Batch(events_NF, conditions_NC))
        return rivals.log_prob(flow, rows, part).double().numpy()

    def sample(threads: int, part: int) -> Floats:
        torch.set_num_threads(threads)
        point_C = torch.tensor(list(POINT.values()))
        return rivals.sample(flow, SAMPLES["few"], point_C, part).numpy()

    ways = [(threads, part) for threads in {1, job.threads} for part in (4096, 65_536)]
    return Trained(
        log_prob=partial(log_prob, fit.threads, rivals.EVALUATION_ROWS),
        log_prob_ways={f"{t} threads, {p} rows": partial(log_prob, t, p) for t, p in ways},
        sample_ways={f"{t} threads, {p} rows": partial(sample, t, p) for t, p in ways},
        samples=SAMPLES["few"],
        curve=fit.curve,
        rows_per_second=fit.rows_per_second,
        parameters=sum(p.numel() for p in flow.parameters()),
        seconds=fit.curve[-1][0],
        notes={"training_threads": fit.threads, "skipped": fit.skipped},
    )


def speeds(trained: Trained, test: Batch) -> dict[str, Any]:
    """Events per second of density, under mixed conditions, and of drawing, at one."""
    x_NF, c_NC = (np.resize(part, (SPEED_ROWS, part.shape[1])) for part in test)
    density = {
        name: SPEED_ROWS / median_s(partial(way, x_NF, c_NC))
        for name, way in trained.log_prob_ways.items()
    }
    drawing = {name: trained.samples / median_s(way) for name, way in trained.sample_ways.items()}
    return {"log_prob_per_s": max(density.values()), "samples_per_s": max(drawing.values())}


def median_s(call: Callable[[], Any]) -> float:
    """Seconds of a call, the first left out. Infinite where it fails.

    nflows' spline refuses, by an assertion, some noise that rounding pushes out of its bins.
    """
    seconds = []
    try:
        for _ in range(REPEATS + 1):
            start_s = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start_s)
    except AssertionError:
        return float("inf")
    return statistics.median(seconds[1:])


def against_truth(trained: Trained, test: Batch, log_prob_N: Floats) -> dict[str, float]:
    """Excess NLL over the truth, on the test rows and at points off the grid."""
    true_N = known_density.log_prob(test.events, *test.conditions.T)
    rng = np.random.default_rng(20)
    points = known_density.off_grid(OFF_GRID_POINTS, rng)
    z_N, alpha_N = (np.repeat(values, OFF_GRID_EVENTS) for values in points)
    events_NF = known_density.sample(z_N, alpha_N, rng)
    found_N = trained.log_prob(
        events_NF.astype(np.float32), np.stack([z_N, alpha_N], axis=1).astype(np.float32)
    )
    excess_N = known_density.log_prob(events_NF, z_N, alpha_N) - found_N
    return {
        "true_nll": float(-true_N.mean()),
        "excess": float((true_N - log_prob_N).mean()),
        "off_grid_excess": float(excess_N.mean()),
    }


def on_grid(trained: Trained) -> Floats:
    """Log density over the masses of the picture at `POINT`."""
    mass_0, mass_1 = np.meshgrid(GRID_0, GRID_1, indexing="ij")
    events_NF = np.stack([mass_0.ravel(), mass_1.ravel()], axis=1).astype(np.float32)
    conditions_NC = np.tile(np.array([list(POINT.values())], np.float32), (len(events_NF), 1))
    return trained.log_prob(events_NF, conditions_NC).reshape(mass_0.shape).astype(np.float32)


def against_cells(trained: Trained, test: Batch, seed: int) -> dict[str, float]:
    """Distance between drawn and test events, cell by cell.

    The distance of a cell is in units of its floor, half the distance between two halves of its
    rows: all rows differ from endless ones by as much. The floor is a median over halvings, since
    it scatters.
    """
    rng, ratios = np.random.default_rng(seed), []
    cells_KC, cell_N, counts_K = np.unique(
        test.conditions, axis=0, return_inverse=True, return_counts=True
    )
    for number in np.flatnonzero(counts_K >= CELL_ROWS):
        events_NF = test.events[cell_N.ravel() == number]
        drawn_NF = drawn(trained, np.repeat(cells_KC[number][None], CELL_SAMPLES, axis=0), rng)
        halves = [np.array_split(rng.permutation(events_NF), 2) for _ in range(HALVINGS)]
        for f in range(events_NF.shape[1]):
            distance = distances.ks_distance(drawn_NF[:, f], events_NF[:, f])
            floors = [distances.ks_distance(a[:, f], b[:, f]) / 2 for a, b in halves]
            ratios.append(distance / statistics.median(floors))
    return {"ks_over_floor": float(np.median(ratios))}


def drawn(trained: Trained, conditions_NC: Floats, rng: np.random.Generator) -> Floats:
    """One event of ours for each condition."""
    noise_NF = rng.standard_normal((len(conditions_NC), 2), np.float32)
    return batched.from_noise(trained.flow, noise_NF, conditions_NC)


def seen(rows: Batch) -> Batch:
    """The rows outside the held-out cells."""
    keep_N = ~np.any([in_cell(rows, cell) for cell in HELD_OUT], axis=0)
    return rows.take(keep_N)


def in_cell(rows: Batch, cell: Mapping[str, float]) -> NDArray[np.bool_]:
    """Which rows are of this cell."""
    values_C = np.array(list(cell.values()), np.float32)
    matching: NDArray[np.bool_] = (rows.conditions == values_C).all(axis=1)
    return matching


def tensors(rows: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    events_NF, conditions_NC = (np.ascontiguousarray(part, np.float32) for part in rows)
    return torch.from_numpy(events_NF), torch.from_numpy(conditions_NC)


def code() -> str:
    """Digest of the sources that decide what ours does, committed or not."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted((*root.glob("models/**/*.py"), *root.glob("data_prep/**/*.py"))):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str:
    """Of the working tree, with a + where files differ from it; empty outside git."""
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    folder = Path(__file__).resolve().parent
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def endure(folder: Path, epochs: int, threads: int) -> float:
    """Ours, `epochs` long at a learning rate of 1e-2; its last validation NLL, or the error."""
    torch.set_num_threads(threads)
    config = TrainConfig(epochs=epochs, learning_rate=1e-2, patience=0, device="cpu")
    _, fit = train(folder, FlowConfig(), config)
    return fit.history[-1].val_nll
