"""A mixture of smooth boxes: p(z | c) = sum_k pi_k(c) prod_f box(z_f; parameters_k(c)).

One network of the conditions gives the parameters of all components. It runs once for each
distinct condition, so that for rows of one simulated cell its cost is next to nothing. An edge that
moves with c is a parameter that moves with c: between two cells lies an edge between theirs. That
a mixture can be the base of a masked autoregressive flow is from Papamakarios et al. (2017); there
its components are normal, here they have edges (`models/boxes.py`).

Tensor names end in their axes:
    N rows    F features    U distinct conditions    K components    P parameters of a component
    M rows, or conditions that rows share

Papamakarios, Pavlakou & Murray (2017), https://arxiv.org/abs/1705.07057 (MAF MoG)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from nflows.distributions.base import Distribution
from torch import Tensor

from models import boxes
from models.config import FlowConfig
from models.flow.conditions import Conditions
from models.flow.mixture.fused import FusedMixture
from models.flow.network import FusedPass, Network, at_columns

WIDTHS = 0.05, 2.0
"""Least and greatest width of the first boxes, in standard deviations."""
SHARPNESS = 4.0
"""D - 1 of the first boxes."""
LAST_GAIN = 0.1
"""On the initial spread of the network's last layer."""


class BoxMixture(Distribution):  # type: ignore[misc]
    """A mixture of `config.components` components over F features, given C conditions."""

    def __init__(
        self, config: FlowConfig, features: int, conditions: int, start_NF: Tensor
    ) -> None:
        """Args: shape, numbers of columns, and rows at which the first components are put."""
        super().__init__()
        self.features, self.components = features, config.components
        self.limits: boxes.Limits = boxes.limits(config.smallest_width)
        """Of widths; in a stack an array of each of the two, with a number for each flow."""
        self.own: Sequence[int] = ()
        """In a stack how many components each flow has, if not all that are there."""
        outputs = boxes.parameters_of(features) * self.components
        self.network = Network(config.of_base, conditions, outputs)
        with torch.no_grad():
            last = self.network.weight[-1]
            last.copy_(
                torch.empty_like(last).uniform_(-1, 1) * (LAST_GAIN / math.sqrt(len(last.t())))
            )
            self.network.bias[-1].copy_(self._start(start_NF).flatten()[:, None])

    def _start(self, start_NF: Tensor) -> Tensor:
        """Parameters of components at random rows, or at random numbers where there are none."""
        bias_PK = torch.zeros(boxes.parameters_of(self.features), self.components)
        chosen_K = torch.randint(max(1, len(start_NF)), (self.components,))
        if len(start_NF) >= self.components:
            chosen_K = torch.randperm(len(start_NF))[: self.components]
        middle_FK = torch.randn(self.features, self.components)
        if len(start_NF):
            middle_FK = start_NF[chosen_K].t()
        least, most = (max(math.log(width), self.limits[0]) for width in WIDTHS)
        for f in range(self.features):
            at = 1 + boxes.EACH * f
            bias_PK[at] = middle_FK[f]
            bias_PK[at + 1].uniform_(least, most)
            bias_PK[at + 2] = math.log(SHARPNESS)
        return bias_PK

    def log_prob(self, inputs: Tensor, context: Any = None) -> Tensor:
        """Natural-log density of noise, `(N,)`; `context` as of the layers."""
        conditions = context if isinstance(context, Conditions) else _each(context, inputs)
        if conditions.fused:
            return self._fused(inputs, conditions)
        limits = self._limits(inputs.shape[0])
        parameters_PKN = self._at_rows(self.parameters_of(conditions), conditions)
        raw_KN, log_KN = boxes.log_density(torch, inputs.unbind(1), parameters_PKN, limits)
        return torch.logsumexp(torch.log_softmax(raw_KN, 0) + log_KN, 0)

    def _fused(self, inputs_NF: Tensor, conditions: Conditions) -> Tensor:
        one = FusedPass(self.network, conditions.c_CU.detach())
        # Autograd asks for gradients by weights even where it is off, and arrays would be kept.
        trained = [self.network] if torch.is_grad_enabled() else []
        weights = [w for network in trained for w in (*network.weight, *network.bias)]
        limits = self._limits(conditions.c_CU.shape[1])
        given = one, limits, self.own, conditions, inputs_NF.t(), *weights
        out: Tensor = FusedMixture.apply(*given)  # type: ignore[no-untyped-call]
        return out

    def from_noise(self, noise_NF: Tensor, conditions: Conditions) -> Tensor:
        """Features, `(N, F)`, made of standard normal noise `(N, F + 1)`.

        Its last column chooses the component.
        """
        u_NF = 0.5 * (1 + torch.erf(noise_NF * 0.5**0.5))
        parameters_PKU = self.parameters_of(conditions)
        edges_KU = torch.softmax(parameters_PKU[0], 0).cumsum(0)[:-1]
        edges_KN = conditions.spread(edges_KU) if self.components > 1 else edges_KU
        chosen_N = (u_NF[:, self.features] > edges_KN).sum(0)
        parameters_PN = self._chosen(parameters_PKU, chosen_N, conditions)
        x_F = boxes.draw(torch, u_NF[:, : self.features].unbind(1), parameters_PN, self.limits)
        return torch.stack(x_F).t()

    def parameters_of(self, conditions: Conditions) -> Tensor:
        """Of all components at each distinct condition, `(P, K, U)`."""
        out: Tensor = self.network(conditions.c_CU)
        return out.view(boxes.parameters_of(self.features), self.components, out.shape[1])

    def _limits(self, columns: int) -> boxes.Limits:
        """Of widths at columns, which belong to the flows of a stack in equal parts."""
        least, most = self.limits
        return at_columns(least, columns), at_columns(most, columns)

    def _at_rows(self, parameters_PKU: Tensor, conditions: Conditions) -> Tensor:
        """The same at every row, `(P, K, N)`; `(P, K, 1)` if all have one condition."""
        if parameters_PKU.shape[2] == 1 or conditions.index_N is None:
            return parameters_PKU
        rows = conditions.spread(parameters_PKU.flatten(0, 1))
        return rows.view(*parameters_PKU.shape[:2], -1)

    def _chosen(self, parameters_PKU: Tensor, chosen_N: Tensor, conditions: Conditions) -> Tensor:
        """Parameters of one component for each row, `(P, N)`."""
        count_U = parameters_PKU.shape[2]
        index_N = conditions.index_N
        if index_N is None:
            index_N = torch.arange(count_U, device=chosen_N.device)
        return parameters_PKU.flatten(1).index_select(1, chosen_N * count_U + index_N)


def _each(context: Tensor | None, inputs_NF: Tensor) -> Conditions:
    return Conditions(inputs_NF[:, :0].t() if context is None else context.t())
