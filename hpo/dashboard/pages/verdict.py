"""The first sentence of a run's page: how good its flow is, and what that rests on."""

from __future__ import annotations

from pathlib import Path

from dash import html

from data_prep.words import numbers
from data_prep.words.numbers import counted
from hpo.dashboard.density.cells import CellMap
from hpo.dashboard.pages.emulators import bundles
from hpo.dashboard.parts import Part
from hpo.dashboard.runs import tables
from hpo.emulator.verdict import verdict
from hpo.records.record import FINISHED, RunRecord
from models.bundle.files import EmulatorError, read_card
from models.bundle.readme import markdown as md
from models.bundle.reliability import Reliability


def of_record(record: RunRecord) -> list[Part]:
    """What the run's own numbers tell, before or without a look at its draws."""
    best, test = record.best_val_nll, record.test
    if test is not None:
        nll = numbers.with_error(test.nll, test.error, between="±")
        return [
            f"Its NLL is {nll} {tables.NLL}. ",
            _hint(f"Over {counted(test.rows, 'test row')}."),
        ]
    ways = {"running": "It is training", "failed": "It failed", "pruned": "It was pruned"}
    way = ways.get(record.state, "It ended")
    epochs = counted(len(record.epochs), "epoch")
    if best is None:
        return [f"{way}, and has no validation NLL after {epochs}."]
    told = f"{way}: after {epochs} its best validation NLL is {numbers.nll(best)} {tables.NLL}. "
    return [told, _hint("No test row was looked at.")]


def of_map(found: CellMap, record: RunRecord, place: Path) -> list[Part]:
    """How its draws compare with the test rows, and for how many events it is good.

    Args:
        found: The map of its cells.
        record: The run.
        place: The folder whose emulators may be exports of it.
    """
    rests = f"By {counted(found.rows, 'test row')} and draws made here, as hpo evaluate does."
    before = "" if record.state in FINISHED else "Of its best weights so far: "
    return [f"{before}{verdict(found.measured, _reliability(record, place))} ", _hint(rests)]


def _hint(text: str) -> html.Span:
    return html.Span(text, className="hint")


def _reliability(record: RunRecord, place: Path) -> Reliability | None:
    """What the export of this run measured, if one of these emulators is one."""
    asked = record.study, record.trial, record.data.fingerprint
    for folder in bundles(place):
        try:
            card = read_card(folder)
            made = md.mapping(card.get("provenance"))
            same = tuple(map(made.get, ("study", "trial", "data_fingerprint"))) == asked
            if same and "members" not in made:  # those were trained anew
                return Reliability.from_card(card)
        except EmulatorError:  # the page of the emulators tells
            continue
    return None
