"""The progress of a command: a bar on a terminal, plain lines elsewhere.

All of it goes to the error stream, so that the output of a command stays its result.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from data_prep.words.numbers import counted, duration, nll

if TYPE_CHECKING:
    from hpo.records.record import RunRecord
    from hpo.study.status import StudyStatus

LINES = 4
"""Plain lines about a work of known steps, however many steps there are."""
COUNT = 10_000_000
"""Rows between two plain lines about a work of unknown length."""


@contextlib.contextmanager
def of_study(console: Console) -> Iterator[Callable[[StudyStatus, list[RunRecord]], None]]:
    """A function of a study's status and of the trials that ended since the last call."""
    with _bar(console, "") as update:

        def show(status: StudyStatus, ended: list[RunRecord]) -> None:
            best = _best(status) or "no best yet"
            for done, record in enumerate(ended, start=status.finished - len(ended) + 1):
                say(console, f"{line(record)}  [{done} of {status.total} done, {best}]")
            update(
                description=status.study,
                completed=status.finished,
                total=status.total,
                note=_note(status),
            )

        yield show


@contextlib.contextmanager
def of_steps(what: str, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """A function of the steps done, and of all steps where that is known; `what` names them."""
    console, told = console or Console(stderr=True), 0
    with _bar(console, what) as update:

        def show(done: int, total: int | None = None) -> None:
            nonlocal told
            update(completed=done, total=total)
            reached = done * LINES // total if total else done // COUNT
            if reached > told and not console.is_terminal:
                say(console, f"{done:,}{f' of {total:,}' if total else ''} {what}")
            told = reached

        yield show


@contextlib.contextmanager
def in_place(wanted: bool) -> Iterator[Callable[[str], None]]:
    """A function that prints a text: on a terminal over the last one, if `wanted`, else below."""
    console = Console()
    if not (wanted and console.is_terminal):
        yield click.echo
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        yield lambda text: live.update(Text.from_ansi(text), refresh=True)


def say(console: Console, text: str) -> None:
    """Print a text as it is, above the bar if there is one."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def line(record: RunRecord, name: str | None = None) -> str:
    """A finished trial, or what else `name` calls the run, in a line."""
    from hpo.study.status import usable

    parts = [name or f"trial {record.trial}", record.state.replace("_", " ")]
    if record.best_val_nll is not None:
        parts.append(f"val NLL {nll(record.best_val_nll)}")
    if record.best_held_out_nll is not None:
        parts.append(f"held-out NLL {nll(record.best_held_out_nll)}")
    parts.append(f"{counted(len(record.epochs), 'epoch')} in {duration(record.cost.seconds or 0)}")
    if record.restarts:
        parts.append(f"restarted {record.restarts} x")
    if record.reason and not usable(record) and record.state != "pruned":
        parts.append(record.reason)
    return ", ".join(parts)


def summary(status: StudyStatus) -> str:
    """A study in two or three lines."""
    text = (
        f"{status.study}: {status.finished} of {counted(status.total, 'trial')} done "
        f"({status.complete} complete, {status.pruned} pruned, {status.failed} failed), "
        f"{len(status.running)} running, {status.waiting} waiting"
    )
    if status.eta_s is not None:
        text += f", about {duration(round(status.eta_s))} left"
    named = {"held-out NLL": status.best_held_out_nll, "val NLL": status.best_val_nll}
    if best := [f"{name} {nll(value)}" for name, value in named.items() if value is not None]:
        text += f"\nbest: trial {status.best_trial}, {', '.join(best)} nats per event"
    if status.stopping:
        text += f"\nno new trial starts: {status.stopping}"
    return text


def running(status: StudyStatus) -> str:
    """The running trials, one in a line; why one makes no progress, below."""
    from hpo.records.listing import render

    rows = [
        {
            "trial": one.trial,
            "epoch": f"{one.epoch}/{one.epochs}",
            "val NLL": None if one.val_nll is None else round(one.val_nll, 4),
            "left": None if one.eta_s is None else duration(round(one.eta_s)),
            "host": one.host,
            "device": one.device,
            "at a time": one.at_a_time if one.at_a_time != 1 else None,
            "job": one.job,
            "restarts": one.restarts or None,
        }
        for one in status.running
    ]
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    stale = [f"trial {one.trial}: {one.stale}" for one in status.running if one.stale]
    more = "--format json has them"
    return "\n".join([render(rows, "table", columns=names, more=more), *stale])


@contextlib.contextmanager
def _bar(console: Console, what: str) -> Iterator[Callable[..., None]]:
    """Changes the fields of a bar, which elsewhere than on a terminal is not there."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        yield functools.partial(bar.update, bar.add_task(what, total=None, note=""))


def _note(status: StudyStatus) -> str:
    running = "  ".join(f"#{one.trial} epoch {one.epoch}/{one.epochs}" for one in status.running)
    left = "" if status.eta_s is None else f"{duration(round(status.eta_s))} left"
    return "   ".join(part for part in (_best(status), left, running) if part)


def _best(status: StudyStatus) -> str:
    return "" if status.best_objective is None else f"best {nll(status.best_objective)}"
