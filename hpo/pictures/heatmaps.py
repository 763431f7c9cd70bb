"""Heat maps over the cells: how far the density moves from one to another, and where it errs.

A map has one field for each cell. Over a plane of two conditions the others are fixed; the matrix
of all pairs takes any number of them.

Letters of the arrays:
    K cells    X, Y values of the conditions across and up
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle

from data_prep.dataset import key
from hpo.pictures import divergence as divergences
from hpo.pictures.contours import (
    PlotError,
    check,
    chosen,
    figure_of,
    label_of,
    nearest,
    suffix_of,
    write,
)
from hpo.pictures.density import Array
from hpo.pictures.divergence import At
from hpo.pictures.losses import literal
from hpo.pictures.steps import Step, silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from data_prep.columns import Column
    from models import Emulator

MOST = 100
"""Cells that a matrix of all pairs can show."""

NUMBERED = 12
"""Up to so many cells, a matrix has its numbers written in."""

EVENLY = 6
"""Values of each condition where there are no data to name cells."""

COLOURS = "cividis"
"""Made for all colour vision: Nunez, Anderton & Renslow (2018), PLoS ONE 13, e0199239."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """The fields of a map: one for each pair of values across and up."""

    across: Column
    up: Column | None
    """None where a single condition is left: a map of one row."""
    xs: tuple[float, ...]
    ys: tuple[float, ...]

    @classmethod
    def of(cls, cells: Sequence[At], columns: Sequence[Column]) -> _Grid:
        """Over one or two columns, with the values that the cells have."""
        across, up = columns[0], columns[1] if len(columns) > 1 else None
        xs = tuple(sorted({cell[across.name] for cell in cells}))
        return cls(across, up, xs, tuple(sorted({cell[up.name] for cell in cells})) if up else ())

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of fields."""
        return (len(self.ys) or 1, len(self.xs))

    def place(self, cell: At) -> tuple[int, int] | None:
        """Row and column of its field; None off the grid."""
        xs, ys = ([key([each]) for each in values] for values in (self.xs, self.ys))
        x, y = key([cell[self.across.name]]), key([cell[self.up.name]]) if self.up else None
        if x not in xs or (y is not None and y not in ys):
            return None
        return (0 if y is None else ys.index(y), xs.index(x))


def divergence(
    emulator: Emulator,
    folder: Path | None,
    *,
    conditions: Mapping[str, float] | None = None,
    columns: Sequence[str] | None = None,
    seed: int = 0,
    step: Step = silent,
    out: Path,
) -> Path:
    """The Jensen-Shannon divergence of the emulator's densities, in nats.

    With a value of every condition: from that density to the one of each cell, on a plane. Else
    between all pairs of cells, those of other conditions than the given ones left out.

    Args:
        emulator: Of any number of event columns.
        folder: A prepared dataset, whose cells are shown; None takes values over the domain.
        conditions: The reference, or what fixes some of the conditions.
        columns: The two conditions of the plane, across and up; needed where there are more.
        seed: Of the draws.
        step: Called after each cell.
        out: The picture.

    Raises:
        PlotError: If there is no condition, no such cell, too many cells for a matrix or too many
            conditions for a plane, or if the suffix is none of `SUFFIXES`.
        DataError: If `folder` holds no prepared dataset.
    """
    suffix_of(out)
    given = dict(conditions or {})
    _known(emulator, [*given, *(columns or ())])
    all_columns = emulator.module.condition_columns
    if len(given) < len(all_columns):
        if columns:
            raise PlotError(
                "columns are those of a map around one reference: give a value of every condition"
            )
        _matrix(emulator, _cells(emulator, folder, given), sorted(given), seed, step, out)
        return out
    plane = _plane_of(emulator, columns)
    fixed = {name: value for name, value in given.items() if name not in [c.name for c in plane]}
    _around(emulator, given, _cells(emulator, folder, fixed), plane, seed, step, out)
    return out


