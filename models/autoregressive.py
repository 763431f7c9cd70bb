"""Autoregressive layers whose every feature sees the condition, as transforms of nflows.

Not nflows' MADE: its hidden units start at degree 1, so nothing but a bias reaches the first
feature of a layer, and with two features half of every layer is blind to the condition. Here
hidden degrees start at 0: units of degree g see the condition and the first g features, and
feature g reads units up to degree g.

Units are kept in groups by degree, so a masked matrix is block-triangular and its zero blocks are
neither stored nor multiplied. Arrays hold the columns first: thin matrix products (two conditions,
four outputs) are then several times faster, in both directions, than with rows first.

Tensor names end in their axes:
    N rows    F features    C conditions    P parameters of one feature    H units of one group

Germain et al. (2015), https://arxiv.org/abs/1502.03509
Papamakarios, Pavlakou & Murray (2017), https://arxiv.org/abs/1705.07057
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from nflows.transforms.autoregressive import AutoregressiveTransform
from torch import Tensor, nn

from models.config import ConfigError, FlowConfig

LOG_SCALE_LAYER, LOG_SCALE_TOTAL = 3.0, 30.0
"""Largest |log-scale| of one layer and of all together: e^30, squared, is still a float32."""


class TriangularLinear(nn.Module):
    """A linear map between groups of units, in which group g reads the groups up to g."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], *, gain: float = 1.0) -> None:
        """Args: sizes of the groups on both sides, and a factor on the usual initial spread."""
        super().__init__()
        self.sizes = [list(inputs[: g + 1]) for g in range(len(outputs))]
        self.weight = nn.ParameterList()
        self.bias = nn.ParameterList()
        for sizes, rows in zip(self.sizes, outputs, strict=True):
            limit = gain / math.sqrt(max(1, sum(sizes)))
            self.weight.append(torch.empty(rows, sum(sizes)).uniform_(-limit, limit))
            self.bias.append(torch.empty(rows, 1).uniform_(-limit, limit))

    def forward(self, group: int, x: Sequence[Tensor]) -> Tensor:
        """Values of one group, `(H, N)`, from the groups before it, each `(H, N)`."""
        out_HN: Tensor = self.bias[group]
        weights = torch.split(self.weight[group], self.sizes[group], dim=1)
        for weight_HH, x_HN in zip(weights, x, strict=True):
            out_HN = torch.addmm(out_HN, weight_HH, x_HN)
        return out_HN


