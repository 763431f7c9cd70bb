"""The split into train, val and test: by cell, exact, by seed; equal rows into one part.

Every cell gives each part its share, so that a rare cell is tested too. Rows are drawn in
blocks of fixed size, so that neither the number of rows nor the way the source was read matters.

A row that is there twice, as after drawing with replacement, would be tested on its own copy. So
the hash of its values decides its part, and that of all its copies; the others are dealt as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

EVERYWHERE = 5
"""Rows from which on a cell appears in all three parts."""
SORTED_ROWS = 4_000_000
"""Rows whose hashes are sorted in memory at once, about."""
MOST_REPEATED = 4_000_000
"""Different rows with copies that are held in memory; beyond, all rows go by their hash."""


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


@dataclass(frozen=True, slots=True)
class Repeats:
    """The rows of a table that are there more than once."""

    copies: int
    """Rows that equal one before them."""
    hashes: NDArray[np.uint64] | None
    """Of each such row once, sorted; None if they are too many to hold."""

    @classmethod
    def of(cls, blocks: Iterable[NDArray[np.uint64]], rows: int, folder: Path) -> Repeats:
        """Of the hashes of so many rows, in memory that does not grow with them."""
        paths = [folder / f"hashes-{at}" for at in range(-(-rows // SORTED_ROWS))]
        for hash_N in blocks:
            place_N = hash_N % np.uint64(len(paths))
            for at, path in enumerate(paths):
                with path.open("ab") as file:
                    file.write(hash_N[place_N == at].tobytes())
        copies, repeated, several = 0, [np.zeros(0, np.uint64)], 0
        for path in paths:
            found, count = np.unique(np.fromfile(path, np.uint64), return_counts=True)
            path.unlink()
            copies += int((count - 1).sum())
            several += int((count > 1).sum())
            if several <= MOST_REPEATED:
                repeated.append(found[count > 1])
        held = np.sort(np.concatenate(repeated)) if several <= MOST_REPEATED else None
        return cls(copies, held)

    def among(self, hash_N: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which rows go by their hash."""
        if self.hashes is None:
            return np.ones(len(hash_N), bool)
        return np.isin(hash_N, self.hashes)


def by_hash(hash_N: NDArray[np.uint64], split: Sequence[float]) -> NDArray[np.int8]:
    """The part of each row, given its hash: each part gets its share of all different rows."""
    edges = np.cumsum(split)[:-1]
    return np.searchsorted(edges, hash_N / 2.0**64, "right").astype(np.int8)
