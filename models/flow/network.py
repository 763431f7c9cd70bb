"""Multilayer perceptrons on columns, of one flow or of several side by side.

A stack of T networks of one shape has weights with an axis more in front, and its columns belong to
the T networks in equal parts, one after another: what makes or uses the columns need not know.

Arrays hold the columns last. Tensor names end in their axes:
    N columns    P outputs    I inputs    H units of a layer    T networks of a stack
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from models.config import FlowConfig
from models.flow.fused import ACTIVATIONS, give_back, take

LAST_GAIN = 0.01
"""On the initial spread of a last layer: a flow starts near the identity."""
_DRAWING = threading.RLock()


class Network(nn.Module):
    """A multilayer perceptron on columns; residual if asked, around each hidden layer.

    Activations come before the matrices, so that the sum of a residual layer stays linear:
    He, Zhang, Ren & Sun (2016), https://arxiv.org/abs/1603.05027
    """

    def __init__(self, config: FlowConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.ParameterList(), nn.ParameterList()
        for number, (columns, rows) in enumerate(
            pairwise([inputs, *[config.hidden] * config.depth, outputs])
        ):
            gain = LAST_GAIN if number == config.depth else 1.0
            limit = gain / math.sqrt(max(1, columns))
            self.weight.append(uniform(limit, rows, columns))
            self.bias.append(uniform(limit, rows, 1))
        self.activation = ACTIVATIONS[config.activation]
        self.residual = config.residual

    @property
    def weights(self) -> int:
        """Number of weights, biases not counted."""
        return sum(weight.numel() for weight in self.weight)

    @property
    def stack(self) -> int | None:
        """T; None for one network."""
        return len(self.weight[0]) if self.weight[0].ndim == 3 else None

    def forward(self, x_IN: Tensor) -> Tensor:
        """Outputs, `(P, N)`."""
        h_HN = _linear(self.bias[0], self.weight[0], apart(x_IN, self.stack))
        for number in range(1, len(self.weight)):
            y_HN = _linear(self.bias[number], self.weight[number], self.activation.of(h_HN))
            h_HN = h_HN + y_HN if self.skips(number) else y_HN
        return h_HN if self.stack is None else h_HN.transpose(0, 1).flatten(1)

    def skips(self, number: int) -> bool:
        """Whether a layer adds to the one before."""
        return self.residual and number < len(self.weight) - 1


class FusedPass:
    """One pass through a network with the derivative by hand, in arrays used again.

    `backward` gives the arrays back, so it can be called once only.
    """

    def __init__(self, network: Network, x_IN: Tensor) -> None:
        self.network, self.stack = network, network.stack
        self.weight = [weight.detach() for weight in network.weight]
        self.x_IN = apart(x_IN, self.stack)
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []

    def forward(self) -> Tensor:
        """Outputs, `(P, N)`; to be given back."""
        h_HN = self._linear(0, self.x_IN)
        for number in range(1, len(self.weight)):
            a_HN = take(h_HN, *h_HN.shape)
            self.network.activation.into(h_HN, a_HN)
            self.before.append(h_HN)
            self.after.append(a_HN)
            y_HN = self._linear(number, a_HN)
            h_HN = y_HN.add_(h_HN) if self.network.skips(number) else y_HN
        return self._joined(h_HN)

    def _linear(self, number: int, x_HN: Tensor) -> Tensor:
        weight, bias = self.weight[number], self.network.bias[number].detach()
        shape = *weight.shape[:-1], x_HN.shape[-1]
        return _linear(bias, weight, x_HN, out=take(x_HN, *shape))

    def _joined(self, x_HN: Tensor) -> Tensor:
        """The columns of all networks in one array."""
        if self.stack is None:
            return x_HN
        networks, units, columns = x_HN.shape
        whole = take(x_HN, units, networks * columns)
        whole.view(units, networks, columns).copy_(x_HN.transpose(0, 1))
        give_back([x_HN])
        return whole

    def give_back(self) -> None:
        """Give back all arrays, when no derivative is wanted."""
        give_back([*self.before, *self.after])

    def backward(self, grad_PN: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradients of `x_IN` and of all weights, then all biases; `grad_PN` is used up."""
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        grad_HN, spent = apart(grad_PN, self.stack), grad_PN
        for number in reversed(range(len(self.weight))):
            x_HN = self.after[number - 1] if number else self.x_IN
            weights.insert(0, grad_HN @ x_HN.mT)
            biases.insert(0, grad_HN.sum(-1, keepdim=True))
            below_HN = take(grad_HN, *x_HN.shape)
            torch.matmul(self.weight[number].mT, grad_HN, out=below_HN)
            if number:
                self.network.activation.back(below_HN, self.before[number - 1], x_HN)
                if self.network.skips(number):
                    below_HN.add_(grad_HN)
            give_back([spent])
            grad_HN = spent = below_HN
        self.give_back()
        return self._joined(grad_HN), [*weights, *biases]


@contextmanager
def drawing(seed: int = 0) -> Iterator[None]:
    """The body draws weights from a seed, one thread at a time; torch's own generator stays."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def apart(x_IN: Tensor, stack: int | None) -> Tensor:
    """The columns of each network of a stack, `(T, I, N / T)`: a view of them."""
    return x_IN if stack is None else x_IN.reshape(len(x_IN), stack, -1).transpose(0, 1)


def at_columns(values: Any, columns: int) -> Any:
    """Numbers of the flows of a stack, `(T,)`, at the columns of each; a single number as it is."""
    if not isinstance(values, Tensor):
        return values
    return values[:, None].expand(-1, columns // len(values)).flatten()


def uniform(limit: float, rows: int, columns: int) -> Tensor:
    """Initial weights."""
    return torch.empty(rows, columns).uniform_(-limit, limit)


def _linear(bias: Tensor, weight: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    if weight.ndim == 2:
        return torch.addmm(bias, weight, x, out=out)
    return torch.baddbmm(bias, weight, x, out=out)
