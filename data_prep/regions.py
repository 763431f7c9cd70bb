"""Which cell of a dataset each row's conditions are in; where they are scattered, which region.

A row of a grid is in the cell whose conditions it has, compared as float32, since batches hold no
more. Where conditions are scattered, regions stand in for cells: boxes that `Partition.of` cuts
with a k-d tree, so that each has rows enough to be reported on. Categories are put apart first.
Then the region that holds most is halved, at the weighted median of the condition in which it is
widest, until there are `MOST` or none can be halved.

Array names end in their axes:
    N rows    C conditions    K cells or regions    S rows of a sample

Source:
    Bentley (1975), Communications of the ACM 18, 509.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import Column
from data_prep.dataset import Dataset, kish

Numbers = NDArray[np.intp]

MOST = 64
"""Regions, beyond those that categories make."""
LEAST_ROWS = 1000
"""Effective rows of a region: a fifth of them, for the test, tell something of its quality."""
LEAST_POINTS = 6
"""Different conditions in a region, so that its box tells how far apart they are."""

WIDE = 0.1
"""Gap between values, relative to their range, where a region is cut rather than at its median."""


def numbers(dataset: Dataset, c_NC: NDArray[Any]) -> Numbers:
    """The place in `Dataset.cells` of each row's cell or region, shape `(N,)`; -1 where none is."""
    single_NC = np.ascontiguousarray(c_NC, np.float32)
    if dataset.scattered:
        low_KC, high_KC = boxes(dataset)
        # Not above the number before: training takes that before 0 for 0.
        return _within(low_KC, high_KC, single_NC, np.greater_equal)
    cells_KC = np.array([cell.conditions for cell in dataset.cells], np.float32)
    cells_KC = cells_KC.reshape(len(dataset.cells), len(dataset.condition_columns))
    hash_K = hashes(cells_KC)
    order_K = np.argsort(hash_K)
    place_N = np.searchsorted(hash_K, hashes(single_NC), sorter=order_K)
    found_N = order_K[np.minimum(place_N, len(order_K) - 1)]
    return np.where((cells_KC[found_N] == single_NC).all(axis=1), found_N, -1)


