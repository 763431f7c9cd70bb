"""The page of one run: its results, learning curves, density plots and all of its options."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dash
from dash import Input, Output, State, dcc, html

from data_prep.errors import InputError
from data_prep.words import numbers
from hpo.dashboard import address, parts, style
from hpo.dashboard.address import Query
from hpo.dashboard.pages import density, verdict
from hpo.dashboard.parts import THEME, TICK, Part, Site, drawn_into, theme_of
from hpo.dashboard.runs import differences, learning, tables
from hpo.records.record import FINISHED, NAME, RunRecord

GRAPHS = ("run-curves", "run-rates")

KEY = State("run", "data")


def layout(site: Site, key: str) -> list[Part]:
    """The page of the run of that key."""
    try:
        record = site.catalog.record(key)
    except KeyError:
        return _without(f"There is no run {key} here.")
    except InputError as error:
        return _without(str(error))
    return [
        dcc.Store(id="run", data=key),
        dcc.Store(id="run-seen", data=site.catalog.version),
        parts.title(tables.short(key), *_links(site, record, key)),
        html.P(verdict.of_record(record), id="verdict", className="verdict"),
        html.Div(_figures_of(record), id="facts", className="facts"),
        parts.card(
            "How it learned",
            parts.controls(parts.choice("Along", "run-along", parts.ALONG, "epoch")),
            parts.graph("run-curves", "Training and validation NLL", height=400),
        ),
        parts.card("Loss rate", parts.graph("run-rates", "Loss rate", height=400)),
        # Filled by a callback: the first look at a flow waits for torch.
        html.Div(density.waiting() if site.densities else [], id="density", className="parts"),
        *_commands(site, record, key),
        parts.card("What it was given", *_options(record), wide=True),
        parts.card(
            "Log",
            html.Pre(site.catalog.log_tail(key), id="log", className="log"),
            note="The last lines of log.txt.",
            wide=True,
        ),
        parts.card("run.json", _raw(record), wide=True),
    ]


def _without(why: str) -> list[Part]:
    return [parts.title("No such run", parts.back()), parts.notice(why, kind="fault")]


def register(app: dash.Dash, site: Site) -> None:
    """Register the callbacks of this page."""
    parts.keep_zooms(app, GRAPHS)

    @app.callback(
        Output("run-seen", "data"),
        Output("facts", "children"),
        Output("log", "children"),
        TICK,
        State("run-seen", "data"),
        KEY,
        prevent_initial_call=True,
    )
    def look(_tick: int, seen: int, key: str) -> tuple[object, ...]:
        version = site.catalog.refresh()
        if version == seen or key not in site.catalog.changed_since(seen):
            raise dash.exceptions.PreventUpdate
        try:
            record = site.catalog.record(key)
        except (InputError, KeyError):  # being replaced, and found whole by the next look; or gone
            raise dash.exceptions.PreventUpdate from None
        return version, _figures_of(record), site.catalog.log_tail(key)

    @app.callback(
        drawn_into("run-curves"),
        drawn_into("run-rates"),
        Input("run-seen", "data"),
        Input("run-along", "value"),
        THEME,
        KEY,
    )
    def learned(_seen: int, along: Any, theme: str, key: str) -> tuple[object, ...]:
        shown: Any = {"along": along, "theme": theme_of(theme)}
        try:
            records = {key: site.catalog.record(key)}
        except KeyError:  # the run went
            raise dash.exceptions.PreventUpdate from None
        except InputError as error:
            return (style.sentence(str(error), theme_of(theme)),) * 2
        return learning.curves(records, **shown), learning.rates(records, **shown)

    if site.densities is not None:
        density.register(app, site, site.densities)


def _figures_of(record: RunRecord) -> list[Part]:
    """The most important numbers of the run."""
    test, cost, asked = record.test, record.cost, record.training.get("epochs")
    best = record.best_val_nll
    epochs = f"{len(record.epochs)}" + (f" of {asked}" if asked else "")
    facts: dict[str, object] = {
        "state": record.state.replace("_", " "),
        "best validation NLL [nats/event]": "–"
        if best is None
        else numbers.with_error(best, record.best_val_error, between="±"),
        "test NLL [nats/event]": numbers.with_error(test.nll, test.error, between="±")
        if test
        else "–",
        "epochs, the best": f"{epochs}, {record.best_epoch or '–'}",
        "wall-clock time": "–" if cost.seconds is None else numbers.duration(cost.seconds),
        "parameters": tables.text_of(cost.parameters),
        "FLOP/event": tables.text_of(cost.flops_per_event),
        "restarts": record.restarts,
        "where": " ".join(filter(None, [record.environment.host, record.environment.device])),
    }
    tiles: list[Part] = []
    for name, value in facts.items():
        state = record.state if name == "state" else ""
        tiles.append(html.Div([html.Span(name), html.B(str(value))], className=state))
    if record.reason:
        tiles.append(html.P(record.reason, className="reason"))
    return tiles


def _options(record: RunRecord) -> list[Part]:
    """Every option, by what it is of."""
    settings = differences.settings(record)
    groups: dict[str, Mapping[str, object]] = {
        "Parameters": record.params,
        "Flow": record.flow,
        "Training": record.training,
        "Pruner": record.pruner,
        "Seeds": record.seeds,
        "Data": settings["data"],
        "Environment": settings["environment"],
        "Times": {"started": record.started, "updated": record.updated},
    }
    heads = {"name": "option", "value": "value"}
    tables_shown = []
    for title, values in groups.items():
        if values:
            rows = [{"name": name, "value": value} for name, value in values.items()]
            tables_shown.append(html.Div([html.H3(title), parts.listing(rows, heads=heads)]))
    return [html.Div(tables_shown, className="options")]


def _raw(record: RunRecord) -> html.Details:
    """All of the record as text; of the epochs, which the curves show, only the last."""
    whole = dataclasses.asdict(record)
    left_out = max(len(record.epochs) - 1, 0)
    whole["epochs"] = whole["epochs"][-1:]
    title = "All of it" + (f", but for {left_out:,} earlier epochs" if left_out else "")
    text = html.Pre(json.dumps(whole, indent=2), className="log")
    return html.Details([html.Summary(title), text])


def _commands(site: Site, record: RunRecord, key: str) -> list[Part]:
    """Commands that do something with this run, to be copied."""
    if site.catalog.trial_folder(key) is None:
        return []
    folder = site.catalog.folder
    runs = folder if "/" in key else folder.parent
    where = [] if runs == Path.cwd() / "runs" else ["--runs", str(runs)]
    trial, out = str(record.trial), f"{record.study}-{record.trial}"
    lines = [
        ["hpo", "export", record.study, "--trial", trial, "--out", out, *where],
        ["hpo", "evaluate", out, record.data.path],
        ["hpo", "plot", "contours", out, "--data", record.data.path],
        ["hpo", "logs", record.study, trial, *where],
        ["hpo", "rerun", str(folder / key / NAME)],
    ]
    if record.state not in FINISHED:
        lines = lines[3:]
    text = html.Pre("\n".join(map(shlex.join, lines)), id="commands", className="log")
    copy = dcc.Clipboard(target_id="commands", title="Copy the commands", className="copy")
    return [parts.card("On the command line", copy, text, wide=True)]


def _links(site: Site, record: RunRecord, key: str) -> list[Part]:
    beside = [row for row in site.catalog.rows() if row["study"] == record.study]
    keys = [str(row["run"]) for row in beside]
    at = keys.index(key)
    links: list[Part] = []
    if at:
        before = keys[at - 1]
        text = f"← {tables.short(before)}"
        links.append(html.A(text, href=address.of_run(before), rel="prev", className="back"))
    for after in keys[at + 1 : at + 2]:
        text = f"{tables.short(after)} →"
        links.append(html.A(text, href=address.of_run(after), rel="next", className="back"))
    number = (site.studies() if site.studies else {}).get(record.study)
    if number is not None:
        href = f"/dashboard/studies/{number}/trials?numbers={record.trial}"
        links.append(html.A("Open in Optuna", href=href, className="back"))
    links.append(parts.back(Query(runs=(key,))))
    return links
