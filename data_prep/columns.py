"""A column of a table: its name, its unit, and whether its values are positive."""

from __future__ import annotations

import itertools
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.errors import DataError

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
    positive: bool
    """Whether every value must be above zero, so that its logarithm exists."""

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
