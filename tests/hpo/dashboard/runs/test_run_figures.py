import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from hpo.dashboard import style
from hpo.dashboard.runs import figures, learning, tables
from hpo.records import listing
from hpo.records.folder import read
from tests import made_runs

THESIS = Path(__file__).parents[5] / "shared" / "data" / "thesis_runs"

EVIL = '<a href="javascript:alert(1)">x</a>%{y}'
"""Text that Plotly would make a link of, and a number."""

TOLD = {
    "params": {"blocks": 2, "learning_rate": 1e-3, "activation": "relu"},
    "training": {"learning_rate": 1e-3, "rate_per": "epoch", "min_rate": 0.0},
}


def run(*vals, rates=None, **changes):
    """A run with these validation NLLs; None is one that was not finite."""
    made = made_runs.trained(*vals, **TOLD | changes)
    pairs = zip(made.epochs, rates or [None] * len(vals), strict=True)
    return dataclasses.replace(
        made, epochs=tuple(dataclasses.replace(each, loss_rate=rate) for each, rate in pairs)
    )


def learner(epochs, seed=0, start=5.0):
    rng = np.random.default_rng(seed)
    fall = np.exp(-np.arange(epochs) / 20) + 0.01 * rng.random(epochs)
    return run(*(start + fall).tolist(), trial=seed, rates=fall.tolist())


def row(record):
    return made_runs.row(f"{record.study}/trial-{record.trial:05d}", record)


def searched(*pairs, **more):
    """Rows of runs from (parameters, NLL)."""
    return [
        row(run(nll, trial=trial, params=params, **more))
        for trial, (params, nll) in enumerate(pairs)
    ]


MANY = searched(
    *(
        ({"blocks": i, "learning_rate": 10 ** (-i / 3), "activation": "relu"}, 5 + (i - 4) ** 2)
        for i in range(1, 10)
    )
)


def every_figure(records, rows, theme="light"):
    """One of each kind, by name."""
    names = tables.parameters(listing.columns_of(rows))
    own = style.colours_of(records, theme)
    return {
        "curves": learning.curves(records, theme=theme),
        "excess": learning.curves(records, excess=True, theme=theme),
        "rates": learning.rates(records, theme=theme),
        "progress": figures.progress(rows, theme),
        "multiple": figures.multiple(rows, names[0], 0.5, own, theme),
        "scatter": figures.scatter(rows, "best_val_nll", "seconds", "study", theme=theme),
        "states": figures.scatter(rows, "trial", "best_val_nll", theme=theme),
        "pareto": figures.pareto(rows, "seconds", theme),
    }


KINDS = ("curves", "excess", "rates", "progress", "multiple", "scatter", "states", "pareto")

SOME = {f"bbh/trial-{i:05d}": learner(30, seed=i) for i in range(3)}


