"""The data that every page of the dashboard is given, and the parts that pages are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dash
import plotly.graph_objects as go
from dash import Input, Output, State, dcc, html
from dash.development.base_component import Component

from hpo.dashboard import address, style
from hpo.dashboard.address import Query
from hpo.dashboard.catalog import Catalog
from hpo.dashboard.density.draws import Densities
from hpo.dashboard.runs.tables import text_of
from hpo.dashboard.style import ThemeName

if TYPE_CHECKING:
    from hpo.study.status import StudyStatus

Part = str | Component
"""A part of a page."""

ALONG = {"epoch": "epoch", "minutes": "wall-clock time", "rows": "rows seen"}
"""Quantities that a learning curve can be drawn along."""

EVERY_MS = 2000
"""Interval at which a page asks for changes."""

TICK = Input("tick", "n_intervals")
THEME = Input("theme", "data")
"""Inputs that the callbacks of several pages share."""

GRAPH: Any = {
    "displaylogo": False,
    "responsive": True,
    # Plotly's own offer to upload the figure to its cloud.
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "toImage"],
}
"""Options of every graph: zoom, pan and reset."""

AXIS = re.compile(r"[xy]axis\d*")

TAKEN = ("svg", "png", "pdf", "csv")
"""Formats of a figure that is taken away; see `take.js`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """The data behind the pages."""

    catalog: Catalog
    densities: Densities | None
    """None where densities cannot be drawn."""
    studies: Callable[[], dict[str, int]] | None
    """optuna-dashboard's number of each study; None where it is not there."""
    progress: Callable[[], list[StudyStatus]] | None = None
    """How the studies stand that are not done; None where there is no database."""


def theme_of(stored: str | None) -> ThemeName:
    """The theme that the browser chose; light until it has said."""
    return "dark" if stored == "dark" else "light"


def named(text: str) -> dict[str, Any]:
    """The attribute that gives an element its name where no text stands in it."""
    return {"aria-label": text}


def notice(text: str, *, kind: str = "note") -> html.P:
    """A sentence that stands apart: a note, a caution or a fault."""
    return html.P(text, className=f"notice {kind}", role="status")


def card(title: str, *children: Part, note: str = "", wide: bool = False) -> html.Section:
    """A titled part of a page."""
    head: list[Part] = [html.H2(title)] if title else []
    if note:
        head.append(html.P(note, className="hint"))
    return html.Section([*head, *children], className="card wide" if wide else "card")


def title(text: str, *beside: Part) -> html.Div:
    """The heading of a page, with links beside it."""
    return html.Div([html.H1(text), *beside], className="head")


def graph(
    name: str, says: str, *, height: int = 380, figure: go.Figure | None = None
) -> html.Figure:
    """A graph that fills its card; `says` tells what it is.

    A callback draws it by `drawn_into`; until then it shows `figure`.
    """
    first = figure or style.sentence("")
    first.update_layout(meta={"given": _ranges(first)})
    shown = dcc.Graph(
        figure=first, id=name, config=GRAPH, style=_high(height), clear_on_unhover=True
    )
    parts = [*(dcc.Store(id=f"{name}-{kind}") for kind in ("fresh", "fine")), shown, _take()]
    return html.Figure(parts, style=_room(height), **named(says))


def drawn(figure: go.Figure, says: str, key: Mapping[str, str], *, height: int) -> html.Figure:
    """A graph that is drawn already."""
    more: Any = {"config": GRAPH, "style": _high(height), "clear_on_unhover": True}
    parts = [dcc.Graph(figure=figure, id=dict(key), **more), _take()]
    return html.Figure(parts, style=_room(height), **named(says))


def _ranges(figure: go.Figure) -> dict[str, Any]:
    """The range of each axis before anybody chose another: see `keepZoom` in `page.js`."""
    layout = figure.to_plotly_json()["layout"]
    return {name: layout[name].get("range") for name in layout if AXIS.fullmatch(name)}


def _high(height: int) -> dict[str, str]:
    return {"height": f"{height}px"}


def _room(height: int) -> dict[str, str]:
    """The size of a figure, which it has before the graph in it is loaded, too."""
    return {"minHeight": f"{height + 24}px"}


def _take() -> html.Details:
    """The formats in which a figure can be taken away; the browser makes them."""
    kinds: list[Any] = [{"data-take": kind} for kind in TAKEN]
    buttons = [html.Button(kind["data-take"].upper(), className="plain", **kind) for kind in kinds]
    return html.Details([html.Summary("Download"), *buttons], className="take")


def drawn_into(name: str) -> Output:
    """The output through which a callback draws a graph."""
    return Output(f"{name}-fresh", "data")


def refined_into(name: str) -> Output:
    """The output through which a callback draws what replaces a sketch.

    It is another one than that of the sketch: Dash would keep the sketch back, and wait for this.
    """
    return Output(f"{name}-fine", "data")


def keep_zooms(app: dash.Dash, names: Sequence[str]) -> None:
    """Have new figures of these graphs keep the ranges that a person chose.

    Plotly's `uirevision` would do it, but from Dash 4 on a zoom becomes part of the figure that
    Dash knows, and with the next figure it is gone.
    """
    for name in names:
        for drawn in (drawn_into(name), refined_into(name)):
            app.clientside_callback(  # type: ignore[no-untyped-call]
                dash.ClientsideFunction("page", "keepZoom"),
                Output(name, "figure", allow_duplicate=True),
                Input(drawn.component_id, "data"),
                State(name, "figure"),
                prevent_initial_call=True,
            )


def field(label: str, control: Component) -> Component:
    """A control with its name above it."""
    parts = [html.Span(label), control]
    if isinstance(control, dcc.Input):
        return html.Label(parts, className="field")
    # Not a label around the others: it would name the first of their choices.
    return html.Div(parts, className="field", role="group")


def controls(*fields: Component, more: str = "") -> html.Div:
    """Controls side by side; `more` are further classes."""
    return html.Div(list(fields), className=f"controls {more}".rstrip())


def choice(label: str, name: str, options: Mapping[str, str], value: str) -> Component:
    """A few options (value and label) side by side, under a label."""
    control = dcc.RadioItems(dict(options), value, id=name, inline=True, className="choice")
    return field(label, control)


def back(query: Query | None = None) -> html.A:
    """The way to the table, with what the query chose there."""
    return html.A("Back to the table", href=f"{address.ROOT}{query or ''}", className="back")


def listing(rows: Sequence[Mapping[str, object]], *, heads: Mapping[str, str]) -> html.Div:
    """A small table; `heads` names the columns and gives their titles."""
    head = html.Tr([html.Th(title) for title in heads.values()])
    body = [html.Tr([html.Td(text_of(row.get(name))) for name in heads]) for row in rows]
    return html.Div(html.Table([html.Thead(head), html.Tbody(body)]), className="scroll")
