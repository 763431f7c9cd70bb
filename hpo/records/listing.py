"""Rows as text: a table that fits a terminal, JSON and CSV to read back, LaTeX to print.

Every command lists through this module, so that all take one `--format`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, get_args

import tabulate

from data_prep.untrusted import finite
from data_prep.words.numbers import PLUS_MINUS

Format = Literal["table", "json", "csv", "latex"]

FORMATS: tuple[Format, ...] = get_args(Format)

LONG, GAP = 24, 2
"""Characters of a text beyond which it may take several lines; blanks between columns."""

tabulate.MIN_PADDING = 0  # else a column is two characters wider than its head

Rows = Sequence[Mapping[str, object]]

_WITH_ERROR = re.compile(rf"[+-]?[\d,.]+ {re.escape(PLUS_MINUS)} [\d,.]+")
"""What `numbers.with_error` makes."""

_TEX = str.maketrans({**tabulate.LATEX_ESCAPE_RULES, "|": r"\textbar{}"})


def render(
    rows: Rows,
    format: Format,
    *,
    columns: Sequence[str] | None = None,
    fit: bool = True,
    more: str = "--format csv has them",
) -> str:
    """The rows as text, without a newline at the end.

    A value that is missing or None is `-` in a table, `--` in LaTeX, nothing in CSV and null in
    JSON; so is a float that is not finite, except in CSV. Tables and LaTeX show floats to five
    digits, with as many decimals throughout a column; JSON and CSV give them whole.

    Args:
        rows: One mapping for each line.
        format: `table` is ruled on a terminal and plain aligned text elsewhere; `latex` is a
            `tabular` with the rules of the booktabs package.
        columns: Which to show, in this order; by default all, as they first appear.
        fit: Whether a table leaves out the columns that do not fit into a line of the terminal,
            the last ones first, and names them below.
        more: What shows those that were left out.
    """
    names = list(columns) if columns is not None else columns_of(rows)
    match format:
        case "table":
            return _table(rows, names, fit, more)
        case "json":
            chosen = [{name: finite(row.get(name)) for name in names} for row in rows]
            return json.dumps(chosen, indent=2, allow_nan=False, ensure_ascii=False, default=str)
        case "csv":
            buffer = io.StringIO()
            lines = [[_plain(row.get(name)) for name in names] for row in rows]
            csv.writer(buffer, lineterminator="\n").writerows([names, *lines])
            return buffer.getvalue().removesuffix("\n")
        case "latex":
            return _latex(rows, names)


def columns_of(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Every column that some row has, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _table(rows: Rows, names: Sequence[str], fit: bool, more: str) -> str:
    columns = {name: list(map(_shown, _cells([row.get(name) for row in rows]))) for name in names}
    width = shutil.get_terminal_size().columns if fit else sys.maxsize
    sides = dict(zip(names, _sides(rows, names), strict=True))
    rooms = _rooms(columns, {name for name in names if sides[name] == "left"}, width)
    shown = [[_in_lines(cell, room) for cell in columns[name]] for name, room in rooms.items()]
    text = tabulate.tabulate(
        list(zip(*shown, strict=True)),
        headers=[_in_lines(_one_line(name), room) for name, room in rooms.items()],
        tablefmt="simple" if sys.stdout.isatty() else "plain",
        colalign=[sides[name] for name in rooms] if rows else None,
        disable_numparse=True,
    )
    lines = [line.rstrip() for line in text.splitlines()]
    if absent := [name for name in names if name not in rooms]:
        lines += ["", paragraph(f"not shown: {', '.join(map(_one_line, absent))}: {more}")]
    return "\n".join(lines)


def paragraph(text: str, indent: str = "") -> str:
    """The text in lines as wide as the terminal; a long word, such as a path, stays whole."""
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _in_lines(text: str, room: int) -> str:
    return "\n".join(textwrap.wrap(text, max(1, room), break_on_hyphens=False))


def _rooms(
    columns: Mapping[str, Sequence[str]], texts: Collection[str], width: int
) -> dict[str, int]:
    """The columns that fit into a line, with the characters of each.

    A number has all its digits or is not there; heads and long texts may take several lines.
    """
    rooms: dict[str, int] = {}
    left = width + GAP
    for name, cells in columns.items():
        word = max(map(len, name.split()), default=0)
        room = max([word, *map(len, cells)])
        room = min(room, LONG) if name in texts else room
        if room + GAP <= left or not rooms:
            rooms[name], left = room, left - room - GAP
    for name, room in rooms.items():
        more = min(max([len(name), *map(len, columns[name])]) - room, max(left, 0))
        rooms[name], left = room + more, left - more
    return rooms


def _latex(rows: Rows, names: Sequence[str]) -> str:
    columns = [[row.get(name) for row in rows] for name in names]
    cells = [list(map(_tex, _cells(column), column)) for column in columns]
    text = tabulate.tabulate(
        list(zip(*cells, strict=True)),
        headers=[_tex(name, None) for name in names],
        tablefmt="latex_raw",
        colalign=_sides(rows, names) if rows else None,
        disable_numparse=True,
    )
    for rule in ("top", "mid", "bottom"):
        text = text.replace(r"\hline", rf"\{rule}rule", 1)
    return "% \\usepackage{booktabs}\n" + text


def _sides(rows: Rows, names: Sequence[str]) -> list[str]:
    """Where the columns are aligned: numbers to the right."""
    columns = [[row.get(name) for row in rows] for name in names]
    given = [[each for each in column if each is not None] for column in columns]
    return ["right" if each and all(map(_is_number, each)) else "left" for each in given]


def _cells(column: Sequence[object]) -> list[str | None]:
    """A column as text, with as many decimals all the way down; None stays None."""
    values = [finite(each) for each in column]
    style = _float_style(each for each in values if isinstance(each, float))
    return [
        None if each is None else format(each, style) if isinstance(each, float) else _plain(each)
        for each in values
    ]


def _float_style(values: Iterable[float]) -> str:
    """The format in which a column's floats all keep five digits, with one number of decimals."""
    sizes = [abs(each) for each in values if each]
    if sizes and max(sizes) > 1e5 * min(sizes):
        return ".5g"  # a list of different things, each with its own size
    # The decimals that the value with the most of them has at five digits: 5.08 beside 5.0793
    # becomes 5.0800, so that the points stand below each other.
    texts = [f"{each:.5g}" for each in sizes]
    decimals = max((len(each.partition(".")[2]) for each in texts), default=0)
    return ".4e" if decimals > 7 or any("e" in each for each in texts) else f".{decimals}f"


def _plain(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case list() | tuple() | dict():
            return json.dumps(finite(value), default=str)
        case _:
            return str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(text: str | None) -> str:
    """For a terminal: one line, and no control characters that a file could smuggle in."""
    return "-" if text is None else _one_line(text)


def _tex(text: str | None, value: object) -> str:
    if text is None:
        return "--"
    if _is_number(value):
        mantissa, _, exponent = text.partition("e")
        power = rf" \times 10^{{{int(exponent)}}}" if exponent else ""
        return f"${mantissa}{power}$"
    if _WITH_ERROR.fullmatch(text):
        sign = text.replace(PLUS_MINUS, r"\pm").replace(",", "{,}")
        return f"${sign}$"
    # A line that begins with [ would be taken for the optional argument of the \\ before it.
    return _one_line(text).translate(_TEX).replace("[", "{[}")


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)
