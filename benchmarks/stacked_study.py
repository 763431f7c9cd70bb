"""A whole study whose workers train one trial at a time, and several: how long, and what it finds.

    python benchmarks/stacked_study.py [--stacks 1 4] [--trials 48] [--seeds 3] [--epochs 20]
                                       [--study bbh] [--data sample]

Each is an `hpo launch` with two workers in a folder of its own; numbers of trials at a time and
seeds of the study alternate. Told are seconds by the wall clock, from the command to its end, and
of the processor; the epochs that all trials were trained for; and the best trial's NLL on the
validation and on the test rows. Below are the means over seeds of each ratio and difference to the
first number of trials at a time, with their standard errors. Let nothing else run.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hpo.records.folder import read_all
from hpo.records.record import RunRecord

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stacks", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--study", default="bbh")
    parser.add_argument("--data", default="sample")
    options = parser.parse_args()
    found: dict[int, list[list[float]]] = {stack: [] for stack in options.stacks}
    print(f"{'seed':>4} {'at a time':>9} {'s':>6} {'of CPU':>7} {'epochs':>6}  val NLL  test NLL")
    for seed in range(options.seeds):
        for stack, rows in found.items():
            rows.append(launched(options, stack, seed))
            print(f"{seed:4} {stack:9} " + line(rows[-1]), flush=True)
    first, *others = options.stacks
    for stack in others:
        one_SV, other_SV = np.array(found[first]), np.array(found[stack])
        ratio_SV, more_SV = one_SV[:, :2] / other_SV[:, :2], (other_SV - one_SV)[:, 3:]
        words = [f"{mean:.2f} +- {error:.2f}" for mean, error in means(ratio_SV)]
        nats = [f"{mean:+.4f} +- {error:.4f}" for mean, error in means(more_SV)]
        print(
            f"{stack} at a time: {words[0]} times as fast, by the processor's seconds {words[1]};"
        )
        print(f"    NLL of the best trial less that of {first}: {nats[0]} val, {nats[1]} test")


def launched(options: argparse.Namespace, stack: int, seed: int) -> list[float]:
    """Run a study; seconds, seconds of the processor, epochs, and the best trial's two NLLs."""
    words = ["--trials", options.trials, "--stack", stack, "--workers", 2]
    chosen = {"study.seed": seed, "training.epochs": options.epochs, "data.path": options.data}
    lines = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    with tempfile.TemporaryDirectory(prefix="stacked-study-") as place:
        start_s, worked_s = time.perf_counter(), worked()
        subprocess.run(
            [sys.executable, "-m", "hpo.cli", "launch", options.study, *map(str, words), *lines],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        spent_s, worked_s = time.perf_counter() - start_s, worked() - worked_s
        records = [one for _, one in read_all(Path(place, "runs")) if isinstance(one, RunRecord)]
    epochs = sum(len(record.epochs) for record in records)
    best = min((record for record in records if record.test), key=lambda one: one.best_val_nll)
    return [spent_s, worked_s, epochs, best.best_val_nll, best.test.nll]


def worked() -> float:
    """Seconds that the processor worked for programs that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def means(values_SV: np.ndarray) -> list[tuple[float, float]]:
    """Mean and standard error over seeds of each value."""
    error_V = values_SV.std(0, ddof=1) / len(values_SV) ** 0.5
    return list(zip(values_SV.mean(0), error_V, strict=True))


def line(row: list[float]) -> str:
    spent_s, worked_s, epochs, val_nll, test_nll = row
    return f"{spent_s:6.0f} {worked_s:7.0f} {epochs:6.0f}  {val_nll:.4f}  {test_nll:.4f}"


if __name__ == "__main__":
    main()
