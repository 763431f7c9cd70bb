"""One small network for each feature: its parameters from the condition and earlier features.

For a few features several times less work than a masked network of the same width for each, and
the first feature's network, which sees the condition alone, runs once for each distinct one.

Arrays hold the columns first: thin matrix products (two conditions, one feature) are then several
times faster, in both directions, than with rows first. Tensor names end in their axes:
    N rows    U distinct conditions    F features    P parameters of one feature
    I inputs of a network    H units of a layer
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.config import FlowConfig
from models.flow.conditions import Conditions
from models.flow.fused import ACTIVATIONS, Activation, give_back, take

LAST_GAIN = 0.01
"""On the initial spread of a last layer: a flow starts near the identity."""


class Network(nn.Module):
    """A multilayer perceptron on columns; residual if asked, around each hidden layer.

    Activations come before the matrices, so that the sum of a residual layer stays linear:
    He, Zhang, Ren & Sun (2016), https://arxiv.org/abs/1603.05027
    """

    def __init__(self, config: FlowConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        sizes = [inputs, *[config.hidden] * config.depth, outputs]
        self.weight, self.bias = nn.ParameterList(), nn.ParameterList()
        for number, (columns, rows) in enumerate(zip(sizes, sizes[1:], strict=False)):
            gain = LAST_GAIN if number == config.depth else 1.0
            limit = gain / math.sqrt(max(1, columns))
            self.weight.append(torch.empty(rows, columns).uniform_(-limit, limit))
            self.bias.append(torch.empty(rows, 1).uniform_(-limit, limit))
        self.activation: Activation = ACTIVATIONS[config.activation]()
        self.residual = config.residual

    @property
    def weights(self) -> int:
        """Number of weights, biases not counted."""
        return sum(weight.numel() for weight in self.weight)

    def forward(self, x_IN: Tensor) -> Tensor:
        """Outputs, `(P, N)`."""
        h_HN = torch.addmm(self.bias[0], self.weight[0], x_IN)
        for number in range(1, len(self.weight)):
            y_HN = torch.addmm(self.bias[number], self.weight[number], self.activation(h_HN))
            h_HN = h_HN + y_HN if self._skips(number) else y_HN
        return h_HN

    def _skips(self, number: int) -> bool:
        return self.residual and number < len(self.weight) - 1


class FusedPass:
    """One pass through a network with the derivative by hand, in arrays used again.

    Not to be asked twice for its derivative: the first gives its arrays back.
    """

    def __init__(self, network: Network, x_IN: Tensor) -> None:
        self.network = network
        self.weight = [weight.detach() for weight in network.weight]
        self.x_IN = x_IN
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
            h_HN = y_HN.add_(h_HN) if self.network._skips(number) else y_HN
        return h_HN

    def _linear(self, number: int, x_HN: Tensor) -> Tensor:
        weight, bias = self.weight[number], self.network.bias[number].detach()
        out_HN = take(x_HN, len(weight), x_HN.shape[1])
        return torch.addmm(bias, weight, x_HN, out=out_HN)

    def give_back(self) -> None:
        """Give back all arrays, when no derivative is wanted."""
        give_back([*self.before, *self.after])

    def backward(self, grad_PN: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradients of `x_IN` and of all weights, then all biases; `grad_PN` is used up."""
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        grad_HN = grad_PN
        for number in reversed(range(len(self.weight))):
            x_HN = self.after[number - 1] if number else self.x_IN
            weights.insert(0, grad_HN @ x_HN.t())
            biases.insert(0, grad_HN.sum(1, keepdim=True))
            below_HN = take(grad_HN, len(x_HN), grad_HN.shape[1])
            torch.mm(self.weight[number].t(), grad_HN, out=below_HN)
            if number:
                before_HN = self.before[number - 1]
                self.network.activation.back(below_HN, before_HN, x_HN)
                if self.network._skips(number):
                    below_HN.add_(grad_HN)
            give_back([grad_HN])
            grad_HN = below_HN
        self.give_back()
        return grad_HN, [*weights, *biases]


class SeparateConditioner(nn.Module):
    """A network for each feature."""

    def __init__(self, config: FlowConfig, features: int, conditions: int, outputs: int) -> None:
        super().__init__()
        networks = [Network(config, conditions + f, outputs) for f in range(features)]
        self.networks = cast("Sequence[Network]", nn.ModuleList(networks))

    def start(self) -> None:
        """Nothing is kept from one feature to the next."""

    def group(self, conditions: Conditions, before: Sequence[Tensor], state: None) -> Tensor:
        """Parameters of the feature after those in `before`.

        Args:
            conditions: The conditions.
            before: Each earlier feature, `(1, N)`.
            state: What `start` gave.

        Returns:
            `(P, U)` for the first feature, `(P, N)` for any other.
        """
        network = self.networks[len(before)]
        out: Tensor = network(torch.cat([conditions.c_CN, *before]) if before else conditions.c_CU)
        return out

    def parameters_of(self, conditions: Conditions, x_FN: Tensor) -> list[Tensor]:
        """Parameters of all features as `group` gives them, when all are known beforehand."""
        x = torch.split(x_FN, 1)
        return [self.group(conditions, x[:f], None) for f in range(len(x))]
