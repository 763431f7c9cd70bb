"""A step recorded once and played again: a CUDA graph.

A step of a stack is a thousand small operations, whose start takes a host longer than a GPU takes
to do them. Played from a graph they need no host. So a step is a function of tensors on the device,
of constant shape: it reads what it is told from the same memory every time, writes to the same
memory, and asks for no number. The first steps are taken as they are, which lets libraries settle;
the next one is recorded, which does nothing, and played, as are all after it.

Source:
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from models.training.arithmetic import pinned

WARM_UP = 3
"""Steps before the one that is recorded."""


class Recorded:
    """A function of tensors of the host, which is given them on the device."""

    def __init__(self, function: Callable[..., None], device: torch.device) -> None:
        self._function, self._device = function, device
        self._told = torch.empty(0)
        self._play: Callable[[], None] | None = None
        self._calls = 0

    def __call__(self, *told: Tensor) -> None:
        """Call it; tensors are of 32 bits, and have the same shapes every time."""
        whole = torch.cat([one.reshape(-1).view(torch.int32) for one in told])
        if not self._calls:
            self._told = torch.empty_like(whole, device=self._device)
            parts = torch.split(self._told, [one.numel() for one in told])
            given = [p.view(one.dtype).view_as(one) for p, one in zip(parts, told, strict=True)]
            self._function = partial(self._function, *given)
        # One transfer for all of them, from memory that a GPU reads while the host goes on.
        self._told.copy_(pinned(whole, self._device), non_blocking=True)
        if self._calls == WARM_UP:
            self._play = record(self._function, self._device)
        self._calls += 1
        (self._play or self._function)()


def record(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What does again what a function does, or the function itself where nothing can record it."""
    if device.type != "cuda":
        return function
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream(device)
    # Other threads evaluate meanwhile, and may ask for memory.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        function()
    return graph.replay


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """A queue of work in which a GPU can record; elsewhere nothing."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    before = torch.cuda.current_stream(device)
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield
    before.wait_stream(stream)
