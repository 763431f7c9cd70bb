"""The table of all runs: filtered, sorted, chosen for comparison, taken away as CSV or LaTeX."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dash
import dash_ag_grid
from dash import Input, Output, State, ctx, dcc, html

from data_prep.errors import InputError
from data_prep.where import Filter
from data_prep.words import numbers
from hpo.dashboard import address, parts
from hpo.dashboard.address import MOST, Query
from hpo.dashboard.parts import Part, Site
from hpo.dashboard.runs import tables
from hpo.records.listing import Format, render
from hpo.records.table import IDENTITY, Row, ranked, usual

BEST = 5
"""Runs that the button takes."""

MOST_CHIPS = 12
"""Studies, and data sets, that have a link of their own; the filter finds the others."""

STATES = ("complete", "stopped_early", "running", "pruned", "failed", "unreadable")
"""In the order in which they are counted."""

FIRST = (
    "state",
    "best_val_nll",
    "best_held_out_nll",
    "test_nll",
    "test_error",
    "epochs",
    "seconds",
)
"""Columns that come before the parameters."""

FILES: Mapping[Format, str] = {"csv": "runs.csv", "latex": "runs.tex", "json": "runs.json"}
"""Export: format and name of the file."""

NUMBER = {
    "filter": "agNumberColumnFilter",
    "type": "numericColumn",
    # Rows without a value last, whichever way the column is sorted.
    "comparator": {"function": "missingLast"},
}
"""Options of a column of numbers."""

START = """No run is here yet.

    hpo launch --trials 30

