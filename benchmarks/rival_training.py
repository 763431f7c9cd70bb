"""One plain loop that trains a rival as well as ours is trained.

AdamW with warm-up, a cosine to zero over the budget, clipped gradients, averaged weights. Every
rival has advantages that a user would not have: the whole table is in memory, in the flow's
coordinates; the clock stands still while it is validated; a step that is not finite is left out;
of the averaged weights, the best by validation are kept.

Tensor names end in their axes:
    N rows
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from processor_time import Clock
from rivals import Rival, Rows, log_prob
from torch import Tensor, nn

EVALUATIONS = 10
"""Of validation rows, evenly over a training."""
VALIDATION_ROWS = 40_000
"""Of the validation split that choose the best weights."""
SETTLING_ROWS = 40_000
"""Of the training split, by which statistics beside the weights are settled for an evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a rival is trained."""

    batch: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    cosine: bool = True
    """After a warm-up, down to zero at the end of the budget; else constant."""
    clip_norm: float = 5.0
    average: float = 0.999
    """Weight of the past in the averaged weights; 0 = no averaging."""
    warmup: float = 0.02
    """Share of the budget over which the learning rate rises."""

    def rate(self, spent: float) -> float:
        """Learning rate after this share of the budget."""
        if not self.cosine:
            return self.learning_rate
        rise = min(1.0, spent / self.warmup + 1e-3)
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, spent)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """The course of a training."""

    curve: list[tuple[float, float]]
    """Processor seconds of training, and the NLL of validation rows then."""
    seconds: float
    rows_per_second: float
    steps: int
    skipped: int
    """Steps left out because they were not finite."""


def fit(
    flow: Rival,
    recipe: Recipe,
    train: Rows,
    val: Rows,
    *,
    seconds: float = math.inf,
    steps: float = math.inf,
    evaluations: int = EVALUATIONS,
) -> Fitted:
    """Train for this processor time or so many steps; the flow is left with its best weights.

    Its last evaluation is at the end.
    """
    chosen = torch.randperm(len(val[0]))[:VALIDATION_ROWS]
    val, settling = (val[0][chosen], val[1][chosen]), _first(train, SETTLING_ROWS)
    rows, fitter, clock = flow.prepared(train), _Fitter(flow, recipe), Clock()
    curve: list[tuple[float, float]] = []
    best, best_nll, done = copy.deepcopy(flow.state_dict()), math.inf, 0
    for batch in _batches(rows, recipe.batch):
        spent = max(clock() / seconds, done / steps)
        if spent >= (len(curve) + 1) / evaluations:
            with clock.standing(), fitter.averaged():
                flow.settle(settling)
                curve.append((clock(), nll(flow, val)))
                if curve[-1][1] < best_nll:
                    best, best_nll = copy.deepcopy(flow.state_dict()), curve[-1][1]
        if spent >= 1:
            break
        fitter.step(batch, recipe.rate(spent))
        done += 1
    took_s = clock()
    flow.load_state_dict(best)
    flow.settle(train)
    flow.eval()
    rate = done * recipe.batch / took_s
    return Fitted(
        curve=curve, seconds=took_s, rows_per_second=rate, steps=done, skipped=fitter.skipped
    )


def nll(flow: Rival, rows: Rows) -> float:
    """Mean NLL in evaluation mode; infinite where it is no number."""
    found = -float(log_prob(flow, rows).double().mean())
    return found if math.isfinite(found) else math.inf


class _Fitter:
    """Steps of AdamW, and the average over them."""

    def __init__(self, flow: Rival, recipe: Recipe) -> None:
        self.flow, self.recipe, self.skipped, self._steps = flow, recipe, 0, 0
        self._weights = list(flow.parameters())
        self._adam = torch.optim.AdamW(
            self._weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self._average = [w.detach().clone() for w in self._weights] if recipe.average else []

    def step(self, batch: Rows, rate: float) -> None:
        """One step, unless it is not finite."""
        self.flow.train()
        self._adam.zero_grad(set_to_none=True)
        loss = -self.flow.inner(*batch).mean()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self._weights, self.recipe.clip_norm, foreach=True)
        if not bool(norm.isfinite() & loss.isfinite()):
            self.skipped += 1
            return
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        self._steps += 1
        if self._average:
            past = min(self.recipe.average, (1 + self._steps) / (10 + self._steps))
            torch._foreach_lerp_(self._average, self._detached(), 1 - past)

    def averaged(self) -> _Swapped:
        """The flow has its averaged weights in here, if there are any."""
        return _Swapped(self._detached(), self._average)

    def _detached(self) -> list[Tensor]:
        return [weight.detach() for weight in self._weights]


class _Swapped:
    """Other values in these tensors for a while."""

    def __init__(self, tensors: list[Tensor], values: list[Tensor]) -> None:
        self._tensors, self._values = tensors, values
        self._own = [tensor.clone() for tensor in tensors] if values else []

    def __enter__(self) -> None:
        self._put(self._values)

    def __exit__(self, *_: object) -> None:
        self._put(self._own)

    def _put(self, values: list[Tensor]) -> None:
        for tensor, value in zip(self._tensors, values, strict=False):
            tensor.copy_(value)


def _batches(rows: Rows, size: int) -> Iterator[Rows]:
    """Shuffled batches without end."""
    while True:
        for chosen in torch.randperm(len(rows[0])).split(size):
            yield rows[0][chosen], rows[1][chosen]


def _first(rows: Rows, count: int) -> Rows:
    return rows[0][:count], rows[1][:count]
