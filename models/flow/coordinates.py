"""Physical units <-> standardised coordinates: y = (g(x) - mean) / spread, with log |dy / dx|.

g is the logarithm of a positive column, and takes an event column with bounds to the real line
(`models/bounds.py`). Of a pair of masses it gives log x0, or log(x0 + x1), and log(x1 / x0), which
lays the ridge of equal masses along an axis, where a flow sees it best. Mean and spread are those
of the training split. All of it is part of the flow: because the Jacobian is added, NLLs of flows
with other preprocessing compare.

Tensor names end in their axes:
    N rows    F event columns    C condition columns    K columns of either kind
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from data_prep.columns import Column, pair_of
from data_prep.dataset import Dataset
from data_prep.stream import Batch
from models.bounds import intervals
from models.layout import HUGE, TINY, inputs_of

FIRST = 2048
"""Most rows that are kept for the start of a mixture."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Rows, mean and summed squared deviation of columns in the coordinates of the flow.

    Weighted rows count as their weights, in all three.
    """

    rows: float
    mean_K: NDArray[np.float64]
    m2_K: NDArray[np.float64]

    @classmethod
    def of(
        cls, values_NK: NDArray[np.float64], weights_N: NDArray[np.floating] | None = None
    ) -> Self:
        if weights_N is None:
            mean_K = values_NK.mean(axis=0)
            return cls(len(values_NK), mean_K, ((values_NK - mean_K) ** 2).sum(axis=0))
        wide_N = weights_N.astype(np.float64)
        mean_K = np.average(values_NK, axis=0, weights=wide_N)
        return cls(float(wide_N.sum()), mean_K, wide_N @ (values_NK - mean_K) ** 2)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of rows.

        Source:
            Chan, Golub & LeVeque (1983), The American Statistician 37, 242 (pairwise update).
        """
        rows = self.rows + other.rows
        gap_K = other.mean_K - self.mean_K
        mean_K = self.mean_K + gap_K * (other.rows / rows)
        m2_K = self.m2_K + other.m2_K + gap_K**2 * (self.rows * other.rows / rows)
        return Moments(rows, mean_K, m2_K)

    @property
    def spread_K(self) -> NDArray[np.float64]:
        """Standard deviation; 1 where the column is constant, so that nothing divides by zero."""
        spread_K = np.sqrt(self.m2_K / self.rows)
        # Not `== 0`: the log of a constant has rounding noise in its spread.
        constant_K = spread_K <= 1e-7 * np.maximum(1.0, np.abs(self.mean_K))
        return np.where(constant_K, 1.0, spread_K)


@dataclass(frozen=True, slots=True)
class Constants:
    """What a fresh flow takes from the training split, in its coordinates."""

    events: Moments
    conditions: Moments
    """Moments by which columns are standardised."""
    rows_NF: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    """The first events, at which the components of a mixture start."""

    def merge(self, other: Constants) -> Constants:
        """Those of both sets of rows."""
        return Constants(
            self.events.merge(other.events),
            self.conditions.merge(other.conditions),
            np.concatenate([self.rows_NF, other.rows_NF[: FIRST - len(self.rows_NF)]]),
        )


def constants(dataset: Dataset, batches: Iterable[Batch], coordinates: str = "log") -> Constants:
    """Moments of a dataset's columns, read batch by batch, in physical units.

    Args:
        dataset: Says which columns are positive, and therefore logged, or bounded.
        batches: The training split.
        coordinates: Of the event columns, as `FlowConfig.coordinates`.
    """
    of_events = Coordinates(dataset.event_columns, coordinates)
    of_conditions = Coordinates(dataset.condition_columns)
    total: Constants | None = None
    for batch in batches:
        events_NF = of_events.of_array(batch.events)
        found = Constants(
            Moments.of(events_NF, batch.weights),
            Moments.of(of_conditions.of_array(batch.conditions), batch.weights),
            events_NF[:FIRST],
        )
        total = found if total is None else total.merge(found)
    if total is None:
        raise ValueError("the training split has no rows to take mean and spread of")
    return total


