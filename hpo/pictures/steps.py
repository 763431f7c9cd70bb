"""How far a piece of work with known steps is: a bar on a terminal, plain lines elsewhere.

Both on the error stream, so that what a command prints stays its result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Step = Callable[[int, int], None]
"""Takes how many steps are done, and of how many."""

LINES = 4
"""Of plain text, however many steps there are."""


def silent(done: int, total: int) -> None:
    """For those who do not ask."""


@contextlib.contextmanager
def counted(what: str, console: Console | None = None) -> Iterator[Step]:
    """What is called after every step; `what` names the steps, in the plural."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: _line(console, what, done, total)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _line(console: Console, what: str, done: int, total: int) -> None:
    """A line where another of the `LINES` parts is full."""
    if done * LINES // total > (done - 1) * LINES // total:
        text = f"{done} of {total} {what}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
