"""Maps with one field for each cell, over the plane of one or two conditions.

Letters of the arrays:
    K cells    X, Y values of the conditions across and up
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

from data_prep.columns import Column
from data_prep.dataset import Cell, Dataset
from data_prep.regions import numbers
from hpo.pictures import style
from hpo.pictures.cells import At, cells_of, fixed_cells
from hpo.pictures.density import Array
from hpo.pictures.style import PLAIN, Look
from models import Emulator

WIDEST = 24
"""Fields of a row, or rows, that a map with numbers can have."""


def map_of(
    emulator: Emulator, folder: Path | None, fixed: At, plane: Sequence[Column]
) -> tuple[list[At], Grid | Boxes]:
    """The cells or regions with the fixed values, and the fields of a map of them."""
    at = cells_of(emulator, folder, fixed)
    if folder is not None and (dataset := Dataset.read(folder)).scattered:
        return at, Boxes(plane, dataset, fixed_cells(dataset, fixed, folder))
    return at, Grid.of(at, plane)


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

    def outline(self, place: tuple[int, int]) -> Rectangle:
        """The field at a place."""
        return Rectangle((place[1], place[0]), 1, 1)

    def filled(self, cells: Sequence[At], values: Sequence[float] | NDArray[Any]) -> Array:
        """The value of each cell in its field, NaN in the others, shape `(Y, X)`."""
        values_YX = np.full(self.shape, math.nan)
        for cell, value in zip(cells, values, strict=True):
            values_YX[self.place(cell)] = value
        return values_YX


@dataclass(frozen=True, slots=True)
class Boxes:
    """The fields of a map of regions: each a box where its conditions are."""

    columns: Sequence[Column]
    dataset: Dataset
    cells: Sequence[Cell]
    """Those that are shown."""

    @property
    def shape(self) -> tuple[int, int]:
        """All fields are in one row."""
        return (1, len(self.cells))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches that a map needs."""
        return 7.0, 4.0 if len(self.columns) > 1 else 1.5

    def place(self, cell: At) -> tuple[int, int] | None:
        """Row and column of the field that these conditions are in; None off them."""
        columns = self.dataset.condition_columns
        values = [[column.number(cell[column.name]) for column in columns]]
        number = int(numbers(self.dataset, np.array(values))[0])
        there = number >= 0 and self.dataset.cells[number] in self.cells
        return (0, self.cells.index(self.dataset.cells[number])) if there else None

    def filled(self, cells: Sequence[At], values: Sequence[float] | NDArray[Any]) -> Array:
        """The value of each region in its field, NaN in the others."""
        values_1K = np.full(self.shape, math.nan)
        for cell, value in zip(cells, values, strict=True):
            values_1K[self.place(cell)] = value
        return values_1K

    def outline(self, place: tuple[int, int]) -> Rectangle:
        """The field at a place."""
        sides = _sides(self.dataset, self.cells, self.columns)
        ends = [side_K2[place[1]].tolist() for side_K2 in sides] + [[0.0, 1.0]]
        (left, right), (low, high), *_ = ends
        return Rectangle((left, low), right - left, high - low)


def draw(
    axes: Axes,
    grid: Grid | Boxes,
    values_YX: Array,
    span: tuple[float, float],
    notes: Mapping[tuple[int, int], str] | None = None,
    *,
    whole: bool = False,
    look: Look = PLAIN,
) -> ScalarMappable:
    """The fields with their numbers, which may be `whole`; hatched if there is a note alone."""
    (rows, columns), (low, high) = grid.shape, span
    if isinstance(grid, Boxes):
        return _draw_regions(axes, grid, values_YX[0], span, notes or {}, look)
    # As large as the fields of a narrow picture have room for; below that notes are left out.
    inches = _room(axes) / columns
    size, small = min(9.0, 22 * inches), min(7.0, 13 * inches)
    told = notes or {} if small > 4.0 else {}
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
        value, note = float(values_YX[y, x]), told.get((y, x), "")
        if not math.isnan(value):
            ink = style.ink_on(drawn, value)
            kept: dict[str, Any] = {"ha": "center", "color": ink}
            above = "bottom" if note else "center"
            number = f"{value:.0f}" if whole else _number(value, high)
            axes.text(x + 0.5, y + 0.5, number, va=above, fontsize=size, **kept)
            if note:
                axes.text(x + 0.5, y + 0.42, note, va="top", fontsize=small, **kept)
        elif note:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            kept = {"ha": "center", "color": "0.25", "bbox": box}
            axes.text(x + 0.5, y + 0.5, note, va="center", fontsize=small, **kept)
    axes.set(xlim=(0, columns), ylim=(0, rows), yticks=[])
    for axis, column, values in zip(
        (axes.xaxis, axes.yaxis), grid.columns, grid.values, strict=False
    ):
        texts = [_short(column, value) for value in values]
        axis.set_ticks(np.arange(len(values)) + 0.5, texts)
        if axis is axes.xaxis and max(map(len, texts)) > 12 * inches:  # they would overlap
            turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
            axis.set_ticks(axis.get_ticklocs(), texts, **turned)
        axis.set_label_text(look.label_of(column))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if notes:  # shows through where a field has no value
        axes.patch.set(hatch="///", edgecolor="0.75", linewidth=0)
    return drawn


