"""The NLL of a whole split and of its cells."""

from dataclasses import replace

import pytest
import torch

from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.stream import read_split
from models.evaluation import nll
from tests.random_flows import GRID, fresh
from tests.random_flows import flow as random_flow


@pytest.fixture(scope="module")
def flow(prepared):
    return fresh(prepared)


def test_the_nll_is_the_mean_over_the_whole_split(flow, prepared):
    test = read_split(prepared, "test")
    with torch.no_grad():
        nll_N = -flow.log_prob(*map(torch.from_numpy, test.arrays)).double().numpy()

    found = nll.nll(flow, prepared, "test")

    assert found.rows == len(nll_N)
    assert found.mean == pytest.approx(nll_N.mean(), abs=1e-5)
    assert found.error == pytest.approx(nll_N.std() / len(nll_N) ** 0.5, rel=1e-3)


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


def test_data_with_other_columns_is_refused(prepared):
    with pytest.raises(DataError, match="has the condition columns Z, alpha, the flow Z: prepare"):
        nll.nll(random_flow(conditions=GRID[:1]), prepared, "test")


def test_data_of_other_atoms_are_refused(prepared, flow, tmp_path):
    """An NLL of a mixed measure does not compare with one of a density."""
    dataset = Dataset.read(prepared)
    first, *others = dataset.event_columns
    changed = replace(dataset, event_columns=(replace(first, atoms=(9.0,)), *others))

    with pytest.raises(DataError, match=r"Mass_0 \(atoms 9\), Mass_1, the flow Mass_0, Mass_1:"):
        nll.check_columns(flow, changed, tmp_path)
