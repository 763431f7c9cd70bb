"""Weighted rows against the same rows drawn with replacement by weight: who is nearer the truth?

    python benchmarks/weights.py [--rows 20000] [--epochs 60] [--seeds 4] [--results FILE]

The law is that of `known_density`. Its rows are drawn by importance, in two ways:

    parts     all four parts of the law equally often in all cells, as an adaptive code does that
              hunts for rare mergers; a weight is the ratio of two densities
    lumps     from the law itself, with log-normal weights (sigma 1.5) that know nothing of the
              row, as those of a star-formation history are

A flow is fitted to the rows with their weights, and another to as many rows drawn from them with
replacement by weight, which is what is done where weights have no place. Both have the same
tuning, rows, epochs and seed, and so nearly the same processor time. Of each is told the excess
NLL on fresh rows of the law (nats per event: 0 is the truth) and what `hpo evaluate` would say of
its own test rows less what the flow scores on fresh ones, in nats and in its own standard errors.

Array names end in their axes:
    N rows
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import known_density
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from known_density import Floats, Shape

from data_prep.dataset import SAMPLE, Dataset
from data_prep.preparation.prepare import prepare
from models.bundle import batched
from models.config import FlowConfig, TrainConfig
from models.evaluation.nll import nll
from models.training.train import train

FRESH = 200_000
"""Rows of the law that both are scored on."""
KINDS = ("parts", "lumps")
Columns = dict[str, Floats]


def weighted(kind: str, rows: int, rng: np.random.Generator) -> Columns:
    """A table of so many rows, with a weight for each."""
    z_N, alpha_N, events_N2 = known_density.table(rows, int(rng.integers(2**31)))
    weights_N = np.exp(1.5 * rng.normal(size=rows))
    if kind == "parts":
        proposal = Shape(known_density.shape(z_N, alpha_N).top_N, *np.full((4, rows), 0.25))
        events_N2 = known_density.sample(z_N, alpha_N, rng, proposal)
        weights_N = np.exp(
            known_density.log_prob(events_N2, z_N, alpha_N)
            - known_density.log_prob(events_N2, z_N, alpha_N, proposal)
        )
    return {
        "Mass_0": events_N2[:, 0],
        "Mass_1": events_N2[:, 1],
        "Z": z_N,
        "alpha": alpha_N,
        "weight": weights_N,
    }


def resampled(table: Columns, rng: np.random.Generator) -> Columns:
    """As many rows, drawn with replacement by weight."""
    share_N = table["weight"] / table["weight"].sum()
    drawn_N = rng.choice(len(share_N), len(share_N), p=share_N)
    return {name: values[drawn_N] for name, values in table.items() if name != "weight"}


def fitted(table: Columns, epochs: int, seed: int, fresh: tuple[Floats, ...]) -> dict[str, float]:
    """How far a flow of this table is from the truth, and what it says of itself."""
    z_N, alpha_N, events_N2 = fresh
    with tempfile.TemporaryDirectory(prefix="weights-") as draft:
        folder, source = Path(draft) / "data", Path(draft) / "table.parquet"
        pq.write_table(pa.table(table), source)
        prepare([source], folder, weights="weight" if "weight" in table else None)
        start_s = time.process_time()
        flow, _ = train(folder, FlowConfig(), TrainConfig(epochs=epochs, seed=seed, device="cpu"))
        seconds = time.process_time() - start_s
        told = nll(flow, folder, "test")
        dataset = Dataset.read(folder)
    conditions_N2 = np.stack([z_N, alpha_N], axis=1).astype(np.float32)
    found_N = batched.log_prob(flow, events_N2.astype(np.float32), conditions_N2)
    excess_N = known_density.log_prob(events_N2.astype(np.float32), z_N, alpha_N) - found_N
    return {
        "excess": float(excess_N.mean()),
        "error": float(excess_N.std() / np.sqrt(len(excess_N))),
        "off": told.mean + float(found_N.mean()),
        "off_error": told.error,
        "effective": dataset.effective("train"),
        "rows": dataset.rows["train"],
        "seconds": seconds,
    }


def compare(kind: str, options: Any, seed: int) -> dict[str, dict[str, float]]:
    """Both ways on the rows of one seed."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    table, fresh = weighted(kind, options.rows, rng), known_density.table(FRESH, 10_000 + seed)
    tables = {"weights": table, "resampled": resampled(table, rng)}
    return {way: fitted(each, options.epochs, seed, fresh) for way, each in tables.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--results", type=Path, help="file that a JSON line a pair is added to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(SAMPLE, FlowConfig(), TrainConfig(epochs=1))  # the first call pays for what is loaded
    for kind in options.kinds:
        pairs = []
        for seed in range(options.seeds):
            pairs.append(compare(kind, options, seed))
            for way, found in pairs[-1].items():
                show(f"{kind}, seed {seed}, {way}", found)
            if options.results:
                with options.results.open("a") as file:
                    line = {"kind": kind, "seed": seed, "rows": options.rows}
                    file.write(json.dumps(line | pairs[-1]) + "\n")
        ratio_S = np.array([one["resampled"]["excess"] / one["weights"]["excess"] for one in pairs])
        spent = np.mean([one["resampled"]["seconds"] / one["weights"]["seconds"] for one in pairs])
        error = ratio_S.std(ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else np.nan
        print(
            f"{kind}: excess by resampling over that by weights {ratio_S.mean():.2f} +- "
            f"{error:.2f}, processor time {spent:.2f}\n"
        )


def show(name: str, found: dict[str, float]) -> None:
    """One line."""
    print(
        f"{name:30}excess {found['excess']:.4f} +- {found['error']:.4f}   told too high by "
        f"{found['off']:+.4f} +- {found['off_error']:.4f}   {found['effective']:,.0f} effective "
        f"of {found['rows']:,}   {found['seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
