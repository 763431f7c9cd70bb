"""Rows of equal conditions in groups of a few slots each.

What depends on the condition is then spread to groups instead of rows, and summed over slots by
adding whole arrays. A group whose rows do not fill it repeats its last one, with gradients of 0.

Tensor names end in their axes:
    N rows    F features    G groups    S slots of a group    U distinct conditions
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

MOST_SLOTS, GROUPS = 16, 6
"""Most slots of a group; a condition has about so many groups on average."""


class Slots:
    """Where rows stand."""

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        """Args: rows of each condition, next to each other; some may have none."""
        count_U = np.asarray(counts)
        rows, slots = int(count_U.sum()), 1
        while slots < MOST_SLOTS and slots * GROUPS < rows / len(count_U):
            slots *= 2
        groups_U, end_U = -(-count_U // slots), count_U.cumsum()
        condition_G = np.repeat(np.arange(len(count_U)), groups_U)
        number_G = np.arange(len(condition_G)) - np.repeat(groups_U.cumsum() - groups_U, groups_U)
        first_G = (end_U - count_U)[condition_G] + slots * number_G
        row_SG = np.minimum(first_G + np.arange(slots)[:, None], end_U[condition_G] - 1)
        slot_N = np.empty(rows, np.int64)
        slot_N[row_SG.ravel()[::-1]] = np.arange(row_SG.size)[::-1]  # of several the first
        self.shape = row_SG.shape
        self.condition_G, self.row, self.slot_N = (
            torch.from_numpy(index).to(device) for index in (condition_G, row_SG.ravel(), slot_N)
        )

    def of_rows(self, x_FN: Tensor) -> Tensor:
        """Values of the rows at the slots, `(F, S, G)`."""
        return x_FN.index_select(1, self.row).view(-1, *self.shape)

    def to_rows(self, x_FSG: Tensor) -> Tensor:
        """Values of the slots at the rows, `(F, N)`."""
        return x_FSG.flatten(1).index_select(1, self.slot_N)

    def of_gradients(self, grad_N: Tensor) -> Tensor:
        """Gradients of the rows at the slots, `(S, G)`; 0 at those that repeat."""
        grad = grad_N.new_zeros(self.shape[0] * self.shape[1])
        return grad.index_copy_(0, self.slot_N, grad_N).view(self.shape)

    def of_conditions(self, values_QKU: Tensor) -> Tensor:
        """Values of the conditions at the groups, `(Q, K, G)`."""
        return values_QKU.index_select(2, self.condition_G)

    def add_to_conditions(self, sums_BKG: Tensor, total_BKU: Tensor) -> None:
        """Add values of the groups to those of the conditions."""
        total_BKU.index_add_(2, self.condition_G, sums_BKG)


class OneEach(Slots):
    """Rows that have a condition each: as many groups of one slot."""

    def __init__(self) -> None: ...

    def of_rows(self, x_FN: Tensor) -> Tensor:
        return x_FN[:, None]

    def to_rows(self, x_FSG: Tensor) -> Tensor:
        return x_FSG[:, 0]

    def of_gradients(self, grad_N: Tensor) -> Tensor:
        return grad_N[None]

    def of_conditions(self, values_QKU: Tensor) -> Tensor:
        return values_QKU

    def add_to_conditions(self, sums_BKG: Tensor, total_BKU: Tensor) -> None:
        total_BKU.copy_(sums_BKG)
