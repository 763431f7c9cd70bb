"""Above the grid: the runs by state, what is under way, the best; and the list of a phone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dash import html

from data_prep.words import numbers
from data_prep.words.numbers import counted
from hpo.dashboard import address, parts
from hpo.dashboard.address import Query
from hpo.dashboard.pages.grid import Table
from hpo.dashboard.parts import Part, Site
from hpo.dashboard.runs import tables
from hpo.records.table import Row, ranked

STATES = ("complete", "stopped_early", "running", "pruned", "failed", "unreadable")
"""In the order in which they are counted."""


MOST_CARDS = 50
"""Runs that a phone lists; the filter finds the others."""


MOST_CHIPS = 12
"""Studies, and data sets, that have a link of their own; the filter finds the others."""


def summary(table: Table) -> list[Part]:
    counts = Counter(str(row["state"]) for row in table.found)
    states = [state for state in STATES if counts[state]]
    pieces: list[Part] = [
        html.Span(className=f"{state} piece", style={"flexGrow": counts[state]}) for state in states
    ]
    bar = html.Div(pieces, className="bar", role="img", **parts.named("Runs by their state"))
    chips: list[Part] = [
        html.Span([html.B(f"{counts[state]:,}"), f" {state.replace('_', ' ')}"], className=state)
        for state in STATES
        if counts[state]
    ]
    groups, data = tables.by_data(table.found), tables.data_names(table.found)
    for print_, group in groups.items():
        for first in ranked(group)[:1]:
            key, nll = str(first["run"]), tables.objective_text(first)
            where = f" on {data[print_]}" if len(groups) > 1 else ""
            told = f"best{where}: {tables.short(key)}, NLL {nll} {tables.NLL}"
            chips.append(html.A(told, href=address.of_run(key), className="best"))
    return [bar, *chips]


def going_on(site: Site) -> list[Part]:
    """What runs and waits in each study that is not done, as the database tells it."""
    told: list[Part] = []
    for one in site.progress() if site.progress else ():
        live = [each for each in one.running if each.stale is None]
        words = [f"{counted(len(live), 'live worker')}", f"{one.waiting:,} waiting"]
        if len(live) < len(one.running):
            words.append(f"{len(one.running) - len(live)} without a worker")
        if one.eta_s is not None:
            words.append(f"done in about {numbers.duration(round(one.eta_s))}")
        told.append(html.Span(f"{one.study}: {', '.join(words)}", className="going-on"))
    return told


def cards(table: Table) -> list[Part]:
    """The first runs as a phone shows them, in place of the grid: name, NLL, state."""
    several = len(tables.by_data(table.found)) > 1
    return [_card(row, table, several=several) for row in table.found[:MOST_CARDS]]


def _card(row: Row, table: Table, *, several: bool) -> Part:
    key, state = str(row["run"]), str(row["state"])
    rank = table.ranks.get(key)
    where = f" on {table.data_of(row)}" if several else ""
    return html.Li(
        [
            html.A(tables.short(key), href=address.of_run(key)),
            html.B(tables.objective_text(row)),
            html.Span(state.replace("_", " "), className=f"state {state}"),
            html.Span("" if rank is None else f"rank {rank}{where}", className="hint"),
        ]
    )


def chips(rows: Sequence[Row], query: Query) -> Part:
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
    return html.Nav(chips, className="chips", **parts.named("Studies and data"))


def _links(offered: Mapping[str, tuple[str, int]], query: Query) -> Iterator[Part]:
    for name, (where, count) in [*offered.items()][:MOST_CHIPS]:
        chosen: Any = {"aria-current": "true"} if query.where == where else {}
        href = address.ROOT + str(Query(where=where))
        yield html.A(f"{name} ({count:,})", href=href, className="chip", **chosen)
