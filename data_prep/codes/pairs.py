"""Rows that are no merger of two black holes, told by the columns in which codes say so.

A merger table can hold other rows: pairs with a neutron star, binaries that a kick broke up, stars
that left no remnant, pairs that outlive the universe. Nothing in their masses tells them apart, and
a flow that learns them is no emulator of mergers. A rule finds such rows by a filter over the
code's own columns, and says the filter that keeps the others.

Source:
    SEVN, RemnantType: -1 empty, 0 none yet, 4 and 5 neutron stars, 6 black hole; times in Myr.
    COMPAS, Stellar_Type, COSMIC and BSE, kstar: 13 neutron star, 14 black hole.
    POSYDON, S1_state and S2_state.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError
from data_prep.tables.chunk import Chunk
from data_prep.where import Filter, FilterError


@dataclass(frozen=True, slots=True)
class Rule:
    """Rows that a table can hold beside mergers of two black holes."""

    columns: tuple[str, ...]
    """The rule holds for a table that has all of them."""
    rows: str
    """A filter that finds such rows."""
    what: str
    """What they are, or do, after their number."""
    keep: str
    """A filter that leaves them out."""
    never: bool = False
    """Whether such a row can be no merger of any kind."""
    unless: tuple[str, ...] = ()
    """Columns that tell it better."""

    def found(self, chunk: Chunk) -> NDArray[np.bool_]:
        """Which rows the rule finds; none in a column of another kind than the code's."""
        try:
            return _parsed(self).mask(chunk.numbers | chunk.texts)
        except FilterError:
            return np.zeros(len(chunk.rows), bool)


def _pair(one: str, two: str, black_hole: str) -> Rule:
    both = " and ".join(f"{_name(each)} == {black_hole}" for each in (one, two))
    what = f"are no pair of black holes ({one}, {two})"
    return Rule((one, two), f"not ({both})", what, both)


def _name(column: str) -> str:
    return column if column.isidentifier() else f"`{column}`"


_SEVN = _pair("RemnantType_0", "RemnantType_1", "6")
RULES = (
    Rule(
        _SEVN.columns,
        "not (RemnantType_0 > 0 and RemnantType_1 > 0)",
        "without two remnants (RemnantType_0, RemnantType_1)",
        _SEVN.keep,
        never=True,
    ),
    Rule(("Semimajor",), "not Semimajor > 0", "unbound (Semimajor)", "Semimajor > 0", never=True),
    Rule(
        ("GWtime",),
        "not GWtime >= 0",
        "unbound (GWtime)",
        "GWtime >= 0",
        True,
        unless=("Semimajor",),
    ),
    _SEVN,
    _pair("Stellar_Type(1)", "Stellar_Type(2)", "14"),
    _pair("stellarType1", "stellarType2", "14"),
    _pair("kstar_1", "kstar_2", "14"),
    _pair("S1_state", "S2_state", '"BH"'),
    Rule(
        ("BWorldtime", "GWtime"),
        "BWorldtime + GWtime > 13700",
        "merge later than 13.7 Gyr (BWorldtime + GWtime)",
        "BWorldtime + GWtime <= 13700",
    ),
    *(
        Rule(
            ("Merges_Hubble_Time",),
            f"not Merges_Hubble_Time == {true}",
            "do not merge within a Hubble time (Merges_Hubble_Time)",
            f"Merges_Hubble_Time == {true}",
        )
        for true in ("1", '"True"')  # which of them fits the column, as pandas wrote it to CSV
    ),
)


def rules(names: Iterable[str]) -> tuple[Rule, ...]:
    """Those that hold for a table with columns of these names."""
    there = set(names)
    return tuple(r for r in RULES if there.issuperset(r.columns) and not there & set(r.unless))


@dataclass
class Census:
    """How many rows of all tables each rule finds, and what follows for the user."""

    where: str | None
    """The filter that the rows passed before."""
    rows: int = 0
    found: Counter[Rule] = field(default_factory=Counter)

    def mergers(self, chunk: Chunk, held: Sequence[Rule]) -> Chunk:
        """The rows that can be mergers; all are counted."""
        self.rows += len(chunk.rows)
        for rule in held:
            found = rule.found(chunk)
            self.found[rule] += int(found.sum())
            if rule.never and found.any():
                chunk = chunk.take(~found)
        return chunk

    @property
    def left_out(self) -> dict[str, int]:
        """Rows that can be no merger, by what they are."""
        return {rule.what: count for rule, count in (+self.found).items() if rule.never}

    def check(self, path: Path) -> None:
        """Refuse tables with rows that can be no merger; `path` is the first of the tables."""
        if not self.left_out:
            return
        told = ", ".join(f"{count} {what}" for what, count in self.left_out.items())
        keep = [rule.keep for rule in +self.found if rule.never]
        raise DataError(
            f"{path}: {sum(self.left_out.values())} of {self.rows} rows can be no merger ({told}): "
            f"keep the mergers with --where {self._filter(keep)}, or rename a column that means "
            "something else with --columns"
        )

    def notes(self) -> Iterator[str]:
        """Of rows that are kept, but are no mergers of two black holes in this universe."""
        kept = self.rows - sum(self.left_out.values())
        others = {rule: count for rule, count in (+self.found).items() if not rule.never}
        for rule in [rule for rule, count in others.items() if count == kept]:
            yield f"all {others.pop(rule)} rows {rule.what}, and are kept"
        if others:
            told = [f"{count} ({count / kept:.0%}) {rule.what}" for rule, count in others.items()]
            yield (
                f"of {kept} rows, {', '.join(told)}: they are kept, and "
                f"--where {self._filter(rule.keep for rule in others)} leaves them out"
            )

    def _filter(self, keep: Iterable[str]) -> str:
        """The filter that keeps the others of the rows, ready to be typed."""
        before = [f"({self.where})"] if self.where else []
        return shlex.quote(" and ".join([*before, *dict.fromkeys(keep)]))


@cache
def _parsed(rule: Rule) -> Filter:
    return Filter.parse(rule.rows, rule.columns)
