"""Contours of two event columns: an emulator's density over held-out data, with both marginals.

Both sides are one population: the emulator's density is averaged over the conditions of the very
rows that it is shown with, each row alike, or by its weight. It is the exact one where it can be:
of an emulator with more columns the two have none, nor have atoms, and of rows that each have
conditions of their own there would be too many. There, as many events are drawn, and estimated as
the data are.

Letters of the arrays:
    N rows    F event columns    C condition columns    K conditions    X, Y bins along the two axes
    J bins of a marginal
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from data_prep.columns import Column, values_of
from data_prep.dataset import Dataset
from data_prep.stream import read_split
from data_prep.words import numbers
from hpo.pictures import density, style
from hpo.pictures.cells import At, arguments_of, at_conditions, check_names
from hpo.pictures.density import Array, Edges, Plane
from hpo.pictures.exact import Mixture
from hpo.pictures.style import PLAIN, Look, PlotError
from models import Emulator
from models.evaluation.nll import check_columns, mean_of
from models.evaluation.weighted import Weights, effective, ratios

DRAWS = 100_000
"""Events drawn: enough that contours of them show the emulator and not the draw."""
FEW = 3000
"""Up to so many rows are drawn as points; of more, a histogram says more."""
TIMES = 4
"""Places in each pixel where the density is evaluated, at least: its sums are of marginals, too."""
MOST_CONDITIONS = 100
"""Conditions over which an exact density is averaged at most."""


def contours(
    emulator: Emulator,
    folder: Path,
    *,
    conditions: At | None = None,
    columns: Sequence[str] | None = None,
    look: Look = PLAIN,
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
    shown = shown_of(emulator, folder, conditions, columns)
    with look.figure(5.4, 6.0) as figure:
        grid = figure.add_gridspec(2, 2, width_ratios=(4, 1), height_ratios=(1, 4))
        main = figure.add_subplot(grid[1, 0])
        above = figure.add_subplot(grid[0, 0], sharex=main)
        right = figure.add_subplot(grid[1, 1], sharey=main)
        told = draw_shown(main, shown, look)
        rows = effective(shown.both.weights_N, len(shown.both.data_NF))
        for k, axes in enumerate((above, right)):
            joined = density.joined(shown.edges[k], rows)
            side: Literal["vertical", "horizontal"] = "horizontal" if k else "vertical"
            draw_marginal(axes, shown.both, k, joined, shown.marginal(k, joined), side)
        above.tick_params(labelbottom=False)
        right.tick_params(labelleft=False)
        if figure.get_size_inches()[0] < style.NARROW:  # room for their shape alone
            above.set(yticks=[])
            right.set(xticks=[])
        else:
            above.set_ylabel(style.density_label_of(shown.columns[0]))
            right.set_xlabel(style.density_label_of(shown.columns[1]))
        draw_legend(figure, f"{shown.both.title_of(look)}\n{told}{shown.outside()}", main, look)
        style.write(figure, out)
    return out


def draw(
    axes: Axes,
    emulator: Emulator,
    folder: Path,
    *,
    conditions: At | None = None,
    columns: Sequence[str] | None = None,
    look: Look = PLAIN,
) -> None:
    """Contours of an emulator over held-out data, without marginals, in axes of one's own.

    The lines have labels, so that `axes.legend()` names them.

    Args:
        folder: A prepared dataset; its test rows are shown.
        conditions: Shows only the rows that have these values; by default all.
        columns: The two event columns, across and up; needed where there are more.
        look: Of its choices the width and the title say nothing here.

    Raises:
        PlotError: If a name or a cell is not there, or there are not two columns to show.
        DataError: If `folder` holds no prepared dataset.
    """
    draw_shown(axes, shown_of(emulator, folder, conditions, columns), look)


@dataclass(frozen=True, slots=True)
class Both:
    """The rows of a picture and what the emulator has at their conditions."""

    data_NF: Array
    weights_N: Weights
    """Of the rows, over their mean."""
    drawn_NF: Array
    """Events of the emulator at the conditions of the rows."""
    mixture: Mixture | None
    """The exact density of two columns, where there is one."""
    nll: float
    error: float
    at: At
    around: str

    @property
    def rows(self) -> str:
        """How many rows of data there are, for a legend."""
        return density.numbered(
            len(self.data_NF),
            None if self.weights_N is None else effective(self.weights_N, len(self.data_NF)),
        )

    def title_of(self, look: Look) -> str:
        """What rows are shown, and the NLL of the emulator there."""
        where = f"{self.around}{look.text_of(self.at) or 'all cells'}"
        nll = numbers.with_error(self.nll, self.error, between="±")
        return f"test rows, {where}: NLL = {nll} nats per event"


def compare(emulator: Emulator, folder: Path, at: At, columns: Sequence[int]) -> Both:
    """Test rows with these conditions, of these columns, and the emulator there."""
    rows, named = read_split(folder, "test"), emulator.module.condition_columns
    dataset = Dataset.read(folder)
    mask = at_conditions(rows.conditions, named, at, f"test rows of {folder}", dataset)
    here = rows.take(mask)
    events_NF, weights_N = here.events.astype(np.float64), ratios(here.weights)
    given = arguments_of(named, here.conditions)
    with np.errstate(invalid="ignore"):  # a row may have no density
        score = mean_of(-emulator.log_prob(events_NF, **given), weights_N)
    drawn_at = here.evenly(DRAWS)
    repeated: dict[str, Any] = {name: each[drawn_at] for name, each in given.items()}
    return Both(
        data_NF=events_NF[:, columns],
        weights_N=weights_N,
        drawn_NF=emulator.sample(DRAWS, seed=0, **repeated)[:, columns],
        mixture=_mixture(emulator, here.conditions, weights_N, columns),
        nll=score.mean,
        error=score.error,
        at=at,
        around="the region of " if at and dataset.scattered else "",
    )


def _mixture(
    emulator: Emulator, conditions_NC: Any, weights_N: Weights, columns: Sequence[int]
) -> Mixture | None:
    events = emulator.module.event_columns
    at_KC, of_N = np.unique(conditions_NC, axis=0, return_inverse=True)
    if len(events) != 2 or any(each.atoms for each in events) or len(at_KC) > MOST_CONDITIONS:
        return None
    held_K = np.bincount(of_N.ravel(), weights_N, len(at_KC))
    named = emulator.module.condition_columns
    at = [values_of(named, map(float, at_C)) for at_C in at_KC]
    return Mixture(emulator, at, held_K / held_K.sum(), list(columns))


@dataclass(frozen=True, slots=True)
class Shown:
    """A plane of two columns, with the emulator's density on it."""

    columns: tuple[Column, Column]
    both: Both
    edges: Edges
    plane: Plane | None = None
    """The exact density, in pixels that bins are made of; None where there is none."""

    def marginal(self, k: int, joined: Array) -> Array:
        """The emulator's density along one of the columns, `(J,)`."""
        if self.plane is None:
            return density.marginal(self.both.drawn_NF[:, k], joined)
        along_X = self.plane.held_XY.sum(axis=1 - k)
        held_J: Array = along_X.reshape(len(joined) - 1, -1).sum(axis=1) / np.diff(joined)
        return held_J

    def outside(self) -> str:
        """How much lies outside the picture, where it is worth a word."""
        data = _outside(self.both.data_NF, self.edges, self.both.weights_N)
        drawn = _outside(self.both.drawn_NF, self.edges)
        if max(data, drawn) < 0.001:
            return ""
        return (
            f"\noutside the picture: {100 * data:.1f} % of the data, "
            f"{100 * drawn:.1f} % of the emulator"
        )


