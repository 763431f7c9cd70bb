"""Conditioners: the parameters of every feature from the condition and the features before it.

`SeparateConditioner` has a small network for each feature. With a few features that is several
times less work than a masked network of the same width, and the first feature's network, which
sees the condition alone, runs once for each distinct condition.

`MaskedConditioner` has one network for all features (MADE). It is not nflows' MADE: there hidden
units start at degree 1, so nothing but a bias reaches the first feature of a layer, and with two
features half of every layer is blind to the condition. Here degrees start at 0: units of degree g
see the condition and the first g features, and feature g reads units up to degree g. Units are
kept in groups by degree, so that a masked matrix is block-triangular; its zero blocks are neither
stored nor multiplied.

Arrays hold the columns first: thin matrix products (two conditions, one feature) are then several
times faster than with rows first, in both directions. Tensor names end in their axes:
    N rows    U distinct conditions    F features    P parameters of one feature
    I inputs of a network    H units of a layer, or of one group
    G features after the first    L, M units of all groups after the first

Germain et al. (2015), https://arxiv.org/abs/1502.03509
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.config import FlowConfig
from models.flow.conditions import Conditions
from models.flow.fused import ACTIVATIONS, give_back, take
from models.flow.network import LAST_GAIN, Network, uniform
from models.layout import masked_groups


class Conditioner(nn.Module, ABC):
    """Gives the parameters of every feature."""

    def start(self) -> Any:
        """An empty store for `group`, which needs it from one feature to the next."""
        return None

    @abstractmethod
    def group(self, conditions: Conditions, before: Sequence[Tensor], state: Any) -> Tensor:
        """Parameters of the feature after those in `before`.

        Args:
            conditions: The conditions.
            before: Each earlier feature, `(1, N)`.
            state: The store of `start`, in which all earlier features have been.

        Returns:
            `(P, U)` for the first feature, `(P, N)` for any other.
        """

    def parameters_of(self, conditions: Conditions, x_FN: Tensor) -> list[Tensor]:
        """Parameters of all features as `group` gives them, when all are known beforehand."""
        state, x = self.start(), torch.split(x_FN, 1)
        return [self.group(conditions, x[:f], state) for f in range(len(x))]


# ---- a network for each feature


class SeparateConditioner(Conditioner):
    """A network for each feature."""

    def __init__(self, config: FlowConfig, features: int, conditions: int, outputs: int) -> None:
        super().__init__()
        networks = [Network(config, conditions + f, outputs) for f in range(features)]
        self.networks = cast("Sequence[Network]", nn.ModuleList(networks))

    def group(self, conditions: Conditions, before: Sequence[Tensor], state: Any) -> Tensor:
        x_IN = torch.cat([conditions.c_CN, *before]) if before else conditions.c_CU
        out: Tensor = self.networks[len(before)](x_IN)
        return out


# ---- one masked network for all features


class TriangularLinear(nn.Module):
    """A linear map between groups of units, in which group g reads the groups up to g.

    The part that comes from group 0 is kept apart: it depends on the condition alone.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], gain: float) -> None:
        """Args: sizes of the groups on both sides, and a factor on the usual initial spread."""
        super().__init__()
        self.first, self.weight, self.bias = (nn.ParameterList() for _ in range(3))
        self.sizes = list(inputs[1:])
        for group, rows in enumerate(outputs):
            limit = gain / math.sqrt(max(1, sum(inputs[: group + 1])))
            self.first.append(uniform(limit, rows, inputs[0]))
            self.bias.append(uniform(limit, rows, 1))
            if group:
                self.weight.append(uniform(limit, rows, sum(inputs[1 : group + 1])))

    @property
    def weights(self) -> int:
        """Number of weights, biases not counted."""
        return sum(weight.numel() for weight in (*self.first, *self.weight))

    def from_first(self, group: int, x_HU: Tensor) -> Tensor:
        """The part of a group that comes from group 0, bias included: `(H, U)`."""
        return torch.addmm(self.bias[group], self.first[group], x_HU)

    def forward(self, group: int, x: Sequence[Tensor], conditions: Conditions) -> Tensor:
        """Values of a group from the groups up to it: `(H, U)` of the first, else `(H, N)`."""
        if not group:
            return self.from_first(0, x[0])
        out_HN = conditions.spread(self.from_first(group, x[0]))
        weights = torch.split(self.weight[group - 1], self.sizes[:group], dim=1)
        for weight_HH, x_HN in zip(weights, x[1:], strict=True):
            out_HN = out_HN.addmm_(weight_HH, x_HN)
        return out_HN


