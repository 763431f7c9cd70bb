"""Which array library a caller uses, for code that runs under numpy, cupy and JAX alike."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

Array = Any
"""An array of numpy, cupy or JAX."""
Namespace = Any
"""The functions of a library: `numpy`, `cupy` or `jax.numpy`."""
_LIBRARIES = {"jax": "jax.numpy", "jaxlib": "jax.numpy", "cupy": "cupy"}


def namespace(*arrays: Array) -> Namespace:
    """The library of these arrays; numpy for numbers and lists."""
    for array in arrays:
        library = _LIBRARIES.get(type(array).__module__.partition(".")[0])
        if library is not None:
            return importlib.import_module(library)
    return np


def log_sum(xp: Namespace, ln: Array, axis: int) -> Array:
    """log of a sum given by logs, whose values and gradients are not NaN where all are -inf."""
    finite = xp.isfinite(ln)
    top = xp.where(finite, ln, -math.inf).max(axis)
    some = xp.isfinite(top)
    top = xp.where(some, top, 0.0)
    terms = xp.where(finite, xp.exp(xp.where(finite, ln - xp.expand_dims(top, axis), 0.0)), 0.0)
    total = terms.sum(axis)
    return xp.where(some, xp.log(xp.where(some, total, 1.0)) + top, -math.inf)
