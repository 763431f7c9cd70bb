"""A checked request for a dataset: its columns, filter and split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.columns import NOT_CONDITIONS, Column
from data_prep.errors import DataError


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

    def __post_init__(self) -> None:
        if not self.events or not self.conditions:
            raise DataError("a dataset needs at least one event column and one condition column")
        for name in self.names:
            if self.names.count(name) > 1:
                raise DataError(f"column {name!r} is asked for twice: name each column once")
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

    @property
    def names(self) -> tuple[str, ...]:
        """Events, then conditions, then the weight."""
        return self.events + self.conditions + ((self.weights,) if self.weights else ())

    @property
    def event_columns(self) -> tuple[Column, ...]:
        return tuple(Column.named(name) for name in self.events)

    @property
    def condition_columns(self) -> tuple[Column, ...]:
        return tuple(Column.named(name) for name in self.conditions)

    @property
    def weight_column(self) -> Column | None:
        return Column(self.weights, "") if self.weights else None

    @property
    def record(self) -> np.dtype[Any]:
        """A row on its way to the part files: its events, the number of its cell, its weight."""
        fields: list[Any] = [("events", "<f4", (len(self.events),)), ("cell", "<u2")]
        return np.dtype(fields + ([("weight", "<f4")] if self.weights else []))
