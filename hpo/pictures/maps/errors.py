"""Maps of a dataset: the rows of each cell, and how far an emulator is from the held-out ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from data_prep.columns import values_of
from data_prep.dataset import Dataset
from data_prep.stream import read_split
from data_prep.words import numbers
from hpo.pictures import cells, style
from hpo.pictures.cells import At
from hpo.pictures.maps import grid as maps
from hpo.pictures.style import PLAIN, Look, PlotError
from models import Emulator
from models.evaluation.cells import CELL_ROWS, CellRows
from models.evaluation.distances import cell_distances
from models.evaluation.weighted import effective, of

SPAN = (0.0, 3.0)
"""Ends of the colours, the same in every picture so that two emulators compare: about 1 is as good
as chance allows, and what is above the upper end has its colour and its number."""
LABEL = "KS distance over its floor [dimensionless]"


def errors(
    emulator: Emulator,
    folder: Path,
    *,
    conditions: At | None = None,
    look: Look = PLAIN,
    out: Path,
) -> Path:
    """The Kolmogorov-Smirnov distance of each cell over its floor, on the plane of conditions.

    One map for each event column, with the same colours for the same distance in every picture. A
    perfect emulator would reach 1. Cells with too few rows to tell are hatched.

    Args:
        folder: A prepared dataset; its test rows are compared.
        conditions: Fixes all conditions but one or two.

    Raises:
        PlotError: If not one or two conditions are left open, or no cell has enough rows.
        DataError: If `folder` holds no prepared dataset.
    """
    style.suffix_of(out)
    found = _measured(emulator, folder, dict(conditions or {}))
    names = emulator.event_columns
    width, height = found.grid.size
    with look.figure(max(6.0, width), 1.4 + len(names) * height, rows=True) as figure:
        stacked = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(stacked, names, strict=True):
            shown = _draw(axes, found, name, look)
            axes.set_title(look.name_of(name), loc="left", fontsize="medium", fontweight="bold")
            axes.label_outer()
        if len(names) > 1:  # said once for all
            figure.supylabel(axes.get_ylabel(), fontsize="medium")
            for axes in stacked:
                axes.set_ylabel("")
        style.colour_bar(figure, shown, LABEL, list(stacked), extend="max")
        fixed = f", {look.text_of(found.given)}" if found.given else ""
        style.heading(
            figure,
            f"Emulator against the test rows{fixed}: a perfect one reaches 1 on average\n"
            f"hatched: fewer than {CELL_ROWS} {found.word}s, too few to tell",
            look,
        )
        style.write(figure, out)
    return out


def draw(
    axes: Axes,
    emulator: Emulator,
    folder: Path,
    *,
    column: str,
    conditions: At | None = None,
    look: Look = PLAIN,
) -> ScalarMappable:
    """The KS distance of each cell over its floor, in axes of one's own.

    Args:
        folder: A prepared dataset; its test rows are compared.
        column: The event column whose distances are shown.
        conditions: Fixes all conditions but one or two.
        look: Of its choices the labels alone say something here.

    Returns:
        The colours, for a colour bar.

    Raises:
        PlotError: If not one or two conditions are left open, or no cell has enough rows.
        DataError: If `folder` holds no prepared dataset.
    """
    cells.check_names([column], emulator.event_columns, "event column")
    return _draw(axes, _measured(emulator, folder, dict(conditions or {})), column, look)


@dataclass(frozen=True, slots=True)
class _Measured:
    """The distances of cells, and the fields in which they are shown."""

    grid: maps.Grid | maps.Boxes
    at: list[At]
    """Of the cells with enough rows."""
    ratios: Mapping[str, list[float]]
    """Of each event column."""
    notes: Mapping[tuple[int, int], str]
    given: At
    word: str


def _measured(emulator: Emulator, folder: Path, given: At) -> _Measured:
    columns = emulator.module.condition_columns
    cells.check_names(given, emulator.condition_columns)
    plane = [column for column in columns if column.name not in given]
    if len(plane) not in (1, 2):
        raise PlotError(
            "a map shows one or two conditions, the others are fixed by --NAME VALUE: "
            f"{', '.join(column.name for column in plane) or 'none'} left open"
        )
    _, grid = maps.map_of(emulator, folder, given, plane)
    rows, dataset = read_split(folder, "test"), Dataset.read(folder)
    kept = cells.at_conditions(rows.conditions, columns, given, f"test rows of {folder}", dataset)
    here = rows.take(kept)
    measured = cell_distances(emulator.module, here, dataset)
    word = "row" if here.weights is None else "effective row"
    if not measured:
        raise PlotError(
            f"no {'region' if dataset.scattered else 'cell'} has {CELL_ROWS} "
            f"{word.removesuffix('row')}test rows in {folder}: with fewer, chance hides every error"
        )
    held = CellRows.of(here, dataset)
    rows_K = [effective(of(here.weights, rows), len(rows)) for rows in held.rows]
    at = [values_of(columns, map(float, values_C)) for values_C in held.values_KC]
    rows_YX = np.nan_to_num(grid.filled(at, rows_K)).round().astype(int)
    return _Measured(
        grid,
        [each.conditions for each in measured],
        {c: [each.ks[c] / each.floor[c] for each in measured] for c in emulator.event_columns},
        {where: numbers.counted(int(n), word) for where, n in np.ndenumerate(rows_YX)},
        given,
        word,
    )


def _draw(axes: Axes, found: _Measured, name: str, look: Look) -> ScalarMappable:
    values_YX = found.grid.filled(found.at, found.ratios[name])
    return maps.draw(axes, found.grid, values_YX, SPAN, found.notes, look=look)


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
    cells.check_names(names, list(there))
    if len(names) > 2:
        raise PlotError(f"a map shows one or two conditions, not {', '.join(names)}: name fewer")
    plane = [there[name] for name in names]
    at = [values_of(dataset.condition_columns, cell.conditions) for cell in dataset.cells]
    grid = maps.Grid.of(at, plane)
    as_map = not dataset.scattered and max(grid.shape) <= maps.WIDEST
    size = grid.size if as_map else (5.6, 3.6)
    with PLAIN.figure(max(4.5, size[0]), 1.0 + size[1]) as figure:
        axes = figure.subplots()
        if as_map:
            rows_YX = np.zeros(grid.shape)
            for where, cell in zip(at, dataset.cells, strict=True):
                rows_YX[grid.place(where)] += cell.effective()
            rows_YX[rows_YX == 0] = math.nan
            drawn = maps.draw(axes, grid, rows_YX, (0.0, float(np.nanmax(rows_YX))), whole=True)
        else:
            rows_K = np.array([cell.effective() for cell in dataset.cells])
            drawn = maps.draw_boxes(axes, dataset, plane, dataset.cells, rows_K)
        effective = "effective " if dataset.weight_column else ""
        style.colour_bar(figure, drawn, f"{effective}rows", [axes])
        kind = "region" if dataset.scattered else "cell"
        total = numbers.counted(sum(dataset.rows.values()), "row")
        style.heading(figure, f"{numbers.counted(len(dataset.cells), kind)}, {total}", PLAIN)
        style.write(figure, out)
    return out
