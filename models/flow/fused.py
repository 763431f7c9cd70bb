"""Steps fused by hand: activations with their derivatives, and arrays that are used again.

A step with a derivative by hand takes its arrays here and gives them back when autograd is done
with them: fresh memory comes from the system page by page, slowly. An array that was given back
must not be looked at any more.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

SHAPES, ARRAYS = 32, 64
"""Most shapes that are kept, and most arrays of each."""
_ATEN = torch.ops.aten


class Activation(NamedTuple):
    """A function of single numbers, y = f(x), and its derivative."""

    of: Callable[[Tensor], Tensor]
    """f, for autograd."""
    into: Callable[[Tensor, Tensor], object]
    """Writes f of the first array to the second, which may be the first."""
    back: Callable[[Tensor, Tensor, Tensor], object]
    """Turns the gradient by y, the first array, into that by x, in place; then come x and y."""


def _tanh_into(x: Tensor, out: Tensor) -> None:
    torch.mul(x, 2, out=out)
    out.sigmoid_().mul_(2).sub_(1)


ACTIVATIONS = {
    "relu": Activation(
        torch.relu,
        lambda x, out: torch.clamp(x, min=0, out=out),
        lambda grad, x, y: _ATEN.threshold_backward.grad_input(grad, y, 0, grad_input=grad),
    ),
    # tanh(x) = 2 sigmoid(2x) - 1: torch's sigmoid is six times as fast as its tanh.
    "tanh": Activation(
        lambda x: torch.sigmoid(2 * x) * 2 - 1,
        _tanh_into,
        lambda grad, x, y: _ATEN.tanh_backward.grad_input(grad, y, grad_input=grad),
    ),
    "silu": Activation(
        functional.silu,
        lambda x, out: _ATEN.silu.out(x, out=out),
        lambda grad, x, y: _ATEN.silu_backward.grad_input(grad, x, grad_input=grad),
    ),
    "gelu": Activation(
        functional.gelu,
        lambda x, out: _ATEN.gelu.out(x, out=out),
        lambda grad, x, y: _ATEN.gelu_backward.grad_input(grad, x, grad_input=grad),
    ),
}
"""The choices of `FlowConfig.activation`."""


class _Spare(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[tuple[Any, ...], list[Tensor]] = {}


_SPARE = _Spare()


def take(like: Tensor, *shape: int) -> Tensor:
    """An array of this shape with anything in it: a spare one of this thread, or a new one.

    There are spare ones on the CPU alone: on a GPU the way back is another thread's, where they
    would pile up, and torch keeps memory itself.
    """
    spare = _SPARE.arrays.get((*shape, like.dtype, like.device))
    if spare:
        return spare.pop()
    # One made in inference mode could not be written to outside of it.
    with torch.inference_mode(False):
        return like.new_empty(shape)


def take_part(like: Tensor, *shape: int) -> tuple[Tensor, Tensor]:
    """The same where shapes change from step to step: an array, and the larger one to give back."""
    count = math.prod(shape)
    # Powers of two are few, so that spare arrays are met again.
    whole = take(like, 1 << max(0, count - 1).bit_length())
    return whole[:count].view(shape), whole


def give_back(arrays: Iterable[Tensor]) -> None:
    """Let this thread take these arrays again."""
    for array in arrays:
        if array.device.type != "cpu":
            continue
        key = (*array.shape, array.dtype, array.device)
        if key not in _SPARE.arrays and len(_SPARE.arrays) >= SHAPES:
            _SPARE.arrays.clear()
        spare = _SPARE.arrays.setdefault(key, [])
        if len(spare) < ARRAYS:
            spare.append(array.detach())
