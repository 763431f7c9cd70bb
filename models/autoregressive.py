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
from typing import Any, NamedTuple, cast

import torch
from nflows.transforms.autoregressive import AutoregressiveTransform
from torch import Tensor, nn

from models.config import ConfigError, FlowConfig

LOG_SCALE_LAYER, LOG_SCALE_TOTAL = 3.0, 30.0
"""Largest |log-scale| of one layer and of all together: e^30, squared, is still a float32."""


class Given(NamedTuple):
    """The conditions of N rows. What depends on nothing else is worked out once for equal ones."""

    c_CU: Tensor
    """The U distinct conditions."""
    counts: Sequence[int] | None = None
    """Rows of each condition, next to each other; None for one each, so that U = N."""

    def spread(self, x_KU: Tensor) -> Tensor:
        """Values of the distinct conditions at every row, `(K, N)`."""
        if self.counts is None:
            return x_KU
        columns = torch.split(x_KU, 1, dim=1)
        runs = [x_K1.expand(-1, n) for x_K1, n in zip(columns, self.counts, strict=True)]
        return torch.cat(runs, dim=1)


class TriangularLinear(nn.Module):
    """A linear map between groups of units, in which group g reads the groups up to g.

    What comes from group 0 is kept apart: it depends on the condition alone.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], *, gain: float = 1.0) -> None:
        """Args: sizes of the groups on both sides, and a factor on the usual initial spread."""
        super().__init__()
        self.first, self.weight, self.bias = (nn.ParameterList() for _ in range(3))
        self.sizes = list(inputs[1:])
        for group, rows in enumerate(outputs):
            limit = gain / math.sqrt(max(1, sum(inputs[: group + 1])))
            self.first.append(torch.empty(rows, inputs[0]).uniform_(-limit, limit))
            self.bias.append(torch.empty(rows, 1).uniform_(-limit, limit))
            if group:
                columns = sum(inputs[1 : group + 1])
                self.weight.append(torch.empty(rows, columns).uniform_(-limit, limit))

    @property
    def weights(self) -> int:
        """Number of weights, biases not counted."""
        return sum(weight.numel() for weight in (*self.first, *self.weight))

    def from_first(self, group: int, x_HU: Tensor) -> Tensor:
        """What group 0 adds to a group, bias included: `(H, U)`."""
        return torch.addmm(self.bias[group], self.first[group], x_HU)

    def forward(self, group: int, x: Sequence[Tensor], given: Given) -> Tensor:
        """Values of a group after the first, `(H, N)`, from the groups up to it."""
        out_HN = given.spread(self.from_first(group, x[0]))
        weights = torch.split(self.weight[group - 1], self.sizes[:group], dim=1)
        for weight_HH, x_HN in zip(weights, x[1:], strict=True):
            out_HN = out_HN.addmm_(weight_HH, x_HN)
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
        self.layers = cast("Sequence[TriangularLinear]", nn.ModuleList([*hidden, last]))
        self.activation = ACTIVATIONS[config.activation]()

    def start(self) -> list[list[Tensor]]:
        """An empty store of hidden groups, to be filled by `group` from 0 upwards."""
        return [[] for _ in self.layers[:-1]]

    def group(self, given: Given, before: Sequence[Tensor], hidden: list[list[Tensor]]) -> Tensor:
        """Parameters of the feature after those in `before`, shape `(P, N)`.

        Args:
            given: The conditions.
            before: Each earlier feature, `(1, N)`.
            hidden: The groups worked out so far; that of this feature is added.
        """
        if not before:
            return given.spread(self._first(given.c_CU, hidden))
        group = len(before)
        x: Sequence[Tensor] = [given.c_CU, *before]
        for layer, groups in zip(self.layers[:-1], hidden, strict=True):
            groups.append(self.activation(layer(group, x, given)))
            x = groups
        parameters_PN: Tensor = self.layers[-1](group, x, given)
        return parameters_PN

    def _first(self, x_HU: Tensor, hidden: list[list[Tensor]]) -> Tensor:
        """Parameters of the first feature, `(P, U)`: once for each distinct condition."""
        for layer, groups in zip(self.layers[:-1], hidden, strict=True):
            x_HU = self.activation(layer.from_first(0, x_HU))
            groups.append(x_HU)
        parameters_PU: Tensor = self.layers[-1].from_first(0, x_HU)
        return parameters_PU


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

    def forward(
        self, inputs: Tensor, context: Given | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Data to noise: `(N, F)` and the log-determinant, `(N,)`."""
        given, hidden = _given(context, inputs), self.autoregressive_net.start()
        x_FN = inputs.t()
        x = torch.split(x_FN, 1)
        parameters_FPN = torch.stack(
            [self.autoregressive_net.group(given, x[:g], hidden) for g in range(self.features)]
        )
        z_FN, log_det_FN = self._elementwise_forward(x_FN, parameters_FPN)
        return z_FN.t(), log_det_FN.sum(0)

    def inverse(
        self, inputs: Tensor, context: Given | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noise to data: `(N, F)` and the log-determinant, `(N,)`."""
        given, hidden = _given(context, inputs), self.autoregressive_net.start()
        x: list[Tensor] = []
        log_det_N = inputs.new_zeros(inputs.shape[:1])
        for z_1N in torch.split(inputs.t(), 1):
            parameters_PN = self.autoregressive_net.group(given, x, hidden)
            x_1N, log_det_1N = self._elementwise_inverse(z_1N, parameters_PN[None])
            x.append(x_1N)
            log_det_N = log_det_N + log_det_1N[0]
        return torch.cat(x).t(), log_det_N

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


def _given(context: Given | Tensor | None, inputs_NF: Tensor) -> Given:
    if isinstance(context, Given):
        return context
    return Given(inputs_NF[:, :0].t() if context is None else context.t())