def errors(
    emulator: Emulator,
    folder: Path,
    *,
    conditions: Mapping[str, float] | None = None,
    split: str = "test",
    seed: int = 0,
    out: Path,
) -> Path:
    """The Kolmogorov-Smirnov distance of each cell over its floor, on the plane of conditions.

    One map for each event column. 1 is what a perfect emulator would reach. Cells with too few
    rows to tell are hatched.

    Args:
        emulator: Of any number of event columns.
        folder: A prepared dataset.
        conditions: What fixes all conditions but one or two.
        split: Which rows to compare with.
        seed: Of the draws.
        out: The picture.

    Raises:
        PlotError: If not one or two conditions are left open, if no cell has enough rows, or if
            the suffix is none of `SUFFIXES`.
        DataError: If `folder` holds no prepared dataset.
    """
    from data_prep.stream import Batch, read_split
    from models.evaluation import distances

    suffix_of(out)
    given = dict(conditions or {})
    _known(emulator, list(given))
    plane = _left_open(emulator, given)
    cells = _cells(emulator, folder, given)
    rows = read_split(folder, split)
    kept = chosen(rows.conditions, emulator.condition_columns, given, f"{split} rows of {folder}")
    here = Batch(rows.events[kept], rows.conditions[kept])
    measured = distances.cell_distances(emulator.module, here, seed=seed)
    if not measured:
        raise PlotError(
            f"no cell has {distances.CELL_ROWS} {split} rows in {folder}: "
            "with fewer, chance hides every error"
        )
    grid = _Grid.of(cells, plane)
    counted = _counted(here.conditions, emulator.condition_columns, grid)
    notes = {at: f"{n:,} row{'' if n == 1 else 's'}" for at, n in counted.items()}
    with figure_of(*_size(grid, len(emulator.event_columns))) as figure:
        shown = [each.ks[name] / each.floor[name] for each in measured for name in each.ks]
        span = (min(1.0, *shown), max(2.0, *shown))
        stacked = figure.subplots(len(emulator.event_columns), 1, sharex=True, squeeze=False)
        for axes, name in zip(stacked[:, 0], emulator.event_columns, strict=True):
            values = np.full(grid.shape, math.nan)
            for each in measured:
                values[_placed(grid, each.conditions)] = each.ks[name] / each.floor[name]
            _fields(axes, grid, values, span, notes)
            axes.set_title(literal(name), loc="left", fontsize=10, fontweight="bold")
            axes.label_outer()
        _bar(figure, stacked[0, 0], "KS distance over its floor [dimensionless]", stacked.ravel())
        fixed = f", {_told(given)}" if given else ""
        _head(
            figure,
            f"Emulator against the {split} rows{fixed}: a perfect one reaches 1 on average\n"
            f"hatched: fewer than {distances.CELL_ROWS} rows, too few to tell",
        )
        write(figure, out)
    return out


def _around(
    emulator: Emulator,
    reference: At,
    cells: Sequence[At],
    plane: Sequence[Column],
    seed: int,
    step: Step,
    out: Path,
) -> None:
    grid = _Grid.of(cells, plane)
    found = divergences.from_one(emulator, reference, cells, seed=seed, step=step)
    values = np.full(grid.shape, math.nan)
    for cell, value in zip(cells, found.values, strict=True):
        values[_placed(grid, cell)] = value
    with figure_of(*_size(grid, 1)) as figure:
        axes = figure.add_subplot()
        _fields(axes, grid, values, (0.0, float(found.values.max()) or math.log(2)), {})
        at = grid.place(reference)
        if at is not None and not math.isnan(values[at]):
            _framed(axes, at)
        _bar(figure, axes, _NATS, [axes])
        framed = " (framed)" if at is not None else ""
        _head(
            figure,
            f"Divergence from {_told(reference)}{framed}\n{_chance(float(found.errors.max()))}",
        )
        write(figure, out)


def _matrix(
    emulator: Emulator,
    cells: Sequence[At],
    fixed: Sequence[str],
    seed: int,
    step: Step,
    out: Path,
) -> None:
    if not 2 <= len(cells) <= MOST:
        raise PlotError(
            f"a matrix shows the pairs of 2 to {MOST} cells, there are {len(cells)}: "
            + ("fix fewer conditions" if len(cells) < 2 else "fix one by --NAME VALUE")
        )
    open_columns = [c for c in emulator.module.condition_columns if c.name not in fixed]
    names = [column.name for column in open_columns]
    cells = sorted(cells, key=lambda cell: [cell[name] for name in names])
    found = divergences.between_all(emulator, cells, seed=seed, step=step)
    side = min(12.0, max(4.8, 2.4 + (0.5 if len(cells) <= NUMBERED else 0.2) * len(cells)))
    with figure_of(side + 0.8, side + 0.4) as figure:
        axes = figure.add_subplot()
        _pairs(axes, found.values, cells, open_columns)
        _bar(figure, axes, _NATS, [axes])
        here = f" at {_told({name: cells[0][name] for name in fixed})}" if fixed else ""
        _head(
            figure,
            f"Divergence between every two of the {len(cells)} cells{here}\n"
            f"{_chance(float(found.errors.max()))}",
        )
        write(figure, out)


