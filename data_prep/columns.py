"""A column of a table: its name, its unit, and where its values can lie."""

from __future__ import annotations

import itertools
import re
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.errors import DataError
from data_prep.untrusted import is_finite

NOT_CONDITIONS = frozenset({"self", "n", "events", "seed", "return_std", "on_extrapolation"})
"""Arguments of an emulator's methods, which no condition can be called."""
LONGEST_NAME = 200
"""Characters of a column's name or unit."""

_KNOWN = (
    (r"(mass|zams|mzams)(_.*)?", "Msun", True),
    (r"(radius|semimajor)(_.*)?", "Rsun", True),
    (r"(gwtime|bworldtime)(_.*)?", "Myr", True),
    (r"(z|metallicity|alpha|alpha1)", "", True),
)
"""Pattern of a name, unit, and whether the values are positive: SEVN's and COSMIC's columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the prepared table."""

    name: str
    unit: str
    """As astropy writes it; empty for a pure number."""
    positive: bool = False
    """Whether every value must be above zero, so that its logarithm exists."""
    low: float | None = None
    """Least possible value; None where there is none, or the column is positive."""
    high: float | None = None
    """Greatest possible value; None where there is none."""
    atoms: tuple[float, ...] = ()
    """Values that many rows have exactly, so that each has a probability of its own."""
    categories: tuple[str, ...] = ()
    """The texts that the numbers 0, 1, ... stand for, sorted; empty for a column of numbers."""

    def __post_init__(self) -> None:
        # Names are printed and drawn: one that moves a terminal's cursor is none.
        for what, text in (("name", self.name), ("unit", self.unit)):
            if not isinstance(text, str) or len(text) > LONGEST_NAME or not text.isprintable():
                raise DataError(
                    f"the {what} of a column must be printable text of at most {LONGEST_NAME} "
                    f"characters, got {reprlib.repr(text)}"
                )
        if not self.name:
            raise DataError("a column has an empty name: give it one")
        if not isinstance(self.positive, bool):
            raise DataError(f"positive must be true or false, got {reprlib.repr(self.positive)}")
        # Of JSON come lists.
        for what in ("atoms", "categories"):
            object.__setattr__(self, what, tuple(getattr(self, what)))
        if not all(map(is_finite, self.bounds + self.atoms)):
            raise DataError(
                f"the bounds and atoms of column {self.name!r} must be finite numbers, "
                f"got {reprlib.repr(self.bounds + self.atoms)}"
            )
        if self.positive and self.bounds:
            raise DataError(f"column {self.name!r} has both bounds and positive values: choose one")
        if len(self.bounds) == 2 and self.bounds[0] >= self.bounds[1]:
            raise DataError(f"no value of column {self.name!r} can lie in {self.support}")
        if not all(isinstance(each, str) and each for each in self.categories):
            raise DataError(f"the categories of column {self.name!r} must be texts")

    @property
    def bounds(self) -> tuple[float, ...]:
        """Those that the column has: the least value, the greatest, both or none."""
        return tuple(bound for bound in (self.low, self.high) if bound is not None)

    @property
    def support(self) -> str:
        """Where values lie, as people read it: real, positive, [0, 1] or [1, inf)."""
        if self.positive or not self.bounds:
            return "positive" if self.positive else "real"
        low = "(-inf" if self.low is None else f"[{self.low:g}"
        return f"{low}, inf)" if self.high is None else f"{low}, {self.high:g}]"

    def as_stored(self) -> dict[str, Any]:
        """For JSON: without what an older version does not know, where it says nothing."""
        values = asdict(self)
        told = {name: values.pop(name) for name in ("low", "high", "atoms", "categories")}
        return values | {name: value for name, value in told.items() if value not in (None, ())}

    @classmethod
    def named(cls, name: str) -> Column:
        """The column of that name, with the unit and sign that SEVN and COSMIC give it."""
        for pattern, unit, positive in _KNOWN:
            if re.fullmatch(pattern, name, re.IGNORECASE):
                return cls(name, unit, positive)
        return cls(name, "", False)


def pair_of(columns: Sequence[Column]) -> tuple[int, int] | None:
    """The first two positive columns of one unit, such as two masses; None where there are none."""
    positive = [k for k, column in enumerate(columns) if column.positive and column.unit]
    pairs = itertools.combinations(positive, 2)
    return next((pair for pair in pairs if len({columns[k].unit for k in pair}) == 1), None)
