import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from data_prep.columns import Column
from data_prep.words import numbers
from hpo.dashboard.density import contours, figures
from hpo.dashboard.density.cells import CellMap
from models.config import FlowConfig
from models.evaluation.distances import BeyondData
from models.flow.coordinates import Constants, Moments
from models.flow.density import ConditionalFlow

BLUE, VERMILION = "#0072B2", "#D55E00"
NASTY = '<a href="javascript:alert(1)">x</a>'
EVENTS = (Column.named("Mass_0"), Column.named("Mass_1"))
CONDITIONS = (Column.named("Z"), Column.named("alpha"))


def plot_of(rows=400, events=EVENTS, notes=(), conditions=CONDITIONS):
    """Of a flow that was never trained, beside rows that are about as its draws."""
    moments = [
        Moments(100, np.array([1.0, 0.0])[: len(columns)], np.full(len(columns), 16.0))
        for columns in (events, conditions)
    ]
    domain = {column.name: (1e-4, 5.0) for column in conditions}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = FlowConfig(hidden=8)
        flow = ConditionalFlow(config, events, conditions, Constants(*moments), domain).eval()
    data = np.random.default_rng(1).lognormal(1.0, 0.4, (rows, len(events))) if rows else None
    at = {column.name: value for column, value in zip(conditions, (0.001, 1.0), strict=True)}
    return contours.density_plot(flow, at, data, tuple(range(len(events))), notes)


def map_of(**changes):
    first, second = CONDITIONS
    whole = CellMap(
        axes=(first, second),
        values=((0.0001, 0.001, 0.02), (0.5, 5.0)),
        ratio_XY=np.array([[1.0, 2.5], [math.nan, 7.0], [0.8, math.nan]]),
        ks_XY=np.array([[0.01, 0.03], [math.nan, 0.08], [0.02, math.nan]]),
        rows_XY=np.array([[900, 400], [12, 250], [300, 0]]),
        held_out_XY=np.zeros((3, 2), bool),
        beyond=BeyondData({"Mass_0": 0.0}, {"Mass_0": 2e-4}, 0.0),
        least=200,
        measured={"cells": [], "worst_ks": None},
        rows=1862,
        notes=(),
    )
    return dataclasses.replace(whole, **changes)


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(contours, "DRAWS", 20_000)


@pytest.fixture
def beside():
    return plot_of()


def colours_of(figure):
    return {trace.line.color for trace in figure.data if trace.type == "scatter"} - {None}


def texts_of(figure):
    """Every text of a figure that a browser shows."""
    layout = figure.layout
    titles = [layout[name].title.text for name in ("xaxis", "yaxis", "xaxis2", "yaxis2")]
    names = [trace.name for trace in figure.data]
    return [text for text in (*titles, *names, *(a.text for a in layout.annotations)) if text]


def test_every_axis_has_a_unit(beside):
    layout = figures.contours(beside).layout

    assert layout.xaxis.title.text == "Mass_0 [M<sub>☉</sub>]"
    assert layout.yaxis.title.text == "Mass_1 [M<sub>☉</sub>]"
    assert layout.yaxis2.title.text == layout.xaxis2.title.text == "density<br>[1/M<sub>☉</sub>]"
    assert figures.cell_map(map_of()).layout.xaxis.title.text == "Z [dimensionless]"


def test_the_legend_says_how_many_and_what_the_lines_enclose(beside):
    named = [trace.name for trace in figures.contours(beside).data if trace.name]

    assert named == [
        "data, n = 400: 50%, 90% inside",
        "emulator, n = 20,000: 50%, 90%, 99% inside",
    ]


def test_above_it_stand_the_conditions_and_the_nll(beside):
    (note,) = figures.contours(beside).layout.annotations

    assert note.text.startswith("Z = 0.001, alpha = 1<br>NLL of its test rows: ")
    assert f"{numbers.with_error(beside.nll, beside.error, between='±')} nats/event" in note.text


def test_the_marginals_share_the_axes_of_the_plane(beside):
    figure = figures.contours(beside)
    places = {(trace.xaxis, trace.yaxis) for trace in figure.data}

    assert places == {(None, None), (None, "y2"), ("x2", None)}
    assert figure.layout.yaxis2.gridcolor == figure.layout.yaxis.gridcolor
    assert figure.layout.yaxis2.anchor == "x"
    assert figure.layout.xaxis2.anchor == "y"


def test_a_marginal_that_is_drawn_has_the_area_of_its_density(beside):
    figure = figures.contours(beside)
    above = [trace for trace in figure.data if trace.yaxis == "y2"]

    for trace in above:
        area = np.trapezoid(np.asarray(trace.y, float), np.asarray(trace.x, float))
        assert area == pytest.approx(1.0, abs=0.05)


def test_without_data_there_is_the_emulator_alone():
    figure = figures.contours(plot_of(rows=0))

    assert colours_of(figure) == {VERMILION}
    assert "NLL" not in figure.layout.annotations[0].text


