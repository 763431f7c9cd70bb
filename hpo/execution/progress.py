"""How a running study shows itself: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from hpo.records.record import RunRecord
from hpo.study.status import Look, usable

Show = Callable[[Look, list[RunRecord]], None]
"""Takes the study as it is now, and the records of the trials that ended since the last call."""


@contextlib.contextmanager
def shown(console: Console) -> Iterator[Show]:
    """What `hpo launch` calls at every look."""
    if not console.is_terminal:
        yield lambda look, ended: _lines(console, look, ended)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, note="")

        def show(look: Look, ended: list[RunRecord]) -> None:
            _lines(bar.console, look, ended)
            bar.update(
                task,
                description=look.study,
                completed=look.finished,
                total=look.total,
                note=_note(look),
            )

        yield show


@contextlib.contextmanager
def in_place(wanted: bool) -> Iterator[Callable[[str], None]]:
    """What prints a text: on a terminal over the one before it, if `wanted`, elsewhere below it."""
    console = Console()
    if not (wanted and console.is_terminal):
        yield click.echo
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        yield lambda text: live.update(Text.from_ansi(text), refresh=True)


def line(record: RunRecord) -> str:
    """A finished trial in a line."""
    seconds = record.cost.seconds or 0.0
    parts = [f"trial {record.trial}", record.state.replace("_", " ")]
    if record.best_val_nll is not None:
        parts.append(f"val NLL {record.best_val_nll:.4f}")
    if record.best_held_out_nll is not None:
        parts.append(f"held-out NLL {record.best_held_out_nll:.4f}")
    parts.append(f"{len(record.epochs)} epochs in {seconds:.0f} s")
    if record.restarts:
        parts.append(f"restarted {record.restarts} x")
    if record.reason and not usable(record):
        parts.append(record.reason)
    return ", ".join(parts)


def _lines(console: Console, look: Look, ended: list[RunRecord]) -> None:
    for record in ended:
        best = _best(look) or "no best yet"
        text = f"{line(record)}  [{look.finished} of {look.total} done, {best}]"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _note(look: Look) -> str:
    running = "  ".join(f"#{one.trial} epoch {one.epoch}/{one.epochs}" for one in look.running)
    left = "" if look.eta_s is None else f"{duration(look.eta_s)} left"
    return "   ".join(part for part in (_best(look), left, running) if part)


def duration(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _best(look: Look) -> str:
    return "" if look.best_objective is None else f"best {look.best_objective:.4f}"
