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
from models.flow.conditions import Conditions
from models.flow.fused import give_back
from models.flow.mixture.part import Part
from models.flow.mixture.slots import OneEach, Slots
from models.flow.mixture.table import Table, rows_of_sums
from models.flow.network import FusedPass

ELEMENTS, FEWEST_ROWS = 131_072, 64
"""Rows of a part times boxes; fewest rows of a part."""
FILLED = 16_384
"""Elements that only fill up, for flows of a stack of which one has fewer components than another:
more take a processor longer than a part of their own."""


class FusedMixture(torch.autograd.Function):
    """Log density of events by the conditions' network; gradients by its weights and by events."""

    @staticmethod
    def forward(
        ctx: Any,
        one: FusedPass,
        limits: boxes.Limits,
        own: Sequence[int],
        conditions: Conditions,
        x_FN: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        """`one`: a pass, whose `weights` these are; `limits` and `own`: as of `FusedBoxes`;
        of `conditions` counts and slopes count.
        """
        out_MU = one.forward()
        features, keep = x_FN.shape[0], any(ctx.needs_input_grad)
        each = boxes.parameters_of(features)
        parameters_PKU = out_MU.view(each, len(out_MU) // each, out_MU.shape[1])
        mixture = FusedBoxes(parameters_PKU, limits, features, own)
        counts, slopes_N = conditions.counts, conditions.slopes_N
        given = x_FN.detach(), counts, slopes_N if keep else None
        log_prob_N = mixture.forward(*given, keep=keep, by_events=ctx.needs_input_grad[4])
        if keep:
            ctx.one, ctx.mixture, ctx.out_MU = one, mixture, out_MU
        else:
            one.give_back()
            give_back([out_MU])
        return log_prob_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad_x_FN, grad_PKU = ctx.mixture.backward(grads[0])
        grad_IU, weights = ctx.one.backward(grad_PKU.flatten(0, 1))
        give_back([grad_IU, ctx.out_MU])
        return None, None, None, None, grad_x_FN, *weights


class FusedBoxes:
    """The mixture of given parameters. Its derivative is there once: arrays are used again."""

    def __init__(
        self,
        parameters_PKU: Tensor,
        limits: boxes.Limits,
        features: int,
        own: Sequence[int] = (),
    ) -> None:
        """Args: parameters; limits of widths, numbers or arrays `(U,)`; number of columns; how many
        components each flow of a stack has, to which rows belong in equal parts, if not all.
        """
        self.own = own or [parameters_PKU.shape[1]]
        self.table, self.limits = Table(parameters_PKU, limits, features), limits
        self.features = features
        self.parts: list[tuple[slice, tuple[slice, ...], Slots, Part]] = []

    def forward(
        self,
        x_FN: Tensor,
        counts: Sequence[int] | None,
        slopes_N: Tensor | None = None,
        *,
        keep: bool,
        by_events: bool = True,
    ) -> Tensor:
        """Log density of each row, `(N,)`.

        Args:
            x_FN: Events.
            counts: Rows of each condition, next to each other; None for one each.
            slopes_N: As of `Conditions`.
            keep: Whether `backward` comes next.
            by_events: Whether it gives gradients by events.
        """
        x_FN = x_FN.clamp(-boxes.FARTHEST, boxes.FARTHEST)
        self.near_FN = x_FN.abs() < boxes.FARTHEST
        log_prob_N, values = torch.empty_like(x_FN[0]), self.table.values_QKU
        if keep:
            self.sums_BKU = values.new_zeros(rows_of_sums(self.features), *values.shape[1:])
            self.grad_FN = torch.empty_like(x_FN) if by_events else None
        for rows, place, slots in self._slots(counts, x_FN):
            limits = self.limits
            if isinstance(limits[0], Tensor):
                low, high = slots.of_conditions(torch.stack(limits)[:, None, place[2]])
                limits = low, high
            values_QKG = slots.of_conditions(values[place])
            part = Part(slots.of_rows(x_FN[:, rows]), values_QKG, limits, keep=keep)
            log_prob_N[rows] = slots.to_rows(part.forward()[None])[0]
            if slopes_N is not None:
                self._back(rows, place, slots, part, slopes_N)
            elif keep:
                self.parts.append((rows, place, slots, part))
            else:
                part.give_back()
        if not keep:
            self.table.give_back()
        return log_prob_N

    def backward(self, grad_N: Tensor) -> tuple[Tensor | None, Tensor]:
        """Gradients by events, `(F, N)`, if asked for, and by parameters, `(P, K, U)`."""
        for each in self.parts:
            self._back(*each, grad_N)
        grad_PKU = self.table.backward(self.sums_BKU)
        self.table.give_back()
        grad_FN = self.grad_FN
        return grad_FN if grad_FN is None else grad_FN.mul_(self.near_FN), grad_PKU

    def _back(
        self, rows: slice, place: tuple[slice, ...], slots: Slots, part: Part, grad_N: Tensor
    ) -> None:
        """Add the gradients of a part."""
        grad_SG = slots.of_gradients(grad_N[rows])
        by_x = None if self.grad_FN is None else grad_SG.new_empty(self.features, *grad_SG.shape)
        sums_BKG = part.backward(grad_SG, by_x)
        slots.add_to_conditions(sums_BKG, self.sums_BKU[place])
        if self.grad_FN is not None and by_x is not None:
            self.grad_FN[:, rows] = slots.to_rows(by_x)
        part.give_back()

    def _slots(
        self, counts: Sequence[int] | None, x_FN: Tensor
    ) -> Iterator[tuple[slice, tuple[slice, ...], Slots]]:
        """Parts: which rows; their components and conditions in a table; and where they stand."""
        ends = None if counts is None else list(accumulate(counts))
        for rows, components in self._cuts(x_FN.shape[1]):
            if counts is None or ends is None:
                yield rows, (slice(None), slice(components), rows), OneEach()
                continue
            given = slice(bisect_right(ends, rows.start), bisect_left(ends, rows.stop) + 1)
            own = list(counts[given])
            own[-1] -= ends[given.stop - 1] - rows.stop
            own[0] = min(rows.stop, ends[given.start]) - rows.start
            yield rows, (slice(None), slice(components), given), Slots(own, x_FN.device)

    def _cuts(self, count: int) -> Iterator[tuple[slice, int]]:
        """Rows of each part, and how many components their flows have."""
        each, at = count // len(self.own), 0
        for flows in self._flows(each):
            most = max(FEWEST_ROWS, ELEMENTS // (self.features * max(flows)))
            end = at + each * len(flows)
            size = -(-(end - at) // -(-(end - at) // most)) if each else 1
            for start in range(at, end, size):
                yield slice(start, min(start + size, end)), max(flows)
            at = end

    def _flows(self, rows: int) -> Iterator[list[int]]:
        """The flows whose rows are cut together, by their numbers of components."""
        together: list[int] = []
        for components in self.own:
            longer = [*together, components]
            filled = len(longer) * max(longer) - sum(longer)
            if together and filled * rows * self.features > FILLED:
                yield together
                longer = [components]
            together = longer
        yield together
