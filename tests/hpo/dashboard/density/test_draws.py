import dataclasses
import itertools
import math
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.errors import DataError, InputError
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from hpo.dashboard.catalog import Catalog
from hpo.dashboard.density import cells, contours, draws, figures, sources
from hpo.dashboard.density.draws import Densities, DensityError
from hpo.dashboard.pages import density as cards
from hpo.records.folder import read
from hpo.records.record import NAME, Cost, DataUsed, Environment, RunRecord
from hpo.records.scores import with_history
from hpo.records.weights import WeightsError
from models.bundle import batched
from models.bundle.emulator import Emulator
from models.config import FlowConfig, TrainConfig
from models.evaluation import distances
from models.flow.coordinates import Constants, Moments
from models.flow.density import build_flow
from models.layout import inputs_of
from models.training import checkpoint
from models.training.train import train
from tests.random_flows import a_mixed_flow

KEY = "bbh/trial-00000"
SMALL = FlowConfig(base="normal", blocks=2, hidden=16, bins=8)
LARGEST = {"Z": 0.01, "alpha": 5.0}
"""The cell of the known table with most rows."""


def record_of(dataset, path, **changes):
    record = RunRecord(
        study="bbh",
        trial=0,
        state="complete",
        params={},
        flow={},
        training={},
        data=DataUsed(path=str(path), fingerprint=dataset.fingerprint, rows=dataset.rows),
        environment=Environment(versions={}, device="cpu", host="node07", threads=1),
        cost=Cost(parameters=None, flops_per_event=None, seconds=None),
        started=None,
        updated=None,
    )
    return dataclasses.replace(record, **changes)


def put(record, folder):
    """Write the record of the checkpoint in a folder."""
    stored = checkpoint.load(folder)
    dataclasses.replace(record, weights=checkpoint.digest(stored)).write(folder)


def catalog_of(folder):
    catalog = Catalog(folder)
    catalog.refresh()
    return catalog


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """A folder of runs with one in it. Do not write into it."""
    folder = tmp_path_factory.mktemp("runs")
    config = TrainConfig(epochs=3, batch_size=256, snapshots=2)
    _, fit = train(prepared, SMALL, config, checkpoint=folder / KEY)
    put(with_history(record_of(Dataset.read(prepared), prepared), fit.history), folder / KEY)
    return folder


