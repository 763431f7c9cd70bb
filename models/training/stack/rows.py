"""The rows of several trainings on the device, and which of them each takes in a step.

Rows are standardised once and stay on the device; a step is told by numbers of rows. All trainings
share the rows, but those with a bag of their own.

Tensor names end in their axes:
    M rows of all    F event columns    C condition columns    U distinct conditions
    T trainings    N rows of a step
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.stream import Batch
from models.flow.conditions import Conditions, distinct
from models.flow.density import ConditionalFlow
from models.training.stack.member import Member

STANDARDISED_ROWS = 1 << 20
"""Rows that are standardised at once."""
FUSED_ON = frozenset({"cpu"})
"""Devices on which steps have a derivative by hand. Its parts have sizes that rows decide: a GPU
would wait for each."""


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of a step, those of a training next to each other, equally many of each."""

    y_FN: Tensor
    """Standardised events."""
    log_det_N: Tensor
    """Log-Jacobians of the standardisation, in nats."""
    conditions: Conditions
    """All U distinct ones, of each training."""
    weight_N: Tensor | None
    """Of the losses; 0 for rows that only fill up; None for all one."""
    rows_T: Tensor
    """How many rows there are of each training."""
    own_T: Tensor
    """Their summed weights, without those of moved conditions."""
    scale_T: Tensor | None
    """What makes the NLL of the moved rows that of the batch; None for all one."""


class Held:
    """The rows of some members, on their device."""

    def __init__(self, members: Sequence[Member]) -> None:
        """Args: trainings of one shape."""
        first, device = members[0], members[0].device
        assert isinstance(first.flow, ConditionalFlow)
        self.first: dict[int | None, int] = {}
        """Where the rows of each bag begin; of None those of all members without one."""
        batches: list[Batch] = []
        for member in members:
            if member.bag not in self.first:
                self.first[member.bag] = sum(len(batch.events) for batch in batches)
                held = member.stream.in_memory(0)
                assert held is not None
                batches.append(held[0])
        events_MF = torch.from_numpy(np.concatenate([batch.events for batch in batches]))
        conditions = np.concatenate([batch.conditions for batch in batches])
        weights = [batch.weights for batch in batches if batch.weights is not None]
        self.c_UC, cell_M = distinct(torch.from_numpy(conditions))
        """Distinct conditions, in physical units."""
        self.cell_M: NDArray[np.int64] = cell_M.numpy()
        self.weight_M = np.concatenate(weights) / first.mean_weight if weights else None
        """Over the mean weight."""
        parts = (part.to(device) for part in torch.split(events_MF, STANDARDISED_ROWS))
        y, log_det, inside = zip(*map(first.flow.events, parts), strict=True)
        self.y_FM = torch.cat([part_NF.t() for part_NF in y], 1)
        self.log_det_M = torch.where(torch.cat(inside), torch.cat(log_det), -torch.inf)
        """In nats; -inf outside the support."""


class Rows:
    """Which rows some members take, in the orders of their streams."""

    def __init__(self, members: Sequence[Member], held: Held) -> None:
        """Args: trainings of one shape, and their rows."""
        flow = members[0].flow
        assert isinstance(flow, ConditionalFlow)
        self._members, self._held, self._device = members, held, members[0].device
        self._standardise = flow.conditions
        self._orders: list[tuple[int, Any]] = [(-1, None)] * len(members)

    def step(self, number: int) -> Step:
        """The rows of the members' step `number` from now on."""
        taken = [self._of(t, member.step + number) for t, member in enumerate(self._members)]
        most, count = max(map(len, taken)), len(self._held.c_UC)
        rows_TN = np.stack([np.pad(rows, (0, most - len(rows)), "edge") for rows in taken])
        cell_TN = self._held.cell_M[rows_TN]
        order_TN = np.argsort(cell_TN, axis=1, kind="stable")
        rows_TN, cell_TN = (np.take_along_axis(one, order_TN, 1) for one in (rows_TN, cell_TN))
        own_TN = np.ones(rows_TN.shape, np.float32)
        if self._held.weight_M is not None:
            own_TN = self._held.weight_M[rows_TN]
        filled_T = np.array([len(rows) for rows in taken])
        own_TN = np.where(order_TN < filled_T[:, None], own_TN, 0)
        c_TUC, moved_TU = self._moved(cell_TN, number)
        weight_TN, scale_T = own_TN, None
        if moved_TU is not None:
            weight_TN = own_TN * np.take_along_axis(moved_TU, cell_TN, 1)
            scale_T = self._put(own_TN.sum(1, np.float64) / weight_TN.sum(1, np.float64))
        index_N = torch.from_numpy((cell_TN + count * np.arange(len(taken))[:, None]).ravel())
        fused = self._device.type in FUSED_ON
        conditions = Conditions(
            self._standardise(self._put(c_TUC.reshape(-1, c_TUC.shape[-1])))[0].t(),
            np.bincount(index_N, minlength=count * len(taken)).tolist() if fused else None,
            fused=fused,
            of_rows=None if fused else self._put(index_N),
        )
        rows_N = self._put(rows_TN.ravel())
        plain = weight_TN.min() == weight_TN.max() == 1
        return Step(
            self._held.y_FM.index_select(1, rows_N),
            self._held.log_det_M.index_select(0, rows_N),
            conditions,
            None if plain else self._put(weight_TN.ravel()),
            self._put(filled_T),
            self._put(own_TN.sum(1, np.float64)),
            scale_T,
        )

    def _of(self, t: int, step: int) -> NDArray[np.intp]:
        """The rows of a step of one member."""
        stream = self._members[t].stream
        epoch, batch = divmod(step, stream.batches)
        if self._orders[t][0] != epoch:
            held = stream.in_memory(epoch)
            assert held is not None
            self._orders[t] = epoch, held[1]
        at = batch * stream.batch_size
        first = self._held.first[self._members[t].bag]
        rows: NDArray[np.intp] = self._orders[t][1][at : at + stream.batch_size] + first
        return rows

    def _moved(
        self, cell_TN: NDArray[np.int64], number: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Conditions of every member, moved, `(T, U, C)`, and weights of their losses, `(T, U)`."""
        c_TUC = np.tile(self._held.c_UC.numpy(), (len(cell_TN), 1, 1))
        moved_TU = np.ones(c_TUC.shape[:2], np.float32)
        weighted = False
        for t, member in enumerate(self._members):
            there = np.unique(cell_TN[t])
            c_UC, weight_U = member.jitter(self._held.c_UC[there], step=member.step + number)
            c_TUC[t, there] = c_UC.numpy()
            if weight_U is not None:
                moved_TU[t, there], weighted = weight_U.numpy(), True
        return c_TUC, moved_TU if weighted else None

    def _put(self, array: NDArray[Any] | Tensor) -> Tensor:
        tensor = torch.as_tensor(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)
