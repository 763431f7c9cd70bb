"""How runs learned: the losses of each against epochs and against wall-clock time.

The best runs are coloured and the others grey, so that a picture of many shows the few that
matter. Pruned and failed runs are drawn lighter: they did not come to their own end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hpo.pictures import style
from hpo.pictures.density import Array
from hpo.pictures.style import PlotError
from hpo.records.record import FINISHED, RunRecord

TRAINING: Any = {"linewidth": 0.8, "linestyle": (0, (3, 1.5))}
"""The line of a training loss."""
LIGHTER = ("pruned", "failed")


def losses(records: Sequence[RunRecord], out: Path) -> Path:
    """Training and validation NLL of runs, the best epoch of each marked.

    Raises:
        PlotError: If no run has an epoch with a validation NLL, or `out` is no picture's name.
    """
    style.suffix_of(out)
    shown = [each for each in records if any(row.val_nll is not None for row in each.epochs)]
    if not shown:
        raise PlotError(
            f"none of the {len(records)} runs has an epoch with a validation NLL yet: "
            "there is no curve to draw"
        )
    shown.sort(key=_rank)
    with style.figure_of(10.5, 4.8) as figure:
        by_epoch, by_time = figure.subplots(1, 2, sharey=True)
        for number, record in enumerate(shown):
            line = _line(record, number)
            _draw(by_epoch, record, _column(record, "epoch"), line)
            _draw(by_time, record, np.cumsum(_column(record, "seconds")) / 60, line)
        by_epoch.set(xlabel="Epoch", ylabel="NLL [nats per event]", ylim=_limits(shown))
        by_time.set(xlabel="Wall-clock time [min]")
        _legend(figure, by_epoch, len(shown))
        style.write(figure, out)
    return out


def _rank(record: RunRecord) -> tuple[bool, float]:
    """Lowest NLL first, runs that are drawn lighter last."""
    nll = math.inf if record.best_val_nll is None else record.best_val_nll
    return record.state in LIGHTER, nll


def _line(record: RunRecord, rank: int) -> dict[str, Any]:
    coloured = rank < len(style.PALETTE)
    best = "" if record.best_val_nll is None else f": {record.best_val_nll:.3f}"
    state = "" if record.state in FINISHED else f" ({record.state})"
    return {
        "color": style.PALETTE[rank] if coloured else "0.75",
        "alpha": 0.45 if record.state in LIGHTER else 1.0,
        "label": style.literal(f"{record.study} {record.trial}{best}{state}") if coloured else None,
        "linewidth": 1.6 if coloured else 1.0,
        "zorder": 10 - rank if coloured else 1,  # the best on top
    }


def _draw(axes: Axes, record: RunRecord, at: Array, line: dict[str, Any]) -> None:
    """Both losses of a run; `at` is where its epochs stand on the horizontal axis."""
    val = _column(record, "val_nll")
    told = np.flatnonzero(np.isfinite(val))[-1] + 1  # a failed run may have trained on, unscored
    axes.plot(at[:told], val[:told], **line)
    if line["label"]:
        thin = line | TRAINING | {"label": None, "zorder": 2}
        axes.plot(at[:told], _column(record, "train_nll")[:told], **thin)
    if record.best_epoch is not None:
        best = [each.epoch for each in record.epochs].index(record.best_epoch)
        dot = {"marker": "o", "markersize": 7, "markeredgecolor": "white", "label": None}
        axes.plot(at[best], val[best], **line | dot)
    axes.grid(color="0.92")


def _limits(records: Sequence[RunRecord]) -> tuple[float, float]:
    """Limits of the NLL that show where runs differ, not the fall of the first epochs."""
    able = [each for each in records if each.state not in LIGHTER] or records
    lowest = [_column(each, "val_nll") for each in records]
    lowest += [_column(each, "train_nll") for each in able]
    low = min(float(np.nanmin(each)) for each in lowest if np.isfinite(each).any())
    high = max(float(np.nanquantile(_column(each, "val_nll"), 0.9)) for each in able)
    air = 0.06 * max(high - low, 0.05)
    return low - air, high + 2 * air


def _legend(figure: Figure, axes: Axes, runs: int) -> None:
    """The coloured runs, best first, and the meaning of the lines."""
    kinds = [
        Line2D([], [], color="0.3", linewidth=1.6, label="validation"),
        Line2D([], [], color="0.3", label="training", **TRAINING),
        Line2D([], [], color="0.3", marker="o", linestyle="none", label="best epoch"),
    ]
    if runs > len(style.PALETTE):
        kinds.append(Line2D([], [], color="0.75", label=f"{runs - len(style.PALETTE)} more runs"))
    figure.legend(
        handles=[*axes.get_legend_handles_labels()[0], *kinds],
        loc="outside right upper",
        title="run: best validation NLL",
        alignment="left",
    )


def _column(record: RunRecord, name: str) -> Array:
    """The values by epoch, NaN where there is none: a gap in the line."""
    values = [getattr(row, name) for row in record.epochs]
    return np.array([math.nan if each is None else each for each in values], dtype=np.float64)
