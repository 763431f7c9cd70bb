"""Maps with one field for each cell, over the plane of one or two conditions.

Letters of the arrays:
    N rows    C conditions    K cells    X, Y values of the conditions across and up
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from data_prep.columns import Column, Value, values_of
from data_prep.dataset import Dataset, shown
from data_prep.errors import suggestion
from hpo.pictures import style
from hpo.pictures.density import Array
from hpo.pictures.style import PlotError
from models import Emulator
from models.bundle.domain import Known, limits_of, texts_of
from models.evaluation.nll import check_columns

At = Mapping[str, Value]
"""A value of every condition, or of some."""
WIDEST = 24
"""Fields of a row, or rows, that a map with numbers can have."""
EVENLY = 6
"""Values of each condition where there are no data to name cells."""


def at_conditions(
    conditions_NC: NDArray[Any], columns: Sequence[Column], wanted: At, rows: str
) -> NDArray[np.bool_]:
    """Which rows have the wanted conditions.

    Raises:
        PlotError: If none has. Names the `rows`.
        DataError: If a wanted text is none of its category.
    """
    mask = np.ones(len(conditions_NC), dtype=bool)
    names = [column.name for column in columns]
    check_names(wanted, names)
    for name, value in wanted.items():
        column = columns[names.index(name)]
        values_N = conditions_NC[:, names.index(name)]
        # The data are float32.
        mask &= np.isclose(values_N, column.number(value), rtol=1e-5, atol=0)
        if not mask.any():
            told = (column.value(float(f"{each:g}")) for each in np.unique(values_N))
            there = ", ".join(each if isinstance(each, str) else f"{each:g}" for each in told)
            raise PlotError(
                f"there are no {rows} at {shown(wanted)}: {name} is one of {there}, and not every "
                "combination of conditions is there"
            )
    return mask


def arguments_of(columns: Sequence[Column], conditions_NC: NDArray[Any]) -> dict[str, Any]:
    """The conditions of rows as arguments of an emulator's methods."""
    return {
        column.name: np.array(column.categories)[values_N.astype(int)]
        if column.categories
        else values_N.astype(float)
        for column, values_N in zip(columns, conditions_NC.T, strict=True)
    }


def check_names(wanted: Sequence[str] | At, names: Sequence[str], kind: str = "condition") -> None:
    """Raises PlotError for a name that is none of the known ones."""
    for name in wanted:
        if name not in names:
            raise PlotError(f"there is no {kind} {name!r}: {suggestion(name, names)}")


def cells_of(emulator: Emulator, folder: Path | None, fixed: At) -> list[At]:
    """Cells with the fixed values: of a prepared dataset, or evenly over the emulator's domain."""
    names = emulator.condition_columns
    if folder is None:
        steps = [
            [fixed[name]] if name in fixed else sorted(set(evenly(emulator.domain[name], EVENLY)))
            for name in names
        ]
        return [dict(zip(names, values, strict=True)) for values in product(*steps)]
    dataset = Dataset.read(folder)
    check_columns(emulator.module, dataset, folder)
    cells = [cell.conditions for cell in dataset.cells]
    cells_KC = np.array(cells, dtype=np.float64).reshape(-1, len(names))
    columns = dataset.condition_columns
    kept = at_conditions(cells_KC, columns, fixed, f"cells of {folder}")
    return [values_of(columns, cells[k]) for k in np.flatnonzero(kept)]


def evenly(known: Known, count: int) -> list[Any]:
    """So many values over a range, in its logarithm where it is positive; all texts of others."""
    low, high = limits_of(known)
    space = np.geomspace if low > 0 else np.linspace
    return [*texts_of(known)] or space(low, high, count).tolist()


