"""Steps fused by hand: activations with their derivatives, and arrays that are used again.

A step with a derivative by hand borrows its arrays here and gives them back when autograd is done
with them: fresh memory comes from the system page by page, slowly. An array that was given back
must not be looked at any more.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_ATEN = torch.ops.aten


class Activation(nn.Module, ABC):
    """A function of single numbers.

    `into` and `back` write to arrays that are there, `forward` is for autograd.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Values of `x`."""

    @abstractmethod
    def into(self, x: Tensor, out: Tensor) -> None:
        """Values of `x`, written to `out`, which may be `x`."""

    @abstractmethod
    def back(self, grad: Tensor, x: Tensor, y: Tensor) -> None:
        """In `grad`, the gradient with respect to `y`, turned into that with respect to `x`."""


class Relu(Activation):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def into(self, x: Tensor, out: Tensor) -> None:
        torch.clamp(x, min=0, out=out)

    def back(self, grad: Tensor, x: Tensor, y: Tensor) -> None:
        _ATEN.threshold_backward.grad_input(grad, y, 0, grad_input=grad)


class Tanh(Activation):
    """tanh(x) = 2 sigmoid(2x) - 1: torch's sigmoid is six times as fast as its tanh."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(2 * x) * 2 - 1

    def into(self, x: Tensor, out: Tensor) -> None:
        torch.mul(x, 2, out=out)
        out.sigmoid_().mul_(2).sub_(1)

    def back(self, grad: Tensor, x: Tensor, y: Tensor) -> None:
        _ATEN.tanh_backward.grad_input(grad, y, grad_input=grad)


class Silu(Activation):
    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x)

    def into(self, x: Tensor, out: Tensor) -> None:
        _ATEN.silu.out(x, out=out)

    def back(self, grad: Tensor, x: Tensor, y: Tensor) -> None:
        _ATEN.silu_backward.grad_input(grad, x, grad_input=grad)


class Gelu(Activation):
    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x)

    def into(self, x: Tensor, out: Tensor) -> None:
        _ATEN.gelu.out(x, out=out)

    def back(self, grad: Tensor, x: Tensor, y: Tensor) -> None:
        _ATEN.gelu_backward.grad_input(grad, x, grad_input=grad)


ACTIVATIONS: dict[str, type[Activation]] = {
    "relu": Relu,
    "tanh": Tanh,
    "silu": Silu,
    "gelu": Gelu,
}
"""The choices of `FlowConfig.activation`."""

SHAPES, ARRAYS = 32, 64
"""Most shapes that are kept, and most arrays of each."""


class _Spare(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[tuple[Any, ...], list[Tensor]] = {}


_SPARE = _Spare()


def take(like: Tensor, *shape: int) -> Tensor:
    """An array of this shape with anything in it, of this thread's or a new one."""
    spare = _SPARE.arrays.get((*shape, like.dtype, like.device))
    if spare:
        return spare.pop()
    # One made in inference mode could not be written to outside of it.
    with torch.inference_mode(False):
        return like.new_empty(shape)


def give_back(arrays: Iterable[Tensor]) -> None:
    """Let these arrays be taken again by this thread."""
    for array in arrays:
        key = (*array.shape, array.dtype, array.device)
        if key not in _SPARE.arrays and len(_SPARE.arrays) >= SHAPES:
            _SPARE.arrays.clear()
        spare = _SPARE.arrays.setdefault(key, [])
        if len(spare) < ARRAYS:
            spare.append(array.detach())
