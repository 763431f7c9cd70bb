"""The flow of the thesis, written anew from its description.

10 blocks of a masked network with 128 tanh units, a batch-norm flow layer and a reversal, over raw
masses and raw conditions; orthogonal weights; Adam with L2 decay at a constant learning rate;
batches of 40,000.

In training mode the batch-norm layers use the batch's own statistics, as the thesis's do always,
validation included: the density of a row then depends on the rows beside it. In evaluation mode
they use stored ones, and `settle` stores those of whatever rows it is given, so that the flow is
one honest density.

Tensor names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS, HIDDEN, BATCH = 10, 128, 40_000
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4


class MaskedNetwork(nn.Module):
    """input -> hidden -> hidden -> 2F; the condition is added to the first hidden layer."""

    def __init__(self, features: int, conditions: int) -> None:
        super().__init__()
        first = torch.arange(features)
        hidden = torch.arange(HIDDEN) % max(1, features - 1)
        self.first = nn.Linear(features, HIDDEN)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, 2 * features)
        self.condition = nn.Linear(conditions, HIDDEN, bias=False)
        self.register_buffer("mask_1", (hidden[:, None] >= first).float())
        self.register_buffer("mask_2", (hidden[:, None] >= hidden).float())
        self.register_buffer("mask_3", (first.repeat(2)[:, None] > hidden).float())

    def forward(self, x_NF: Tensor, c_NC: Tensor) -> tuple[Tensor, Tensor]:
        shift_NF, log_scale_NF = self.shift_and_log_scale(x_NF, c_NC)
        return (x_NF - shift_NF) * torch.exp(-log_scale_NF), -log_scale_NF.sum(1)

    def inverse(self, z_NF: Tensor, c_NC: Tensor) -> Tensor:
        x_NF = torch.zeros_like(z_NF)
        for _ in range(z_NF.shape[1]):  # each pass makes one more feature right
            shift_NF, log_scale_NF = self.shift_and_log_scale(x_NF, c_NC)
            x_NF = z_NF * torch.exp(log_scale_NF) + shift_NF
        return x_NF

    def shift_and_log_scale(self, x_NF: Tensor, c_NC: Tensor) -> tuple[Tensor, Tensor]:
        h = functional.linear(x_NF, self.first.weight * self.mask_1, self.first.bias)
        h = torch.tanh(h + self.condition(c_NC))
        h = functional.linear(h, self.second.weight * self.mask_2, self.second.bias)
        out = functional.linear(torch.tanh(h), self.last.weight * self.mask_3, self.last.bias)
        shift_NF, log_scale_NF = out.chunk(2, 1)
        return shift_NF, log_scale_NF


class BatchNorm(nn.Module):
    """Standardises by mean and variance, of the batch in training, with the log-determinant."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_gamma = nn.Parameter(torch.zeros(features))
        self.beta = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))

    def forward(self, x_NF: Tensor, c_NC: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = x_NF.mean(0), x_NF.var(0, unbiased=False) + 1e-5
            self.mean.copy_(mean.detach())
            self.variance.copy_(variance.detach())
        y_NF = torch.exp(self.log_gamma) * (x_NF - mean) / variance.sqrt() + self.beta
        return y_NF, (self.log_gamma - 0.5 * variance.log()).sum().expand(len(x_NF))

    def inverse(self, y_NF: Tensor, c_NC: Tensor) -> Tensor:
        return (y_NF - self.beta) / torch.exp(self.log_gamma) * self.variance.sqrt() + self.mean


class Reversal(nn.Module):
    def forward(self, x_NF: Tensor, c_NC: Tensor) -> tuple[Tensor, Tensor]:
        return x_NF.flip(1), x_NF.new_zeros(len(x_NF))

    def inverse(self, x_NF: Tensor, c_NC: Tensor) -> Tensor:
        return x_NF.flip(1)


class ThesisFlow(nn.Module):
    """Blocks of masked network, batch norm and reversal, down to standard normal noise."""

    def __init__(self, features: int, conditions: int) -> None:
        super().__init__()
        self.features = features
        layers: list[nn.Module] = []
        for _ in range(BLOCKS):
            layers += [MaskedNetwork(features, conditions), BatchNorm(features), Reversal()]
        self.layers = nn.ModuleList(layers)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def log_prob(self, x_NF: Tensor, c_NC: Tensor) -> Tensor:
        """Log density of raw events, `(N,)`."""
        total_N = x_NF.new_zeros(len(x_NF))
        for layer in self.layers:
            x_NF, log_det_N = layer(x_NF, c_NC)
            total_N = total_N + log_det_N
        return total_N - 0.5 * (x_NF**2 + math.log(2 * math.pi)).sum(1)

    def sample(self, c_NC: Tensor) -> Tensor:
        """Draw one event under each condition."""
        x_NF = torch.randn(len(c_NC), self.features)
        for layer in reversed(self.layers):
            x_NF = cast("MaskedNetwork", layer).inverse(x_NF, c_NC)
        return x_NF

    @torch.no_grad()
    def settle(self, x_NF: Tensor, c_NC: Tensor) -> None:
        """Store the batch-norm statistics of these rows: those of all of them, layer by layer."""
        for layer in self.layers:
            if isinstance(layer, BatchNorm):
                layer.train()(x_NF, c_NC)
                layer.eval()
            parts = zip(x_NF.split(BATCH), c_NC.split(BATCH), strict=True)
            x_NF = torch.cat([layer(*part)[0] for part in parts])
