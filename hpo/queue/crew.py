"""The threads of a worker that trains several trials: they take them one after another.

One that finds none waits while others train, since trials may be added, or handed back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

LOOK_S = 5.0
"""Longest wait between two looks for a trial."""


class Crew:
    """What the threads share; a worker of one trial at a time is a single one."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        """Held from the look for a trial until its parameters are chosen."""
        self.stopped: str | None = None
        """Why no new trial started at the last look."""
        self.over = False
        """Whether none is begun any more, for want of time."""
        self.left = False
        """Whether some wait that there was no time for."""
        self.done = 0
        """Trials that were run."""
        self.epoch_s = 0.0
        """The longest epoch so far."""
        self._training, self._ended = 0, threading.Condition()

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """While a trial is run."""
        with self._ended:
            self._training += 1
        try:
            yield
        finally:
            with self._ended:
                self._training -= 1
                self._ended.notify_all()

    def count(self, epoch_s: float) -> None:
        """Add a trial that was run, and its longest epoch."""
        with self._ended:
            self.done += 1
            self.epoch_s = max(self.epoch_s, epoch_s)

    def wait(self) -> bool:
        """Wait until a trial ended, or it is time for another look; False if none is run."""
        with self._ended:
            if self.over or not self._training:
                return False
            self._ended.wait(LOOK_S)
            return True
