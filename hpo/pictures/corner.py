"""The corner plot: every pair of an emulator's event columns against held-out data.

Lines and colours are those of `contours`, which shows one pair larger. A positive column that spans
more than two decades is shown by its logarithm.

Letters of the arrays:
    N rows    F event columns
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_prep.columns import Column
from hpo.pictures import density, style
from hpo.pictures.cells import At
from hpo.pictures.contours import (
    Both,
    compare,
    draw_legend,
    draw_marginal,
    draw_plane,
    event_columns,
)
from hpo.pictures.density import Array
from hpo.pictures.style import PLAIN, Look, PlotError
from models import Emulator
from models.evaluation.weighted import effective, quantile

FRACTIONS = (0.5, 0.9)
"""Of all events, that the contours of a corner enclose unless others are chosen."""
WIDE = 100.0
"""From the 1 % to the 99 % quantile of the data: beyond it a column is shown by its logarithm."""
SMALL = 1.4
"""Inches of a panel below which its type is smaller."""
MOST = 10
"""Columns that a corner can show."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """One column as it is drawn."""

    label: str
    density_label: str
    data_N: Array
    drawn_N: Array
    edges: Array


def corner(
    emulator: Emulator,
    folder: Path,
    *,
    conditions: At | None = None,
    columns: Sequence[str] | None = None,
    look: Look = PLAIN,
    out: Path,
) -> Path:
    """Each event column on the diagonal, each pair of them below it.

    Args:
        folder: A prepared dataset; its test rows are shown.
        conditions: Shows only the rows that have these values; by default all.
        columns: Event columns in the order to show; by default all.

    Raises:
        PlotError: If a name or a cell is not there, or there are more than `MOST` columns.
        DataError: If `folder` holds no prepared dataset.
    """
    style.suffix_of(out)
    dataset, wanted = event_columns(emulator, folder, columns)
    if len(wanted) > MOST:
        raise PlotError(
            f"a corner shows up to {MOST} event columns, there are {len(wanted)}: "
            "name some by --columns"
        )
    both = compare(emulator, folder, conditions or {}, wanted)
    shown = [_shown(dataset.event_columns[at], both, k, look) for k, at in enumerate(wanted)]
    both = replace(
        both,
        data_NF=np.stack([each.data_N for each in shown], axis=1),
        drawn_NF=np.stack([each.drawn_N for each in shown], axis=1),
    )
    levels = FRACTIONS if look.levels == density.LEVELS else look.levels
    side = 3.4 if len(shown) == 1 else max(4.2, 1.75 * len(shown))
    with look.figure(side, side + 0.5) as figure:
        told, legend = _draw(figure, both, shown, levels)
        draw_legend(figure, f"{both.title_of(look)}\n{told}", legend, look)
        style.write(figure, out)
    return out


def _shown(column: Column, both: Both, k: int, look: Look) -> _Shown:
    label, data_N, drawn_N = look.label_of(column), both.data_NF[:, k], both.drawn_NF[:, k]
    low, high = quantile(data_N, (0.01, 0.99), both.weights_N)
    if not (column.positive and high > WIDE * low > 0):
        edges = density.edges(data_N, drawn_N, both.weights_N, column.limits)
        return _Shown(label, style.density_label_of(column), data_N, drawn_N, edges)
    # A wild emulator may draw zero, which has no logarithm: it goes far off to the left.
    data_N, drawn_N = (np.log10(np.maximum(x, np.finfo(float).tiny)) for x in (data_N, drawn_N))
    # `density.edges` ends at 0 for what is never negative; a logarithm below 0 needs room.
    edges = density.edges(data_N + 1000.0, drawn_N + 1000.0, both.weights_N) - 1000.0
    return _Shown("log$_{10}$ " + label, "density [1/dex]", data_N, drawn_N, edges)


def _draw(
    figure: Figure, both: Both, shown: Sequence[_Shown], levels: Sequence[float]
) -> tuple[str, Axes]:
    """All panels; gives what the lines enclose, and a panel that has both sides."""
    told, legend, last = "", None, len(shown) - 1
    rows = effective(both.weights_N, len(both.data_NF))
    grid = figure.add_gridspec(len(shown), len(shown))
    small = figure.get_size_inches()[0] < SMALL * len(shown)
    size, between, most = ("x-small", "\n[", 3) if small else ("medium", " [", 4)
    for row, up in enumerate(shown):
        for column, across in enumerate(shown[: row + 1]):
            axes = figure.add_subplot(grid[row, column])
            axes.xaxis.set_major_locator(MaxNLocator(most, prune="both"))
            axes.tick_params(labelbottom=row == last, labelleft=column == 0, labelsize=size)
            if row == last:
                axes.set_xlabel(across.label.replace(" [", between), fontsize=size)
            if row > column:
                edges = (across.edges, up.edges)
                told = draw_plane(axes, both, (column, row), edges, levels)
                legend = legend or axes
                axes.yaxis.set_major_locator(MaxNLocator(most, prune="both"))
                if column == 0:
                    axes.set_ylabel(up.label.replace(" [", between), fontsize=size)
                continue
            joined = density.joined(up.edges, rows)
            drawn_J = density.marginal(up.drawn_N, joined)
            draw_marginal(axes, both, row, joined, drawn_J, "vertical")
            axes.set(xlim=up.edges[[0, -1]])
            if last == 0:
                axes.set_ylabel(up.density_label)
            else:  # densities of several units, of which only the shape is shown
                axes.set_yticks([])
                axes.spines["left"].set_visible(False)
    figure.align_labels()
    return told, legend or figure.axes[0]
