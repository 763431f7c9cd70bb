"""The density as numbers in one file: an emulator that needs no network.

p(x | c) is the product of p(x_0 | c), p(x_1 | x_0, c) and so on, each kept as lines
(`models/arrays/lines.py`): one for every condition on a grid and every knot of the columns before.
Knots lie where the density bends, so that few of them follow edges, and between the lines stand
their means: the density integrates to one under every condition. Columns are in the coordinates of
a flow, conditions in the logarithm where they are positive. The file is one `.npz` without pickles;
this module alone writes and reads it. A `Table` stands wherever an `ArrayFlow` does: in
`models/inference/population.py`, under numpy, cupy and JAX.

Array names end in their axes:
    N rows    F event columns    C conditions    S any axes    K, M conditions, draws of each
"""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from data_prep.atomic import draft_of
from data_prep.columns import Column
from data_prep.errors import InputError
from models.arrays.flow import ArrayFlow, in_parts
from models.arrays.layers import Standardise
from models.arrays.lines import Corners, Lines, read
from models.arrays.tabulation import tabulated
from models.bounds import intervals, or_nan
from models.bundle import domain
from models.bundle.domain import Floats, Known, Regions, limits_of, texts_of
from models.namespaces import Array, Namespace, namespace

SCHEMA = 3
"""Version of the file. Those before kept ln p on a fixed grid, and did not integrate to one."""
CHECKED, DRAWS = 24, 8_000
"""Conditions under which the table is compared with the flow, and events drawn under each."""
LARGEST_ERROR = 0.2
"""Root-mean-square error of ln p, in nats, of a table that is handed out unless more is allowed."""
GAP = 0.05
"""How far from one the integral of such a table may be, in units of the error that is allowed."""
MOST_NUMBERS = 200_000_000
"""Of a table that still fits memory: 0.8 GB."""
FEW = 64
"""Of so many conditions the lines are worked out whole, once for all events."""
ABOUT = ("domain", "pair", "captured", "rms_error", "integral")
"""What the file says of a table beside its columns and arrays."""


