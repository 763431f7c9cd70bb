"""How far a fitted flow stays from known densities on all that a column can be.

    python benchmarks/known_supports.py [--parts bounds] [--rows 100000] [--seconds 120]
                                        [--base mixture] [--seeds 1] [--results FILE]

A part is one kind of column. It gives arms: tables of one law, told to the flow in different ways,
or made equally hard without what the part is about. Every arm gets the same seconds of processor
time. Of each is told:

    excess    true minus fitted log density of the test rows, nats, and its standard error
    pit       largest distance of a column's ranks from uniform, over that of a perfect flow
    level     likewise of the contents of regions of highest density
    c2st      AUC of boosted trees that tell draws from test rows: 0.5 is an exact emulator
    between   excess at conditions that no row of the table has, where the part has such
    outside   fraction of a million draws that lie where the density is zero

Array names end in their axes:
    N rows    F event columns    C conditions
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from known_conditions import categories, scattered
from known_laws import EVALUATED, Arm, atoms, bounds, write

from data_prep.dataset import Dataset
from data_prep.stream import Batch, read_split
from models.bundle import batched
from models.config import FlowConfig, TrainConfig
from models.evaluation import report
from models.training.train import train

DRAWS = 1_000_000
PARTS: Mapping[str, Callable[[int, np.random.Generator], Iterator[Arm]]] = {
    "bounds": bounds,
    "atoms": atoms,
    "scattered": scattered,
    "categories": categories,
}
"""A function a part, which gives arms of so many rows."""


BASES: Mapping[str, tuple[FlowConfig, TrainConfig]] = {
    "normal": (
        FlowConfig(base="normal", blocks=2),
        TrainConfig(learning_rate=1e-2, jitter=0.7, patience=0, device="cpu"),
    ),
    "mixture": (
        FlowConfig(base="mixture", blocks=0),
        TrainConfig(learning_rate=2e-2, jitter=0.0, patience=0, device="cpu"),
    ),
}
"""What is fitted, and how."""


def fit(folder: Path, seconds: float, seed: int, base: str) -> tuple[Any, dict[str, float]]:
    """A flow by so many seconds of processor time, and what it took."""

    def timed(epochs: int) -> tuple[Any, float]:
        start_s = time.process_time()
        flow, _ = train(folder, BASES[base][0], replace(BASES[base][1], epochs=epochs, seed=seed))
        return flow, time.process_time() - start_s

    timed(1)  # the first call pays for what is loaded
    (_, one_s), (_, three_s) = timed(1), timed(3)
    epoch_s = (three_s - one_s) / 2
    epochs = max(2, round((seconds - one_s) / epoch_s))
    flow, took_s = timed(epochs)
    return flow, {"epochs": epochs, "took_s": took_s}


def measure(arm: Arm, folder: Path, flow: Any, seed: int) -> dict[str, float]:
    """What the head of this file lists."""
    dataset, test = Dataset.read(folder), read_split(folder, "test")
    found_N = batched.log_prob(flow, test.events, test.conditions)
    excess_N = arm.log_prob(test) - found_N
    part, other = (rows.take(slice(EVALUATED)) for rows in (test, read_split(folder, "val")))
    told = report.evaluation(flow, dataset, part, "test", seed=seed, other=other).found
    rng = np.random.default_rng(seed)
    conditions_NC = rng.choice(test.conditions, DRAWS)
    pit = {name: each["ks"] / each["ks_floor"] for name, each in told["calibration"]["pit"].items()}
    return {
        "excess": float(excess_N.mean()),
        "error": float(excess_N.std() / np.sqrt(len(excess_N))),
        "pit": max(pit.values()),
        "level": told["calibration"]["level_ks"] / told["calibration"]["level_ks_floor"],
        "c2st": told["two_sample"]["auc"],
        "c2st_error": told["two_sample"]["error"],
        "outside": float(arm.outside(batched.draw(flow, conditions_NC, rng)).mean()),
        "pit_of": pit,
        **({"between": _excess(arm, flow, arm.between)} if arm.between else {}),
    }


def _excess(arm: Arm, flow: Any, rows: Batch) -> float:
    found_N = batched.log_prob(flow, rows.events, rows.conditions)
    return float((arm.log_prob(rows) - found_N).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=120, help="processor time of a training")
    parser.add_argument("--base", choices=sorted(BASES), default=FlowConfig().base)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--results", type=Path, help="file that a JSON line an arm is added to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.parts.split(","):
        print(f"{name:28}{'excess':>18}{'pit':>6}{'level':>6}{'c2st':>16}{'outside':>9}{'s':>5}")
        for seed in range(options.seeds):
            for arm in PARTS[name](options.rows, np.random.default_rng(seed)):
                with tempfile.TemporaryDirectory(prefix="known-") as draft:
                    folder = Path(draft) / "data"
                    write(arm, folder)
                    flow, took = fit(folder, options.seconds, seed, options.base)
                    found = {**took, **measure(arm, folder, flow, seed)}
                show(arm.name, found)
                if options.results:
                    line = {"part": name, "arm": arm.name, "seed": seed, "rows": options.rows}
                    with options.results.open("a") as file:
                        file.write(json.dumps(line | found) + "\n")


def show(name: str, found: Mapping[str, float]) -> None:
    """One line."""
    print(
        f"{name:28}{found['excess']:9.4f} +-{found['error']:.4f}"
        f"{found['pit']:6.2f}{found['level']:6.2f}"
        f"{found['c2st']:8.4f} +-{found['c2st_error']:.4f}"
        f"{found['outside']:9.2g}{found['took_s']:5.0f}"
        + (f"  between {found['between']:.4f}" if "between" in found else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
