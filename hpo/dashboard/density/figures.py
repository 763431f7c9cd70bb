"""Density plots and maps of cells as Plotly figures: what a flow draws, beside the test data.

The emulator is vermilion with solid lines, the data blue with dashed ones, as in `hpo plot`: told
apart with any colour vision, and in grey. Names and units come from files and go through
`style.plain`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from data_prep.columns import Column, Value
from data_prep.words import numbers
from data_prep.words.numbers import counted
from hpo.dashboard import style
from hpo.dashboard.density.cells import CellMap
from hpo.dashboard.density.contours import DensityPlot, SampleDensity
from hpo.dashboard.style import THEMES, Theme, ThemeName, faint, note, plain
from hpo.pictures import density
from hpo.pictures.density import Array

MOST_LABELS = 16
"""Values along an axis up to which every cell of a map has its number written in it."""

MAP_TITLE = "Largest KS distance over that by chance"

WIDTHS = {0.5: 2.2, 0.9: 1.6, 0.99: 1.1}
"""Widths of the contour lines, by the fraction that they enclose."""

_UNITS = {
    "Msun": "M<sub>☉</sub>",
    "Rsun": "R<sub>☉</sub>",
    "Lsun": "L<sub>☉</sub>",
    "": "dimensionless",
}


def contours(p: DensityPlot, theme: ThemeName = "light") -> go.Figure:
    """Contours of the flow's density over the data, with both marginals; or the one density."""
    colours = THEMES[theme]
    figure = style.empty(theme).update_layout(margin_t=60)
    (_alone if len(p.columns) == 1 else _plane)(figure, p, colours)
    note(
        figure,
        theme,
        _head(p),
        # Not the title: plotly moves it up and out of the figure for its second line.
        xshift=-48,
        yshift=12,
        font={"size": 13, "color": colours.ink},
    )
    return figure


