"""A checked request for a dataset: its columns, filter and split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_prep.columns import NOT_CONDITIONS, Column
from data_prep.errors import DataError, quoted, suggestion
from data_prep.names.known import meaning_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The options of `prepare` that concern rows.

    Raises:
        DataError: If a column or fraction cannot be used.
    """

    events: tuple[str, ...]
    conditions: tuple[str, ...]
    where: str | None
    split: tuple[float, float, float]
    drop_invalid: bool
    weights: str | None = None
    """The column that says how much a row counts."""
    scattered: bool | None = None
    """Whether the conditions are scattered (True) or a grid (False); None lets the rows tell."""
    support: Mapping[str, str] = field(default_factory=dict)
    """Where values lie: `positive`, `real` or `LOW:HIGH`, by column, where names do not tell."""
    units: Mapping[str, str] = field(default_factory=dict)
    """By column, as a user or a file tells them."""
    atoms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Values that many rows have exactly, by event column."""
    lattice: Mapping[str, float] = field(default_factory=dict)
    """The step of the values that were rounded, by event column."""
    texts: Mapping[str, dict[str, int]] = field(default_factory=dict)
    """Of conditions that are texts, the number of each text that was met so far."""

    def __post_init__(self) -> None:
        if not self.events or not self.conditions:
            raise DataError("a dataset needs at least one event column and one condition column")
        for name in self.names:
            if self.names.count(name) > 1:
                raise DataError(f"column {name!r} is asked for twice: name each column once")
        for name in self.events:
            known = meaning_of(name)
            if known and known.quantity == "weight":
                raise DataError(
                    f"{name!r} is a weight, which an emulator does not draw: pass --weights "
                    f"{quoted(name)}, or rename it with --columns {quoted(name)}=NEW"
                )
        for name in self.conditions:
            if name in NOT_CONDITIONS:
                raise DataError(
                    f"no condition can be called {name!r}, which an emulator's methods take for "
                    f"something else: rename it with --columns {name}=NEW"
                )
        if len(self.split) != 3 or not all(0 <= part < math.inf for part in self.split):
            raise DataError(
                f"split needs three fractions for train, val and test, got {self.split}"
            )
        if abs(sum(self.split) - 1) > 1e-6 or 0 in self.split:
            raise DataError(
                f"the fractions of split must be above 0 and add up to 1, got {self.split}, "
                f"which add up to {sum(self.split):g}"
            )

        self._check_said("--support", self.support, self.events + self.conditions)
        for name in self.texts.keys() & self.support.keys():
            raise DataError(
                f"--support {name}: {name!r} is made of texts, which a flow takes for categories: "
                "leave it out"
            )
        self._check_said("--unit", self.units, self.names)
        self._check_said("--atom", self.atoms, self.events)
        self._check_said("--lattice", self.lattice, self.events)
        for name, step in self.lattice.items():
            if not 0 < step < math.inf:
                raise DataError(f"--lattice {name}={step:g}: a step is a number above 0")

    def _check_said(self, option: str, said: Mapping[str, object], known: tuple[str, ...]) -> None:
        for name in said:
            if name not in known:
                kind = "event column" if known == self.events else "column"
                raise DataError(
                    f"{option} {name}: there is no {kind} {name!r} in this dataset: "
                    f"{suggestion(name, known)}"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Events, then conditions, then the weight."""
        return self.events + self.conditions + ((self.weights,) if self.weights else ())

    @property
    def event_columns(self) -> tuple[Column, ...]:
        return tuple(map(self._column, self.events))

    @property
    def condition_columns(self) -> tuple[Column, ...]:
        return tuple(map(self._column, self.conditions))

    def _column(self, name: str) -> Column:
        if name in self.texts:
            categories = tuple(sorted(self.texts[name]))
            return Column(name, self.units.get(name, ""), categories=categories)
        return Column.named(
            name,
            unit=self.units.get(name),
            support=self.support.get(name),
            atoms=self.atoms.get(name, ()),
        )

    @property
    def weight_column(self) -> Column | None:
        return Column(self.weights, "") if self.weights else None

    def record(self, scattered: bool) -> np.dtype[Any]:
        """A row on its way to the part files: its events, the number of its cell, its weight, and
        its conditions where the cell does not tell them.
        """
        fields: list[Any] = [("events", "<f4", (len(self.events),)), ("cell", "<u2")]
        if scattered:
            fields.append(("conditions", "<f8", (len(self.conditions),)))
        return np.dtype(fields + ([("weight", "<f4")] if self.weights else []))
