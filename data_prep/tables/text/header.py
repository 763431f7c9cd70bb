"""The lines above the rows of a text table: names, and what tells of units, types or nothing.

A head can hold comments, a line of types, a line of units and a line of names, in any order; the
names can stand in the last comment; or there is none. Rows are told from it by their numbers.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from data_prep.errors import DataError
from data_prep.names.known import unit_of

DELIMITERS = {"csv": ",", "tab": "\t", "semicolon": ";", "pipe": "|", "whitespace": " "}
"""Of each layout; runs of blanks are made single ones first."""
COMMENTS = ("#", "%", "!", "//")
"""What a line begins with that is a comment, or has the names behind it."""
TYPES = frozenset(
    "bool boolean char double float float32 float64 int int32 int64 integer long object real "
    "short str string text uint32 uint64 unsigned".split()
)
"""Words of a line of types."""
NO_UNIT = frozenset(["", "-", "--", "#", "1", "none", "unit", "units", "unitless", "dimensionless"])
"""What a line of units has for a column without one."""
UNITS = frozenset(
    "au cm count counts d day days deg dex erg event g gauss gpc gyr h hr hz k kg km kms kpc kyr l "
    "lsol lsun l_sun m mag min mpc msol msun m_sun m_sol myr pc r rad ratio rotations rsol rsun "
    "r_sun r_sol s sec second seconds sollum solmass solrad state yr yrs year years m⊙ m☉".split()
)
"""Words that units are made of, in small letters."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD]?[+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.I)
_IN_BRACKETS = re.compile(r"\[.*\]|\(.*\)")
_RULE = re.compile(r"[-=+|:,;\s]*(---|===)[-=+|:,;\s]*")
"""A line that is drawn between names and rows."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What the first lines of a text say of its rows."""

    layout: str
    """One of `DELIMITERS`."""
    names: tuple[str, ...]
    """Of the columns; a name can be there twice."""
    units: dict[str, str] = field(default_factory=dict)
    lines: int
    """Lines above the first row."""
    comments: tuple[str, ...] = ()
    """What lines begin with, in all of the text, that are no rows."""

    @classmethod
    def read(cls, lines: Sequence[str], named: tuple[str, ...] | None = None) -> Head:
        """The head of a text whose first lines these are, with some of its rows.

        Args:
            lines: Without their ends.
            named: Names of the columns, where the user gives them.

        Raises:
            DataError: If there are no names, or names that do not fit. Begins with the fault: the
                caller puts the file before it.
        """
        shown = [(at, line.strip(" \r\n")) for at, line in enumerate(lines) if line.strip()]
        shown = [(at, line) for at, line in shown if not _RULE.fullmatch(line)]
        marks = _marks([line for _, line in shown])
        remarks = [(at, line) for at, line in shown if line.startswith(marks)]
        plain = [(at, line) for at, line in shown if not line.startswith(marks)]
        if named and not plain:  # a simulation that gave no merger
            return cls(layout="csv", names=named, lines=len(lines))
        if not shown or not any(map(_behind, (line for _, line in shown))):
            raise DataError("is empty: it should begin with a line of column names")
        layout, width = _layout([_behind(line) for _, line in plain or remarks[-1:]], named)
        above, below = _parted([(at, fields(line, layout)) for at, line in plain], width)
        end = below[0][0] if below else len(lines)
        beside = _from_remarks([line for at, line in remarks if at < end], layout, width)
        names, units = _told(above, beside)
        is_ecsv = remarks and remarks[0][1].startswith("# %ECSV")
        of_ecsv = units_in_yaml("\n".join(line[2:] for _, line in remarks[1:])) if is_ecsv else {}
        rows = [row for _, row in below]
        if named is not None:
            names = _given(named, above, width)
        if not names:
            raise DataError(_nameless(rows[0] if rows else beside[-1]))
        _refuse_decimal_commas(rows, layout)
        names, in_names = _bare(_widened(names, rows), layout)
        # An index without a name or a mark at the end of a line has no unit.
        told = {name: unit for name, unit in zip(names, units, strict=False) if unit}
        return cls(
            layout=layout,
            names=names,
            units=in_names | told | of_ecsv,
            lines=end,
            comments=marks,
        )


