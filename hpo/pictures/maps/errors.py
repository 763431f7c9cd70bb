"""Maps of a dataset: the rows of each cell, and how far an emulator is from the held-out ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.columns import values_of
from data_prep.dataset import Dataset
from data_prep.stream import read_split
from hpo.pictures import cells, style
from hpo.pictures.cells import At
from hpo.pictures.maps import grid as maps
from hpo.pictures.style import PlotError
from models import Emulator
from models.evaluation.cells import CELL_ROWS, CellRows
from models.evaluation.distances import cell_distances
from models.evaluation.weighted import effective, of


def errors(emulator: Emulator, folder: Path, *, conditions: At | None = None, out: Path) -> Path:
    """The Kolmogorov-Smirnov distance of each cell over its floor, on the plane of conditions.

    One map for each event column. A perfect emulator would reach 1. Cells with too few rows to tell
    are hatched.

    Args:
        folder: A prepared dataset; its test rows are compared.
        conditions: Fixes all conditions but one or two.

    Raises:
        PlotError: If not one or two conditions are left open, or no cell has enough rows.
        DataError: If `folder` holds no prepared dataset.
    """
    style.suffix_of(out)
    given, columns = dict(conditions or {}), emulator.module.condition_columns
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
    if not measured:
        kind = "region" if dataset.scattered else "cell"
        effectively = "" if here.weights is None else "effective "
        raise PlotError(
            f"no {kind} has {CELL_ROWS} {effectively}test rows in {folder}: with fewer, chance "
            "hides every error"
        )
    ratios = {c: [each.ks[c] / each.floor[c] for each in measured] for c in emulator.event_columns}
    span = (min(1.0, *map(min, ratios.values())), max(2.0, *map(max, ratios.values())))
    held = CellRows.of(here, dataset)
    rows_K = [effective(of(here.weights, rows), len(rows)) for rows in held.rows]
    at = [values_of(columns, map(float, values_C)) for values_C in held.values_KC]
    rows_YX = np.nan_to_num(grid.filled(at, rows_K)).round().astype(int)
    word = "row" if here.weights is None else "effective row"
    notes = {place: f"{n:,} {word}{'' if n == 1 else 's'}" for place, n in np.ndenumerate(rows_YX)}
    width, height = grid.size
    with style.figure_of(max(6.0, width), 1.6 + len(ratios) * height) as figure:
        stacked = figure.subplots(len(ratios), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(stacked, ratios.items(), strict=True):
            values_YX = grid.filled([each.conditions for each in measured], values)
            shown = maps.draw(axes, grid, values_YX, span, notes)
            axes.set_title(style.literal(name), loc="left", fontsize=10, fontweight="bold")
            axes.label_outer()
        style.colour_bar(figure, shown, "KS distance over its floor [dimensionless]", list(stacked))
        fixed = f", {style.text_of(given)}" if given else ""
        style.heading(
            figure,
            f"Emulator against the test rows{fixed}: a perfect one reaches 1 on average\n"
            f"hatched: fewer than {CELL_ROWS} {word}s, too few to tell",
        )
        style.write(figure, out)
    return out


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
    with style.figure_of(max(4.5, size[0]), 1.0 + size[1]) as figure:
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
        kind = "regions" if dataset.scattered else "cells"
        total = f"{sum(dataset.rows.values()):,} rows"
        style.heading(figure, f"{len(dataset.cells):,} {kind}, {total}")
        style.write(figure, out)
    return out
