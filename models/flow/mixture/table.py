"""What a mixture's boxes need of the conditions alone, and its derivative by the parameters.

It is worked out once for each distinct condition and then spread to rows.

Tensor names end in their axes:
    F features    K components    U distinct conditions    P parameters of a component
    Q numbers of the table    B sums over rows (`sums_of`)
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from models import boxes
from models.flow.fused import give_back, take


class Quantities(NamedTuple):
    """Rows of a table: a number for each component, then for each box, then for each pair."""

    constant: Tensor
    """Log-weight with all terms of the density that no event changes."""
    middle: Tensor
    width: Tensor
    """D / w of the first column, whose width no event changes; raw log-width of the others."""
    sharpness: Tensor
    """D."""
    first: Tensor
    last: Tensor
    bend: Tensor
    """k = d0 + d1 - 2 of the slopes at both ends."""
    oblique: Tensor
    """What a column before adds to the middle."""
    opening: Tensor
    """What it adds to the log-width."""


class Sums(NamedTuple):
    """Gradients summed over rows, with g the gradient by a component's log density.

    y = g / n, and a = sigmoid(A), b = sigmoid(D - A), W as in `models/flow/mixture/part.py`.
    """

    g: Tensor
    y: Tensor
    t: Tensor
    """y t."""
    bend: Tensor
    """t (1 - t) (y + 2 g / q)."""
    low: Tensor
    """a (W - g)."""
    high: Tensor
    """b (W + g)."""
    skew: Tensor
    """W (1 - 2 t)."""
    scale: Tensor
    """The gradient by log(D / w)."""
    middle: Tensor
    """The gradient by the event's column."""
    width: Tensor
    """That by minus the log-width, where it is not clipped; of columns after the first."""
    oblique: Tensor
    opening: Tensor


def quantities(values: Tensor, features: int) -> Quantities:
    """The rows of a table `(Q, ...)`; boxes have the axis of features first."""
    each, pairs = values[1 : 1 + 6 * features], values[1 + 6 * features :]
    each = each.view(6, features, *values.shape[1:])
    middle = features * (features - 1) // 2
    return Quantities._make((values[0], *each.unbind(0), pairs[:middle], pairs[middle:]))


def rows_of_sums(features: int) -> int:
    """B."""
    return 1 + 8 * features + (features - 1) + features * (features - 1)


def sums(values: Tensor, features: int) -> Sums:
    """The rows of sums `(B, ...)`."""
    at = 1 + 8 * features
    each = values[1:at].view(8, features, *values.shape[1:])
    width, pairs = values[at : at + features - 1], values[at + features - 1 :]
    middle = features * (features - 1) // 2
    return Sums._make((values[0], *each.unbind(0), width, pairs[:middle], pairs[middle:]))


class Table:
    """The table of parameters `(P, K, U)`."""

    def __init__(self, parameters_PKU: Tensor, limits: boxes.Limits, features: int) -> None:
        """Args: parameters as `boxes` orders them, limits of widths, number of columns."""
        self.raw_PKU, self.features = parameters_PKU, features
        raw, pairs = self._parts(parameters_PKU)
        count = 1 + 6 * features + features * (features - 1)
        self.values_QKU = take(raw, count, *raw.shape[2:])
        self.own = own = quantities(self.values_QKU, features)
        self.clipped = torch.clamp(raw[:, 1:], *_limits(features, raw.dtype, raw.device))
        # Those of columns after the first are clipped where the columns before have moved them.
        self.clipped[0, 0].clamp_(*limits)
        own.middle.copy_(raw[:, 0])
        own.width.copy_(self.clipped[:, 0])
        slopes = self.values_QKU[1 + 2 * features : 1 + 5 * features]
        slopes = slopes.view(3, features, *raw.shape[2:])
        torch.exp(self.clipped[:, 1:].transpose(0, 1), out=slopes)
        sharpness = own.sharpness.add_(1)
        torch.add(own.first, own.last, out=own.bend).sub_(2)
        self.outside = torch.exp(-sharpness)
        self.log_weight = torch.log_softmax(parameters_PKU[0], 0)
        whole = torch.log1p(-self.outside).sum(0).sub_(own.width[0])
        torch.add(self.log_weight, whole, out=own.constant)
        own.width[0].neg_().exp_().mul_(sharpness[0])
        if features > 1:
            own.oblique.copy_(pairs[:, 0])
            torch.mul(pairs[:, 1], boxes.OPENING, out=own.opening)

    def backward(self, sums_BKU: Tensor) -> Tensor:
        """Gradient by the parameters, `(P, K, U)`, of sums over the rows of each condition."""
        own, total = self.own, sums(sums_BKU, self.features)
        grad_PKU = take(self.raw_PKU, *self.raw_PKU.shape)
        (raw, _), (grad, grad_pairs) = self._parts(self.raw_PKU), self._parts(grad_PKU)
        whole = total.g.sum(0, keepdim=True)
        torch.addcmul(total.g, self.log_weight.exp_(), whole, value=-1, out=grad_PKU[0])
        torch.neg(total.middle, out=grad[:, 0])
        torch.neg(total.scale[0] + total.g, out=grad[0, 1])
        torch.neg(total.width, out=grad[1:, 1])
        edges = (total.low - total.high).add_(total.skew).mul_(0.5).add_(total.g)
        edges.addcdiv_(total.scale, own.sharpness)
        edges.addcmul_(total.g, self.outside / (1 - self.outside))
        torch.mul(edges, own.sharpness - 1, out=grad[:, 2])
        torch.mul((total.y - total.t).sub_(total.bend), own.first, out=grad[:, 3])
        torch.mul(total.t.sub_(total.bend), own.last, out=grad[:, 4])
        grad[:, 1:].mul_(self.clipped.eq_(raw[:, 1:]))
        if self.features > 1:
            torch.neg(total.oblique, out=grad_pairs[:, 0])
            torch.mul(total.opening, -boxes.OPENING, out=grad_pairs[:, 1])
        return grad_PKU

    def give_back(self) -> None:
        """Give back all arrays."""
        give_back([self.values_QKU])

    def _parts(self, parameters_PKU: Tensor) -> tuple[Tensor, Tensor]:
        """Those of boxes, `(F, 5, K, U)`, and of pairs of columns, `(pairs, 2, K, U)`."""
        at = 1 + boxes.EACH * self.features
        shape = parameters_PKU.shape[1:]
        of_boxes = parameters_PKU[1:at].view(self.features, boxes.EACH, *shape)
        pairs = self.features * (self.features - 1) // 2
        return of_boxes, parameters_PKU[at:].view(pairs, 2, *shape)


@lru_cache
def _limits(features: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Least and greatest raw values of a box after its middle, `(F, 4, 1, 1)`; of widths none."""
    low, high = boxes.SHARPNESS
    least = [-math.inf, low, -boxes.TILT, -boxes.TILT]
    most = [math.inf, high, boxes.TILT, boxes.TILT]
    both = torch.tensor([[least, most]], dtype=torch.float64).repeat(features, 1, 1)
    first, last = both.to(device, dtype)[..., None, None].unbind(1)
    return first, last
