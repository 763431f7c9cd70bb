"""The rows of several trainings on the device, and which of them each takes in a step.

Rows are standardised once and stay on the device; a step is told by numbers of rows, and by
conditions that moved, in one array of constant shape: `Told`. What they stand for is looked up on
the device. All trainings share the rows, but those with a bag of their own.

Tensor names end in their axes:
    M rows of all    F event columns    C condition columns    U distinct conditions
    T trainings    N rows of a step of one training    K conditions of all trainings
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
from models.training.arithmetic import fused
from models.training.interpolation import ConditionJitter
from models.training.stack.member import Member

STANDARDISED_ROWS = 1 << 20
"""Rows that are standardised at once."""
NO_ROW = -1
"""Stands for a row that only fills up: of a last, smaller batch, or of a training that rests. As
the number of a row it is the last one's."""


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of a step, those of a training next to each other, equally many of each."""

    y_FN: Tensor
    """Standardised events."""
    log_det_N: Tensor
    """Log-Jacobians of the standardisation, in nats."""
    conditions: Conditions
    """All U distinct ones, of each training."""
    weight_N: Tensor
    """Of the losses; 0 for rows that only fill up."""
    rows_T: Tensor
    """How many rows there are of each training; 0 where one rests."""
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
        """Distinct conditions, in physical units, on the host."""
        few = np.uint16 if len(self.c_UC) < 1 << 16 else np.int64  # of 16 bits they sort 10 times
        self.number_M = cell_M.numpy().astype(few)  # as fast
        """Which of them each row has, on the host."""
        self.cell_M = cell_M.to(device)
        """The same on the device."""
        self.weight_M: Tensor | None = None
        """Over the mean weight."""
        if weights:
            self.weight_M = torch.from_numpy(np.concatenate(weights) / first.mean_weight).to(device)
        parts = (part.to(device) for part in torch.split(events_MF, STANDARDISED_ROWS))
        y, log_det, inside = zip(*map(first.flow.events, parts), strict=True)
        self.y_FM = torch.cat([part_NF.t() for part_NF in y], 1)
        self.log_det_M = torch.where(torch.cat(inside), torch.cat(log_det), -torch.inf)
        """In nats; -inf outside the support."""


class Rows:
    """Which rows some members take, in the orders of their streams."""

    def __init__(self, members: Sequence[Member], held: Held) -> None:
        """Args: trainings of one shape, and their rows."""
        device = members[0].device
        self.fused = fused(device)
        self.moved = any(member.jitter.moves for member in members)
        """Whether conditions move."""
        flow = members[0].flow
        assert isinstance(flow, ConditionalFlow)
        self._members, self._held, self._standardise = members, held, flow.conditions
        self._most = members[0].config.batch_size
        self._orders: list[tuple[int, Any]] = [(-1, None)] * len(members)
        """Of each member the epoch it is in, and the order of its rows there."""
        c_TUC = held.c_UC.repeat(len(members), 1, 1).to(device)
        self._c_CU = self._standardised(c_TUC)
        self._before_T1 = len(held.c_UC) * torch.arange(len(members), device=device)[:, None]

    def go_on(self, members: Sequence[Member]) -> None:
        """Args: the same trainings, where they are now."""
        self._members = members

    def tell(self, number: int) -> tuple[list[Tensor], list[int] | None]:
        """What the host tells of the members' step `number` from now on.

        Numbers of rows, `(T, N)`, `NO_ROW` for such as fill up. Where conditions move, also those,
        `(T, U, C)`, and weights of their losses, `(T, U)`. Then, where steps are fused, for which
        rows come in the order of their conditions, how many there are of each: `(T U)`.
        """
        taken = [
            self._of(t, member.step + number) if number < member.steps else np.zeros(0, np.int32)
            for t, member in enumerate(self._members)
        ]
        most = max(map(len, taken)) if self.fused else self._most
        rows_TN = np.full((len(taken), most), NO_ROW, np.int32)
        for row_N, own in zip(rows_TN, taken, strict=True):
            row_N[: len(own)] = own
        if not self.fused and not self.moved:
            return [torch.from_numpy(rows_TN)], None
        number_TN = self._held.number_M[rows_TN]
        counts_TU, filling_T = self._counts(number_TN), most - np.array([*map(len, taken)])
        moved: tuple[Tensor, ...] = ()
        if self.moved:
            last = self._held.number_M[NO_ROW]
            there_TU = counts_TU > 0
            there_TU[:, last] = counts_TU[:, last] > filling_T
            moved = self._moved(there_TU, number)
        if not self.fused:
            return [torch.from_numpy(rows_TN), *moved], None
        order_TN = np.argsort(number_TN, axis=1, kind="stable")
        rows_TN = np.take_along_axis(rows_TN, order_TN, 1)
        return [torch.from_numpy(rows_TN), *moved], counts_TU.ravel().tolist()

    def look_up(self, rows_TN: Tensor, *moved: Tensor, counts: list[int] | None = None) -> Step:
        """The rows that were told: a function of tensors on the device, that waits for none."""
        held, filled_TN = self._held, rows_TN >= 0
        rows_N = rows_TN.clamp(min=0).flatten()
        own_TN = filled_TN.float()
        if held.weight_M is not None:
            own_TN = own_TN * held.weight_M.index_select(0, rows_N).view_as(own_TN)
        weight_TN, c_CU, scale_T, of_rows = own_TN, self._c_CU, None, None
        own_T = own_TN.sum(1, dtype=torch.float64)
        if moved or counts is None:
            cell_TN = held.cell_M.index_select(0, rows_N).view_as(rows_TN)
        if counts is None:
            of_rows = (cell_TN + self._before_T1).flatten()
        if moved:
            c_CU = self._standardised(moved[0])
            weight_TN = own_TN * moved[1].gather(1, cell_TN)
            scale_T = own_T / weight_TN.sum(1, dtype=torch.float64)
        rows_T = filled_TN.sum(1)
        weight_N = (weight_TN / rows_T.clamp(min=1)[:, None]).flatten()
        conditions = Conditions(
            c_CU,
            counts,
            fused=counts is not None,
            of_rows=of_rows,
            apart=len(rows_TN) > 1,
            slopes_N=-weight_N,
        )
        return Step(
            held.y_FM.index_select(1, rows_N),
            held.log_det_M.index_select(0, rows_N),
            conditions,
            weight_N,
            rows_T,
            own_T,
            scale_T,
        )

    def _of(self, t: int, step: int) -> NDArray[np.int32]:
        """The rows of a step of one member."""
        stream = self._members[t].stream
        epoch, batch = divmod(step, stream.batches)
        if self._orders[t][0] != epoch:
            held = stream.in_memory(epoch)
            assert held is not None
            first = self._held.first[self._members[t].bag]
            self._orders[t] = epoch, (held[1] + first).astype(np.int32)
        at = batch * stream.batch_size
        rows: NDArray[np.int32] = self._orders[t][1][at : at + stream.batch_size]
        return rows

    def _counts(self, number_TN: NDArray[Any]) -> NDArray[np.intp]:
        """How many rows each training has of each condition, `(T, U)`."""
        trainings, count = len(number_TN), len(self._held.c_UC)
        place_TN = number_TN + count * np.arange(trainings)[:, None]
        return np.bincount(place_TN.ravel(), minlength=trainings * count).reshape(trainings, count)

    def _moved(self, there_TU: NDArray[np.bool_], number: int) -> tuple[Tensor, Tensor]:
        """Conditions of every member, moved, `(T, U, C)`, and weights of their losses, `(T, U)`."""
        return ConditionJitter.together(
            [member.jitter for member in self._members],
            self._held.c_UC,
            torch.from_numpy(there_TU),
            [member.step + number for member in self._members],
        )

    def _standardised(self, c_TUC: Tensor) -> Tensor:
        """Conditions as networks see them, `(C, T U)`."""
        c_KC: Tensor = self._standardise(c_TUC.flatten(0, 1))[0]
        return c_KC.t()
