"""Arrays to use again: fresh memory comes from the system page by page, slowly.

The steps with a derivative by hand take their arrays here and give them back when autograd is
done with them. An array that is given back must not be looked at any more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

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
