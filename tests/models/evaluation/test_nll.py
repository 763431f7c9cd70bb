"""Measures: NLL over a whole split, distances beside their floor, cost of the weights in use."""

import numpy as np
import pytest
import torch

from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.stream import Stream, read_split
from models.config import FlowConfig
from models.evaluation import nll
from models.flow.coordinates import constants
from models.flow.density import build_flow


@pytest.fixture(scope="module")
def flow(prepared):
    """Fresh: close to two log-normals with the moments of the whole split."""
    dataset = Dataset.read(prepared)
    batches = Stream(prepared, "train", batch_size=1000, shuffle=False).epoch(0)
    return build_flow(FlowConfig(blocks=2, hidden=16), dataset, constants(dataset, batches))


def test_the_nll_is_the_mean_over_the_whole_split(flow, prepared):
    test = read_split(prepared, "test")
    with torch.no_grad():
        nll_N = -flow.log_prob(*map(torch.from_numpy, test)).double().numpy()

    found = nll.nll(flow, prepared, "test")

    assert found.rows == len(nll_N)
    assert found.mean == pytest.approx(nll_N.mean(), abs=1e-5)
    assert found.error == pytest.approx(nll_N.std() / len(nll_N) ** 0.5, rel=1e-3)


def test_the_nll_does_not_depend_on_the_parts(flow, prepared, monkeypatch):
    whole = nll.nll(flow, prepared, "test")
    monkeypatch.setattr(nll, "ROWS", 17)

    assert nll.nll(flow, prepared, "test").mean == pytest.approx(whole.mean, abs=1e-6)


HELD_OUT = [{"Z": 0.01, "alpha": 5.0}, {"Z": 0.001, "alpha": 1.0}]


def test_the_nll_of_a_split_is_that_of_its_cells_and_of_all_others(flow, prepared):
    whole = nll.nll(flow, prepared, "test")
    without = nll.nll(flow, prepared, "test", without=HELD_OUT)
    only = nll.nll(flow, prepared, "test", only=HELD_OUT)

    both = (without.mean * without.rows + only.mean * only.rows) / whole.rows
    assert without.rows + only.rows == whole.rows
    assert both == pytest.approx(whole.mean, abs=1e-5)
    assert abs(without.mean - only.mean) > 0.05  # they are not the same thing twice


def test_the_nll_of_each_cell_is_that_of_its_rows_alone(flow, prepared):
    each = nll.cell_nlls(flow, prepared, "test", HELD_OUT)

    assert [cell.conditions for cell in each] == [HELD_OUT[1], HELD_OUT[0]]  # the dataset's order
    for cell in each:
        alone = nll.nll(flow, prepared, "test", only=[cell.conditions])
        assert cell.nll.rows == alone.rows
        assert cell.nll.mean == pytest.approx(alone.mean, abs=1e-5)
        assert cell.nll.error == pytest.approx(alone.error, rel=1e-4)


def test_the_ks_distance_of_known_samples():
    assert nll.ks_distance(np.arange(10.0), np.arange(10.0)) == 0
    assert nll.ks_distance(np.arange(10.0), np.arange(10.0) + 100) == 1
    assert nll.ks_distance(np.arange(4.0), np.arange(4.0) + 1) == 0.25


def test_the_ks_distance_counts_ties_once():
    assert nll.ks_distance(np.array([1.0, 1, 1, 2]), np.array([1.0, 2, 2, 2])) == 0.5


def test_draws_of_the_flow_itself_are_no_further_than_the_floor(flow, prepared):
    rng = np.random.default_rng(0)
    test = read_split(prepared, "test")
    own = test._replace(events=nll.draw(flow, test.conditions, rng))

    cells = nll.cell_distances(flow, own, least=50)

    # The floor of one cell is itself a draw; over all of them it is met on average.
    ratio = np.mean([c.ks[n] for c in cells for n in c.ks]) / np.mean(
        [c.floor[n] for c in cells for n in c.floor]
    )
    assert 0.5 < ratio < 1.6


def test_a_flow_that_misses_a_cell_is_far_above_the_floor(flow, prepared):
    test = read_split(prepared, "test")
    shifted = test._replace(events=test.events * 1.5)

    cell = nll.cell_distances(flow, shifted, least=50)[0]

    assert cell.ks["Mass_0"] > 5 * cell.floor["Mass_0"]


def test_only_cells_with_enough_rows_are_measured_the_fullest_first(flow, prepared):
    rows = [cell.rows for cell in nll.cell_distances(flow, read_split(prepared, "test"))]

    assert rows == sorted(rows, reverse=True)
    assert min(rows) >= nll.CELL_ROWS


def test_unphysical_events_are_counted_once_each(flow):
    events = np.array([[1.0, 2.0], [-1.0, -2.0], [np.nan, 3.0], [0.0, 1.0]])

    assert nll.unphysical_fraction(flow, events) == 0.75


def test_the_cost_counts_only_weights_in_use():
    """Two features, one condition, hidden 4, depth 2: counted by hand."""
    from tests.models.flow.test_density import GRID, flow

    block_weights = (2 * 1 + 2 * 2) + (2 * 2 + 2 * 4) + (2 * 2 + 2 * 4)
    affine = {"kind": "affine", "conditioner": "masked"}
    cost = nll.cost(flow(conditions=GRID[:1], blocks=3, hidden=4, **affine))

    assert cost.flops_per_event == 3 * 2 * block_weights
    assert cost.parameters == 3 * (block_weights + 4 + 4 + 4)


def test_data_with_other_columns_is_refused(prepared):
    from tests.models.flow.test_density import GRID, flow

    with pytest.raises(DataError, match="has the condition columns Z, alpha, the flow Z: prepare"):
        nll.nll(flow(conditions=GRID[:1]), prepared, "test")
