"""The note and the charts that optuna-dashboard shows of a study.

Notes and charts are kept in the study itself. The list of studies loads all of them at every look,
so there are few and they are small. Only the launcher writes them; workers never do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import ExperimentalWarning

from data_prep.errors import first_line
from hpo.dashboard.address import ROOT
from hpo.records.folder import read_all
from hpo.records.record import RunRecord
from hpo.study.study import runs_of, trial_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from hpo.execution.plan import Plan

NOTE = "hpo:note"
"""The study's attribute with the digest of the note that we wrote last."""

BEST, EPOCHS = 10, 30
"""Runs whose learning curves are drawn, and points of each."""
MOST = 150
"""Runs whose cost is drawn, the best."""

_METRICS = {
    "val_nll": "validation NLL [nats/event]",
    "held_out_nll": "held-out NLL [nats/event]",
}


def describe(study: optuna.Study, plan: Plan) -> None:
    """Give the study its note and its objective's name, unless somebody wrote their own."""
    with _optional("description"):
        if study.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names([_METRICS[plan.spec.training.objective]])
        _save_note(study, _note(plan))


def plot(study: optuna.Study) -> None:
    """Put charts of the runs into the study, in place of those that were there."""
    with _optional("charts"):
        found = (record for _, record in read_all(runs_of(study)))
        _save_charts(study, [one for one in found if isinstance(one, RunRecord)])


@contextlib.contextmanager
def _optional(what: str) -> Iterator[None]:
    """The body writes for a page only: its failure is a warning, and the study goes on."""
    try:
        yield
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        told = f"the {what} of the study for optuna-dashboard could not be kept: {said}"
        warnings.warn(told, stacklevel=2)


def _save_note(study: optuna.Study, note: str) -> None:
    ours = study.user_attrs.get(NOTE)
    if ours == _digest(note):
        return
    from optuna_dashboard import get_note, save_note  # here: it takes a second to load

    there = get_note(study)
    if there == note or (ours is None and there) or (ours is not None and ours != _digest(there)):
        return
    save_note(study, note)
    study.set_user_attr(NOTE, _digest(note))


def _save_charts(study: optuna.Study, records: Iterable[RunRecord]) -> None:
    from optuna_dashboard import save_plotly_graph_object

    from hpo.dashboard.runs import figures, learning
    from hpo.records.table import aligned, row

    ordered = sorted((one for one in records if one.epochs), key=lambda one: one.standing)
    if not ordered:
        return
    named = {f"{one.study}/{trial_name(one.trial)}": one for one in ordered}
    best = dict(list(named.items())[:BEST])
    flat = aligned([row(record) for record in ordered], ordered)
    rows = [{**one, "run": key} for key, one in zip(named, flat, strict=True)][:MOST]
    charts = {
        "hpo-learning": learning.curves(best, most=EPOCHS),
        "hpo-cost": figures.pareto(rows, "flops_per_event", theme="light"),
    }
    for name, figure in charts.items():
        save_plotly_graph_object(study, _small(figure), graph_object_id=name)


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


def _small(figure: Figure) -> Figure:
    """The figure with its numbers to six digits, which is more than a screen shows."""
    from plotly.graph_objects import Figure

    content = json.loads(
        json.dumps(figure.to_plotly_json(), default=lambda array: array.tolist()),
        parse_float=lambda text: float(f"{float(text):.6g}"),
        parse_constant=lambda _: None,  # not finite
    )
    # A page that has its own look uses none of its seven kilobytes.
    content["layout"].pop("template", None)
    return Figure(content, layout_template="none")
