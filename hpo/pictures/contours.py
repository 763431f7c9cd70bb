"""Pictures: what an emulator draws against the data, and how runs learned.

Each function makes one figure and writes it in one step; the suffix of the file decides between
PNG, PDF and SVG. No window is opened and no setting of matplotlib outlives a call.

Letters of the arrays:
    N rows    F event columns    C condition columns    X, Y bins along the two axes
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.atomic import draft_of
from data_prep.errors import InputError
from hpo.pictures import density
from hpo.pictures import losses as curves
from hpo.pictures.density import Array, Edges
from hpo.pictures.losses import literal
from hpo.records.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from data_prep.columns import Column
    from data_prep.dataset import Dataset

SUFFIXES = (".png", ".pdf", ".svg")

DRAWS = 100_000
"""Events drawn, about: enough that the contours show the emulator and not the draw."""

FEW = 3000
"""Up to so many rows are drawn as points; of more, a histogram says more."""

DATA, EMULATOR = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe & Ito (2008): told apart with any colour vision, and in grey."""

_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}

_UNITS = {"Msun": r"$M_\odot$", "Rsun": r"$R_\odot$", "Lsun": r"$L_\odot$", "": "dimensionless"}


class PlotError(InputError):
    """A picture that cannot be made. The message is one sentence."""


class Draws(Protocol):
    """What is asked of an emulator: `models.Emulator` has it."""

    @property
    def event_columns(self) -> Iterable[Any]: ...

    @property
    def condition_columns(self) -> Iterable[Any]: ...

    def sample(self, n: int, *, seed: int | None = None, **conditions: Any) -> Array: ...

    def log_prob(self, events: Any, **conditions: Any) -> Array: ...


def contours(
    emulator: Draws,
    folder: Path,
    *,
    conditions: Mapping[str, float] | None = None,
    columns: Sequence[str] | None = None,
    split: str = "test",
    seed: int = 0,
    out: Path,
) -> Path:
    """Two event columns of the emulator against held-out data, with both marginals.

    Both sides are the same population: the emulator draws at the conditions of the very rows that
    it is shown with, each row equally often. Both are smoothed alike before contours are drawn.

    Args:
        emulator: Draws events at given conditions.
        folder: A prepared dataset.
        conditions: Shows only the rows that have these values, e.g. `{"Z": 0.001, "alpha": 1.0}`
            for one cell; by default all.
        columns: The two event columns, across and up, by name; needed where there are more.
        split: Which rows to compare with; those that the emulator has not learned from.
        seed: Of the draws.
        out: The picture.

    Returns:
        `out`.

    Raises:
        PlotError: If a name or a cell is not there, if there are not two columns to show, or if
            the suffix is none of `SUFFIXES`.
        DataError: If `folder` holds no prepared dataset.
    """
    from data_prep.dataset import Dataset

    suffix_of(out)
    dataset = Dataset.read(folder)
    pair = _pair(emulator, dataset, columns)
    shown = compared(emulator, dataset, folder, conditions or {}, split, seed)
    at = [_names(dataset.event_columns).index(each.name) for each in pair]
    with figure_of(7.2, 8.0) as figure:
        main, above, right = _plane(figure, shown, at)
        main.set(xlabel=label_of(pair[0]), ylabel=label_of(pair[1]))
        above.set(ylabel=per(pair[0]))
        right.set(xlabel=per(pair[1]))
        above.tick_params(labelbottom=False)
        right.tick_params(labelleft=False)
        beyond = (_outside(shown.data_NF[:, at], main), _outside(shown.drawn_NF[:, at], main))
        outside = (
            f"outside the picture: {beyond[0]:.2%} of the data, {beyond[1]:.2%} of the emulator"
        )
        notes(figure, shown, main, outside)
        write(figure, out)
    return out