def boxes(dataset: Dataset) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest conditions of each region, `(K, C)` both, as batches hold them."""
    box_KC2 = np.array([cell.box for cell in dataset.cells], np.float32)
    return box_KC2[..., 0], box_KC2[..., 1]


def hashes(*columns_NK: NDArray[Any], seed: int = 0) -> NDArray[np.uint64]:
    """A number of 64 bits for each row of some arrays: equal rows have equal ones, -0 is 0.

    Source:
        Steele, Lea & Flood (2014), OOPSLA '14, 453: the mixing of SplitMix64.
    """
    rows = len(columns_NK[0])
    hash_N = _mixed(np.full(rows, seed % 2**64, np.uint64))
    for each_NK in columns_NK:
        # Adding makes 0 of -0.
        bits_NK = np.ascontiguousarray(each_NK + 0.0).view(np.uint32)
        for bits_N in bits_NK.reshape(rows, bits_NK.size // max(1, rows)).T:
            hash_N = _mixed(hash_N + bits_N.astype(np.uint64))
    return hash_N


def coordinates(c_NC: NDArray[Any], columns: Sequence[Column]) -> NDArray[np.float64]:
    """Conditions as distances are taken of them: positive ones logged."""
    there_NC = np.array(c_NC, np.float64)
    for k, column in enumerate(columns):
        if column.positive:
            there_NC[:, k] = np.log(there_NC[:, k])
    return there_NC


@dataclass(frozen=True, slots=True)
class Partition:
    """Regions that share all conditions among them."""

    above_KC: NDArray[np.float32]
    """What the conditions of each region lie above."""
    up_to_KC: NDArray[np.float32]
    """Their highest values."""
    middle_KC: NDArray[np.float64]
    """Conditions inside, each the median of the sample's rows."""

    @classmethod
    def of(
        cls, c_SC: NDArray[np.float64], weight_S: NDArray[Any], columns: Sequence[Column], rows: int
    ) -> Partition:
        """Of a sample of that many rows; in ascending order of the middles."""
        tree = _Tree(c_SC, weight_S, columns, rows)
        leaves = sorted(tree.leaves(), key=lambda leaf: tuple(tree.middle(leaf)))
        return cls(
            np.stack([leaf.above_C for leaf in leaves]),
            np.stack([leaf.up_to_C for leaf in leaves]),
            np.stack([tree.middle(leaf) for leaf in leaves]),
        )

    def numbers(self, c_NC: NDArray[Any]) -> Numbers:
        """The region of each row, `(N,)`."""
        return _within(self.above_KC, self.up_to_KC, c_NC.astype(np.float32))


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A region, and which rows of the sample it has."""

    above_C: NDArray[np.float32]
    up_to_C: NDArray[np.float32]
    rows: Numbers


class _Tree:
    """The sample, and how it is cut."""

    def __init__(
        self,
        c_SC: NDArray[np.float64],
        weight_S: NDArray[Any],
        columns: Sequence[Column],
        rows: int,
    ) -> None:
        self.c_SC, self.single_SC = c_SC, c_SC.astype(np.float32)
        self.weight_S = np.asarray(weight_S, np.float64)
        self.scale = rows / len(c_SC)
        self.categories = [k for k, column in enumerate(columns) if column.categories]
        self.numbers = [k for k, column in enumerate(columns) if not column.categories]
        there_SC = coordinates(c_SC, columns)
        spread_C = there_SC.std(axis=0)
        self.there_SC = there_SC / np.where(spread_C > 0, spread_C, 1.0)

    def middle(self, leaf: _Leaf) -> NDArray[np.float64]:
        """A value that is there of each condition."""
        middle_C = np.quantile(self.c_SC[leaf.rows], 0.5, axis=0, method="lower")
        return np.asarray(middle_C, np.float64)

    def leaves(self) -> list[_Leaf]:
        waiting, done = list(self._apart()), list[_Leaf]()
        most = max(MOST, len(waiting))
        while waiting and len(waiting) + len(done) < most:
            waiting.sort(key=self._effective)
            largest = waiting.pop()
            halves = self._halved(largest)
            if halves:
                waiting += halves
            else:
                done.append(largest)
        return waiting + done

    def _apart(self) -> Iterator[_Leaf]:
        """A region for each combination of categories."""
        found, place_S = np.unique(self.single_SC[:, self.categories], axis=0, return_inverse=True)
        for number, values in enumerate(found):
            above_C = np.full(self.c_SC.shape[1], -np.inf, np.float32)
            up_to_C = np.full(self.c_SC.shape[1], np.inf, np.float32)
            above_C[self.categories], up_to_C[self.categories] = values - 0.5, values + 0.5
            yield _Leaf(above_C, up_to_C, np.flatnonzero(place_S.reshape(-1) == number))

    def _halved(self, leaf: _Leaf) -> tuple[_Leaf, _Leaf] | None:
        """Both halves; None where there are too few rows or conditions for two."""
        spread_C = self.there_SC[leaf.rows].std(axis=0)
        for k in sorted(self.numbers, key=lambda k: -spread_C[k]):
            if (cut := self._cut(leaf, k)) is None:
                continue
            below = self.single_SC[leaf.rows, k] <= cut
            up_to_C, above_C = leaf.up_to_C.copy(), leaf.above_C.copy()
            up_to_C[k] = above_C[k] = cut
            halves = (
                _Leaf(leaf.above_C, up_to_C, leaf.rows[below]),
                _Leaf(above_C, leaf.up_to_C, leaf.rows[~below]),
            )
            if all(map(self._large, halves)):
                return halves
        return None

    def _cut(self, leaf: _Leaf, k: int) -> np.float32 | None:
        """The value up to which about half of the weight lies; None where all have one value.

        In the middle half a gap that is wide, as between two stretches of values, comes first.
        """
        values, first, place_S = np.unique(
            self.single_SC[leaf.rows, k], return_index=True, return_inverse=True
        )
        if len(values) < 2:
            return None
        weight = np.bincount(place_S, self.weight_S[leaf.rows], len(values))
        off = np.abs(np.cumsum(weight)[:-1] / weight.sum() - 0.5)
        there = self.there_SC[leaf.rows[first], k]
        gap = np.diff(there) / (there[-1] - there[0])
        gap[off > 0.25] = 0
        if gap.max() > WIDE:
            off[gap < 0.9 * gap.max()] = 1
        return np.float32(values[off.argmin()])

    def _effective(self, leaf: _Leaf) -> float:
        weight_S = self.weight_S[leaf.rows]
        return kish(weight_S.sum(), (weight_S**2).sum()) * self.scale

    def _large(self, leaf: _Leaf) -> bool:
        points = np.unique(hashes(self.single_SC[leaf.rows]))
        return self._effective(leaf) >= LEAST_ROWS and len(points) >= LEAST_POINTS


def _within(
    low_KC: NDArray[np.float32],
    high_KC: NDArray[np.float32],
    c_NC: NDArray[np.float32],
    beyond: np.ufunc = np.greater,
) -> Numbers:
    """The box of each row; `beyond` tells whether it may be at a low end."""
    number_N = np.full(len(c_NC), -1, np.intp)
    columns = np.ascontiguousarray(c_NC.T)
    for number, (low_C, high_C) in enumerate(zip(low_KC, high_KC, strict=True)):
        inside_N = np.ones(len(c_NC), bool)
        for values_N, low, high in zip(columns, low_C, high_C, strict=True):
            inside_N &= beyond(values_N, low) & (values_N <= high)
        number_N[inside_N] = number
    return number_N


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
