"""Pictures: what an emulator draws against the data, and how runs learned.

Each function makes one figure and writes it in one step; the suffix of the file decides between
PNG, PDF and SVG. No window is opened and no setting of matplotlib outlives a call.

Letters of the arrays:
    N rows    F event columns    C condition columns    X, Y bins along the two axes
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.draft import draft_of
from data_prep.errors import InputError
from hpo.record import FINISHED, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from data_prep.columns import Column, Dataset

Array = NDArray[np.float64]
Edges = tuple[Array, Array]

SUFFIXES = (".png", ".pdf", ".svg")

LEVELS = (0.5, 0.9, 0.99)
"""Fractions of all events that the contours enclose, highest density first."""

DRAWS = 100_000
"""Events drawn, about: enough that the contours show the emulator and not the draw."""

BINS = 90
"""Bins along each axis of the plane; the marginals of few rows join two or three of them."""

FEW = 3000
"""Up to so many rows are drawn as points; of more, a histogram says more."""

SURE = 20
"""Rows that must lie outside a contour of the data for it to be drawn: else it circles single
rows."""

DATA, EMULATOR = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe & Ito (2008): told apart with any colour vision, and in grey."""

PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito (2008), without their yellow, which is lost on white."""

DASHES = (0, (3, 1.5))
"""Of the training curves."""

LIGHTER = ("pruned", "failed")
"""States of runs that are drawn lighter: they did not come to their own end."""

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
    from data_prep.columns import Dataset

    _suffix(out)
    dataset = Dataset.read(folder)
    pair = _pair(emulator, dataset, columns)
    shown = _compared(emulator, dataset, folder, conditions or {}, split, seed)
    at = [_names(dataset.event_columns).index(each.name) for each in pair]
    with _figure(7.2, 8.0) as figure:
        main, above, right = _plane(figure, shown, at)
        main.set(xlabel=_label(pair[0]), ylabel=_label(pair[1]))
        above.set(ylabel=_per(pair[0]))
        right.set(xlabel=_per(pair[1]))
        above.tick_params(labelbottom=False)
        right.tick_params(labelleft=False)
        beyond = (_outside(shown.data_NF[:, at], main), _outside(shown.drawn_NF[:, at], main))
        _notes(figure, shown, beyond)
        _write(figure, out)
    return out


def losses(records: Sequence[RunRecord], out: Path) -> Path:
    """Training and validation NLL against epochs and against wall-clock time.

    The best epoch is marked. Pruned and failed runs are drawn lighter. With more runs than
    `PALETTE` has colours, the best are coloured and the others grey.

    Raises:
        PlotError: If no run has an epoch with a validation NLL, or if the suffix is none of
            `SUFFIXES`.
    """
    _suffix(out)
    told = [each for each in records if any(row.val_nll is not None for row in each.epochs)]
    if not told:
        raise PlotError(
            f"none of the {len(records)} runs has an epoch with a validation NLL yet: "
            "there is no curve to draw"
        )
    with _figure(10.5, 4.8) as figure:
        by_epoch, by_time = figure.subplots(1, 2, sharey=True)
        _curves(by_epoch, told, _epochs)
        _curves(by_time, told, _minutes)
        by_epoch.set(xlabel="Epoch", ylabel="NLL [nats per event]", ylim=_span(told))
        by_time.set(xlabel="Wall-clock time [min]")
        _key(figure, by_epoch, len(told))
        _write(figure, out)
    return out


def enclosing(density_XY: Array, fractions: Sequence[float], whole: float) -> list[float]:
    """The density at the edge of the smallest region that holds each fraction of the whole.

    Args:
        density_XY: Events in each bin, shape `(X, Y)`.
        fractions: In (0, 1).
        whole: All events, those outside the bins too.

    Returns:
        The lowest density inside the region, for each fraction that the bins hold at all.
    """
    falling = np.sort(density_XY, axis=None)[::-1]
    held = np.cumsum(falling) / whole
    # The bin that brings the sum up to the fraction still belongs to the region.
    last = [int(np.searchsorted(held, each)) for each in fractions]
    return [float(falling[each]) for each in last if each < len(falling)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Compared:
    """Rows of the data and events drawn at their conditions."""

    data_NF: Array
    drawn_NF: Array
    nll: float
    """Of the data rows, nats per event."""
    error: float
    """Standard error of `nll`; NaN for a single row, or where a row has no density at all."""
    where: str
    """What rows these are."""


def _compared(
    emulator: Draws,
    dataset: Dataset,
    folder: Path,
    conditions: Mapping[str, float],
    split: str,
    seed: int,
) -> _Compared:
    from data_prep.stream import read_split

    rows = read_split(folder, split)
    names = _names(dataset.condition_columns)
    mask = _chosen(rows.conditions, names, conditions, f"{split} rows of {folder}")
    events_NF = rows.events[mask].astype(np.float64)
    given = dict(zip(names, rows.conditions[mask].astype(np.float64).T, strict=True))

    nll_N = -np.asarray(emulator.log_prob(events_NF, **given), dtype=np.float64)
    times = max(1, round(DRAWS / len(events_NF)))
    repeated = {name: np.tile(each, times) for name, each in given.items()}
    drawn_NF = emulator.sample(times * len(events_NF), seed=seed, **repeated)
    return _Compared(
        data_NF=events_NF,
        drawn_NF=np.asarray(drawn_NF, dtype=np.float64),
        nll=float(nll_N.mean()),
        error=_standard_error(nll_N),
        where=f"{split} rows, "
        + (", ".join(f"{name} = {each:g}" for name, each in conditions.items()) or "all cells"),
    )


def _standard_error(values_N: Array) -> float:
    if len(values_N) < 2 or not np.isfinite(values_N).all():
        return math.nan
    return float(values_N.std(ddof=1)) / math.sqrt(len(values_N))


def _chosen(
    conditions_NC: NDArray[Any], names: Sequence[str], wanted: Mapping[str, float], rows: str
) -> NDArray[np.bool_]:
    mask = np.ones(len(conditions_NC), dtype=bool)
    for name, value in wanted.items():
        if name not in names:
            raise PlotError(f"there is no condition {name!r}: {_nearest(name, names)}")
        column = conditions_NC[:, names.index(name)]
        mask &= np.isclose(column, value, rtol=1e-5, atol=0)  # the data are float32
        if not mask.any():
            there = ", ".join(f"{each:g}" for each in np.unique(column))
            raise PlotError(
                f"there are no {rows} at {', '.join(f'{k} = {v:g}' for k, v in wanted.items())}: "
                f"{name} is one of {there}, and not every combination of conditions is there"
            )
    return mask


def _pair(
    emulator: Draws, dataset: Dataset, columns: Sequence[str] | None
) -> tuple[Column, Column]:
    own, theirs = _names(emulator.event_columns), _names(dataset.event_columns)
    if own != theirs:
        raise PlotError(
            f"the emulator draws {', '.join(own)}, the data hold {', '.join(theirs)}: "
            "give the data it was trained on"
        )
    if _names(emulator.condition_columns) != _names(dataset.condition_columns):
        raise PlotError(
            f"the emulator is conditioned on {', '.join(_names(emulator.condition_columns))}, "
            f"the data on {', '.join(_names(dataset.condition_columns))}: "
            "give the data it was trained on"
        )
    if columns is None and len(own) != 2:
        raise PlotError(
            f"a picture shows two event columns, the emulator has {len(own)} "
            f"({', '.join(own)}): " + ("name two" if len(own) > 2 else "there is no plane to show")
        )
    wanted = list(own if columns is None else columns)
    for name in wanted:
        if name not in own:
            raise PlotError(f"there is no event column {name!r}: {_nearest(name, own)}")
    if len(set(wanted)) != 2 or len(wanted) != 2:
        raise PlotError(f"a picture shows two different event columns, not {', '.join(wanted)}")
    across, up = (dataset.event_columns[own.index(name)] for name in wanted)
    return across, up


def _names(columns: Iterable[Any]) -> list[str]:
    """Names of columns that come as names or as `Column`s."""
    return [each if isinstance(each, str) else str(each.name) for each in columns]


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def _plane(figure: Figure, shown: _Compared, at: Sequence[int]) -> tuple[Axes, Axes, Axes]:
    """The plane, the marginal above it and the one on its right."""
    grid = figure.add_gridspec(2, 2, width_ratios=(4, 1), height_ratios=(1, 4))
    main = figure.add_subplot(grid[1, 0])
    above = figure.add_subplot(grid[0, 0], sharex=main)
    right = figure.add_subplot(grid[1, 1], sharey=main)

    data, drawn = shown.data_NF[:, at], shown.drawn_NF[:, at]
    edges = (_edges(data[:, 0], drawn[:, 0]), _edges(data[:, 1], drawn[:, 1]))
    if len(data) <= FEW:
        main.plot(*data.T, ".", color=DATA, alpha=0.4, markersize=4, markeredgewidth=0)
    else:
        shade = _fading(_counts(data, edges))
        main.pcolormesh(*edges, shade.T, cmap="Blues", vmin=0, vmax=1.6, rasterized=True)

    spreads = _spreads(data, edges)
    sure = [each for each in LEVELS if len(data) * (1 - each) >= SURE]
    _contour(main, data, edges, spreads, sure, color=DATA, dash="dashed")
    _contour(main, drawn, edges, spreads, LEVELS, color=EMULATOR, dash="solid")
    _marginal(above, data[:, 0], drawn[:, 0], edges[0], "vertical")
    _marginal(right, data[:, 1], drawn[:, 1], edges[1], "horizontal")
    main.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
    return main, above, right


def _edges(data_N: Array, drawn_N: Array) -> Array:
    """Bins over nearly all events of both, but no wilder than the data for a wild emulator."""
    low, high = np.quantile(data_N, (0.001, 0.999))
    wider = 0.3 * (high - low) or 0.05 * abs(high) or 1.0
    least, most = np.quantile(drawn_N, (0.002, 0.998))
    low = min(low, max(least, low - wider)) - wider / 4
    high = max(high, min(most, high + wider)) + wider / 4
    # A quantity that is never negative is not shown with room for negative values.
    never_negative = min(data_N.min(), least) >= 0
    return np.linspace(max(low, 0.0) if never_negative else low, high, BINS + 1)


def _counts(events_N2: Array, edges: Edges) -> Array:
    counts: Array = np.histogram2d(events_N2[:, 0], events_N2[:, 1], bins=list(edges))[0]
    return counts


def _spreads(data_N2: Array, edges: Edges) -> tuple[float, float]:
    """Half of Scott's bandwidth along each axis, in bins: peaks stay, single rows go."""
    shrink = 0.5 * len(data_N2) ** (-1 / 6)
    across, up = (
        max(1.0, shrink * float(np.std(np.clip(column, each[0], each[-1]))) / (each[1] - each[0]))
        for column, each in zip(data_N2.T, edges, strict=True)
    )
    return across, up


