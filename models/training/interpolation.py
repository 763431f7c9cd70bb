"""Conditions c + (u1 - u2) gap, moved between the grid's points so that a flow interpolates.

A simulation knows a few values of each condition; between them a flow may say anything. With u1, u2
uniform in [0, 1] a condition is moved by a triangular distribution that reaches the neighbouring
values of the grid (`gap` away, in logarithms where the column is positive) and no further: a row of
one cell is seen at all conditions up to the next, and on a grid point each cell is met alone. The
share of the steps in which a cell is moved is the option `jitter` where a cell has `ROWS` rows on
average or fewer, and less where it has more, since a flow that sees so many interpolates better by
itself.

With K_j(c) the triangles of cell j, a product over conditions, and N_j its rows, or their summed
weights, a flow that fits what it sees at c without fault has the density

    sum_j N_j w_j(c) K_j(c) p_j / sum_j N_j w_j(c) K_j(c)

of the cells' densities p_j, where w_j weights the losses of moved rows. With w_k = sum_j N_j K_j /
(N_k sum_j K_j) this is sum_j K_j p_j / sum_j K_j: linear in the distance to each cell (bilinear
with two conditions), and half-way between two cells half of each, however many rows these have.
As much loss is at c as without weights, so that they are one on average. Where the grid has a hole,
j counts the cells that are there.

`blend = "rows"` is what trainings of before did: no weights, and a share of the way in every step
in place of the whole way in a share of the steps. Half-way the cell with more rows prevails, and up
to 1 - `jitter` of the way no neighbour is met: a staircase.

Where conditions are scattered, every step moves every condition, by `jitter` of the way to the
nearest point, as far as the training rows of the region have it: of 300 simulations it is wide, of
a value in every row next to nothing. Of conditions that have a grid beside scattered ones, it is
the grid's. There are no weights: each row then counts as it does in a kernel regression, whose rows
are where the simulations are. Categories stay.

Tensor names end in their axes:
    U distinct conditions    C conditions    G grid values of one condition    P points
    K cells or regions    B corners of a box between grid points
    T trainings    M distinct conditions of all trainings
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.dataset import Dataset
from data_prep.regions import coordinates, hashes, numbers
from data_prep.stream import Batch
from models.config import Blend

ROWS = 1500
"""Training rows of a cell, on average, beyond which triangles become narrower."""
MOST = 16_384
"""Points that are kept."""


@dataclass(frozen=True, slots=True)
class Points:
    """The distinct conditions of a training's rows: a fair sample of them, and how many there are.

    One pass over the rows, in memory that does not grow with them: a point is kept if its hash is
    among the lowest, so that each has the same chance, however many rows it has.

    Source:
        Bar-Yossef et al. (2002), RANDOM 2002, 1: the number of distinct ones by the k-th lowest
        hash.
    """

    c_PC: NDArray[np.float32]
    """Of at most `MOST` points, chosen at random."""
    count: float
    """Of all points: exact where none had to be left out."""

    @classmethod
    def of(cls, batches: Iterable[Batch], most: int = MOST) -> Points:
        """Of the rows of all batches, which are never none."""
        hash_P, c_PC = np.zeros(0, np.uint64), np.zeros((0, 0), np.float32)
        complete = True
        for batch in batches:
            hash_N, c_NC = hashes(batch.conditions), batch.conditions
            if not complete:
                low_N = hash_N <= hash_P[-1]
                hash_N, c_NC = hash_N[low_N], c_NC[low_N]
            joined = np.concatenate([c_PC.reshape(-1, c_NC.shape[1]), c_NC])
            hash_P, place = np.unique(np.concatenate([hash_P, hash_N]), return_index=True)
            complete &= len(hash_P) <= most
            hash_P, c_PC = hash_P[:most], joined[place[:most]]
        return cls(c_PC, len(hash_P) if complete else (most - 1) / (float(hash_P[-1]) / 2.0**64))


class ConditionJitter:
    """Moves conditions towards the next ones, and weights what it moved."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        jitter: float,
        seed: int,
        blend: Blend = "distance",
        points: Points | None = None,
    ) -> None:
        """Args: the dataset whose cells are the grid, the share, from 0 to 1, and how cells are
        blended, see above, and the distinct conditions of the training rows where they are
        scattered.
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
        still = [bool(column.categories) for column in dataset.condition_columns]
        self._free_C = ~torch.tensor(still, dtype=torch.bool)
        self._grid = [torch.unique(values) for values in torch.from_numpy(c_PC).unbind(1)]
        self._gap_KC = None if points is None else _gaps(dataset, points)
        self._ends = [
            _coordinate(torch.tensor(dataset.ranges[column.name]), column.positive).tolist()
            if points is not None
            else (-math.inf, math.inf)
            for column in dataset.condition_columns
        ]
        self._by_distance = points is None and blend == "distance"
        masses = [cell.weights[0] if cell.weights else cell.train for cell in dataset.cells]
        self._mass_K = torch.tensor([*masses, 0.0])
        sides = [(False,) if one else (False, True) for one in still]
        self._far_BC = torch.tensor(list(product(*sides)))
        self._seed, self._generator = seed, torch.Generator()

    @property
    def moves(self) -> bool:
        """Whether there is anything to move, and how far."""
        return bool(self._share and self._grid)

    def __call__(self, c_UC: Tensor, *, step: int) -> tuple[Tensor, Tensor | None]:
        """The conditions of a training step, moved; the same whenever the step is repeated.

        And the weights of the losses there, `(U,)`, one on average over rows; None for all one.
        """
        if not self.moves:
            return c_UC, None
        return self._move(c_UC, self._drawn([self], [len(c_UC)], [step]))

    @staticmethod
    def _drawn(
        jitters: Sequence[ConditionJitter], counts: Sequence[int], steps: Sequence[int]
    ) -> Tensor:
        """By how much of the way each training's conditions are moved in its step, `(M, C)`.

        Of the numbers that a step draws come first u1 of all its conditions, then u2, then one that
        says whether a condition is moved at all.
        """
        first = jitters[0]
        columns, each = len(first._grid), 2 * len(first._grid) + first._by_distance
        drawn = [
            torch.rand(count * each, generator=one._seeded(step))
            for one, count, step in zip(jitters, counts, steps, strict=True)
        ]
        numbers = torch.cat(drawn)
        count_T, share_T = torch.tensor(counts), torch.tensor([one._share for one in jitters])
        t_M = torch.repeat_interleave(count_T)
        count_M, before_M = count_T[t_M], (count_T.cumsum(0) - count_T)[t_M]
        begin_M, own_M = before_M * each, torch.arange(len(t_M)) - before_M
        at_MC = (begin_M + own_M * columns)[:, None] + torch.arange(columns)
        by_MC = numbers[at_MC] - numbers[at_MC + (count_M * columns)[:, None]]
        share_M = share_T[t_M]
        if first._by_distance:
            share_M = (numbers[begin_M + 2 * columns * count_M + own_M] < share_M).float()
        return by_MC * share_M[:, None]

    def _seeded(self, step: int) -> torch.Generator:
        return self._generator.manual_seed((self._seed * 0x9E3779B97F4A7C15 + step) % 2**63)

    def _move(self, c_UC: Tensor, by_UC: Tensor) -> tuple[Tensor, Tensor | None]:
        """Conditions moved by parts of the way, and the weights of their losses."""
        by_UC = by_UC * self._free_C
        moved_UC, next_UC = self._moved(c_UC, by_UC)
        return moved_UC, self._weights(c_UC, next_UC, by_UC.abs()) if self._by_distance else None

    @staticmethod
    def together(
        jitters: Sequence[ConditionJitter], c_UC: Tensor, there_TU: Tensor, steps: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Conditions of a step of each of T trainings on one dataset, and weights of their losses.

        The same numbers as of each by itself, in a few operations for all of them.

        Args:
            jitters: Of each training.
            c_UC: Distinct conditions.
            there_TU: Which of them each training meets in its step.
            steps: Which step that is.

        Returns:
            `(T, U, C)` and `(T, U)`: as they were, with weights of one, where none is met.
        """
        c_TUC, weight_TU = c_UC.repeat(len(jitters), 1, 1), torch.ones(there_TU.shape)
        count_T = there_TU.sum(1).tolist()
        for by_distance in (True, False):
            alike = [t for t, one in enumerate(jitters) if one._by_distance == by_distance]
            chosen = [t for t in alike if jitters[t].moves and count_T[t]]
            if not chosen:
                continue
            some = [jitters[t] for t in chosen], [count_T[t] for t in chosen]
            by_MC = ConditionJitter._drawn(*some, [steps[t] for t in chosen])
            at_M, u_M = there_TU[chosen].nonzero(as_tuple=True)
            some_M = by_MC.any(1)  # of cells with many rows few are moved
            t_M, u_M = torch.tensor(chosen)[at_M][some_M], u_M[some_M]
            moved_MC, weight_M = jitters[chosen[0]]._move(c_UC[u_M], by_MC[some_M])
            c_TUC[t_M, u_M] = moved_MC
            if weight_M is not None:
                weight_TU[t_M, u_M] = weight_M
        return c_TUC, weight_TU

    def _moved(self, c_UC: Tensor, by_UC: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions moved by numbers in (-1, 1), in units of the way to the next value on that
        side, and those values; where points are scattered the way is that to the nearest one.
        """
        wide_UC = torch.full_like(c_UC, math.nan)
        if self._gap_KC is not None:
            wide_UC = self._gap_KC[torch.from_numpy(numbers(self._dataset, c_UC.numpy()))]
        moved, following = [], []
        for k, (grid_G, logged) in enumerate(zip(self._grid, self._logged, strict=True)):
            c_U, by_U, wide_U = c_UC[:, k].contiguous(), by_UC[:, k], wide_UC[:, k]
            below_U = torch.searchsorted(grid_G, c_U) - 1
            above_U = torch.searchsorted(grid_G, c_U, right=True)
            place_U = torch.where(by_U < 0, below_U, above_U)
            inside_U = (place_U >= 0) & (place_U < len(grid_G)) & (by_U != 0)
            next_U = torch.where(inside_U, grid_G[place_U.clamp(0, len(grid_G) - 1)], c_U)
            at_U = _coordinate(c_U, logged)
            gap_U = (_coordinate(next_U, logged) - at_U).abs()
            at_U = at_U + by_U * torch.where(wide_U.isnan(), gap_U, wide_U)
            at_U = at_U.clamp(*self._ends[k])
            moved_U = at_U.exp() if logged else at_U
            moved.append(torch.where(by_U == 0, c_U, moved_U))
            following.append(next_U)
        return torch.stack(moved, 1), torch.stack(following, 1)

    def _weights(self, here_UC: Tensor, next_UC: Tensor, part_UC: Tensor) -> Tensor:
        """sum_j N_j K_j / (N_k sum_j K_j) of rows moved by a part of the way to the next values.

        Of all cells only those at the corners of the box between both have a K that is not zero.
        """
        far_B1C = self._far_BC[:, None]
        corner_BUC = torch.where(far_B1C, next_UC, here_UC)
        near_BU = torch.where(far_B1C, part_UC, 1 - part_UC).prod(2)
        number = torch.from_numpy(numbers(self._dataset, corner_BUC.flatten(0, 1).numpy()))
        mass_BU = self._mass_K[number].view_as(near_BU)
        blend_U = (near_BU * mass_BU).sum(0) / (near_BU * (mass_BU > 0)).sum(0)
        return blend_U / mass_BU[0]


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
