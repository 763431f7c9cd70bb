"""The page of a few runs side by side: learning curves, costs, parameters and differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import dash
from dash import ALL, Input, Output, State, dcc, html

from data_prep.errors import InputError
from data_prep.words import numbers
from data_prep.words.numbers import counted
from hpo.dashboard import address, parts, style
from hpo.dashboard.address import Query
from hpo.dashboard.parts import THEME, TICK, Part, Site, drawn_into, theme_of
from hpo.dashboard.runs import differences, figures, importance, learning, tables
from hpo.records.listing import columns_of
from hpo.records.record import RunRecord
from hpo.records.table import Row, ranked

COSTS = ("flops_per_event", "parameters", "seconds")
"""Costs that an NLL can be drawn against, if the runs tell of them."""

WHICH = {"all": "all runs of these studies", "few": "only those chosen"}
LOGS = {"x": "log across", "y": "log up"}

Keys = list[str]
Records = dict[str, RunRecord]

GRAPHS = ("curves", "rates", "scatter", "pareto")
ANY: Any = {"multiple": ALL}

ROUGH = 8
"""Finished runs below which an importance is told to be rough."""

SEEN = Input("compared-seen", "data")
OF = Input("of", "value")
KEYS = State("compared", "data")


def layout(site: Site, query: Query) -> list[Part]:
    """The page of the runs that its address names: of those on the data of the first."""
    back = parts.back(query)
    if not query.runs:
        return [parts.title("Comparison", back), parts.notice("Choose some runs in the table.")]
    groups = _by_data(site, query.runs)
    keys = groups.pop(next(iter(groups)))
    rows = site.catalog.rows()
    axes = {each.name: each.label for each in tables.axes(rows)}
    costs = {name: axes[name] for name in COSTS if name in axes}
    searched = tables.parameters(columns_of(rows))
    across = next((name for name in searched if name in axes), "best_epoch")
    colours = {each.name: each.label for each in tables.columns(rows)}
    return [
        dcc.Store(id="compared", data=keys),
        dcc.Store(id="compared-seen", data=site.catalog.version),
        parts.title(f"{counted(len(keys), 'run')} compared", back),
        *map(_apart, groups.values()),
        html.Div(id="cautions"),
        parts.card("What differs, the best run first", html.Div(id="differences"), wide=True),
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
            parts.graph("curves", "Training and validation NLL of each run", height=440),
            wide=True,
        ),
        parts.controls(parts.choice("The pictures below show", "of", WHICH, "all"), more="wide"),
        parts.card(
            "NLL against each parameter, the most important first",
            html.Div(id="multiples", className="multiples"),
            note="Importance: PED-ANOVA (Watanabe et al. 2023), of the runs that came to their own "
            "end. Coloured: the runs compared. Open circles: pruned.",
            wide=True,
        ),
        parts.card(
            "NLL against cost",
            parts.choice("Cost", "cost", costs, next(iter(costs), "")),
            parts.graph("pareto", "NLL of each run against its cost"),
        ),
        parts.card(
            "Any two quantities",
            parts.controls(
                parts.field("Across", dcc.Dropdown(axes, across, id="x", clearable=False)),
                parts.field("Up", dcc.Dropdown(axes, "best_val_nll", id="y", clearable=False)),
                parts.field("Colour", dcc.Dropdown(colours, None, id="colour")),
                parts.field("Axes", dcc.Checklist(LOGS, [], id="logs", className="choice")),
            ),
            parts.graph("scatter", "Two quantities of each run against each other"),
        ),
        parts.card(
            "Loss rate",
            parts.graph("rates", "Loss rate of each run along its training"),
            note="How fast the smoothed objective falls; below the line a run stops early.",
            wide=True,
        ),
    ]


def _by_data(site: Site, keys: Sequence[str]) -> dict[object, Keys]:
    """The keys by the data of their runs, that of the first run first.

    A run that is not there any more, or cannot be read, is said to be so among the first.
    """
    data = {str(row["run"]): row.get("fingerprint") for row in site.catalog.rows()}
    first = next((data[key] for key in keys if data.get(key)), None)
    found: dict[object, Keys] = {first: []}
    for key in keys:
        found.setdefault(data.get(key) or first, []).append(key)
    return found


def _apart(keys: Keys) -> Part:
    """The way to the comparison of chosen runs on other data."""
    told = f"{counted(len(keys), 'chosen run')} used other data, whose NLLs do not compare: "
    href = f"{address.COMPARE}{Query(runs=tuple(keys))}"
    link = html.A("compare them apart", href=href)
    return html.P([told, link], className="notice caution")


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

    @app.callback(Output("multiples", "children"), SEEN, OF, THEME, KEYS)
    def explained(_seen: int, of: str, theme: str, keys: Keys) -> object:
        return _multiples(_rows(site, keys, of), style.colours_of(keys, theme_of(theme)), theme)

    chosen = [Input(name, "value") for name in ("x", "y", "colour", "logs")]

    @app.callback(drawn_into("scatter"), SEEN, OF, *chosen, THEME, KEYS)
    def scattered(
        _seen: int, of: str, x: str, y: str, colour: str, logs: Keys, theme: str, keys: Keys
    ) -> object:
        axes: Any = {"log_x": "x" in (logs or ()), "log_y": "y" in (logs or ())}
        rows = _rows(site, keys, of)
        own = style.colours_of(keys, theme_of(theme))
        return figures.scatter(rows, x, y, colour, theme=theme_of(theme), own=own, **axes)

    @app.callback(drawn_into("pareto"), SEEN, OF, Input("cost", "value"), THEME, KEYS)
    def traded(_seen: int, of: str, cost: str | None, theme: str, keys: Keys) -> object:
        if cost is None:
            return style.sentence("None of these runs tells what it cost.", theme_of(theme))
        own = style.colours_of(keys, theme_of(theme))
        return figures.pareto(_rows(site, keys, of), cost, theme_of(theme), own)

    @app.callback(Output("differences", "children"), SEEN, THEME, KEYS)
    def differ(_seen: int, theme: str, keys: Keys) -> object:
        own = style.colours_of(keys, theme_of(theme))
        return _differences(site, _records(site, keys)[0], own)

    for name in (*GRAPHS, ANY):
        figure = [] if name is ANY else [State(name, "figure")]
        app.clientside_callback(  # type: ignore[no-untyped-call]
            dash.ClientsideFunction("page", "highlight"), Input(name, "hoverData"), *figure
        )


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
    """Rows of the chosen runs, or of all runs of their studies that used the same data."""
    rows, chosen = site.catalog.rows(), set(keys)
    few = [row for row in rows if row["run"] in chosen]
    if of == "few":
        return few
    groups = {(row["study"], row.get("fingerprint")) for row in few}
    return [row for row in rows if (row["study"], row.get("fingerprint")) in groups]


def _multiples(rows: Sequence[Row], own: Mapping[str, str], theme: str) -> list[Part]:
    """A small graph for each parameter that differs, by its importance where that can be told."""
    names = [
        name
        for name in tables.parameters(columns_of(rows))
        if len({repr(row[name]) for row in rows if row.get(name) is not None}) > 1
    ]
    told: list[Part] = []
    try:
        shares = dict(importance.importance(rows))
    except InputError as error:
        shares, told = {}, [parts.notice(tables.capital(f"{error}."))]
    names.sort(key=lambda name: -shares.get(name, -1.0))
    drawn = {
        name: figures.multiple(rows, name, shares.get(name), own, theme_of(theme)) for name in names
    }
    graphs = [
        parts.drawn(drawn[name], f"NLL against {name}", {"multiple": name}, height=270)
        for name in names
    ]
    if 0 < (ended := len(tables.ranks(rows))) < ROUGH:
        told.append(parts.notice(f"Of {counted(ended, 'finished run')}: the importance is rough."))
    return [*graphs, *told] or [parts.notice("No parameter differs between these runs.")]


def _differences(site: Site, records: Mapping[str, RunRecord], own: Mapping[str, str]) -> object:
    """A row for each run, the best first, with the settings that differ."""
    rows = {str(row["run"]): row for row in site.catalog.rows() if row["run"] in records}
    records = {key: one for key, one in records.items() if key in rows}
    order = [str(row["run"]) for row in ranked(rows.values())]
    order += sorted(
        (key for key in records if key not in order),
        key=lambda key: _or_last(tables.objective(rows[key])),
    )
    if not order:
        return parts.notice("None of these runs can be read.")
    names, differing = tables.names(records), differences.difference(records)
    best = order[0]
    heads = ["run", "state", "validation NLL", "above the best", "test NLL", *differing]
    body = []
    for key in order:
        lead = html.Th(
            [
                html.Span(className="swatch", style={"backgroundColor": own[key]}),
                html.A(names[key], href=address.of_run(key)),
            ],
            scope="row",
        )
        cells = [html.Td(each) for each in _results(rows[key], rows[best])]
        for values in differing.values():
            same = repr(values[key]) == repr(values[best])
            kind = "as-best" if same and key != best else "" if same else "other"
            cells.append(html.Td(tables.text_of(values[key]), className=kind))
        marked: Any = {"data-run": key}
        body.append(html.Tr([lead, *cells], **marked))
    head = html.Tr([html.Th(each, scope="col") for each in heads])
    table = html.Table([html.Thead(head), html.Tbody(body)], className="ranked")
    unit = html.P(f"NLLs in {tables.NLL}. Tinted: other than in the best run.", className="hint")
    return html.Div([unit, html.Div(table, className="scroll", tabIndex=0)])


def _or_last(nll: float | None) -> float:
    return math.inf if nll is None else nll


def _results(row: Row, best: Row) -> list[str]:
    """State, NLLs, and how far the run is above the best one."""
    nll, least = tables.objective(row), tables.objective(best)
    test, error = (tables.number(row.get(name)) for name in ("test_nll", "test_error"))
    above = ""
    if nll is not None and least is not None and row is not best:
        above = numbers.nll(nll - least, sign="+")
    return [
        str(row["state"]).replace("_", " "),
        tables.objective_text(row),
        above,
        "–" if test is None else numbers.with_error(test, error, between="±"),
    ]
