"""What an export tells: what is in the bundle, and how good it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.words.numbers import nll, with_error
from hpo.emulator.choice import ExportError
from hpo.records.record import RunRecord
from models.bundle import files
from models.bundle.readme import markdown as md
from models.bundle.reliability import Reliability

UNSEEN = "NLL in cells that neither trained nor chose it"
"""Whose NLL an export tells where there are some: no decision saw it."""


def replaced(
    out: Path, records: Sequence[RunRecord], *, anew: bool = False, overwrite: bool = False
) -> str | None:
    """What is in the place of an export of `records`, which it takes; None where nothing is.

    Args:
        out: Folder of the bundle.
        records: Of what is exported, or `anew` trained by the configuration of the first.
        overwrite: Whether an emulator of other trials or other data may be replaced.

    Raises:
        ExportError: If it may not.
    """
    if not (out / files.CARD).exists():
        return None
    try:
        card = files.read_card(out)
    except files.EmulatorError:  # damaged: it may have been anything
        card = {}
    there, ours = md.mapping(card.get("provenance")), _origin(records, anew)
    metrics, told = md.mapping(card.get("metrics")), _named(there)
    if (test_nll := md.number(metrics.get("test_nll"))) is not None:
        told += f", test NLL {with_error(test_nll, md.number(metrics.get('test_nll_error')))}"
    if not overwrite and any(there.get(key) != value for key, value in ours.items()):
        raise ExportError(
            f"{out} holds another emulator ({told}) than this one ({_named(ours)}): choose "
            "another --out, or replace it with --overwrite"
        )
    return told


def _origin(records: Sequence[RunRecord], anew: bool) -> dict[str, object]:
    """The part of the card's provenance that tells one emulator from another."""
    first = records[0]
    origin: dict[str, object] = {"study": first.study, "trial": first.trial, "trials": None}
    if len(records) > 1:
        origin |= {"trial": None, "trials": [one.trial for one in records]}
    elif not anew:  # a study deleted and begun again has the same name and numbers
        origin["trained"] = first.updated
    return origin | {"data_fingerprint": first.data.fingerprint}


def _named(origin: Mapping[str, Any]) -> str:
    numbers = [one for one in md.items(origin.get("trials")) if isinstance(one, int)]
    if not origin.get("study") or origin.get("trial") is None and not numbers:
        return "of no study"
    what = f"trials {', '.join(map(str, numbers))}" if numbers else f"trial {origin['trial']}"
    return f"{what} of {origin['study']}"


def told(records: Sequence[RunRecord], bundle: Path, *, anew: bool = False) -> str:
    """What was exported: trials, or members trained `anew` by the configuration of the first.

    And for how many events it is good, where that was asked.
    """
    found = Reliability.from_card(files.read_card(bundle))
    events = f"\nevents of a catalogue that it is good for: {found}" if found else ""
    return f"{_exported(records, bundle, anew)}{events}"


def _exported(records: Sequence[RunRecord], bundle: Path, anew: bool) -> str:
    record = records[0]
    if anew:
        what = f"members by the configuration of trial {record.trial} of {record.study}"
        return f"{what}, on all cells, mixed{scored(bundle)}"
    if len(records) > 1:
        numbers = ", ".join(str(one.trial) for one in records)
        return f"trials {numbers} of {record.study}, mixed{scored(bundle)}"
    told = [f"val NLL {nll(record.best_val_nll)}"] if record.best_val_nll is not None else []
    unseen = (UNSEEN, record.report) if record.report else ("held-out NLL", record.held_out)
    for what, score in (("test NLL", record.test), unseen):
        if score and score.nll is not None:
            told.append(f"{what} {with_error(score.nll, score.error)}")
    return f"trial {record.trial} of {record.study}, {', '.join(told)} nats per event"


def scored(bundle: Path) -> str:
    """The NLL of an ensemble, from its card."""
    metrics = json.loads((bundle / "emulator.json").read_text(encoding="utf-8"))["metrics"]
    if "test_nll" not in metrics:
        return "; its data is not there to score it"
    if metrics["test_nll"] is None or metrics["test_nll_error"] is None:
        return ", test NLL not finite"
    told = ""
    for what, name in (("test NLL", "test"), (UNSEEN, "report")):
        value, error = (metrics.get(f"{name}_nll{end}") for end in ("", "_error"))
        each = [one.get(f"{name}_nll") for one in metrics["members"]]
        if value is not None and error is not None:
            told += f", {what} {with_error(value, error)} nats per event"
            alone = ", ".join(nll(one) for one in each if one is not None)
            told += f" (alone: {alone})" if alone else ""
    if between := metrics.get("interpolation"):
        told += f"; in {len(between['cells'])} interior cells flows without them have an NLL of "
        if between["nll"] is None or between["error"] is None:
            return f"{told}no finite number"
        return f"{told}{with_error(between['nll'], between['error'])}"
    trial = metrics.get("trial", {})
    if trial.get("report_nll") is not None and trial.get("report_nll_error") is not None:
        value = with_error(trial["report_nll"], trial["report_nll_error"])
        told += f"; {UNSEEN}, of the trial, {value}"
    return told
