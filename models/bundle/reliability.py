"""For how many events of a catalogue an emulator is good, as its export measured it.

The emulator's error is common to all events of a catalogue. A posterior of n events is narrower by
sqrt(n) than that of one, the error is not, so there is a number of events at which both are equal.
With m the mean squared distance of truths from the posterior's mean, in its covariance and per
condition, m is 1 where the error is nothing and 1 + n/N with N that number: N = n / (m - 1).

A log-likelihood of n events times N / (n + N) is as wide as both together, as if the catalogue had
so many fewer of them: however many there are, they tell no more than N would with no error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from data_prep.columns import Value
from data_prep.dataset import shown
from data_prep.untrusted import is_finite
from data_prep.words.numbers import counted, short
from models.bundle.files import EmulatorError

CELLS, HELD_OUT = "cells", "held-out cells"
KEY = "reliability"
"""Of the card."""
LEAST_CATALOGS = 10
"""That tell something."""


class ReliabilityWarning(UserWarning):
    """A catalogue has more events than the emulator is known to be good for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogs:
    """Where truths were in the posteriors of catalogues of one size, at one kind of cells."""

    place: str
    """`CELLS`, or `HELD_OUT`: cells that the emulator, or flows like it, were trained without."""
    events: int
    """Of each catalogue."""
    catalogs: int
    cells: int
    """Which they are of."""
    cells_inside: int
    """Cells that are inside of the domain, whose prior is all around the truth."""
    covered: int
    """Catalogues whose 90 % region holds the truth."""
    square: float
    """Mean squared distance of the truth from the posterior's mean: 1 if it is right."""
    error: float
    """Standard error of that, by a bootstrap over cells, at least that of right posteriors."""
    worst: dict[str, Value]
    """The conditions of the cell with the largest mean square."""

    @property
    def good_for(self) -> GoodFor:
        """The number of events at which the emulator's error equals the posterior's width."""
        return GoodFor.of((self.square - 1) / self.events, self.error / self.events)


