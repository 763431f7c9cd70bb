"""The grid of all runs: its rows after a filter, its columns, and how they are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dash_ag_grid

from data_prep.where import Filter
from hpo.dashboard.address import Query
from hpo.dashboard.runs import tables
from hpo.records.listing import columns_of
from hpo.records.table import IDENTITY, UNREADABLE, Row, usual

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

COMPARES = re.compile(r"[<>=!()]|\b(and|or|not|in|is)\b")
"""What a filter holds, and words that are looked for do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The rows and columns that are shown."""

    known: Sequence[tables.Column]
    """All columns that there are."""
    found: Sequence[Row]
    """Runs that match, with all of their columns: the largest data set first, then by rank."""
    rows: list[Row]
    """Rows of the grid."""
    heads: list[dict[str, Any]]
    """Columns of the grid."""
    ranks: Mapping[str, int]
    data: Mapping[str, str]
    """Names of the data sets by their fingerprints."""

    def data_of(self, row: Row) -> str:
        return self.data.get(str(row.get("fingerprint") or ""), "")


def table_of(rows: Sequence[Row], query: Query) -> Table:
    """Raises FilterError if the filter is none."""
    known = tables.columns(rows)
    by_name = {each.name: each for each in known}
    found = _in_order(matching(rows, query.where))
    asked = [name for name in query.columns if name in by_name] or usual_names(rows)
    shown = tables.differing(found) if query.differing else asked
    ranks, data = tables.ranks(found), tables.data_names(rows)
    kept = ["run", "state", "epochs", *shown]
    return Table(
        known=known,
        found=found,
        ranks=ranks,
        data=data,
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
            SPARK,
            *(_head(by_name[name], found) for name in shown),
        ],
    )


def _in_order(found: Sequence[Row]) -> list[Row]:
    ranks = tables.ranks(found)
    last = len(found)
    groups = tables.by_data(found).values()
    ordered = [
        row
        for group in groups
        for row in sorted(group, key=lambda row: ranks.get(str(row["run"]), last))
    ]
    return ordered + [row for row in found if row["state"] == UNREADABLE]


def matching(rows: Sequence[Row], where: str) -> list[Row]:
    """The rows that a filter keeps; words that compare nothing are looked for in all cells.

    Raises FilterError if the filter is none.
    """
    if not where.strip():
        return list(rows)
    if not COMPARES.search(where):
        words = where.casefold().split()
        texts = [" ".join(map(str, row.values())).casefold() for row in rows]
        return [
            row
            for row, text in zip(rows, texts, strict=True)
            if all(each in text for each in words)
        ]
    names = [each.name for each in tables.columns(rows)]
    chosen = Filter.parse(where, ["run", *names])
    return [row for row in rows if chosen.matches(row)]


def example(rows: Sequence[Row]) -> str:
    """A filter by a parameter of these runs."""
    for name in tables.parameters(columns_of(rows)):
        for value in (row[name] for row in rows if row.get(name) is not None):
            return f"{name} == {value!r}, or any words"
    return "state == 'complete', or any words"


def usual_names(rows: Sequence[Row]) -> list[str]:
    """The columns that are shown at first: results before parameters."""
    names = [name for name in usual(rows) if name not in ("run", *IDENTITY)]
    return [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]


def _plain(value: object) -> object:
    """The value in a type of JSON."""
    return value if value is None or isinstance(value, str | int | float) else str(value)


NUMBER = {
    "filter": "agNumberColumnFilter",
    "type": "numericColumn",
    # Rows without a value last, whichever way the column is sorted.
    "comparator": {"function": "missingLast"},
}
"""Options of a column of numbers."""

DATA = {
    "field": "data set",
    "headerName": "data set",
    "headerTooltip": "Runs of different data are ranked apart: their NLLs do not compare",
    "initialWidth": 120,
    "filter": "agTextColumnFilter",
}

SPARK = {
    "field": "curve",
    "headerName": "validation NLL by epoch",
    "wrapHeaderText": True,
    "cellRenderer": "RunSpark",
    "sortable": False,
    "filter": False,
    "initialWidth": 124,
    "valueGetter": {"function": "params.data.epochs"},
}

RANK = {
    "field": "rank",
    "headerName": "rank",
    "headerTooltip": "Among the runs on these data that came to their own end, by their objective",
    "initialWidth": 96,
    **NUMBER,
}


def grid(table: Table, query: Query) -> dash_ag_grid.AgGrid:
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


def _width(column: tables.Column, rows: Sequence[Row]) -> int:
    """Pixels that the longest word of the head and the longest cell take."""
    words = [len(word) for word in column.title.split()]
    cells = [len(tables.text_of(row[column.name])) for row in rows if row.get(column.name)]
    return 44 + 8 * min(max(words + cells), 40)


def _head(column: tables.Column, rows: Sequence[Row]) -> dict[str, Any]:
    head: dict[str, Any] = {
        "field": column.name,
        "headerName": column.title,
        "headerTooltip": column.name + column.title.removeprefix(column.label),
        "wrapHeaderText": True,
        "initialWidth": _width(column, rows),
        "tooltipField": column.name,
    }
    if column.name == "state":
        return head | {"cellRenderer": "RunState", "initialWidth": 132}
    if column.kind == "number":
        # NLLs stand with four decimals, so that they line up.
        digits = "nats" if column.unit == tables.NLL else "digits"
        return head | NUMBER | {"valueFormatter": {"function": f"{digits}(params.value)"}}
    return head | {"filter": "agTextColumnFilter"}
