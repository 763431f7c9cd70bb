"""The note that optuna-dashboard shows of a study, and the name of the study's objective.

Both are kept in the study itself. Only the launcher writes them; workers never do.
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import ExperimentalWarning

from data_prep.errors import first_line
from hpo.dashboard.address import ROOT

if TYPE_CHECKING:
    from hpo.execution.plan import Plan

NOTE = "hpo:note"
"""The study's attribute with the digest of the note that we wrote last."""

_METRICS = {
    "val_nll": "validation NLL [nats/event]",
    "held_out_nll": "held-out NLL [nats/event]",
}


def describe(study: optuna.Study, plan: Plan) -> None:
    """Give the study its note and its objective's name, unless somebody wrote their own.

    Both serve a page only: a failure is a warning, and the study goes on.
    """
    try:
        if study.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names([_METRICS[plan.spec.training.objective]])
        _save_note(study, _note(plan))
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        told = f"the description of the study for optuna-dashboard could not be kept: {said}"
        warnings.warn(told, stacklevel=2)


def rename(study: optuna.Study, old: str) -> None:
    """Have the note that we wrote tell the study's new name; the next launch writes it anew."""
    ours = study.user_attrs.get(NOTE)
    if ours is not None and ours == _digest(note := _notes().get_note(study)):
        new = study.study_name
        told = note.replace(f"## {old}\n", f"## {new}\n").replace(f"/{old}`", f"/{new}`")
        _save_note(study, told)


def _save_note(study: optuna.Study, note: str) -> None:
    ours = study.user_attrs.get(NOTE)
    if ours == _digest(note):
        return
    notes = _notes()
    there = notes.get_note(study)
    if there == note or (ours is None and there) or (ours is not None and ours != _digest(there)):
        return
    notes.save_note(study, note)
    study.set_user_attr(NOTE, _digest(note))


@cache
def _notes() -> Any:
    """What optuna-dashboard has for notes; the whole package takes seconds to load."""
    package = find_spec("optuna_dashboard")
    if package is not None and package.origin is not None:
        place = Path(package.origin).with_name("_note.py")
        if place.exists() and (alone := spec_from_file_location("_optuna_note", place)):
            module = module_from_spec(alone)
            assert alone.loader is not None  # it has a file
            alone.loader.exec_module(module)
            return module
    import optuna_dashboard

    return optuna_dashboard


def _note(plan: Plan) -> str:
    spec = plan.spec
    told = {
        "Objective": f"{_METRICS[spec.training.objective]}, the lower the better",
        "Searches": ", ".join(map(_code, spec.space)) or "nothing",
        "How": f"{spec.sampler.kind}, pruner {spec.pruner.kind}, at most {spec.training.epochs} "
        "epochs a trial",
        "Data": f"{_code(spec.data.path)}: {plan.data}, "
        f"fingerprint {_code(plan.dataset.fingerprint[:12])}",
        "Launched by": _code(plan.command),
        "Runs": f"{_code(str(plan.folder))}, compared at [{ROOT}]({ROOT})",
    }
    lines = [f"| {what} | {text} |" for what, text in told.items() if text]
    return "\n".join([f"## {spec.study.name}", "", "| | |", "|---|---|", *lines, ""])


def _code(text: str) -> str:
    """A text as Markdown shows it unchanged, in a table too."""
    plain = text.replace("`", "'").replace("|", "\\|")
    return f"`{plain}`" if plain else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