def _smooth(counts_XY: Array, spreads: tuple[float, float]) -> Array:
    """The histogram under a Gaussian of so many bins; what leaves over an edge is given back."""
    smoothed = counts_XY
    for axis, spread in enumerate(spreads):
        bins = np.arange(counts_XY.shape[axis])
        kernel = np.exp(-0.5 * ((bins[:, None] - bins) / spread) ** 2)
        # Column j holds where bin j goes: sums to one, so that nothing is lost.
        smoothed = np.moveaxis(
            np.tensordot(kernel / kernel.sum(axis=0), smoothed, axes=(1, axis)), 0, axis
        )
    return smoothed


def _contour(
    axes: Axes,
    events_N2: Array,
    edges: Edges,
    spreads: tuple[float, float],
    fractions: Sequence[float],
    *,
    color: str,
    dash: str,
) -> None:
    """Lines around the densest fractions of the events, as far as the picture holds them."""
    density_XY = _smooth(_counts(events_N2, edges), spreads)
    heights = enclosing(density_XY, fractions, len(events_N2))
    reached = ", ".join(f"{each:.0%}" for each in fractions[: len(heights)]) or "nothing"
    axes.plot([], [], color=color, linestyle=dash, label=f"contours enclose {reached}")
    if heights:
        across, up = ((each[1:] + each[:-1]) / 2 for each in edges)
        levels = sorted(set(heights))
        widths = np.linspace(0.9, 1.9, len(LEVELS))[-len(levels) :].tolist()
        style: dict[str, Any] = {"colors": color, "linestyles": dash, "linewidths": widths}
        axes.contour(across, up, density_XY.T, levels=levels, **style)


