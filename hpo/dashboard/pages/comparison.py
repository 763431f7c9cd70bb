"""A few runs side by side: how they learned, what sets them apart, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dash
from dash import Input, Output, State, dcc, html

from data_prep.errors import InputError
from hpo.dashboard import address, style
from hpo.dashboard.address import Query
from hpo.dashboard.runs import differences, figures, importance, learning, tables
from hpo.dashboard.site import (
    ALONG,
    Part,
    Site,
    card,
    choice,
    drawn_into,
    field,
    graph,
    keep_zooms,
    listing,
    notice,
    theme_of,
)
from hpo.records.record import RunRecord
from hpo.records.table import Row

COSTS = ("flops_per_event", "parameters", "seconds")
"""What an NLL is bought with, if the runs tell of it."""

MOST_LINES = 12
"""Columns of the parallel coordinates."""

Records = dict[str, RunRecord]

GRAPHS = ("curves", "rates", "parallel", "importance", "scatter", "pareto")


def layout(site: Site, query: Query) -> list[Part]:
    """The page of the runs that its address names."""
    if not query.runs:
        return [notice("No runs are chosen: choose some in the table."), _back(query)]
    rows = site.catalog.rows()
    axes = {each.name: each for each in tables.axes(rows)}
    costs = {name: axes[name].label for name in COSTS if name in axes}
    parameters = [each.name for each in tables.columns(rows) if each.group == "parameters"]
    across = next((name for name in parameters if name in axes), "best_epoch")
    options = [{"label": each.label, "value": each.name} for each in axes.values()]
    colours = [{"label": each.label, "value": each.name} for each in tables.columns(rows)]
    return [
        dcc.Store(id="compared", data=list(query.runs)),
        dcc.Store(id="compared-seen", data=site.catalog.version),
        html.Div([html.H1(f"{len(query.runs)} runs compared"), _back(query)], className="head"),
        html.Div(id="cautions"),
        card(
            "How they learned",
            html.Div(
                [
                    field("Along", choice("along", ALONG, "epoch")),
                    field("Show", choice("excess", {"": "NLL", "yes": "above the best"}, "")),
                    field("Axis", choice("log-x", {"": "linear", "yes": "logarithmic"}, "")),
                    field("Smoothing", _smoothing()),
                ],
                className="controls",
            ),
            graph("curves", height=440),
            wide=True,
        ),
        card(
            "Loss rate",
            graph("rates"),
            note="How fast the smoothed objective falls; below the line a run stops early.",
        ),
        card("NLL against cost", field("Cost", _one_of("cost", costs)), graph("pareto")),
        html.Div(
            field(
                "The pictures below show",
                choice(
                    "of", {"all": "all runs of these studies", "few": "only those chosen"}, "all"
                ),
            ),
            className="controls wide",
        ),
        card(
            "Parameters, one line a run",
            html.Div(graph("parallel", height=420), className="scroll broad"),
            wide=True,
        ),
        card(
            "Which parameters matter",
            graph("importance"),
            note="PED-ANOVA (Watanabe et al. 2023): what sets the better runs apart. Not its sign.",
        ),
        card(
            "Any two quantities",
            html.Div(
                [
                    field("Across", dcc.Dropdown(options, across, id="x", clearable=False)),
                    field("Up", dcc.Dropdown(options, "best_val_nll", id="y", clearable=False)),
                    field("Colour", dcc.Dropdown(colours, None, id="colour")),
                    field("Axes", _logs()),
                ],
                className="controls",
            ),
            graph("scatter"),
        ),
        card("What differs between them", html.Div(id="differences"), wide=True),
    ]


def register(app: dash.Dash, site: Site) -> None:
    """What happens on this page."""
    keep_zooms(app, GRAPHS)

    @app.callback(
        Output("compared-seen", "data"),
        Input("tick", "n_intervals"),
        State("compared-seen", "data"),
        State("compared", "data"),
        State("of", "value"),
        prevent_initial_call=True,
    )
    def look(_tick: int, seen: int, keys: list[str], of: str) -> object:
        version = site.catalog.refresh()
        if version == seen:
            raise dash.exceptions.PreventUpdate
        changed, gone = site.catalog.changed_since(seen)
        # Points of other runs move with every epoch of a study; curves only with their own run.
        concerned = of == "all" or set(keys) & {*changed, *gone}
        return version if concerned else dash.no_update

    @app.callback(
        drawn_into("curves"),
        drawn_into("rates"),
        Output("cautions", "children"),
        Input("compared-seen", "data"),
        Input("along", "value"),
        Input("excess", "value"),
        Input("log-x", "value"),
        Input("smoothing", "value"),
        Input("theme", "data"),
        State("compared", "data"),
    )
    def learned(
        _seen: int,
        along: Any,
        excess: str,
        log_x: str,
        smoothing: float,
        theme: str,
        keys: list[str],
    ) -> tuple[object, ...]:
        records, missing = _records(site, keys)
        axis: Any = {"along": along, "log_x": bool(log_x), "theme": theme_of(theme)}
        cautions = differences.cautions(records)
        told = [notice(each, kind="caution") for each in cautions]
        told += [notice(each, kind="fault") for each in missing]
        return (
            learning.curves(records, excess=bool(excess), smoothing=smoothing or 0.0, **axis),
            learning.rates(records, **axis),
            told,
        )

    @app.callback(
        drawn_into("parallel"),
        drawn_into("importance"),
        Input("compared-seen", "data"),
        Input("of", "value"),
        Input("theme", "data"),
        State("compared", "data"),
    )
    def points(_seen: int, of: str, theme: str, keys: list[str]) -> tuple[object, ...]:
        rows = _rows(site, keys, of)
        parameters = [each.name for each in tables.columns(rows) if each.group == "parameters"]
        shown = [name for name in parameters if name in tables.differing(rows)][:MOST_LINES]
        look = theme_of(theme)
        try:
            shares = figures.importances(importance.importance(rows), look)
        except InputError as error:
            shares = style.sentence(str(error), look)
        return figures.parallel(rows, shown, look), shares

    @app.callback(
        drawn_into("scatter"),
        Input("compared-seen", "data"),
        Input("of", "value"),
        Input("x", "value"),
        Input("y", "value"),
        Input("colour", "value"),
        Input("logs", "value"),
        Input("theme", "data"),
        State("compared", "data"),
    )
    def scattered(
        _seen: int,
        of: str,
        x: str,
        y: str,
        colour: str,
        logs: list[str],
        theme: str,
        keys: list[str],
    ) -> object:
        axes: Any = {"log_x": "x" in (logs or ()), "log_y": "y" in (logs or ())}
        rows = _rows(site, keys, of)
        return figures.scatter(rows, x, y, colour, theme=theme_of(theme), **axes)

    @app.callback(
        drawn_into("pareto"),
        Input("compared-seen", "data"),
        Input("of", "value"),
        Input("cost", "value"),
        Input("theme", "data"),
        State("compared", "data"),
    )
    def paretod(_seen: int, of: str, cost: str | None, theme: str, keys: list[str]) -> object:
        if cost is None:
            return style.sentence("None of these runs tells what it cost.", theme_of(theme))
        return figures.pareto(_rows(site, keys, of), cost, theme_of(theme))

    @app.callback(
        Output("differences", "children"),
        Input("compared-seen", "data"),
        State("compared", "data"),
    )
    def differ(_seen: int, keys: list[str]) -> object:
        return _differences(_records(site, keys)[0])


def _records(site: Site, keys: Sequence[str]) -> tuple[Records, list[str]]:
    """The runs' records, and a sentence for each that cannot be read."""
    records: Records = {}
    missing = []
    for key in keys:
        try:
            records[key] = site.catalog.record(key)
        except KeyError:
            missing.append(f"There is no run {key} any more.")
        except InputError as error:
            missing.append(str(error))
    return records, missing


