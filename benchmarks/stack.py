"""Operations of a training step: of trainings by themselves, and of those that are trained as one.

    python benchmarks/stack.py [DATASET] [--together 1 4 16 64]

Counted by torch's profiler on a processor, for one step of K trainings of the default flow with
batches of 2,048: alone, in stacks as a processor has them, and in a single stack without
derivatives by hand, as a GPU has it. `benchmarks/workers.py` tells the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from data_prep.dataset import SAMPLE
from models.config import FlowConfig, TrainConfig
from models.training import arithmetic as of_devices
from models.training.stack.meeting import stacks_of
from models.training.stack.rows import Held
from models.training.stack.stack import Stack
from models.training.train import _Training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--together", nargs="+", type=int, default=[1, 4, 16, 64])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for count in options.together:
        print(f"operations of one step of {count}: {operations(options.dataset, count)}")


def trainings_of(dataset: Path, config: TrainConfig, seeds: Iterable[int]) -> list[_Training]:
    """Trainings that differ by seed."""
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
    trainings = trainings_of(dataset, TrainConfig(device="cpu"), range(count))
    held = Held([training._member(1) for training in trainings])
    alone = counted([trainings], None)
    in_stacks = counted(cut(trainings), held)
    with patch.object(of_devices, "FUSED_ON", frozenset()):
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