def shown_of(
    emulator: Emulator,
    folder: Path,
    conditions: At | None,
    columns: Sequence[str] | None,
    edges: Edges | None = None,
) -> Shown:
    """What a picture shows; `edges` are those of another one with which it is compared."""
    dataset, wanted = event_columns(emulator, folder, columns)
    if len(wanted) != 2:
        raise PlotError(
            f"contours show two event columns, not {len(wanted)}: "
            + ("name two by --columns" if len(dataset.event_columns) > 1 else "draw a corner")
        )
    across, up = (dataset.event_columns[at] for at in wanted)
    both = compare(emulator, folder, conditions or {}, wanted)
    if edges is None:
        first, second = (
            density.edges(data_N, drawn_N, both.weights_N, column.limits)
            for data_N, drawn_N, column in zip(
                both.data_NF.T, both.drawn_NF.T, (across, up), strict=True
            )
        )
        edges = (first, second)
    shown = Shown((across, up), both, edges)
    if both.mixture is None:
        return shown
    pixels = [np.linspace(each[0], each[-1], density.FINE + 1) for each in edges]
    return replace(shown, plane=both.mixture.on((pixels[0], pixels[1]), both.drawn_NF, TIMES))


def draw_shown(axes: Axes, shown: Shown, look: Look) -> str:
    """The plane with its labels; gives what the lines enclose."""
    across, up = shown.columns
    told = draw_plane(axes, shown.both, (0, 1), shown.edges, look.levels, shown.plane)
    axes.set(xlabel=look.label_of(across), ylabel=look.label_of(up))
    axes.set(xlim=look.xlim or axes.get_xlim(), ylim=look.ylim or axes.get_ylim())
    return told


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


