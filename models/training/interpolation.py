"""Conditions c + s (u1 - u2) gap, moved between the grid's points so that a flow interpolates.

A simulation knows a few values of each condition; between them a flow may say anything. With u1, u2
uniform in [0, 1] a condition is moved by a triangular distribution that reaches the neighbouring
values of the grid (`gap` away, in logarithms where the column is positive) for a share s = 1, and
never further. A row of one cell is seen at all conditions up to the next: the flow learns to blend
cells linearly, and on a grid point still meets that cell alone. As with any kernel, more rows need
less width: s is the option `jitter` where a cell has `ROWS` rows on average or fewer, and less
where it has more, since a flow that sees so many interpolates better by itself.

Where conditions are scattered, the gap leads to the nearest point, as far as the training rows of
the region have it: of 300 simulations it is wide, of a value in every row next to nothing. Of
conditions that have a grid beside scattered ones, it is the grid's. Categories stay.

Tensor names end in their axes:
    U distinct conditions    C conditions    G grid values of one condition    K regions    P points
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from data_prep.dataset import Dataset
from data_prep.regions import coordinates, numbers
from models.training.points import Points

ROWS = 1500
"""Training rows of a cell, on average, beyond which triangles become narrower."""


class ConditionJitter:
    """Moves conditions by a share of the way to the next ones."""

    def __init__(
        self, dataset: Dataset, *, jitter: float, seed: int, points: Points | None = None
    ) -> None:
        """Args: the dataset whose cells are the grid, the share, from 0 to 1, see above, and the
        distinct conditions of the training rows where they are scattered.
        """
        self._dataset = dataset
        cells = [cell for cell in dataset.cells if cell.train]
        c_PC = np.array([cell.conditions for cell in cells], np.float32).reshape(len(cells), -1)
        count: float = len(cells)
        if points is not None:
            c_PC, count = points.c_PC, points.count
        rows = sum(cell.train for cell in cells) / max(1.0, count)
        self._share = jitter * min(1.0, ROWS / max(1.0, rows)) ** 2
        self._logged = [column.positive for column in dataset.condition_columns]
        self._still = [bool(column.categories) for column in dataset.condition_columns]
        self._grid = [
            _coordinate(torch.unique(torch.from_numpy(c_PC[:, k])), logged)
            for k, logged in enumerate(self._logged)
        ]
        self._gap_KC = None if points is None else _gaps(dataset, points)
        self._ends = [
            _coordinate(torch.tensor(dataset.ranges[column.name]), column.positive).tolist()
            if points is not None
            else (-math.inf, math.inf)
            for column in dataset.condition_columns
        ]
        self._seed, self._generator = seed, torch.Generator()

    def __call__(self, c_UC: Tensor, *, step: int) -> Tensor:
        """The conditions of a training step, moved; the same whenever the step is repeated."""
        if not self._share or not self._grid:
            return c_UC
        self._generator.manual_seed((self._seed * 0x9E3779B97F4A7C15 + step) % 2**63)
        draws = torch.rand(2, *c_UC.shape, generator=self._generator)
        here_UC = c_UC.cpu()
        by_UC = (draws[0] - draws[1]) * self._share
        wide_UC = torch.full_like(here_UC, math.nan)
        if self._gap_KC is not None:
            wide_UC = self._gap_KC[torch.from_numpy(numbers(self._dataset, here_UC.numpy()))]
        moved = [
            here_UC[:, k] if still else self._moved(here_UC[:, k], by_UC[:, k], wide_UC[:, k], k)
            for k, still in enumerate(self._still)
        ]
        return torch.stack(moved, 1).to(c_UC)

    def _moved(self, c_U: Tensor, by_U: Tensor, wide_U: Tensor, column: int) -> Tensor:
        """Moved by numbers in (-1, 1), in units of the way to the next value on that side.

        Where `wide_U` is a number, the way is that instead, but not beyond the last value.
        """
        grid_G, at_U = self._grid[column], _coordinate(c_U, self._logged[column])
        below = torch.searchsorted(grid_G, at_U - 1e-5) - 1
        above = torch.searchsorted(grid_G, at_U + 1e-5, right=True)
        least, most = grid_G[below.clamp(min=0)], grid_G[above.clamp(max=len(grid_G) - 1)]
        gap_U = torch.where(by_U < 0, at_U - least, most - at_U).clamp(min=0)
        gap_U = torch.where(wide_U.isnan(), gap_U, wide_U)
        moved_U = (at_U + by_U * gap_U).clamp(*self._ends[column])
        return moved_U.exp() if self._logged[column] else moved_U


def _gaps(dataset: Dataset, points: Points) -> Tensor:
    """How far apart points are in each region, in the columns' coordinates, `(K, C)`.

    NaN for a column that has a grid. All scattered columns together, in units of their spreads,
    lead as far as the nearest point at most. Farther, as to the next value of a grid in each of
    them, blurs what the points tell: in five conditions the excess NLL of 300 simulations is twice
    as large then.
    """
    from scipy.spatial import KDTree

    there_PC = coordinates(points.c_PC, dataset.condition_columns)
    scattered_C = np.array(
        [
            not column.categories and len(np.unique(c_P)) ** 2 > len(c_P)
            for column, c_P in zip(dataset.condition_columns, points.c_PC.T, strict=True)
        ]
    )
    spread_C = there_PC.std(axis=0)
    scattered_C &= spread_C > 0
    conditions = int(scattered_C.sum())
    gap_KC = np.full((len(dataset.cells), len(scattered_C)), np.nan)
    if not conditions or len(there_PC) < 2:
        return torch.from_numpy(gap_KC).float()
    scaled_PC = there_PC[:, scattered_C] / spread_C[scattered_C]
    far_P = KDTree(scaled_PC).query(scaled_PC, 2)[0][:, 1] / math.sqrt(conditions)
    # Of a sample: all points are closer together.
    far_P *= (len(there_PC) / points.count) ** (1 / conditions)
    number_P = numbers(dataset, points.c_PC)
    for number in range(len(gap_KC)):
        own_P = far_P[number_P == number]
        far = np.median(own_P if len(own_P) else far_P)
        gap_KC[number, scattered_C] = far * spread_C[scattered_C]
    return torch.from_numpy(gap_KC).float()


def _coordinate(values: Tensor, logged: bool) -> Tensor:
    return values.float().log() if logged else values.float()
