"""One training epoch at the thesis's architecture: the thesis's loop against ours, side by side.

    python benchmarks/epoch.py [DATASET]

The thesis's loop is written anew from its description: raw masses and conditions, a DataLoader
over a map-style dataset with per-row collation, blocks of a masked network, a batch-norm flow layer
and a reversal, orthogonal weights, Adam with L2 decay; after every batch one more forward pass of
the batch (for the batch-norm statistics) and the NLL of the whole validation split in training
mode. Ours is `models.train.train` as anybody calls it. Both run 10 blocks of 128 units, tanh,
batches of 40,000. Sides alternate, so that a busy machine slows both, each time in a fresh
process: threads keep settings of the one that started them, such as what becomes of denormals.

Tensor names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from data_prep.columns import SAMPLE
from data_prep.stream import read_split
from models.config import FlowConfig, TrainConfig
from models.train import train

BLOCKS, HIDDEN, BATCH, THREADS = 10, 128, 40_000, 2
LOADERS = 4
"""`num_workers` in the thesis's own runs."""
AIM = 20
T = TypeVar("T")
FLOW = FlowConfig(blocks=BLOCKS, hidden=HIDDEN, depth=2, activation="tanh")


class MaskedNetwork(nn.Module):
    """input -> hidden -> hidden -> 2F; the condition is added to the first hidden layer."""

    def __init__(self, features: int, conditions: int) -> None:
        super().__init__()
        first = torch.arange(features)
        hidden = torch.arange(HIDDEN) % max(1, features - 1)
        self.first = nn.Linear(features, HIDDEN)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, 2 * features)
        self.condition = nn.Linear(conditions, HIDDEN, bias=False)
        self.register_buffer("mask_1", (hidden[:, None] >= first).float())
        self.register_buffer("mask_2", (hidden[:, None] >= hidden).float())
        self.register_buffer("mask_3", (first.repeat(2)[:, None] > hidden).float())

    def forward(self, x_NF: Tensor, c_NC: Tensor) -> tuple[Tensor, Tensor]:
        h = functional.linear(x_NF, self.first.weight * self.mask_1, self.first.bias)
        h = torch.tanh(h + self.condition(c_NC))
        h = functional.linear(h, self.second.weight * self.mask_2, self.second.bias)
        out = functional.linear(torch.tanh(h), self.last.weight * self.mask_3, self.last.bias)
        shift_NF, log_scale_NF = out.chunk(2, 1)
        return (x_NF - shift_NF) * torch.exp(-log_scale_NF), -log_scale_NF.sum(1)


class BatchNorm(nn.Module):
    """Standardises by the batch's mean and variance, with their log-determinant."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_gamma = nn.Parameter(torch.zeros(features))
        self.beta = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))

    def forward(self, x_NF: Tensor, c_NC: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = x_NF.mean(0), x_NF.var(0, unbiased=False) + 1e-5
        self.mean.copy_(mean.detach())
        self.variance.copy_(variance.detach())
        y_NF = torch.exp(self.log_gamma) * (x_NF - mean) / variance.sqrt() + self.beta
        return y_NF, (self.log_gamma - 0.5 * variance.log()).sum().expand(len(x_NF))


class Reversal(nn.Module):
    def forward(self, x_NF: Tensor, c_NC: Tensor) -> tuple[Tensor, Tensor]:
        return x_NF.flip(1), x_NF.new_zeros(len(x_NF))


class ThesisFlow(nn.Module):
    def __init__(self, features: int, conditions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(BLOCKS):
            layers += [MaskedNetwork(features, conditions), BatchNorm(features), Reversal()]
        self.layers = nn.ModuleList(layers)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def log_prob(self, x_NF: Tensor, c_NC: Tensor) -> Tensor:
        total_N = x_NF.new_zeros(len(x_NF))
        for layer in self.layers:
            x_NF, log_det_N = layer(x_NF, c_NC)
            total_N = total_N + log_det_N
        return total_N - 0.5 * (x_NF**2 + math.log(2 * math.pi)).sum(1)


class ThesisLoop:
    """The thesis's training, an epoch at a time."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        rows, validation = (
            tuple(map(torch.from_numpy, read_split(folder, split))) for split in ("train", "val")
        )
        self.validation = validation
        warnings.filterwarnings("ignore", "This DataLoader will create")
        self.loader = DataLoader(
            TensorDataset(*rows), batch_size=BATCH, shuffle=False, num_workers=LOADERS
        )
        self.flow = ThesisFlow(rows[0].shape[1], rows[1].shape[1]).train()
        self.adam = torch.optim.Adam(self.flow.parameters(), lr=1e-3, weight_decay=1e-4)

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


def fresh(function: Callable[[Path], T], folder: Path) -> T:
    """What the function gives in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, folder).result()


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
    x_NF, c_NC = (torch.from_numpy(a[:BATCH]) for a in read_split(folder, "train"))
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
