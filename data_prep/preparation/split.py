"""The split into train, val and test: by cell, exact, by seed.

Every cell gives each part its share, so that a rare cell is tested too. Rows are drawn in
blocks of fixed size, so that neither the number of rows nor the way the source was read matters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

EVERYWHERE = 5
"""Rows from which on a cell appears in all three parts."""


def shares(rows: Counts, split: Sequence[float]) -> Counts:
    """How many of the `rows` of each cell go to train, val and test, shape `(cells, 3)`.

    Largest remainders, then one row is moved from the fullest part to each empty one where the
    cell has `EVERYWHERE` rows and the part is wanted at all.
    """
    exact: NDArray[np.float64] = rows[:, None] * np.asarray(split, float)
    # The guard keeps 0.6 * 5 = 3.0000000000000004 and its likes from being taken for a remainder.
    whole: Counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - whole), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    whole += rank < (rows - whole.sum(axis=1))[:, None]
    for cell in np.flatnonzero((rows >= EVERYWHERE) & (whole == 0).any(axis=1)):
        for part in np.flatnonzero((whole[cell] == 0) & (np.asarray(split) > 0)):
            whole[cell, whole[cell].argmax()] -= 1
            whole[cell, part] += 1
    return whole


def deal(codes: NDArray[np.integer], left: Counts, rng: np.random.Generator) -> NDArray[np.int8]:
    """The part of each row of a block, given the rows' cells.

    Within a cell each row is as likely as any other: how many of this block go to each part is a
    multivariate hypergeometric draw, which of them a permutation.

    Args:
        codes: Number of each row's cell, shape `(rows,)`.
        left: The shares that no earlier block has used, shape `(cells, parts)`; reduced in place.
    """
    order = np.argsort(codes, kind="stable")
    cells, starts, counts = np.unique(codes[order], return_index=True, return_counts=True)
    dealt = np.empty(len(codes), np.int8)
    for cell, start, count in zip(cells, starts, counts, strict=True):
        drawn = rng.multivariate_hypergeometric(left[cell], count, method="marginals")
        left[cell] -= drawn
        hand = np.repeat(np.arange(len(drawn), dtype=np.int8), drawn)
        dealt[order[start : start + count]] = rng.permutation(hand)
    return dealt