def cell_map(c: CellMap, theme: ThemeName = "light") -> go.Figure:
    """The distance between draws and data in every cell, over the distance by chance."""
    colours = THEMES[theme]
    figure = style.empty(theme).update_layout(margin_t=78)
    names = [*names_of(c), [""]][:2]
    told = [[_of_cell(c, i, j) for i in range(len(names[0]))] for j in range(len(names[1]))]
    shared = {
        "x": names[0],
        "y": names[1],
        "xgap": 2,
        "ygap": 2,
        "customdata": told,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    grey = [[0, colours.blank], [1, colours.blank]]
    figure.add_heatmap(z=np.zeros_like(c.ratio_XY.T), colorscale=grey, showscale=False, **shared)
    figure.add_heatmap(**shared, **_ratios(c, colours))
    framed = "<br>framed: the flow was trained without them" if c.held_out_XY.any() else ""
    titles = [*map(_label, c.axes), ""]
    shared_axis = {"type": "category", "showgrid": False, "ticks": ""}
    figure.update_xaxes(title_text=titles[0] + framed, **shared_axis)
    figure.update_yaxes(title_text=titles[1], showticklabels=len(c.axes) > 1, **shared_axis)
    for i, j in np.argwhere(c.held_out_XY):
        frame = {"x0": i - 0.5, "x1": i + 0.5, "y0": j - 0.5, "y1": j + 0.5}
        figure.add_shape(type="rect", line={"color": colours.emulator, "width": 2.5}, **frame)
    return figure


def names_of(c: CellMap) -> list[list[str]]:
    """The texts at the axes of the map, for each condition that it shows."""
    return [
        [_text(column.value(value)) for value in values]
        for column, values in zip(c.axes, c.values, strict=False)
    ]


def _plane(figure: go.Figure, p: DensityPlot, colours: Theme) -> None:
    edges = (p.edges[0], p.edges[1])
    if p.data is not None:
        _rows(figure, p.data, edges, colours.data)
        _contours(figure, p.data, edges, "data", colours)
        _marginals(figure, p, p.data, "data", colours)
    elif p.near is not None:
        _rows(figure, p.near, edges, colours.soft)
        square: Any = {"mode": "markers", "marker": {"color": colours.soft, "symbol": "square"}}
        name = f"nearest cell, {density.numbered(p.near.rows, p.near.effective)}"
        figure.add_scatter(x=[None], y=[None], name=name, legendgroup="data", **square)
    _contours(figure, p.emulator, edges, "emulator", colours)
    _marginals(figure, p, p.emulator, "emulator", colours)
    _axis(figure, "xaxis", _label(p.columns[0]), [0, 0.81], edges[0])
    _axis(figure, "yaxis", _label(p.columns[1]), [0, 0.79], edges[1])
    for k, name, anchor, domain in ((0, "yaxis2", "x", [0.82, 1]), (1, "xaxis2", "y", [0.84, 1])):
        small: Any = style.scale(colours) | {"nticks": 3 - k, "tickangle": 0}
        _axis(figure, name, _per(p.columns[k], "<br>"), domain, anchor=anchor, **small)


def _alone(figure: go.Figure, p: DensityPlot, colours: Theme) -> None:
    """The density of the only column."""
    for kind, sample in (("data", p.data), ("emulator", p.emulator)):
        if sample is not None:
            name = f"{kind}, {density.numbered(sample.rows, sample.effective)}"
            _steps(figure, p.joined[0], sample.marginals[0], kind, colours, name=name)
    _axis(figure, "xaxis", _label(p.columns[0]), [0, 1], p.edges[0])
    _axis(figure, "yaxis", _per(p.columns[0]), [0, 1])


def _rows(figure: go.Figure, data: SampleDensity, edges: density.Edges, colour: str) -> None:
    """The data themselves, beneath the lines."""
    shared: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False, "legendgroup": "data"}
    if data.points_N2 is not None:
        dots = {"color": colour, "size": 4, "opacity": 0.35}
        x, y = data.points_N2.astype(np.float32).T
        figure.add_scatter(x=x, y=y, mode="markers", marker=dots, **shared)
    elif data.shade_XY is not None:
        scale = [[0, faint(colour, 0.05)], [1, faint(colour, 0.6)]]
        shared |= {"zmin": 0, "zmax": 1, "colorscale": scale, "showscale": False}
        z = data.shade_XY.T.astype(np.float32)
        figure.add_heatmap(x=edges[0], y=edges[1], z=z, **shared)


def _contours(
    figure: go.Figure, sample: SampleDensity, edges: density.Edges, kind: str, colours: Theme
) -> None:
    """A line around each fraction; the legend says once what the lines enclose."""
    colour, dash = (colours.data, "dash") if kind == "data" else (colours.emulator, "solid")
    line = {"color": colour, "dash": dash, "width": 2.2}
    reached = ", ".join(f"{each:.0%}" for each in sample.heights) or "nothing"
    rows = density.numbered(sample.rows, sample.effective)
    key = f"{kind}, {rows}: {reached} inside"
    shared = {"mode": "lines", "legendgroup": kind}
    figure.add_scatter(x=[None], y=[None], name=key, line=line, **shared)
    for fraction, height in sample.heights.items():
        assert sample.density_XY is not None  # heights are of it
        x, y = density.outline(sample.density_XY, edges, height).astype(np.float32).T
        line = line | {"width": WIDTHS.get(fraction, 1.1)}
        told = f"{fraction:.0%} of the {kind} inside<extra></extra>"
        figure.add_scatter(x=x, y=y, line=line, hovertemplate=told, showlegend=False, **shared)


def _marginals(
    figure: go.Figure, p: DensityPlot, sample: SampleDensity, kind: str, colours: Theme
) -> None:
    shared = {"legendgroup": kind, "showlegend": False}
    for k, place in enumerate(({"yaxis": "y2"}, {"xaxis": "x2"})):
        _steps(
            figure, p.joined[k], sample.marginals[k], kind, colours, up=k == 1, **shared, **place
        )


