"""A map of cells: how far what a flow draws is from the test rows, at every simulated place.

Letters of the arrays:
    N rows    F event columns    X, Y values along the two axes
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import Column
from data_prep.dataset import Cell, Dataset
from data_prep.stream import Batch
from hpo.dashboard.density.sources import TestRows
from hpo.pictures.density import Array

if TYPE_CHECKING:
    from models.evaluation.distances import CellDistance
    from models.flow.density import ConditionalFlow

_Key = tuple[float, ...]

MAP_ROWS = 200_000
"""Test rows that a map is made from, about; of more, an equal share from each cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellMap:
    """How far what the flow draws is from the test rows, cell by cell.

    With one condition column the second axis has one place; with more than two, a place shows the
    worst of the cells that share the first two conditions.
    """

    axes: tuple[Column, ...]
    """The first one or two condition columns."""
    values: tuple[tuple[float, ...], tuple[float, ...]]
    """The simulated values along both axes, ascending; one NaN where there is no second."""
    ratio_XY: Array
    """Largest Kolmogorov-Smirnov distance of the event columns, each divided by what a sample
    of that size has by chance; NaN where there are too few rows."""
    ks_XY: Array
    """That distance itself, likewise."""
    rows_XY: NDArray[np.int64]
    """Test rows, of those that are in memory."""
    held_out_XY: NDArray[np.bool_]
    """Whether the flow was trained without a cell that is there."""
    unphysical: float
    """Fraction of draws at the conditions of test rows that are not finite, or not above 0."""
    least: int
    """Rows below which a cell has no distance."""
    notes: tuple[str, ...]


def cell_map(
    flow: ConditionalFlow, dataset: Dataset, test: TestRows, held_out: frozenset[Cell]
) -> CellMap:
    """The map of a flow over a dataset that has its columns; takes seconds.

    Args:
        flow: In evaluation mode.
        dataset: Gives the cells.
        test: Its test rows.
        held_out: Cells that the flow was trained without.
    """
    from models.evaluation import distances

    rows = _some(test.rows, distances.CELL_ROWS)
    values, places = _grid(dataset)
    ratio_XY, ks_XY = _worst(distances.cell_distances(flow, rows), dataset, places)
    rows_XY, held_out_XY = np.zeros(ratio_XY.shape, np.int64), np.zeros(ratio_XY.shape, bool)
    for cell, count in zip(
        *np.unique(test.rows.conditions, axis=0, return_counts=True), strict=True
    ):
        rows_XY[places[_key(cell)]] += count
    for each in held_out:
        held_out_XY[places[_key(each.conditions)]] = True
    return CellMap(
        axes=dataset.condition_columns[:2],
        values=values,
        ratio_XY=ratio_XY,
        ks_XY=ks_XY,
        rows_XY=rows_XY,
        held_out_XY=held_out_XY,
        unphysical=_unphysical(flow, rows),
        least=distances.CELL_ROWS,
        notes=() if test.note is None else (test.note,),
    )


def _unphysical(flow: ConditionalFlow, rows: Batch) -> float:
    """Fraction of as many draws as there are rows, at their conditions."""
    from models.evaluation import distances
    from models.flow import batched

    noise_NF = np.random.default_rng(0).standard_normal(rows.events.shape, "f4")
    return distances.unphysical_fraction(flow, batched.from_noise(flow, noise_NF, rows.conditions))


def _some(rows: Batch, least: int) -> Batch:
    """Of each cell as many rows at random as its share of `MAP_ROWS`, but those that it takes."""
    if len(rows.events) <= MAP_ROWS:
        return rows
    cells_KC, cell_N = np.unique(rows.conditions, axis=0, return_inverse=True)
    share = max(least, MAP_ROWS // len(cells_KC))
    order_N = np.random.default_rng(0).permutation(len(rows.events))
    order_N = order_N[np.argsort(cell_N.ravel()[order_N], kind="stable")]
    starts_K = np.searchsorted(cell_N.ravel()[order_N], np.arange(len(cells_KC)))
    place_N = np.arange(len(order_N)) - starts_K[cell_N.ravel()[order_N]]
    kept = np.sort(order_N[place_N < share])
    return Batch(rows.events[kept], rows.conditions[kept])


def _grid(
    dataset: Dataset,
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], dict[_Key, tuple[int, int]]]:
    """The values along both axes of a map, and the place of each cell."""
    first = sorted({cell.conditions[0] for cell in dataset.cells})
    second = sorted({cell.conditions[1] for cell in dataset.cells if len(cell.conditions) > 1})
    places = {
        _key(cell.conditions): (
            first.index(cell.conditions[0]),
            second.index(cell.conditions[1]) if second else 0,
        )
        for cell in dataset.cells
    }
    return (tuple(first), tuple(second) or (math.nan,)), places


def _key(conditions: Sequence[float] | NDArray[Any]) -> _Key:
    """A cell's values as the rows have them."""
    return tuple(np.asarray(conditions, np.float32).tolist())


def _worst(
    distances: Sequence[CellDistance],
    dataset: Dataset,
    places: Mapping[_Key, tuple[int, int]],
) -> tuple[Array, Array]:
    """At each place the largest distance over its floor, and that distance."""
    shape = [1 + max(place[axis] for place in places.values()) for axis in (0, 1)]
    ratio_XY, ks_XY = np.full(shape, math.nan), np.full(shape, math.nan)
    names = [column.name for column in dataset.condition_columns]
    for each in distances:
        place = places[_key([each.conditions[name] for name in names])]
        for name, ks in each.ks.items():
            ratio = ks / each.floor[name] if each.floor[name] > 0 else math.inf
            if not ratio_XY[place] >= ratio:  # nor is NaN
                ratio_XY[place], ks_XY[place] = ratio, ks
    return ratio_XY, ks_XY