class MaskedConditioner(Conditioner):
    """One network, in which every feature sees the condition and earlier features alone."""

    def __init__(self, config: FlowConfig, features: int, conditions: int, outputs: int) -> None:
        super().__init__()
        groups = list(pairwise(masked_groups(config, features, conditions, outputs)))
        gains = [1.0] * config.depth + [LAST_GAIN]
        layers = [TriangularLinear(*sizes, gain) for sizes, gain in zip(groups, gains, strict=True)]
        self.layers = cast("Sequence[TriangularLinear]", nn.ModuleList(layers))
        self.activation, self.name = ACTIVATIONS[config.activation], config.activation

    def start(self) -> list[list[Tensor]]:
        """For each hidden layer an empty list of its groups, which `group` fills."""
        return [[] for _ in self.layers[:-1]]

    def group(self, conditions: Conditions, before: Sequence[Tensor], state: Any) -> Tensor:
        group = len(before)
        x: Sequence[Tensor] = [conditions.c_CU, *before]
        for layer, groups in zip(self.layers[:-1], state, strict=True):
            groups.append(self.activation.of(layer(group, x, conditions)))
            x = groups
        parameters: Tensor = self.layers[-1](group, x, conditions)
        return parameters

    def parameters_of(self, conditions: Conditions, x_FN: Tensor) -> list[Tensor]:
        fused = conditions.runs_UN is not None and self.name in ("relu", "tanh")
        if not fused or len(x_FN) == 1:
            return super().parameters_of(conditions, x_FN)
        hidden = self.start()
        first_PU = self.group(conditions, [], hidden)
        sources = [conditions.c_CU, *(groups[0] for groups in hidden)]
        firsts = [
            torch.cat([layer.from_first(g, x_HU) for g in range(1, len(x_FN))])
            for layer, x_HU in zip(self.layers, sources, strict=True)
        ]
        weights = [weight for layer in self.layers for weight in layer.weight]
        if not torch.is_grad_enabled():
            # Autograd asks for gradients by weights even where it is off, and arrays would be kept.
            weights = [weight.detach() for weight in weights]
        later_PN: Tensor = _FusedMasked.apply(
            self.name == "tanh", conditions.counts, x_FN[:-1], len(firsts), *firsts, *weights
        )  # type: ignore[no-untyped-call]
        return [first_PU, *torch.split(later_PN, len(first_PU))]


