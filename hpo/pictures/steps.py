"""How long pictures tell their progress."""

from __future__ import annotations

from collections.abc import Callable

Step = Callable[[int, int], None]
"""Takes how many steps are done, and of how many."""


def silent(done: int, total: int) -> None:
    """For those who do not ask."""
