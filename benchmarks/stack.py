"""Trainings that take their steps together, against the same ones by themselves, on a processor.

    python benchmarks/stack.py [DATASET] [--together 4 16 64] [--batches 256 512 1024 2048]
                               [--rounds 5] [--steps 8]

K trainings of the default flow take the same steps twice: each by itself, as `hpo launch` does with
a trial to a worker, and in stacks as `models/training/stack/meeting.py` makes them. Both sides run
in one process with one thread, in turn, and the seconds are those that the processor worked, so
that the sum over workers is compared, however many there are. Evaluations are in neither. Told are
microseconds per row, and the ratio of both with its standard error over the rounds; then, as
counted by torch's profiler, the operations of one step of K trainings of batches of 2,048: alone,
in stacks, and in a single stack without derivatives by hand, as a GPU has it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from data_prep.dataset import SAMPLE
from models.config import FlowConfig, TrainConfig
from models.training.arithmetic import arithmetic
from models.training.stack import rows as of_stacks
from models.training.stack.meeting import stacks_of
from models.training.stack.rows import Held
from models.training.stack.stack import Stack
from models.training.train import _Training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--together", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--batches", nargs="+", type=int, default=[256, 512, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'batch':>6} {'trainings':>9} {'alone':>11} {'together':>11}   ratio")
    for batch in options.batches:
        for count in options.together:
            compare(options.dataset, batch, count, options.rounds, options.steps)
    for count in options.together:
        print(f"operations of one step of {count}: {operations(options.dataset, count)}")


def compare(dataset: Path, batch: int, count: int, rounds: int, steps: int) -> None:
    """Time both sides in turn and print a line."""
    config = TrainConfig(batch_size=batch, device="cpu")
    with arithmetic(config):
        trainings = trainings_of(dataset, config, count)
        held = Held([training._member(steps) for training in trainings])
        spent: dict[str, list[float]] = {"alone": [], "together": []}
        for _ in range(rounds + 1):
            for side, times in spent.items():
                start_s = time.process_time()
                take(cut(trainings), steps, held if side == "together" else None)
                times.append((time.process_time() - start_s) / (count * steps * batch))
    alone_R, together_R = (np.array(times[1:]) for times in spent.values())  # the first is warm-up
    ratio_R = alone_R / together_R
    error = ratio_R.std(ddof=1) / len(ratio_R) ** 0.5
    print(
        f"{batch:6} {count:9} {1e6 * alone_R.mean():8.2f} us {1e6 * together_R.mean():8.2f} us   "
        f"{ratio_R.mean():.2f} +- {error:.2f}",
        flush=True,
    )


def trainings_of(dataset: Path, config: TrainConfig, count: int) -> list[_Training]:
    """Trainings that differ by seed."""
    seeds = range(count)
    return [_Training(dataset, FlowConfig(), replace(config, seed=seed)) for seed in seeds]


def take(stacks: list[list[_Training]], steps: int, held: Held | None) -> None:
    """Take the next steps, those of a stack together if there are rows for them."""
    for stack in stacks:
        members = [training._member(steps) for training in stack]
        if held and len(members) > 1:
            Stack(members, held).train()
        else:
            for member in members:
                member.alone()
        for training in stack:
            training.step += steps


def cut(trainings: list[_Training]) -> list[list[_Training]]:
    """Into stacks as a CPU has them."""
    size = len(stacks_of([training._member(1) for training in trainings])[0])
    return [trainings[at : at + size] for at in range(0, len(trainings), size)]


def operations(dataset: Path, count: int) -> str:
    """How many operations one step has: alone, in stacks, and in a single one as on a GPU."""
    trainings = trainings_of(dataset, TrainConfig(device="cpu"), count)
    held = Held([training._member(1) for training in trainings])
    alone = counted([trainings], None)
    in_stacks = counted(cut(trainings), held)
    with patch.object(of_stacks, "FUSED_ON", frozenset()):
        as_one = counted([trainings], held) if count > 1 else in_stacks
    return f"{alone:,} alone, {in_stacks:,} in stacks, {as_one:,} in one as on a GPU"


def counted(stacks: list[list[_Training]], held: Held | None) -> int:
    """Operations of a step: those of three less those of two, which begin and end alike."""
    found = []
    for steps in (1, 2, 3):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            take(stacks, steps, held)
        found.append(sum(event.count for event in seen.key_averages()))
    return int(found[2] - found[1])


if __name__ == "__main__":
    main()
