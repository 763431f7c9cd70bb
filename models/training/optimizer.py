"""AdamW: w <- w - rate (m / (sqrt(v) + eps) + decay w), and averages of w over past steps.

m and v are running means of the gradient g, shortened to `clip_norm`, and of g^2. A flow has a
hundred small tensors; as two flat ones, of which its parameters become views, a step of the
optimizer, clipping, zeroing and averaging cost next to nothing.

Loshchilov & Hutter (2019), https://arxiv.org/abs/1711.05101
Polyak & Juditsky (1992), SIAM Journal on Control and Optimization 30, 838 (averaging)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.config import TrainConfig
from models.flow.mixture.distribution import BoxMixture
from models.layout import below

AVERAGE = "average."
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Weights of the past in m and v, and eps."""
MOST_DECAY = 0.2
"""Of few rows. AdamW keeps a weight below one over its decay: a box could not reach the edges."""
FALL = 0.3
"""Share of a training over which the learning rate of a plateau falls."""


class Optimizer:
    """Fits the weights of a flow; knows their moving average."""

    def __init__(self, flow: nn.Module, config: TrainConfig, *, rows: int) -> None:
        """Args: the flow, whose parameters move into flat tensors, its training, and the number of
        rows that it is trained on.
        """
        self.config = config
        decay = decay_of(config, rows)
        self._names = {id(parameter): name for name, parameter in flow.named_parameters()}
        self._both = weights_and_biases(flow)
        self._flats = [_flat(parameters) for parameters in self._both]
        groups = [
            {"params": [flat], "weight_decay": one}
            for flat, one in zip(self._flats, (decay, 0.0), strict=True)
        ]
        self._adamw = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=BETAS, eps=EPSILON, fused=True
        )
        for flat in self._flats:
            zeros = {kind: torch.zeros_like(flat) for kind in ("exp_avg", "exp_avg_sq")}
            self._adamw.state[flat] = {"step": flat.new_zeros(()), **zeros}
        self._average = [flat.detach().clone() for flat in self._flats] if config.ema else []
        self._steps = 0

    @property
    def steps(self) -> int:
        """Taken so far."""
        return self._steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self._steps = steps
        for state in self._adamw.state.values():
            state["step"].fill_(steps)

    @property
    def names(self) -> list[str]:
        """Of the parameters, as they follow each other in the flat tensors."""
        return [self._names[id(parameter)] for both in self._both for parameter in both]

    def state(self) -> dict[str, list[Tensor]]:
        """Flat tensors of all that decays and of the rest: `value`, `exp_avg`, `exp_avg_sq`, and
        `average` if there is one. They are this state itself, to be written to as well.
        """
        states = [self._adamw.state[flat] for flat in self._flats]
        found = {"value": [flat.detach() for flat in self._flats]}
        found |= {kind: [one[kind] for one in states] for kind in ("exp_avg", "exp_avg_sq")}
        return found | ({"average": self._average} if self._average else {})

    @property
    def gradients(self) -> list[Tensor]:
        """Flat gradients of weights and of biases; the parameters' own are views of them."""
        return [flat.grad for flat in self._flats if flat.grad is not None]

    def step(self, learning_rate: float) -> Tensor:
        """One step along the gradient, shortened if need be; returns the length that it had."""
        norm = clip(self.gradients, self.config.clip_norm)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self._steps += 1
        past = averaging(self.config.ema, self._steps)
        for average, flat in zip(self._average, self._flats, strict=False):
            average.lerp_(flat.detach(), 1 - past)
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The flow has its averaged weights in here, which evaluate better than the last ones."""
        if not self._average:
            yield
            return
        last = [flat.detach().clone() for flat in self._flats]
        self._put(self._average)
        try:
            yield
        finally:
            self._put(last)

    def tensors(self) -> dict[str, Tensor]:
        """The state that a checkpoint must hold beside the flow's own weights."""
        stored = {f"{AVERAGE}{n}": average for n, average in enumerate(self._average)}
        for number, flat in enumerate(self._flats):
            stored |= {f"{number}.{k}": v for k, v in self._adamw.state[flat].items()}
        return stored

    def is_of(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether this state has weights and biases parted as they are here.

        An older version took every matrix of one column for a bias.
        """
        sizes = [tensors[f"{number}.exp_avg"].numel() for number in range(len(self._flats))]
        return sizes == [flat.numel() for flat in self._flats]

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to the state that `tensors` gave."""
        for number, flat in enumerate(self._flats):
            mine = below(tensors, f"{number}.")
            # The count, too: a fused step wants it where the weights are.
            self._adamw.state[flat] = {kind: one.to(flat.device) for kind, one in mine.items()}
            self._steps = int(mine["step"].item())
        for number, average in enumerate(self._average):
            average.copy_(tensors[f"{AVERAGE}{number}"])

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for flat, value in zip(self._flats, values, strict=True):
            flat.copy_(value)


def decay_of(config: TrainConfig, rows: int) -> float:
    """The decay of a training on so many rows."""
    return config.weight_decay + min(MOST_DECAY, config.decay_rows / max(1, rows))


def averaging(ema: float, steps: int) -> float:
    """Weight of the past in the averages after so many steps."""
    # The first steps would otherwise weigh on the average for thousands.
    return min(ema, (1 + steps) / (10 + steps))


def weights_and_biases(flow: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of a flow, which decay, and everything else, which does not.

    By name, since a bias is a matrix of one column, as is what reads one condition alone. The last
    bias of a mixture's network decays, too: it is the boxes themselves, which then are of width 1
    and level wherever the rows do not ask for more.
    """
    both: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
    boxes = {id(one.network.bias[-1]) for one in flow.modules() if isinstance(one, BoxMixture)}
    for name, parameter in flow.named_parameters():
        matrix = parameter.ndim == 2 and "bias" not in name.split(".")
        both[0 if matrix or id(parameter) in boxes else 1].append(parameter)
    return both


def clip(gradients: list[Tensor], longest: float) -> Tensor:
    """Shorten the gradient to `longest`; returns the length it had."""
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    factor = (longest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
    return norm


def learning_rate(config: TrainConfig, progress: float) -> float:
    """The learning rate at a share of the whole training, from 0 to below 1.

    cosine falls from the warm-up on, plateau linearly over the last `FALL` of the training.
    """
    if progress < config.warmup:
        return config.learning_rate * max(progress / config.warmup, 1e-3)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "plateau":
        return config.learning_rate * min(1.0, (1 - progress) / FALL)
    fallen = (progress - config.warmup) / (1 - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * fallen))


def views(flat: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Parts of a flat tensor, of the parameters' shapes."""
    parts = torch.split(flat, [p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


def _flat(parameters: list[nn.Parameter]) -> nn.Parameter:
    """All of them in one tensor, of which they and their gradients become views."""
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    values, gradients = views(flat.detach(), parameters), views(flat.grad, parameters)
    for parameter, value, gradient in zip(parameters, values, gradients, strict=True):
        parameter.data, parameter.grad = value, gradient
    return flat
