"""The density as it was learned: contours of a run's flow after some epochs, and its NLL there.

The flows are those whose weights were kept on the way (`[training] snapshots`), and the best, which
the run has. All are drawn in the frame of the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from data_prep.words import numbers
from hpo.pictures import style
from hpo.pictures.cells import At
from hpo.pictures.contours import Shown, draw_legend, draw_shown, shown_of
from hpo.pictures.style import PLAIN, Look, PlotError
from hpo.records.record import NAME, RunRecord
from hpo.records.weights import on_the_way
from models import Emulator

PANELS = 8
"""Of a strip, at most."""
ROW = 4
"""Panels beside each other."""
PER_SECOND = 4
LAST_S = 2
"""For which a film shows its last frame."""

Flows = dict[int, Shown]
"""What is shown of the flow after each epoch."""


def learning(
    record: RunRecord,
    folder: Path,
    data: Path,
    *,
    conditions: At | None = None,
    columns: Sequence[str] | None = None,
    look: Look = PLAIN,
    step: Callable[[int, int], None] | None = None,
    out: Path,
) -> Path:
    """Contours of the flow after the epochs whose weights are there, over held-out data.

    Args:
        record: Of the run.
        folder: Of the run: its weights lie there.
        data: A prepared dataset; its test rows are shown.
        conditions: Shows only the rows that have these values; by default all.
        columns: The two event columns, across and up; needed where there are more.
        step: Called after each flow with the flows done and all flows.
        out: A strip of panels (.pdf, .svg, .png), or a film (.gif, .html, .mp4).

    Raises:
        PlotError: If no weights were kept on the way, or as for contours.
        DataError: If `data` holds no prepared dataset.
        SnapshotError: If kept weights are damaged.
    """
    moves = style.suffix_of(out, (*style.SUFFIXES, *style.MOVING)) in style.MOVING
    if moves:
        style.moving(out)
    flows = on_the_way(record, folder)
    if len(flows) < 2:
        raise PlotError(
            f"{folder / NAME} is of a run that kept no weights on the way: train one with `--set "
            "training.snapshots=20`, of `hpo launch` or of `hpo export --train-on`"
        )
    epochs = list(flows) if moves else some(list(flows), PANELS, record.best_epoch)
    first = record.best_epoch if record.best_epoch in epochs else epochs[-1]
    drawn: Flows = {}
    edges = None
    for done, epoch in enumerate(sorted(epochs, key=lambda each: each != first), start=1):
        emulator = Emulator(flows[epoch]())
        drawn[epoch] = shown_of(emulator, data, conditions, columns, edges)
        edges = drawn[epoch].edges
        if step:
            step(done, len(epochs))
    (_film if moves else _strip)(record, dict(sorted(drawn.items())), look, out)
    return out


def some(epochs: Sequence[int], most: int, needed: int | None) -> list[int]:
    """So many of the epochs at most, evenly by their order, with both ends and the needed one."""
    places = np.linspace(0, len(epochs) - 1, min(most, len(epochs))).round().astype(int)
    chosen = [epochs[place] for place in places]
    if needed in epochs and needed not in chosen:
        inner = chosen[1:-1]
        nearest = min(inner, key=lambda each: abs(epochs.index(each) - epochs.index(needed)))
        chosen[chosen.index(nearest)] = needed
    return sorted(chosen)


def _strip(record: RunRecord, drawn: Flows, look: Look, out: Path) -> None:
    """Panels of contours in rows, and below them the validation NLL."""
    down, across = -(-len(drawn) // ROW), min(ROW, len(drawn))
    with look.figure(1.75 * across, 1.75 * down + 2.3) as figure:
        grid = figure.add_gridspec(down + 1, across, height_ratios=[1.75] * down + [1.3])
        first: Axes | None = None
        for place, (epoch, shown) in enumerate(drawn.items()):
            row, column = divmod(place, across)
            axes = figure.add_subplot(grid[row, column], sharex=first, sharey=first)
            first = first or axes
            draw_shown(axes, shown, look)
            best: dict[str, Any] = {"fontweight": "bold"} if epoch == record.best_epoch else {}
            axes.set_title(_told(record, epoch), loc="left", fontsize="medium", **best)
            axes.label_outer()
            if place + across >= len(drawn):  # nothing is below it
                axes.tick_params(labelbottom=True)
                axes.set_xlabel(look.label_of(shown.columns[0]))
        assert first is not None  # two flows at least
        _draw_curve(figure.add_subplot(grid[down, :]), record, drawn, look)
        above = "above each its validation NLL, the best bold"
        _draw_head(figure, record, drawn, first, look, above)
        style.write(figure, out)


def _film(record: RunRecord, drawn: Flows, look: Look, out: Path) -> None:
    """The contours beside the validation NLL, epoch after epoch."""
    epochs = list(drawn)
    with look.figure(7.0, 4.0) as figure:
        plane, curve = figure.subplots(1, 2, width_ratios=(1.2, 1))
        _draw_curve(curve, record, {}, look)
        (dot,) = curve.plot([], [], "o", color=style.EMULATOR, markersize=6)

        def show(number: int) -> list[Artist]:
            epoch = epochs[min(number, len(epochs) - 1)]
            plane.clear()
            draw_shown(plane, drawn[epoch], look)
            plane.set_title(_told(record, epoch), loc="left", fontsize="medium")
            dot.set_data([epoch], [_nll(record, epoch)])
            return [plane, dot]

        show(len(epochs) - 1)
        _draw_head(figure, record, drawn, plane, look, "the epoch with its validation NLL")
        frames = len(epochs) + round(LAST_S * PER_SECOND)
        style.film(figure, show, frames, out, per_second=PER_SECOND)


def _draw_curve(axes: Axes, record: RunRecord, drawn: Flows, look: Look) -> None:
    """The validation NLL after every epoch; those that are drawn are marked."""
    every = [row.epoch for row in record.epochs]
    axes.plot(every, [_nll(record, epoch) for epoch in every], color="0.45", linewidth=1.2)
    for epoch in drawn:
        best = epoch == record.best_epoch
        dot: dict[str, Any] = {"markersize": 7 if best else 4, "color": style.EMULATOR}
        axes.plot([epoch], [_nll(record, epoch)], "o", **dot)
    names = {"epoch": "Epoch", "nll": "Validation NLL"} | dict(look.labels)
    axes.set(xlabel=names["epoch"], ylabel=f"{names['nll']}\n[nats per event]", xscale="log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda epoch, _: f"{epoch:g}"))
    axes.grid(color="0.92")


def _draw_head(
    figure: Figure, record: RunRecord, drawn: Flows, plane: Axes, look: Look, more: str
) -> None:
    """Above all axes: which run, which rows, what the lines are, and more."""
    shown = next(iter(drawn.values()))
    where = shown.both.around + (look.text_of(shown.both.at) or "all cells")
    title = f"{style.literal(record.study)}, trial {record.trial}, on test rows of {where}\n"
    title += f"lines enclose {style.percents(look.levels)} of the events; {more}"
    draw_legend(figure, title, plane, look)


def _told(record: RunRecord, epoch: int) -> str:
    return f"epoch {epoch}: {numbers.nll(_nll(record, epoch))}"


def _nll(record: RunRecord, epoch: int) -> float:
    value = next(row.val_nll for row in record.epochs if row.epoch == epoch)
    return math.nan if value is None else value
