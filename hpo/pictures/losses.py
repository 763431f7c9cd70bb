"""How runs learned: the losses of each against epochs and against wall-clock time.

The best runs are coloured and the others grey, so that a picture of many shows the few that
matter. Pruned and failed runs are drawn lighter: they did not come to their own end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from data_prep.words import numbers
from hpo.pictures import style
from hpo.pictures.density import Array
from hpo.pictures.style import PLAIN, Look, PlotError
from hpo.records.record import FINISHED, RunRecord

TRAINING: Any = {"linewidth": 0.8, "linestyle": (0, (3, 1.5))}
"""The line of a training loss."""
LIGHTER = ("pruned", "failed")
FARTHEST = 4.0
"""Spans of the others, above which the best of a run is not shown with them."""


def losses(records: Sequence[RunRecord], out: Path, look: Look = PLAIN) -> Path:
    """Training and validation NLL of runs, the best epoch of each marked.

    Raises:
        PlotError: If no run has an epoch with a validation NLL, or `out` is no picture's name.
    """
    style.suffix_of(out)
    shown = _shown(records)
    narrow = look.width is not None and look.width < style.NARROW
    with look.figure(3.4, 3.6) if narrow else look.figure(8.0, 3.6) as figure:
        subplots = figure.subplots(1, 1 if narrow else 2, sharey=True, squeeze=False)
        axes: list[Axes] = subplots[0].tolist()
        limits = _draw(axes[0], shown, look)
        longest = max(float(np.nansum(_column(run, "seconds"))) for run in shown)
        second, unit = (1, "s") if longest < 60 else (1 / 60, "min")
        for by_time in axes[1:]:
            _draw_runs(
                by_time, shown, lambda run: np.cumsum(_column(run, "seconds")) * second, limits
            )
            by_time.set(xlabel=f"{look.labels.get('time', 'Wall-clock time')} [{unit}]")
        figure.legend(
            handles=_entries(axes[0], shown),
            loc="outside lower left" if narrow else "outside right upper",
            ncols=2 if narrow else 1,
            title="run: best validation NLL" if look.title else None,
            alignment="left",
        )
        style.write(figure, out)
    return out


def draw(axes: Axes, records: Sequence[RunRecord], *, look: Look = PLAIN) -> None:
    """Training and validation NLL of runs against epochs, in axes of one's own.

    The lines have labels, so that `axes.legend()` names them.

    Args:
        records: Of the runs, as `hpo.records.folder.read` gives them.
        look: Of its choices the width and the title say nothing here.

    Raises:
        PlotError: If no run has an epoch with a validation NLL.
    """
    _draw(axes, _shown(records), look)


def _shown(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs that have a curve, best first."""
    shown = [each for each in records if any(row.val_nll is not None for row in each.epochs)]
    if not shown:
        raise PlotError(
            f"none of the {len(records)} runs has an epoch with a validation NLL yet: "
            "there is no curve to draw"
        )
    return sorted(shown, key=_rank)


def _draw(axes: Axes, shown: Sequence[RunRecord], look: Look) -> tuple[float, float]:
    """The curves against epochs; gives the ends of the NLL."""
    limits = look.ylim or _limits(shown)
    _draw_runs(axes, shown, lambda run: _column(run, "epoch"), limits)
    names = {"epoch": "Epoch", "nll": "NLL"} | dict(look.labels)
    axes.set(xlabel=names["epoch"], ylabel=f"{names['nll']} [nats per event]")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set(xlim=look.xlim or axes.get_xlim())
    return limits


def _draw_runs(
    axes: Axes,
    shown: Sequence[RunRecord],
    at: Callable[[RunRecord], Array],
    limits: tuple[float, float],
) -> None:
    """The best runs that are seen within the limits in colours, the others grey."""
    colours = iter(style.PALETTE)
    for record in shown:
        seen = np.nanmin(_column(record, "val_nll")) < limits[1]
        colour = next(colours, None) if seen else None
        _draw_run(axes, record, at(record), _line(record, colour))
    axes.set(ylim=limits)
    axes.grid(color="0.92")


def _rank(record: RunRecord) -> tuple[bool, float]:
    """Lowest NLL first, runs that are drawn lighter last."""
    nll = math.inf if record.best_val_nll is None else record.best_val_nll
    return record.state in LIGHTER, nll


def _line(record: RunRecord, colour: str | None) -> dict[str, Any]:
    best = "" if record.best_val_nll is None else f": {numbers.nll(record.best_val_nll)}"
    state = "" if record.state in FINISHED else f" ({record.state})"
    return {
        "color": colour or "0.75",
        "alpha": 0.55 if record.state in LIGHTER else 1.0,
        "label": style.literal(f"{record.study} {record.trial}{best}{state}") if colour else None,
        "linewidth": 1.3 if colour else 0.8,
        # The best on top.
        "zorder": 10 - style.PALETTE.index(colour) if colour else 1,
    }


def _draw_run(axes: Axes, record: RunRecord, at: Array, line: dict[str, Any]) -> None:
    """Both losses of a run; `at` is where its epochs stand on the horizontal axis."""
    val = _column(record, "val_nll")
    told = np.flatnonzero(np.isfinite(val))[-1] + 1  # a failed run may have trained on, unscored
    axes.plot(at[:told], val[:told], **line)
    if line["label"]:
        thin = line | TRAINING | {"label": None, "zorder": 2}
        axes.plot(at[:told], _column(record, "train_nll")[:told], **thin)
    if record.best_epoch is not None:
        best = [each.epoch for each in record.epochs].index(record.best_epoch)
        dot = {"marker": "o", "markersize": 5, "markeredgecolor": "white", "label": None}
        axes.plot(at[best], val[best], **line | dot)


def _limits(records: Sequence[RunRecord]) -> tuple[float, float]:
    """Ends of the NLL that show where runs differ, not the fall of the first epochs.

    The best of each run that can have a colour is within them, but for one that is so far above
    that the others would be a line at the bottom.
    """
    able = [each for each in records if each.state not in LIGHTER] or records
    lowest = [_column(each, "val_nll") for each in records]
    lowest += [_column(each, "train_nll") for each in able]
    low = min(float(np.nanmin(each)) for each in lowest if np.isfinite(each).any())
    high = max(float(np.nanquantile(_column(each, "val_nll"), 0.9)) for each in able)
    span = max(high - low, 0.05)
    bests = [float(np.nanmin(_column(each, "val_nll"))) for each in records[: len(style.PALETTE)]]
    high = max([high, *(best for best in bests if best < low + FARTHEST * span)])
    air = 0.06 * max(high - low, 0.05)
    return low - air, high + 2 * air


def _entries(axes: Axes, shown: Sequence[RunRecord]) -> list[Line2D]:
    """The coloured runs, best first, and the meaning of the lines."""
    runs = [each for each in axes.lines if not str(each.get_label()).startswith("_")]
    kinds = [
        Line2D([], [], color="0.3", linewidth=1.3, label="validation"),
        Line2D([], [], color="0.3", label="training", **TRAINING),
        Line2D([], [], color="0.3", marker="o", markersize=5, linestyle="none", label="best epoch"),
    ]
    if more := len(shown) - len(runs):
        kinds.append(Line2D([], [], color="0.75", label=numbers.counted(more, "more run")))
    return [*runs, *kinds]


def _column(record: RunRecord, name: str) -> Array:
    """The values by epoch, NaN where there is none: a gap in the line."""
    values = [getattr(row, name) for row in record.epochs]
    return np.array([math.nan if each is None else each for each in values], dtype=np.float64)
