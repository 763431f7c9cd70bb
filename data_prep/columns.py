"""A column of a table: its name, its unit, and where its values can lie."""

from __future__ import annotations

import itertools
import math
import reprlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

from data_prep.errors import DataError
from data_prep.names.known import Meaning, meaning_of, unit_of, with_unit
from data_prep.untrusted import is_finite

MOST_CATEGORIES = 64
"""Texts of one column: each is an input of a flow of its own."""
NOT_CONDITIONS = frozenset({"self", "n", "events", "seed", "return_std", "on_extrapolation"})
"""Arguments of an emulator's methods, which no condition can be called."""
ROUNDING = 2.0**-24
"""How far, relatively, single precision moves a number."""
LONGEST_NAME = 200
"""Characters of a column's name or unit."""


Value = float | str
"""Of a condition, as people write it: a number, or a text of a category."""


def single(value: float) -> float:
    """The nearest float32, as rows are kept; the value itself beyond them."""
    # Not numpy, which `hpo --help` must not load.
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return value


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
        if len(set(map(single, self.atoms))) < len(self.atoms):
            raise DataError(
                f"column {self.name!r} has an atom twice, in the single precision that rows are "
                f"kept in: {', '.join(map(str, self.atoms))}: name it once"
            )
        if self.categories and (self.positive or self.bounds or self.atoms):
            raise DataError(f"column {self.name!r} is made of texts, which no bounds can have")
        if self.positive and self.bounds:
            raise DataError(f"column {self.name!r} has both bounds and positive values: choose one")
        if len(self.bounds) == 2 and self.bounds[0] >= self.bounds[1]:
            raise DataError(f"no value of column {self.name!r} can lie in {self.support}")
        if self.categories:
            check_categories(self.name, self.categories)

    @property
    def bounds(self) -> tuple[float, ...]:
        """Those that the column has: the least value, the greatest, both or none."""
        return tuple(bound for bound in (self.low, self.high) if bound is not None)

    @property
    def limits(self) -> tuple[float, float]:
        """Least and greatest possible value; infinite where there is no bound."""
        low = -math.inf if self.low is None else self.low
        return low, math.inf if self.high is None else self.high

    def holds(self, values: Any) -> Any:
        """Whether finite values, one or an array of any library, lie in the support.

        A bound may be missed by what single precision rounds away.
        """
        if self.positive:
            return values > 0
        low, high = self.limits
        return (values >= low - ROUNDING * abs(low)) & (values <= high + ROUNDING * abs(high))

    @property
    def support(self) -> str:
        """Where values lie, as people read it: real, positive, [0, 1] or [1, inf)."""
        if self.positive or not self.bounds:
            return "positive" if self.positive else "real"
        low = "(-inf" if self.low is None else f"[{self.low:g}"
        return f"{low}, inf)" if self.high is None else f"{low}, {self.high:g}]"

    @property
    def title(self) -> str:
        """Its name with categories or atoms: what a flow and its data must agree on."""
        if self.atoms:
            return f"{self.name} (atoms {', '.join(f'{atom:.9g}' for atom in self.atoms)})"
        return f"{self.name} ({', '.join(self.categories)})" if self.categories else self.name

    def number(self, value: object) -> float:
        """The number that a condition's value is stored as: of a category the place of its text.

        Raises:
            DataError: If it is no number, or none of the categories, which are listed.
        """
        if isinstance(value, str) and value in self.categories:
            return float(self.categories.index(value))
        # A number of numpy counts as one, too.
        if self.categories or not isinstance(value, Real) or not math.isfinite(value):
            kind = f"one of {', '.join(self.categories)}" if self.categories else "a number"
            raise DataError(f"{self.name} must be {kind}, got {reprlib.repr(value)}")
        return float(value)

    def value(self, number: float) -> Value:
        """What a stored number stands for: a category's text, else the number itself."""
        return self.categories[int(number)] if self.categories else number

    def as_stored(self) -> dict[str, Any]:
        """For JSON: without what an older version does not know, where it says nothing."""
        values = asdict(self)
        told = {name: values.pop(name) for name in ("low", "high", "atoms", "categories")}
        return values | {name: value for name, value in told.items() if value not in (None, ())}

    @classmethod
    def named(
        cls,
        name: str,
        *,
        unit: str | None = None,
        support: str | None = None,
        atoms: Sequence[float] = (),
    ) -> Column:
        """The column of that name, as a user says it is, or as the name is known.

        Args:
            name: One that is not known is that of a pure number, which may have any sign.
            unit: None takes that of the name.
            support: `positive`, `real` or `LOW:HIGH`; None takes that of the name.
            atoms: Values that many rows have exactly.

        Raises:
            DataError: If `support` is none, or the atoms are outside it.
        """
        known = meaning_of(name) or Meaning("", with_unit(name)[1], "real")
        unit = (known.unit or "") if unit is None else unit_of(unit)
        if support is None:
            support = known.within(unit)
        return cls(name, unit, **_support(name, support), atoms=tuple(atoms))


def _support(name: str, text: str) -> dict[str, Any]:
    """The fields of a column that say where its values lie."""
    if text in ("positive", "real"):
        return {"positive": text == "positive"}
    low, colon, high = text.partition(":")
    try:
        sides = [float(side) if side.strip() else None for side in (low, high)]
        if not colon or sides == [None, None] or not all(map(is_finite, filter(None, sides))):
            raise ValueError
    except ValueError:
        raise DataError(
            f"--support {name}={text}: write positive, real or LOW:HIGH such as 0:1, where a side "
            "that is open stays empty"
        ) from None
    return {"low": sides[0], "high": sides[1]}


def check_categories(name: str, texts: Sequence[str]) -> None:
    """Raises DataError for texts that are no categories of a column, in ascending order."""
    for text in texts:
        if not (isinstance(text, str) and text.strip() and text.isprintable()):
            raise DataError(
                f"the categories of column {name!r} must be printable texts, "
                f"got {reprlib.repr(text)}"
            )
        if len(text) > LONGEST_NAME:
            raise DataError(
                f"a category of column {name!r} has {len(text)} characters, over {LONGEST_NAME}: "
                "is it a condition?"
            )
    if len(texts) > MOST_CATEGORIES:
        raise DataError(
            f"column {name!r} has {len(texts)} categories, over {MOST_CATEGORIES}: is it a name "
            "or a number of each row? Choose other conditions"
        )
    if list(texts) != sorted(set(texts)):
        raise DataError(f"the categories of column {name!r} must be sorted, each once")


def values_of(columns: Sequence[Column], numbers: Iterable[float]) -> dict[str, Value]:
    """The conditions that these numbers stand for, by name."""
    pairs = zip(columns, numbers, strict=True)
    return {column.name: column.value(number) for column, number in pairs}


def pair_of(columns: Sequence[Column]) -> tuple[int, int] | None:
    """The first two positive columns of one unit, such as two masses; None where there are none."""
    positive = [k for k, column in enumerate(columns) if column.positive and column.unit]
    pairs = itertools.combinations(positive, 2)
    return next((pair for pair in pairs if len({columns[k].unit for k in pair}) == 1), None)