def _fading(counts_XY: Array) -> NDArray[Any]:
    """Counts as a shade in [0, 1], by their logarithm; bins without an event stay white."""
    shade = np.log1p(counts_XY) / np.log1p(max(counts_XY.max(), 1.0))
    return np.ma.masked_equal(shade, 0.0)


def _marginal(
    axes: Axes,
    data_N: Array,
    drawn_N: Array,
    edges: Array,
    side: Literal["vertical", "horizontal"],
) -> None:
    joined = edges[:: 3 if len(data_N) < 1000 else 2 if len(data_N) < 10_000 else 1]
    # Weights, not density=True: what lies outside the picture belongs to the whole.
    data, drawn = (
        np.histogram(each, joined)[0] / len(each) / np.diff(joined) for each in (data_N, drawn_N)
    )
    axes.stairs(data, joined, orientation=side, fill=True, color=DATA, alpha=0.3)
    axes.stairs(drawn, joined, orientation=side, color=EMULATOR, linewidth=1.4)


def _notes(figure: Figure, shown: _Compared, outside: tuple[float, float]) -> None:
    """What is shown, above it all: which rows, how many, their NLL, what the lines are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    of_data, of_emulator = figure.axes[0].get_legend_handles_labels()[0]
    error = "" if math.isnan(shown.error) else rf" $\pm$ {shown.error:.3f}"
    figure.legend(
        handles=[
            Patch(color=DATA, alpha=0.3, label=f"data, n = {len(shown.data_NF):,}"),
            of_data,
            Line2D([], [], color=EMULATOR, label=f"emulator, n = {len(shown.drawn_NF):,}"),
            of_emulator,
        ],
        loc="outside upper left",
        ncols=2,
        alignment="left",
        title=f"{shown.where}: NLL = {shown.nll:.3f}{error} nats per event\n"
        f"outside the picture: {outside[0]:.2%} of the data, {outside[1]:.2%} of the emulator",
    )


def _outside(events_N2: Array, main: Axes) -> float:
    """Fraction of the events that lie outside the plane that is shown."""
    limits = np.array([main.get_xlim(), main.get_ylim()])
    inside = (events_N2 >= limits[:, 0]) & (events_N2 <= limits[:, 1])
    return 1.0 - float(inside.all(axis=1).mean())


def _label(column: Column) -> str:
    return f"{_literal(column.name)} [{_unit(column)}]"


def _per(column: Column) -> str:
    """The label of a density in that column."""
    return "density" if not column.unit else f"density [1/{_unit(column)}]"


def _unit(column: Column) -> str:
    return _UNITS.get(column.unit, _literal(column.unit))


def _literal(name: str) -> str:
    return name.replace("$", r"\$")


def _curves(axes: Axes, records: Sequence[RunRecord], along: Callable[[RunRecord], Array]) -> None:
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
    return _literal(f"{record.study} {record.trial}{best}{state}")


def _column(record: RunRecord, name: str) -> Array:
    """The values by epoch, NaN where there is none: a gap in the line."""
    values = [getattr(row, name) for row in record.epochs]
    return np.array([math.nan if each is None else each for each in values])


def _epochs(record: RunRecord) -> Array:
    return np.array([row.epoch for row in record.epochs], dtype=np.float64)


def _minutes(record: RunRecord) -> Array:
    return np.cumsum(_column(record, "seconds")) / 60


def _span(records: Sequence[RunRecord]) -> tuple[float, float]:
    """Limits of the NLL that show where runs differ, not the fall of the first epochs."""
    able = [each for each in records if each.state not in LIGHTER] or records
    lowest = [_column(each, "val_nll") for each in records]
    lowest += [_column(each, "train_nll") for each in able]
    low = min(float(np.nanmin(each)) for each in lowest if np.isfinite(each).any())
    high = max(float(np.nanquantile(_column(each, "val_nll"), 0.9)) for each in able)
    air = 0.06 * max(high - low, 0.05)
    return low - air, high + 2 * air


def _key(figure: Figure, axes: Axes, runs: int) -> None:
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


def _place(handle: Any) -> int:
    return PALETTE.index(handle.get_color())


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of that size in inches, in our style; nobody else's figures change."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: that would choose a screen and keep it

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _suffix(out: Path) -> str:
    if out.suffix.lower() not in SUFFIXES:
        raise PlotError(
            f"{out} ends in {out.suffix or 'nothing'!r}: a picture is one of {', '.join(SUFFIXES)}"
        )
    return out.suffix.lower().removeprefix(".")


def _write(figure: Figure, out: Path) -> None:
    """The figure as `out`, in one step."""
    with draft_of(out) as draft:
        figure.savefig(draft, format=_suffix(out))