def fields(line: str, layout: str) -> list[str]:
    """The values of a line."""
    if layout == "whitespace":
        line = " ".join(line.split())
    try:
        found = next(csv.reader([line], delimiter=DELIMITERS[layout], skipinitialspace=True), [])
    except csv.Error:
        found = line.split(DELIMITERS[layout])
    return [value.strip() for value in found]


def unit_in(text: str) -> str:
    """A unit as a table writes it, in our spelling; empty where it says that there is none."""
    text = text.strip().strip("[]()").strip()
    return "" if text.casefold() in (*NO_UNIT, "state", "event") else unit_of(text)


def units_in_yaml(text: str) -> dict[str, str]:
    """Units of columns in what astropy writes about a table: the comments of ECSV.

    Source:
        https://github.com/astropy/astropy-APEs/blob/main/APE6.rst
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Makes nothing of the objects of astropy, where `SafeLoader` would refuse them."""

    Loader.add_multi_constructor("!", lambda *_: None)
    try:
        told = yaml.load(text, Loader)
        units = {each["name"]: unit_in(str(each.get("unit") or "")) for each in told["datatype"]}
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}  # the rows do not need it
    return {str(name): unit for name, unit in units.items() if unit}


def _marks(lines: Sequence[str]) -> tuple[str, ...]:
    """What comments begin with: lines above the names, or units right below them.

    Not every line with such a mark is a comment: a row can begin with #1.
    """
    top = list(itertools.takewhile(lambda line: line.startswith(COMMENTS), lines))
    if below := lines[len(top) + 1 : len(top) + 2]:
        if any(_is_lead(fields(_behind(below[0]), layout)) for layout in DELIMITERS):
            top += below
    return tuple(mark for mark in COMMENTS if any(line.startswith(mark) for line in top))


def _layout(lines: Sequence[str], named: Sequence[str] | None) -> tuple[str, int]:
    """The layout by which most lines have equally many values, more than one, and how many."""
    best, most = ("whitespace", 1), 0
    for layout in DELIMITERS:
        counts = [len(fields(line, layout)) for line in lines]
        width = max(set(counts), key=lambda count: (counts.count(count), count))
        fits = named is None or width == len(named)
        agreeing = counts.count(width) * (width > 1) * (1 + len(lines) * fits)
        if agreeing > most:
            best, most = (layout, width), agreeing
    return best


Rows = list[tuple[int, list[str]]]
"""Rows with the number of their line."""


def _parted(split: Rows, width: int) -> tuple[list[list[str]], Rows]:
    """Lines of names, units and types; and the rows. Titles before them are left out."""
    rest = [(line, _joined(row, width)) for line, row in split]
    titles = []
    while rest and abs(len(rest[0][1]) - width) > 1 and not _is_row(rest[0][1]):
        titles.append(rest.pop(0)[1])
    above = _leading(rest)
    if rest and not _is_row(rest[0][1]):
        above.append(rest.pop(0)[1])
    elif titles and len(titles[-1]) > 1:  # names for more or fewer columns than there are
        above.insert(0, titles[-1])
    return above + _leading(rest), rest


def _joined(row: list[str], width: int) -> list[str]:
    """Each name with its unit, where blanks separate values and both: `Mass_0 [Msun]`."""
    found: list[str] = []
    for word in row:
        if found and _IN_BRACKETS.fullmatch(word):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found if len(found) == width else row