def losses(records: Sequence[RunRecord], out: Path) -> Path:
    """Training and validation NLL against epochs and against wall-clock time.

    The best epoch is marked. Pruned and failed runs are drawn lighter. With more runs than
    `curves.PALETTE` has colours, the best are coloured and the others grey.

    Raises:
        PlotError: If no run has an epoch with a validation NLL, or if the suffix is none of
            `SUFFIXES`.
    """
    suffix_of(out)
    told = [each for each in records if any(row.val_nll is not None for row in each.epochs)]
    if not told:
        raise PlotError(
            f"none of the {len(records)} runs has an epoch with a validation NLL yet: "
            "there is no curve to draw"
        )
    with figure_of(10.5, 4.8) as figure:
        by_epoch, by_time = figure.subplots(1, 2, sharey=True)
        curves.draw(by_epoch, told, curves.epochs)
        curves.draw(by_time, told, curves.minutes)
        by_epoch.set(xlabel="Epoch", ylabel="NLL [nats per event]", ylim=curves.span(told))
        by_time.set(xlabel="Wall-clock time [min]")
        curves.key(figure, by_epoch, len(told))
        write(figure, out)
    return out


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Rows of the data and events drawn at their conditions."""

    data_NF: Array
    drawn_NF: Array
    nll: float
    """Of the data rows, nats per event."""
    error: float
    """Standard error of `nll`; NaN for a single row, or where a row has no density at all."""
    where: str
    """What rows these are."""


def compared(
    emulator: Draws,
    dataset: Dataset,
    folder: Path,
    conditions: Mapping[str, float],
    split: str,
    seed: int,
) -> Compared:
    from data_prep.stream import read_split

    rows = read_split(folder, split)
    names = _names(dataset.condition_columns)
    mask = chosen(rows.conditions, names, conditions, f"{split} rows of {folder}")
    events_NF = rows.events[mask].astype(np.float64)
    given = dict(zip(names, rows.conditions[mask].astype(np.float64).T, strict=True))

    nll_N = -np.asarray(emulator.log_prob(events_NF, **given), dtype=np.float64)
    times = max(1, round(DRAWS / len(events_NF)))
    repeated = {name: np.tile(each, times) for name, each in given.items()}
    drawn_NF = emulator.sample(times * len(events_NF), seed=seed, **repeated)
    return Compared(
        data_NF=events_NF,
        drawn_NF=np.asarray(drawn_NF, dtype=np.float64),
        nll=float(nll_N.mean()),
        error=density.standard_error(nll_N),
        where=f"{split} rows, "
        + (", ".join(f"{name} = {each:g}" for name, each in conditions.items()) or "all cells"),
    )


def chosen(
    conditions_NC: NDArray[Any], names: Sequence[str], wanted: Mapping[str, float], rows: str
) -> NDArray[np.bool_]:
    mask = np.ones(len(conditions_NC), dtype=bool)
    for name, value in wanted.items():
        if name not in names:
            raise PlotError(f"there is no condition {name!r}: {nearest(name, names)}")
        column = conditions_NC[:, names.index(name)]
        mask &= np.isclose(column, value, rtol=1e-5, atol=0)  # the data are float32
        if not mask.any():
            there = ", ".join(f"{each:g}" for each in np.unique(column))
            raise PlotError(
                f"there are no {rows} at {', '.join(f'{k} = {v:g}' for k, v in wanted.items())}: "
                f"{name} is one of {there}, and not every combination of conditions is there"
            )
    return mask


def check(emulator: Draws, dataset: Dataset) -> None:
    """Raises PlotError if the data have other columns than the emulator."""
    for what, is_of, holds in (
        ("event_columns", "draws", "hold"),
        ("condition_columns", "is conditioned on", "are conditioned on"),
    ):
        own, theirs = (_names(getattr(each, what)) for each in (emulator, dataset))
        if own != theirs:
            raise PlotError(
                f"the emulator {is_of} {', '.join(own) or 'nothing'}, the data {holds} "
                f"{', '.join(theirs) or 'nothing'}: give the data it was trained on"
            )


def _pair(
    emulator: Draws, dataset: Dataset, columns: Sequence[str] | None
) -> tuple[Column, Column]:
    check(emulator, dataset)
    own = _names(emulator.event_columns)
    if columns is None and len(own) != 2:
        raise PlotError(
            f"a picture shows two event columns, the emulator has {len(own)} "
            f"({', '.join(own)}): " + ("name two" if len(own) > 2 else "there is no plane to show")
        )
    wanted = list(own if columns is None else columns)
    for name in wanted:
        if name not in own:
            raise PlotError(f"there is no event column {name!r}: {nearest(name, own)}")
    if len(set(wanted)) != 2 or len(wanted) != 2:
        raise PlotError(f"a picture shows two different event columns, not {', '.join(wanted)}")
    across, up = (dataset.event_columns[own.index(name)] for name in wanted)
    return across, up


def _names(columns: Iterable[Any]) -> list[str]:
    """Names of columns that come as names or as `Column`s."""
    return [each if isinstance(each, str) else str(each.name) for each in columns]


def nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def _plane(figure: Figure, shown: Compared, at: Sequence[int]) -> tuple[Axes, Axes, Axes]:
    """The plane, the marginal above it and the one on its right."""
    grid = figure.add_gridspec(2, 2, width_ratios=(4, 1), height_ratios=(1, 4))
    main = figure.add_subplot(grid[1, 0])
    above = figure.add_subplot(grid[0, 0], sharex=main)
    right = figure.add_subplot(grid[1, 1], sharey=main)

    data, drawn = shown.data_NF[:, at], shown.drawn_NF[:, at]
    edges = (
        density.edges(data[:, 0], drawn[:, 0]),
        density.edges(data[:, 1], drawn[:, 1]),
    )
    if len(data) <= FEW:
        main.plot(*data.T, ".", color=DATA, alpha=0.4, markersize=4, markeredgewidth=0)
    else:
        shade = density.fading(density.counts(data, edges))
        main.pcolormesh(*edges, shade.T, cmap="Blues", vmin=0, vmax=1.6, rasterized=True)

    spreads = density.spreads(data, edges)
    sure = density.sure(len(data))
    contour(main, data, edges, spreads, sure, kind="data")
    contour(main, drawn, edges, spreads, density.LEVELS, kind="emulator")
    marginal(above, data[:, 0], drawn[:, 0], edges[0], "vertical")
    marginal(right, data[:, 1], drawn[:, 1], edges[1], "horizontal")
    main.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
    return main, above, right


def contour(
    axes: Axes,
    events_N2: Array,
    edges: Edges,
    spreads: tuple[float, float],
    fractions: Sequence[float],
    *,
    kind: Literal["data", "emulator"],
) -> None:
    """Lines around the densest fractions of the events, as far as the picture holds them."""
    color, dash = {"data": (DATA, "dashed"), "emulator": (EMULATOR, "solid")}[kind]
    density_XY = density.smooth(density.counts(events_N2, edges), spreads)
    heights = density.enclosing(density_XY, fractions, len(events_N2))
    reached = ", ".join(f"{each:.0%}" for each in fractions[: len(heights)]) or "nothing"
    axes.plot([], [], color=color, linestyle=dash, label=f"contours enclose {reached}")
    if heights:
        across, up = ((each[1:] + each[:-1]) / 2 for each in edges)
        levels = sorted(set(heights))
        widths = np.linspace(0.9, 1.9, len(density.LEVELS))[-len(levels) :].tolist()
        style: dict[str, Any] = {"colors": color, "linestyles": dash, "linewidths": widths}
        axes.contour(across, up, density_XY.T, levels=levels, **style)


def marginal(
    axes: Axes,
    data_N: Array,
    drawn_N: Array,
    edges: Array,
    side: Literal["vertical", "horizontal"],
) -> None:
    joined = density.joined(edges, len(data_N))
    data, drawn = (density.marginal(each, joined) for each in (data_N, drawn_N))
    axes.stairs(data, joined, orientation=side, fill=True, color=DATA, alpha=0.3)
    axes.stairs(drawn, joined, orientation=side, color=EMULATOR, linewidth=1.4)


def notes(figure: Figure, shown: Compared, plane: Axes | None, more: str = "") -> None:
    """What is shown, above it all: which rows, how many, their NLL, what the plane's lines are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lines = plane.get_legend_handles_labels()[0] if plane else []
    error = "" if math.isnan(shown.error) else rf" $\pm$ {shown.error:.3f}"
    head = f"{literal(shown.where)}: NLL = {shown.nll:.3f}{error} nats per event"
    figure.legend(
        handles=[
            Patch(color=DATA, alpha=0.3, label=f"data, n = {len(shown.data_NF):,}"),
            *lines[:1],
            Line2D([], [], color=EMULATOR, label=f"emulator, n = {len(shown.drawn_NF):,}"),
            *lines[1:],
        ],
        loc="outside upper left",
        ncols=2,
        alignment="left",
        title=f"{head}\n{more}" if more else head,
    )


