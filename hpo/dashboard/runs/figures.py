"""Rows as Plotly figures: numbers from `tables`, everything that is seen from here.

A figure is complete without the page: every axis has its unit, and what is left out is said in it.
How runs learned is drawn in `learning`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from hpo.dashboard.runs import importance, tables
from hpo.dashboard.runs.tables import Column
from hpo.dashboard.style import THEMES, Theme, ThemeName, axis, empty, note, plain, sentence
from hpo.records.table import Row, ranked

SYMBOLS = {
    "complete": "circle",
    "stopped_early": "diamond",
    "running": "triangle-up",
    "pruned": "circle-open",
    "failed": "x",
}
"""How the states are told apart."""

NAMED_POINTS = 8
"""Runs of a Pareto front up to which each has its name beside it."""

LARGE = 1e5
"""From here on an axis counts in thousands and millions."""


def parallel(rows: Sequence[Row], columns: Sequence[str], theme: ThemeName = "light") -> go.Figure:
    """Every run as a line through its settings; the better its objective, the stronger its colour.

    Runs above the median are all faded. A run without the setting passes below its axis, at a dash.
    """
    able = [row for row in rows if tables.objective(row) is not None]
    if not able:
        return sentence("No run has a validation NLL yet.", theme)
    if not columns:
        return sentence("No parameter differs between these runs.", theme)

    # The last line is on top.
    able.sort(key=lambda row: -(tables.objective(row) or 0.0))
    known = {each.name: each for each in tables.columns(able)}
    lines = [_line(able, known[name]) for name in columns if name in known]
    nlls = [tables.objective(row) for row in able]
    figure = empty(theme)
    figure.add_trace(_parallel(lines, nlls, tables.objective_label(able), theme))
    figure.update_layout(margin={"l": 56, "r": 72, "t": 72, "b": 28})
    note(figure, theme, _left_out(len(rows) - len(able), "without a validation NLL"), y=-0.02)
    return figure


def importances(pairs: Sequence[tuple[str, float]], theme: ThemeName = "light") -> go.Figure:
    """How much each parameter tells the better runs from all, as bars."""
    if not pairs:
        return sentence("There is no parameter to tell of.", theme)
    colours = THEMES[theme]
    shares = [100 * share for _, share in reversed(pairs)]
    figure = empty(theme)
    figure.add_bar(
        x=shares,
        y=[plain(name, 24) for name, _ in reversed(pairs)],
        orientation="h",
        marker={"color": colours.accent, "cornerradius": 3},
        text=[f"{share:.0f} %" for share in shares],
        textposition="outside",
        textfont={"color": colours.soft},
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
    )
    axis(figure, "x", "Share of the importance [%]", keep="importance")
    figure.update_xaxes(range=[0, 1.14 * max(*shares, 1.0)])
    figure.update_yaxes(ticksuffix="  ", automargin=True, showgrid=False, type="category")
    figure.update_layout(bargap=0.35, showlegend=False)
    return figure


def scatter(
    rows: Sequence[Row],
    x: str,
    y: str,
    colour: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    theme: ThemeName = "light",
) -> go.Figure:
    """One point a run; its state is the marker, `customdata` its key.

    Runs that lack one of the two values, or whose value is not positive on a logarithmic axis, are
    counted below.
    """
    known = {each.name: each for each in tables.columns(rows)}
    if x not in known or y not in known:
        return sentence("No run has these quantities.", theme)
    shown = [
        row for row in rows if _drawable(row, known[x], log_x) and _drawable(row, known[y], log_y)
    ]
    if not shown:
        return sentence(f"No run has both {known[x].label} and {known[y].label}.", theme)

    figure = empty(theme)
    paint = _paint(shown, known.get(colour or ""), theme)
    for state in dict.fromkeys([*SYMBOLS, *(str(row["state"]) for row in shown)]):
        if group := [row for row in shown if row["state"] == state]:
            figure.add_trace(_points(group, state, known[x], known[y], paint, theme))
            figure.add_trace(_key(plain(state.replace("_", " ")), THEMES[theme].soft, state))
    figure.add_traces(paint.legend)
    figure.update_layout(coloraxis=paint.axis)
    for side, column, log in (("x", known[x], log_x), ("y", known[y], log_y)):
        large = max(tables.number(row.get(column.name)) or 0 for row in shown) >= LARGE
        kind = column.kind
        axis(figure, side, _title(column), log=log, keep=column.name, kind=kind, large=large)
    note(figure, theme, _left_out(len(rows) - len(shown), "without these values"))
    return figure


def pareto(rows: Sequence[Row], cost: str, theme: ThemeName = "light") -> go.Figure:
    """Objective against cost of the finished runs, and the front that none of them beats."""
    priced = [row for row in ranked(rows) if tables.number(row.get(cost)) is not None]
    if not priced:
        return sentence("No run that came to its own end tells of this cost.", theme)
    column = next(each for each in tables.columns(rows) if each.name == cost)
    best = importance.front(priced, cost)
    by_key = {tables.key_of(row): row for row in priced}
    front = [by_key[key] for key in best]
    rest = [row for key, row in by_key.items() if key not in set(best)]

    figure = empty(theme)
    if rest:
        figure.add_trace(_priced(rest, cost, "beaten by another", theme))
    figure.add_trace(_priced(front, cost, "Pareto front", theme))
    costs = [each for row in priced if (each := tables.number(row[cost])) is not None]
    log = tables.logarithmic(costs)
    axis(figure, "x", _title(column), log=log, keep=cost, large=max(costs) >= LARGE)
    axis(figure, "y", _capital(tables.objective_label(priced)), keep="objective")
    note(figure, theme, _left_out(len(rows) - len(priced), "unfinished or of unknown cost"))
    return figure


@dataclass(frozen=True, kw_only=True, slots=True)
class _Paint:
    """How the points of a scatter plot are coloured."""

    of: Callable[[Sequence[Row]], Any]
    """The colours of some rows."""
    axis: dict[str, Any]
    """Of a numeric colour."""
    legend: list[Any]
    """Traces without a point that name the colours of a text."""
    column: Column | None
    """Whose values the colours are."""


def _line(rows: Sequence[Row], column: Column) -> dict[str, Any]:
    """One axis of the parallel coordinates."""
    values = [row.get(column.name) for row in rows]
    head = {"label": _broken(column)}
    if column.kind != "number":
        return head | _steps([None if each is None else str(each) for each in values])
    numbers = [tables.number(each) for each in values]
    given = sorted({each for each in numbers if each is not None})
    if len(given) <= 6:
        labels = [None if each is None else _brief(each) for each in numbers]
        return head | _steps(labels, order=list(map(_brief, given)))
    return head | _scale(numbers, given)


def _steps(labels: Sequence[str | None], order: Sequence[str] | None = None) -> dict[str, Any]:
    """An axis with a tick for each of a few values; what is missing is a dash, below."""
    levels = list(dict.fromkeys(order if order is not None else sorted(filter(None, labels))))
    if None in labels:
        levels = ["–", *levels]
    place = {each: index for index, each in enumerate(levels)}
    return {
        "values": [place[each if each is not None else "–"] for each in labels],
        "tickvals": list(range(len(levels))),
        "ticktext": [_ticked(each) for each in levels],
        "range": [-0.4, len(levels) - 0.6],
    }


def _scale(numbers: Sequence[float | None], given: Sequence[float]) -> dict[str, Any]:
    """An axis of numbers, logarithmic where that looks right; what is missing stands below."""
    log = tables.logarithmic(given)
    low, high = (math.log10(each) if log else each for each in (given[0], given[-1]))
    below = low - 0.12 * (high - low)
    ticks = _decades(low, high) if log else _round(low, high)
    values = [below if each is None else math.log10(each) if log else each for each in numbers]
    texts = [_brief(10**each if log else each) for each in ticks]
    if None in numbers:
        ticks, texts = [below, *ticks], ["–", *texts]
    edge = [min([low, *values]), high]
    return {"values": values, "tickvals": ticks, "ticktext": texts, "range": edge}


def _decades(low: float, high: float) -> list[float]:
    """Exponents of round numbers between two exponents."""
    whole = range(math.floor(low), math.ceil(high) + 1)
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    found = [exponent + math.log10(step) for exponent in whole for step in steps]
    return [each for each in found if low - 1e-9 <= each <= high + 1e-9]


def _round(low: float, high: float) -> list[float]:
    """About five round numbers between two numbers."""
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= (high - low) / 6)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _ticked(text: str) -> str:
    """A tick of parallel coordinates, where Plotly sets text as it is, entities too."""
    cut = text if len(text) <= 16 else text[:15] + "…"
    return cut.replace("<", "‹").replace(">", "›").replace("%{", "% {")


def _parallel(
    lines: list[dict[str, Any]], nlls: Sequence[Any], label: str, theme: ThemeName
) -> Any:
    colours = THEMES[theme]
    given = np.array(nlls, dtype=np.float64)
    low, high = float(given.min()), float(np.median(given))
    last = {"label": _capital(label).replace(" [", "<br>["), "values": given, "tickformat": ".3f"}
    return go.Parcoords(
        dimensions=[*lines, last],
        line={
            "color": given,
            "cmin": low,
            "cmax": high if high > low else low + 1,
            "colorscale": [[0, colours.palette[0]], [1, colours.faded]],
            "showscale": False,
        },
        labelfont={"color": colours.ink, "size": 12},
        tickfont={"color": colours.soft, "size": 11},
        rangefont={"color": "rgba(0,0,0,0)", "size": 1},
        unselected={"line": {"color": colours.grid, "opacity": 0.5}},
    )


def _broken(column: Column) -> str:
    """The title over two lines at most, for a narrow place."""
    lines = textwrap.wrap(_capital(column.label), 16)[:2]
    return "<br>".join(plain(each, 18) for each in lines)


def _drawable(row: Row, column: Column, log: bool) -> bool:
    value = row.get(column.name)
    if column.kind != "number":
        return value is not None
    found = tables.number(value)
    return found is not None and (found > 0 or not log)


def _paint(rows: Sequence[Row], column: Column | None, theme: ThemeName) -> _Paint:
    colours = THEMES[theme]
    if column is None:
        return _Paint(of=lambda _: colours.accent, axis={}, legend=[], column=None)
    if column.kind == "number":
        return _graded(rows, column, colours)
    levels = sorted({str(row.get(column.name)) for row in rows})
    # Of many values, those after the last colour share the faded one.
    by_level = dict(zip(levels, colours.palette, strict=False))

    def of(group: Sequence[Row]) -> list[str]:
        return [by_level.get(str(row.get(column.name)), colours.faded) for row in group]

    legend = [_key(plain(each, 24), colour) for each, colour in by_level.items()]
    if len(levels) > len(by_level):
        legend.append(_key(f"{len(levels) - len(by_level)} more", colours.faded))
    return _Paint(of=of, axis={}, legend=legend, column=column)


def _graded(rows: Sequence[Row], column: Column, colours: Theme) -> _Paint:
    """Colours for numbers, on a bar beside the plot; by their logarithm where that looks right."""
    given = [each for row in rows if (each := tables.number(row.get(column.name))) is not None]
    log = tables.logarithmic(given)

    def of(group: Sequence[Row]) -> list[float]:
        found = [tables.number(row.get(column.name)) for row in group]
        return [math.nan if each is None else math.log10(each) if log else each for each in found]

    bar: dict[str, Any] = {
        "title": {"text": _title(column).replace(" [", "<br>["), "side": "top"},
        "thickness": 10,
        "outlinewidth": 0,
        "len": 0.9,
        "tickfont": {"color": colours.soft, "size": 11},
    }
    if log:
        ticks = _decades(math.log10(min(given)), math.log10(max(given)))
        bar |= {"tickvals": ticks, "ticktext": [_brief(10**each) for each in ticks]}
    axis = {"colorscale": list(colours.ramp), "colorbar": bar}
    return _Paint(of=of, axis=axis, legend=[], column=column)


def _key(name: str, colour: str, state: str | None = None) -> Any:
    """An entry of the legend without a point: of a state, whose points it rules, or of a colour."""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"color": colour, "symbol": SYMBOLS.get(state or "", "square"), "size": 9},
        name=name,
        legendgroup=None if state is None else plain(state),
    )


def _points(
    rows: Sequence[Row], state: str, x: Column, y: Column, paint: _Paint, theme: ThemeName
) -> Any:
    colours = THEMES[theme]
    graded = {"coloraxis": "coloraxis"} if paint.axis else {}
    told = [each for each in (x, y, paint.column) if each is not None]
    symbol = SYMBOLS.get(state, "square")
    return go.Scatter(
        x=[_coordinate(row, x) for row in rows],
        y=[_coordinate(row, y) for row in rows],
        mode="markers",
        marker={
            "color": paint.of(rows),
            "symbol": symbol,
            "size": 9,
            "opacity": 0.9,
            "line": {"width": 1.5 if symbol.endswith("open") else 0.5, "color": colours.label},
            **graded,
        },
        name=plain(state.replace("_", " ")),
        legendgroup=plain(state),
        showlegend=False,
        customdata=[tables.key_of(row) for row in rows],
        text=[_told_of(row, told) for row in rows],
        hovertemplate="%{text}<extra></extra>",
    )


def _coordinate(row: Row, column: Column) -> object:
    value = row.get(column.name)
    return tables.number(value) if column.kind == "number" else plain(value, 40)


def _told_of(row: Row, told: Iterable[Column]) -> str:
    """A run's hover text: its name, its state, and these columns."""
    lines = [f"<b>{plain(tables.short(tables.key_of(row)), 40)}</b>"]
    lines.append(plain(str(row["state"]).replace("_", " ")))
    for column in dict.fromkeys(told):
        number = tables.number(row.get(column.name))
        shown = plain(row.get(column.name)) if number is None else _number(number)
        lines.append(f"{plain(column.label)}: {shown} {column.unit}".rstrip())
    return "<br>".join(lines)