class Conditioner(nn.Module):
    """The network that gives every feature's parameters from the condition and earlier features."""

    def __init__(self, config: FlowConfig, features: int, conditions: int, outputs: int) -> None:
        super().__init__()
        if config.hidden < features:
            raise ConfigError(
                f"hidden must be at least the number of event columns ({features}), "
                f"got {config.hidden}: each needs a hidden unit of its own"
            )
        units = [config.hidden // features] * features
        units[-1] += config.hidden % features
        inputs = [conditions] + [1] * (features - 1)
        sizes = [inputs] + [units] * config.depth
        hidden = [TriangularLinear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
        # A small last layer starts the flow near the identity.
        last = TriangularLinear(units, [outputs] * features, gain=0.01)
        self.layers = nn.ModuleList([*hidden, last])
        self.activation = ACTIVATIONS[config.activation]()

    def start(self) -> list[list[Tensor]]:
        """An empty store of hidden groups, to be filled by `group` from 0 upwards."""
        return [[] for _ in self.layers[:-1]]

    def group(self, group: int, known: Sequence[Tensor], hidden: list[list[Tensor]]) -> Tensor:
        """Parameters of feature `group`, shape `(P, N)`.

        Args:
            group: Index of the feature.
            known: The condition, `(C, N)`, then each earlier feature, `(1, N)`.
            hidden: The groups worked out so far; that of this feature is added.
        """
        x: Sequence[Tensor] = known
        for layer, groups in zip(self.layers[:-1], hidden, strict=True):
            groups.append(self.activation(layer(group, x)))
            x = groups
        parameters_PN: Tensor = self.layers[-1](group, x)
        return parameters_PN


class ConditionedAutoregressive(AutoregressiveTransform):  # type: ignore[misc]
    """An autoregressive layer; what it does to one feature is left to the kind of layer.

    Both directions cost one pass through the network: the inverse works out group after group,
    where nflows' runs the whole network once for each feature.
    """

    outputs: int
    """Parameters of one feature."""

    def __init__(self, config: FlowConfig, features: int, conditions: int) -> None:
        super().__init__(Conditioner(config, features, conditions, self.outputs))
        self.features = features

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to noise: `(N, F)` and the log-determinant, `(N,)`."""
        x_FN, hidden = inputs.t(), self.autoregressive_net.start()
        known = [_columns(context, inputs), *torch.split(x_FN, 1)]
        parameters_FPN = torch.stack(
            [self.autoregressive_net.group(g, known[: g + 1], hidden) for g in range(self.features)]
        )
        z_FN, log_det_FN = self._elementwise_forward(x_FN, parameters_FPN)
        return z_FN.t(), log_det_FN.sum(0)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise to data: `(N, F)` and the log-determinant, `(N,)`."""
        known, hidden = [_columns(context, inputs)], self.autoregressive_net.start()
        log_det_N = inputs.new_zeros(len(inputs))
        for g, z_1N in enumerate(torch.split(inputs.t(), 1)):
            parameters_PN = self.autoregressive_net.group(g, known, hidden)
            x_1N, log_det_1N = self._elementwise_inverse(z_1N, parameters_PN[None])
            known.append(x_1N)
            log_det_N = log_det_N + log_det_1N[0]
        return torch.cat(known[1:]).t(), log_det_N

    def _output_dim_multiplier(self) -> int:
        return self.outputs


class AffineAutoregressive(ConditionedAutoregressive):
    """Shifts and scales every feature; the log-scale is bounded smoothly."""

    outputs = 2

    def __init__(self, config: FlowConfig, features: int, conditions: int) -> None:
        super().__init__(config, features, conditions)
        self.limit = min(LOG_SCALE_LAYER, LOG_SCALE_TOTAL / config.blocks)

    def _elementwise_forward(self, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale_FN, shift_FN = self._log_scale_and_shift(parameters)
        return inputs * log_scale_FN.exp() + shift_FN, log_scale_FN

    def _elementwise_inverse(self, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale_FN, shift_FN = self._log_scale_and_shift(parameters)
        return (inputs - shift_FN) * (-log_scale_FN).exp(), -log_scale_FN

    def _log_scale_and_shift(self, parameters_FPN: Tensor) -> tuple[Tensor, Tensor]:
        raw_FN, shift_FN = parameters_FPN.unbind(1)
        return self.limit * torch.tanh(raw_FN / self.limit), shift_FN


class _FastTanh(torch.autograd.Function):
    """tanh(x) = 2 sigmoid(2x) - 1, in place: torch's sigmoid is six times as fast as its tanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.mul_(2).sigmoid_().mul_(2).sub_(1)
        ctx.mark_dirty(y)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(grads[0], y)  # type: ignore[no-any-return]


class Tanh(nn.Module):
    """tanh by way of the sigmoid; spends the array it is given while training."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            y: Tensor = _FastTanh.apply(x)  # type: ignore[no-untyped-call]
            return y
        return torch.sigmoid(2 * x) * 2 - 1


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
LAYERS: dict[str, type[ConditionedAutoregressive]] = {"affine": AffineAutoregressive}
"""The kinds of `FlowConfig.kind`."""


def _columns(context_NC: Tensor | None, inputs_NF: Tensor) -> Tensor:
    if context_NC is None:
        return inputs_NF.new_empty(0, len(inputs_NF))
    return context_NC.t()