def _rows(site: Site, keys: Sequence[str], of: str) -> list[Row]:
    """Rows of the chosen runs, or of all runs of their studies."""
    rows, chosen = site.catalog.rows(), set(keys)
    if of == "few":
        return [row for row in rows if row["run"] in chosen]
    studies = {row["study"] for row in rows if row["run"] in chosen}
    return [row for row in rows if row["study"] in studies]


def _differences(records: Mapping[str, RunRecord]) -> object:
    rows = differences.difference(records)
    if not rows:
        few = "A single run differs from nothing." if len(records) < 2 else "Nothing differs."
        return notice(few)
    names = {key: tables.short(key) for key in records}
    return listing(rows, heads={"group": "", "setting": "setting", **names})


def _back(query: Query) -> html.A:
    return html.A("Back to the table", href=f"{address.ROOT}{query}", className="back")


def _smoothing() -> html.Div:
    marks = {each: f"{each:g}" for each in (0, 0.5, 0.9)}
    return html.Div(
        dcc.Slider(0, 0.98, 0.02, value=0, marks=marks, id="smoothing"), className="slide"
    )


def _one_of(name: str, options: Mapping[str, str]) -> dcc.RadioItems:
    return choice(name, options, next(iter(options), ""))


def _logs() -> dcc.Checklist:
    options = [{"label": "log across", "value": "x"}, {"label": "log up", "value": "y"}]
    return dcc.Checklist(options, [], id="logs", className="choice")
