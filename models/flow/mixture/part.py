"""Boxes of a part of the rows, in arrays that stay in the cache of a CPU core.

With a = sigmoid(A) and b = sigmoid(D - A) of a box (A, D, t, d0, d1 as in `models/boxes.py`)

    log p = log(a b) + log(n / q^2) + what no event changes,   k = d0 + d1 - 2,
    n = (1 - t) d0 + t d1 - k t (1 - t),   q = 1 + k t (1 - t).

Far from a box a b is no number any more: min(A, 0) + min(D - A, 0) is kept in its place, and the
rest is of moderate size. So no component's logarithm is taken: the parts of moderate size are
multiplied and added as they are, and one logarithm is left for each row.

Tensor names end in their axes; the arrays of boxes are `(F, S, K, G)` and those of the table
`(F, 1, K, G)`, without names:
    F features    K components    G groups    S slots of a group    Q, B rows of tables
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models import boxes
from models.flow.fused import give_back, take_part
from models.flow.mixture.table import Sums, quantities, rows_of_sums, sums

FAR = {torch.float32: -80.0, torch.float64: -700.0}
"""A smaller exponential is nothing beside 1, and is slow where it is no normal number."""
_ATEN = torch.ops.aten


class Part:
    """Some rows: forward, then at most once backward."""

    def __init__(
        self, x_FSG: Tensor, values_QKG: Tensor, limits: boxes.Limits, *, keep: bool
    ) -> None:
        """Args: events in slots, the table at their groups, limits of widths, and whether
        `backward` comes, for which nothing that it needs is overwritten.
        """
        self.features = x_FSG.shape[0]
        self.x, self.values_QKG = x_FSG[:, :, None], values_QKG
        self.given = quantities(values_QKG[:, None], self.features)
        self.limits = limits
        slots, (components, groups) = x_FSG.shape[1], values_QKG.shape[1:]
        own = 8, 9, 10, 11, 12
        own_rows = 13 if keep else 8, self.features, slots, components, groups
        self.rows, rows = take_part(self.x, *own_rows)
        """In the end the rows of `Sums` from `y` to `middle`, then those of `kept`."""
        self.kept = [self.rows[row] for row in (own if keep else (5, 7, 6, 5, 7))]
        """Offsets, scales, t, n and q."""
        self.others, others = take_part(self.x, self.features, slots, components, groups)
        """Shares of the components in the density, then whether widths are not clipped."""
        self.taken = [rows, others]

    def forward(self) -> Tensor:
        """Log density, `(S, G)`."""
        one, zero = self.x.new_ones(1), self.x.new_zeros(1)
        given, share = self.given, self.others[0]
        spare, edges = self.rows[:2], self.rows[3:5]
        first, second, rest, low, high = self.rows[:5].unbind(0)
        t, n, q = self.kept[2:]
        scaled = self._scaled()
        torch.add(scaled, given.sharpness, alpha=0.5, out=low)
        torch.sub(given.sharpness, low, out=high)
        # What may be far below any number: the tails, with log-weights and log-widths.
        torch.clamp(edges, max=0, out=spare)
        torch.add(first.add_(second)[0], given.constant, out=share)
        for f in range(1, self.features):
            share.add_(first[f]).sub_(rest[f])
        top = share.amax(1, keepdim=True)
        share.sub_(top).clamp_(min=FAR[share.dtype]).exp_()
        # t, by softplus(A) = max(A, 0) - log max(a, 1 - a).
        torch.clamp(low, zero, given.sharpness, out=t)
        edges.sigmoid_()
        torch.maximum(torch.sub(one, edges, out=spare), edges, out=spare)
        t.add_(torch.div(second, first, out=rest).log_()).div_(given.sharpness)
        # The rest of the density.
        _ATEN.sigmoid_backward.grad_input(given.bend, t, grad_input=rest)  # k t (1 - t)
        torch.add(rest, one, out=q)
        torch.lerp(given.first, given.last, t, out=n).sub_(rest)
        first.mul_(second).mul_(n).div_(q).div_(q)
        for factor in first.unbind(0):
            share.mul_(factor)
        self.total = share.sum(1, keepdim=True)
        return self.total.log().add_(top)[:, 0]

    def backward(self, grad_SG: Tensor, grad_x_FSG: Tensor | None) -> Tensor:
        """Sums of gradients over slots, `(B, K, G)`; those by the events are written."""
        one, given = self.x.new_ones(1), self.given
        rows = rows_of_sums(self.features)
        sums_BKG, taken = take_part(self.x, rows, *self.values_QKG.shape[1:])
        self.taken.append(taken)
        total = sums(sums_BKG, self.features)
        y, y_t, bent, low, high, skew, scaled, middle = self.rows[:8].unbind(0)
        t, n, q = self.kept[2:]
        g = self.others[0].mul_(grad_SG[:, None] / self.total)
        torch.sum(g, 0, out=total.g)
        torch.div(g, n, out=y)
        torch.mul(y, t, out=y_t)
        both = torch.add(y, torch.div(g, q, out=q), alpha=2, out=q)
        _ATEN.sigmoid_backward.grad_input(both, t, grad_input=bent)
        # W, the gradient by t over D.
        torch.sub(one, t, alpha=2, out=skew)
        w = torch.mul(y, (given.last - given.first) / given.sharpness, out=n)
        w.addcmul_(both.mul_(given.bend / given.sharpness), skew, value=-1)
        low.mul_(torch.sub(w, g, out=q))
        high.mul_(torch.add(w, g, out=q))
        skew.mul_(w)
        by_scaled = torch.sub(low, w, out=w).add_(high)
        scaled.mul_(by_scaled)
        self._unscaled(by_scaled, scaled, middle, total, g)
        own = sums_BKG[1 : 1 + 8 * self.features]
        torch.sum(self.rows[:8], 2, out=own.view(8, self.features, *own.shape[1:]))
        if grad_x_FSG is not None:
            torch.sum(middle, 2, out=grad_x_FSG)
        return sums_BKG

    def give_back(self) -> None:
        """Give back all arrays, the sums too."""
        give_back(self.taken)

    def _scaled(self) -> Tensor:
        """(x - middle) D / w of all boxes; log-widths after the first go to the third row."""
        scaled, (offset, scale) = self.rows[6], self.kept[:2]
        torch.sub(self.x, self.given.middle, out=offset)
        torch.mul(offset[0], self.given.width[0], out=scaled[0])
        if self.features == 1:
            return scaled
        for number, f, g in self._pairs():
            oblique, opening = self.given.oblique[number], self.given.opening[number]
            by, log_width = (scaled[f], scale[f]) if g else (offset[f], self.given.width[f])
            torch.addcmul(by, oblique, offset[g], value=-1, out=scaled[f])
            torch.addcmul(log_width, opening, offset[g], out=scale[f])
        scale, log_width = scale[1:], self.rows[2, 1:]
        torch.clamp(scale, *self.limits, out=log_width)
        torch.eq(scale, log_width, out=self.others[1:])
        torch.neg(log_width, out=scale).exp_().mul_(self.given.sharpness[1:])
        scaled[1:].mul_(scale)
        return scaled

    def _unscaled(
        self, by_scaled: Tensor, scaled: Tensor, middle: Tensor, total: Sums, g: Tensor
    ) -> None:
        """The way back through `_scaled`: gradients by middles, widths and pairs."""
        (offset, scale), spare = self.kept[:2], self.kept[2][0]
        torch.mul(by_scaled[0], self.given.width[0], out=middle[0])
        if self.features == 1:
            return
        torch.mul(by_scaled[1:], scale[1:], out=middle[1:])
        width = torch.add(scaled[1:], g, out=scale[1:]).mul_(self.others[1:])
        torch.sum(width, 1, out=total.width)
        for number, f, g_ in self._pairs():
            oblique, opening = self.given.oblique[number], self.given.opening[number]
            torch.sum(torch.mul(middle[f], offset[g_], out=spare), 0, out=total.oblique[number])
            torch.sum(torch.mul(width[f - 1], offset[g_], out=spare), 0, out=total.opening[number])
            middle[g_].addcmul_(middle[f], oblique, value=-1)
            middle[g_].addcmul_(width[f - 1], opening, value=-1)

    def _pairs(self) -> Iterator[tuple[int, int, int]]:
        """Number of each pair of a column and one before it, and both."""
        return ((f * (f - 1) // 2 + g, f, g) for f in range(self.features) for g in range(f))
