"""Contours of two event columns: an emulator's draws on top of held-out data, with both marginals.

Both sides are one population: the emulator draws at the conditions of the very rows that it is
shown with, each row equally often, or as often as its weight says. Both are binned and smoothed
alike.

Letters of the arrays:
    N rows    F event columns    C condition columns    X, Y bins along the two axes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from data_prep.dataset import Dataset
from data_prep.stream import read_split
from hpo.pictures import density, style
from hpo.pictures.cells import At, arguments_of, at_conditions, check_names
from hpo.pictures.density import Array, Edges
from hpo.pictures.style import PlotError
from models import Emulator
from models.evaluation.nll import check_columns
from models.evaluation.weighted import Weights, effective, ratios

DRAWS = 100_000
"""Events drawn, about: enough that the contours show the emulator and not the draw."""
FEW = 3000
"""Up to so many rows are drawn as points; of more, a histogram says more."""


def contours(
    emulator: Emulator,
    folder: Path,
    *,
    conditions: At | None = None,
    columns: Sequence[str] | None = None,
    out: Path,
) -> Path:
    """Two event columns of the emulator against held-out data, with both marginals.

    Args:
        folder: A prepared dataset; its test rows are shown.
        conditions: Shows only the rows that have these values; by default all.
        columns: The two event columns, across and up; needed where there are more.

    Raises:
        PlotError: If a name or a cell is not there, or there are not two columns to show.
        DataError: If `folder` holds no prepared dataset.
    """
    style.suffix_of(out)
    dataset, wanted = event_columns(emulator, folder, columns)
    if len(wanted) != 2:
        raise PlotError(
            f"contours show two event columns, not {len(wanted)}: "
            + ("name two by --columns" if len(dataset.event_columns) > 1 else "draw a corner")
        )
    across, up = (dataset.event_columns[at] for at in wanted)
    data, weights_N, drawn, title = compare(emulator, folder, conditions or {}, wanted)
    edges = (
        density.edges(data[:, 0], drawn[:, 0], weights_N, across.limits),
        density.edges(data[:, 1], drawn[:, 1], weights_N, up.limits),
    )
    with style.figure_of(7.2, 8.0) as figure:
        grid = figure.add_gridspec(2, 2, width_ratios=(4, 1), height_ratios=(1, 4))
        main = figure.add_subplot(grid[1, 0])
        above = figure.add_subplot(grid[0, 0], sharex=main)
        right = figure.add_subplot(grid[1, 1], sharey=main)
        draw_plane(main, data, drawn, edges, density.LEVELS, weights_N)
        draw_marginal(above, data[:, 0], drawn[:, 0], edges[0], "vertical", weights_N)
        draw_marginal(right, data[:, 1], drawn[:, 1], edges[1], "horizontal", weights_N)
        main.set(xlabel=style.label_of(across), ylabel=style.label_of(up))
        above.set_ylabel(style.density_label_of(across))
        above.tick_params(labelbottom=False)
        right.set_xlabel(style.density_label_of(up))
        right.tick_params(labelleft=False)
        title += f"\noutside the picture: {_outside(data, edges, weights_N):.2%} of the data, "
        title += f"{_outside(drawn, edges):.2%} of the emulator"
        draw_legend(figure, title, numbered(data, weights_N), len(drawn), main)
        style.write(figure, out)
    return out


def event_columns(
    emulator: Emulator, folder: Path, wanted: Sequence[str] | None
) -> tuple[Dataset, list[int]]:
    """The dataset, and the positions of the wanted event columns, by default of all.

    Raises PlotError for a bad name, DataError if the data have other columns than the emulator.
    """
    dataset = Dataset.read(folder)
    check_columns(emulator.module, dataset, folder)
    names = list(emulator.event_columns)
    wanted = names if wanted is None else wanted
    check_names(wanted, names, "event column")
    if len(set(wanted)) != len(wanted):
        raise PlotError(f"a picture shows each event column once, not {', '.join(wanted)}")
    return dataset, [names.index(name) for name in wanted]


def compare(
    emulator: Emulator, folder: Path, at: At, columns: Sequence[int]
) -> tuple[Array, Weights, Array, str]:
    """Test rows with these conditions and their weights, draws at the rows' conditions, a title."""
    rows, named = read_split(folder, "test"), emulator.module.condition_columns
    dataset = Dataset.read(folder)
    mask = at_conditions(rows.conditions, named, at, f"test rows of {folder}", dataset)
    here = rows.take(mask)
    events_NF, weights_N = here.events.astype(np.float64), ratios(here.weights)
    given = arguments_of(named, here.conditions)

    nll_N = -emulator.log_prob(events_NF, **given)
    error = density.standard_error(nll_N, weights_N)
    times = max(1, round(DRAWS / len(events_NF)))
    drawn_at = np.tile(np.arange(len(events_NF)), times)
    if weights_N is not None:
        drawn_at = here.evenly(len(drawn_at))
    repeated: dict[str, Any] = {name: each[drawn_at] for name, each in given.items()}
    drawn_NF = emulator.sample(len(drawn_at), seed=0, **repeated)
    nll = np.average(nll_N, weights=weights_N)
    around = "the region of " if at and dataset.scattered else ""
    title = f"test rows, {around}{style.text_of(at) or 'all cells'}: NLL = {nll:.3f}"
    title += ("" if math.isnan(error) else rf" $\pm$ {error:.3f}") + " nats per event"
    return events_NF[:, columns], weights_N, drawn_NF[:, columns], title