class TableError(InputError):
    """A table that cannot be made or read. The message is one sentence with the remedy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """p(events | conditions) as lines; exactly zero beyond their ends."""

    event_supports: tuple[Column, ...]
    """The columns of an event, with where their values lie."""
    condition_supports: tuple[Column, ...]
    """Those of the conditions; the points of a positive one are even in its logarithm."""
    domain: dict[str, Known]
    """Range of each condition, beyond which the density at its edge is taken; a category's texts,
    each of which is a point of its axis."""
    regions: Regions | None
    """Where rows of the data are near, of scattered conditions; None where the range is all."""
    pair: tuple[int, int] | None
    """Event columns of which the second is divided by the first, such as two masses."""
    lines: tuple[Lines, ...]
    """Of each event column. Their first axes are the conditions' points, from one end of the domain
    to the other, and then come the knots of the columns before."""
    captured: float
    """Smallest part of the flow's density, over the conditions, that lay between the ends."""
    rms_error: float = 0.0
    """Distance to the flow in nats, over events drawn under conditions between the points: twice
    Hellinger's, which is the root mean square of small differences of ln p, and to which an event
    that the table all but lacks adds 2. More points lower it."""
    integral: float = 1.0
    """Of the density over where the flow has events, under that of those conditions where it is
    farthest from one: the mean of the ratio of both densities over events of the flow."""

    @classmethod
    def of(
        cls,
        flow: ArrayFlow,
        *,
        points: int = 48,
        condition_points: int = 24,
        largest_error: float = LARGEST_ERROR,
    ) -> Self:
        """Tabulate a flow.

        Args:
            flow: The flow, or an ensemble.
            points: Knots of a line.
            condition_points: Of each condition, evenly over the domain, in the logarithm where the
                condition is positive; a category has a point for each text.
            largest_error: Greatest `rms_error` of a table that is not refused, in nats.

        Raises:
            TableError: If there are too few points, the table would not fit memory, or its
                `rms_error` is too large, or its `integral` farther from one than a
                twentieth of that.
        """
        if points < 3 or condition_points < 2:
            raise TableError(
                "a line has at least 3 points and a condition 2: raise points "
                f"(got {points}) or condition_points (got {condition_points})"
            )
        if atoms := [column.name for column in flow.event_supports if column.atoms]:
            raise TableError(
                f"a grid has no place for the probabilities of atoms, which {', '.join(atoms)} "
                "has: use the ArrayFlow itself"
            )
        known = [flow.domain[name] for name in flow.condition_columns]
        counts = [max(2, len(texts_of(one)) or condition_points) for one in known]
        columns = len(flow.event_columns)
        numbers = 3 * math.prod(counts) * sum(points ** (f + 1) for f in range(columns))
        if numbers > MOST_NUMBERS:
            raise TableError(
                f"a table of {numbers:,} numbers does not fit memory: choose fewer points "
                f"(got {points}) or condition_points (got {condition_points})"
            )
        table = cls(
            event_supports=flow.event_supports,
            condition_supports=flow.condition_supports,
            domain=flow.domain,
            regions=flow.regions,
            pair=flow.pair,
            lines=(),
            captured=1.0,
        )
        shares = np.meshgrid(*(np.linspace(0, 1, count) for count in counts), indexing="ij")
        c_NC = table._at(np.stack([s.ravel() for s in shares], -1) if shares else np.zeros((1, 0)))
        each = [tabulated(flow, table._axes, c_C, points) for c_C in c_NC]
        made = []
        for own in zip(*(one for one, _ in each), strict=True):
            arrays = (np.stack(part).astype(np.float32) for part in zip(*own, strict=True))
            made.append(Lines(*(part.reshape(*counts, *part.shape[1:]) for part in arrays)))
        table = replace(table, lines=tuple(made), captured=min(part for _, part in each))
        return table._measured(flow, largest_error)

    @property
    def event_columns(self) -> tuple[str, ...]:
        """Names of the columns of an event, in order."""
        return tuple(column.name for column in self.event_supports)

    @property
    def condition_columns(self) -> tuple[str, ...]:
        """Names of the conditions, in order."""
        return tuple(column.name for column in self.condition_supports)

    def log_prob(self, events: ArrayLike, **conditions: ArrayLike) -> Floats:
        """Natural-log density of events `(N, F)`, per unit of each event column, by numpy.

        Conditions are single values or one per event: numbers in physical units, a category's
        texts.

        Raises:
            EmulatorError: As `ArrayFlow.log_prob`, but for the domain.
        """
        x_NF = domain.events(self.event_columns, events)
        limits = {name: limits_of(one) for name, one in self.domain.items()}
        c_NC = domain.conditions(self.condition_supports, limits, conditions, len(x_NF), "ignore")
        return in_parts(lambda x, c: self.log_density(x, c, xp=np), x_NF, c_NC)

    def log_density(self, x: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        """Natural-log density, as `ArrayFlow.log_density`; -inf beyond the ends of the lines."""
        xp = xp or namespace(x, c)
        x, c = xp.asarray(x), xp.asarray(c)
        y, ln, within = self._axes.forward(xp, [x[..., f] for f in range(len(self.lines))])
        lines, corners = self._given(xp, c)
        for own, value in zip(lines, y, strict=True):
            more, between, corners = read(xp, own, corners, value)
            ln, within = ln + more, within & between
        return or_nan(xp, xp.where(within, ln, -math.inf), self.condition_supports, c)

    def save(self, path: Path | str) -> Path:
        """Write the file, in one step: a reader sees the whole table or none."""
        path = Path(path)
        arrays = {
            f"{name}_{f}": array
            for f, own in enumerate(self.lines)
            for name, array in own._asdict().items()
        }
        if self.regions is not None:
            arrays["regions"] = np.stack([self.regions.low_KC, self.regions.high_KC])
        about = {name: getattr(self, name) for name in ABOUT} | {
            what: [asdict(column) for column in getattr(self, what)]
            for what in ("event_supports", "condition_supports")
        }
        with draft_of(path) as draft, draft.open("wb") as file:
            np.savez_compressed(file, schema=SCHEMA, about=json.dumps(about), **arrays)
        return path

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The table of a file; no pickle is ever loaded.

        Raises:
            TableError: If the file is no table, or of another schema than this version's.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as stored:
                values = {name: stored[name] for name in stored.files}
            if (schema := int(values["schema"])) == SCHEMA:
                about = json.loads(str(values["about"]))
                events, conditions = (
                    tuple(Column(**column) for column in about.pop(what))
                    for what in ("event_supports", "condition_supports")
                )
                known, pair = about.pop("domain"), about.pop("pair")
                return cls(
                    event_supports=events,
                    condition_supports=conditions,
                    domain={name: tuple(its) for name, its in known.items()},
                    regions=Regions(*values["regions"]) if "regions" in values else None,
                    pair=tuple(pair) if pair else None,
                    lines=tuple(
                        Lines(*(values[f"{name}_{f}"] for name in Lines._fields))
                        for f in range(len(events))
                    ),
                    **about,
                )
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise TableError(
                f"{path} is not a table of an emulator ({error}): make one with `Table.of`"
            ) from error
        if schema < SCHEMA:
            raise TableError(
                f"{path} has schema {schema}, whose densities do not integrate to one: make it "
                "anew with `Table.of`"
            )
        raise TableError(
            f"{path} has schema {schema}, this version reads {SCHEMA}: upgrade hpo-flows"
        )

    @cached_property
    def _axes(self) -> Standardise:
        """Events <-> the coordinates of the lines: a flow's, neither shifted nor scaled."""
        columns = self.event_supports
        return Standardise(
            positive=tuple(column.positive for column in columns),
            bounded=intervals(columns),
            pair=self.pair,
            total=False,
            turned=True,
            mean=(0.0,) * len(columns),
            spread=(1.0,) * len(columns),
        )

    def _at(self, shares_NC: Floats) -> Floats:
        """The conditions that are so far on the way from one end of the domain to the other."""
        c_NC = np.empty_like(shares_NC)
        for k, column in enumerate(self.condition_supports):
            ends = low, high = limits_of(self.domain[column.name])
            if column.positive:
                low, high = np.log(ends)
            value_N = low + (high - low) * shares_NC[:, k]
            c_NC[:, k] = np.clip(np.exp(value_N) if column.positive else value_N, *ends)
        return c_NC

    def _given(self, xp: Namespace, c: Array) -> tuple[list[Lines], Corners]:
        """Lines, their number along the first axis, and which of them stand around conditions."""
        corners = [(xp.zeros(c.shape[:-1], int), xp.ones(c.shape[:-1]))]
        for k, column in enumerate(self.condition_supports):
            low, high = limits_of(self.domain[column.name])
            # NaN, too, is taken to an end: its density is none of these lines'.
            value = xp.clip(xp.where(c[..., k] >= low, c[..., k], low), low, high)
            if column.positive:
                value, low, high = xp.log(value), math.log(low), math.log(high)
            last = self.lines[0].places.shape[k] - 1
            place = (value - low) * (last / ((high - low) or 1.0))
            cell = xp.clip(xp.floor(place), 0, last - 1)
            t = xp.clip(place - cell, 0, 1)
            corners = [
                (line * (last + 1) + cell.astype(int) + side, weight * (t if side else 1 - t))
                for line, weight in corners
                for side in (0, 1)
            ]
        axes = len(self.condition_supports)
        lines = [
            Lines(*(array.reshape(-1, *array.shape[axes:]) for array in own)) for own in self.lines
        ]
        if (count := math.prod(c.shape[:-1])) > FEW:
            return lines, corners
        flat = [(line.reshape(-1), weight.reshape(-1)) for line, weight in corners]
        mean = xp.ones(c.shape[:-1])
        return [own.mean(xp, flat) for own in lines], [(xp.arange(count).reshape(mean.shape), mean)]

    def _measured(self, flow: ArrayFlow, largest_error: float) -> Self:
        """The table with how far it is from the flow. Raises TableError if it is too far."""
        rng = np.random.default_rng(1)
        share_KC = rng.random((CHECKED, len(self.condition_supports)))
        for k, column in enumerate(self.condition_supports):
            if texts := len(column.categories):
                share_KC[:, k] = np.floor(share_KC[:, k] * texts) / max(1, texts - 1)
        gap_KM = np.empty((CHECKED, DRAWS))
        for k, c_C in enumerate(self._at(share_KC)):
            x_MF = flow.from_noise(rng.standard_normal((DRAWS, flow.noise_columns)), c_C[None])
            gap_KM[k] = self.log_density(x_MF, c_C[None])
            gap_KM[k] -= in_parts(flow.log_density, x_MF, c_C[None])
        integral_K = np.exp(gap_KM).mean(1)
        # Twice Hellinger's distance: of small differences their rms, and those in the far tails,
        # where neither density is known, count as 2 at most.
        error = float(np.sqrt(np.mean((2 * np.expm1(gap_KM / 2)) ** 2)))
        integral = float(integral_K[np.abs(integral_K - 1).argmax()])
        if not (error <= largest_error and abs(integral - 1) <= GAP * largest_error):
            raise TableError(
                f"a table of {self.lines[0].places.shape[-1]} points is {error:.2g} nats from the "
                f"flow (rms; at most {largest_error:g}) and its integral {integral:.3f}: raise "
                "points or condition_points"
            )
        return replace(self, rms_error=error, integral=integral)
