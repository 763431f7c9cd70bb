"""One masked network for all features, in which every feature sees the condition.

Not nflows' MADE: its hidden units start at degree 1, so nothing but a bias reaches the first
feature of a layer, and with two features half of every layer is blind to the condition. Here
hidden degrees start at 0: units of degree g see the condition and the first g features, and
feature g reads units up to degree g.

Units are kept in groups by degree, so a masked matrix is block-triangular and its zero blocks are
neither stored nor multiplied. Arrays hold the columns first, as in `networks`.

Tensor names end in their axes:
    N rows    F features    C conditions    P parameters of one feature    H units of one group
    U distinct conditions    G features after the first    L, M units of all groups after the first

Germain et al. (2015), https://arxiv.org/abs/1502.03509
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.config import ConfigError, FlowConfig
from models.flow.conditions import Conditions
from models.flow.fused import ACTIVATIONS, Relu, Tanh, give_back, take


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

    def forward(self, group: int, x: Sequence[Tensor], conditions: Conditions) -> Tensor:
        """Values of a group after the first, `(H, N)`, from the groups up to it."""
        out_HN = conditions.spread(self.from_first(group, x[0]))
        weights = torch.split(self.weight[group - 1], self.sizes[:group], dim=1)
        for weight_HH, x_HN in zip(weights, x[1:], strict=True):
            out_HN = out_HN.addmm_(weight_HH, x_HN)
        return out_HN


class MaskedConditioner(nn.Module):
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

    def group(
        self, conditions: Conditions, before: Sequence[Tensor], hidden: list[list[Tensor]]
    ) -> Tensor:
        """Parameters of the feature after those in `before`.

        Args:
            conditions: The conditions.
            before: Each earlier feature, `(1, N)`.
            hidden: The groups worked out so far; that of this feature is added.

        Returns:
            `(P, U)` for the first feature, `(P, N)` for any other.
        """
        if not before:
            return self._first(conditions.c_CU, hidden)
        group = len(before)
        x: Sequence[Tensor] = [conditions.c_CU, *before]
        for layer, groups in zip(self.layers[:-1], hidden, strict=True):
            groups.append(self.activation(layer(group, x, conditions)))
            x = groups
        parameters_PN: Tensor = self.layers[-1](group, x, conditions)
        return parameters_PN

    def parameters_of(self, conditions: Conditions, x_FN: Tensor) -> list[Tensor]:
        """Parameters of all features as `group` gives them, when all are known beforehand."""
        hidden = self.start()
        if conditions.runs_UN is not None and len(x_FN) > 1 and isinstance(self.activation, FUSED):
            return self._fused(conditions, x_FN, hidden)
        x = torch.split(x_FN, 1)
        return [self.group(conditions, x[:g], hidden) for g in range(len(x))]

    def _fused(
        self, conditions: Conditions, x_FN: Tensor, hidden: list[list[Tensor]]
    ) -> list[Tensor]:
        first_PU = self._first(conditions.c_CU, hidden)
        sources = [conditions.c_CU, *(groups[0] for groups in hidden)]
        groups = range(1, len(x_FN))
        firsts = [
            torch.cat([layer.from_first(g, x_HU) for g in groups])
            for layer, x_HU in zip(self.layers, sources, strict=True)
        ]
        weights = [weight for layer in self.layers for weight in layer.weight]
        tanh = isinstance(self.activation, Tanh)
        later_PN: Tensor = _Fused.apply(
            tanh, conditions.counts, x_FN[:-1], len(firsts), *firsts, *weights
        )  # type: ignore[no-untyped-call]
        return [first_PU, *torch.split(later_PN, len(first_PU))]

    def _first(self, x_HU: Tensor, hidden: list[list[Tensor]]) -> Tensor:
        """Parameters of the first feature, `(P, U)`: once for each distinct condition."""
        for layer, groups in zip(self.layers[:-1], hidden, strict=True):
            x_HU = self.activation(layer.from_first(0, x_HU))
            groups.append(x_HU)
        parameters_PU: Tensor = self.layers[-1].from_first(0, x_HU)
        return parameters_PU


FUSED = (Tanh, Relu)
"""Activations that `_Fused` knows."""


class _Fused(torch.autograd.Function):
    """Parameters of the features after the first, `(G P, N)`, with the derivative by hand.

    What the distinct conditions add to a layer, `first_LU`, is added to each run of rows in place.
    tanh(x) = 2 sigmoid(2x) - 1 is worked out as the sigmoid alone: what is left of it goes into
    the matrices on both sides.
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
            rows = [len(block) for block in blocks]
            last = number == depth - 1
            layer = _Layer(
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
            if number:
                _activation_backward(ctx.tanh, grad_LN, x_MN)
        # Hence not to be run twice, which autograd refuses unless it is asked to keep the graph.
        give_back(saved[1:])
        return None, None, grad_LN, None, *firsts, *weights


def _activation_backward(tanh: bool, grad_LN: Tensor, y_LN: Tensor) -> None:
    """The gradient before an activation, in place, from that after it and its values."""
    if tanh:
        torch.ops.aten.sigmoid_backward.grad_input(grad_LN, y_LN, grad_input=grad_LN)
    else:
        torch.ops.aten.threshold_backward.grad_input(grad_LN, y_LN, 0, grad_input=grad_LN)


class _Layer(NamedTuple):
    """One layer of `_Fused`: a block-triangular matrix `(L, M)`, and the runs of its rows."""

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
