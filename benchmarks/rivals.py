"""Other people's flows, and one plain loop that trains each as well as a reasonable user would.

Stock flows of nflows and zuko over standardised log masses and log conditions, with the Jacobian,
so that their NLL is in the data's own units; Adam, cosine to zero over the time budget, clipped
gradients. The thesis's flow as the thesis has it: raw masses, constant learning rate, no clipping;
but in this loop, since its own loop is timed by `epoch.py` and would hide the design.

Every rival has advantages that a user would not have: the whole table is in memory without a
loader, the faster number of threads is chosen, the clock stands still while it is validated, a step
that is not finite is left out, and the weights with the best validation NLL are kept.

Tensor names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, cast

import thesis
import torch
import zuko
from nflows.distributions.normal import StandardNormal
from nflows.flows.base import Flow
from nflows.transforms.autoregressive import (
    MaskedAffineAutoregressiveTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
)
from nflows.transforms.base import CompositeTransform
from nflows.transforms.permutations import ReversePermutation
from torch import Tensor, nn

EVALUATIONS = 20
"""Evaluations of the validation split in a training."""
EVALUATION_ROWS = 8192
"""Rows that go through a flow together; all of a split at once is slower."""
TRIAL_STEPS = 20
"""Steps by which the number of threads is chosen."""

AFFINE, SPLINE, NSF, MAF, THESIS = (
    "nflows affine MAF",
    "nflows spline MAF",
    "zuko NSF",
    "zuko MAF",
    "thesis",
)
SHAPES: Mapping[str, Mapping[str, Any]] = {
    AFFINE: {"layers": 5, "hidden_features": 64, "num_blocks": 2},
    SPLINE: {
        "layers": 3,
        "hidden_features": 64,
        "num_blocks": 2,
        "num_bins": 8,
        "tails": "linear",
        "tail_bound": 5.0,
    },
    NSF: {"transforms": 3, "hidden_features": [64, 64], "bins": 8},
    MAF: {"transforms": 3, "hidden_features": [64, 64]},
    THESIS: {"blocks": thesis.BLOCKS, "hidden": thesis.HIDDEN},
}
RIVALS = tuple(SHAPES)

Rows = tuple[Tensor, Tensor]
"""Events, `(N, F)`, and conditions, `(N, C)`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a rival is trained."""

    batch_size: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    cosine: bool = True
    """Down to zero at the end of the time budget; else constant."""
    clip_norm: float = 5.0


BATCH = {"known": 1024, "cosmic": 512}


class Rival(Protocol):
    """A flow in physical units."""

    def log_prob(self, x_NF: Tensor, c_NC: Tensor) -> Tensor: ...

    def sample(self, n: int, c_C: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Fitted:
    """The course of a training."""

    curve: list[tuple[float, float]]
    """Seconds of training, and the NLL of the whole validation split then."""
    rows_per_second: float
    threads: int
    skipped: int
    """Steps left out because they were not finite."""


class Standardised(nn.Module):
    """A flow over standardised logarithms, in physical units."""

    def __init__(self, flow: nn.Module, rows: Rows) -> None:
        super().__init__()
        self.flow = flow
        for name, values in zip(("x", "c"), rows, strict=True):
            self.register_buffer(f"{name}_mean", values.log().mean(0))
            self.register_buffer(f"{name}_std", values.log().std(0))

    def log_prob(self, x_NF: Tensor, c_NC: Tensor) -> Tensor:
        log_x_NF = x_NF.log()
        y_NF, given_NC = (log_x_NF - self.x_mean) / self.x_std, self._given(c_NC)
        if isinstance(self.flow, zuko.lazy.Flow):
            inner_N = self.flow(given_NC).log_prob(y_NF)
        else:
            inner_N = self.flow.log_prob(y_NF, given_NC)
        return cast("Tensor", inner_N - log_x_NF.sum(1) - self.x_std.log().sum())

    def sample(self, n: int, c_C: Tensor) -> Tensor:
        given_C = self._given(c_C)
        if isinstance(self.flow, zuko.lazy.Flow):
            y_NF = self.flow(given_C).sample((n,))
        else:
            y_NF = self.flow.sample(n, given_C[None])[0]
        return cast("Tensor", (y_NF * self.x_std + self.x_mean).exp())

    def _given(self, c_NC: Tensor) -> Tensor:
        return cast("Tensor", (c_NC.log() - self.c_mean) / self.c_std)


def recipe(name: str, data: str) -> Recipe:
    """How the rival of this name is trained on this data set."""
    usual = Recipe(batch_size=BATCH[data])
    if name != THESIS:
        return usual
    return replace(
        usual,
        batch_size=thesis.BATCH,
        learning_rate=thesis.LEARNING_RATE,
        weight_decay=thesis.WEIGHT_DECAY,
        cosine=False,
        clip_norm=math.inf,
    )


def settings(name: str, data: str) -> dict[str, Any]:
    """All that decides what becomes of a rival."""
    return {"shape": dict(SHAPES[name]), "recipe": asdict(recipe(name, data))}


def build(name: str, rows: Rows) -> nn.Module:
    """The rival of this name; constants of the standardisation from these rows."""
    features, conditions = rows[0].shape[1], rows[1].shape[1]
    options = dict(SHAPES[name])
    if name == THESIS:
        return thesis.ThesisFlow(features, conditions)
    if name in (NSF, MAF):
        kind = zuko.flows.NSF if name == NSF else zuko.flows.MAF
        return Standardised(kind(features, conditions, **options), rows)
    layer = (
        MaskedAffineAutoregressiveTransform
        if name == AFFINE
        else MaskedPiecewiseRationalQuadraticAutoregressiveTransform
    )
    transforms: list[nn.Module] = []
    for _ in range(options.pop("layers")):
        transforms += [
            ReversePermutation(features),
            layer(features, context_features=conditions, **options),
        ]
    return Standardised(Flow(CompositeTransform(transforms), StandardNormal([features])), rows)


def fit(
    flow: nn.Module, recipe: Recipe, train: Rows, val: Rows, *, seconds: float, threads: int
) -> Fitted:
    """Train for this long; the flow is left with its best weights, in evaluation mode."""
    threads = quicker_threads(flow, recipe, train, threads)
    torch.set_num_threads(threads)
    adam = _adam(flow, recipe)
    batches, clock = _batches(train, recipe.batch_size), _Clock()
    curve: list[tuple[float, float]] = []
    best, best_nll, rows, skipped = flow.state_dict(), math.inf, 0, 0

    while (used_s := clock.seconds) < seconds:
        if recipe.cosine:
            rate = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * used_s / seconds))
            adam.param_groups[0]["lr"] = rate
        batch = next(batches)
        skipped += not _step(flow, adam, recipe, batch)
        rows += len(batch[0])
        if clock.seconds >= seconds * (len(curve) + 1) / EVALUATIONS:
            clock.pause()
            _settle(flow, train, thesis.BATCH)
            curve.append((clock.seconds, nll(flow, val)))
            if curve[-1][1] < best_nll:
                best, best_nll = copy.deepcopy(flow.state_dict()), curve[-1][1]
            clock.go_on()

    rate = rows / clock.seconds
    flow.load_state_dict(best)
    _settle(flow, train, len(train[0]))
    flow.eval()
    return Fitted(curve, rate, threads, skipped)


def quicker_threads(flow: nn.Module, recipe: Recipe, train: Rows, most: int) -> int:
    """1 or `most`, by a few steps of a copy with each: small operations gain nothing by two."""
    seconds = {}
    for threads in {1, most}:
        torch.set_num_threads(threads)
        twin = copy.deepcopy(flow)
        adam, batches = _adam(twin, recipe), _batches(train, recipe.batch_size)
        _step(twin, adam, recipe, next(batches))
        start_s, steps = time.perf_counter(), TRIAL_STEPS if recipe.cosine else 1
        for _ in range(steps):
            _step(twin, adam, recipe, next(batches))
        seconds[threads] = time.perf_counter() - start_s
    return min(seconds, key=lambda threads: seconds[threads])


def nll(flow: nn.Module, rows: Rows) -> float:
    """Mean NLL in evaluation mode."""
    return -float(log_prob(flow, rows).double().mean())


@torch.no_grad()
def log_prob(flow: nn.Module, rows: Rows, part: int = EVALUATION_ROWS) -> Tensor:
    """Log density of every row in evaluation mode, `part` rows at a time."""
    flow.eval()
    parts = zip(rows[0].split(part), rows[1].split(part), strict=True)
    return torch.cat([cast("Rival", flow).log_prob(*rows) for rows in parts])


@torch.no_grad()
def sample(flow: nn.Module, n: int, c_C: Tensor, part: int = EVALUATION_ROWS) -> Tensor:
    """Draw `n` events at one condition in evaluation mode, `part` at a time."""
    flow.eval()
    sizes: Sequence[int] = [min(part, n - start) for start in range(0, n, part)]
    return torch.cat([cast("Rival", flow).sample(size, c_C) for size in sizes])


def _adam(flow: nn.Module, recipe: Recipe) -> torch.optim.Adam:
    return torch.optim.Adam(
        flow.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )


def _step(flow: nn.Module, adam: torch.optim.Adam, recipe: Recipe, batch: Rows) -> bool:
    """One gradient step; whether it was finite, without which the weights stay as they are."""
    flow.train()
    adam.zero_grad()
    loss = -cast("Rival", flow).log_prob(*batch).mean()
    torch.autograd.backward(loss)
    norm = nn.utils.clip_grad_norm_(flow.parameters(), recipe.clip_norm)
    good = bool(norm.isfinite() & loss.isfinite())
    if good:
        adam.step()
    return good


def _settle(flow: nn.Module, train: Rows, rows: int) -> None:
    """Batch-norm statistics from the first `rows` of the training split, where there are any."""
    if isinstance(flow, thesis.ThesisFlow):
        flow.settle(*(part[:rows] for part in train))


def _batches(rows: Rows, size: int) -> Iterator[Rows]:
    """Shuffled batches without end."""
    while True:
        for chosen in torch.randperm(len(rows[0])).split(size):
            yield rows[0][chosen], rows[1][chosen]


class _Clock:
    """Seconds of training: stands still while something else is done."""

    def __init__(self) -> None:
        self.start_s, self.paused_s = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        return (self.paused_s or time.perf_counter()) - self.start_s

    def pause(self) -> None:
        self.paused_s = time.perf_counter()

    def go_on(self) -> None:
        self.start_s += time.perf_counter() - self.paused_s
        self.paused_s = 0.0
