"""Density plots and maps of cells as Plotly figures: what a flow draws, beside the test data.

The emulator is vermilion with solid lines, the data blue with dashed ones, as in `hpo plot`: told
apart with any colour vision, and in grey. Backgrounds are transparent, so that the page shows.
Names and units come from files and go through `style.plain`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import plotly.graph_objects as go

from data_prep.columns import Column
from hpo.dashboard import style
from hpo.dashboard.density.cells import CellMap
from hpo.dashboard.density.contours import DensityPlot, SampleDensity
from hpo.dashboard.style import THEMES, Theme, ThemeName, faint, plain
from hpo.pictures import density
from hpo.pictures.density import Array

MOST_LABELS = 16
"""Values along an axis up to which every cell of a map has its number written in it."""

WIDTHS = {0.5: 2.2, 0.9: 1.6, 0.99: 1.1}
"""Of the contour lines, by what they enclose."""

_UNITS = {
    "Msun": "M<sub>☉</sub>",
    "Rsun": "R<sub>☉</sub>",
    "Lsun": "L<sub>☉</sub>",
    "": "dimensionless",
}


def contours(p: DensityPlot, theme: ThemeName = "light") -> go.Figure:
    """Contours of the flow's density over the data, with both marginals; or the one density."""
    colours = THEMES[theme]
    figure = _empty(theme)
    if len(p.columns) == 1:
        _alone(figure, p, colours)
    else:
        _plane(figure, p, colours)
    _head(figure, p)
    return figure


def cell_map(c: CellMap, theme: ThemeName = "light") -> go.Figure:
    """How far the draws are from the data in every cell, in units of what chance gives."""
    colours = THEMES[theme]
    figure = _empty(theme)
    names = [[f"{value:g}" for value in values] for values in c.values]
    places = {"x": names[0], "y": names[1] if len(c.axes) > 1 else [""], "xgap": 2, "ygap": 2}
    told = np.vectorize(lambda i, j: _of_cell(c, i, j), otypes=[object])(
        *np.indices(c.ratio_XY.shape)
    ).T.tolist()
    shared = {**places, "customdata": told, "hovertemplate": "%{customdata}<extra></extra>"}
    grey = [[0, colours.blank], [1, colours.blank]]
    figure.add_heatmap(z=np.zeros_like(c.ratio_XY.T), colorscale=grey, showscale=False, **shared)
    figure.add_heatmap(**shared, **_ratios(c, colours))
    _category_axes(figure, c)
    figure.update_layout(shapes=_frames(c, colours), margin={"t": 78})
    return figure


def _empty(theme: ThemeName) -> go.Figure:
    """As all figures, with room above for what is shown."""
    return style.empty(theme).update_layout(margin={"l": 60, "r": 16, "t": 60, "b": 48})


def _plane(figure: go.Figure, p: DensityPlot, colours: Theme) -> None:
    edges = (p.edges[0], p.edges[1])
    if p.data is not None:
        _rows(figure, p.data, edges, colours)
        _contours(figure, p.data, edges, "data", colours.data, "dash")
        _marginals(figure, p.data, p.joined, colours.data, faint(colours.data, 0.25))
    _contours(figure, p.emulator, edges, "emulator", colours.emulator, "solid")
    _marginals(figure, p.emulator, p.joined, colours.emulator, None)
    _axis(figure, "xaxis", _label(p.columns[0]), [0, 0.81], edges[0])
    _axis(figure, "yaxis", _label(p.columns[1]), [0, 0.79], edges[1])
    for k, name, anchor, domain in ((0, "yaxis2", "x", [0.82, 1]), (1, "xaxis2", "y", [0.84, 1])):
        top = _highest(p, k)
        small = {"tickvals": [0, _round(top[1])], "tickangle": 0, "title_font_size": 12}
        _axis(figure, name, _per(p.columns[k], "<br>"), domain, top, anchor=anchor, **small)


def _alone(figure: go.Figure, p: DensityPlot, colours: Theme) -> None:
    """The density of the only event column."""
    if p.data is not None:
        name = f"data, n = {p.data.rows:,}"
        fill: dict[str, Any] = {"fill": "tozeroy", "fillcolor": faint(colours.data, 0.25)}
        _steps(figure, p.joined[0], p.data.marginals[0], colours.data, name=name, **fill)
    name = f"emulator, n = {p.emulator.rows:,}"
    _steps(figure, p.joined[0], p.emulator.marginals[0], colours.emulator, name=name)
    _axis(figure, "xaxis", _label(p.columns[0]), [0, 1], p.edges[0])
    _axis(figure, "yaxis", _per(p.columns[0]), [0, 1], _highest(p, 0))


def _highest(p: DensityPlot, k: int) -> Array:
    """From nothing to a little above the highest marginal density of that column."""
    sides = [side for side in (p.emulator, p.data) if side is not None]
    return np.array([0, 1.06 * max(float(side.marginals[k].max()) for side in sides)])


def _round(value: float) -> float:
    """The value down to its first digit: the one tick there is room for."""
    step = 10.0 ** math.floor(math.log10(value))
    return float(f"{step * math.floor(value / step):.1g}")


def _rows(figure: go.Figure, data: SampleDensity, edges: density.Edges, colours: Theme) -> None:
    """The data themselves, beneath the lines."""
    shared = {"hoverinfo": "skip", "showlegend": False, "legendgroup": "data"}
    if data.points_N2 is not None:
        dots = {"color": colours.data, "size": 4, "opacity": 0.35}
        x, y = data.points_N2.astype(np.float32).T
        figure.add_scatter(x=x, y=y, mode="markers", marker=dots, **shared)
    elif data.shade_XY is not None:
        scale = [[0, faint(colours.data, 0.05)], [1, faint(colours.data, 0.6)]]
        figure.add_heatmap(
            x=edges[0],
            y=edges[1],
            z=data.shade_XY.T.astype(np.float32),
            zmin=0,
            zmax=1,
            colorscale=scale,
            showscale=False,
            **shared,
        )


