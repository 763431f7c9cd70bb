"""What is done to a soak, and when: drawn from a seed."""

import random
import signal
from dataclasses import dataclass, field

KILLS = (signal.SIGKILL, signal.SIGTERM)


@dataclass
class Harms:
    """What was planned and what was done.

    Kills and restarts are drawn each from its own stream, so that the times of one kind do not
    depend on how long another one took.
    """

    seed: int
    every_s: dict
    """Mean seconds from one to the next, of each kind."""

    done: dict = field(default_factory=dict)
    """How often each was done, in words."""

    def __post_init__(self):
        self._chance = {kind: random.Random(f"{self.seed} {kind}") for kind in self.every_s}
        self._next_s = {kind: self._pause_s(kind) for kind in self.every_s}

    def due(self, now_s):
        """The kinds whose time has come, seconds after the beginning."""
        found = [kind for kind, at_s in self._next_s.items() if now_s >= at_s]
        for kind in found:
            self._next_s[kind] = now_s + self._pause_s(kind)
        return found

    def choice(self, kind, among):
        return self._chance[kind].choice(among)

    def seconds(self, kind, least, most):
        return self._chance[kind].uniform(least, most)

    def note(self, what):
        self.done[what] = self.done.get(what, 0) + 1

    def count(self, word):
        """How many were done of those whose words have this one."""
        return sum(times for what, times in self.done.items() if word in what)

    def _pause_s(self, kind):
        return self._chance[kind].uniform(0.5, 1.5) * self.every_s[kind]