@dataclass(frozen=True, slots=True)
class GoodFor:
    """A number of events."""

    events: float | None
    """None where the squared distance is not above 1 by its error: more than `low`."""
    low: float
    """At one standard error more."""
    high: float | None
    """At one standard error less; None where there is no end."""

    @classmethod
    def of(cls, inverse: float, error: float) -> Self:
        """Of one over the number, and the error of that."""
        low = 1 / (max(inverse, 0.0) + error)
        if inverse <= error:
            return cls(None, low, None)
        return cls(1 / inverse, low, 1 / (inverse - error))

    @property
    def most(self) -> float:
        """Events beyond which the emulator is wrong, or not known to be right."""
        return self.low if self.events is None else self.events

    def __str__(self) -> str:
        if self.events is None:
            return f"more than {short(self.low, 2)}"
        return f"{short(self.events, 2)} ({short(self.low, 2)} to {short(self.high or 0, 2)})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """What catalogues of an emulator's own validation rows told of its posteriors."""

    measured: tuple[Catalogs, ...]
    """Of the cells, and of those held out, by falling numbers of events."""
    missing: dict[str, str]
    """Why nothing was measured at `CELLS`, or at `HELD_OUT`."""

    def at(self, place: str) -> Catalogs | None:
        """The largest catalogues there, which tell most."""
        there = [one for one in self.measured if one.place == place]
        return max(there, key=lambda one: one.events, default=None)

    @property
    def worth(self) -> float:
        """N, the number of events that the emulator is worth at any point; infinite if unknown."""
        inverse = self._inverse()
        return 1 / inverse[0] if inverse and inverse[0] > 0 else math.inf

    @property
    def good_for(self) -> GoodFor | None:
        """The same with its error; None where nothing was measured."""
        inverse = self._inverse()
        return GoodFor.of(*inverse) if inverse else None

    def _inverse(self) -> tuple[float, float] | None:
        """1/N and its error.

        The emulator's error grows from the cells to the middle between them. Held-out cells lie in
        gaps twice as wide as those: of an error in proportion to the gap a quarter of what is more
        at them is left in the middle, and half of that over the whole gap. (A smooth error falls
        faster.)
        """
        cells, held_out = self._inverse_at(CELLS), self._inverse_at(HELD_OUT)
        if cells is None or held_out is None:
            return cells or held_out
        if held_out[0] < cells[0]:
            return cells
        return (7 * cells[0] + held_out[0]) / 8, math.hypot(7 * cells[1], held_out[1]) / 8

    def _inverse_at(self, place: str) -> tuple[float, float] | None:
        """1/N at a place, by catalogues of all sizes, and its error as if they shared all rows."""
        there = [one for one in self.measured if one.place == place]
        if not there:
            return None
        inverses = [((one.square - 1) / one.events, one.error / one.events) for one in there]
        total = sum(error**-2 for _, error in inverses)
        mean = sum(value * error**-2 for value, error in inverses) / total
        return max(0.0, mean), sum(1 / error for _, error in inverses) / total

    def __str__(self) -> str:
        if not self.good_for:
            return f"not measured: {'; '.join(dict.fromkeys(self.missing.values()))}"
        some = [one for one in map(self.at, (CELLS, HELD_OUT)) if one]
        each = [
            f"{counted(one.catalogs, 'catalogue')} of {one.events} in {one.place}" for one in some
        ]
        return f"{self.good_for}, by {' and '.join(each)}"

    def warning(self, events: int) -> str | None:
        """What to say of a catalogue of so many events; None where nothing is to be said."""
        known = self.good_for
        if known is None or events <= known.most:
            return None
        some = [one for one in map(self.at, (CELLS, HELD_OUT)) if one]
        worst = max(some, key=lambda one: (one.square - 1) / one.events).worst
        remedy = f"more rows in cells such as {shown(worst)}, more members, longer training"
        if known.events is None:
            return (
                f"the catalogue has {events:,} events, and this emulator is known to be good for "
                f"{short(known.low, 2)}, not for more: measure it on more rows (hpo export), or "
                f"improve it: {remedy}"
            )
        return (
            f"the catalogue has {events:,} events, and this emulator is good for {known}, beyond "
            f"which its own error is larger than that of the data: {remedy}"
        )

    def to_card(self) -> dict[str, Any]:
        """For `emulator.json`."""
        each = [asdict(one) | {"good_for": asdict(one.good_for)} for one in self.measured]
        return {"measured": each, "missing": self.missing}

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Self | None:
        """What a card holds of it; None of an older one, or where it was left out.

        Raises:
            EmulatorError: If it cannot be read.
        """
        if KEY not in card:
            return None
        try:
            stored = card[KEY]
            return cls(
                measured=tuple(map(_catalogs, stored["measured"])),
                missing={str(k): str(why) for k, why in stored["missing"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EmulatorError(
                f"the reliability of this emulator cannot be read ({error}): export it again"
            ) from error


def power_of(events: int, worth: float) -> float:
    """By which the log-likelihood of so many events counts, with an emulator worth so many."""
    return 1 / (1 + events / worth)


def _is_cell(stored: object) -> bool:
    return isinstance(stored, dict) and all(
        isinstance(name, str) and (isinstance(value, str) or is_finite(value))
        for name, value in stored.items()
    )


def _catalogs(stored: Mapping[str, Any]) -> Catalogs:
    found = Catalogs(**{name: stored[name] for name in Catalogs.__dataclass_fields__})
    if found.place not in (CELLS, HELD_OUT):
        raise ValueError(f"place is {found.place!r}")
    numbers = ("events", "catalogs", "cells", "cells_inside", "covered", "square", "error")
    if not all(is_finite(getattr(found, name)) for name in numbers):
        raise ValueError("a value is no number")
    if not (found.events > 0 and found.error > 0 and _is_cell(found.worst)):
        raise ValueError("a value cannot be")
    return found