def draw_plane(
    axes: Axes,
    both: Both,
    at: tuple[int, int],
    edges: Edges,
    fractions: Sequence[float],
    plane: Plane | None = None,
) -> str:
    """The data as points or shades, and contours of both sides around these fractions of events.

    Gives what the lines enclose, in words. Without the emulator's exact density on this `plane` its
    draws are treated as the data are.
    """
    data_N2, weights_N = both.data_NF[:, at], both.weights_N
    # A point cannot show how much it weighs.
    points = len(data_N2) <= FEW and weights_N is None
    if points:
        many = len(data_N2) > 200
        seen: dict[str, Any] = {"alpha": 0.4, "markersize": 2.5} if many else {"markersize": 4.0}
        axes.plot(*data_N2.T, ".", color=style.DATA, markeredgewidth=0, **seen)
    else:
        shade = density.fading(density.counts(data_N2, edges, weights_N))
        axes.pcolormesh(*edges, shade.T, cmap="Blues", vmin=0, vmax=1.6, rasterized=True)
    sure = density.sure(effective(weights_N, len(data_N2)), fractions)
    of_data = density.estimate(data_N2, edges, weights_N).contours(sure)
    drawn = (plane or density.estimate(both.drawn_NF[:, at], edges)).contours(fractions)
    dots: dict[str, Any] = {"marker": ".", "markersize": 4} if points else {}
    by = "" if plane else f", n = {len(both.drawn_NF):,}"
    dashed = {"linestyle": (0, (3, 1.5)) if of_data else "none"}
    for lines, look, label in (
        (of_data, {"color": style.DATA, **dashed, **dots}, f"data, {both.rows}"),
        (drawn, {"color": style.EMULATOR}, f"emulator{by}"),
    ):
        axes.plot([], [], label=label, **look)
        for line, width in zip(lines.values(), np.linspace(1.4, 0.8, len(lines)), strict=True):
            axes.plot(*line.T, linewidth=width, **{**look, "marker": ""})
    axes.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
    return _enclosed(list(drawn), list(of_data))


def _enclosed(drawn: Sequence[float], of_data: Sequence[float]) -> str:
    """What the lines of both sides enclose, in words."""
    told = f"lines enclose {style.percents(drawn)} of the events"
    same = list(drawn) == list(of_data)
    return told if same else f"{told}, those of the data {style.percents(of_data)}"


def draw_marginal(
    axes: Axes,
    both: Both,
    k: int,
    joined: Array,
    drawn_J: Array,
    side: Literal["vertical", "horizontal"],
) -> None:
    """The densities of both sides along one column."""
    data_J = density.marginal(both.data_NF[:, k], joined, both.weights_N)
    filled: dict[str, Any] = {
        "fill": True,
        "color": style.DATA,
        "alpha": 0.3,
        "label": f"data, {both.rows}",
    }
    line: dict[str, Any] = {"color": style.EMULATOR, "linewidth": 1.2, "label": "emulator"}
    axes.stairs(data_J, joined, orientation=side, **filled)
    axes.stairs(drawn_J, joined, orientation=side, **line)


def draw_legend(figure: Figure, title: str, shown: Axes, look: Look) -> None:
    """Above all axes: a title, and one entry for the data and one for the emulator."""
    handles, labels = shown.get_legend_handles_labels()
    patch = Patch(color=style.DATA, alpha=0.3)
    figure.legend(
        handles=[(patch, handles[0]), *handles[1:]],
        labels=labels,
        loc="outside upper left",
        ncols=2,
        alignment="left",
        title=style.wrapped(figure, title) if look.title else None,
    )


def _outside(events_N2: Array, edges: Edges, weights_N: Weights = None) -> float:
    """Fraction of the events that lie outside the picture."""
    limits = np.array([each[[0, -1]] for each in edges])
    inside = (events_N2 >= limits[:, 0]) & (events_N2 <= limits[:, 1])
    return 1.0 - float(np.average(inside.all(axis=1), weights=weights_N))
