"""The corner plot: every pair of an emulator's event columns against held-out data.

Lines and colours are those of `plot.contours`, which shows one pair larger. A positive column that
spans more than two decades is shown by its logarithm.

Letters of the arrays:
    N rows    F event columns
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.dataset import Dataset
from hpo.pictures import density
from hpo.pictures.contours import (
    DATA,
    FEW,
    Compared,
    Draws,
    PlotError,
    check,
    compared,
    contour,
    figure_of,
    label_of,
    marginal,
    nearest,
    notes,
    per,
    suffix_of,
    write,
)
from hpo.pictures.density import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from data_prep.columns import Column

FRACTIONS = (0.5, 0.9)
"""Of all events, that the contours of a corner enclose."""

WIDE = 100.0
"""From the 1 % to the 99 % quantile of the data: beyond it a column is shown by its logarithm."""

MOST = 10
"""Columns that a corner can show."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """One column as it is drawn."""

    label: str
    density: str
    """The label of a density in it."""
    data_N: Array
    drawn_N: Array
    edges: Array


def corner(
    emulator: Draws,
    folder: Path,
    *,
    conditions: Mapping[str, float] | None = None,
    columns: Sequence[str] | None = None,
    split: str = "test",
    seed: int = 0,
    out: Path,
) -> Path:
    """Each event column on the diagonal, each pair of them below it.

    Args:
        emulator: Draws events at given conditions.
        folder: A prepared dataset.
        conditions: Shows only the rows that have these values; by default all.
        columns: Event columns in the order to show; by default all.
        split: Which rows to compare with.
        seed: Of the draws.
        out: The picture.

    Raises:
        PlotError: If a name or a cell is not there, a column is named twice, there are more than
            `MOST`, or the suffix is none of `SUFFIXES`.
        DataError: If `folder` holds no prepared dataset.
    """
    suffix_of(out)
    dataset = Dataset.read(folder)
    check(emulator, dataset)
    wanted = _wanted(dataset, columns)
    both = compared(emulator, dataset, folder, conditions or {}, split, seed)
    shown = [_shown(both, dataset.event_columns.index(column), column) for column in wanted]
    side = 4.6 if len(shown) == 1 else max(5.2, 2.1 * len(shown))
    with figure_of(side, side + 0.9) as figure:
        plane = _draw(figure, shown)
        notes(figure, both, plane)
        write(figure, out)
    return out


def _wanted(dataset: Dataset, columns: Sequence[str] | None) -> list[Column]:
    names = [column.name for column in dataset.event_columns]
    wanted = names if columns is None else list(columns)
    for name in wanted:
        if name not in names:
            raise PlotError(f"there is no event column {name!r}: {nearest(name, names)}")
    if len(set(wanted)) != len(wanted):
        raise PlotError(f"a corner shows each column once, not {', '.join(wanted)}")
    if len(wanted) > MOST:
        raise PlotError(
            f"a corner shows up to {MOST} event columns, there are {len(wanted)}: "
            "name some by --columns"
        )
    return [dataset.event_columns[names.index(name)] for name in wanted]


def _shown(both: Compared, at: int, column: Column) -> _Shown:
    data_N, drawn_N = both.data_NF[:, at], both.drawn_NF[:, at]
    label = label_of(column)
    low, high = np.quantile(data_N, (0.01, 0.99))
    if column.positive and high > WIDE * low > 0:
        # A wild emulator may draw what has no logarithm: far off to the left.
        data_N, drawn_N = (
            np.log10(np.maximum(each, np.finfo(float).tiny)) for each in (data_N, drawn_N)
        )
        edges = _edges_of_log(data_N, drawn_N)
        return _Shown("log$_{10}$ " + label, "density [1/dex]", data_N, drawn_N, edges)
    return _Shown(label, per(column), data_N, drawn_N, density.edges(data_N, drawn_N))


def _edges_of_log(data_N: Array, drawn_N: Array) -> Array:
    """As `density.edges`, with room below 0: a logarithm may be negative."""
    return density.edges(data_N + 1000.0, drawn_N + 1000.0) - 1000.0


def _draw(figure: Figure, shown: Sequence[_Shown]) -> Axes | None:
    """All of them; gives the first plane, if there is one."""
    first = None
    grid = figure.add_gridspec(len(shown), len(shown))
    for row, up in enumerate(shown):
        for column, across in enumerate(shown[: row + 1]):
            axes = figure.add_subplot(grid[row, column])
            if row == column:
                marginal(axes, up.data_N, up.drawn_N, up.edges, "vertical")
                axes.set(xlim=up.edges[[0, -1]])
                if len(shown) == 1:
                    axes.set_ylabel(up.density)
                else:  # densities of several units, of which the shape is told
                    axes.set_yticks([])
                    axes.spines["left"].set_visible(False)
            else:
                _plane(axes, across, up)
                first = first or axes
            _labels(axes, across.label, up.label, row, column, len(shown))
    figure.align_labels()
    return first


def _plane(axes: Axes, across: _Shown, up: _Shown) -> None:
    data_N2 = np.stack([across.data_N, up.data_N], axis=1)
    drawn_N2 = np.stack([across.drawn_N, up.drawn_N], axis=1)
    edges = (across.edges, up.edges)
    if len(data_N2) <= FEW:
        axes.plot(*data_N2.T, ".", color=DATA, alpha=0.3, markersize=3, markeredgewidth=0)
    else:
        shade = density.fading(density.counts(data_N2, edges))
        axes.pcolormesh(*edges, shade.T, cmap="Blues", vmin=0, vmax=1.6, rasterized=True)
    spreads = density.spreads(data_N2, edges)
    sure = [each for each in density.sure(len(data_N2)) if each in FRACTIONS]
    contour(axes, data_N2, edges, spreads, sure, kind="data")
    contour(axes, drawn_N2, edges, spreads, FRACTIONS, kind="emulator")
    axes.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])


def _labels(axes: Axes, across: str, up: str, row: int, column: int, size: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
    if row == size - 1:
        axes.set_xlabel(across)
    else:
        axes.tick_params(labelbottom=False)
    if row == column:
        return
    axes.yaxis.set_major_locator(MaxNLocator(5, prune="both"))
    if column == 0:
        axes.set_ylabel(up)
    else:
        axes.tick_params(labelleft=False)