def _steps(
    figure: go.Figure,
    bins: Array,
    values: Array,
    kind: str,
    colours: Theme,
    *,
    up: bool = False,
    **more: Any,
) -> None:
    """A histogram as one line, filled for the data; `up` turns it on its side."""
    along = np.repeat(bins, 2).astype(np.float32)
    height = np.concatenate([[0], np.repeat(values, 2), [0]]).astype(np.float32)
    x, y = (height, along) if up else (along, height)
    line = {"color": colours.emulator, "width": 1.6}
    if kind == "data":
        line = {"color": colours.data, "width": 1}
        more |= {"fill": "tozerox" if up else "tozeroy", "fillcolor": faint(colours.data, 0.25)}
    figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", **more)


def _head(p: DensityPlot) -> str:
    """At which conditions, and how well the flow does there."""
    units = {name: f" {_unit(unit)}" if unit else "" for name, unit in p.units.items()}
    at = [f"{plain(name)} = {_text(value)}{units[name]}" for name, value in p.conditions.items()]
    lines = [", ".join(at) or "All rows"]
    if p.nll is not None:
        nll = numbers.with_error(p.nll, p.error, between="±")
        lines.append(f"NLL of its test rows: {nll} nats/event")
    return "<br>".join(lines)


def _ratios(c: CellMap, colours: Theme) -> dict[str, Any]:
    """The coloured cells."""
    ratio_YX = np.where(np.isfinite(c.ratio_XY), c.ratio_XY, math.nan).T
    few = max(c.ratio_XY.shape) <= MOST_LABELS
    largest = np.nanmax(ratio_YX) if np.isfinite(ratio_YX).any() else 1.0
    return {
        "z": ratio_YX,
        "zmin": 0,
        "zmax": max(4.0, float(largest)),
        "colorscale": "Viridis",
        "texttemplate": "%{z:.1f}" if few else "",
        "textfont": {"size": 12},
        "hoverongaps": False,
        "colorbar": {
            "title": {"text": MAP_TITLE, "side": "top", "font_size": 13},
            "orientation": "h",
            "thickness": 10,
            "outlinewidth": 0,
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "tickcolor": colours.soft,
        },
    }


def _of_cell(c: CellMap, i: int, j: int) -> str:
    """The text at the mouse over a cell."""
    at = zip(c.axes, (c.values[0][i], c.values[1][j]), strict=False)
    lines = [", ".join(f"{plain(one.name)} = {_text(one.value(value))}" for one, value in at)]
    rows = counted(int(c.rows_XY[i, j]), "test row")
    if c.effective_XY is not None:
        rows += f" (effective: {numbers.short(round(c.effective_XY[i, j]))})"
    if math.isnan(c.ratio_XY[i, j]):
        lines.append(f"{rows}: too few, it takes {c.least}" if c.rows_XY[i, j] else "no test rows")
    else:
        lines += [rows, f"KS distance {numbers.short(c.ks_XY[i, j])}"]
        lines.append(f"{numbers.short(c.ratio_XY[i, j])} times what chance gives")
    if c.held_out_XY[i, j]:
        lines.append("the flow was trained without it")
    return "<br>".join(lines)


def _text(value: Value) -> str:
    return plain(value) if isinstance(value, str) else numbers.setting(value)


def _label(column: Column) -> str:
    return f"{plain(column.name)} [{_unit(column.unit)}]"


def _per(column: Column, space: str = " ") -> str:
    """The label of a density in that column."""
    return f"density{space}[1/{_unit(column.unit)}]" if column.unit else "density"


def _unit(unit: str) -> str:
    return _UNITS.get(unit, plain(unit))


def _axis(
    figure: go.Figure,
    name: str,
    text: str,
    domain: Sequence[float],
    edges: Array | None = None,
    **more: Any,
) -> None:
    """An axis over the edges, or upwards from nothing; a zoom stays while its column does."""
    span = {"rangemode": "tozero"} if edges is None else {"range": [*edges[[0, -1]].tolist()]}
    more["title"] = {**more.get("title", {}), "text": text}
    more |= {"domain": list(domain), "uirevision": text, **span}
    figure.update_layout({name: more})
