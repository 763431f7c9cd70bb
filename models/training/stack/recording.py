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

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from models.training.arithmetic import pinned

WARM_UP = 3
"""Steps before the one that is recorded."""
AHEAD = 32
"""Steps by which a host may be ahead of a GPU: what they are told lies in memory of the host."""
_RECORDING = threading.Lock()
"""Held while one is recorded, which waits for the whole device: that breaks another recording."""

log = logging.getLogger("hpo.training")


class _Queues(threading.local):
    """A queue of work for each thread and device: in one that two threads share, what one starts
    would be part of what the other records.
    """

    def __init__(self) -> None:
        self.of: dict[torch.device, torch.cuda.Stream] = {}


_QUEUES = _Queues()


class Recorded:
    """One function of tensors of the host, which is given them on the device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._calls = device, 0
        self._told, self._given = torch.empty(0), list[Tensor]()
        self._play: Callable[[], None] | None = None
        self._ahead: deque[torch.cuda.Event] = deque()

    def __call__(self, function: Callable[..., None], *told: Tensor) -> None:
        """Call it; tensors are of 32 bits, and have the same shapes every time.

        The function is not kept: whose method it is would live until garbage is collected, with all
        of its memory.
        """
        whole = torch.cat([one.reshape(-1).view(torch.int32) for one in told])
        if not self._calls:
            self._told = torch.empty_like(whole, device=self._device)
            parts = torch.split(self._told, [one.numel() for one in told])
            pairs = zip(parts, told, strict=True)
            self._given = [part.view(one.dtype).view_as(one) for part, one in pairs]
        # One transfer for all of them, from memory that a GPU reads while the host goes on.
        self._told.copy_(pinned(whole, self._device), non_blocking=True)
        given = partial(function, *self._given)
        if self._calls == WARM_UP:
            self._play = record(given, self._device)
        self._calls += 1
        (self._play or given)()
        if self._device.type == "cuda":
            self._ahead.append(torch.cuda.current_stream(self._device).record_event())
            if len(self._ahead) > AHEAD:
                self._ahead.popleft().synchronize()

    @contextmanager
    def queued(self) -> Iterator[None]:
        """This thread's queue of work, in which a GPU can record; elsewhere nothing."""
        if self._device.type != "cuda":
            yield
            return
        own = _QUEUES.of.get(self._device)
        if own is None:
            own = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            _QUEUES.of[self._device] = own
        before = torch.cuda.current_stream(self._device)
        own.wait_stream(before)
        try:
            with torch.cuda.stream(own):
                yield
        finally:
            before.wait_stream(own)


def record(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What does again what a function does, or the function itself where nothing can record it."""
    if device.type != "cuda":
        return function
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream(device)
    try:
        # Other threads evaluate meanwhile, and may ask for memory.
        mode = "thread_local"
        with _RECORDING, torch.cuda.graph(graph, stream=stream, capture_error_mode=mode):
            function()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # slower, but no fault of a training
        log.warning("this GPU records no steps, each operation is started by itself: %s", error)
        return function
    return graph.replay
