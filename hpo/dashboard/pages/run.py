"""The page of one run: its results, learning curves, density plots and all of its options."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import dash
from dash import ALL, Input, Output, State, dcc, html

from data_prep.columns import Value
from data_prep.errors import InputError
from hpo.dashboard import parts, style
from hpo.dashboard.address import Query
from hpo.dashboard.density import figures
from hpo.dashboard.density.draws import Densities, Slider
from hpo.dashboard.parts import THEME, TICK, Part, Site, drawn_into, theme_of
from hpo.dashboard.runs import differences, learning, tables
from hpo.records.record import RunRecord

if TYPE_CHECKING:
    from models.evaluation.distances import BeyondData

SNAP = 0.012
"""A slider this close to a simulated value takes it, as a part of its length."""

STEPS = 400
"""Positions of a slider."""

APART = 0.2
"""Labels of a slider stand at least so far from each other, as a part of its length."""

GRAPHS = ("run-curves", "run-rates", "contours", "cells")

KEY = State("run", "data")


def layout(site: Site, key: str) -> list[Part]:
    """The page of the run of that key."""
    try:
        record = site.catalog.record(key)
    except KeyError:
        return [parts.notice(f"There is no run {key} here.", kind="fault"), parts.back()]
    except InputError as error:
        return [parts.notice(str(error), kind="fault"), parts.back()]
    return [
        dcc.Store(id="run", data=key),
        dcc.Store(id="run-seen", data=site.catalog.version),
        html.Div([html.H1(tables.short(key)), *_links(site, record, key)], className="head"),
        html.Div(_figures_of(record), id="facts", className="facts"),
        parts.card(
            "How it learned",
            parts.controls(parts.choice("Along", "run-along", parts.ALONG, "epoch")),
            parts.graph("run-curves", height=400),
        ),
        parts.card("Loss rate", parts.graph("run-rates", height=400)),
        # Later, by a callback: the first look at a flow waits for torch.
        html.Div(id="density", className="parts"),
        parts.card("What it was given", *_options(record), wide=True),
        parts.card(
            "Log",
            html.Pre(site.catalog.log_tail(key), id="log", className="log"),
            note="The last lines of log.txt.",
            wide=True,
        ),
        parts.card("run.json", _raw(record), wide=True),
    ]


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
        _register_density(app, site.densities)


def _register_density(app: dash.Dash, densities: Densities) -> None:
    @app.callback(Output("density", "children"), Input("run", "data"))
    def density(key: str) -> list[Part]:
        return _density(densities, key)

    @app.callback(
        drawn_into("contours"),
        Output("contours-notes", "children"),
        Output({"kind": "told", "condition": ALL}, "children"),
        Input({"kind": "slide", "condition": ALL}, "value"),
        Input("pair", "value"),
        THEME,
        State({"kind": "slide", "condition": ALL}, "id"),
        KEY,
    )
    def draw(
        places: list[float], pair: str | None, theme: str, names: list[Any], key: str
    ) -> tuple[object, ...]:
        moved = {name["condition"]: place for name, place in zip(names, places, strict=True)}
        try:
            sliders = densities.conditions(key)
            chosen = {each.name: _value(each, moved[each.name]) for each in sliders}
            found = densities.plot(key, chosen, _pair(pair))
        except InputError as error:  # the checkpoint went, or the data did
            return (style.sentence(str(error), theme_of(theme)), [], [dash.no_update] * len(names))
        told = [_told(each, chosen[each.name]) for each in sliders]
        return (figures.contours(found, theme_of(theme)), [*map(parts.notice, found.notes)], told)

    @app.callback(
        drawn_into("cells"), Output("cells-notes", "children"), Input("run", "data"), THEME
    )
    def cells(key: str, theme: str) -> tuple[object, ...]:
        try:
            found = densities.cells(key)
        except InputError as error:
            return style.sentence(str(error), theme_of(theme)), []
        told = [*_beyond(found.beyond), *found.notes]
        return figures.cell_map(found, theme_of(theme)), [*map(parts.notice, told)]


def _beyond(found: BeyondData) -> list[str]:
    """Sentences about draws that are like no row of the data."""
    told = [
        f"Draws outside the data's {name}: {fraction:.3g} of all; of fresh rows "
        f"{found.outside_range_floor[name]:.3g} are expected there."
        for name, fraction in found.outside_range.items()
    ]
    return told + [f"Draws that are not finite: {found.not_finite:.3g}."] * (found.not_finite > 0)


def _density(densities: Densities, key: str) -> list[Part]:
    """The cards of what the flow draws, or why there are none."""
    try:
        sliders = map(_slider, densities.conditions(key))
    except InputError as error:
        return [parts.card("What it draws", parts.notice(str(error)), wide=True)]
    names = [column.name for column in densities.event_columns(key)]
    pairs = {f"{a}|{b}": f"{a} and {b}" for a, b in combinations(names, 2)}
    first = next(iter(pairs), None)
    choose = dcc.Dropdown(pairs, first, id="pair", clearable=False, disabled=len(pairs) < 2)
    return [
        parts.card(
            "What it draws, beside the test data",
            parts.controls(*sliders, parts.field("Columns", choose), more="sliders"),
            dcc.Loading(parts.graph("contours", height=560), delay_show=400, type="dot"),
            html.Div(id="contours-notes"),
            note="At any conditions, between the simulated ones too; marks are simulated values.",
        ),
        parts.card(
            "How well, cell by cell",
            dcc.Loading(parts.graph("cells", height=560), delay_show=200, type="dot"),
            html.Div(id="cells-notes"),
            note="Kolmogorov-Smirnov distance between draws and test rows over what chance gives.",
        ),
    ]


def _slider(slider: Slider) -> html.Div:
    name = {"kind": "slide", "condition": slider.name}
    told = html.B(id={"kind": "told", "condition": slider.name})
    control = dcc.Slider(
        0,
        1,
        1 / STEPS,
        value=_place(slider, slider.start),
        marks=_marks(slider),
        included=False,
        allow_direct_input=False,
        id=name,
    )
    head = html.Div([html.Span(slider.name), told], className="slider-head")
    return html.Div([head, control], className="field slide")


def _place(slider: Slider, value: float) -> float:
    """The place of a value on its slider, from 0 to 1."""
    low, high = slider.low, slider.high
    if slider.log:
        low, high, value = map(math.log, (low, high, value))
    return (value - low) / (high - low) if high > low else 0.0


def _value(slider: Slider, place: float) -> Value:
    """The value at a place; close to a simulated value, that value, and of texts the nearest."""
    near = min(slider.grid, key=lambda each: abs(_place(slider, each) - place), default=None)
    if slider.texts and near is not None:
        return slider.texts[int(near)]
    if near is not None and abs(_place(slider, near) - place) <= SNAP:
        return near
    if slider.log:
        return float(slider.low * (slider.high / slider.low) ** place)
    return slider.low + (slider.high - slider.low) * place


def _marks(slider: Slider) -> dict[float, str]:
    """Every simulated value has a mark, and a label where there is room."""
    marks, last = {}, -1.0
    for value in slider.grid or (slider.low, slider.high):
        place = _place(slider, value)
        roomy = place - last >= APART
        text = slider.texts[int(value)] if slider.texts else f"{value:g}"
        marks[round(place, 5)] = text if roomy else ""
        last = place if roomy else last
    return marks


def _told(slider: Slider, value: Value) -> str:
    if isinstance(value, str):
        return value
    simulated = "" if value in slider.grid else " (between)"
    return f"{value:.4g} {slider.unit}".rstrip() + simulated


def _pair(text: str | None) -> tuple[str, str] | None:
    first, bar, second = (text or "").partition("|")
    return (first, second) if bar else None


def _figures_of(record: RunRecord) -> list[Part]:
    """The most important numbers of the run."""
    test, cost, asked = record.test, record.cost, record.training.get("epochs")
    epochs = f"{len(record.epochs)}" + (f" of {asked}" if asked else "")
    minutes = None if cost.seconds is None else cost.seconds / 60
    facts: dict[str, object] = {
        "state": record.state.replace("_", " "),
        "best validation NLL [nats/event]": tables.text_of(record.best_val_nll),
        "test NLL [nats/event]": f"{test.nll:.5g} ± {test.error:.2g}" if test else "–",
        "epochs, the best": f"{epochs}, {record.best_epoch or '–'}",
        "wall-clock time [min]": tables.text_of(minutes),
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
    heads = {"name": "", "value": ""}
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


def _links(site: Site, record: RunRecord, key: str) -> list[Part]:
    links: list[Part] = []
    number = (site.studies() if site.studies else {}).get(record.study)
    if number is not None:
        href = f"/dashboard/studies/{number}/trials?numbers={record.trial}"
        links.append(html.A("Open in Optuna", href=href, className="back"))
    links.append(parts.back(Query(runs=(key,))))
    return links