def _pairs(axes: Axes, values_KK: Array, cells: Sequence[At], columns: Sequence[Column]) -> None:
    """The matrix, with lines between groups of cells that differ in the last condition alone."""
    most = float(values_KK.max()) or math.log(2)
    edges = np.arange(len(cells) + 1.0)
    axes.pcolormesh(
        edges, edges, values_KK, cmap=COLOURS, vmin=0, vmax=most, linewidth=0, rasterized=True
    )
    if len(cells) <= NUMBERED:
        for j, k in product(range(len(cells)), repeat=2):
            _write_in(axes, j, k, _number(values_KK[j, k], most), values_KK[j, k] / most)
    *outer, last = columns
    groups = [", ".join(_short(cell[column.name]) for column in outer) for cell in cells]
    starts = [k for k in range(len(cells)) if k == 0 or groups[k] != groups[k - 1]]
    for start in starts[1:]:
        axes.axhline(start, color="white", linewidth=1.2)
        axes.axvline(start, color="white", linewidth=1.2)
    middles = [(a + b) / 2 for a, b in zip(starts, [*starts[1:], len(cells)], strict=True)]
    told = label_of(last)
    if outer:
        told += ", in groups of " + ", ".join(label_of(column) for column in outer)
    small = 9 if len(cells) <= 24 else 8 if len(cells) <= 50 else 5
    for axis in (axes.xaxis, axes.yaxis):
        axis.remove_overlapping_locs = False
        upright = 90 if axis is axes.xaxis and len(cells) > NUMBERED else 0
        axis.set_ticks(edges[:-1] + 0.5, [_short(cell[last.name]) for cell in cells])
        axis.set_tick_params(which="major", labelsize=small, length=0, rotation=upright)
        if outer:
            axis.set_ticks(middles, [groups[start] for start in starts], minor=True)
            longest = max(len(_short(cell[last.name])) for cell in cells)
            lying = axis is axes.xaxis and not upright
            pad = 6 + small * (1.2 if lying else 0.75 * longest)
            axis.set_tick_params(which="minor", labelsize=9, length=0, pad=pad)
        axis.set_label_text(told)
    _bare(axes)


def _fields(
    axes: Axes,
    grid: _Grid,
    values_YX: Array,
    span: tuple[float, float],
    notes: Mapping[tuple[int, int], str],
) -> None:
    """The fields with their numbers; hatched where there is a note but no value."""
    rows, columns = grid.shape
    low, high = span
    axes.pcolormesh(
        np.arange(columns + 1.0),
        np.arange(rows + 1.0),
        np.ma.masked_invalid(values_YX),
        cmap=COLOURS,
        vmin=low,
        vmax=high,
        edgecolor="white",
        linewidth=1.5,
    )
    for y, x in product(range(rows), range(columns)):
        value, note = float(values_YX[y, x]), notes.get((y, x), "")
        if not math.isnan(value):
            _write_in(axes, y, x, _number(value, high), (value - low) / (high - low), note)
        elif note:
            _hatched(axes, y, x, note)
    axes.set_xticks(np.arange(columns) + 0.5, [_short(each) for each in grid.xs])
    axes.set_yticks(np.arange(len(grid.ys)) + 0.5, [_short(each) for each in grid.ys])
    axes.tick_params(length=0)
    axes.set(xlabel=label_of(grid.across), ylabel=label_of(grid.up) if grid.up else "")
    axes.set(xlim=(0, columns), ylim=(0, rows))
    _bare(axes)


def _write_in(axes: Axes, y: int, x: int, text: str, shade: float, note: str = "") -> None:
    colour = "white" if shade < 0.55 else "black"
    style: dict[str, Any] = {"ha": "center", "color": colour}
    if not note:
        axes.text(x + 0.5, y + 0.5, text, va="center", fontsize=9, **style)
        return
    axes.text(x + 0.5, y + 0.5, text, va="bottom", fontsize=10, **style)
    axes.text(x + 0.5, y + 0.42, note, va="top", fontsize=7, **style)


def _hatched(axes: Axes, y: int, x: int, note: str) -> None:
    inside = Rectangle(
        (x + 0.03, y + 0.03), 0.94, 0.94, facecolor="none", edgecolor="0.75", hatch="///", lw=0
    )
    axes.add_patch(inside)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.text(
        x + 0.5, y + 0.5, note, ha="center", va="center", fontsize=7, color="0.25", bbox=behind
    )


def _framed(axes: Axes, at: tuple[int, int]) -> None:
    y, x = at
    frame = Rectangle(
        (x, y), 1, 1, facecolor="none", edgecolor="#D55E00", linewidth=2.5, clip_on=False, zorder=3
    )
    axes.add_patch(frame)


def _bar(figure: Figure, axes: Axes, label: str, beside: Any) -> None:
    bar = figure.colorbar(axes.collections[0], ax=beside, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label)


