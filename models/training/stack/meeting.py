"""Where trainings of several threads meet, to take their steps together.

Each training has a thread of its own, in which it evaluates, saves and reports. Its steps it hands
over here, and waits until all others of its shape have done so, too. One that joins meets the
others at their next evaluation; one that ends is not waited for.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from models.flow.atoms import OneFlow
from models.training.arithmetic import fused
from models.training.stack.member import Member, Trained
from models.training.stack.rows import Held
from models.training.stack.stack import Stack

CPU_ROWS = 16_384
"""Rows of a step beyond which a processor gains next to nothing by further trainings."""
FILLED = 40_000
"""Weights for each training of a stack that only fill up: more take a processor longer than a step
by itself does."""
Waiting = tuple[Member, Future[Trained]]
T = TypeVar("T")


class Broken(Exception):
    """Told to trainings that are broken off since another one failed."""


class Meeting:
    """Trainings that meet."""

    def __init__(self, *, size: int, threads: int = 1, apart: bool = False) -> None:
        """Args:
        size: How many there are at a time.
        threads: CPU threads for stacks, side by side.
        apart: Whether each takes its steps by itself, in its own thread.
        """
        self.size, self.threads, self.apart = size, threads, apart
        self._most = size
        """Members that a device has memory for at once, as far as that is known."""
        self._lock = threading.Lock()
        self._joined: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, list[Waiting]] = {}
        self._held: dict[tuple[Hashable, frozenset[int | None]], Held] = {}
        self._stacks: dict[tuple[Hashable, frozenset[OneFlow]], Stack] = {}
        """Those that take no steps just now, by their shapes and flows."""
        self._broken_off: Callable[[], BaseException] | None = None
        self._pool = ThreadPoolExecutor(threads, "stack", initializer=_settings_of_thread)

    def run(
        self,
        trainings: Sequence[Callable[[], T]],
        *,
        thread: str = "training",
        broken_by: Callable[[BaseException], Callable[[], BaseException]] = lambda _: Broken,
    ) -> list[T]:
        """Run each in a thread, `size` at a time, and give back what they return.

        Args:
            trainings: What is run; they hand this meeting to `train`.
            thread: Begins the names of the threads.
            broken_by: Of the error of one of them, or of what interrupts this thread: what makes
                the error by which the others are broken off. All have ended when that is raised.
        """
        with self._pool, ThreadPoolExecutor(self.size, thread, _settings_of_thread) as pool:
            futures: list[Future[T]] = []
            try:
                futures += [pool.submit(one) for one in trainings]
                for ended in as_completed(futures):
                    ended.result()
                return [future.result() for future in futures]
            except BaseException as error:
                self._break_off(broken_by(error))
                pool.shutdown(wait=False, cancel_futures=True)
                while not all(future.done() for future in futures):
                    try:
                        wait(one for one in futures if not one.cancelled())
                    except BaseException as later:  # told to end once more: all do already
                        broken_by(later)
                raise

    @contextmanager
    def joined(self, shape: Hashable) -> Iterator[None]:
        """Be waited for by the trainings of this shape."""
        with self._lock:
            self._joined[shape] += 1
        try:
            yield
        finally:
            with self._lock:
                self._joined[shape] -= 1
                self._begin(shape)
                if not self._joined[shape]:
                    self._forget(shape)

    def train(self, shape: Hashable, member: Member) -> Trained:
        """Take the steps of a training that has joined, with the others' of its shape.

        Raises what breaks them off. A training of no shape takes its steps by itself, at once.
        """
        if shape is None:
            return member.alone()
        outcome: Future[Trained] = Future()
        with self._lock:
            self._waiting.setdefault(shape, []).append((member, outcome))
            self._begin(shape)
        return outcome.result()

    def _break_off(self, error: Callable[[], BaseException]) -> None:
        """Raise an error in every training that takes steps, now and from now on."""
        with self._lock:
            self._broken_off = error
            for shape in list(self._waiting):
                self._begin(shape)

    def check(self) -> None:
        """Raise the error, if the trainings are broken off."""
        if self._broken_off is not None:
            raise self._broken_off()

    def _begin(self, shape: Hashable) -> None:
        """Take the steps if all are here."""
        waiting = self._waiting.get(shape, [])
        if waiting and (self._broken_off or len(waiting) >= self._joined[shape]):
            del self._waiting[shape]
            # In one order every time, so that those that took steps as one do so again.
            outcome_of = dict(sorted(waiting, key=lambda one: id(one[0].flow)))
            stacks = stacks_of([*outcome_of], self.threads, self._most)
            self._forget(shape, stacks)
            for some in stacks:
                self._pool.submit(self._take, shape, [(one, outcome_of[one]) for one in some])

    def _forget(self, shape: Hashable, but: Sequence[Sequence[Member]] = ()) -> None:
        """Free the memory of a shape's trainings, but what these stacks need."""
        flows = {frozenset(member.flow for member in some) for some in but}
        bags = {frozenset(member.bag for member in some) for some in but}
        self._stacks = {k: one for k, one in self._stacks.items() if k[0] != shape or k[1] in flows}
        self._held = {k: one for k, one in self._held.items() if k[0] != shape or k[1] in bags}

    def _rows(self, shape: Hashable, members: Sequence[Member]) -> Held:
        """The rows of a stack, which are read once for all that have the same."""
        key = shape, frozenset(member.bag for member in members)
        with self._lock:
            if key not in self._held:
                self._held[key] = Held(members)
            return self._held[key]

    def _together(self, shape: Hashable, members: Sequence[Member]) -> list[Trained]:
        """Take the members' steps as one, in the stack of their last steps if there is one."""
        key = shape, frozenset(member.flow for member in members)
        with self._lock:
            stack = self._stacks.pop(key, None)
        if stack is None:
            stack = Stack(members, self._rows(shape, members))
        stack.go_on(members)
        found = stack.train(self.check)
        with self._lock:
            self._stacks[key] = stack
        return found

    def _take(self, shape: Hashable, together: list[Waiting]) -> None:
        """Take the steps of a stack, in halves if it is too large for the device."""
        members, outcomes = zip(*together, strict=True)
        short: torch.OutOfMemoryError | None = None
        try:
            self.check()
            if len(members) == 1 and fused(members[0].device):
                found = [members[0].alone()]
            else:
                found = self._together(shape, members)
        except torch.OutOfMemoryError as error:
            short = error.with_traceback(None)  # which would keep all that memory
        except BaseException as error:  # of a pool's thread nobody would hear
            for outcome in outcomes:
                outcome.set_exception(error)
        else:
            for outcome, one in zip(outcomes, found, strict=True):
                outcome.set_result(one)
        if short is not None and len(together) == 1:
            with self._lock:
                idle, self._stacks = len(self._stacks), {}
            if idle:  # their memory may be what is wanting
                self._take(shape, together)
            else:
                outcomes[0].set_exception(short)
        elif short is not None:
            half = len(together) // 2
            self._most = min(self._most, len(together) - half)
            self._take(shape, together[:half])
            self._take(shape, together[half:])