trains some; they appear on this page by themselves."""


def layout(site: Site, query: Query) -> list[Part]:
    """The page with everything that its address says."""
    rows = site.catalog.rows()
    table = _table(rows, query)
    content = [*_controls(rows, table, query), _grid(table, query), *_actions(query)]
    return [
        dcc.Store(id="seen", data=site.catalog.version),
        dcc.Store(id="asked", data={"columns": list(query.columns), "most": MOST}),
        dcc.Download(id="file"),
        parts.title("Runs", _chips(rows, query)),
        html.Div(_summary(table), id="summary", className="summary"),
        parts.card("", *content, wide=True),
        html.Pre(START, id="start", className="start", hidden=bool(rows)),
    ]


def register(app: dash.Dash, site: Site) -> None:
    """Register the callbacks of this page."""

    chosen = [Input("where", "value"), Input("columns", "value"), Input("differing", "value")]

    @app.callback(
        Output("grid", "rowData"),
        Output("grid", "columnDefs"),
        Output("columns", "options"),
        Output("summary", "children"),
        Output("start", "hidden"),
        Output("fault", "children"),
        Output("seen", "data"),
        parts.TICK,
        *chosen,
        State("seen", "data"),
        prevent_initial_call=True,
    )
    def update(
        _tick: int, where: str, columns: list[str], differing: list[str], seen: int
    ) -> tuple[object, ...]:
        version = site.catalog.refresh()
        by_itself = ctx.triggered_id == "tick"
        if by_itself and version == seen:
            raise dash.exceptions.PreventUpdate
        rows = site.catalog.rows()
        query = Query(where=where or "", columns=tuple(columns or ()), differing=bool(differing))
        try:
            table = _table(rows, query)
        except InputError as error:
            kept = (dash.no_update,) * 4
            return *kept, bool(rows), parts.notice(str(error), kind="fault"), version
        # With new heads, widths that a person chose are lost.
        heads = dash.no_update if by_itself else table.heads
        options = _options(table.known)
        return table.rows, heads, options, _summary(table), bool(rows), "", version

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """The rows and columns that are shown."""

    known: Sequence[tables.Column]
    """All columns that there are."""
    found: Sequence[Row]
    """Runs that match, with all of their columns."""
    rows: list[Row]
    """Rows of the grid."""
    heads: list[dict[str, Any]]
    """Columns of the grid."""


def _table(rows: Sequence[Row], query: Query) -> _Table:
    """Raises FilterError if the filter is none."""
    known = tables.columns(rows)
    by_name = {each.name: each for each in known}
    where = Filter.parse(query.where, ["run", *by_name]) if query.where.strip() else None
    found = [row for row in rows if where is None or where.matches(row)]
    asked = [name for name in query.columns if name in by_name] or _usual(rows)
    shown = tables.differing(found) if query.differing else asked
    ranks, data = tables.ranks(found), tables.data_names(rows)
    kept = ["run", "state", *shown]
    return _Table(
        known=known,
        found=found,
        rows=[
            {
                "rank": ranks.get(str(row["run"])),
                "data set": data.get(str(row.get("fingerprint") or "")),
                **{name: _plain(row.get(name)) for name in kept},
            }
            for row in found
        ],
        heads=[
            _run_head(found),
            *([DATA] if len(tables.by_data(found)) > 1 else []),
            RANK,
            *(_head(by_name[name]) for name in shown),
        ],
    )


def _usual(rows: Sequence[Row]) -> list[str]:
    """The columns that are shown at first: results before parameters."""
    names = [name for name in usual(rows) if name not in ("run", *IDENTITY)]
    return [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]


def _controls(rows: Sequence[Row], table: _Table, query: Query) -> list[Part]:
    chosen = list(query.columns) or _usual(rows)
    where = dcc.Input(
        id="where",
        value=query.where,
        debounce=0.4,
        placeholder="blocks >= 3 and activation == 'silu'",
        maxLength=1000,
        className="text",
    )
    columns = dcc.Dropdown(_options(table.known), chosen, id="columns", multi=True)
    differing = dcc.Checklist(
        {"yes": "only what differs"},
        ["yes"] if query.differing else [],
        id="differing",
        className="choice",
    )
    return [
        parts.controls(parts.field("Filter", where), parts.field("Columns", columns), differing),
        html.Div(id="fault", role="alert"),
    ]


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


def _grid(table: _Table, query: Query) -> dash_ag_grid.AgGrid:
    there = {row["run"] for row in table.rows}
    return dash_ag_grid.AgGrid(
        id="grid",
        rowData=table.rows,
        columnDefs=table.heads,
        selectedRows={"ids": [key for key in query.runs if key in there]},
        getRowId="params.data.run",
        defaultColDef={"resizable": True, "sortable": True, "filter": True, "minWidth": 80},
        rowClassRules={"lesser": "['pruned', 'failed', 'unreadable'].includes(params.data.state)"},
        dashGridOptions={
            "theme": {"function": "runsTheme(themeQuartz)"},
            "rowSelection": {"mode": "multiRow", "enableClickSelection": False},
            "selectionColumnDef": {"pinned": "left", "width": 44, "resizable": False},
            "suppressFieldDotNotation": True,
            "animateRows": False,
            "rowHeight": 34,
            "headerHeight": 62,
            "tooltipShowDelay": 400,
            "localeText": {"noRowsToShow": "No run matches."},
        },
        style={"height": "min(62vh, 640px)", "width": "100%"},
    )


def _run_head(found: Sequence[Row]) -> dict[str, Any]:
    longest = max((len(str(row["run"])) for row in found), default=0)
    return {
        "field": "run",
        "headerName": "run",
        "pinned": "left",
        "cellRenderer": "RunLink",
        "filter": "agTextColumnFilter",
        "initialWidth": 40 + 8 * min(longest, 46),
    }


DATA = {
    "field": "data set",
    "headerName": "data set",
    "headerTooltip": "Runs of different data are ranked apart: their NLLs do not compare",
    "sort": "asc",
    "sortIndex": 0,
    "initialWidth": 120,
    "filter": "agTextColumnFilter",
}

RANK = {
    "field": "rank",
    "headerName": "rank",
    "headerTooltip": "Among the runs on these data that came to their own end, by their objective",
    "sort": "asc",
    "sortIndex": 1,
    "initialWidth": 96,
    **NUMBER,
}


def _head(column: tables.Column) -> dict[str, Any]:
    head: dict[str, Any] = {
        "field": column.name,
        "headerName": column.title,
        "headerTooltip": column.name + column.title.removeprefix(column.label),
        "wrapHeaderText": True,
        "initialWidth": 124,
        "tooltipField": column.name,
    }
    if column.name == "state":
        return head | {"cellRenderer": "RunState", "initialWidth": 132}
    if column.kind == "number":
        # NLLs stand with four decimals, so that they line up.
        digits = "nats" if column.unit == tables.NLL else "digits"
        return head | NUMBER | {"valueFormatter": {"function": f"{digits}(params.value)"}}
    return head | {"filter": "agTextColumnFilter"}


def _options(known: Sequence[tables.Column]) -> list[dict[str, str]]:
    return [{"label": each.name, "value": each.name, "title": each.label} for each in known]


def _summary(table: _Table) -> list[Part]:
    counts = Counter(str(row["state"]) for row in table.found)
    chips: list[Part] = [
        html.Span([html.B(f"{counts[state]:,}"), f" {state.replace('_', ' ')}"], className=state)
        for state in STATES
        if counts[state]
    ]
    groups, data = tables.by_data(table.found), tables.data_names(table.found)
    for print_, group in groups.items():
        for first in ranked(group)[:1]:
            key, nll = str(first["run"]), tables.objective(first) or math.nan
            where = f" on {data[print_]}" if len(groups) > 1 else ""
            told = f"best{where}: {tables.short(key)}, NLL {numbers.nll(nll)} {tables.NLL}"
            chips.append(html.A(told, href=address.of_run(key), className="best"))
    return chips


def _chips(rows: Sequence[Row], query: Query) -> Part:
    """Links to the runs of each study and each data set alone."""
    studies = Counter(str(row["study"]) for row in rows)
    data, groups = tables.data_names(rows), tables.by_data(rows)
    kinds = {
        "Study": {name: (f"study == {name!r}", count) for name, count in studies.items()},
        "Data": {
            data[each]: (f"fingerprint == {each!r}", len(group))
            for each, group in groups.items()
            if each
        },
    }
    chips: list[Part] = []
    for kind, offered in kinds.items():
        if len(offered) > 1:
            chips += [html.Span(kind, className="hint"), *_links(offered, query)]
    if chips:
        chips.append(html.A("all runs", href=address.ROOT, className="chip"))
    named: Any = {"aria-label": "Studies and data"}
    return html.Nav(chips, className="chips", **named)


def _links(offered: Mapping[str, tuple[str, int]], query: Query) -> Iterator[Part]:
    for name, (where, count) in [*offered.items()][:MOST_CHIPS]:
        chosen: Any = {"aria-current": "true"} if query.where == where else {}
        href = address.ROOT + str(Query(where=where))
        yield html.A(f"{name} ({count:,})", href=href, className="chip", **chosen)


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


def _plain(value: object) -> object:
    """The value in a type of JSON."""
    return value if value is None or isinstance(value, str | int | float) else str(value)
