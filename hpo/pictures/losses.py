"""How runs learned, as lines: the losses of each on axes that somebody else made.

Colours go to the best runs, so that a picture of many shows the few that matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.pictures.density import Array
from hpo.records.record import FINISHED, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito (2008), without their yellow, which is lost on white."""

DASHES = (0, (3, 1.5))
"""Of the training curves."""

LIGHTER = ("pruned", "failed")
"""States of runs that are drawn lighter: they did not come to their own end."""


def draw(axes: Axes, records: Sequence[RunRecord], along: Callable[[RunRecord], Array]) -> None:
    """Both losses of every run; `along` gives where its epochs stand on the horizontal axis."""
    for record, style in zip(records, _styles(records), strict=True):
        val = _column(record, "val_nll")
        told = slice(np.flatnonzero(np.isfinite(val))[-1] + 1)  # what failed trained on unseen
        at, val, train = along(record)[told], val[told], _column(record, "train_nll")[told]
        axes.plot(at, val, **style)
        if style["label"]:
            thin = {"linewidth": 0.8, "linestyle": DASHES, "label": None, "zorder": 2}
            axes.plot(at, train, **style | thin)
        if record.best_epoch is not None:
            best = [each.epoch for each in record.epochs].index(record.best_epoch)
            dot = {"marker": "o", "markersize": 7, "markeredgecolor": "white", "label": None}
            axes.plot(at[best : best + 1], val[best : best + 1], **style | dot)
    axes.grid(color="0.92")


def epochs(record: RunRecord) -> Array:
    """Where a run's epochs stand when counted."""
    return np.array([row.epoch for row in record.epochs], dtype=np.float64)


def minutes(record: RunRecord) -> Array:
    """Where they stand in wall-clock time, minutes from the start."""
    return np.cumsum(_column(record, "seconds")) / 60


def span(records: Sequence[RunRecord]) -> tuple[float, float]:
    """Limits of the NLL that show where runs differ, not the fall of the first epochs."""
    able = [each for each in records if each.state not in LIGHTER] or records
    lowest = [_column(each, "val_nll") for each in records]
    lowest += [_column(each, "train_nll") for each in able]
    low = min(float(np.nanmin(each)) for each in lowest if np.isfinite(each).any())
    high = max(float(np.nanquantile(_column(each, "val_nll"), 0.9)) for each in able)
    air = 0.06 * max(high - low, 0.05)
    return low - air, high + 2 * air


def key(figure: Figure, axes: Axes, runs: int) -> None:
    """The legend on the right: the coloured runs, best first, and what the lines mean."""
    from matplotlib.lines import Line2D

    named, _ = axes.get_legend_handles_labels()
    kinds = [
        Line2D([], [], color="0.3", linewidth=1.6, label="validation"),
        Line2D([], [], color="0.3", linewidth=0.8, linestyle=DASHES, label="training"),
        Line2D([], [], color="0.3", marker="o", linestyle="none", label="best epoch"),
    ]
    if runs > len(PALETTE):
        kinds.append(Line2D([], [], color="0.75", label=f"{runs - len(PALETTE)} more runs"))
    figure.legend(
        handles=[*sorted(named, key=_place), *kinds],
        loc="outside right upper",
        title="run: best validation NLL",
        alignment="left",
    )


def literal(name: str) -> str:
    """The name as text of matplotlib, which takes what stands between dollars for a formula."""
    return name.replace("$", r"\$")


def _styles(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Line and label of each run: colours go to the best, lowest NLL first."""
    ranks = sorted(range(len(records)), key=lambda each: _standing(records[each]))
    colours = dict(zip(ranks, PALETTE, strict=False))
    return [
        {
            "color": colours.get(index, "0.75"),
            "alpha": 0.45 if record.state in LIGHTER else 1.0,
            "label": _described(record) if index in colours else None,
            "linewidth": 1.6 if index in colours else 1.0,
            "zorder": 3 if index in colours else 1,
        }
        for index, record in enumerate(records)
    ]


def _standing(record: RunRecord) -> tuple[bool, float]:
    nll = math.inf if record.best_val_nll is None else record.best_val_nll
    return record.state in LIGHTER, nll


def _described(record: RunRecord) -> str:
    best = "" if record.best_val_nll is None else f": {record.best_val_nll:.3f}"
    state = "" if record.state in FINISHED else f" ({record.state})"
    return literal(f"{record.study} {record.trial}{best}{state}")


def _column(record: RunRecord, name: str) -> Array:
    """The values by epoch, NaN where there is none: a gap in the line."""
    values = [getattr(row, name) for row in record.epochs]
    return np.array([math.nan if each is None else each for each in values])


def _place(handle: Any) -> int:
    return PALETTE.index(handle.get_color())
