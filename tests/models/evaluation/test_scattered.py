"""An evaluation where conditions are scattered: by region, at the conditions of its own rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_prep import cells as naming
from data_prep import regions
from data_prep.dataset import Dataset
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from models import Emulator
from models.evaluation import comparison, nll, report, summary
from models.evaluation.cells import CellRows, keys
from tests.random_flows import a_flow

pytestmark = pytest.mark.usefixtures("few_trees")

ROWS = 12_000


@pytest.fixture(scope="module")
def truth():
    """A flow that bends with its conditions, and is right by definition."""
    return a_flow(noise=0.25).float()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "weighted"])
def data(truth, tmp_path_factory, request):
    """Its own draws at a metallicity for each event, and at two values of alpha."""
    rng = np.random.default_rng(0)
    z = np.exp(rng.uniform(np.log(1e-4), np.log(1e-2), ROWS))
    c_NC = np.stack([z, rng.choice([1.0, 3.0], ROWS)], axis=1).astype(np.float32)
    x_NF = truth.sample(torch.from_numpy(c_NC), torch.Generator().manual_seed(1)).numpy()
    table = dict(zip(("Mass_0", "Mass_1", "Z", "alpha"), [*x_NF.T, *c_NC.T], strict=True))
    options = {}
    if request.param:
        table["w"] = rng.uniform(0.5, 1.5, ROWS)
        options["weights"] = "w"
    path = tmp_path_factory.mktemp("scattered")
    pq.write_table(pa.table(table), path / "a.parquet")
    prepare([path / "a.parquet"], path / "out", **options)
    return path / "out"


@pytest.fixture(scope="module")
def compared(truth, data):
    """It beside another flow."""
    return comparison.compare(truth, a_flow(noise=0.2).float(), data)


def test_a_perfect_flow_reaches_the_floor_in_every_region(compared, data):
    dataset = Dataset.read(data)

    found = compared["emulator"]

    assert dataset.scattered
    assert len(found["cells"]) == len(dataset.cells) > 4
    assert found["cell_averaged_nll"]["cells"] == len(dataset.cells)
    for cell in found["cells"]:
        (same,) = [
            one
            for one in dataset.cells
            if list(one.box[0]) == cell["box"]["Z"] and list(one.box[1]) == cell["box"]["alpha"]
        ]
        assert cell["conditions"] == naming.name_of(dataset, same)
        assert cell["rows"] == same.test
        for name in ("Mass_0", "Mass_1"):
            assert cell["ks"][name] < 3 * cell["floor"][name]
    assert found["median_ks_over_floor"] == pytest.approx(1, abs=0.35)
    assert found["median_wasserstein_over_floor"] == pytest.approx(1, abs=0.5)
    half = found["calibration"]["coverage"]["50"]
    assert abs(half["fraction"] - 0.5) < 4 * half["error"]
    assert found["calibration"]["rows"] > 1000


def test_draws_are_made_at_the_conditions_of_a_regions_own_rows(data):
    rows = CellRows.of(read_split(data, "test"), Dataset.read(data))

    for k, own in enumerate(rows.rows):
        there_NC, drawn_MC = (
            rows.batch.conditions[own],
            rows.conditions(k, 50_000, np.random.default_rng(0)),
        )
        weights = rows.batch.weights
        mean = np.average(there_NC, axis=0, weights=None if weights is None else weights[own])
        np.testing.assert_allclose(drawn_MC.mean(axis=0), mean, rtol=1e-3)
        assert set(map(tuple, drawn_MC.tolist())) <= set(map(tuple, there_NC.tolist()))


def test_two_flows_are_compared_in_every_region(compared, data):
    difference = compared["difference"]

    assert len(difference["cells"]) == len(Dataset.read(data).cells)
    assert difference["cells"][0]["box"] == compared["emulator"]["cells"][0]["box"]
    assert difference["test_nll"]["mean"] < 0


def test_a_region_is_named_by_any_point_in_it(truth, data):
    dataset = Dataset.read(data)
    cell = dataset.cells[2]
    corner = {"Z": cell.box[0][1], "alpha": cell.box[1][0]}
    test = read_split(data, "test")

    (found,) = nll.cell_nlls(truth, data, "test", [corner])

    own = regions.numbers(dataset, test.conditions) == 2
    weights = None if test.weights is None else test.weights[own]
    assert found.conditions == naming.name_of(dataset, cell)
    assert found.nll.rows == own.sum() == cell.test
    assert found.nll.mean == pytest.approx(
        np.average(nll.nll_of(truth, test)[own], weights=weights), rel=1e-6
    )
    assert keys(dataset, [corner]) == keys(dataset, [naming.name_of(dataset, cell)])
    assert keys(dataset, [{"Z": 1.0, "alpha": 9.0}]) == frozenset()


def test_held_out_regions_are_told_from_the_others(truth, data):
    dataset = Dataset.read(data)
    named = [naming.name_of(dataset, dataset.cells[1])]
    listed = [{"conditions": named[0]}]
    emulator = Emulator(truth, {"metrics": {"held_out_cells": listed}})

    found = report.evaluate(emulator, data)
    card = summary.summary(truth, data, held_out=named)

    assert found["held_out_nll"]["rows"] == dataset.cells[1].test
    assert [each["held_out"] for each in card["cells"]].count(True) == 1
    assert card["cells"][1]["held_out"]
    assert card["cells"][1]["box"]["Z"] == list(dataset.cells[1].box[0])
    assert all("ks" in each for each in card["cells"])