def _bare(names: Iterable[str], layout: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names, and the units in brackets behind them. Only what blanks part is no part of a name."""
    found, units = [], {}
    for name in names:
        parts = re.fullmatch(r"(.+?)(?:\s*(\[.+\])|\s+(\(.+\)))", name)
        unit = (parts[2] or parts[3])[1:-1] if parts else ""
        if parts and layout == "whitespace":
            name = parts[1]
        if _is_unit(unit) and unit_in(unit):
            units[name] = unit_in(unit)
        found.append(name)
    return tuple(found), units


def _leading(rest: Rows) -> list[list[str]]:
    """Takes the lines of units and types away from the top."""
    found = []
    while rest and _is_lead(rest[0][1]):
        found.append(rest.pop(0)[1])
    return found


def _is_row(row: Sequence[str]) -> bool:
    """Whether a line holds more numbers than names."""
    return 2 * sum(map(_is_number, row)) >= len(row) and not _is_lead(row)


def _is_number(value: str) -> bool:
    return bool(_NUMBER.fullmatch(value) or _DECIMAL_COMMA.fullmatch(value))


def _is_lead(row: Sequence[str]) -> bool:
    """Whether these are the types or the units of columns."""
    return _are_types(row) or _are_units(row)


def _are_types(row: Sequence[str]) -> bool:
    plain = [value.casefold() for value in row]
    return all(value in TYPES or re.fullmatch(r"\d*[ns]", value) for value in plain)


def _are_units(row: Sequence[str]) -> bool:
    real = [value for value in row if value.casefold() not in NO_UNIT]
    return bool(real) and all(map(_is_unit, real))


def _is_unit(text: str) -> bool:
    if _IN_BRACKETS.fullmatch(text):
        return not _is_number(text[1:-1])
    words = [word for word in re.split(r"[\s*/^.()\d+-]+", text.casefold()) if word]
    return bool(words) and not _is_number(text) and all(word in UNITS for word in words)


def _behind(line: str) -> str:
    """What stands behind the mark of a comment."""
    return re.sub(r"^(#|%|!|//)+", "", line).strip(" ")


def _from_remarks(remarks: Sequence[str], layout: str, width: int) -> list[list[str]]:
    """The comments that have a word for each column: names, units or types."""
    found = []
    for line in remarks:
        tries = [fields(_behind(line), by) for by in (*DELIMITERS, layout)]
        # A line of units can begin with # for a pure number.
        tries += [row for row in [fields(line, layout)] if _is_lead(row)]
        tries = [_joined(row, width) for row in tries]
        fitting = [row for row in tries if len(row) == width and not any(map(_is_number, row))]
        found += fitting[:1]
    return found


def _told(
    above: Sequence[list[str]], remarks: Sequence[list[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and units by the lines of the head; names are empty where there are none."""
    names = [row for row in above if not _is_lead(row)] or above[:1]
    names = names or [row for row in remarks if not _is_lead(row)][-1:]
    units = [row for row in (*remarks, *above) if _are_units(row) and row not in names]
    return tuple(names[0]) if names else (), tuple(map(unit_in, units[-1])) if units else ()


def _given(named: tuple[str, ...], above: Sequence[list[str]], width: int) -> tuple[str, ...]:
    if there := [row for row in above if not _is_lead(row)]:
        raise DataError(
            f"has a line of names already ({_short(there[0])}): leave --names out, and rename "
            "with --columns OLD=NEW"
        )
    if len(named) != width:
        raise DataError(
            f"has {width} values in a row, but --names gives {len(named)}: name each column"
        )
    return named


def _short(row: Sequence[str]) -> str:
    return ", ".join(row[:4]) + (", ..." if len(row) > 4 else "")


def _refuse_decimal_commas(rows: Iterable[Sequence[str]], layout: str) -> None:
    values = [value for row in rows for value in row]
    commas = [value for value in values if _DECIMAL_COMMA.fullmatch(value)]
    if commas and not any(re.fullmatch(r"[+-]?\d+\.\d+.*", value) for value in values):
        raise DataError(
            f"has numbers with a decimal comma ({commas[0]}): write it with points, for instance "
            f"by pandas.read_csv('FILE', sep={DELIMITERS[layout]!r}, decimal=',')"
            ".to_csv('NEW.csv', index=False)"
        )


def _nameless(row: Sequence[str]) -> str:
    return (
        f"has no line of names (it begins with {_short(row)}): give them with --names, in the "
        "order of the columns, such as --names Mass_0,Mass_1,Z,alpha"
    )


def _widened(names: tuple[str, ...], rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Names for all values of the rows, where these have one more or one less than names.

    A delimiter at a line's end adds an empty value. R's `write.table` gives no name to the numbers
    of the rows, which come first.
    """
    widths = {len(row) for row in rows}
    if widths == {len(names) - 1} and not names[-1]:
        return names[:-1]
    if widths == {len(names) + 1}:
        if not any(row[-1] for row in rows):
            return (*names, "")
        numbers = [row[0] for row in rows]
        if numbers in ([str(start + at) for at in range(len(rows))] for start in (0, 1)):
            return ("", *names)
    return names