@dataclass(frozen=True, slots=True)
class Grid:
    """The fields of a map: one for each pair of values across and up."""

    columns: Sequence[Column]
    """Conditions across and up, or across alone: a map of one row."""
    values: list[NDArray[np.float32]]
    """The values of each condition that some cell has, rising; of a text its number."""

    @classmethod
    def of(cls, cells: Sequence[At], columns: Sequence[Column]) -> Grid:
        """Over one or two conditions of the cells."""
        each = [[column.number(cell[column.name]) for cell in cells] for column in columns]
        return cls(columns, [np.unique(np.array(values, np.float32)) for values in each])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of fields."""
        return (len(self.values[1]) if len(self.values) > 1 else 1, len(self.values[0]))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches that a map needs."""
        return 2.0 + 0.72 * self.shape[1], 0.45 + max(0.5 * self.shape[0], 0.9)

    def place(self, cell: At) -> tuple[int, int] | None:
        """Row and column of its field; None off the grid."""
        wanted = [np.float32(column.number(cell[column.name])) for column in self.columns]
        found = [np.flatnonzero(all_ == one) for all_, one in zip(self.values, wanted, strict=True)]
        if not all(map(len, found)):
            return None
        return (int(found[1][0]) if len(found) > 1 else 0, int(found[0][0]))

    def filled(self, cells: Sequence[At], values: Sequence[float] | NDArray[Any]) -> Array:
        """The value of each cell in its field, NaN in the others, shape `(Y, X)`."""
        values_YX = np.full(self.shape, math.nan)
        for cell, value in zip(cells, values, strict=True):
            values_YX[self.place(cell)] = value
        return values_YX


def draw(
    axes: Axes,
    grid: Grid,
    values_YX: Array,
    span: tuple[float, float],
    notes: Mapping[tuple[int, int], str] | None = None,
    *,
    whole: bool = False,
) -> ScalarMappable:
    """The fields with their numbers, which may be `whole`; hatched if there is a note alone."""
    (rows, columns), (low, high) = grid.shape, span
    drawn = axes.pcolormesh(
        np.arange(columns + 1.0),
        np.arange(rows + 1.0),
        np.ma.masked_invalid(values_YX),
        cmap=style.MAP,
        vmin=low,
        vmax=high,
        edgecolor="white",
        linewidth=1.5,
    )
    for y, x in product(range(rows), range(columns)):
        value, note = float(values_YX[y, x]), (notes or {}).get((y, x), "")
        if not math.isnan(value):
            colour = "white" if value - low < 0.55 * (high - low) else "black"
            look: dict[str, Any] = {"ha": "center", "color": colour}
            above = "bottom" if note else "center"
            number = f"{value:.0f}" if whole else _number(value, high)
            axes.text(x + 0.5, y + 0.5, number, va=above, fontsize=9, **look)
            if note:
                axes.text(x + 0.5, y + 0.42, note, va="top", fontsize=7, **look)
        elif note:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            look = {"ha": "center", "color": "0.25", "bbox": box}
            axes.text(x + 0.5, y + 0.5, note, va="center", fontsize=7, **look)
    axes.set(xlim=(0, columns), ylim=(0, rows), yticks=[])
    for axis, column, values in zip(
        (axes.xaxis, axes.yaxis), grid.columns, grid.values, strict=False
    ):
        axis.set_ticks(np.arange(len(values)) + 0.5, [_short(column, value) for value in values])
        axis.set_label_text(style.label_of(column))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if notes:  # shows through where a field has no value
        axes.patch.set(hatch="///", edgecolor="0.75", linewidth=0)
    return drawn


def _short(column: Column, value: float) -> str:
    told = column.value(value)
    return told if isinstance(told, str) else f"{told:.3g}"


def _number(value: float, most: float) -> str:
    """With so many digits that the largest has two of them, but not more than four."""
    digits = min(4, max(0, 1 - math.floor(math.log10(most))) if most < 1 else 2)
    return f"{value:.{digits}f}" if value < 9.995 else f"{value:.0f}"