def _number(value: float) -> str:
    whole = value.is_integer() and abs(value) < 1e15
    return f"{value:,.0f}" if whole else f"{value:.5g}"


def _brief(value: float) -> str:
    """For a tick: a few digits, and no exponent where it can be helped."""
    return f"{value:,.6g}" if 1e-3 <= abs(value) < 1e6 else f"{value:.3g}"


def _priced(rows: Sequence[Row], cost: str, name: str, theme: ThemeName) -> Any:
    colours = THEMES[theme]
    on_front = name == "Pareto front"
    columns = [each for each in tables.columns(rows) if each.name in (cost, "best_val_nll")]
    labels = [plain(tables.short(tables.key_of(row)), 24) for row in rows]
    named = on_front and len(rows) <= NAMED_POINTS
    return go.Scatter(
        x=[tables.number(row[cost]) for row in rows],
        y=[tables.objective(row) for row in rows],
        mode="lines+markers+text" if named else "lines+markers" if on_front else "markers",
        line={"color": colours.palette[0], "width": 1.5, "shape": "hv"},
        marker={
            "color": colours.palette[0] if on_front else colours.faded,
            "size": 10 if on_front else 8,
        },
        text=labels if named else None,
        textposition="top right",
        textfont={"color": colours.soft, "size": 11},
        cliponaxis=False,
        name=name,
        customdata=[tables.key_of(row) for row in rows],
        hovertext=[_told_of(row, columns) for row in rows],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _left_out(count: int, why: str) -> str:
    return f"{count:,} {'run' if count == 1 else 'runs'} not shown: {why}." if count else ""


def _title(column: Column) -> str:
    return plain(_capital(column.title))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
