"""Where the time of one training epoch goes, at the default flow on the sample.

    python benchmarks/profile_epoch.py [DATASET] [--batch 1024] [--threads 1]

The table gives shares of the wall clock: of torch's operations by purpose, of evaluation and the
optimizer, and the rest, which is Python, autograd and the calling of operations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from data_prep.dataset import SAMPLE
from models.config import FlowConfig, TrainConfig
from models.training import loss, optimizer
from models.training.train import train

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "matmul"),
    "activations": ("relu", "clamp", "silu", "gelu", "threshold", "sigmoid", "tanh"),
    "exponentials, logarithms": ("exp", "log", "softplus"),
    "looking up bins": ("searchsorted", "index", "gather", "scatter", "le", "lt", "take"),
    "sorting conditions": ("sort", "unique"),
}
"""Beginnings of the names of operations, by purpose."""
STEPS = {"evaluation": (loss.BatchLoss, "nll"), "optimizer": (optimizer.Optimizer, "step")}
"""Methods that are timed as a whole."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--batch", type=int, default=TrainConfig().batch_size)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    config = TrainConfig(epochs=3, batch_size=options.batch, device="cpu")
    _, fit = train(options.dataset, FlowConfig(), config)
    seconds = min(epoch.seconds for epoch in fit.history[1:])
    with marked(), profile(activities=[ProfilerActivity.CPU]) as found:
        start_s = time.perf_counter()
        train(options.dataset, FlowConfig(), config)
        profiled_s = time.perf_counter() - start_s
    report(found, profiled_s, seconds, options)


@contextmanager
def marked() -> Iterator[None]:
    """The methods of `STEPS` appear in the profile."""
    before = {name: getattr(owner, method) for name, (owner, method) in STEPS.items()}

    def timed(name: str):
        def call(*args, **options):
            with record_function(name):
                return before[name](*args, **options)

        return call

    for name, (owner, method) in STEPS.items():
        setattr(owner, method, timed(name))
    try:
        yield
    finally:
        for name, (owner, method) in STEPS.items():
            setattr(owner, method, before[name])


def report(found: profile, profiled_s: float, seconds: float, options: argparse.Namespace) -> None:
    """Shares of the profiled wall clock, beside the seconds of an epoch without the profiler."""
    events = found.key_averages()
    totals = {name: 0.0 for name in (*KINDS, "other operations")}
    for event in events:
        if event.key.startswith("aten::"):
            totals[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    print(f"an epoch takes {seconds:.2f} s, batches of {options.batch}, threads: {options.threads}")
    for name, spent in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"{name:28}{spent / profiled_s:6.0%}")
    print(f"{'Python, autograd, calls':28}{1 - sum(totals.values()) / profiled_s:6.0%}")
    for name in STEPS:
        inside = sum(e.cpu_time_total for e in events if e.key == name) / 1e6
        print(f"of all that, {name:15}{inside / profiled_s:6.0%}")


def kind_of(key: str) -> str:
    """The purpose of an operation."""
    name = key.removeprefix("aten::").strip("_")
    for kind, starts in KINDS.items():
        if any(name == start or name.startswith(f"{start}_") for start in starts):
            return kind
    return "other operations"


if __name__ == "__main__":
    main()