class Coordinates:
    """The coordinates that are standardised: logarithms, bounds at infinity, a pair turned.

    Turning has a Jacobian of 1: with l the logarithms, (l0, l1 - l0) is a shear, and so is
    (log(exp l0 + exp l1), l1 - l0), whose derivatives are the shares of both in the sum.
    """

    def __init__(self, columns: Sequence[Column], kind: str | None = None) -> None:
        """Args: the columns, and a choice of `FlowConfig.coordinates`; None for conditions.

        A category is as many conditions as it has texts, each 0 or 1. A condition's bounds stay
        where they are: no density is taken of it, and the networks get a condition that is at its
        bound, as many are.
        """
        self.texts = [len(column.categories) for column in columns]
        inputs = inputs_of(columns)
        self.positive = torch.tensor([column.positive for column in inputs], dtype=torch.bool)
        self.bounded = {} if kind is None else intervals(columns)
        self.pair = None if kind in (None, "log") else pair_of(columns)
        self.total = kind == "log_total"

    def of_array(self, values_NK: NDArray[np.float32]) -> NDArray[np.float64]:
        """Physical values, all in their support, in these coordinates."""
        x_NK = self.spell(torch.from_numpy(np.array(values_NK, np.float64)))
        log_NK = torch.where(self.positive, x_NK, 1.0).log() + x_NK * ~self.positive
        array: NDArray[np.float64] = self.turn(self.stretch(log_NK)[0]).numpy()
        return array

    def spell(self, x_NC: Tensor) -> Tensor:
        """Every category as columns of 0 and 1, by the number of its text: `inputs_of`."""
        if not any(self.texts):
            return x_NC
        columns: list[Tensor] = []
        for x_N, count in zip(x_NC.unbind(1), self.texts, strict=True):
            columns += [(x_N == number).to(x_N) for number in range(count)] or [x_N]
        return torch.stack(columns).t()

    def stretch(self, x_NK: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Bounded columns taken to the real line, `(N, K)`.

        Then of each of them, `(N,)`: the log-Jacobian, and whether a value was inside. One that was
        not gives way to a harmless one.
        """
        columns, log_slopes, held = list(x_NK.unbind(1)), [], []
        for k, interval in self.bounded.items():
            held.append(interval.holds(torch, columns[k]))
            value_N = torch.where(held[-1], columns[k], interval.harmless)
            columns[k], log_slope_N = interval.forward(torch, value_N)
            log_slopes.append(log_slope_N)
        return torch.stack(columns).t() if self.bounded else x_NK, log_slopes, held

    def shrink(self, y_NK: Tensor) -> Tensor:
        """The inverse of `stretch`."""
        columns = list(y_NK.unbind(1))
        for k, interval in self.bounded.items():
            columns[k] = interval.inverse(torch, columns[k])
        return torch.stack(columns).t() if self.bounded else y_NK

    def turn(self, l_NK: Tensor) -> Tensor:
        """From logarithms to coordinates."""
        if self.pair is None:
            return l_NK
        columns = list(l_NK.unbind(1))
        first, second = (columns[k] for k in self.pair)
        if self.total:
            # Not logaddexp, which the ONNX exporter does not know.
            columns[self.pair[0]] = first + functional.softplus(second - first)
        columns[self.pair[1]] = second - first
        return torch.stack(columns).t()

    def turn_back(self, y_NK: Tensor) -> Tensor:
        """From coordinates to logarithms."""
        if self.pair is None:
            return y_NK
        columns = list(y_NK.unbind(1))
        first, ratio = (columns[k] for k in self.pair)
        if self.total:
            first = first - functional.softplus(ratio)
        columns[self.pair[0]], columns[self.pair[1]] = first, first + ratio
        return torch.stack(columns).t()


class Standardise(nn.Module):
    """Columns in physical units -> coordinates of mean 0 and spread 1."""

    positive_K: Tensor
    mean_K: Tensor
    spread_K: Tensor

    def __init__(
        self, columns: Sequence[Column], moments: Moments, kind: str | None = None
    ) -> None:
        """Args: columns, their moments in these coordinates, a choice of coordinates."""
        super().__init__()
        self.coordinates = Coordinates(columns, kind)
        # Not of texts: the few rows of a rare one would be far away.
        each = [[bool(column.categories)] * len(inputs_of([column])) for column in columns]
        text_K = np.array(sum(each, []), bool)
        mean_K, spread_K = (
            np.where(text_K, same, values)
            for same, values in ((0.0, moments.mean_K), (1.0, moments.spread_K))
        )
        self.register_buffer("positive_K", self.coordinates.positive)
        self.register_buffer("mean_K", torch.tensor(mean_K, dtype=torch.float32))
        self.register_buffer("spread_K", torch.tensor(spread_K, dtype=torch.float32))

    def forward(self, x_NK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Standardised values, log-Jacobian and whether a row lies in the support.

        Rows outside the support (a positive column at or below 0, one beyond its bounds, a value
        that is not finite) are replaced by harmless numbers on both sides of the log, so that
        neither they nor their gradients are NaN.

        Returns:
            `(N, K)`, `(N,)` in nats, and `(N,)` of bool.
        """
        x_NK = self.coordinates.spell(x_NK)
        inside_NK = x_NK.isfinite() & ((x_NK > 0) | ~self.positive_K)
        log_NK = torch.where(inside_NK & self.positive_K, x_NK, 1.0).log()
        plain_NK = torch.where(inside_NK & ~self.positive_K, x_NK, 0.0)
        line_NK, log_slopes, held = self.coordinates.stretch(log_NK + plain_NK)
        y_NK = (self.coordinates.turn(line_NK) - self.mean_K) / self.spread_K
        log_det_N = sum(log_slopes, -log_NK.sum(1) - self.spread_K.log().sum())
        return y_NK, log_det_N, functools.reduce(operator.and_, held, inside_NK.all(1))

    def inverse(self, y_NK: Tensor) -> Tensor:
        """Physical values, `(N, K)`, in the support and finite for any input."""
        x_NK = self.coordinates.turn_back(y_NK * self.spread_K + self.mean_K)
        limits = (np.log(TINY), np.log(HUGE))
        exp_NK = torch.where(self.positive_K, x_NK, 0.0).clamp(*limits).exp()
        return self.coordinates.shrink(torch.where(self.positive_K, exp_NK, x_NK))
