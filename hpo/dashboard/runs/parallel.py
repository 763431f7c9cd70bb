"""Parallel coordinates: every run as a line through its settings, ending in its objective.

Plotly has no logarithmic axis here and no gap for a missing value, so both are made of ticks.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from hpo.dashboard import style
from hpo.dashboard.runs import tables
from hpo.dashboard.runs.tables import Column, capital
from hpo.dashboard.style import ThemeName
from hpo.records.table import Row

MISSING = "–"
"""The tick of runs without a setting, below all others."""


def coordinates(
    rows: Sequence[Row], columns: Sequence[str], theme: ThemeName = "light"
) -> go.Figure:
    """Every run as a line through its settings; the better its objective, the stronger its colour.

    Runs above the median are all faded. A run without the setting passes below its axis, at a dash.
    """
    able = [row for row in rows if tables.objective(row) is not None]
    if not able:
        return style.sentence("No run has a validation NLL yet.", theme)
    if not columns:
        return style.sentence("No parameter differs between these runs.", theme)

    # The last line is on top.
    able.sort(key=lambda row: -(tables.objective(row) or 0.0))
    known = {each.name: each for each in tables.columns(able)}
    lines = [_line(able, known[name]) for name in columns if name in known]
    nlls = [tables.objective(row) for row in able]
    figure = style.empty(theme)
    figure.add_trace(_trace(lines, nlls, tables.objective_label(able), theme))
    figure.update_layout(margin={"l": 56, "r": 72, "t": 72, "b": 28})
    remark = style.left_out(len(rows) - len(able), "without a validation NLL")
    style.note(figure, theme, remark, y=-0.02, yanchor="top", yshift=0)
    return figure


def _line(rows: Sequence[Row], column: Column) -> dict[str, Any]:
    """One axis of the parallel coordinates."""
    values = [row.get(column.name) for row in rows]
    head = {"label": _broken(column)}
    if column.kind != "number":
        return head | _steps([None if each is None else str(each) for each in values])
    numbers = [tables.number(each) for each in values]
    given = sorted({each for each in numbers if each is not None})
    if len(given) <= 6:
        labels = [None if each is None else style.brief(each) for each in numbers]
        return head | _steps(labels, order=list(map(style.brief, given)))
    return head | _scale(numbers, given)


def _steps(labels: Sequence[str | None], order: Sequence[str] | None = None) -> dict[str, Any]:
    """An axis with a tick for each of a few values; what is missing is a dash, below."""
    levels = list(dict.fromkeys(order if order is not None else sorted(filter(None, labels))))
    if None in labels:
        levels = [MISSING, *levels]
    place = {each: index for index, each in enumerate(levels)}
    return {
        "values": [place[each if each is not None else MISSING] for each in labels],
        "tickvals": list(range(len(levels))),
        "ticktext": [_ticked(each) for each in levels],
        "range": [-0.4, len(levels) - 0.6],
    }


def _scale(numbers: Sequence[float | None], given: Sequence[float]) -> dict[str, Any]:
    """An axis of numbers, logarithmic where that looks right; what is missing stands below."""
    log = tables.logarithmic(given)
    low, high = (math.log10(each) if log else each for each in (given[0], given[-1]))
    below = low - 0.12 * (high - low)
    ticks = style.decades(low, high) if log else _round(low, high)
    values = [below if each is None else math.log10(each) if log else each for each in numbers]
    texts = [style.brief(10**each if log else each) for each in ticks]
    if None in numbers:
        ticks, texts = [below, *ticks], [MISSING, *texts]
    edge = [min([low, *values]), high]
    return {"values": values, "tickvals": ticks, "ticktext": texts, "range": edge}


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


def _trace(lines: list[dict[str, Any]], nlls: Sequence[Any], label: str, theme: ThemeName) -> Any:
    colours = style.THEMES[theme]
    given = np.array(nlls, dtype=np.float64)
    low, high = float(given.min()), float(np.median(given))
    last = {"label": capital(label).replace(" [", "<br>["), "values": given, "tickformat": ".3f"}
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
        rangefont={"color": style.NOTHING, "size": 1},
        unselected={"line": {"color": colours.grid, "opacity": 0.5}},
    )


def _broken(column: Column) -> str:
    """The title over two lines at most, for a narrow place."""
    lines = textwrap.wrap(capital(column.label), 16)[:2]
    return "<br>".join(style.plain(each, 18) for each in lines)