def _outside(events_N2: Array, main: Axes) -> float:
    """Fraction of the events that lie outside the plane that is shown."""
    limits = np.array([main.get_xlim(), main.get_ylim()])
    inside = (events_N2 >= limits[:, 0]) & (events_N2 <= limits[:, 1])
    return 1.0 - float(inside.all(axis=1).mean())


def label_of(column: Column) -> str:
    return f"{literal(column.name)} [{_unit(column)}]"


def per(column: Column) -> str:
    """The label of a density in that column."""
    return "density" if not column.unit else f"density [1/{_unit(column)}]"


def _unit(column: Column) -> str:
    return _UNITS.get(column.unit, literal(column.unit))


@contextmanager
def figure_of(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of that size in inches, in our style; nobody else's figures change."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: that would choose a screen and keep it

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def suffix_of(out: Path) -> str:
    if out.suffix.lower() not in SUFFIXES:
        raise PlotError(
            f"{out} ends in {out.suffix or 'nothing'!r}: a picture is one of {', '.join(SUFFIXES)}"
        )
    return out.suffix.lower().removeprefix(".")


def write(figure: Figure, out: Path) -> None:
    """The figure as `out`, in one step."""
    with draft_of(out) as draft:
        figure.savefig(draft, format=suffix_of(out))
