"""Which array library: what runs under numpy, cupy and JAX alike asks here for its functions."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

Array = Any
"""An array of whatever library: numpy, cupy or JAX."""
Namespace = Any
"""Its functions: `numpy`, `cupy` or `jax.numpy`."""
_LIBRARIES = {"jax": "jax.numpy", "jaxlib": "jax.numpy", "cupy": "cupy"}


def namespace(*arrays: Array) -> Namespace:
    """The library that these arrays are of; numpy for numbers, lists and numpy's own."""
    for array in arrays:
        library = _LIBRARIES.get(type(array).__module__.partition(".")[0])
        if library is not None:
            return importlib.import_module(library)
    return np
