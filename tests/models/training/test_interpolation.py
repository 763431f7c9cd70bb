"""Conditions moved between the grid's points: how far, never beyond, the same when repeated."""

from functools import cache

import pytest
import torch

from data_prep.columns import Column
from data_prep.dataset import Cell, Dataset
from models.training.interpolation import ROWS, ConditionJitter

Z, ALPHA = (1e-4, 2e-4, 1e-3), (0.5, 1.0, 5.0)
CELLS = torch.tensor([[z, a] for z in Z for a in ALPHA])


def jitter(share=1.0, *, seed=0, rows=ROWS, positive=True):
    dataset = Dataset(
        event_columns=(),
        condition_columns=(Column("Z", "", positive), Column("alpha", "", positive)),
        rows={"train": 1, "val": 1, "test": 1},
        cells=tuple(Cell(tuple(cell), rows, 0, 0) for cell in CELLS.tolist()),
        ranges={},
        fingerprint="",
    )
    return ConditionJitter(dataset, jitter=share, seed=seed)


@cache
def moved(share=1.0, *, steps=2000, **options):
    one = jitter(share, **options)
    return torch.stack([one(CELLS, step=step) for step in range(steps)])


def test_no_share_moves_nothing():
    assert torch.equal(jitter(0.0)(CELLS, step=3), CELLS)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_condition_moves_up_to_a_share_of_the_way_to_its_neighbours(share, positive):
    way = torch.log if positive else (lambda x: x)
    back = moved(share, positive=positive)[:, 4]
    for column, values in enumerate((Z, ALPHA)):
        low, middle, high = way(torch.tensor(values))
        seen = way(back[:, column])
        low_end, high_end = middle + share * (low - middle), middle + share * (high - middle)

        assert seen.min() >= low_end - 1e-5
        assert seen.max() <= high_end + 1e-5
        assert seen.min() < low_end + 0.1 * (middle - low_end)
        assert seen.max() > high_end - 0.1 * (high_end - middle)


@pytest.mark.parametrize(("rows", "share"), [(2 * ROWS, 0.125), (ROWS // 10, 0.5)])
def test_with_more_rows_a_cell_moves_less_and_with_fewer_as_asked(rows, share):
    torch.testing.assert_close(
        moved(0.5, rows=rows, steps=50), moved(share, steps=50), rtol=1e-4, atol=0
    )


def test_the_grid_is_never_left():
    seen = moved().flatten(0, 1)

    for column, values in enumerate((Z, ALPHA)):
        assert seen[:, column].min() >= min(values) * (1 - 1e-5)
        assert seen[:, column].max() <= max(values) * (1 + 1e-5)


def test_half_of_the_way_is_reached_by_an_eighth_on_each_side():
    """The tail of a triangular distribution: (1 - 1/2)^2 / 2."""
    seen = moved()[:, 4, 0].log()
    half = (torch.tensor(Z[1]).log() + torch.tensor(Z[2]).log()) / 2

    assert float((seen > half).float().mean()) == pytest.approx(0.125, abs=0.025)


def test_a_step_that_is_repeated_moves_the_same_way_and_no_other_does():
    one = jitter()

    assert torch.equal(one(CELLS, step=5), one(CELLS, step=5))
    assert not torch.equal(one(CELLS, step=5), one(CELLS, step=6))
    assert not torch.equal(one(CELLS, step=5), jitter(seed=1)(CELLS, step=5))


def test_a_table_without_conditions_is_left_alone():
    dataset = Dataset(
        event_columns=(),
        condition_columns=(),
        rows={"train": 1, "val": 1, "test": 1},
        cells=(Cell((), 1, 0, 0),),
        ranges={},
        fingerprint="",
    )

    assert ConditionJitter(dataset, jitter=1.0, seed=0)(torch.empty(1, 0), step=0).shape == (1, 0)
