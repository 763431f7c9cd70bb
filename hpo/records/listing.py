"""Rows as text: a table to look at, JSON and CSV to read back, LaTeX to print.

The one way that any command lists things, so that all take the same `--format`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from data_prep.errors import InputError

Format = Literal["table", "json", "csv", "latex"]

FORMATS: tuple[Format, ...] = ("table", "json", "csv", "latex")

WIDEST = 48
"""Characters of a cell that a terminal shows; everywhere else nothing is cut."""

Rows = Sequence[Mapping[str, object]]


class ListingError(InputError):
    """A listing that cannot be made. The message is one sentence."""


def render(rows: Rows, format: Format, *, columns: Sequence[str] | None = None) -> str:
    """The rows as text, without a newline at the end.

    A value that is missing or None is `-` in a table, `--` in LaTeX, nothing in CSV and null in
    JSON; so is a float that is not finite, except in CSV. Tables and LaTeX show floats to five
    digits, with as many decimals throughout a column; JSON and CSV give them whole.

    Args:
        rows: One mapping for each line.
        format: `table` is ruled on a terminal and plain aligned text elsewhere; `latex` is a
            `tabular` with the rules of the booktabs package.
        columns: Which to show, in this order; by default all, as they first appear.

    Raises:
        ListingError: If there is no such format.
    """
    if format not in _WRITERS:
        raise ListingError(f"there is no format {format!r}: it is one of {', '.join(FORMATS)}")
    names = list(columns) if columns is not None else columns_of(rows)
    return _WRITERS[format](rows, names)


def columns_of(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Every column that some row has, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _table(rows: Rows, names: Sequence[str]) -> str:
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    cells = {name: [_shown(each) for each in _cells(rows, name)] for name in names}
    if terminal:
        cells = {name: list(map(_shortened, column)) for name, column in cells.items()}
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(Text(_shown(name)), justify=_side(rows, name), no_wrap=True)
    for line in zip(*cells.values(), strict=True):
        table.add_row(*map(Text, line))  # as Text: a name like [red] is no markup

    # As wide as it needs to be: a squeezed number is a wrong number. Pipe it to `less -S`.
    width = sum(4 + max(map(cell_len, [name, *cells[name]])) for name in names) + 1
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=terminal)
    console.print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _json(rows: Rows, names: Sequence[str]) -> str:
    chosen = [{name: _finite(row.get(name)) for name in names} for row in rows]
    return json.dumps(chosen, indent=2, allow_nan=False, ensure_ascii=False)


def _csv(rows: Rows, names: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_plain(row.get(name)) for name in names])
    return buffer.getvalue().removesuffix("\n")


def _latex(rows: Rows, names: Sequence[str]) -> str:
    cells = [list(map(_tex, _cells(rows, name), [row.get(name) for row in rows])) for name in names]
    sides = "".join(_side(rows, name)[0] for name in names) or "l"
    body = [" & ".join(line) + r" \\" for line in zip(*cells, strict=True)]
    head = [" & ".join(map(_escaped, names)) + r" \\"] if names else []
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            *head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


_WRITERS: dict[str, Callable[[Rows, Sequence[str]], str]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
    "latex": _latex,
}


def _cells(rows: Rows, name: str) -> list[str | None]:
    """The column as text, with the same decimals all the way down; None stays None."""
    values = [_finite(row.get(name)) for row in rows]
    floats = [each for each in values if isinstance(each, float)]
    style = _float_style(floats)
    return [
        None if each is None else format(each, style) if isinstance(each, float) else _plain(each)
        for each in values
    ]


def _float_style(values: Iterable[float]) -> str:
    """The format in which a column's floats all keep five digits, alike if they can be."""
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
            return json.dumps(_finite(value))
        case _:
            return str(value)


def _finite(value: object) -> object:
    """The value with None for every NaN and infinity in it, as JSON can hold it."""
    match value:
        case float():
            return float(value) if math.isfinite(value) else None
        case dict():
            return {str(name): _finite(each) for name, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case str() | bool() | int() | None:
            return value
        case _:
            return str(value)


def _side(rows: Rows, name: str) -> Literal["left", "right"]:
    """Where the column's cells are aligned: numbers to the right."""
    given = [row.get(name) for row in rows if row.get(name) is not None]
    return "right" if given and all(map(_is_number, given)) else "left"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(text: str | None) -> str:
    """For a terminal: one line, and no control characters that a file could smuggle in."""
    if text is None:
        return "-"
    return "".join(each if each.isprintable() else " " for each in text)


def _shortened(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def _escaped(text: str) -> str:
    # A line that begins with [ would be taken for the optional argument of the \\ before it.
    return _shown(text).translate(_TEX).replace("[", "{[}")


def _tex(text: str | None, value: object) -> str:
    if text is None:
        return "--"
    if not _is_number(value):
        return _escaped(text)
    mantissa, _, exponent = text.partition("e")
    power = rf" \times 10^{{{int(exponent)}}}" if exponent else ""
    return f"${mantissa}{power}$"