def rows_of_cells(dataset: Dataset, *, columns: Sequence[str] | None = None, out: Path) -> Path:
    """The (effective) rows of each cell or region, over one or two conditions.

    Cells that differ in other conditions are added up; regions that do overlap.

    Args:
        dataset: A prepared dataset.
        columns: The conditions across and up; by default the first two.
        out: A picture.

    Raises:
        PlotError: If there is no such condition, or `columns` are more than two.
    """
    style.suffix_of(out)
    there = {column.name: column for column in dataset.condition_columns}
    names = list(columns or list(there)[:2])
    check_names(names, list(there))
    if len(names) > 2:
        raise PlotError(f"a map shows one or two conditions, not {', '.join(names)}: name fewer")
    plane = [there[name] for name in names]
    at = [values_of(dataset.condition_columns, cell.conditions) for cell in dataset.cells]
    grid = Grid.of(at, plane)
    as_map = not dataset.scattered and max(grid.shape) <= WIDEST
    size = grid.size if as_map else (5.6, 3.6)
    with style.figure_of(max(4.5, size[0]), 1.0 + size[1]) as figure:
        axes = figure.subplots()
        if as_map:
            rows_YX = np.zeros(grid.shape)
            for where, cell in zip(at, dataset.cells, strict=True):
                rows_YX[grid.place(where)] += cell.effective()
            rows_YX[rows_YX == 0] = math.nan
            drawn = draw(axes, grid, rows_YX, (0.0, float(np.nanmax(rows_YX))), whole=True)
        else:
            drawn = _draw_boxes(axes, dataset, plane)
        effective = "effective " if dataset.weight_column else ""
        style.colour_bar(figure, drawn, f"{effective}rows", [axes])
        kind = "regions" if dataset.scattered else "cells"
        total = f"{sum(dataset.rows.values()):,} rows"
        style.heading(figure, f"{len(dataset.cells):,} {kind}, {total}")
        style.write(figure, out)
    return out


def _draw_boxes(axes: Axes, dataset: Dataset, plane: Sequence[Column]) -> ScalarMappable:
    """Each region, or cell of a large grid, where its conditions are."""
    rows_K = np.array([cell.effective() for cell in dataset.cells])
    sides = []
    for column in plane:
        k = dataset.condition_columns.index(column)
        ends = [cell.box[k] if cell.box else (cell.conditions[k],) * 2 for cell in dataset.cells]
        sides.append(_widened(np.array(ends), column))
    if len(sides) == 1:  # up to the rows that it has
        sides.append(np.stack([0 * rows_K, rows_K], axis=1))
        axes.set_ylabel("rows")
    boxes = zip(*(side_K2.tolist() for side_K2 in sides), strict=True)
    patches = [Rectangle((x, y), right - x, top - y) for (x, right), (y, top) in boxes]
    # Boxes lie upon each other where conditions are left out.
    alpha = 1 if len(plane) == len(dataset.condition_columns) else 0.4
    drawn = PatchCollection(patches, cmap=style.MAP, linewidth=0.3, edgecolor="white", alpha=alpha)
    drawn.set_array(rows_K)
    axes.add_collection(drawn)
    for axis, column, side_K2 in zip((axes.xaxis, axes.yaxis), plane, sides, strict=False):
        axis.set_label_text(style.label_of(column))
        if column.categories:
            axis.set_ticks(range(len(column.categories)), list(column.categories))
        elif column.positive:
            (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
            axis.set_major_formatter("{x:g}")
            # Several decades have no room for the numbers between.
            within = np.max(side_K2) < 20 * np.min(side_K2)
            axis.set_minor_formatter("{x:g}" if within else NullFormatter())
    axes.autoscale_view()
    return drawn


def _widened(ends_K2: NDArray[np.float64], column: Column) -> NDArray[np.float64]:
    """The boxes' ends, where both are the same value a little apart, so that they are seen."""
    where_K2 = np.log(ends_K2) if column.positive else ends_K2
    gaps = np.diff(np.unique(where_K2))
    half = 0.3 * (gaps.min() if len(gaps) else 1.0)
    flat_K = where_K2[:, 0] == where_K2[:, 1]
    where_K2 = where_K2 + np.outer(flat_K, [-half, half])
    return np.exp(where_K2) if column.positive else where_K2
