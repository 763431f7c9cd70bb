"""Budgets in processor time: other work on the machine takes next to nothing of them.

A clock of the seconds that this process computed. It stands still while something is done that is
no training, such as an evaluation of the validation split.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import models.training.train as training


class Clock:
    """Seconds of processor time since it was made, without those that it stood still."""

    def __init__(self) -> None:
        self._start_s, self._off_s = time.process_time(), 0.0

    def __call__(self) -> float:
        return time.process_time() - self._start_s - self._off_s

    @contextmanager
    def standing(self) -> Iterator[None]:
        """It stands still in here."""
        start_s = time.process_time()
        try:
            yield
        finally:
            self._off_s += time.process_time() - start_s


@contextmanager
def counted() -> Iterator[Clock]:
    """Trainings of ours in here take processor time for time, evaluations take none.

    So `max_minutes` is a budget of processor time, over which the learning rate falls. The product
    counts seconds as its user does; only this benchmark wants others, so it lends it a clock.
    """
    clock, evaluate = Clock(), training._Training._evaluate

    def off_the_clock(self: training._Training) -> tuple[float, float | None]:
        with clock.standing():
            return evaluate(self)

    lent = SimpleNamespace(perf_counter=clock)
    with (
        patch.object(training, "time", lent),
        patch.object(training._Training, "_evaluate", off_the_clock),
    ):
        yield clock
