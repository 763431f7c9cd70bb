"""The page of the exported emulators beside the runs: from which run each is, and how good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dash import html

from data_prep.words import numbers
from hpo.dashboard import address, parts
from hpo.dashboard.parts import Part, Site
from hpo.dashboard.runs import tables
from models.bundle.files import CARD, EmulatorError, read_card

HEADS = ("emulator", "from", "draws", "at", "test NLL [nats/event]", "parameters", "trained")


def layout(site: Site) -> list[Part]:
    """The page, as the folders are now."""
    place = site.catalog.folder.parent
    note = f"Emulators in {place}: hpo export STUDY --out NAME makes one."
    body = [_row(site, folder) for folder in _bundles(place)]
    if not body:
        return [parts.title("Emulators"), parts.notice(note)]
    head = html.Tr([html.Th(each, scope="col") for each in HEADS])
    table = html.Table([html.Thead(head), html.Tbody(body)], className="ranked")
    shown = html.Div(table, className="scroll", tabIndex=0)
    return [parts.title("Emulators"), parts.card("", shown, note=note, wide=True)]


def _bundles(place: Path) -> Iterator[Path]:
    """Folders in this one, links apart, that hold an emulator."""
    for folder in sorted(place.iterdir()):
        if not folder.is_symlink() and (folder / CARD).is_file():
            yield folder


def _row(site: Site, folder: Path) -> html.Tr:
    name = html.Th(folder.name, scope="row")
    try:
        card = read_card(folder)
        return html.Tr([name, *map(html.Td, _told(site, card))])
    except EmulatorError as error:
        return html.Tr([name, html.Td(str(error), colSpan=len(HEADS) - 1)])


def _told(site: Site, card: Mapping[str, Any]) -> list[Part]:
    made, found, cost = (card.get(each, {}) for each in ("provenance", "metrics", "cost"))
    test, error = (tables.number(found.get(each)) for each in ("test_nll", "test_nll_error"))
    return [
        _source(site, made),
        ", ".join(map(str, card.get("event_columns", ()))),
        ", ".join(map(str, card.get("condition_columns", ()))) or "–",
        "–" if test is None else numbers.with_error(test, error, between="±"),
        tables.text_of(cost.get("parameters") if isinstance(cost, dict) else None),
        str(made.get("trained", "–"))[:10],
    ]


def _source(site: Site, made: Mapping[str, Any]) -> Part:
    """The run it was exported from, with the way there if the run is here."""
    told = f"{made.get('study', '?')} {made.get('trial', '')}".rstrip()
    for row in site.catalog.rows():
        if (row["study"], row["trial"]) == (made.get("study"), made.get("trial")):
            return html.A(told, href=address.of_run(str(row["run"])))
    return told
