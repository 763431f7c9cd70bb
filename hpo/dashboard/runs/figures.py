"""Runs as points, as Plotly figures: parameters, any two quantities, the Pareto front.

A figure is complete without the page: every axis has its unit, and a note counts the runs that are
left out. Learning curves are in `learning`; optuna-dashboard draws parallel coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from hpo.dashboard import style
from hpo.dashboard.runs import importance, tables
from hpo.dashboard.runs.tables import Column, capital
from hpo.dashboard.style import ThemeName
from hpo.records.table import Row, ranked

SYMBOLS = {
    "complete": "circle",
    "stopped_early": "diamond",
    "running": "triangle-up",
    "pruned": "circle-open",
    "failed": "x",
}
"""Markers of the states."""

NAMED_POINTS = 8
"""Runs of a Pareto front up to which each has its name beside it."""


def progress(rows: Sequence[Row], theme: ThemeName = "light") -> go.Figure:
    """The lowest objective so far over time, and every run that came to its own end.

    Args:
        rows: Runs of the same data.
        theme: Of the page.
    """
    ended = sorted(ranked(rows), key=lambda row: str(row.get("updated") or ""))
    if not ended:
        return style.sentence("No run has come to its own end yet.", theme)
    figure, colours = style.empty(theme), style.THEMES[theme]
    figure.update_layout(margin={"l": 64, "r": 20, "t": 12, "b": 44}, showlegend=False)
    at, nlls = [row.get("updated") for row in ended], [tables.objective(row) for row in ended]
    told = [each for each in tables.columns(rows) if each.name == "best_val_nll"]
    dots = {"color": colours.faded, "size": 7}
    figure.add_scatter(x=at, y=nlls, mode="markers", marker=dots, **_hover(ended, told))
    best = np.minimum.accumulate(np.array(nlls, dtype=float))
    line = {"color": colours.accent, "width": 2, "shape": "hv"}
    figure.add_scatter(x=at, y=best, mode="lines", line=line, hoverinfo="skip")
    style.axis(figure, "x", "Time [UTC]", keep="time", kind="time")
    figure.update_xaxes(tickangle=0, nticks=6)
    style.axis(figure, "y", f"NLL [{tables.NLL}]", keep="objective")
    _show_ends(figure, ended)
    return figure


def multiple(
    rows: Sequence[Row],
    name: str,
    share: float | None,
    own: Mapping[str, str],
    theme: ThemeName = "light",
) -> go.Figure:
    """The objective against one parameter: a point a run, those of `own` in its colours.

    Args:
        rows: Runs of the same data.
        name: The parameter.
        share: Its importance, in [0, 1]; None where it is unknown.
        own: Colours by the runs' keys.
        theme: Of the page.
    """
    column = next(each for each in tables.columns(rows) if each.name == name)
    figure = style.empty(theme).update_layout(margin={"l": 56, "r": 12, "t": 58, "b": 44})
    figure.update_layout(showlegend=False)
    values = [tables.number(row.get(name)) for row in rows if tables.objective(row) is not None]
    numbers = [each for each in values if each is not None]
    log = column.kind == "number" and tables.logarithmic(numbers)
    groups: dict[tuple[bool, str], list[Row]] = {}
    for row in rows:
        if _place(row, column, log) is not None and tables.objective(row) is not None:
            groups.setdefault((str(row["run"]) in own, str(row["state"])), []).append(row)
    for _, group in sorted(groups.items()):  # the chosen ones last, above the others
        x = [_place(row, column, log) for row in group]
        y = [tables.objective(row) for row in group]
        figure.add_scatter(x=x, y=y, **_points(group, own, theme, [column]))
    kind = column.kind if column.kind == "number" else "text"
    style.axis(figure, "x", _title(column), log=log, keep=name, kind=kind)
    style.axis(figure, "y", f"NLL [{tables.NLL}]", keep="objective")
    _show_ends(figure, rows)
    told = "importance unknown" if share is None else f"{share:.0%} of the importance"
    way = importance.direction(rows, name)
    head = f"<b>{style.plain(name, 28)}</b><br>{told}{', ' if way else ''}{style.plain(way, 28)}"
    style.note(figure, theme, head, xshift=-44, font={"size": 12})
    return figure


def _show_ends(figure: go.Figure, rows: Sequence[Row]) -> None:
    """Limits that show where the runs differ that came to their own end."""
    every = [each for row in rows if (each := tables.objective(row)) is not None]
    ends = [each for row in ranked(rows) if (each := tables.objective(row)) is not None]
    if len(ends) > 1 and max(ends) > min(ends):
        top = min(max(every), 3 * max(ends) - 2 * min(ends))
        air = 0.08 * (top - min(every))
        figure.update_yaxes(range=[min(every) - air, top + air])


def _points(
    rows: Sequence[Row], own: Mapping[str, str], theme: ThemeName, told: Sequence[Column]
) -> dict[str, Any]:
    """Markers of runs of one state, in their own colours or in that of the background."""
    keys, colours = [str(row["run"]) for row in rows], style.THEMES[theme]
    state = str(rows[0]["state"])
    marker = {
        "color": [own.get(key, colours.faded) for key in keys],
        "symbol": SYMBOLS.get(state, "square"),
        "size": [11 if key in own else 8 for key in keys],
        "opacity": 0.9,
        "line": {"width": 1.5 if state == "pruned" else 0.5},
    }
    if state != "pruned":
        marker["line"]["color"] = colours.label  # type: ignore[index]
    return {"mode": "markers", "marker": marker, **_hover(rows, told)}


def scatter(
    rows: Sequence[Row],
    x: str,
    y: str,
    colour: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    theme: ThemeName = "light",
    own: Mapping[str, str] | None = None,
) -> go.Figure:
    """One point a run; its state is the marker, `customdata` its key, `own` colours by key.

    Runs that lack one of the two values, or whose value is not positive on a logarithmic axis, are
    counted below.
    """
    known = {each.name: each for each in tables.columns(rows)}
    if x not in known or y not in known:
        return style.sentence("No run has these quantities.", theme)
    shown = [
        row
        for row in rows
        if _place(row, known[x], log_x) is not None and _place(row, known[y], log_y) is not None
    ]
    if not shown:
        return style.sentence(f"No run has both {known[x].label} and {known[y].label}.", theme)

    figure, colours = style.empty(theme), style.THEMES[theme]
    shade = known.get(colour or "")
    colour_of, bar, legend = _paint(shown, shade, theme, own or {})
    told = [each for each in (known[x], known[y], shade) if each is not None]
    for state in dict.fromkeys([*SYMBOLS, *(str(row["state"]) for row in shown)]):
        if group := [row for row in shown if row["state"] == state]:
            figure.add_scatter(
                x=[_place(row, known[x], log_x) for row in group],
                y=[_place(row, known[y], log_y) for row in group],
                mode="markers",
                marker={
                    "color": [colour_of[str(row["run"])] for row in group],
                    "symbol": SYMBOLS.get(state, "square"),
                    "size": 9,
                    "opacity": 0.9,
                    "line_width": 1.5 if state == "pruned" else 0.5,
                    "line_color": colours.label,
                    **({"coloraxis": "coloraxis"} if bar else {}),
                },
                legendgroup=style.plain(state),
                showlegend=False,
                **_hover(group, told),
            )
            figure.add_trace(_key(style.plain(state.replace("_", " ")), colours.soft, state))
    figure.add_traces(legend)
    figure.update_layout(coloraxis=bar)
    for side, column, log in (("x", known[x], log_x), ("y", known[y], log_y)):
        style.axis(figure, side, _title(column), log=log, keep=column.name, kind=column.kind)
    style.note(figure, theme, style.left_out(len(rows) - len(shown), "without these values"))
    return figure


def pareto(
    rows: Sequence[Row],
    cost: str,
    theme: ThemeName = "light",
    own: Mapping[str, str] | None = None,
) -> go.Figure:
    """Objective against cost of the finished runs, and the front that none of them beats.

    `own` gives the colours of runs by their keys.
    """
    priced = [row for row in ranked(rows) if tables.number(row.get(cost)) is not None]
    if not priced:
        return style.sentence("No run that came to its own end tells of this cost.", theme)
    column = next(each for each in tables.columns(rows) if each.name == cost)
    front = importance.front(priced, cost)
    rest = [row for row in priced if row not in front]

    figure, colours = style.empty(theme), style.THEMES[theme]
    steps: dict[str, Any] = {
        "mode": "lines+markers",
        "line": {"color": colours.soft, "width": 1.5, "shape": "hv"},
        "marker": {"size": 11},
        "name": "Pareto front",
    }
    if len(front) <= NAMED_POINTS:
        names = [style.plain(tables.short(str(row["run"])), 24) for row in front]
        font = {"color": colours.soft, "size": 11}
        steps |= {"text": names, "textposition": "top right", "textfont": font}
        steps["mode"] += "+text"
    points: dict[str, Any] = {
        "mode": "markers",
        "marker": {"size": 9},
        "name": "beaten by another",
    }
    told = [each for each in tables.columns(rows) if each.name in (cost, "best_val_nll")]
    for group, drawn, plain in ((rest, points, colours.faded), (front, steps, colours.soft)):
        if group:
            colour = [(own or {}).get(str(row["run"]), plain) for row in group]
            drawn = drawn | {"marker": drawn["marker"] | {"color": colour}}
            x = [tables.number(row[cost]) for row in group]
            y = [tables.objective(row) for row in group]
            figure.add_scatter(x=x, y=y, cliponaxis=False, **drawn, **_hover(group, told))
    log = tables.logarithmic(tables.number(row[cost]) or 0.0 for row in priced)
    style.axis(figure, "x", _title(column), log=log, keep=cost)
    style.axis(figure, "y", capital(tables.objective_label(priced)), keep="objective")
    remark = style.left_out(len(rows) - len(priced), "unfinished or of unknown cost")
    style.note(figure, theme, remark)
    return figure


def _place(row: Row, column: Column, log: bool) -> float | str | None:
    """The value on an axis; None where there is none that the axis can show."""
    value = row.get(column.name)
    if column.kind != "number":
        return None if value is None else style.plain(value, 40)
    found = tables.number(value)
    return None if found is None or (log and found <= 0) else found


def _paint(
    rows: Sequence[Row], column: Column | None, theme: ThemeName, own: Mapping[str, str]
) -> tuple[Mapping[str, Any], dict[str, Any], list[go.Scatter]]:
    """Colours of the runs by key; the axis of a numeric colour; a legend for texts.

    Numbers are coloured by their logarithm where that looks right.
    """
    colours = style.THEMES[theme]
    keys = [str(row["run"]) for row in rows]
    if column is None:
        rest = colours.faded if own else colours.accent
        return {key: own.get(key, rest) for key in keys}, {}, []
    if column.kind == "number":
        values = [tables.number(row.get(column.name)) for row in rows]
        log = tables.logarithmic(each for each in values if each is not None)
        scale = math.log10 if log else float
        shown = [math.nan if each is None else scale(each) for each in values]
        bar = {
            "title": {"text": _title(column).replace(" [", "<br>["), "side": "top"},
            "thickness": 10,
            "outlinewidth": 0,
            "tickfont": {"color": colours.soft, "size": 11},
            **({"tickprefix": "10<sup>", "ticksuffix": "</sup>"} if log else {}),
        }
        axis = {"colorscale": list(colours.ramp), "colorbar": bar}
        return dict(zip(keys, shown, strict=True)), axis, []
    texts = {key: str(row.get(column.name)) for key, row in zip(keys, rows, strict=True)}
    levels = sorted(set(texts.values()))
    # Values beyond the last colour share the faded one.
    by_level = dict(zip(levels, colours.palette, strict=False))
    legend = [_key(style.plain(each, 24), colour) for each, colour in by_level.items()]
    if len(levels) > len(by_level):
        legend.append(_key(f"{len(levels) - len(by_level)} more", colours.faded))
    return {key: by_level.get(text, colours.faded) for key, text in texts.items()}, {}, legend


def _key(name: str, colour: str, state: str | None = None) -> go.Scatter:
    """An entry of the legend without a point: of a state, whose points it rules, or of a colour."""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"color": colour, "symbol": SYMBOLS.get(state or "", "square"), "size": 9},
        name=name,
        legendgroup=None if state is None else style.plain(state),
    )


def _hover(rows: Sequence[Row], told: Iterable[Column]) -> dict[str, Any]:
    """Keys for clicks, and texts for the mouse: name, state and these columns of each run."""
    columns = list(dict.fromkeys(told))
    return {
        "customdata": [row["run"] for row in rows],
        "hovertext": [_told_of(row, columns) for row in rows],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _told_of(row: Row, columns: Sequence[Column]) -> str:
    lines = [f"<b>{style.plain(tables.short(str(row['run'])), 40)}</b>"]
    lines.append(style.plain(str(row["state"]).replace("_", " ")))
    for column in columns:
        shown = style.plain(tables.text_of(row.get(column.name)))
        lines.append(f"{style.plain(column.label)}: {shown} {column.unit}".rstrip())
    return "<br>".join(lines)


def _title(column: Column) -> str:
    return style.plain(capital(column.title))
