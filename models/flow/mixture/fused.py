"""A mixture's network and log density at many rows, with the derivative by hand.

Rows go through in parts whose arrays stay in the cache of a CPU core; what depends on conditions
alone is worked out once for each of them.

Tensor names end in their axes:
    N rows    F features    K components    U distinct conditions    P parameters of a component
    I inputs of the network    Q, B rows of tables    G groups    S slots of a group
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models import boxes
from models.flow.fused import give_back
from models.flow.mixture.part import Part
from models.flow.mixture.slots import OneEach, Slots
from models.flow.mixture.table import Table, rows_of_sums
from models.flow.network import FusedPass

ELEMENTS, FEWEST_ROWS = 131_072, 64
"""Rows of a part times boxes; fewest rows of a part."""


class FusedMixture(torch.autograd.Function):
    """Log density of events by the conditions' network; gradients by its weights and by events."""

    @staticmethod
    def forward(
        ctx: Any,
        one: FusedPass,
        limits: boxes.Limits,
        counts: Sequence[int] | None,
        x_FN: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        """`one`: a pass, whose `weights` these are; `counts`: as of `Conditions`; `limits`: of
        widths, numbers or arrays `(U,)`.
        """
        out_MU = one.forward()
        features, keep = x_FN.shape[0], any(ctx.needs_input_grad)
        each = boxes.parameters_of(features)
        parameters_PKU = out_MU.view(each, len(out_MU) // each, out_MU.shape[1])
        mixture = FusedBoxes(parameters_PKU, limits, features)
        log_prob_N = mixture.forward(x_FN.detach(), counts, keep=keep)
        if keep:
            ctx.one, ctx.mixture, ctx.out_MU = one, mixture, out_MU
        else:
            one.give_back()
            give_back([out_MU])
        return log_prob_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad_x_FN, grad_PKU = ctx.mixture.backward(grads[0], by_events=ctx.needs_input_grad[3])
        grad_IU, weights = ctx.one.backward(grad_PKU.flatten(0, 1))
        give_back([grad_IU, ctx.out_MU])
        return None, None, None, grad_x_FN, *weights


class FusedBoxes:
    """The mixture of given parameters. Its derivative is there once: arrays are used again."""

    def __init__(self, parameters_PKU: Tensor, limits: boxes.Limits, features: int) -> None:
        self.table, self.limits = Table(parameters_PKU, limits, features), limits
        self.features = features
        self.parts: list[tuple[slice, slice, Slots, Part]] = []

    def forward(self, x_FN: Tensor, counts: Sequence[int] | None, *, keep: bool) -> Tensor:
        """Log density of each row, `(N,)`.

        Args:
            x_FN: Events.
            counts: Rows of each condition, next to each other; None for one each.
            keep: Whether `backward` comes next.
        """
        x_FN = x_FN.clamp(-boxes.FARTHEST, boxes.FARTHEST)
        self.near_FN = x_FN.abs() < boxes.FARTHEST
        log_prob_N = torch.empty_like(x_FN[0])
        for rows, given, slots in self._slots(counts, x_FN):
            values_QKG = slots.of_conditions(self.table.values_QKU[:, :, given])
            limits = self.limits
            if isinstance(limits[0], Tensor):
                low, high = slots.of_conditions(torch.stack(limits)[:, None, given])
                limits = low, high
            part = Part(slots.of_rows(x_FN[:, rows]), values_QKG, limits, keep=keep)
            log_prob_N[rows] = slots.to_rows(part.forward()[None])[0]
            if keep:
                self.parts.append((rows, given, slots, part))
            else:
                part.give_back()
        if not keep:
            self.table.give_back()
        return log_prob_N

    def backward(self, grad_N: Tensor, *, by_events: bool) -> tuple[Tensor | None, Tensor]:
        """Gradients by events, `(F, N)`, if asked for, and by parameters, `(P, K, U)`."""
        values = self.table.values_QKU
        sums_BKU = values.new_zeros(rows_of_sums(self.features), *values.shape[1:])
        grad_FN = torch.empty_like(self.near_FN, dtype=values.dtype) if by_events else None
        for rows, given, slots, part in self.parts:
            grad_SG = slots.of_gradients(grad_N[rows])
            by_x = None if grad_FN is None else grad_SG.new_empty(self.features, *grad_SG.shape)
            sums_BKG = part.backward(grad_SG, by_x)
            slots.add_to_conditions(sums_BKG, sums_BKU[:, :, given])
            if grad_FN is not None and by_x is not None:
                grad_FN[:, rows] = slots.to_rows(by_x)
            part.give_back()
        grad_PKU = self.table.backward(sums_BKU)
        self.table.give_back()
        return grad_FN if grad_FN is None else grad_FN.mul_(self.near_FN), grad_PKU

    def _slots(
        self, counts: Sequence[int] | None, x_FN: Tensor
    ) -> Iterator[tuple[slice, slice, Slots]]:
        """Parts: which rows, which conditions they have, and where they stand."""
        count, components = x_FN.shape[1], self.table.values_QKU.shape[1]
        most = max(FEWEST_ROWS, ELEMENTS // (self.features * components))
        size = -(-count // -(-count // most)) if count else 1
        ends = None if counts is None else list(accumulate(counts))
        for at in range(0, count, size):
            rows = slice(at, min(at + size, count))
            if counts is None or ends is None:
                yield rows, rows, OneEach()
                continue
            given = slice(bisect_right(ends, rows.start), bisect_left(ends, rows.stop) + 1)
            own = list(counts[given])
            own[-1] -= ends[given.stop - 1] - rows.stop
            own[0] = min(rows.stop, ends[given.start]) - rows.start
            yield rows, given, Slots(own, x_FN.device)
