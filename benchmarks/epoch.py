"""One training epoch at the thesis's architecture: the thesis's loop against ours, side by side.

    python benchmarks/epoch.py [DATASET]

The thesis's loop is written anew from its description: raw masses and conditions, a DataLoader
over a map-style dataset with per-row collation, blocks of a masked network, a batch-norm flow layer
and a reversal, orthogonal weights, Adam with L2 decay; after every batch one more forward pass of
the batch (for the batch-norm statistics) and the NLL of the whole validation split in training
mode. Our side is `models.training.train.train` as anybody calls it. Both run 10 blocks of 128
units, tanh, batches of 40,000. Sides alternate, so that a busy machine slows both, each time in a
fresh process: threads keep settings of the one that started them, such as what becomes of
denormals.

Tensor names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from thesis import BATCH, BLOCKS, HIDDEN, LEARNING_RATE, WEIGHT_DECAY, ThesisFlow
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from data_prep.dataset import SAMPLE
from data_prep.stream import read_split
from models.config import FlowConfig, TrainConfig
from models.training.train import train

THREADS = 2
LOADERS = 4
"""`num_workers` in the thesis's own runs."""
AIM = 20
T = TypeVar("T")
FLOW = FlowConfig(
    kind="affine",
    coordinates="log",
    conditioner="masked",
    blocks=BLOCKS,
    hidden=HIDDEN,
    depth=2,
    activation="tanh",
)


class ThesisLoop:
    """The thesis's training, an epoch at a time."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        rows, validation = (
            tuple(map(torch.from_numpy, read_split(folder, split).arrays))
            for split in ("train", "val")
        )
        self.validation = validation
        warnings.filterwarnings("ignore", "This DataLoader will create")
        self.loader = DataLoader(
            TensorDataset(*rows), batch_size=BATCH, shuffle=False, num_workers=LOADERS
        )
        self.flow = ThesisFlow(rows[0].shape[1], rows[1].shape[1]).train()
        self.adam = torch.optim.Adam(
            self.flow.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )

    def epoch(self) -> float:
        """Seconds of one epoch."""
        start_s = time.perf_counter()
        for x_NF, c_NC in self.loader:
            self.step(x_NF, c_NC)
            with torch.no_grad():
                self.flow.log_prob(x_NF, c_NC)
                self.flow.log_prob(*self.validation).mean().item()
        return time.perf_counter() - start_s

    def step(self, x_NF: Tensor, c_NC: Tensor) -> None:
        self.adam.zero_grad()
        torch.autograd.backward(-self.flow.log_prob(x_NF, c_NC).mean())
        self.adam.step()


def our_epoch(folder: Path) -> float:
    """Median seconds of an epoch, evaluation included; the first, which decodes, is left out."""
    torch.set_num_threads(THREADS)
    _, fit = train(folder, FLOW, TrainConfig(epochs=7, batch_size=BATCH, device="cpu"))
    return statistics.median(epoch.seconds for epoch in fit.history[1:])


def thesis_epoch(folder: Path) -> tuple[float, float]:
    """Seconds of an epoch of the thesis's loop, and of its optimisation steps alone."""
    torch.set_num_threads(THREADS)
    loop = ThesisLoop(folder)
    bare_step_s(loop, folder)
    return loop.epoch(), bare_step_s(loop, folder)


def fresh(function: Callable[..., T], *arguments: Any) -> T:
    """The function's result from a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    rows = len(read_split(options.dataset, "train").events)
    theirs, bare, ours = [], [], []
    for number in range(options.rounds):
        ours.append(fresh(our_epoch, options.dataset))
        for times, seconds in zip(
            (theirs, bare), fresh(thesis_epoch, options.dataset), strict=True
        ):
            times.append(seconds)
        print(f"round {number + 1}: thesis {theirs[-1]:.2f} s, ours {ours[-1]:.2f} s", flush=True)
    report(rows, *map(statistics.median, (theirs, bare, ours)))


def bare_step_s(loop: ThesisLoop, folder: Path) -> float:
    """Seconds an epoch of the thesis's network would take with nothing but optimisation steps."""
    x_NF, c_NC = (torch.from_numpy(a[:BATCH]) for a in read_split(folder, "train").arrays)
    start_s = time.perf_counter()
    loop.step(x_NF, c_NC)
    return (time.perf_counter() - start_s) * len(read_split(folder, "train").events) / len(x_NF)


def report(rows: int, theirs: float, bare: float, ours: float) -> None:
    print(f"\n{BLOCKS} blocks of {HIDDEN}, batch {BATCH}, {rows} rows, {THREADS} threads, medians")
    print(f"{'':42}{'s/epoch':>9}{'rows/s':>10}{'ratio':>8}")
    for name, seconds in (
        ("thesis's loop", theirs),
        ("thesis's network, optimisation steps only", bare),
        ("ours, validation included", ours),
    ):
        print(f"{name:42}{seconds:9.2f}{rows / seconds:10,.0f}{theirs / seconds:7.1f}x")
    met = "met" if theirs / ours >= AIM else "missed"
    print(f"\nThe aim of {AIM} times the thesis's loop is {met}.")


if __name__ == "__main__":
    main()