@pytest.mark.parametrize("few", [0, 3000], ids=["shade", "points"])
def test_the_data_lie_beneath_the_lines(monkeypatch, few):
    monkeypatch.setattr(contours, "FEW", few)
    first, *others = figures.contours(plot_of()).data

    assert (first.type == "heatmap") == (few == 0)
    assert all(trace.mode == "lines" for trace in others)


def test_themes_differ_in_ink_and_agree_in_numbers(beside):
    light, dark = (figures.contours(beside, theme) for theme in ("light", "dark"))

    assert colours_of(light) == {BLUE, VERMILION}
    assert not colours_of(dark) & colours_of(light)
    for one, other in zip(light.data, dark.data, strict=True):
        np.testing.assert_array_equal(one.x, other.x)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.contours(plot_of()),
        lambda: figures.contours(plot_of(events=EVENTS[:1])),
        lambda: figures.cell_map(map_of()),
    ],
    ids=["contours", "one column", "map"],
)
def test_figures_are_see_through_keep_a_zoom_and_are_plain_json(draw):
    figure = draw()

    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.uirevision == "keep"
    assert "NaN" not in json.dumps(json.loads(figure.to_json()))


def test_names_from_files_are_text_and_no_links():
    events = (Column(NASTY, NASTY, True), Column("Mass_1", "Msun", True))
    conditions = (Column(NASTY, NASTY, True), Column("alpha", "", True))
    p = plot_of(events=events, conditions=conditions)
    shown = texts_of(figures.contours(p))
    c = figures.cell_map(map_of(axes=conditions))
    shown += [c.layout.xaxis.title.text, *np.ravel(c.data[0].customdata)]

    assert sum("&lt;a href" in text for text in shown) > 3
    assert not any("<a" in text for text in shown)


def test_a_flow_of_one_column_is_one_density():
    figure = figures.contours(plot_of(events=EVENTS[:1]))

    assert figure.layout.yaxis.title.text == "density [1/M<sub>☉</sub>]"
    assert [trace.name for trace in figure.data] == ["data, n = 400", "emulator, n = 20,000"]


def test_nothing_is_enclosed_where_the_rows_are_too_few():
    figure = figures.contours(plot_of(rows=5))

    assert "data, n = 5: nothing inside" in [trace.name for trace in figure.data]


def test_a_map_has_its_numbers_where_its_values_say():
    grey, ratios = figures.cell_map(map_of()).data

    assert list(ratios.x) == ["0.0001", "0.001", "0.02"]
    assert list(ratios.y) == ["0.5", "5"]
    assert np.asarray(ratios.z)[1, 1] == 7.0
    assert np.asarray(grey.z).shape == (2, 3)
    assert ratios.texttemplate == "%{z:.1f}"


def test_over_a_cell_one_reads_rows_and_distance():
    _, ratios = figures.cell_map(map_of()).data
    told = np.asarray(ratios.customdata)

    assert told[1, 1] == (
        "Z = 0.001, alpha = 5<br>250 test rows<br>KS distance 0.0800<br>"
        "7.00 times what chance gives"
    )
    assert told[0, 1].endswith("12 test rows: too few, it takes 200")
    assert told[1, 2].endswith("no test rows")


def test_held_out_cells_have_a_frame():
    held_out = np.zeros((3, 2), bool)
    held_out[1, 0] = True
    figure = figures.cell_map(map_of(held_out_XY=held_out))

    (frame,) = figure.layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (0.5, 1.5, -0.5, 0.5)
    assert "framed: the flow was trained without them" in figure.layout.xaxis.title.text
    assert figures.cell_map(map_of()).layout.shapes == ()


def test_a_map_of_one_condition_is_a_row():
    one = map_of(
        axes=CONDITIONS[:1],
        values=((0.1, 0.2, 0.3), (math.nan,)),
        **{name: getattr(map_of(), name)[:, :1] for name in ("ratio_XY", "ks_XY", "rows_XY")},
        held_out_XY=np.zeros((3, 1), bool),
    )
    figure = figures.cell_map(one)

    assert figure.layout.yaxis.showticklabels is False
    assert np.asarray(figure.data[1].z).shape == (1, 3)


def test_a_map_of_many_values_leaves_the_numbers_to_the_mouse():
    values = tuple(np.linspace(0.1, 1, 30)), (0.5, 5.0)
    blank = {"ratio_XY": np.ones((30, 2)), "ks_XY": np.ones((30, 2))}
    many = map_of(
        values=values,
        rows_XY=np.full((30, 2), 500),
        held_out_XY=np.zeros((30, 2), bool),
        **blank,
    )

    assert figures.cell_map(many).data[1].texttemplate == ""


def test_an_infinite_ratio_does_not_bend_the_scale():
    ratio = np.array([[1.0, math.inf], [math.nan, 7.0], [0.8, math.nan]])
    _, shown = figures.cell_map(map_of(ratio_XY=ratio)).data

    assert shown.zmax == 7.0
