"""The page of the exported emulators beside the runs: from which run each is, and how good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dash import html

from data_prep.words.numbers import counted
from hpo.dashboard import address, parts
from hpo.dashboard.parts import Part, Site
from models.bundle.files import CARD, EmulatorError, read_card
from models.bundle.readme import markdown as md
from models.bundle.reliability import Reliability

HEADS = (
    *("emulator", "from", "flows", "trained on", "test NLL [nats/event]"),
    *("cells beyond chance", "good for", "draws", "at", "trained"),
)


def layout(site: Site) -> list[Part]:
    """The page, as the folders are now."""
    place = site.catalog.folder.parent
    note = f"Emulators in {place}: hpo export STUDY --out NAME makes one."
    body = [_row(site, folder) for folder in bundles(place)]
    if not body:
        return [parts.title("Emulators"), parts.notice(note)]
    head = html.Tr([html.Th(each, scope="col") for each in HEADS])
    table = html.Table([html.Thead(head), html.Tbody(body)], className="ranked emulators")
    shown = html.Div(table, className="scroll", tabIndex=0)
    return [parts.title("Emulators"), parts.card("", shown, note=note, wide=True)]


def bundles(place: Path) -> Iterator[Path]:
    """Folders in this one, links apart, that hold an emulator."""
    for folder in sorted(place.iterdir()):
        if not folder.is_symlink() and (folder / CARD).is_file():
            yield folder


def _row(site: Site, folder: Path) -> html.Tr:
    name = html.Th(folder.name, scope="row")
    try:
        card = read_card(folder)
        told = zip(HEADS[1:], _told(site, card, Reliability.from_card(card)), strict=True)
        return html.Tr([name, *(_cell(head, each) for head, each in told)])
    except EmulatorError as error:
        return html.Tr([name, html.Td(str(error), colSpan=len(HEADS) - 1)])


def _cell(head: str, told: Part) -> html.Td:
    """A cell that a phone shows with its head."""
    named: Any = {"data-head": head}
    return html.Td(told, **named)


def _told(site: Site, card: dict[str, Any], measured: Reliability | None) -> list[Part]:
    """What a card says under each of `HEADS`; a dash for what it does not."""
    made, found = (md.mapping(card.get(each)) for each in ("provenance", "metrics"))
    beyond, members = md.mapping(found.get("beyond_chance")), md.items(made.get("members"))
    events, conditions = (
        md.mapping(card.get(f"{each}_columns")) for each in ("event", "condition")
    )
    far = f"{md.count(beyond.get('cells'))} of {md.count(beyond.get('of'))}" if beyond else ""
    good = f"{known} events" if measured and (known := measured.good_for) else ""
    last = (members or [made])[-1]
    told = [
        str(len(members) or 1),
        _data(made),
        md.score(found.get("test_nll"), found.get("test_nll_error")),
        far,
        good,
        ", ".join(events),
        ", ".join(conditions),
        md.text(md.mapping(last).get("trained"))[:10],
    ]
    return [_source(site, made), *(each or "–" for each in told)]


def _data(made: Any) -> str:
    """The rows of the training, and the files that they came from."""
    rows = md.number(md.mapping(made.get("data_rows")).get("train"))
    files = [md.mapping(each) for each in md.items(md.mapping(made.get("data")).get("sources"))]
    names = [md.text(each.get("file")) for each in files]
    told = counted(int(rows), "row") if rows is not None else ""
    where = f"{names[0]}{' ...' if len(names) > 1 else ''}" if names else ""
    return " of ".join(filter(None, (told, where)))


def _source(site: Site, made: Any) -> Part:
    """The runs it was exported from, with the way there if the one run is here."""
    study, trial = made.get("study"), made.get("trial")
    if trial is None:
        trials = ", ".join(str(each) for each in md.items(made.get("trials")))
        return f"{md.text(study) or '?'} {trials}".rstrip()
    told = f"{md.text(study) or '?'} {trial}"
    for row in site.catalog.rows():
        if (row["study"], row["trial"]) == (study, trial):
            return html.A(told, href=address.of_run(str(row["run"])))
    return told