def _room(axes: Axes) -> float:
    """Inches that there are about for the axes: what a colour bar and labels leave."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return 0.72 * float(figure.get_size_inches()[0])


def _short(column: Column, value: float) -> str:
    told = column.value(value)
    return told if isinstance(told, str) else f"{told:.3g}"


def _number(value: float, most: float) -> str:
    """With so many digits that the largest has two of them, but not more than four."""
    digits = min(4, max(0, 1 - math.floor(math.log10(most))) if most < 1 else 2)
    return f"{value:.{digits}f}" if value < 9.995 else f"{value:.0f}"


def _draw_regions(
    axes: Axes,
    boxes: Boxes,
    values_K: Array,
    span: tuple[float, float],
    notes: Mapping[tuple[int, int], str],
    look: Look,
) -> ScalarMappable:
    """The regions with their numbers; hatched if there is none."""
    drawn = draw_boxes(axes, boxes.dataset, boxes.columns, boxes.cells, values_K, span, look)
    for k, value in enumerate(values_K.tolist()):
        x, y = _middle(boxes.outline((0, k)), boxes.columns)
        nothing = math.isnan(value)
        text = notes.get((0, k), "") if nothing else _number(value, span[1])
        ink = "black" if nothing else style.ink_on(drawn, value)
        axes.text(x, y, text, color=ink, ha="center", va="center", fontsize=6)
    if notes:  # shows through where a region has no value
        axes.patch.set(hatch="///", edgecolor="0.75", linewidth=0)
    return drawn


def _middle(field: Rectangle, columns: Sequence[Column]) -> tuple[float, float]:
    """Where the middle of a field is seen."""
    ends = [(field.get_x(), field.get_width()), (field.get_y(), field.get_height())]
    middle = [low + width / 2 for low, width in ends]
    for k, column in enumerate(columns):
        if column.positive:
            middle[k] = math.sqrt(ends[k][0] * sum(ends[k]))
    return middle[0], middle[1]


def _sides(
    dataset: Dataset, cells: Sequence[Cell], plane: Sequence[Column]
) -> list[NDArray[np.float64]]:
    """Both ends of each region, or cell, along each condition of a plane."""
    sides = []
    for column in plane:
        k = dataset.condition_columns.index(column)
        ends = [cell.box[k] if cell.box else (cell.conditions[k],) * 2 for cell in cells]
        sides.append(_widened(np.array(ends), column))
    return sides


def draw_boxes(
    axes: Axes,
    dataset: Dataset,
    plane: Sequence[Column],
    cells: Sequence[Cell],
    values_K: NDArray[np.float64],
    span: tuple[float, float] | None = None,
    look: Look = PLAIN,
) -> ScalarMappable:
    """Each region, or cell of a large grid, where its conditions are.

    Without a `span`, values are rows, up to which the boxes of one condition are drawn.
    """
    sides = _sides(dataset, cells, plane)
    if len(sides) == 1:
        heights_K = values_K if span is None else np.ones(len(values_K))
        sides.append(np.stack([np.zeros(len(values_K)), heights_K], axis=1))
        if span is None:
            axes.set_ylabel("rows")
        else:
            axes.set_yticks([])
    boxes = zip(*(side_K2.tolist() for side_K2 in sides), strict=True)
    patches = [Rectangle((x, y), right - x, top - y) for (x, right), (y, top) in boxes]
    # Boxes lie upon each other where conditions are left out.
    alpha = 1 if span or len(plane) == len(dataset.condition_columns) else 0.4
    drawn = PatchCollection(patches, cmap=style.MAP, linewidth=0.3, edgecolor="white", alpha=alpha)
    drawn.set_array(np.ma.masked_invalid(values_K))
    if span:
        drawn.set_clim(*span)
    axes.add_collection(drawn)
    for axis, column, side_K2 in zip((axes.xaxis, axes.yaxis), plane, sides, strict=False):
        axis.set_label_text(look.label_of(column))
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
