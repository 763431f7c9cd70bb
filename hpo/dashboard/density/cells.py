"""The map of cells: the distance between a flow's draws and the test rows, cell by cell.

Letters of the arrays:
    N rows    F event columns    X, Y values along the two axes
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import Column
from data_prep.dataset import Cell, Dataset
from data_prep.stream import Batch
from hpo.dashboard.density.sources import TestRows
from hpo.pictures.density import Array

if TYPE_CHECKING:
    from models.evaluation.distances import BeyondData, CellDistance
    from models.flow.atoms import OneFlow

Values = tuple[tuple[float, ...], tuple[float, ...]]
_Key = tuple[float, ...]

MAP_ROWS = 200_000
"""Test rows that a map is made from, about; of more, an equal share from each cell."""

ROUGH_ROWS, ROUGH_DRAWS = 20_000, 60_000
"""Likewise of a first sketch, which the eye has at once; and its draws over all cells, about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellMap:
    """The distance between draws and test rows, cell by cell.

    With one condition column the second axis has one place; with more than two, a place shows the
    worst of the cells that share the first two conditions.
    """

    axes: tuple[Column, ...]
    """The first one or two condition columns."""
    values: Values
    """The simulated values along both axes, ascending; one NaN where there is no second."""
    ratio_XY: Array
    """Largest Kolmogorov-Smirnov distance of the event columns, each divided by what a sample
    of that size has by chance; NaN where there are too few rows."""
    ks_XY: Array
    """The distance itself; NaN where there are too few rows."""
    rows_XY: NDArray[np.int64]
    """Test rows in memory."""
    effective_XY: Array | None = None
    """As many of equal weight that would tell as much; None where all count alike."""
    held_out_XY: NDArray[np.bool_]
    """Whether the flow was trained without a cell that is there."""
    beyond: BeyondData
    """Of draws at the conditions of test rows."""
    least: int
    """Effective rows below which a cell has no distance."""
    measured: Mapping[str, Any]
    """As in an evaluation: `cells` with enough rows, and `worst_ks` of them."""
    rows: int
    """Test rows that it rests on."""
    notes: tuple[str, ...]


def cell_map(
    flow: OneFlow,
    dataset: Dataset,
    test: TestRows,
    held_out: frozenset[Cell],
    *,
    rough: bool = False,
) -> CellMap:
    """The map of a flow, in evaluation mode, over a dataset with its columns.

    It takes seconds, a `rough` one of few draws a fraction of one.
    """
    from models.bundle import batched
    from models.evaluation import distances
    from models.evaluation.cells import CELL_ROWS, CellRows
    from models.evaluation.weighted import effective, of

    rows = _some(test.rows, dataset, CELL_ROWS, ROUGH_ROWS if rough else MAP_ROWS)
    found = distances.cell_distances(flow, rows, dataset, most=ROUGH_DRAWS if rough else None)
    drawn_NF = batched.draw(flow, rows.conditions, np.random.default_rng(0))
    values, places = _grid(dataset)
    ratio_XY, ks_XY = _worst(found, dataset, places)
    rows_XY, held_out_XY = np.zeros(ratio_XY.shape, np.int64), np.zeros(ratio_XY.shape, bool)
    effective_XY = np.zeros(ratio_XY.shape)
    held = CellRows.of(test.rows, dataset)
    for at, own in zip(held.keys, held.rows, strict=True):
        for place in places[at]:
            rows_XY[place] += len(own)
            effective_XY[place] += effective(of(test.rows.weights, own), len(own))
    for each in held_out:
        for place in places[_key(each.conditions)]:
            held_out_XY[place] = True
    scattered = "Conditions are scattered: a region fills all fields that begin in it."
    return CellMap(
        axes=dataset.condition_columns[:2],
        values=values,
        ratio_XY=ratio_XY,
        ks_XY=ks_XY,
        rows_XY=rows_XY,
        effective_XY=None if test.rows.weights is None else effective_XY,
        held_out_XY=held_out_XY,
        beyond=distances.beyond_data(flow, drawn_NF, dataset, rows.weights),
        least=CELL_ROWS,
        measured=_measured(found),
        rows=len(rows.events),
        notes=(*test.notes, scattered) if dataset.scattered else test.notes,
    )


def _measured(found: Sequence[CellDistance]) -> dict[str, Any]:
    from models.evaluation.distances import beyond_chance, worst

    cells = [asdict(each) for each in found]
    beyond = beyond_chance(cells)
    told = [each | {"beyond_chance": far} for each, far in zip(cells, beyond, strict=True)]
    return {"cells": told, "worst_ks": worst(cells)}


def _some(rows: Batch, dataset: Dataset, least: int, most: int) -> Batch:
    """Rows at random, of each cell its share of `most` but at least `least`."""
    from models.evaluation.cells import CellRows

    if len(rows.events) <= most:
        return rows
    cells, rng = CellRows.of(rows, dataset).rows, np.random.default_rng(0)
    share = max(least, most // len(cells))
    return rows.take(np.sort(np.concatenate([rng.permutation(own)[:share] for own in cells])))


def _grid(dataset: Dataset) -> tuple[Values, dict[_Key, list[tuple[int, int]]]]:
    """The values along both axes of a map, and the places of each cell.

    Of regions the values are where one begins, and its places those that begin in it.
    """
    nowhere, cells = (math.nan, math.nan), dataset.cells
    boxes = [cell.box or tuple((value, value) for value in cell.conditions) for cell in cells]
    pairs = [(*box, nowhere)[:2] for box in boxes]
    lows = zip(*((first[0], second[0]) for first, second in pairs), strict=True)
    across, up = (tuple(dict.fromkeys(sorted(each))) for each in lows)
    places = {
        _key(cell.conditions): list(
            itertools.product(_between(across, first), _between(up, second))
        )
        for cell, (first, second) in zip(cells, pairs, strict=True)
    }
    return (across, up), places


def _between(values: Sequence[float], ends: tuple[float, float]) -> list[int]:
    """Which of the values are no less than the first end, and no more than the second."""
    return [at for at, value in enumerate(values) if not (value < ends[0] or value > ends[1])]


def _key(conditions: Sequence[float] | NDArray[Any]) -> _Key:
    """A cell's values as the rows have them."""
    return tuple(np.asarray(conditions, np.float32).tolist())


def _worst(
    distances: Sequence[CellDistance],
    dataset: Dataset,
    places: Mapping[_Key, Sequence[tuple[int, int]]],
) -> tuple[Array, Array]:
    """At each place the largest distance over its floor, and that distance."""
    shape = np.max([place for each in places.values() for place in each], axis=0) + 1
    ratio_XY, ks_XY = np.full(shape, math.nan), np.full(shape, math.nan)
    columns = dataset.condition_columns
    for each in distances:
        at = _key([column.number(each.conditions[column.name]) for column in columns])
        for place, (name, ks) in itertools.product(places[at], each.ks.items()):
            ratio = ks / each.floor[name] if each.floor[name] > 0 else math.inf
            if not ratio_XY[place] >= ratio:  # nor is NaN
                ratio_XY[place], ks_XY[place] = ratio, ks
    return ratio_XY, ks_XY
