"""Operations of a training step: of trainings by themselves, and of those that are trained as one.

    python benchmarks/stack.py [DATASET] [--together 1 4 16 64]

Counted by torch's profiler on a processor, for one step of K trainings of the default flow with
batches of 2,048: first as a processor takes it, alone and in stacks that fit its cache; then by the
paths of a GPU, alone on batches that are streamed, and in a single stack. Of the latter it is also
told how often a step asks for a number, for which a GPU would be waited for, how many transfers the
host makes, and for how long the processor works on what only the host can do, over an epoch. A GPU
plays all operations of a stack from one graph. `benchmarks/workers.py` tells the time of stacks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from data_prep.dataset import SAMPLE
from models.config import FlowConfig, TrainConfig
from models.training import arithmetic as of_devices
from models.training import loss
from models.training.stack import recording
from models.training.stack.meeting import stacks_of
from models.training.stack.rows import Held
from models.training.stack.stack import Stack
from models.training.train import _Training

ASKED = ("_local_scalar_dense", "nonzero", "unique", "equal", "masked_select")
"""Parts of the names of operations whose result decides a number or a size on the host."""


class Counts(NamedTuple):
    """Of one step."""

    operations: int
    waits: int
    transfers: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--together", nargs="+", type=int, default=[1, 4, 16, 64])
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = TrainConfig(device="cpu")
    trainings = trainings_of(options.dataset, config, range(max(options.together)))
    held = Held([training._member(1) for training in trainings])
    for count in options.together:
        some = trainings[:count]
        alone = counted(partial(take, [some], None)).operations
        stacks = counted(partial(take, cut(some), held)).operations
        print(f"{count:2} on a processor: {alone:,} operations alone, {stacks:,} in stacks")
    with patch.object(of_devices, "FUSED_ON", frozenset()):
        of_one = trainings_of(options.dataset, config, [0])
        print(f" 1 on a GPU, streamed: {told(counted(partial(take, [of_one], None)))}")
        for count in options.together:
            stack = Stack([training._member(1) for training in trainings[:count]], held)
            found = counted(partial(go_on, stack))
            print(f"{count:2} on a GPU: {told(found)}, {host_ms(stack):.1f} ms of the host")


def trainings_of(dataset: Path, config: TrainConfig, seeds: Iterable[int]) -> list[_Training]:
    """Trainings that differ by seed."""
    return [_Training(dataset, FlowConfig(), replace(config, seed=seed)) for seed in seeds]


def take(stacks: list[list[_Training]], held: Held | None, steps: int) -> None:
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


def go_on(stack: Stack, steps: int) -> None:
    """Take the same number of steps with every member."""
    stack.go_on([replace(member, steps=steps) for member in stack.members])
    stack.train()
    stack.go_on([replace(member, step=member.step + steps) for member in stack.members])


def cut(trainings: list[_Training]) -> list[list[_Training]]:
    """Into stacks as a CPU has them."""
    size = len(stacks_of([training._member(1) for training in trainings])[0])
    return [trainings[at : at + size] for at in range(0, len(trainings), size)]


def counted(take_steps: Callable[[int], None]) -> Counts:
    """Of a step: what three have less what two have, which begin and end alike."""
    found = []
    for steps in (1, 2, 3):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            take_steps(steps)
        operations = sum(one.count for one in seen.key_averages())
        with transfers() as sent, Waits() as waits:
            take_steps(steps)
        found.append((operations, waits.count, len(sent)))
    return Counts(*(last - before for last, before in zip(found[2], found[1], strict=True)))


class Waits(TorchDispatchMode):
    """Counts operations whose result is looked at, those of a processor's own kernels left out."""

    count = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += any(name in operation.__name__ for name in ASKED)
        return operation(*args, **kwargs or {})


@contextmanager
def transfers() -> Iterator[list[Tensor]]:
    """What is sent to the device in here."""
    sent: list[Tensor] = []

    def pinned(tensor: Tensor, device: torch.device) -> Tensor:
        sent.append(tensor)
        return tensor

    with patch.object(loss, "pinned", pinned), patch.object(recording, "pinned", pinned):
        yield sent


def told(found: Counts) -> str:
    """In words."""
    return f"{found.operations:,} operations, {found.waits} waits, {found.transfers} transfers"


def host_ms(stack: Stack) -> float:
    """Milliseconds that the processor works on what a step is told, orders of rows included."""
    steps = stack.members[0].stream.batches
    stack.go_on([replace(member, steps=steps) for member in stack.members])
    start_s = time.process_time()
    for number in range(steps):
        stack.rows.tell(number)
        torch.tensor(stack._settings(number))
    return 1e3 * (time.process_time() - start_s) / steps


if __name__ == "__main__":
    main()
