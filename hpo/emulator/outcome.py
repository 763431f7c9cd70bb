"""What an export tells: what is in the bundle, and how good it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from data_prep.words.numbers import nll, with_error
from hpo.records.record import RunRecord

UNSEEN = "NLL in cells that neither trained nor chose it"
"""Whose NLL an export tells where there are some: no decision saw it."""


def told(records: Sequence[RunRecord], bundle: Path, *, anew: bool = False) -> str:
    """What was exported: trials, or members trained `anew` by the configuration of the first."""
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
