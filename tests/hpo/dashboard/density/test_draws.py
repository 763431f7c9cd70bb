"""What the dashboard draws of a flow at given conditions, and the data beside it."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.errors import InputError
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from hpo.dashboard.density import contours, figures
from hpo.dashboard.density.draws import Densities, DensityError
from hpo.dashboard.pages import density as cards
from hpo.records.folder import read
from hpo.records.record import NAME, DataUsed
from models.bundle import batched
from models.bundle.emulator import Emulator
from models.training import checkpoint
from tests.hpo.dashboard.density.made import (
    KEY,
    LARGEST,
    catalog_of,
    put,
    record_of,
    untrained,
)
from tests.random_flows import a_mixed_flow


def test_a_flow_is_drawn_as_it_was_after_an_epoch_whose_weights_were_kept(shown, trained):
    rows = read(trained / KEY / NAME).epochs

    slider = shown.stages(KEY)
    assert (slider.texts, slider.texts[int(slider.start)]) == (("1", "3"), "3")
    for text, said in zip(slider.texts, slider.said, strict=True):
        assert said == f"{text}, NLL {rows[int(text) - 1].val_nll:.4f}"
    early, late = (shown.plot(KEY, LARGEST, epoch=each) for each in (1, 3))
    assert early.nll > late.nll + 0.02
    assert late.nll == shown.plot(KEY, LARGEST).nll
    with pytest.raises(DensityError, match="no weights of epoch 2 are kept"):
        shown.plot(KEY, LARGEST, epoch=2)


def fresh_draws(folder, conditions, n=40_000):
    return Emulator(checkpoint.best_flow(folder / KEY)).sample(n, seed=99, **conditions)


@pytest.fixture(scope="module")
def channels(tmp_path_factory):
    """A run whose second condition is text, with its data."""
    folder, rng = tmp_path_factory.mktemp("channels"), np.random.default_rng(0)
    masses = {name: rng.uniform(5, 40, 900) for name in ("Mass_0", "Mass_1")}
    conditions = {"Z": [0.001] * 450 + [0.002] * 450, "channel": ["SMT", "CE", "CE"] * 300}
    pq.write_table(pa.table(masses | conditions), folder / "table.parquet")
    data = folder / "data"
    dataset = prepare([folder / "table.parquet"], data, condition_columns=("Z", "channel"))
    (folder / KEY).mkdir(parents=True)
    untrained(dataset, folder / KEY)
    put(record_of(dataset, data), folder / KEY)
    return Densities(catalog_of(folder), [data])


def test_texts_are_places_on_a_slider_with_nothing_between(channels):
    _, slider = channels.conditions(KEY)

    assert (slider.texts, slider.grid) == (("CE", "SMT"), (0.0, 1.0))
    assert cards._marks(slider) == {0.0: "CE", 1.0: "SMT"}
    assert [cards._value(slider, place) for place in (0, 0.3, 0.7)] == ["CE", "CE", "SMT"]
    assert cards._told(slider, "CE") == "CE"


def test_the_page_names_texts(channels):
    plot = channels.plot(KEY, {"Z": 0.001, "channel": "SMT"})
    beside = channels.plot(KEY, {"Z": 0.0015, "channel": "SMT"})

    assert figures._head(plot).startswith("Z = 0.001, channel = SMT<br>NLL of its test rows")
    assert plot.data.rows == 30
    assert any("nearest cell is Z = 0.00" in note and "= SMT" in note for note in beside.notes)
    cells = channels.cells(KEY)
    assert figures.cell_map(cells, "light").data[0].y == ("CE", "SMT")
    assert figures._of_cell(cells, 0, 1).startswith("Z = 0.001, channel = SMT<br>30 test rows")
    with pytest.raises(InputError, match="channel must be one of CE, SMT, got 1.0"):
        channels.plot(KEY, {"Z": 0.001, "channel": 1.0})


def test_the_sliders_span_the_domain_and_start_in_the_largest_cell(shown):
    Z, alpha = shown.conditions(KEY)

    assert (Z.name, Z.low, Z.high, Z.log) == ("Z", 0.0001, 0.01, True)
    assert Z.grid == (0.0001, 0.001, 0.01)
    assert (alpha.low, alpha.high, alpha.log) == (0.5, 5.0, False)
    assert {"Z": Z.start, "alpha": alpha.start} == LARGEST


def test_the_density_holds_the_fraction_of_draws_that_lies_in_the_picture(shown, trained):
    p = shown.plot(KEY, LARGEST)

    draws = fresh_draws(trained, LARGEST)
    across, up = p.edges
    inside = np.histogram2d(*draws.T, bins=[across, up])[0].sum() / len(draws)
    area = (across[1] - across[0]) * (up[1] - up[0])
    assert p.emulator.density_XY.sum() * area == pytest.approx(inside, abs=0.01)
    for k in (0, 1):
        held = (p.emulator.marginals[k] * np.diff(p.joined[k])).sum()
        assert held == pytest.approx(np.mean(draws[:, k] >= p.joined[k][0]), abs=0.02)


def test_the_heights_enclose_the_fractions_that_they_are_named_after(shown, trained):
    p = shown.plot(KEY, LARGEST)

    draws = fresh_draws(trained, LARGEST)
    bins = [np.clip(np.searchsorted(p.edges[k], draws[:, k]) - 1, 0, 89) for k in (0, 1)]
    at_draws = p.emulator.density_XY[bins[0], bins[1]]
    assert {0.5, 0.9} <= set(p.emulator.heights)
    for fraction, height in p.emulator.heights.items():
        # A little more than named: the smoothing of few rows widens what is enclosed.
        assert fraction - 0.02 < np.mean(at_draws >= height) < fraction + 0.06


def test_in_each_cell_the_data_are_exactly_its_test_rows(shown, prepared):
    for cell in Dataset.read(prepared).cells:
        asked = dict(zip(("Z", "alpha"), cell.conditions, strict=True))
        p = shown.plot(KEY, {name: value * (1 + 1e-6) for name, value in asked.items()})

        assert (p.data.rows if p.data else 0) == cell.test


def test_the_nll_is_that_of_the_cell_s_rows(shown, trained, prepared):
    p = shown.plot(KEY, LARGEST)

    rows = read_split(prepared, "test")
    mask = (rows.conditions == np.array(list(LARGEST.values()), np.float32)).all(axis=1)
    emulator = Emulator(checkpoint.best_flow(trained / KEY))
    log_prob = emulator.log_prob(rows.events[mask].astype(float), **LARGEST)
    assert p.nll == pytest.approx(-log_prob.mean(), abs=1e-5)
    assert p.error == pytest.approx(log_prob.std() / math.sqrt(mask.sum()), rel=1e-3)


def test_few_rows_are_shown_as_themselves_and_many_as_a_shade(trained, prepared, monkeypatch):
    points = Densities(catalog_of(trained), [prepared]).plot(KEY, LARGEST).data
    monkeypatch.setattr(contours, "FEW", 10)
    shade = Densities(catalog_of(trained), [prepared]).plot(KEY, LARGEST).data

    assert len(points.points_N2) == points.rows
    assert points.shade_XY is None
    assert shade.points_N2 is None
    assert np.nanmax(shade.shade_XY) == 1.0


def test_between_the_cells_the_data_are_those_of_the_nearest_and_it_is_named(shown):
    p = shown.plot(KEY, {"Z": 0.0012, "alpha": 0.9})
    nearest = shown.plot(KEY, {"Z": 0.001, "alpha": 1.0})

    assert p.data is None
    assert p.near.rows == nearest.data.rows
    assert nearest.near is None
    assert p.nll is None
    assert p.notes == ("Nothing was simulated here: the nearest cell is Z = 0.001, alpha = 1.",)


def test_a_picture_beside_a_cell_is_smoothed_as_the_one_in_it(shown):
    inside = shown.plot(KEY, LARGEST)
    beside = shown.plot(KEY, {"Z": 0.0099, "alpha": 4.99})

    assert len(beside.joined[0]) == len(inside.joined[0])
    for fraction, height in inside.emulator.heights.items():
        assert beside.emulator.heights[fraction] == pytest.approx(height, rel=0.2)


def test_a_sketch_is_of_fewer_draws_and_takes_no_place_of_the_picture(shown):
    sketch = shown.plot(KEY, LARGEST, draws=1000)

    assert sketch.emulator.rows == 1000
    assert shown.plot(KEY, LARGEST).emulator.rows == 40_000


def test_columns_can_be_named_and_turned(shown):
    p = shown.plot(KEY, LARGEST, ("Mass_1", "Mass_0"))
    same = shown.plot(KEY, LARGEST)

    assert [column.name for column in p.columns] == ["Mass_1", "Mass_0"]
    np.testing.assert_array_equal(p.edges[0], same.edges[1])
    np.testing.assert_array_equal(p.data.points_N2, same.data.points_N2[:, ::-1])


def test_outside_the_domain_it_says_that_it_guesses(shown):
    p = shown.plot(KEY, {"Z": 0.03, "alpha": 1.0})

    assert "Z = 0.03 is outside the range [0.0001, 0.01]" in p.notes[0]


@pytest.mark.parametrize(
    ("conditions", "columns", "message"),
    [
        pytest.param({"Z": 0.001}, None, "conditions are Z, alpha: missing alpha", id="missing"),
        pytest.param({"Z": 0.0, "alpha": 1.0}, None, "Z must be above 0, got 0", id="zero"),
        pytest.param({"Z": math.nan, "alpha": 1.0}, None, "Z must be finite", id="nan"),
        pytest.param(LARGEST, ("Mass_0", "Mass_0"), "two different event columns", id="twice"),
        pytest.param(LARGEST, ("Mass_0", "GWtime"), "not Mass_0 and GWtime", id="unknown"),
    ],
)
def test_what_the_flow_cannot_draw_is_a_sentence(shown, conditions, columns, message):
    with pytest.raises(InputError, match=message):
        shown.plot(KEY, conditions, columns)


def test_a_run_that_goes_on_says_so(runs, prepared):
    dataset = Dataset.read(prepared)
    put(record_of(dataset, prepared, state="running"), runs / KEY)

    p = Densities(catalog_of(runs), [prepared]).plot(KEY, LARGEST)

    assert p.notes == ("The run is still going on: these are its best weights so far.",)


@pytest.mark.parametrize("kind", ["hold_out_cells", "report_cells"])
def test_a_held_out_cell_is_told_from_the_others(runs, prepared, kind):
    dataset = Dataset.read(prepared)
    told = {"fingerprint": dataset.fingerprint, "rows": dataset.rows, kind: (LARGEST,)}
    used = DataUsed(path="", **told)
    put(record_of(dataset, prepared, data=used), runs / KEY)
    densities = Densities(catalog_of(runs), [prepared])

    note = "The flow was trained without this cell (Z = 0.01, alpha = 5)."
    assert densities.plot(KEY, LARGEST).notes == (note,)
    assert densities.plot(KEY, {"Z": 0.01, "alpha": 1.0}).notes == ()
    assert np.argwhere(densities.cells(KEY).held_out_XY).tolist() == [[2, 2]]
    assert {each.name: each.start for each in densities.conditions(KEY)} != LARGEST


def test_a_flow_of_one_event_column_has_its_marginal_alone(runs, prepared):
    dataset = Dataset.read(prepared)
    one = dataclasses.replace(
        dataset, event_columns=(Column.named("Mass_0"),), fingerprint="unknown"
    )
    untrained(one, runs / KEY)
    put(record_of(one, prepared), runs / KEY)

    p = Densities(catalog_of(runs), [prepared]).plot(KEY, LARGEST, ("Mass_0", "Mass_1"))

    assert p.emulator.density_XY is None
    assert len(p.edges) == len(p.emulator.marginals) == 1
    held = (p.emulator.marginals[0] * np.diff(p.joined[0])).sum()
    assert held == pytest.approx(1, abs=0.02)


def test_a_flow_of_columns_with_atoms_is_drawn_with_them():
    flow = a_mixed_flow()
    events = batched.draw(flow, np.repeat([[0.001, 1.0]], 500, axis=0), np.random.default_rng(1))

    p = contours.density_plot(flow, {"Z": 0.001, "alpha": 1.0}, events, (1, 0), [])

    at_zero = (events[:, 0] == 0).mean()
    spike = (p.emulator.marginals[1] * np.diff(p.joined[1])).max()
    assert spike > 0.9 * at_zero > 0.1
    assert math.isfinite(p.nll)