def draw_plane(
    axes: Axes,
    data_N2: Array,
    drawn_N2: Array,
    edges: Edges,
    fractions: Sequence[float],
    weights_N: Weights = None,
) -> None:
    """The data as points or shades, and contours of both sides around these fractions."""
    # A point cannot show how much it weighs.
    if len(data_N2) <= FEW and weights_N is None:
        axes.plot(*data_N2.T, ".", color=style.DATA, alpha=0.4, markersize=3.5, markeredgewidth=0)
    else:
        shade = density.fading(density.counts(data_N2, edges, weights_N))
        axes.pcolormesh(*edges, shade.T, cmap="Blues", vmin=0, vmax=1.6, rasterized=True)
    spreads = density.spreads(data_N2, edges, weights_N)
    rows = effective(weights_N, len(data_N2))
    sure = [each for each in density.sure(rows) if each in fractions]
    for events_N2, own_N, inside, color, dash in (
        (data_N2, weights_N, sure, style.DATA, "dashed"),
        (drawn_N2, None, fractions, style.EMULATOR, "solid"),
    ):
        density_XY = density.smooth(density.counts(events_N2, edges, own_N), spreads)
        heights = density.enclosing(density_XY, inside, len(events_N2))
        reached = ", ".join(f"{each:.0%}" for each in inside[: len(heights)]) or "nothing"
        axes.plot([], [], color=color, linestyle=dash, label=f"contours enclose {reached}")
        if heights:
            centres = ((each[1:] + each[:-1]) / 2 for each in edges)
            levels = sorted(set(heights))
            widths = np.linspace(0.9, 1.9, len(density.LEVELS))[-len(levels) :].tolist()
            lines: dict[str, Any] = {"colors": color, "linestyles": dash, "linewidths": widths}
            axes.contour(*centres, density_XY.T, levels=levels, **lines)
    axes.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])


def draw_marginal(
    axes: Axes,
    data_N: Array,
    drawn_N: Array,
    edges: Array,
    side: Literal["vertical", "horizontal"],
    weights_N: Weights = None,
) -> None:
    """The densities of both sides along one column."""
    joined = density.joined(edges, effective(weights_N, len(data_N)))
    data, drawn = density.marginal(data_N, joined, weights_N), density.marginal(drawn_N, joined)
    axes.stairs(data, joined, orientation=side, fill=True, color=style.DATA, alpha=0.3)
    axes.stairs(drawn, joined, orientation=side, color=style.EMULATOR, linewidth=1.4)


def numbered(data: Array, weights_N: Weights) -> str:
    """How many rows of data there are, for a legend."""
    return density.numbered(
        len(data), None if weights_N is None else effective(weights_N, len(data))
    )


def draw_legend(figure: Figure, title: str, data: str, drawn: int, plane: Axes | None) -> None:
    """Above all axes: a title, the numbers of events, and the meaning of the plane's lines."""
    lines = plane.get_legend_handles_labels()[0] if plane else []
    figure.legend(
        handles=[
            Patch(color=style.DATA, alpha=0.3, label=f"data, {data}"),
            *lines[:1],
            Line2D([], [], color=style.EMULATOR, label=f"emulator, n = {drawn:,}"),
            *lines[1:],
        ],
        loc="outside upper left",
        ncols=2,
        alignment="left",
        title=title,
    )


def _outside(events_N2: Array, edges: Edges, weights_N: Weights = None) -> float:
    """Fraction of the events that lie outside the picture."""
    limits = np.array([each[[0, -1]] for each in edges])
    inside = (events_N2 >= limits[:, 0]) & (events_N2 <= limits[:, 1])
    return 1.0 - float(np.average(inside.all(axis=1), weights=weights_N))
