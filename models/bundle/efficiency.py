"""ln rate(c) ~ GP, mergers ~ Poisson(rate(c) x simulated): mergers per simulated binary or Msun.

A flow tells how masses are distributed among mergers, not how many mergers there are. Their number
is a count in every cell of the simulation. This module lays a smooth curve through the counts, with
its uncertainty: the log of the rate is a Gaussian process of the conditions, whose posterior is
worked out in `models/rates.py`. A cell with no merger is a count like any other. Where mergers have
weights, a rate is their sum over what was simulated, and as sure as that of as many equal mergers
as would tell as much: both the count and the simulated amount are scaled to that. No import of this
module needs torch.

Array names end in their axes:
    N points    M cells    C conditions

Source:
    Bohm & Zech (2014), Nuclear Instruments and Methods A 748, 1: scaled Poisson counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike

from data_prep.columns import Column
from data_prep.dataset import TOTALS, Dataset, Total, key
from data_prep.untrusted import is_finite
from models.bundle import domain
from models.bundle.domain import Extrapolation, Floats
from models.bundle.files import EmulatorError
from models.modes import Counts
from models.namespaces import Array, Namespace, namespace
from models.rates import Curve, Draws

MOST_CELLS = 4_000
"""Cells above which a matrix of all pairs is too large."""
DRAWS = 16
"""Functions of the posterior that an inference is averaged over."""


@dataclass(frozen=True)
class Efficiency:
    """Expected mergers per simulated binary or Msun, as a smooth function of the conditions.

    Positive conditions are logged, as the flow does. Every category has a curve of its own: what
    is known of one channel says nothing about another.

    Example:
        >>> efficiency(Z=0.001, alpha=1.0, return_std=True)
        (array(0.0688), array(0.0013))
    """

    columns: tuple[Column, ...]
    """The conditions."""
    cells: tuple[Total, ...]
    """Counts of the simulation."""
    unit: str
    """Unit of the simulated amount that mergers are divided by: binaries or Msun."""
    sums: tuple[tuple[float, float], ...] = ()
    """Of each cell the sum of its mergers' weights, and that of their squares; empty where all
    mergers count alike."""
    averaged: bool = True
    """Whether the curve is the mean over its settings; False for that of bundles of before."""

    def __post_init__(self) -> None:
        if self.sums and not (
            len(self.sums) == len(self.cells) and all(map(_fit, self.cells, self.sums))
        ):
            raise EmulatorError("the weights of a cell are not those of its mergers")
        if not any(cell.mergers for cell in self.cells):
            raise EmulatorError("a merger efficiency needs at least one merger in its cells")
        if len(self.cells) > MOST_CELLS:
            raise EmulatorError(
                f"a merger efficiency is made of at most {MOST_CELLS:,} cells, got "
                f"{len(self.cells):,}: prepare a coarser grid"
            )
        if self.unit not in TOTALS.values():
            raise EmulatorError(f"unit must be {' or '.join(TOTALS.values())}, got {self.unit!r}")
        if len({key(cell.conditions) for cell in self.cells}) < len(self.cells):
            raise EmulatorError("a cell is there twice: name each cell once")
        for cell in self.cells:
            if (count := len(cell.conditions)) != len(self.columns):
                raise EmulatorError(f"a cell has {count} conditions, not {len(self.columns)}")
            for column, value in zip(self.columns, cell.conditions, strict=True):
                if not column.holds(value):
                    support = "above 0" if column.positive else f"in {column.support}"
                    raise EmulatorError(f"{column.name} must be {support}, got {value:g}")
                if column.categories and value not in range(len(column.categories)):
                    raise EmulatorError(f"{value:g} is the number of no text of {column.title}")
        for cell, (mergers, _) in zip(self.cells, self.sums or self._counts, strict=True):
            if self.unit == "binaries" and mergers > cell.simulated:
                told = "their weights must be 1 on average over all binaries simulated"
                raise EmulatorError(
                    f"{mergers:.12g} mergers of {cell.simulated:g} binaries in a cell"
                    + (f": {told}" if self.sums else "")
                )

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> Self | None:
        """Of a dataset's totals; None where it has none."""
        if dataset.totals_unit is None:
            return None
        sums: tuple[tuple[float, float], ...] = ()
        if dataset.weight_column:
            found = {
                key(cell.conditions): (sum(cell.weights), sum(cell.squares))
                for cell in dataset.cells
            }
            sums = tuple(found.get(key(one.conditions), (0.0, 0.0)) for one in dataset.totals)
        return cls(dataset.condition_columns, dataset.totals, dataset.totals_unit, sums)

    @classmethod
    def from_card(cls, card: Mapping[str, Any], columns: Sequence[Column]) -> Self:
        """The efficiency in a card; EmulatorError if there is none, or none that can be read."""
        if "efficiency" not in card:
            raise EmulatorError(
                "this emulator knows no merger efficiency: tell what was simulated with `hpo "
                "prepare SOURCE --out DIR --totals FILE`, then `hpo export` again"
            )
        stored = card["efficiency"]
        try:
            weighted = any("squares" in one for one in stored["cells"])
            cells = tuple(
                Total(
                    tuple(one["conditions"]),
                    one["simulated"],
                    one["rows" if weighted else "mergers"],
                )
                for one in stored["cells"]
            )
            sums = tuple((one["mergers"], one["squares"]) for one in stored["cells"] if weighted)
            return cls(
                tuple(columns), cells, stored["unit"], sums, stored.get("averaged", False) is True
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EmulatorError(
                f"the efficiency of this emulator cannot be read ({error}): export it again"
            ) from error

    def to_card(self) -> dict[str, Any]:
        """For `emulator.json`: unit and cells, of which the curve is worked out on first use."""
        cells = [asdict(cell) | {"conditions": list(cell.conditions)} for cell in self.cells]
        # An older reader refuses mergers that are no whole number, rather than to count the rows.
        for cell, (weights, squares) in zip(cells, self.sums, strict=False):
            cell |= {"rows": cell["mergers"], "mergers": float(weights), "squares": squares}
        return {"unit": self.unit, "averaged": self.averaged, "cells": cells}

    @property
    def _counts(self) -> list[tuple[float, float]]:
        """As `sums`, of mergers that all weigh 1."""
        return [(float(cell.mergers), float(cell.mergers)) for cell in self.cells]

    @cached_property
    def domain(self) -> dict[str, tuple[float, float]]:
        """Range of each condition in the cells."""
        values = zip(*(cell.conditions for cell in self.cells), strict=True)
        pairs = zip(self.columns, values, strict=True)
        return {column.name: (min(each), max(each)) for column, each in pairs}

    @overload
    def __call__(self, *, return_std: Literal[False] = False, **conditions: Any) -> Floats: ...

    @overload
    def __call__(
        self, *, return_std: Literal[True], **conditions: Any
    ) -> tuple[Floats, Floats]: ...

    def __call__(
        self,
        *,
        return_std: bool = False,
        on_extrapolation: Extrapolation = "warn",
        **conditions: ArrayLike,
    ) -> Floats | tuple[Floats, Floats]:
        """Expected mergers per simulated binary, or per Msun simulated (see `unit`).

        Args:
            return_std: Also gives the standard deviation.
            on_extrapolation: Action outside the domain: warn, raise or ignore.
            **conditions: Every condition, in physical units, of a category its text: single
                values, or arrays that broadcast.

        Returns:
            Array of the conditions' common shape: exp of the mean of the log rate over the
            posterior, near its median and above 0. With `return_std` a pair of it and the rate
            times the standard deviation s of its natural log, so that `rate * exp(+-std / rate)`
            are the ends of the 68 % interval.

        Raises:
            EmulatorError: If a condition is missing, unknown, not finite, none of its categories
                or of a wrong shape, or outside the domain under "raise".
        """
        flat, shape = self._flat(conditions)
        rows = math.prod(shape)
        c_NC = domain.conditions(self.columns, self.domain, flat, rows, on_extrapolation)
        mean_N, std_N = np.full((2, rows), math.nan)
        for which, curve in self._curves.items():
            mine_N = self._chosen(np, c_NC, which)
            mean_N[mine_N], std_N[mine_N] = curve.at(self._coordinates(np, c_NC[mine_N]))
        rate = np.exp(mean_N).reshape(shape)
        # Not the plain product: of two arrays without axes numpy makes a number.
        return (rate, np.asarray(rate * std_N.reshape(shape))) if return_std else rate

    def log_rate(self, c: Array, *, xp: Namespace | None = None) -> Array:
        """Natural log of the mean rate: nothing but array operations, for `jax.jit` and `grad`.

        The mean, which is what sums of rates are made of, is above what a call gives. Conditions
        `(*S, C)` in the order of `columns`; the domain is not checked.
        """
        xp = xp or namespace(c)
        x, out = self._coordinates(xp, c), xp.full(c.shape[:-1], math.nan)
        for which, curve in self._curves.items():
            ln_rate = curve.log_mean(xp, x) if self.averaged else curve.mean_log(xp, x)
            out = xp.where(self._chosen(xp, c, which), ln_rate, out)
        return out

    def log_rates(self, c: Array, *, xp: Namespace | None = None) -> Array:
        """That of `DRAWS` functions of the posterior, the same at every call: `(R, *S)`.

        Each may be the rate, at all conditions at once: what depends on the rate is worked out
        with each of them, and averaged last. Of a bundle of before, `log_rate` alone.
        """
        xp = xp or namespace(c)
        if not self.averaged:
            return self.log_rate(c, xp=xp)[None]
        x, out = self._coordinates(xp, c), xp.full((DRAWS, *c.shape[:-1]), math.nan)
        for which, draws in self._draws.items():
            ln_rates = xp.moveaxis(draws.log_rate(xp, x), -1, 0)
            out = xp.where(self._chosen(xp, c, which), ln_rates, out)
        return out

    def fractions(
        self, *, on_extrapolation: Extrapolation = "warn", **conditions: Any
    ) -> dict[str, Floats]:
        """The share of each category in all mergers, of categories that come of one simulation.

        Args:
            on_extrapolation: As for a call.
            **conditions: As for a call, but for the one category column.

        Returns:
            By text, in the conditions' common shape: each mean rate over the sum of all.

        Raises:
            EmulatorError: As a call; or if not exactly one column is a category.
        """
        columns = [column for column in self.columns if column.categories]
        if len(columns) != 1:
            raise EmulatorError(
                "fractions are of the texts of one category column, this efficiency has "
                f"{len(columns)}: name the others' texts in a call of the efficiency itself"
            )
        (column,) = columns
        rates = {}
        for text in column.categories:
            flat, shape = self._flat({**conditions, column.name: text})
            rows = math.prod(shape)
            c_NC = domain.conditions(self.columns, self.domain, flat, rows, on_extrapolation)
            # The mean: expected mergers add up, medians do not.
            rates[text] = np.exp(self.log_rate(c_NC)).reshape(shape)
        return {text: np.asarray(rate / sum(rates.values())) for text, rate in rates.items()}

    def _flat(self, conditions: Mapping[str, ArrayLike]) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Conditions `(N,)`, and the shape that they have in common."""
        texts = [column.name for column in self.columns if column.categories]
        values = {
            name: np.asarray(value, object) if name in texts else domain.numbers(value, name)
            for name, value in conditions.items()
        }
        try:
            shape = np.broadcast_shapes(*(value.shape for value in values.values()))
        except ValueError as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in values.items())
            raise EmulatorError(
                f"conditions must be numbers or of shapes that broadcast, got {shapes}"
            ) from error
        flat = {name: np.broadcast_to(value, shape).ravel() for name, value in values.items()}
        return flat, shape

    def _coordinates(self, xp: Namespace, c: Array) -> Array:
        """Positive conditions logged, other numbers as they are, no categories."""
        values = [
            xp.log(c[..., k]) if column.positive else c[..., k]
            for k, column in enumerate(self.columns)
            if not column.categories
        ]
        return xp.stack(values, -1) if values else xp.zeros((*c.shape[:-1], 0))

    def _chosen(self, xp: Namespace, c: Array, which: tuple[float, ...]) -> Array:
        """Which conditions have these categories."""
        places = [k for k, column in enumerate(self.columns) if column.categories]
        chosen = xp.ones(c.shape[:-1], bool)
        for k, number in zip(places, which, strict=True):
            chosen = chosen & (c[..., k] == number)
        return chosen

    @cached_property
    def _curves(self) -> dict[tuple[float, ...], Curve]:
        """The curve of every combination of categories."""
        c_MC = np.array([cell.conditions for cell in self.cells], np.float64)
        c_MC = c_MC.reshape(len(self.cells), len(self.columns))
        counts = self._scaled()
        places = [k for k, column in enumerate(self.columns) if column.categories]
        every = sorted({tuple(row) for row in c_MC[:, places].tolist()})
        mine = {which: self._chosen(np, c_MC, which) for which in every}
        fit = Curve.fit if self.averaged else Curve.single
        return {which: fit(self._coordinates(np, c_MC[m]), counts[m]) for which, m in mine.items()}

    @cached_property
    def _draws(self) -> dict[tuple[float, ...], Draws]:
        curves = enumerate(self._curves.items())
        return {which: curve.drawn(DRAWS, seed) for seed, (which, curve) in curves}

    def _scaled(self) -> Counts:
        """Mergers, and what was simulated for as many; both effective, by weight."""
        weights_M, squares_M = np.array(self.sums or self._counts, np.float64).T
        simulated_M = np.array([cell.simulated for cell in self.cells], np.float64)
        # A cell without mergers is as sure as the others are on average.
        size_M = np.full(len(weights_M), squares_M.sum() / weights_M.sum())
        np.divide(squares_M, weights_M, out=size_M, where=weights_M > 0)
        # Weighted mergers may be more than the binaries that they stand for.
        binomial = self.averaged and self.unit == "binaries" and bool((size_M == 1).all())
        return Counts(
            mergers_M=weights_M / size_M, simulated_M=simulated_M / size_M, binomial=binomial
        )


def _fit(cell: Total, sums: tuple[float, float]) -> bool:
    """Whether so many mergers can have weights with these sums."""
    weights, squares = sums
    if not (is_finite(weights) and is_finite(squares)):
        return False
    if not cell.mergers:
        return weights == squares == 0
    # Between one merger that outweighs all and equal ones, but for rounding.
    return 0 < squares * (1 - 1e-6) <= weights**2 <= cell.mergers * squares * (1 + 1e-6)