def _contours(
    figure: go.Figure, side: SampleDensity, edges: density.Edges, kind: str, colour: str, dash: str
) -> None:
    """A line around each fraction; the legend says once what the lines of this side enclose."""
    reached = ", ".join(f"{each:.0%}" for each in side.heights) or "nothing"
    key = f"{kind}, n = {side.rows:,}: lines enclose {reached}"
    shared = {"mode": "lines", "legendgroup": kind}
    line = {"color": colour, "dash": dash, "width": 2.2}
    figure.add_scatter(x=[None], y=[None], name=key, line=line, **shared)
    for fraction, height in side.heights.items():
        assert side.density_XY is not None  # heights are of it
        x, y = density.outline(side.density_XY, edges, height).astype(np.float32).T
        figure.add_scatter(
            x=x,
            y=y,
            line=line | {"width": WIDTHS.get(fraction, 1.1)},
            hovertemplate=f"{fraction:.0%} of the {kind} inside<extra></extra>",
            showlegend=False,
            **shared,
        )


def _marginals(
    figure: go.Figure, side: SampleDensity, joined: Sequence[Array], colour: str, fill: str | None
) -> None:
    for k, across in enumerate((True, False)):
        more: dict[str, Any] = {"yaxis": "y2"} if across else {"xaxis": "x2"}
        more |= {"legendgroup": "data" if fill else "emulator", "showlegend": False}
        if fill is not None:
            more |= {"fill": "tozeroy" if across else "tozerox", "fillcolor": fill}
        _steps(figure, joined[k], side.marginals[k], colour, up=not across, **more)


def _steps(
    figure: go.Figure, bins: Array, values: Array, colour: str, *, up: bool = False, **more: Any
) -> None:
    """A histogram as one line; `up` turns it on its side."""
    along = np.repeat(bins, 2).astype(np.float32)
    height = np.concatenate([[0], np.repeat(values, 2), [0]]).astype(np.float32)
    x, y = (height, along) if up else (along, height)
    line = {"color": colour, "width": 1 if "fill" in more else 1.6}
    figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", **more)


def _head(figure: go.Figure, p: DensityPlot) -> None:
    """At which conditions, and how well the flow does there."""
    units = {name: f" {_unit(unit)}" if unit else "" for name, unit in p.units.items()}
    at = [f"{plain(name)} = {value:.4g}{units[name]}" for name, value in p.conditions.items()]
    lines = [", ".join(at) or "All rows"]
    if p.nll is not None:
        error = "" if p.error is None or math.isnan(p.error) else f" ± {p.error:.3f}"
        lines.append(f"NLL of these test rows: {p.nll:.3f}{error} nats per event")
    # Not the title, which plotly moves up and out with its second line.
    figure.add_annotation(
        text="<br>".join(lines),
        x=0,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        xshift=-48,
        yshift=12,
        align="left",
        showarrow=False,
    )


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
            "title": {
                "text": "Largest KS distance over that by chance",
                "side": "top",
                "font_size": 13,
            },
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
    """What is said when the mouse is over a cell."""
    at = zip(c.axes, (c.values[0][i], c.values[1][j]), strict=False)
    lines = [", ".join(f"{plain(column.name)} = {value:g}" for column, value in at)]
    rows = f"{c.rows_XY[i, j]:,} test rows"
    if math.isnan(c.ratio_XY[i, j]):
        lines.append(f"{rows}: too few, it takes {c.least}" if c.rows_XY[i, j] else "no test rows")
    else:
        lines += [rows, f"KS distance {c.ks_XY[i, j]:.3g}"]
        lines.append(f"{c.ratio_XY[i, j]:.2f} times what chance gives")
    if c.held_out_XY[i, j]:
        lines.append("the flow was trained without it")
    return "<br>".join(lines)


def _category_axes(figure: go.Figure, c: CellMap) -> None:
    plain_axis = {"type": "category", "showgrid": False, "ticks": ""}
    framed = "<br>framed: the flow was trained without them" if c.held_out_XY.any() else ""
    figure.update_xaxes(title_text=_label(c.axes[0]) + framed, **plain_axis)
    if len(c.axes) > 1:
        figure.update_yaxes(title_text=_label(c.axes[1]), **plain_axis)
    else:
        figure.update_yaxes(showticklabels=False, **plain_axis)


def _frames(c: CellMap, colours: Theme) -> list[dict[str, Any]]:
    """A frame around each cell that was held out."""
    places = [(i, j) for i, j in product(*map(range, c.ratio_XY.shape)) if c.held_out_XY[i, j]]
    line = {"color": colours.emulator, "width": 2.5}
    return [
        {
            "type": "rect",
            "x0": i - 0.5,
            "x1": i + 0.5,
            "y0": j - 0.5,
            "y1": j + 0.5,
            "line": line,
        }
        for i, j in places
    ]


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
    title: str,
    domain: Sequence[float],
    edges: Array,
    **more: Any,
) -> None:
    """An axis over the edges; a zoom stays as long as it shows the same column."""
    span = [float(edges[0]), float(edges[-1])]
    options = {"title_text": title, "domain": list(domain), "range": span, "uirevision": title}
    figure.update_layout({name: {**options, **more}})