class _FusedMasked(torch.autograd.Function):
    """Parameters of the features after the first, `(G P, N)`, of relu or tanh networks by hand.

    The distinct conditions' part of a layer, `first_LU`, is added to each run of rows in place.
    tanh(x) = 2 sigmoid(2x) - 1 is computed as the sigmoid alone: the factors and the constant go
    into the matrices on both sides.
    """

    @staticmethod
    def forward(
        ctx: Any, tanh: bool, counts: Sequence[int], x_GN: Tensor, depth: int, *terms: Tensor
    ) -> Tensor:
        firsts, weights, features = terms[:depth], terms[depth:], len(x_GN)
        ctx.tanh, ctx.layers = tanh, []
        runs, columns = _slices(counts), [1] * features
        saved, matrices = [x_GN.contiguous()], []
        for number, first_LU in enumerate(firsts):
            blocks = weights[number * features : (number + 1) * features]
            rows, last = [len(block) for block in blocks], number == depth - 1
            layer = _FusedLayer(
                _slices(rows), _slices(columns), runs, tanh and number > 0, tanh and not last
            )
            matrix_LM, first_LU = layer.scaled(layer.matrix(blocks), first_LU)
            out_LN = layer.forward(matrix_LM, first_LU, saved[-1])
            if not last:
                (torch.sigmoid_ if tanh else torch.relu_)(out_LN)
            saved.append(out_LN)
            matrices.append(matrix_LM)
            ctx.layers.append(layer)
            columns = rows
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(*saved[:-1], *matrices)
        else:
            give_back(saved[1:-1])
        return saved[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        depth, grad_LN = len(ctx.layers), grads[0].contiguous()
        saved, matrices = ctx.saved_tensors[:depth], ctx.saved_tensors[depth:]
        firsts: list[Tensor] = []
        weights: list[Tensor] = []
        for number in reversed(range(depth)):
            layer, x_MN = ctx.layers[number], saved[number]
            blocks, first_LU = layer.d_terms(grad_LN, x_MN)
            firsts.insert(0, first_LU)
            weights[:0] = blocks
            after_LN, grad_LN = grad_LN, layer.d_inputs(matrices[number], grad_LN)
            if number < depth - 1:
                give_back([after_LN])
            if number and ctx.tanh:
                torch.ops.aten.sigmoid_backward.grad_input(grad_LN, x_MN, grad_input=grad_LN)
            elif number:
                ACTIVATIONS["relu"].back(grad_LN, x_MN, x_MN)
        # Hence not to be run twice, which autograd refuses unless it is asked to keep the graph.
        give_back(saved[1:])
        return None, None, grad_LN, None, *firsts, *weights


class _FusedLayer(NamedTuple):
    """One layer of `_FusedMasked`: a block-triangular matrix `(L, M)`, and the runs of its rows."""

    rows: list[slice]
    columns: list[slice]
    runs: list[slice]
    sigmoid_in: bool
    sigmoid_out: bool

    def matrix(self, blocks: Sequence[Tensor]) -> Tensor:
        if len(blocks) == 1:
            return blocks[0]
        matrix_LM = blocks[0].new_zeros(self.rows[-1].stop, self.columns[-1].stop)
        for rows, columns, block in zip(self.rows, self.columns, blocks, strict=True):
            matrix_LM[rows, : columns.stop] = block
        return matrix_LM

    def scaled(self, matrix_LM: Tensor, first_LU: Tensor) -> tuple[Tensor, Tensor]:
        """Both terms for sigmoids in place of tanh."""
        out = 2.0 if self.sigmoid_out else 1.0
        if self.sigmoid_in:
            first_LU = first_LU - matrix_LM.sum(1, keepdim=True)
            return matrix_LM * (2 * out), first_LU * out
        return matrix_LM * out, first_LU * out

    def forward(self, matrix_LM: Tensor, first_LU: Tensor, x_MN: Tensor) -> Tensor:
        out_LN = take(x_MN, len(matrix_LM), x_MN.shape[1])
        for rows, columns in zip(self.rows, self.columns, strict=True):
            _product(matrix_LM[rows, : columns.stop], x_MN[: columns.stop], out_LN[rows])
        for u, run in enumerate(self.runs):
            out_LN[:, run].add_(first_LU[:, u : u + 1])
        return out_LN

    def d_terms(self, grad_LN: Tensor, x_MN: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gradients of the weights of every group, and of `first_LU`."""
        first_LU = torch.stack([grad_LN[:, run].sum(1) for run in self.runs], 1)
        first_L1 = first_LU.sum(1, keepdim=True) if self.sigmoid_in else None
        out = 2 if self.sigmoid_out else 1
        blocks = []
        for rows, columns in zip(self.rows, self.columns, strict=True):
            block = grad_LN[rows] @ x_MN[: columns.stop].t()
            if first_L1 is not None:
                block.mul_(2).sub_(first_L1[rows])
            blocks.append(block.mul_(out))
        return blocks, first_LU.mul_(out)

    def d_inputs(self, matrix_LM: Tensor, grad_LN: Tensor) -> Tensor:
        out_MN = take(grad_LN, matrix_LM.shape[1], grad_LN.shape[1])
        for rows, columns in zip(self.rows, self.columns, strict=True):
            weight_LM = matrix_LM[rows.start :, columns]
            _product(weight_LM.t(), grad_LN[rows.start :], out_MN[columns])
        return out_MN


def _product(a_LM: Tensor, x_MN: Tensor, out_LN: Tensor) -> None:
    """Matrix product into `out_LN`; two rows or fewer are faster one by one."""
    if len(x_MN) > 2 or len(a_LM) < 8:
        torch.mm(a_LM, x_MN, out=out_LN)
        return
    torch.mul(a_LM[:, :1], x_MN[:1], out=out_LN)
    if len(x_MN) == 2:
        out_LN.addcmul_(a_LM[:, 1:], x_MN[1:])


def _slices(sizes: Sequence[int]) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(accumulate(sizes, initial=0))]
