"""Random search over the shape and the training of a rival, on one data set.

20 random configurations are trained for 2/15 of the budget each (20 s of 150), the best four of
them again for 2/5 (60 s). The best of these by validation NLL is tried once more with splines that
reach further, since a few rows far out can cost more than all others; the best is the rival. Ours
has no tuning to a data set. A finished trial is a line of the results file and is not repeated.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import rivals
import torch
from flow_results import Line, Results
from rival_training import Recipe, fit
from rivals import Rows

TRIALS, SHARE = 20, 2 / 15
FINALISTS, FINAL_SHARE = 4, 2 / 5
"""How many, and how much of the budget of a training each has."""
WIDER = (10.0, 20.0)
"""Standard deviations that splines reach to, beside 5."""
RATES = (5e-4, 2e-2)
DECAYS = (1e-4, 1e-1)

Config = dict[str, Any]
"""`shape` of a rival and options of its `recipe`."""
Read = Callable[[], tuple[Rows, Rows]]
"""Reads the training and the validation split."""


def drawn(flow: str, number: int) -> Config:
    """The configuration of a trial: the same for every data set."""
    rng = np.random.default_rng([number, rivals.TUNED.index(flow)])
    shape: Config = {
        "layers": int(rng.choice([1, 2, 3, 4])),
        "hidden": int(rng.choice([32, 64, 128])),
        "depth": int(rng.choice([1, 2, 3])),
        "bins": int(rng.choice([8, 16, 32])),
    }
    if flow == rivals.MAF:
        del shape["bins"]
    recipe = {
        "learning_rate": _log_uniform(RATES, rng),
        "batch": int(rng.choice([512, 1024, 2048, 4096])),
        # Half of the trials have none.
        "weight_decay": _log_uniform(DECAYS, rng) * int(rng.integers(2)),
    }
    return {"shape": shape, "recipe": recipe}


def tuned(
    flow: str, data: str, seconds: float, results: Results, read: Read | None = None
) -> Config | None:
    """The best configuration of a rival on a data set; trials that are not done are done.

    Without `read` nothing is trained, and there is none before all trials are done.
    """
    search = _Search(flow, data, results, read)
    first = [search.line(number, seconds * SHARE) for number in range(TRIALS)]
    best = [line["number"] for line in _sorted(first)[:FINALISTS]]
    again = [search.line(number, seconds * FINAL_SHARE) for number in best]
    if None in first or None in again:
        return None
    if flow != rivals.MAF:
        winner = _sorted(again)[0]["number"]
        wider = [search.line(winner, seconds * FINAL_SHARE, bound=bound) for bound in WIDER]
        if None in wider:
            return None
        again += wider
    best_line = _sorted(again)[0]
    return {"shape": best_line["shape"], "recipe": best_line["recipe"]}


class _Search:
    """The trials of a rival on a data set, from the results file or done now."""

    def __init__(self, flow: str, data: str, results: Results, read: Read | None) -> None:
        self.flow, self.data, self.results, self.read = flow, data, results, read
        self.rows: tuple[Rows, Rows] | None = None
        self.done = {line["trial"]: line for line in results.lines() if "trial" in line}

    def line(self, number: int, seconds: float, **shape: float) -> Line | None:
        """The result of a trial, with more to its shape than was drawn."""
        config = drawn(self.flow, number)
        config["shape"] |= shape
        told: Config = {
            "flow": self.flow,
            "data": self.data,
            "number": number,
            "seconds": seconds,
            "dataset": self.results.fingerprint(self.data),
            **config,
        }
        text = json.dumps(told, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        if name in self.done or self.read is None:
            return self.done.get(name)
        self.rows = self.rows or self.read()
        line = {"trial": name, **told, **trial(self.flow, config, *self.rows, seconds)}
        self.results.add(line)
        print(
            f"tuning {self.flow} on {self.data}, trial {number}, {seconds:g} s: "
            f"NLL {line['val_nll']:.4f} by {config}",
            flush=True,
        )
        return line


def trial(flow: str, config: Config, train: Rows, val: Rows, seconds: float) -> Config:
    """Train a configuration; its validation NLL."""
    torch.manual_seed(0)
    model = rivals.build(flow, config["shape"], train)
    recipe = Recipe(**config["recipe"])
    fitted = fit(model, recipe, train, val, seconds=seconds, evaluations=1)
    found = fitted.curve[-1][1]
    return {
        "val_nll": found if math.isfinite(found) else 1e9,
        "rows_per_s": fitted.rows_per_second,
        "steps": fitted.steps,
        "skipped": fitted.skipped,
    }


def _sorted(lines: Sequence[Line | None]) -> list[Line]:
    return sorted((line for line in lines if line), key=lambda line: float(line["val_nll"]))


def _log_uniform(limits: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))
