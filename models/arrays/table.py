"""ln p(x | c) on a grid, read off by linear interpolation: an emulator that needs no network.

A flow of two masses under two conditions fits a table of some ten megabytes, whose interpolation is
four-dimensional, in the logarithms of masses and positive conditions. The file is one `.npz`
without pickles; this module alone writes and reads it. A `Table` stands wherever an `ArrayFlow`
does: in `models/inference/population.py`, under numpy, cupy and JAX.

Array names end in their axes:
    F event columns    C conditions    A all axes of the grid, events first    S any axes
"""

from __future__ import annotations

import functools
import itertools
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_prep.atomic import draft_of
from data_prep.columns import Column
from data_prep.errors import InputError
from models.arrays.flow import ArrayFlow, in_parts
from models.arrays.layers import Standardise
from models.bounds import Interval, intervals
from models.bundle import domain
from models.bundle.domain import Floats, Known, Regions, limits_of, texts_of
from models.namespaces import Array, Namespace, namespace

SCHEMA = 2
"""Version of the file. Raised when a reader of the old one would misread the new one: 2 knows
bounds and categories. A table without any is written as 1."""
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
    domain: dict[str, Known]
    """Range of each condition, beyond which the density at its edge is taken; a category's texts,
    each of which is a point of its axis."""
    logged_A: NDArray[np.bool_]
    """Whether an axis is of the logarithm of its column."""
    pair: tuple[int, int] | None
    """Event columns of which the second is divided by the first, such as two masses."""
    limits_A2: Floats
    """First and last point of each axis, in its own coordinate."""
    log_density_A: NDArray[np.float32]
    """Natural-log density per unit of the axes' coordinates; it integrates to one."""
    captured: float
    """Smallest part of the flow's density, over the conditions, that lay inside the grid."""
    bounds_F2: Floats
    """Bounds of each event column, infinite where there is none."""
    rms_error: float
    """Root-mean-square difference of the log density to the flow's in nats, over events drawn
    under conditions between the points: what more points would improve."""
    regions: Regions | None = None
    """Where rows of the data are near, of scattered conditions; None where the range is all."""

    @classmethod
    def of(cls, flow: ArrayFlow, *, points: int = 128, condition_points: int = 12) -> Self:
        """Tabulate a flow.

        Args:
            flow: The flow, or an ensemble.
            points: Of each event column's axis.
            condition_points: Of each condition's axis, evenly over the domain, in the logarithm
                where the condition is positive; a category has a point for each text.

        Raises:
            TableError: If an axis has fewer than two points, or the table would not fit memory.
        """
        if min(points, condition_points) < 2:
            raise TableError("an axis has at least 2 points: raise points or condition_points")
        if atoms := [column.name for column in flow.event_supports if column.atoms]:
            raise TableError(
                f"a grid has no place for the probabilities of atoms, which {', '.join(atoms)} "
                "has: use the ArrayFlow itself"
            )
        known = [flow.domain[name] for name in flow.condition_columns]
        c_points = [
            max(2, len(texts_of(one))) if texts_of(one) else condition_points for one in known
        ]
        shape = (*[points] * len(flow.event_columns), *c_points)
        nodes = math.prod(shape)
        if nodes > MOST_NODES:
            raise TableError(
                f"a table of {nodes:,} numbers does not fit memory: choose fewer points "
                f"(got {points}) or condition_points (got {condition_points})"
            )
        domain_C2 = np.array([limits_of(one) for one in known]).reshape(-1, 2)
        logged = (domain_C2[:, 0] > 0).tolist()
        columns = flow.event_supports
        positive = [column.positive for column in columns]
        axes, c_axes = _axes(positive, flow.pair, intervals(columns)), _axes(logged, None, {})
        c_limits_C2 = np.array(c_axes.forward(np, [*domain_C2])[0]).reshape(-1, 2)
        c_NC = _nodes(c_axes, c_limits_C2, c_points)
        limits_F2 = _reach(flow, axes, c_NC)
        log_density, captured = _fill(flow, axes, limits_F2, points, c_NC)
        # A condition of one value has an axis of some length all the same.
        c_limits_C2[:, 1] += c_limits_C2[:, 0] == c_limits_C2[:, 1]
        table = cls(
            event_columns=flow.event_columns,
            condition_columns=flow.condition_columns,
            domain=flow.domain,
            logged_A=np.array([*positive, *logged], bool),
            pair=flow.pair,
            limits_A2=np.concatenate([limits_F2, c_limits_C2]),
            log_density_A=log_density.reshape(shape).astype(np.float32),
            captured=captured,
            bounds_F2=np.array([column.limits for column in columns]),
            rms_error=0.0,
            regions=flow.regions,
        )
        return replace(table, rms_error=_rms_error(flow, table, c_axes))

    def log_prob(self, events: ArrayLike, **conditions: ArrayLike) -> Floats:
        """Natural-log density of events `(N, F)`, per unit of each event column, by numpy.

        Conditions are single values or one per event: numbers in physical units, a category's
        texts.

        Raises:
            EmulatorError: As `ArrayFlow.log_prob`, but for the domain.
        """
        x_NF = np.asarray(events, float)
        domain.check_shape(self.event_columns, x_NF)
        limits = {name: limits_of(one) for name, one in self.domain.items()}
        c_NC = domain.conditions(self.condition_supports, limits, conditions, len(x_NF), "ignore")
        return in_parts(lambda x, c: self.log_density(x, c, xp=np), x_NF, c_NC)

    def log_density(self, x: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        """Natural-log density, as `ArrayFlow.log_density`; -inf outside the grid."""
        xp = xp or namespace(x, c)
        x, c = xp.asarray(x), xp.asarray(c)
        features = len(self.event_columns)
        axes = _axes(self.logged_A[:features].tolist(), self.pair, self._intervals)
        y, log_jacobian, within = axes.forward(xp, [x[..., f] for f in range(features)])
        for k in range(len(self.condition_columns)):
            value = xp.clip(c[..., k], *limits_of(self.domain[self.condition_columns[k]]))
            y.append(xp.log(value) if self.logged_A[features + k] else value)
        places, weights = [], []
        for axis, value in enumerate(y):
            low, high = map(float, self.limits_A2[axis])
            last = self.log_density_A.shape[axis] - 1
            place = (value - low) * (last / (high - low))
            # Conditions are never off the grid, but for rounding.
            within = within & ((place >= 0) & (place <= last) if axis < features else True)
            cell = xp.clip(xp.floor(place), 0, last - 1)
            places.append(cell.astype(int))
            weights.append(xp.clip(place - cell, 0, 1))
        return xp.where(within, self._interpolate(xp, places, weights) + log_jacobian, -math.inf)

    def save(self, path: Path | str) -> Path:
        """Write the file, in one step: a reader sees the whole table or none."""
        path = Path(path)
        known, near = [self.domain[name] for name in self.condition_columns], self.regions
        texts = {
            f"texts_{k}": np.array(texts_of(one)) for k, one in enumerate(known) if texts_of(one)
        }
        more: dict[str, Any] = dict(texts)
        if near is not None:
            more["regions"] = np.stack([near.low_KC, near.high_KC])
        with draft_of(path) as draft, draft.open("wb") as file:
            np.savez_compressed(
                file,
                schema=SCHEMA if self._intervals or texts else 1,
                event_columns=np.array(self.event_columns, str),
                condition_columns=np.array(self.condition_columns, str),
                domain=np.array([limits_of(one) for one in known]).reshape(-1, 2),
                logged=self.logged_A,
                pair=np.array(self.pair or (), int),
                limits=self.limits_A2,
                log_density=self.log_density_A,
                captured=self.captured,
                bounds=self.bounds_F2,
                rms_error=self.rms_error,
                **more,
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
                values = {name: stored[name] for name in stored.files}
            if (schema := int(values["schema"])) <= SCHEMA:
                conditions = tuple(map(str, values["condition_columns"]))
                known: list[Known] = [
                    tuple(map(str, values[f"texts_{k}"]))
                    if f"texts_{k}" in values
                    else (float(low), float(high))
                    for k, (low, high) in enumerate(values["domain"])
                ]
                pair, features = values["pair"].tolist(), len(values["event_columns"])
                open_F2 = np.tile([-math.inf, math.inf], (features, 1))
                return cls(
                    event_columns=tuple(map(str, values["event_columns"])),
                    condition_columns=conditions,
                    domain=dict(zip(conditions, known, strict=True)),
                    logged_A=values["logged"],
                    pair=(pair[0], pair[1]) if pair else None,
                    limits_A2=values["limits"],
                    log_density_A=values["log_density"],
                    captured=float(values["captured"]),
                    bounds_F2=values.get("bounds", open_F2),
                    rms_error=float(values["rms_error"]),
                    regions=Regions(*values["regions"]) if "regions" in values else None,
                )
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise TableError(
                f"{path} is not a table of an emulator ({error}): make one with `Table.of`"
            ) from error
        raise TableError(
            f"{path} has schema {schema}, this version reads up to {SCHEMA}: upgrade hpo-flows"
        )

    @property
    def condition_supports(self) -> tuple[Column, ...]:
        """The conditions; those whose axis is logarithmic are positive."""
        logged_C = self.logged_A[len(self.event_columns) :].tolist()
        return tuple(
            Column(name, "", logged, categories=texts_of(self.domain[name]))
            for name, logged in zip(self.condition_columns, logged_C, strict=True)
        )

    @cached_property
    def _intervals(self) -> dict[int, Interval]:
        bounded_F = np.isfinite(self.bounds_F2).any(axis=1)
        return {int(k): Interval(*self.bounds_F2[k].tolist()) for k in np.flatnonzero(bounded_F)}

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


def _axes(
    logged: Sequence[bool], pair: tuple[int, int] | None, bounded: Mapping[int, Interval]
) -> Standardise:
    """Events <-> the coordinates of the grid: a flow's, neither shifted nor scaled."""
    zeros, ones = (0.0,) * len(logged), (1.0,) * len(logged)
    return Standardise(
        positive=tuple(logged),
        bounded=bounded,
        pair=pair,
        total=False,
        turned=True,
        mean=zeros,
        spread=ones,
    )


def _nodes(axes: Standardise, limits_K2: Floats, points: Sequence[int]) -> Floats:
    """All points of a grid in physical units, the last axis running fastest."""
    ends = zip(limits_K2, points, strict=True)
    lines = [np.linspace(low, high, count) for (low, high), count in ends]
    grid = [line.reshape(-1) for line in np.meshgrid(*lines, indexing="ij")]
    return np.array(axes.inverse(np, grid)).reshape(len(lines), math.prod(points)).T


def _reach(flow: ArrayFlow, axes: Standardise, c_NC: Floats) -> Floats:
    """First and last point of each event axis, `(F, 2)`, from draws under all conditions."""
    rng = np.random.default_rng(0)
    low_F, high_F = np.full((2, len(flow.event_columns)), [[np.inf], [-np.inf]])
    for c_C in c_NC:
        x_NF = flow.from_noise(rng.standard_normal((DRAWS, flow.noise_columns)), c_C[None])
        ends = np.quantile(axes.forward(np, [*x_NF.T])[0], [CUT, 1 - CUT], axis=1)
        margin_F = MARGIN * (ends[1] - ends[0])
        low_F = np.minimum(low_F, ends[0] - margin_F)
        high_F = np.maximum(high_F, ends[1] + margin_F)
    return np.stack([low_F, high_F], -1)


def _fill(
    flow: ArrayFlow, axes: Standardise, limits_F2: Floats, points: int, c_NC: Floats
) -> tuple[Floats, float]:
    """Log density per unit of the axes at all nodes, `(events, conditions)`, each sum scaled to 1.

    Also the smallest of the sums, by the trapezoidal rule.
    """
    x_NF = _nodes(axes, limits_F2, [points] * len(limits_F2))
    log_jacobian_N = axes.forward(np, [*x_NF.T])[1]
    share = np.r_[0.5, np.ones(points - 2), 0.5] / (points - 1)
    cells = functools.reduce(np.multiply.outer, (share * np.ptp(ends) for ends in limits_F2))
    ln_cell_N = np.log(cells).reshape(-1)
    out = np.empty((len(x_NF), len(c_NC)))
    captured = 1.0
    for k, c_C in enumerate(c_NC):
        ln_N = in_parts(flow.log_density, x_NF, c_C[None]) - log_jacobian_N
        ln_sum = float(np.logaddexp.reduce(ln_N + ln_cell_N))
        captured = min(captured, math.exp(ln_sum))
        out[:, k] = ln_N - ln_sum
    return out, captured


def _rms_error(flow: ArrayFlow, table: Table, c_axes: Standardise) -> float:
    """Root-mean-square difference of the log densities, over draws inside the grid."""
    rng = np.random.default_rng(1)
    share_NC = rng.random((DRAWS, len(flow.condition_columns)))
    known = [flow.domain[name] for name in flow.condition_columns]
    ends = c_axes.forward(np, [np.array(limits_of(one)) for one in known])[0]
    y = [
        np.floor(share_N * len(one)) if texts_of(one) else low + (high - low) * share_N
        for (low, high), share_N, one in zip(ends, share_NC.T, known, strict=True)
    ]
    c_NC = np.array(c_axes.inverse(np, y)).reshape(-1, DRAWS).T
    x_NF = flow.from_noise(rng.standard_normal((DRAWS, flow.noise_columns)), c_NC)
    error_N = table.log_density(x_NF, c_NC) - flow.log_density(x_NF, c_NC)
    return float(np.sqrt(np.mean(error_N[np.isfinite(error_N)] ** 2)))