def texts(value, name=""):
    """Every text of a figure but the keys that it carries for clicks."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key not in ("customdata", "meta"):
                yield from texts(each, key)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts(each, name)
    elif isinstance(value, str):
        yield value


def named(figure, name):
    return [each for each in figure.data if (each.name or "").startswith(name)]


def validation(figure):
    return [each for each in figure.data if each.mode == "lines" and each.showlegend is not False]


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_a_record_is_never_a_link(kind):
    record = dataclasses.replace(
        learner(10),
        study=EVIL,
        reason=EVIL,
        params={EVIL: EVIL, "rate": 1e-3},
        training={EVIL: EVIL, "rate_per": EVIL, "min_rate": 0.01},
    )
    other = dataclasses.replace(record, trial=1, state="failed", params={EVIL: "b", "rate": 1.0})
    records = {f"{EVIL}/trial-{i:05d}": each for i, each in enumerate((record, other))}

    figure = every_figure(records, [{**row(each), "run": key} for key, each in records.items()])

    for text in texts(json.loads(figure[kind].to_json())):
        assert "<a" not in text
        assert "&gt;%{y}" not in text


def test_text_reads_the_same_behind_its_escapes():
    assert style.plain("a < b & 'c' %{x}\n") == "a &lt; b &amp; 'c' &#37;{x} "
    assert style.plain("x" * 100, 10) == "x" * 9 + "…"


@pytest.mark.parametrize("kind", KINDS)
def test_every_axis_has_a_title_and_every_nll_its_unit(kind):
    layout = every_figure(SOME, [row(each) for each in SOME.values()])[kind].layout

    titles = [layout.xaxis.title.text, layout.yaxis.title.text]

    assert all(titles)
    assert all("[nats/event]" in each for each in titles if "NLL" in each)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_figure_shows_the_page_behind_it_and_keeps_its_zoom(theme):
    for figure in every_figure(SOME, MANY, theme).values():
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.uirevision == "keep"


@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(learning.curves({}), id="curves"),
        pytest.param(learning.rates({}), id="rates"),
        pytest.param(figures.scatter([], "seconds", "trial"), id="scatter"),
        pytest.param(figures.scatter(MANY, "test_nll", "trial"), id="no-value"),
        pytest.param(figures.scatter(MANY, "gone", "trial"), id="no-column"),
        pytest.param(figures.pareto([], "seconds"), id="pareto"),
        pytest.param(learning.curves({"a": run(None)}), id="no-nll"),
        pytest.param(learning.rates({"a": run(5.0)}), id="no-rate"),
    ],
)
def test_nothing_to_show_is_said_in_a_sentence(figure):
    assert not figure.data
    assert len(figure.layout.annotations) == 1
    assert figure.layout.xaxis.visible is figure.layout.yaxis.visible is False


def test_a_run_keeps_its_colour_when_runs_are_added_behind_it():
    few = validation(learning.curves(dict(list(SOME.items())[:2])))
    more = validation(learning.curves(SOME))

    assert [each.line for each in few] == [each.line for each in more[:2]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_forty_runs_look_different_from_each_other(theme):
    records = {f"bbh/trial-{i:05d}": run(5.0, 4.0, trial=i) for i in range(40)}

    lines = validation(learning.curves(records, theme=theme))

    assert len({(each.line.color, each.line.dash) for each in lines}) == 40


def test_the_best_epoch_is_marked_where_it_was_measured():
    figure = learning.curves({"a": run(5.0, 4.0, 4.5)}, smoothing=0.9)

    (best,) = [each for each in figure.data if each.mode == "markers"]
    assert (list(best.x), list(best.y)) == ([2], [4.0])


@pytest.mark.parametrize(
    ("along", "last"), [("epoch", 3), ("minutes", 1.5), ("rows", 180)], ids=["epoch", "min", "rows"]
)
def test_curves_run_along_epochs_time_or_rows(along, last):
    figure = learning.curves({"a": run(5.0, 4.0, 4.5)}, along=along)

    assert validation(figure)[0].x[-1] == last


def test_the_excess_is_above_the_lowest_of_all_runs():
    figure = learning.curves({"a": run(5.0, 4.5), "b": run(4.75, 4.0)}, excess=True)

    a, b = validation(figure)
    np.testing.assert_allclose(a.y, [1.0, 0.5])
    np.testing.assert_array_equal(b.y, [0.75, math.nan])
    assert figure.layout.yaxis.type == "log"


def test_limits_show_the_ends_and_not_the_first_epochs():
    fall = [50.0, 20.0, *np.linspace(5.1, 5.0, 60).tolist()]

    low, high = learning.curves({"a": run(*fall)}).layout.yaxis.range

    assert 4.8 < low < 4.9
    assert 5.1 < high < 5.6


def test_a_run_that_went_astray_does_not_press_the_others_together():
    astray = run(5.2, 5.1, *[18.0] * 28, trial=1)

    low, high = learning.curves({**SOME, "astray": astray}).layout.yaxis.range

    assert high < 8


def test_the_end_of_every_finished_run_is_inside_the_limits():
    records = {f"r{i}": learner(80, seed=i, start=5 + i) for i in range(4)}

    low, high = learning.curves(records).layout.yaxis.range

    for record in records.values():
        assert low < record.best_val_nll < high


def test_a_run_without_a_validation_nll_is_named_in_the_legend():
    records = {**SOME, "bbh/trial-00009": run(state="failed"), "bbh/trial-00010": run(None)}

    figure = learning.curves(records)

    (nine,) = named(figure, "bbh 9:")
    assert nine.name == "bbh 9: no validation NLL (failed)"
    assert len(nine.x) == 1  # Plotly drops a trace without any point from the legend
    assert named(figure, "bbh 10: no validation NLL")


def test_a_loss_that_is_lost_leaves_a_gap_and_ends_the_curve():
    figure = learning.curves({"a": run(5.0, None, 4.0, None, None)})

    np.testing.assert_array_equal(validation(figure)[0].y, [5.0, math.nan, 4.0])


def test_a_long_curve_keeps_its_ends_its_best_its_peaks_and_its_gaps():
    vals = learner(10_001).epochs
    vals = [each.val_nll for each in vals]
    vals[5_000], vals[7_003], vals[9_001] = 4.0, 40.0, None
    figure = learning.curves({"a": run(*vals)})

    line = validation(figure)[0]
    assert len(line.x) <= learning.MOST_POINTS
    assert {1, 5_001, 7_004, 9_002, 10_001} <= set(line.x)
    assert np.nanmax(line.y) == 40.0
    assert math.isnan(line.y[list(line.x).index(9_002)])
    assert any("2,000" in each.text for each in figure.layout.annotations)


def test_a_short_curve_is_whole():
    figure = learning.curves({"a": learner(1000)})

    assert len(validation(figure)[0].x) == 1000
    assert not any("2,000" in each.text for each in figure.layout.annotations)


@pytest.mark.parametrize(
    ("runs_", "kind"), [(10, go.Scatter), (11, go.Scattergl)], ids=["few", "many"]
)
def test_many_points_are_left_to_the_graphics_card(runs_, kind):
    record = learner(1000)

    figure = learning.curves({f"r{i}": record for i in range(runs_)})

    assert {type(each) for each in figure.data} == {kind}


def test_fifty_runs_of_a_thousand_epochs_stay_light():
    record = learner(1000)

    text = learning.curves({f"r{i}": record for i in range(50)}).to_json()

    assert len(text) < 3_000_000


@pytest.mark.skipif(not THESIS.is_dir(), reason="the thesis's runs are not here")
def test_a_run_of_the_thesis_is_drawn_up_to_where_its_loss_was_lost():
    record = read(THESIS / "blocks_30_hidden_200_A_relu_N_1000_V2_20min.json")

    figure = learning.curves({"thesis": record})

    told = sum(each.val_nll is not None for each in record.epochs)
    assert 0 < told < len(record.epochs)
    assert len(validation(figure)[0].x) == told


def test_rates_are_positive_and_have_a_line_where_a_run_stops():
    rule = {"rate_per": "second", "min_rate": 0.01}
    records = {
        "a": run(5.0, 4.0, 3.0, rates=[None, 1.0, -1.0]),
        "b": run(5.0, 4.0, rates=[None, 0.1], training=rule),
    }

    figure = learning.rates(records)

    np.testing.assert_array_equal(figure.data[0].y, [math.nan, 1.0, math.nan])
    (line,) = figure.layout.shapes
    assert (line.y0, line.label.text) == (0.01, "stops below 0.01 nats/s: b")
    assert figure.layout.yaxis.title.text == "Loss rate [nats/epoch or nats/s]"


def test_runs_that_stop_alike_share_one_line():
    rule = {"training": {"rate_per": "epoch", "min_rate": 0.01}}
    records = {each: run(5.0, 4.0, rates=[None, 0.1], **rule) for each in "abc"}

    assert len(learning.rates(records).layout.shapes) == 1


def test_a_run_has_one_colour_in_all_pictures():
    records = {f"bbh/trial-{i:05d}": learner(3, seed=i) for i in range(3)}
    rows = [row(dataclasses.replace(one, trial=i)) for i, one in enumerate(records.values())]
    own = style.colours_of(records, "light")

    lines = {line.meta: line.line.color for line in validation(learning.curves(records))}
    pictures = [
        figures.multiple(rows, "blocks", 0.5, own),
        figures.scatter(rows, "trial", "best_val_nll", own=own),
        figures.pareto(rows, "seconds", own=own),
    ]

    assert lines == own
    for figure in pictures:
        marked = [each for each in figure.data if each.customdata is not None]
        shown = {
            key: colour
            for each in marked
            for key, colour in zip(each.customdata, each.marker.color, strict=True)
        }
        assert shown == own


def test_a_point_carries_the_key_of_its_run_and_its_state_as_a_symbol():
    rows = [row(run(5.0, trial=3)), row(run(6.0, trial=4, state="pruned"))]

    figure = figures.scatter(rows, "trial", "best_val_nll")

    drawn = {each.customdata[0]: each for each in figure.data if each.customdata is not None}
    assert list(drawn) == ["bbh/trial-00003", "bbh/trial-00004"]
    assert {each.marker.symbol for each in drawn.values()} == {"circle", "circle-open"}
    assert drawn["bbh/trial-00003"].hovertext[0].startswith("<b>bbh 3</b>")


@pytest.mark.parametrize(
    ("log_x", "left_out"), [pytest.param(False, 1, id="linear"), pytest.param(True, 2, id="log")]
)
def test_points_that_cannot_be_drawn_are_counted(log_x, left_out):
    rows = searched(({"a": 0.0}, 5.0), ({"a": None}, 5.0), ({"a": 1.0}, 5.0))

    figure = figures.scatter(rows, "a", "best_val_nll", log_x=log_x)

    assert figure.layout.annotations[0].text.startswith(f"{left_out} run")
    assert sum(len(each.x) for each in figure.data if each.customdata is not None) == 3 - left_out


@pytest.mark.parametrize("colour", ["blocks", "activation", "test_nll", "started", None, "gone"])
def test_points_can_be_coloured_by_anything(colour):
    figure = figures.scatter(MANY, "started", "best_val_nll", colour)

    assert figure.layout.xaxis.type == "date"
    assert figure.data[0].x[0] == "2026-05-01T12:00:00+00:00"
    json.loads(figure.to_json())


def test_the_front_is_drawn_as_steps_and_the_rest_behind():
    costs = [1.0, 2.0, 3.0]
    rows = [
        row(run(nll, trial=i, cost=dataclasses.replace(made_runs.BASE.cost, seconds=cost)))
        for i, (cost, nll) in enumerate(zip(costs, [6.0, 5.0, 5.5], strict=True))
    ]

    rest, front = figures.pareto(rows, "seconds").data

    assert (list(front.x), list(front.y), front.line.shape) == ([1, 2], [6, 5], "hv")
    assert list(rest.customdata) == ["bbh/trial-00002"]


def test_unfinished_runs_are_not_traded_but_counted():
    rows = [*MANY, row(run(4.0, trial=30, state="pruned"))]

    figure = figures.pareto(rows, "seconds")

    assert figure.layout.annotations[0].text.startswith("1 run not shown")
    assert sum(len(each.x) for each in figure.data) == len(MANY)


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_valid_json(kind):
    def refuse(token):
        raise AssertionError(token)

    text = every_figure({"a": run(5.0, None, 4.0), **SOME}, MANY)[kind].to_json()

    json.loads(text, parse_constant=refuse)
