"""The distinct conditions of a training's rows: a fair sample of them, and how many there are.

One pass over the rows, in memory that does not grow with them: a point is kept if its hash is among
the lowest, so that each has the same chance, however many rows it has.

Array names end in their axes:
    N rows    C conditions    P points

Source:
    Bar-Yossef et al. (2002), RANDOM 2002, 1: the number of distinct ones by the k-th lowest hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.regions import hashes
from data_prep.stream import Batch

MOST = 16_384
"""Points that are kept."""


@dataclass(frozen=True, slots=True)
class Points:
    """Distinct conditions."""

    c_PC: NDArray[np.float32]
    """Of at most `MOST` points, chosen at random."""
    count: float
    """Of all points: exact where none had to be left out."""

    @classmethod
    def of(cls, batches: Iterable[Batch], most: int = MOST) -> Points:
        """Of the rows of all batches, which are never none."""
        hash_P, c_PC = np.zeros(0, np.uint64), np.zeros((0, 0), np.float32)
        complete = True
        for batch in batches:
            hash_N, c_NC = hashes(batch.conditions), batch.conditions
            if not complete:
                low_N = hash_N <= hash_P[-1]
                hash_N, c_NC = hash_N[low_N], c_NC[low_N]
            joined = np.concatenate([c_PC.reshape(-1, c_NC.shape[1]), c_NC])
            hash_P, place = np.unique(np.concatenate([hash_P, hash_N]), return_index=True)
            complete &= len(hash_P) <= most
            hash_P, c_PC = hash_P[:most], joined[place[:most]]
        return cls(c_PC, len(hash_P) if complete else (most - 1) / (float(hash_P[-1]) / 2.0**64))