@pytest.fixture(scope="module")
def shown(trained, prepared):
    """Of that folder, with its data named: shared, since what it worked out is kept."""
    return Densities(catalog_of(trained), [prepared])


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


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of that folder, to be changed."""
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(contours, "DRAWS", 40_000)


def fresh_draws(folder, conditions, n=40_000):
    return Emulator(checkpoint.best_flow(folder / KEY)).sample(n, seed=99, **conditions)


def untrained(dataset, folder):
    """A checkpoint of a flow for these columns, without a training."""
    moments = [
        Moments(10, np.full(len(columns), 2.0), np.full(len(columns), 1.0))
        for columns in (dataset.event_columns, inputs_of(dataset.condition_columns))
    ]
    flow = build_flow(SMALL, dataset, Constants(*moments))
    tensors = {checkpoint.BEST + name: each for name, each in flow.state_dict().items()}
    stored = checkpoint.Checkpoint(tensors=tensors, state={"flow": flow.describe()})
    checkpoint.save(folder, stored)
    return flow


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


def test_a_trained_run_can_be_drawn_from(shown):
    assert [column.name for column in shown.event_columns(KEY)] == ["Mass_0", "Mass_1"]


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


def test_a_run_s_own_data_path_is_never_followed(trained):
    blind = Densities(catalog_of(trained), [])
    p = blind.plot(KEY, LARGEST)

    assert p.data is None
    assert "name their folder with `hpo dashboard --data FOLDER`" in p.notes[0]
    assert [slider.grid for slider in blind.conditions(KEY)] == [(), ()]
    with pytest.raises(DensityError, match="the data of this run are not among those"):
        blind.cells(KEY)


def test_a_folder_without_data_is_refused_at_once(trained, tmp_path):
    with pytest.raises(DataError, match="is not a prepared dataset"):
        Densities(catalog_of(trained), [tmp_path])


def test_a_study_whose_data_are_gone_is_shown_without(trained, prepared, tmp_path):
    densities = Densities(catalog_of(trained), [], [tmp_path / "gone", prepared])

    assert densities.plot(KEY, LARGEST).data is not None


def test_data_that_were_prepared_anew_are_not_taken_for_the_old(trained, prepared, tmp_path):
    copy = shutil.copytree(prepared, tmp_path / "prepared")
    densities = Densities(catalog_of(trained), [copy])
    dataclasses.replace(Dataset.read(copy), fingerprint="other").write(copy)

    with pytest.raises(DensityError, match="was prepared anew since the dashboard was started"):
        densities.plot(KEY, LARGEST)


def linked(folder):
    elsewhere = folder.parents[2] / "elsewhere.safetensors"
    (folder / checkpoint.FILE).rename(elsewhere)
    (folder / checkpoint.FILE).symlink_to(elsewhere)


def looped(folder):
    (folder / checkpoint.FILE).unlink()
    (folder / checkpoint.FILE).symlink_to(folder / checkpoint.FILE)


def piped(folder):
    (folder / checkpoint.FILE).unlink()
    os.mkfifo(folder / checkpoint.FILE)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(linked, "is a link to another place", id="link"),
        pytest.param(looped, "cannot be read", id="loop"),
        pytest.param(piped, "is no file", id="pipe"),
        pytest.param(
            lambda folder: (folder / checkpoint.FILE).unlink(), "has no checkpoint yet", id="none"
        ),
        pytest.param(
            lambda folder: (folder / checkpoint.FILE).write_bytes(b"half"),
            "is not a whole checkpoint",
            id="damaged",
        ),
    ],
)
def test_weights_that_cannot_be_read_are_a_sentence(runs, prepared, spoil, message):
    spoil(runs / KEY)
    densities = Densities(catalog_of(runs), [prepared])

    with pytest.raises(InputError, match=message):
        densities.conditions(KEY)
    with pytest.raises(InputError, match=message):
        densities.plot(KEY, LARGEST)


def test_a_checkpoint_over_the_limit_is_not_read(runs, prepared, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST", 1000)

    with pytest.raises(DensityError, match="more than the 1.00 kB that this page reads"):
        Densities(catalog_of(runs), [prepared]).conditions(KEY)


def test_a_run_of_another_program_has_no_flow(trained, prepared, monkeypatch):
    catalog = catalog_of(trained)
    monkeypatch.setattr(catalog, "trial_folder", lambda key: None)

    with pytest.raises(DensityError, match="of another program"):
        Densities(catalog, [prepared]).conditions(KEY)


def test_an_unknown_run_is_a_key_error(shown):
    with pytest.raises(KeyError):
        shown.conditions("bbh/trial-00007")


def test_a_new_checkpoint_gives_a_new_plot(runs, prepared):
    densities = Densities(catalog_of(runs), [prepared])
    before = densities.plot(KEY, LARGEST)
    assert densities.plot(KEY, LARGEST) is before

    stored = checkpoint.load(runs / KEY)
    moved = {k: v * 1.05 if k == "best.events.mean_K" else v for k, v in stored.tensors.items()}
    time.sleep(0.01)
    checkpoint.save(runs / KEY, dataclasses.replace(stored, tensors=moved))
    put(record_of(Dataset.read(prepared), prepared), runs / KEY)
    densities._catalog._looked_s = -math.inf
    densities._catalog.refresh()

    assert densities.plot(KEY, LARGEST).nll > before.nll


def test_weights_of_another_run_are_not_shown(runs, prepared):
    """A plot was made of the right ones before."""
    densities = Densities(catalog_of(runs), [prepared])
    densities.plot(KEY, LARGEST)
    untrained(Dataset.read(prepared), runs / KEY)

    with pytest.raises(WeightsError, match="the weights of another run than"):
        densities.plot(KEY, LARGEST)


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


def test_a_map_has_every_cell_s_rows_and_the_distances_of_the_large_ones(shown, trained, prepared):
    c = shown.cells(KEY)

    cells = Dataset.read(prepared).cells
    assert c.values == ((0.0001, 0.001, 0.01), (0.5, 1.0, 5.0))
    assert c.rows_XY.ravel().tolist() == [cell.test for cell in cells]
    np.testing.assert_array_equal(np.isnan(c.ratio_XY), c.rows_XY < distances.CELL_ROWS)
    flow = checkpoint.best_flow(trained / KEY)
    worst, *_ = distances.cell_distances(flow, read_split(prepared, "test"))
    ratios = {name: worst.ks[name] / worst.floor[name] for name in worst.ks}
    assert c.ratio_XY[2, 2] == pytest.approx(max(ratios.values()))
    assert c.ks_XY[2, 2] == pytest.approx(worst.ks[max(ratios, key=ratios.get)])
    assert c.beyond.not_finite == 0.0
    assert c.beyond.outside_range.keys() == c.beyond.outside_range_floor.keys() == worst.ks.keys()
    told = {name: c.measured["cells"][0][name] for name in ("conditions", "rows", "ks", "floor")}
    assert told == {name: getattr(worst, name) for name in told}
    sketch = shown.cells(KEY, rough=True)
    np.testing.assert_array_equal(np.isnan(sketch.ratio_XY), np.isnan(c.ratio_XY))
    assert shown.cells(KEY) is c


def test_two_viewers_do_not_work_out_the_same_map_twice(trained, prepared, monkeypatch):
    calls = []

    def slow(*given, **more):
        calls.append(given)
        time.sleep(0.2)
        return measured(*given, **more)

    measured = draws.cell_map
    monkeypatch.setattr(draws, "cell_map", slow)
    densities = Densities(catalog_of(trained), [prepared])
    with ThreadPoolExecutor(4) as viewers:
        first, *others = viewers.map(lambda _: densities.cells(KEY), range(4))

    assert len(calls) == 1
    assert all(each is first for each in others)


def test_of_very_many_rows_some_are_drawn_the_same_each_time(trained, prepared, monkeypatch):
    monkeypatch.setattr(sources, "MOST_ROWS", 300)
    monkeypatch.setattr(sources, "PART", 100)
    of = Dataset.read(prepared).rows["test"]

    first, second = (Densities(catalog_of(trained), [prepared]) for _ in range(2))
    p = first.plot(KEY, LARGEST)

    assert 20 < p.data.rows < 200
    assert f"Of the {of:,} test rows" in p.notes[0]
    np.testing.assert_array_equal(second.plot(KEY, LARGEST).data.points_N2, p.data.points_N2)


def test_a_map_of_very_many_rows_is_made_from_some_of_each_cell(trained, prepared, monkeypatch):
    rows = read_split(prepared, "test")
    monkeypatch.setattr(cells, "MAP_ROWS", 450)

    kept = cells._some(rows, Dataset.read(prepared), 20, cells.MAP_ROWS)

    _, all_K = np.unique(rows.conditions, axis=0, return_counts=True)
    _, kept_K = np.unique(kept.conditions, axis=0, return_counts=True)
    np.testing.assert_array_equal(kept_K, np.minimum(all_K, 50))
    assert {tuple(row) for row in np.hstack(kept.arrays).tolist()} <= {
        tuple(row) for row in np.hstack(rows.arrays).tolist()
    }
    c = Densities(catalog_of(trained), [prepared]).cells(KEY)
    assert np.isfinite(c.ratio_XY[2, 2])
    assert c.rows_XY.sum() == len(rows.events)


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


def test_a_record_that_names_other_data_than_the_flow_s_is_a_sentence(runs, prepared):
    dataset = Dataset.read(prepared)
    untrained(dataclasses.replace(dataset, event_columns=(Column.named("Mass_0"),)), runs / KEY)
    put(record_of(dataset, prepared), runs / KEY)

    with pytest.raises(DataError, match="prepare the data with those columns"):
        Densities(catalog_of(runs), [prepared]).conditions(KEY)


def test_with_three_conditions_a_place_shows_the_worst_of_its_cells(prepared):
    found = Dataset.read(prepared)
    split = tuple(
        dataclasses.replace(cell, conditions=(*cell.conditions, spin), test=10)
        for cell in found.cells
        for spin in (0.0, 0.5)
    )
    columns = (*found.condition_columns, Column.named("spin"))
    dataset = dataclasses.replace(found, cells=split, condition_columns=columns)
    measured = [
        distances.CellDistance(
            {"Z": 0.001, "alpha": 1.0, "spin": spin},
            300,
            300.0,
            {"a": ks, "b": 0.02},
            {"a": 0.01, "b": 1},
        )
        for spin, ks in ((0.0, 0.05), (0.5, 0.03))
    ]

    _, places = cells._grid(dataset)
    ratio, ks = cells._worst(measured, dataset, places)

    assert ratio[1, 1] == pytest.approx(5)
    assert ks[1, 1] == 0.05
    assert np.isnan(ratio).sum() == 8


def test_a_flow_of_columns_with_atoms_is_drawn_with_them():
    flow = a_mixed_flow()
    events = batched.draw(flow, np.repeat([[0.001, 1.0]], 500, axis=0), np.random.default_rng(1))

    p = contours.density_plot(flow, {"Z": 0.001, "alpha": 1.0}, events, (1, 0), [])

    at_zero = (events[:, 0] == 0).mean()
    spike = (p.emulator.marginals[1] * np.diff(p.joined[1])).max()
    assert spike > 0.9 * at_zero > 0.1
    assert math.isfinite(p.nll)


# ---- scattered conditions


@pytest.fixture(scope="module")
def regions_shown(tmp_path_factory):
    """A run on data with a metallicity of its own in every row, and alpha of two values."""
    path, rng = tmp_path_factory.mktemp("scattered"), np.random.default_rng(0)
    table = {name: rng.lognormal(2.0, 1.0, 9000) for name in ("Mass_0", "Mass_1")}
    table |= {"Z": rng.uniform(1.0, 4.0, 9000), "alpha": rng.choice([1.0, 3.0], 9000)}
    pq.write_table(pa.table(table), path / "a.parquet")
    dataset = prepare([path / "a.parquet"], path / "data")
    (path / "runs" / KEY).mkdir(parents=True)
    untrained(dataset, path / "runs" / KEY)
    put(record_of(dataset, path / "data"), path / "runs" / KEY)
    return Densities(catalog_of(path / "runs"), [path / "data"]), dataset


def test_in_a_region_the_data_are_its_rows_and_the_draws_at_their_conditions(regions_shown):
    shown, dataset = regions_shown
    cell = dataset.cells[0]
    point = {"Z": cell.box[0][0], "alpha": cell.conditions[1]}

    plot = shown.plot(KEY, point)

    assert dataset.scattered
    assert plot.data.rows == cell.test
    assert plot.nll == shown.plot(KEY, point | {"Z": cell.box[0][1]}).nll
    assert any("draws are at the conditions of its rows" in note for note in plot.notes)


def test_the_sliders_of_scattered_conditions_have_marks_for_a_grid_alone(regions_shown):
    z, alpha = regions_shown[0].conditions(KEY)

    assert z.grid == ()
    assert alpha.grid == (1.0, 3.0)


def test_a_region_fills_every_field_that_begins_in_it(regions_shown):
    shown, dataset = regions_shown

    c = shown.cells(KEY)

    assert c.values[0] == tuple(sorted({cell.box[0][0] for cell in dataset.cells}))
    assert c.values[1] == (1.0, 3.0)
    for (i, z), (j, alpha) in itertools.product(enumerate(c.values[0]), enumerate(c.values[1])):
        here = [cell.test for cell in dataset.cells if holds(cell.box, (z, alpha))]
        assert c.rows_XY[i, j] == sum(here)
        assert np.isnan(c.ratio_XY[i, j]) == (max(here, default=0) < distances.CELL_ROWS)
    assert figures.cell_map(c).data


def holds(box, point):
    return all(low <= value <= high for (low, high), value in zip(box, point, strict=True))
