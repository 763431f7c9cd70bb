"""`Table`: an emulator's density on a grid, for those who want no network at all.

A flow of two masses under two conditions fits a table of some ten megabytes, and reading it off is
four-dimensional interpolation, linear in the logarithm of the density. The file is one `.npz`
without pickles; this module alone writes and reads it. A `Table` stands wherever an `ArrayFlow`
does: in `models/inference/population.py`, under numpy, cupy and JAX.

Array names end in their axes:
    F event columns    C conditions    A all axes of the grid, events first    S any axes
"""

from __future__ import annotations

import itertools
import math
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_prep.atomic import draft_of
from data_prep.errors import InputError
from models.arrays.flow import PARTS, ArrayFlow, in_parts
from models.bundle import domain
from models.namespaces import Array, Namespace, namespace

SCHEMA = 1
"""Version of the file. Raised when a reader of the old one would misread the new one."""
DRAWS = 4_000
"""Events drawn at each condition of the grid, to see how far it has to reach."""
CUT, MARGIN = 5e-4, 0.1
"""Share of the draws left out at each end, and what is added, in units of the range of the rest."""
MOST_NODES = 200_000_000
"""Numbers of a table that still fits memory: 0.8 GB."""


class TableError(InputError):
    """A table that cannot be made or read. The message is one sentence with the remedy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """p(events | conditions) on a grid; exactly zero outside it."""

    event_columns: tuple[str, ...]
    """Names of the columns of an event, in order."""
    condition_columns: tuple[str, ...]
    """Names of the conditions, in order."""
    domain: dict[str, tuple[float, float]]
    """Range of each condition; the density at its edge is taken beyond it."""
    logged_A: NDArray[np.bool_]
    """Whether an axis is of the logarithm of its column."""
    pair: tuple[int, int] | None
    """Event columns of which the second is divided by the first, such as two masses."""
    limits_A2: NDArray[np.float64]
    """First and last point of each axis, in its own coordinate."""
    log_density_A: NDArray[np.float32]
    """Natural-log density per unit of the axes' coordinates; it integrates to one."""
    captured: float
    """Smallest part of the flow's density, over the conditions, that lay inside the grid."""
    rms_error: float
    """Root-mean-square difference of the log density to the flow's in nats, over events drawn
    under conditions between the points: what more points would improve."""

    @classmethod
    def of(cls, flow: ArrayFlow, *, points: int = 128, condition_points: int = 12) -> Self:
        """Tabulate a flow.

        Args:
            flow: What to tabulate.
            points: Of each event column's axis.
            condition_points: Of each condition's axis, evenly over the domain, in the logarithm
                where the condition is positive.

        Raises:
            TableError: If an axis has fewer than two points, or the table would not fit memory.
        """
        features, conditions = len(flow.event_columns), len(flow.condition_columns)
        if min(points, condition_points) < 2:
            raise TableError("an axis has at least 2 points: raise points or condition_points")
        nodes = points**features * condition_points**conditions
        if nodes > MOST_NODES:
            raise TableError(
                f"a table of {nodes:,} numbers does not fit memory: choose fewer points "
                f"(got {points}) or condition_points (got {condition_points})"
            )
        positive = [
            *flow.positive_columns,
            *(flow.domain[n][0] > 0 for n in flow.condition_columns),
        ]
        logged_A = np.array(positive, bool)
        c_limits_C2, c_NC = _condition_grid(flow, logged_A[features:], condition_points)
        limits_F2 = _reach(flow, c_NC)
        log_density, captured = _fill(flow, limits_F2, points, c_NC)
        shape = (points,) * features + (condition_points,) * conditions
        table = cls(
            event_columns=flow.event_columns,
            condition_columns=flow.condition_columns,
            domain=flow.domain,
            logged_A=logged_A,
            pair=flow.pair,
            limits_A2=np.concatenate([limits_F2, c_limits_C2]),
            log_density_A=log_density.reshape(shape).astype(np.float32),
            captured=captured,
            rms_error=0.0,
        )
        return replace(table, rms_error=_rms_error(flow, table))

    def log_prob(self, events: ArrayLike, **conditions: ArrayLike) -> NDArray[np.float64]:
        """Natural-log density of events `(N, F)`, per unit of each event column, by numpy.

        Conditions are numbers or one value per event, in physical units.

        Raises:
            EmulatorError: If a condition is missing or unknown, or events are of another shape.
        """
        x_NF = np.asarray(events, float)
        domain.check_shape(self.event_columns, x_NF)
        domain.named(self.condition_columns, conditions)
        given = [np.asarray(conditions[name], float) for name in self.condition_columns]
        rows = (1,) if all(value.ndim == 0 for value in given) else (len(x_NF),)
        c_NC = (
            np.stack([np.broadcast_to(v, rows) for v in given], -1) if given else np.zeros((1, 0))
        )
        return in_parts(lambda x, c: self.log_density(x, c, xp=np), x_NF, c_NC)

    def log_density(self, x: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        """Natural-log density: nothing but array operations, to be compiled and differentiated.

        Args:
            x: Events, shape `(*S, F)`, in the units of the event columns.
            c: Conditions, shape `(*S, C)` or one that broadcasts to it.
            xp: The array library; by default that of `x` and `c`.

        Returns:
            Shape `S`; -inf outside the grid, where gradients are 0.
        """
        xp = xp or namespace(x, c)
        x, c = xp.asarray(x), xp.asarray(c)
        y, log_jacobian, within = self._coordinates(xp, x)
        features = len(self.event_columns)
        for k in range(len(self.condition_columns)):
            value = xp.clip(c[..., k], *self.domain[self.condition_columns[k]])
            y.append(xp.log(value) if self.logged_A[features + k] else value)
        places, weights = [], []
        for axis, value in enumerate(y):
            place = self._place(value, axis)
            reached = (place >= 0) & (place <= self.log_density_A.shape[axis] - 1)
            # Conditions are never off the grid, but for rounding.
            within = within & (reached if axis < features else True)
            cell = xp.clip(xp.floor(place), 0, self.log_density_A.shape[axis] - 2)
            places.append(cell.astype(int))
            weights.append(xp.clip(place - cell, 0, 1))
        return xp.where(within, self._interpolate(xp, places, weights) + log_jacobian, -math.inf)

    def save(self, path: Path | str) -> Path:
        """Write the file, in one step: a reader sees the whole table or none."""
        path = Path(path)
        domain_C2 = np.array([self.domain[name] for name in self.condition_columns]).reshape(-1, 2)
        with draft_of(path) as draft, draft.open("wb") as file:
            np.savez_compressed(
                file,
                schema=SCHEMA,
                event_columns=np.array(self.event_columns, str),
                condition_columns=np.array(self.condition_columns, str),
                domain=domain_C2,
                logged=self.logged_A,
                pair=np.array(self.pair or (), int),
                limits=self.limits_A2,
                log_density=self.log_density_A,
                captured=self.captured,
                rms_error=self.rms_error,
            )
        return path

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The table of a file; no pickle is ever loaded.

        Raises:
            TableError: If the file is no table, or is of a newer schema.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as stored:
                schema = int(stored["schema"])
                values = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise TableError(
                f"{path} is not a table of an emulator ({error}): make one with `Table.of`"
            ) from error
        if schema > SCHEMA:
            raise TableError(
                f"{path} has schema {schema}, this version reads up to {SCHEMA}: upgrade hpo-flows"
            )
        try:
            return cls._from(values)
        except (KeyError, ValueError) as error:
            raise TableError(f"{path} is damaged ({error}): make it again") from error

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Self:
        conditions = tuple(str(name) for name in values["condition_columns"])
        pair = values["pair"].tolist()
        return cls(
            event_columns=tuple(str(name) for name in values["event_columns"]),
            condition_columns=conditions,
            domain={
                n: (float(a), float(b))
                for n, (a, b) in zip(conditions, values["domain"], strict=True)
            },
            logged_A=values["logged"],
            pair=(pair[0], pair[1]) if pair else None,
            limits_A2=values["limits"],
            log_density_A=values["log_density"],
            captured=float(values["captured"]),
            rms_error=float(values["rms_error"]),
        )

    def _coordinates(self, xp: Namespace, x: Array) -> tuple[list[Array], Array, Array]:
        """Events on the axes, the log-Jacobian, and whether they have coordinates."""
        y: list[Array] = []
        log_jacobian: Array = 0.0
        within: Array = True
        for f in range(len(self.event_columns)):
            logged = bool(self.logged_A[f])
            its_own = xp.isfinite(x[..., f]) & ((x[..., f] > 0) if logged else True)
            value = xp.where(its_own, x[..., f], 1.0)
            value = xp.log(value) if logged else value
            log_jacobian = log_jacobian - value if logged else log_jacobian
            within = within & its_own
            y.append(value)
        if self.pair is not None:
            y[self.pair[1]] = y[self.pair[1]] - y[self.pair[0]]
        return y, log_jacobian, within

    def _place(self, value: Array, axis: int) -> Array:
        """In units of the axis' points, from 0."""
        low, high = (float(limit) for limit in self.limits_A2[axis])
        return (value - low) * ((self.log_density_A.shape[axis] - 1) / (high - low))

    def _interpolate(self, xp: Namespace, cells: list[Array], weights: list[Array]) -> Array:
        flat = xp.asarray(self.log_density_A.reshape(-1))
        strides = np.cumprod([1, *self.log_density_A.shape[:0:-1]])[::-1]
        total: Array = 0.0
        for corner in itertools.product((0, 1), repeat=len(cells)):
            index: Array = 0
            share: Array = 1.0
            for side, cell, weight, stride in zip(corner, cells, weights, strides, strict=True):
                index = index + (cell + side) * int(stride)
                share = share * (weight if side else 1 - weight)
            total = total + share * xp.take(flat, index)
        return total


def _condition_grid(
    flow: ArrayFlow, logged_C: NDArray[np.bool_], points: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Limits of the axes in their coordinates, `(C, 2)`, and all nodes in physical units."""
    limits: list[tuple[float, float]] = []
    axes = []
    for name, logged in zip(flow.condition_columns, logged_C, strict=True):
        low, high = flow.domain[name]
        axes.append(np.geomspace(low, high, points) if logged else np.linspace(low, high, points))
        ends = (math.log(low), math.log(high)) if logged else (low, high)
        # A condition of one value has an axis of some length all the same.
        limits.append(ends if ends[1] > ends[0] else (ends[0], ends[0] + 1.0))
    nodes = list(itertools.product(*axes))
    return np.array(limits).reshape(-1, 2), np.array(nodes).reshape(len(nodes), -1)


def _reach(flow: ArrayFlow, c_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    """First and last point of each event axis, `(F, 2)`, from draws under all conditions."""
    rng = np.random.default_rng(0)
    ends = []
    for c_C in c_NC:
        noise = rng.standard_normal((DRAWS, flow.noise_columns))
        y_NF = _to_axes(flow, flow.from_noise(noise, c_C[None]))
        low_F, high_F = np.quantile(y_NF, [CUT, 1 - CUT], axis=0)
        margin_F = MARGIN * (high_F - low_F)
        ends.append((low_F - margin_F, high_F + margin_F))
    low_NF, high_NF = (np.array(side) for side in zip(*ends, strict=True))
    return np.stack([low_NF.min(0), high_NF.max(0)], -1)


def _to_axes(flow: ArrayFlow, x_NF: NDArray[np.float64]) -> NDArray[np.float64]:
    y_NF = np.where(flow.positive_columns, np.log(np.where(flow.positive_columns, x_NF, 1.0)), x_NF)
    if flow.pair is not None:
        y_NF[:, flow.pair[1]] -= y_NF[:, flow.pair[0]]
    return y_NF


def _fill(
    flow: ArrayFlow, limits_F2: NDArray[np.float64], points: int, c_NC: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Log density per unit of the axes at all nodes, `(events, conditions)`, each sum scaled to 1.

    Also the smallest of the sums, by the trapezoidal rule.
    """
    axes = [np.linspace(low, high, points) for low, high in limits_F2]
    y_NF = np.stack([grid.reshape(-1) for grid in np.meshgrid(*axes, indexing="ij")], -1)
    ln_cell_N = np.log(_trapezoid(axes))
    logs_NF = y_NF.copy()
    if flow.pair is not None:
        logs_NF[:, flow.pair[1]] += logs_NF[:, flow.pair[0]]
    x_NF = np.where(flow.positive_columns, np.exp(logs_NF), y_NF)
    log_jacobian_N = np.where(flow.positive_columns, logs_NF, 0.0).sum(1)
    out = np.empty((len(x_NF), len(c_NC)))
    captured = 1.0
    for k, c_C in enumerate(c_NC):
        ln_N = in_parts(flow.log_density, x_NF, c_C[None], PARTS) + log_jacobian_N
        ln_sum = float(np.logaddexp.reduce(ln_N + ln_cell_N))
        captured = min(captured, math.exp(ln_sum))
        out[:, k] = ln_N - ln_sum
    return out, captured


def _rms_error(flow: ArrayFlow, table: Table) -> float:
    """Over draws inside the grid."""
    rng = np.random.default_rng(1)
    share_NC = rng.random((DRAWS, len(flow.condition_columns)))
    logged_C = table.logged_A[len(flow.event_columns) :]
    c_NC = np.empty_like(share_NC)
    for k, name in enumerate(flow.condition_columns):
        low, high = flow.domain[name]
        along = share_NC[:, k]
        c_NC[:, k] = low * (high / low) ** along if logged_C[k] else low + (high - low) * along
    x_NF = flow.from_noise(rng.standard_normal((DRAWS, flow.noise_columns)), c_NC)
    error_N = table.log_density(x_NF, c_NC) - flow.log_density(x_NF, c_NC)
    return float(np.sqrt(np.mean(error_N[np.isfinite(error_N)] ** 2)))


def _trapezoid(axes: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """What each node of a grid counts in an integral over it."""
    weights = np.ones(1)
    for axis in axes:
        its_own = np.full(len(axis), axis[1] - axis[0])
        its_own[[0, -1]] /= 2
        weights = np.multiply.outer(weights, its_own).reshape(-1)
    return weights
