"""A whole study whose workers train one trial at a time, and several: how long, and what it finds.

    python benchmarks/stacked_study.py [--stacks 1 4] [--trials 48 48] [--seeds 3] [--epochs 20]
                                       [--study bbh] [--data sample]

Each is an `hpo launch` with two workers in a folder of its own: of so many trials, so many of them
at a time. They and seeds of the study alternate. Told are seconds from the command to its end, the
epochs that all trials were trained for, and the best trial's NLL on the validation and on the test
rows. Below are the means over seeds of ratios and differences to the first of them, with their
standard errors. Let nothing else run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpo.records.folder import read_all
from hpo.records.record import RunRecord

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stacks", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--trials", nargs="+", type=int, default=[48, 48])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--study", default="bbh")
    parser.add_argument("--data", default="sample")
    options = parser.parse_args()
    found: dict[tuple[int, int], list[list[float]]] = {}
    print(f"{'seed':>4} {'at a time':>9} {'trials':>6} {'s':>6} {'epochs':>6}  val NLL  test NLL")
    for seed in range(options.seeds):
        for stack, trials in zip(options.stacks, options.trials, strict=True):
            spent_s, epochs, *nlls = launched(options, stack, trials, seed)
            found.setdefault((stack, trials), []).append([spent_s, epochs, *nlls])
            told = f"{seed:4} {stack:9} {trials:6} {spent_s:6.0f} {epochs:6.0f}"
            print(told + "".join(f"  {nll:.4f}" for nll in nlls), flush=True)
    first_SV, *others = map(np.array, found.values())
    for (stack, trials), other_SV in zip([*found][1:], others, strict=True):
        times = mean(first_SV[:, 0] / other_SV[:, 0], ".2f")
        val, test = (mean(other_SV[:, k] - first_SV[:, k], "+.4f") for k in (2, 3))
        print(f"{trials} trials, {stack} at a time: {times} times as fast as the first;")
        print(f"    NLL of the best trial less that of the first's: {val} val, {test} test")


def launched(options: argparse.Namespace, stack: int, trials: int, seed: int) -> list[float]:
    """Run a study; seconds, epochs, and the best trial's two NLLs."""
    words = ["--trials", trials, "--stack", stack, "--workers", 2]
    chosen = {"study.seed": seed, "training.epochs": options.epochs, "data.path": options.data}
    lines = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    with tempfile.TemporaryDirectory(prefix="stacked-study-") as place:
        start_s = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "hpo.cli", "launch", options.study, *map(str, words), *lines],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        spent_s = time.perf_counter() - start_s
        records = [one for _, one in read_all(Path(place, "runs")) if isinstance(one, RunRecord)]
    epochs = sum(len(record.epochs) for record in records)
    best = min((record for record in records if record.test), key=lambda one: one.best_val_nll)
    return [spent_s, epochs, best.best_val_nll, best.test.nll]


def mean(values_S: NDArray[np.float64], style: str) -> str:
    """With its standard error over seeds."""
    error = values_S.std(ddof=1) / len(values_S) ** 0.5
    return f"{values_S.mean():{style}} +- {error:{style.strip('+')}}"


if __name__ == "__main__":
    main()
