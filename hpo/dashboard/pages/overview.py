"""The table of all runs: filtered, sorted, chosen for comparison, taken away as CSV or LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import dash
from dash import Input, Output, State, ctx, dcc, html

from data_prep.errors import InputError
from hpo.dashboard import address, parts, style
from hpo.dashboard.address import MOST, Query
from hpo.dashboard.pages.grid import Table, example, grid, matching, table_of, usual_names
from hpo.dashboard.pages.summary import cards, chips, going_on, summary
from hpo.dashboard.parts import Part, Site, drawn_into, theme_of
from hpo.dashboard.runs import figures, tables
from hpo.records.listing import Format, render
from hpo.records.table import Row

BEST = 5
"""Runs that the button takes."""

READ = 3
"""Looks for changes after which a person has seen the table, and may turn to a run."""

COUNTED = 5
"""Looks for changes after which the time that is left is told anew, though no run changed."""

BEST_SO_FAR = "The lowest NLL so far over time"

FILES: Mapping[Format, str] = {"csv": "runs.csv", "latex": "runs.tex", "json": "runs.json"}
"""Export: format and name of the file."""

START = """No run is here yet.

    hpo launch --trials 30

trains some; they appear on this page by themselves."""


def layout(site: Site, query: Query) -> list[Part]:
    """The page with everything that its address says."""
    rows, fault = site.catalog.rows(), []
    chosen = query.columns or tuple(usual_names(rows))
    try:
        table = table_of(rows, query)
    except InputError as error:
        table = table_of(rows, replace(query, where=""))
        fault = [parts.notice(f"{error} (all runs are shown)", kind="fault")]
    small = html.Ol(cards(table), id="cards", className="cards")
    wide = html.Div(grid(table, query), className="grid")
    content = [*_controls(rows, table, query, chosen, fault), small, wide, *_actions(query)]
    return [
        dcc.Store(
            id="seen", data=[site.catalog.version, str(replace(query, runs=(), columns=chosen))]
        ),
        dcc.Store(id="asked", data={"columns": list(query.columns), "most": MOST}),
        dcc.Download(id="file"),
        dcc.Store(id="table-drawn"),
        parts.title("Runs", chips(rows, query)),
        html.Div(
            [
                html.Div(summary(table), id="summary", className="parts"),
                html.Div(going_on(site), id="going-on", className="parts"),
            ],
            className="summary",
        ),
        parts.card("Best so far", html.Div(id="progress", className="progress"), wide=True),
        parts.card("", *content, wide=True),
        html.Pre(START, id="start", className="start", hidden=bool(rows)),
    ]


def register(app: dash.Dash, site: Site) -> None:
    """Register the callbacks of this page."""
    parts.keep_zooms(app, ("best-so-far",))

    # The graph's scripts would keep the table waiting.
    app.clientside_callback(  # type: ignore[no-untyped-call]
        dash.ClientsideFunction("page", "once"),
        Output("table-drawn", "data"),
        Input("grid", "virtualRowData"),
        State("table-drawn", "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("progress", "children"), Input("table-drawn", "data"), prevent_initial_call=True
    )
    def make_room(_drawn: bool) -> object:
        return parts.graph("best-so-far", BEST_SO_FAR, height=190)

    @app.callback(
        drawn_into("best-so-far"), Input("seen", "data"), Input("where", "value"), parts.THEME
    )
    def best_so_far(_seen: int, where: str, theme: str) -> object:
        rows = site.catalog.rows()
        try:
            groups = tables.by_data(matching(rows, where or ""))
        except InputError:  # the table says what is wrong
            groups = tables.by_data(rows)
        data, group = next(iter(groups.items()), ("", []))
        figure = figures.progress(group, theme_of(theme))
        if len(groups) > 1:
            name = style.plain(tables.data_names(rows)[data])
            style.note(figure, theme_of(theme), f"runs on {name}", x=1, xanchor="right", yshift=0)
        return figure

    chosen = [Input("where", "value"), Input("columns", "value"), Input("differing", "value")]

    @app.callback(
        Output("grid", "rowData"),
        Output("grid", "columnDefs"),
        Output("columns", "options"),
        Output("summary", "children"),
        Output("cards", "children"),
        Output("start", "hidden"),
        Output("fault", "children"),
        Output("seen", "data"),
        Output("going-on", "children"),
        parts.TICK,
        *chosen,
        State("seen", "data"),
        prevent_initial_call=True,
    )
    def update(
        tick: int, where: str, columns: list[str], differing: list[str], seen: list[Any]
    ) -> tuple[object, ...]:
        query = Query(where=where or "", columns=tuple(columns or ()), differing=bool(differing))
        now = [site.catalog.refresh(), str(query)]
        if site.densities and tick == READ:
            site.densities.warm_up()
        # Not by what triggered this: Dash drops the answer about a filter if it asks for new runs
        # before that has come.
        if now == seen:
            if site.progress is None or tick % COUNTED:
                raise dash.exceptions.PreventUpdate
            return *(dash.no_update,) * 8, going_on(site)
        rows = site.catalog.rows()
        try:
            table = table_of(rows, query)
        except InputError as error:
            kept = (dash.no_update,) * 5
            told = parts.notice(f"{error} (the table is as it was before)", kind="fault")
            return *kept, bool(rows), told, now, dash.no_update
        # With new heads, widths that a person chose are lost.
        same = isinstance(seen, list) and seen[1:] == now[1:]
        heads = dash.no_update if same else table.heads
        options = _options(table.known)
        above, small = summary(table), cards(table)
        shown = table.rows, heads, options, above, small, bool(rows)
        return *shown, "", now, going_on(site)

    @app.callback(
        Output("grid", "selectedRows"),
        Input("best", "n_clicks"),
        Input("none", "n_clicks"),
        State("grid", "virtualRowData"),
        prevent_initial_call=True,
    )
    def choose(_best: int, _none: int, shown: list[Row] | None) -> object:
        if ctx.triggered_id == "none":
            return []
        ended = [row for row in shown or () if row["rank"] is not None]
        of_first = [row for row in ended if row["data set"] == ended[0]["data set"]]
        return {"ids": [row["run"] for row in sorted(of_first, key=_rank)[:BEST]]}

    @app.callback(
        Output("file", "data"),
        *(Input(f"as-{kind}", "n_clicks") for kind in FILES),
        State("grid", "virtualRowData"),
        State("grid", "columnState"),
        prevent_initial_call=True,
    )
    def take(*given: Any) -> object:
        shown, state = given[-2:]
        kind: Format = str(ctx.triggered_id).removeprefix("as-")  # type: ignore[assignment]
        text = render(_listed(site, shown or [], state), kind)
        return {"content": text + "\n", "filename": FILES[kind]}

    app.clientside_callback(  # type: ignore[no-untyped-call]
        dash.ClientsideFunction("page", "chosen"),
        Output("compare", "href"),
        Output("compare", "children"),
        Output("compare", "className"),
        Input("grid", "selectedRows"),
        *chosen,
        State("asked", "data"),
    )


def _controls(
    rows: Sequence[Row], table: Table, query: Query, chosen: Sequence[str], fault: Sequence[Part]
) -> list[Part]:
    where = dcc.Input(
        id="where",
        value=query.where,
        debounce=0.4,
        placeholder=example(rows),
        list="names",
        maxLength=1000,
        className="text",
    )
    columns = dcc.Dropdown(_options(table.known), list(chosen), id="columns", multi=True)
    # The browser completes whole texts, so that a script puts what stands before a name before it.
    names = [html.Option(value=each.name, **_named(each.name)) for each in table.known]
    differing = dcc.Checklist(
        {"yes": "only what differs"},
        ["yes"] if query.differing else [],
        id="differing",
        className="choice",
    )
    return [
        parts.controls(parts.field("Filter", where), parts.field("Columns", columns), differing),
        html.Datalist(names, id="names"),
        html.Div(fault, id="fault", role="alert"),
    ]


def _named(name: str) -> dict[str, Any]:
    return {"data-name": name}


def _actions(query: Query) -> list[Part]:
    takes = [html.Button(kind.upper(), id=f"as-{kind}", className="plain") for kind in FILES]
    return [
        html.Div(
            [
                html.A("Compare", id="compare", href=address.COMPARE + str(Query(runs=query.runs))),
                html.Button(f"Choose the best {BEST}", id="best", className="plain"),
                html.Button("Choose none", id="none", className="plain"),
                html.Span("Take away what is shown:", className="hint push"),
                *takes,
            ],
            className="actions",
        ),
        html.P(
            f"Choose up to {MOST} runs to compare them. The address holds filter, columns and "
            "choice: it can be sent to a colleague who has this dashboard open.",
            className="hint",
        ),
    ]


def _options(known: Sequence[tables.Column]) -> list[dict[str, str]]:
    return [{"label": each.name, "value": each.name, "title": each.label} for each in known]


def _rank(row: Row) -> int:
    return int(str(row["rank"]))


def _listed(
    site: Site, shown: Sequence[Row], state: Sequence[Mapping[str, Any]] | None
) -> list[Row]:
    """The grid's rows in its order, with its columns in theirs, and values not made plain."""
    order = [str(each["colId"]) for each in state or () if not each.get("hide")]
    rows = {str(row["run"]): row for row in site.catalog.rows()}
    known = {each.name for each in tables.columns(list(rows.values()))}
    names = [name for name in order if name in known]
    ranks = {str(row["run"]): row.get("rank") for row in shown}
    return [
        {"run": key, "rank": rank, **{name: rows[key].get(name) for name in names}}
        for key, rank in ranks.items()
        if key in rows
    ]