def _head(figure: Figure, text: str) -> None:
    """Above it all, from the left, in lines that the figure is wide enough for."""
    wide = int(13 * figure.get_size_inches()[0])
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, wide)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)


def _bare(axes: Axes) -> None:
    axes.spines[:].set_visible(False)


_NATS = "Jensen-Shannon divergence [nats]"


def _chance(error: float) -> str:
    return (
        f"0 for the same density, ln 2 = 0.69 for no overlap; Monte Carlo error up to {error:.1g}"
    )


def _size(grid: _Grid, maps: int) -> tuple[float, float]:
    rows, columns = grid.shape
    return max(6.0, 2.0 + 0.72 * columns), 1.6 + maps * (0.45 + max(0.5 * rows, 0.9))


def _number(value: float, most: float) -> str:
    """With so many digits that the largest has two of them, but not more than four."""
    digits = min(4, max(0, 1 - math.floor(math.log10(most))) if most < 1 else 2)
    return f"{value:.{digits}f}" if value < 9.995 else f"{value:.0f}"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _told(conditions: Mapping[str, float]) -> str:
    return ", ".join(f"{literal(name)} = {value:g}" for name, value in conditions.items())


def _cells(emulator: Emulator, folder: Path | None, fixed: Mapping[str, float]) -> list[At]:
    """Those with the fixed values: of the dataset, or evenly over the domain."""
    from data_prep.dataset import Dataset

    names = emulator.condition_columns
    if folder is None:
        steps = [[fixed[name]] if name in fixed else _evenly(emulator, name) for name in names]
        return [dict(zip(names, values, strict=True)) for values in product(*steps)]
    dataset = Dataset.read(folder)
    check(emulator, dataset)
    conditions_KC = np.array([cell.conditions for cell in dataset.cells], dtype=np.float64)
    kept = chosen(conditions_KC.reshape(-1, len(names)), names, fixed, f"cells of {folder}")
    all_cells = [dict(zip(names, cell.conditions, strict=True)) for cell in dataset.cells]
    return [cell for cell, keep in zip(all_cells, kept, strict=True) if keep]


def _evenly(emulator: Emulator, name: str) -> list[float]:
    low, high = emulator.domain[name]
    steps = np.geomspace(low, high, EVENLY) if low > 0 else np.linspace(low, high, EVENLY)
    return sorted({float(each) for each in steps})


def _counted(conditions_NC: Any, names: Sequence[str], grid: _Grid) -> dict[tuple[int, int], int]:
    """Rows of each cell of the grid, those of none too."""
    values_KC, rows_K = np.unique(conditions_NC, axis=0, return_counts=True)
    rows_of, columns_of = grid.shape
    counted = {(y, x): 0 for y in range(rows_of) for x in range(columns_of)}
    for values_C, rows in zip(values_KC, rows_K, strict=True):
        counted[_placed(grid, dict(zip(names, map(float, values_C), strict=True)))] = int(rows)
    return counted


def _placed(grid: _Grid, cell: At) -> tuple[int, int]:
    at = grid.place(cell)
    assert at is not None
    return at


def _plane_of(emulator: Emulator, columns: Sequence[str] | None) -> list[Column]:
    """The conditions of a plane around a reference: those named, or all if not more than two."""
    those = list(emulator.module.condition_columns)
    if not those:
        raise PlotError("the emulator has no conditions: there are no cells to compare")
    if columns is None:
        if len(those) > 2:
            raise PlotError(
                f"a map shows two conditions, the emulator has {len(those)} "
                f"({', '.join(emulator.condition_columns)}): name two by --columns"
            )
        return those
    if len(set(columns)) != 2 or len(columns) != 2:
        raise PlotError(f"a map shows two different conditions, not {', '.join(columns)}")
    return [those[emulator.condition_columns.index(name)] for name in columns]


def _left_open(emulator: Emulator, given: Mapping[str, float]) -> list[Column]:
    """The one or two conditions that are not fixed."""
    left = [column for column in emulator.module.condition_columns if column.name not in given]
    if len(left) not in (1, 2):
        open_now = ", ".join(column.name for column in left) or "none"
        raise PlotError(
            "a map shows one or two conditions, the others are fixed by --NAME VALUE: "
            f"{open_now} left open"
        )
    return left


def _known(emulator: Emulator, names: Sequence[str]) -> None:
    if not emulator.condition_columns:
        raise PlotError("the emulator has no conditions: there are no cells to compare")
    for name in names:
        if name not in emulator.condition_columns:
            raise PlotError(
                f"there is no condition {name!r}: {nearest(name, emulator.condition_columns)}"
            )
