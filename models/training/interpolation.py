"""Conditions c + s (u1 - u2) gap, moved between the grid's points so that a flow interpolates.

A simulation knows a few values of each condition; between them a flow may say anything. With u1, u2
uniform in [0, 1] a condition is moved by a triangular distribution that reaches the neighbouring
values of the grid (`gap` away, in logarithms where the column is positive) for a share s = 1, and
never further. A row of one cell is seen at all conditions up to the next: the flow learns to blend
cells linearly, and on a grid point still meets that cell alone. As with any kernel, more rows need
less width: s is the option `jitter` where a cell has `ROWS` rows on average or fewer, and less
where it has more, since a flow that sees so many interpolates better by itself.

Tensor names end in their axes:
    U distinct conditions    C conditions    G grid values of one condition
"""

from __future__ import annotations

import torch
from torch import Tensor

from data_prep.dataset import Dataset

ROWS = 1500
"""Effective training rows of a cell, on average, beyond which triangles become narrower."""


class ConditionJitter:
    """Moves conditions by a share of the way to the next values of the grid."""

    def __init__(self, dataset: Dataset, *, jitter: float, seed: int) -> None:
        """Args: the dataset whose cells are the grid, and the share, from 0 to 1, see above."""
        cells = [cell for cell in dataset.cells if cell.train]
        c_UC = torch.tensor([cell.conditions for cell in cells]).view(len(cells), -1)
        rows = sum(cell.effective("train") for cell in cells) / max(1, len(cells))
        self._share = jitter * min(1.0, ROWS / max(1.0, rows)) ** 2
        self._logged = [column.positive for column in dataset.condition_columns]
        self._grid = [
            _coordinate(torch.unique(c_UC[:, k]), logged) for k, logged in enumerate(self._logged)
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
        columns = [self._moved(here_UC[:, k], by_UC[:, k], k) for k in range(len(self._grid))]
        return torch.stack(columns, 1).to(c_UC)

    def _moved(self, c_U: Tensor, by_U: Tensor, column: int) -> Tensor:
        """Moved by numbers in (-1, 1), in units of the way to the next value on that side."""
        grid_G, at_U = self._grid[column], _coordinate(c_U, self._logged[column])
        below = torch.searchsorted(grid_G, at_U - 1e-5) - 1
        above = torch.searchsorted(grid_G, at_U + 1e-5, right=True)
        least, most = grid_G[below.clamp(min=0)], grid_G[above.clamp(max=len(grid_G) - 1)]
        gap_U = torch.where(by_U < 0, at_U - least, most - at_U).clamp(min=0)
        moved_U = at_U + by_U * gap_U
        return moved_U.exp() if self._logged[column] else moved_U


def _coordinate(values: Tensor, logged: bool) -> Tensor:
    return values.float().log() if logged else values.float()