def stacks_of(
    members: Sequence[Member], threads: int = 1, at_most: int | None = None
) -> list[Sequence[Member]]:
    """Members of one shape in stacks; on a CPU in such of a moderate number of rows.

    There as many as there are threads, at least, since each stack is taken by one; and flows that
    differ much in size are apart, as steps of the small would take as long as those of the large.
    """
    most = at_most or len(members)
    if not fused(members[0].device):
        return [members[at : at + most] for at in range(0, len(members), most)]
    each = -(-len(members) // threads)
    most = max(1, min(CPU_ROWS // members[0].config.batch_size, each, most))
    stacks: list[list[Member]] = [[]]
    for member in sorted(members, key=lambda one: sum(p.numel() for p in one.flow.parameters())):
        longer = [*stacks[-1], member]
        if len(longer) > most or _filled(longer) > FILLED * len(longer):
            stacks.append([member])
        else:
            stacks[-1] = longer
    return [*stacks]


def _filled(members: Sequence[Member]) -> int:
    """Weights that only fill up if these take their steps as one."""
    shapes_TPK = np.array([[one.shape for one in member.flow.parameters()] for member in members])
    widest_PK = shapes_TPK.max(0)
    return int(len(members) * widest_PK.prod(1).sum() - shapes_TPK.prod(2).sum())


def _settings_of_thread() -> None:
    """As in a training alone: `models/training/arithmetic.py`."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
