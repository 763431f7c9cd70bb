"""The map of how well a flow does in each cell, and regions of scattered conditions."""

import dataclasses
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from hpo.dashboard.density import cells, draws, figures
from hpo.dashboard.density.draws import Densities
from models.evaluation import distances
from models.training import checkpoint
from tests.hpo.dashboard.density.made import (
    KEY,
    catalog_of,
    put,
    record_of,
    untrained,
)


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
