"""The cards of a run's page with the density that its flow draws, and the map of its cells.

A sketch of few draws is there at once, and the picture of many takes its place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import dash
from dash import ALL, Input, Output, State, dcc, html

from data_prep.columns import Value
from data_prep.errors import InputError
from data_prep.words import numbers
from hpo.dashboard import parts, style
from hpo.dashboard.density import figures
from hpo.dashboard.density.contours import ROUGH, DensityPlot
from hpo.dashboard.density.draws import EPOCH, Densities, Slider
from hpo.dashboard.pages import verdict
from hpo.dashboard.parts import THEME, Part, Site, drawn_into, refined_into, theme_of
from hpo.dashboard.style import ThemeName

if TYPE_CHECKING:
    from models.evaluation.distances import BeyondData

SNAP = 0.012
"""A slider this close to a simulated value takes it, as a part of its length."""

STEPS = 400
"""Positions of a slider."""

APART = 0.2
"""Labels of a slider stand at least so far from each other, as a part of its length."""

KEY = State("run", "data")
DARK = State("theme", "data")
SLIDE: Any = {"kind": "slide", "condition": ALL}
SLIDES = Input(SLIDE, "value")

DRAWS, BY_CELL = "What it draws, beside the test data", "How well, cell by cell"
CONTOURS = "Contours and marginals of the draws and of the test data at these conditions"
MAP = "Distance between draws and test data in each cell"
AT_ANY = (
    "At any conditions, between the simulated ones too; marks are simulated values. The arrow keys "
    "go from one to the next, with Shift in between."
)


def register(app: dash.Dash, site: Site, densities: Densities) -> None:
    """Register the callbacks of these cards."""
    parts.keep_zooms(app, ("contours", "cells"))

    @app.callback(Output("density", "children"), Input("run", "data"), DARK)
    def density(key: str, theme: str) -> list[Part]:
        return _density(densities, key, theme_of(theme))

    @app.callback(
        drawn_into("contours"),
        Output("contours-notes", "children"),
        Output({"kind": "told", "condition": ALL}, "children"),
        Output("sketch", "data"),
        SLIDES,
        Input("pair", "value"),
        THEME,
        State(SLIDE, "id"),
        KEY,
        prevent_initial_call=True,
    )
    def draw(
        places: list[float], pair: str | None, theme: str, names: list[Any], key: str
    ) -> tuple[object, ...]:
        moved = {name["condition"]: place for name, place in zip(names, places, strict=True)}
        try:
            sliders = _sliders(densities, key)
            chosen = {each.name: _value(each, moved[each.name]) for each in sliders}
            found = _plot(densities, key, chosen, pair, ROUGH)
        except InputError as error:  # the checkpoint went, or the data did
            kept = [dash.no_update] * len(names)
            return style.sentence(str(error), theme_of(theme)), [], kept, None
        told = [_told(each, chosen[each.name]) for each in sliders]
        notes = [*map(parts.notice, found.notes)]
        return figures.contours(found, theme_of(theme)), notes, told, chosen

    @app.callback(
        refined_into("contours"), Input("sketch", "data"), State("pair", "value"), DARK, KEY
    )
    def refine(chosen: dict[str, Value] | None, pair: str | None, theme: str, key: str) -> object:
        if chosen is None:
            raise dash.exceptions.PreventUpdate
        try:
            return figures.contours(_plot(densities, key, chosen, pair), theme_of(theme))
        except InputError:  # the sketch says why
            raise dash.exceptions.PreventUpdate from None

    @app.callback(
        Output(SLIDE, "value"),
        Input("cells", "clickData"),
        State(SLIDE, "id"),
        State(SLIDE, "value"),
        KEY,
        prevent_initial_call=True,
    )
    def take_cell(clicked: Any, names: list[Any], places: list[float], key: str) -> list[float]:
        """Set the sliders to the cell that was clicked on."""
        moved = {name["condition"]: place for name, place in zip(names, places, strict=True)}
        try:
            found = densities.cells(key, rough=True)
            sliders = {each.name: each for each in densities.conditions(key)}
        except InputError:
            raise dash.exceptions.PreventUpdate from None
        point = (clicked or {}).get("points", [{}])[0]
        for column, values, texts, side in zip(
            found.axes, found.values, figures.names_of(found), "xy", strict=False
        ):
            if point.get(side) in texts:
                value = values[texts.index(point[side])]
                moved[column.name] = _place(sliders[column.name], value)
        return [moved[name["condition"]] for name in names]

    @app.callback(drawn_into("cells"), Output("map-sketch", "data"), Input("run", "data"), THEME)
    def sketch_cells(key: str, theme: str) -> tuple[object, ...]:
        try:
            found = densities.cells(key, rough=True)
        except InputError as error:
            return style.sentence(str(error), theme_of(theme)), dash.no_update
        return figures.cell_map(found, theme_of(theme)), theme

    @app.callback(
        refined_into("cells"),
        Output("cells-notes", "children"),
        Output("verdict", "children"),
        Input("map-sketch", "data"),
        KEY,
        prevent_initial_call=True,
    )
    def cells(theme: str, key: str) -> tuple[object, ...]:
        try:
            found, record = densities.cells(key), site.catalog.record(key)
        except (InputError, KeyError):  # the sketch says why; or the run went
            raise dash.exceptions.PreventUpdate from None
        told = [*_beyond(found.beyond), *found.notes]
        sentence = verdict.of_map(found, record, site.catalog.folder.parent)
        return figures.cell_map(found, theme_of(theme)), [*map(parts.notice, told)], sentence


def _beyond(found: BeyondData) -> list[str]:
    """Sentences about draws that are like no row of the data."""
    told = [
        f"Draws outside the data's {name}: {numbers.short(fraction)} of all; of fresh rows "
        f"{numbers.short(found.outside_range_floor[name])} are expected there."
        for name, fraction in found.outside_range.items()
    ]
    if found.not_finite:
        told.append(f"Draws that are not finite: {numbers.short(found.not_finite)}.")
    return told


def waiting() -> list[Part]:
    """The cards before the flow is there, at their final size."""
    turning = html.Div(className="turning", role="status", **parts.named("loading"))
    return [parts.card(title, turning) for title in (DRAWS, BY_CELL)]


def _density(densities: Densities, key: str, theme: ThemeName) -> list[Part]:
    """The cards of what the flow draws, with a sketch of it; or why there are none."""
    try:
        sliders = _sliders(densities, key)
        start = {each.name: _value(each, _place(each, each.start)) for each in sliders}
        sketch = _plot(densities, key, start, None, ROUGH)
    except InputError as error:
        return [parts.card(DRAWS, parts.notice(str(error)), wide=True)]
    names = [column.name for column in densities.event_columns(key)]
    pairs = {f"{a}|{b}": f"{a} and {b}" for a, b in combinations(names, 2)}
    first = next(iter(pairs), None)
    choose = dcc.Dropdown(pairs, first, id="pair", clearable=False, disabled=len(pairs) < 2)
    return [
        parts.card(
            DRAWS,
            dcc.Store(id="sketch", data=start),
            parts.controls(
                *(_slider(each, start[each.name]) for each in sliders),
                parts.field("Columns", choose),
                more="sliders",
            ),
            parts.graph("contours", CONTOURS, height=560, figure=figures.contours(sketch, theme)),
            html.Div([*map(parts.notice, sketch.notes)], id="contours-notes"),
            note=AT_ANY,
        ),
        parts.card(
            BY_CELL,
            dcc.Store(id="map-sketch"),
            dcc.Loading(parts.graph("cells", MAP, height=560), type="dot"),
            html.Div(id="cells-notes"),
            note="Kolmogorov-Smirnov distance between draws and test rows over what chance gives. "
            "A click on a cell sets the conditions beside.",
        ),
    ]


def _sliders(densities: Densities, key: str) -> list[Slider]:
    """Those of the conditions and, where weights were kept on the way, of these."""
    stages = densities.stages(key)
    return densities.conditions(key) + ([stages] if stages else [])


def _plot(
    densities: Densities,
    key: str,
    chosen: Mapping[str, Value],
    pair: str | None,
    draws: int | None = None,
) -> DensityPlot:
    conditions = {name: value for name, value in chosen.items() if name != EPOCH}
    epoch = int(chosen[EPOCH]) if EPOCH in chosen else None
    return densities.plot(key, conditions, _pair(pair), draws=draws, epoch=epoch)


def _slider(slider: Slider, value: Value) -> html.Div:
    name = {"kind": "slide", "condition": slider.name}
    told = html.B(_told(slider, value), id={"kind": "told", "condition": slider.name})
    places: Any = {"data-places": json.dumps([_place(slider, each) for each in slider.grid])}
    places["data-condition"] = slider.name
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
    return html.Div([head, control], className="field slide", **places)


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
        text = slider.texts[int(value)] if slider.texts else numbers.setting(value)
        marks[round(place, 5)] = text if roomy else ""
        last = place if roomy else last
    return marks


def _told(slider: Slider, value: Value) -> str:
    if isinstance(value, str):
        return slider.said[slider.texts.index(value)] if slider.said else value
    simulated = "" if value in slider.grid else " (between)"
    return f"{numbers.setting(value)} {slider.unit}".rstrip() + simulated


def _pair(text: str | None) -> tuple[str, str] | None:
    first, bar, second = (text or "").partition("|")
    return (first, second) if bar else None
