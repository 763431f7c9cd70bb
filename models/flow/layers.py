"""Autoregressive layers: z_f = g(x_f; parameters(conditions, x_1 ... x_{f-1})) for every feature f.

g is a shift and a scale, or a rational-quadratic spline; a conditioner gives its parameters. Unlike
in nflows' own layers, whose transforms these are, every feature sees the condition. Both directions
cost one pass through each network: the inverse works out feature after feature, where nflows' runs
the whole network once for each.

Arrays hold the columns first. Tensor names end in their axes:
    N rows    F features    P parameters of one feature    M rows, or conditions that rows share

Papamakarios, Pavlakou & Murray (2017), https://arxiv.org/abs/1705.07057
Durkan, Bekasov, Murray & Papamakarios (2019), https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nflows.transforms.autoregressive import AutoregressiveTransform
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.config import FlowConfig
from models.flow import spline
from models.flow.conditioners import MaskedConditioner, SeparateConditioner
from models.flow.conditions import Conditions
from models.flow.fused import give_back
from models.flow.network import FusedPass, at_columns
from models.layout import LOG_SCALE_LAYER, LOG_SCALE_TOTAL, parameters_of

CONDITIONERS = {"separate": SeparateConditioner, "masked": MaskedConditioner}
"""The choices of `FlowConfig.conditioner`."""
Context = Conditions | Tensor | None
"""The conditions of rows, which nflows calls their context: `(N, C)` if a tensor."""


class ConditionedAutoregressive(AutoregressiveTransform):  # type: ignore[misc]
    """An autoregressive layer; what it does to one feature is left to the kind of layer."""

    def __init__(self, config: FlowConfig, features: int, conditions: int) -> None:
        """Args: shape of the flow, and numbers of columns."""
        outputs, conditioner = parameters_of(config), CONDITIONERS[config.conditioner]
        super().__init__(conditioner(config, features, conditions, outputs))
        self.features, self.outputs = features, outputs

    def forward(self, inputs: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """Data to noise: `(N, F)` and the log-determinant, `(N,)`."""
        conditions, x_FN = _conditions(context, inputs), inputs.t()
        parameters = self.autoregressive_net.parameters_of(conditions, x_FN)
        parameters_FPN = torch.stack([conditions.spread(parameters[0]), *parameters[1:]])
        z_FN, log_det_FN = self._elementwise_forward(x_FN, parameters_FPN)
        return z_FN.t(), log_det_FN.sum(0)

    def inverse(self, inputs: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """Noise to data: `(N, F)` and the log-determinant, `(N,)`."""
        conditions, state = _conditions(context, inputs), self.autoregressive_net.start()
        x: list[Tensor] = []
        log_det_N = inputs.new_zeros(inputs.shape[:1])
        for z_1N in torch.split(inputs.t(), 1):
            parameters = self.autoregressive_net.group(conditions, x, state)
            parameters_PN = parameters if x else conditions.spread(parameters)
            x_1N, log_det_1N = self._elementwise_inverse(z_1N, parameters_PN[None])
            x.append(x_1N)
            log_det_N = log_det_N + log_det_1N[0]
        return torch.cat(x).t(), log_det_N

    def _output_dim_multiplier(self) -> int:
        return self.outputs


class AffineAutoregressive(ConditionedAutoregressive):
    """Shifts and scales every feature; the log-scale is bounded smoothly."""

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


class SplineAutoregressive(ConditionedAutoregressive):
    """Bends every feature by a monotonic rational-quadratic spline; the identity far out."""

    def __init__(self, config: FlowConfig, features: int, conditions: int) -> None:
        super().__init__(config, features, conditions)
        self.bound = config.bound
        self.own: Tensor | None = None
        """In a stack how many bins those of each flow have, `(T,)`, if not all that are there."""

    def forward(self, inputs: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """Data to noise: `(N, F)` and the log-determinant, `(N,)`."""
        conditions, x_FN = _conditions(context, inputs), inputs.t()
        if not conditions.fused:
            return super().forward(inputs, conditions)
        passes, parameters = self._passes(conditions, x_FN)
        z_FN, log_det_N = _FusedSpline.apply(
            spline.FusedCurves(self.bound, self.own), conditions.index_N, passes, x_FN, *parameters
        )  # type: ignore[no-untyped-call]
        return z_FN.t(), log_det_N

    def inverse(self, inputs: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """Noise to data: `(N, F)` and the log-determinant, `(N,)`.

        Fused and without gradients, as draws are made, there is no log-determinant: zeros.
        """
        conditions = _conditions(context, inputs)
        separate = isinstance(self.autoregressive_net, SeparateConditioner)
        if not conditions.fused or torch.is_grad_enabled() or not separate:
            return super().inverse(inputs, conditions)
        return self._draw(conditions, inputs.t()), inputs.new_zeros(inputs.shape[:1])

    def _draw(self, conditions: Conditions, z_FN: Tensor) -> Tensor:
        """The inverse without a log-determinant, in arrays used again, `(N, F)`."""
        curves, known = spline.FusedCurves(self.bound), len(conditions.c_CU)
        x_IN = z_FN.new_empty(known + self.features, z_FN.shape[1])
        x_IN[:known] = conditions.c_CN
        for f, network in enumerate(self.autoregressive_net.networks):
            one = FusedPass(network, x_IN[: known + f] if f else conditions.c_CU)
            parameters = one.forward()
            x_IN[known + f] = curves.inverse(z_FN[f], parameters, None if f else conditions.index_N)
            one.give_back()
            give_back([parameters])
        return x_IN[known:].t()

    def _passes(self, conditions: Conditions, x_FN: Tensor) -> tuple[list[FusedPass], list[Tensor]]:
        """A pass for every feature, and what `_FusedSpline` differentiates by."""
        net = self.autoregressive_net
        if not isinstance(net, SeparateConditioner):
            return [], net.parameters_of(conditions, x_FN)
        c_CU, x_IN = conditions.c_CU.detach(), torch.cat([conditions.c_CN, x_FN]).detach()
        inputs = [x_IN[: len(c_CU) + f] if f else c_CU for f in range(self.features)]
        # Autograd asks for gradients by weights even where it is off, and arrays would be kept.
        trained = net.networks if torch.is_grad_enabled() else []
        weights = [w for network in trained for w in (*network.weight, *network.bias)]
        return [FusedPass(*pair) for pair in zip(net.networks, inputs, strict=True)], weights

    def _elementwise_forward(self, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return self._each(spline.forward, inputs, parameters)

    def _elementwise_inverse(self, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return self._each(spline.inverse, inputs, parameters)

    def _each(self, curve: Any, x_FN: Tensor, parameters_FPN: Tensor) -> tuple[Tensor, Tensor]:
        own_N = at_columns(self.own, x_FN.shape[1])
        pairs = [curve(*one, self.bound, own_N) for one in zip(x_FN, parameters_FPN, strict=True)]
        z, log_det = zip(*pairs, strict=True)
        return torch.stack(z), torch.stack(log_det)


class _FusedSpline(torch.autograd.Function):
    """Networks and curves of all features, with their derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        curves: spline.FusedCurves,
        index_N: Tensor | None,
        passes: Sequence[FusedPass],
        x_FN: Tensor,
        *terms: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """`terms`: weights and biases of the passes, or every feature's parameters without."""
        parameters = [one.forward() for one in passes] or list(terms)
        z_FN, log_det_FN = curves.forward(x_FN, parameters, index_N)
        if passes:
            give_back(parameters)
        if any(ctx.needs_input_grad):
            ctx.curves, ctx.passes = curves, passes
        else:
            curves.give_back()
            for one in passes:
                one.give_back()
        return z_FN, log_det_FN.sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad_x_FN, terms = ctx.curves.backward(grads[0], grads[1].expand_as(grads[0]))
        if ctx.passes:
            terms, parameters = [], terms
            for f, (one, grad_PM) in enumerate(zip(ctx.passes, parameters, strict=True)):
                grad_IM, weights = one.backward(grad_PM)
                if f:
                    grad_x_FN[:f] += grad_IM[-f:]
                give_back([grad_IM])
                terms += weights
        return None, None, None, grad_x_FN, *terms


LAYERS = {"affine": AffineAutoregressive, "spline": SplineAutoregressive}
"""The choices of `FlowConfig.kind`."""


def _conditions(context: Context, inputs_NF: Tensor) -> Conditions:
    if isinstance(context, Conditions):
        return context
    return Conditions(inputs_NF[:, :0].t() if context is None else context.t())
