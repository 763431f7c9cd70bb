"""Conditions moved between the grid's points: how far, never beyond, the same when repeated."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from data_prep.columns import Column
from data_prep.dataset import Cell, Dataset
from data_prep.stream import Batch
from models.training.interpolation import ROWS, ConditionJitter
from models.training.points import Points

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


def test_a_category_stays_where_it_is():
    cells = torch.tensor([[z, k] for z in Z for k in (0.0, 1.0, 2.0)])
    dataset = Dataset(
        event_columns=(),
        condition_columns=(
            Column("Z", "", True),
            Column("channel", "", categories=("CE", "RLO", "SMT")),
        ),
        rows={"train": 1, "val": 1, "test": 1},
        cells=tuple(Cell(tuple(cell), ROWS, 0, 0) for cell in cells.tolist()),
        ranges={},
        fingerprint="",
    )
    one = ConditionJitter(dataset, jitter=1.0, seed=0)

    back = torch.stack([one(cells, step=step) for step in range(20)])

    assert torch.equal(back[..., 1], cells[:, 1].expand(20, -1))
    assert not torch.isclose(back[..., 0], cells[:, 0]).all()


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


# ---- scattered conditions


def scattered(c_NC, columns, **options):
    """A dataset of one region with these conditions, its points, and the jitter of both."""
    box = tuple(zip(c_NC.min(0).tolist(), c_NC.max(0).tolist(), strict=True))
    middle = tuple(np.median(c_NC, axis=0).tolist())
    dataset = Dataset(
        event_columns=(),
        condition_columns=columns,
        rows={"train": len(c_NC), "val": 1, "test": 1},
        cells=(Cell(middle, len(c_NC), 0, 0, box=box),),
        ranges={one.name: limits for one, limits in zip(columns, box, strict=True)},
        fingerprint="",
        scattered=True,
    )
    points = Points.of([Batch(np.empty((len(c_NC), 0), np.float32), c_NC)], **options)
    return ConditionJitter(dataset, jitter=1.0, seed=0, points=points), points


def reach(one, c_NC, steps=20):
    """How far each condition was moved at most."""
    c_UC = torch.from_numpy(c_NC)
    moved = torch.stack([one(c_UC, step=step) for step in range(steps)])
    return (moved - c_UC).abs().amax((0, 1)).tolist()


@pytest.mark.parametrize(("conditions", "points"), [(1, 300), (2, 300), (5, 300), (2, 20_000)])
def test_a_scattered_condition_moves_by_the_distance_between_points(conditions, points):
    c_NC = np.random.default_rng(0).random((points, conditions)).astype(np.float32)
    columns = [Column(f"c{k}", "") for k in range(conditions)]

    far = reach(scattered(c_NC, columns)[0], c_NC)

    nearest = KDTree(c_NC).query(c_NC, 2)[0][:, 1]
    for each in far:
        assert each == pytest.approx(np.median(nearest) / conditions**0.5, rel=0.15)


def test_of_a_sample_of_the_points_the_distance_is_that_of_all():
    c_NC = np.random.default_rng(0).random((20_000, 2)).astype(np.float32)
    columns = [Column("x", ""), Column("y", "")]

    whole, part = scattered(c_NC, columns, most=50_000), scattered(c_NC, columns, most=1000)

    assert (whole[1].count, len(part[1].c_PC)) == (20_000, 1000)
    assert part[1].count == pytest.approx(20_000, rel=0.12)
    np.testing.assert_allclose(reach(part[0], c_NC), reach(whole[0], c_NC), rtol=0.2)


def test_each_point_has_the_same_chance_to_be_in_the_sample_however_many_rows_it_has():
    rng = np.random.default_rng(0)
    often, once = rng.random((100, 1)).astype("f4"), 1 + rng.random((1900, 1)).astype("f4")
    rows = rng.permutation(np.concatenate([np.repeat(often, 200, axis=0), once]))
    batches = [Batch(np.empty((len(part), 0), "f4"), part) for part in np.array_split(rows, 7)]

    found = Points.of(batches, most=500)

    assert found.count == pytest.approx(2000, rel=0.15)
    assert (found.c_PC < 1).mean() == pytest.approx(0.05, abs=0.03)


def test_a_grid_beside_scattered_conditions_keeps_its_steps_and_a_category_stays():
    rng = np.random.default_rng(0)
    alpha, channel = rng.choice([1.0, 2.0, 4.0], 5000), rng.integers(2, size=5000)
    c_NC = np.stack([rng.random(5000), alpha, channel], axis=1).astype(np.float32)
    columns = [
        Column("x", ""),
        Column("alpha", "", positive=True),
        Column("channel", "", categories=("CE", "SMT")),
    ]

    far = reach(scattered(c_NC, columns)[0], c_NC)
    moved = scattered(c_NC, columns)[0](torch.from_numpy(c_NC), step=1)

    assert far[0] < 0.001
    assert far[1] == pytest.approx(2.0, rel=0.1)
    assert far[2] == 0
    assert moved[:, 1].min() >= 1
    assert moved[:, 1].max() <= 4


def test_scattered_conditions_stay_in_their_range_and_dense_places_move_less():
    rng = np.random.default_rng(0)
    c_NC = np.sort(np.concatenate([rng.random(900), 1 + 9 * rng.random(100)]))[:, None]
    c_NC = c_NC.astype(np.float32)
    column = Column("x", "")
    ends = [(float(c_NC[0, 0]), float(c_NC[899, 0])), (float(c_NC[900, 0]), float(c_NC[-1, 0]))]
    dataset = Dataset(
        event_columns=(),
        condition_columns=(column,),
        rows={"train": 1000, "val": 1, "test": 1},
        cells=tuple(Cell((sum(each) / 2,), 500, 0, 0, box=(each,)) for each in ends),
        ranges={"x": (ends[0][0], ends[1][1])},
        fingerprint="",
        scattered=True,
    )
    points = Points.of([Batch(np.empty((1000, 0), np.float32), c_NC)])
    one = ConditionJitter(dataset, jitter=1.0, seed=0, points=points)

    moved = torch.stack([one(torch.from_numpy(c_NC), step=step) for step in range(50)])
    far = (moved - torch.from_numpy(c_NC)).abs()[..., 0].amax(0)

    assert far[900:].median() > 20 * far[:900].median()
    assert ends[0][0] <= moved.min()
    assert moved.max() <= ends[1][1]
