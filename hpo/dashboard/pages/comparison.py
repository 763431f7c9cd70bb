"""The page of a few runs side by side: learning curves, costs, parameters and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dash
from dash import Input, Output, State, dcc, html

from data_prep.errors import InputError
from hpo.dashboard import parts, style
from hpo.dashboard.address import Query
from hpo.dashboard.parts import THEME, TICK, Part, Site, drawn_into, theme_of
from hpo.dashboard.runs import differences, figures, importance, learning, tables
from hpo.records.listing import columns_of
from hpo.records.record import RunRecord
from hpo.records.table import Row

COSTS = ("flops_per_event", "parameters", "seconds")
"""Costs that an NLL can be drawn against, if the runs tell of them."""

WHICH = {"all": "all runs of these studies", "few": "only those chosen"}
LOGS = {"x": "log across", "y": "log up"}

Keys = list[str]
Records = dict[str, RunRecord]

GRAPHS = ("curves", "rates", "importance", "scatter", "pareto")

SEEN = Input("compared-seen", "data")
OF = Input("of", "value")
KEYS = State("compared", "data")


def layout(site: Site, query: Query) -> list[Part]:
    """The page of the runs that its address names."""
    back = parts.back(query)
    if not query.runs:
        return [parts.notice("No runs are chosen: choose some in the table."), back]
    rows = site.catalog.rows()
    axes = {each.name: each.label for each in tables.axes(rows)}
    costs = {name: axes[name] for name in COSTS if name in axes}
    searched = tables.parameters(columns_of(rows))
    across = next((name for name in searched if name in axes), "best_epoch")
    colours = {each.name: each.label for each in tables.columns(rows)}
    return [
        dcc.Store(id="compared", data=list(query.runs)),
        dcc.Store(id="compared-seen", data=site.catalog.version),
        html.Div([html.H1(f"{len(query.runs)} runs compared"), back], className="head"),
        html.Div(id="cautions"),
        parts.card(
            "How they learned",
            parts.controls(
                parts.choice("Along", "along", parts.ALONG, "epoch"),
                parts.choice("Show", "excess", {"": "NLL", "yes": "above the best"}, ""),
                parts.choice("Axis", "log-x", {"": "linear", "yes": "logarithmic"}, ""),
                parts.field(
                    "Smoothing",
                    html.Div(dcc.Slider(0, 0.98, 0.02, value=0, id="smoothing"), className="slide"),
                ),
            ),
            parts.graph("curves", height=440),
            wide=True,
        ),
        parts.card(
            "Loss rate",
            parts.graph("rates"),
            note="How fast the smoothed objective falls; below the line a run stops early.",
        ),
        parts.card(
            "NLL against cost",
            parts.choice("Cost", "cost", costs, next(iter(costs), "")),
            parts.graph("pareto"),
        ),
        parts.controls(parts.choice("The pictures below show", "of", WHICH, "all"), more="wide"),
        parts.card(
            "Which parameters matter",
            parts.graph("importance"),
            note="PED-ANOVA (Watanabe et al. 2023): what sets the better runs apart. Not its sign.",
        ),
        parts.card(
            "Any two quantities",
            parts.controls(
                parts.field("Across", dcc.Dropdown(axes, across, id="x", clearable=False)),
                parts.field("Up", dcc.Dropdown(axes, "best_val_nll", id="y", clearable=False)),
                parts.field("Colour", dcc.Dropdown(colours, None, id="colour")),
                parts.field("Axes", dcc.Checklist(LOGS, [], id="logs", className="choice")),
            ),
            parts.graph("scatter"),
        ),
        parts.card("What differs between them", html.Div(id="differences"), wide=True),
    ]


def register(app: dash.Dash, site: Site) -> None:
    """Register the callbacks of this page."""
    parts.keep_zooms(app, GRAPHS)

    @app.callback(
        Output("compared-seen", "data"),
        TICK,
        State("compared-seen", "data"),
        KEYS,
        State("of", "value"),
        prevent_initial_call=True,
    )
    def look(_tick: int, seen: int, keys: list[str], of: str) -> object:
        version = site.catalog.refresh()
        if version == seen:
            raise dash.exceptions.PreventUpdate
        # Points of other runs move with every epoch of a study; curves only with their own run.
        concerned = of == "all" or site.catalog.changed_since(seen) & set(keys)
        return version if concerned else dash.no_update

    @app.callback(
        drawn_into("curves"),
        drawn_into("rates"),
        Output("cautions", "children"),
        SEEN,
        Input("along", "value"),
        Input("excess", "value"),
        Input("log-x", "value"),
        Input("smoothing", "value"),
        THEME,
        KEYS,
    )
    def learned(
        _seen: int, along: Any, excess: str, log_x: str, smoothing: float, theme: str, keys: Keys
    ) -> tuple[object, ...]:
        records, missing = _records(site, keys)
        axis: Any = {"along": along, "log_x": bool(log_x), "theme": theme_of(theme)}
        told = differences.cautions(records.values())
        notices = [parts.notice(each, kind="caution") for each in told]
        notices += [parts.notice(each, kind="fault") for each in missing]
        return (
            learning.curves(records, excess=bool(excess), smoothing=smoothing or 0.0, **axis),
            learning.rates(records, **axis),
            notices,
        )

    @app.callback(drawn_into("importance"), SEEN, OF, THEME, KEYS)
    def explained(_seen: int, of: str, theme: str, keys: Keys) -> object:
        try:
            shares = importance.importance(_rows(site, keys, of))
        except InputError as error:
            return style.sentence(str(error), theme_of(theme))
        return figures.importances(shares, theme_of(theme))

    chosen = [Input(name, "value") for name in ("x", "y", "colour", "logs")]

    @app.callback(drawn_into("scatter"), SEEN, OF, *chosen, THEME, KEYS)
    def scattered(
        _seen: int, of: str, x: str, y: str, colour: str, logs: Keys, theme: str, keys: Keys
    ) -> object:
        axes: Any = {"log_x": "x" in (logs or ()), "log_y": "y" in (logs or ())}
        rows = _rows(site, keys, of)
        return figures.scatter(rows, x, y, colour, theme=theme_of(theme), **axes)

    @app.callback(drawn_into("pareto"), SEEN, OF, Input("cost", "value"), THEME, KEYS)
    def traded(_seen: int, of: str, cost: str | None, theme: str, keys: Keys) -> object:
        if cost is None:
            return style.sentence("None of these runs tells what it cost.", theme_of(theme))
        return figures.pareto(_rows(site, keys, of), cost, theme_of(theme))

    @app.callback(Output("differences", "children"), SEEN, KEYS)
    def differ(_seen: int, keys: Keys) -> object:
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
        return parts.notice(few)
    names = {key: tables.short(key) for key in records}
    return parts.listing(rows, heads={"group": "", "setting": "setting", **names})
