"""Conditions moved between the grid's points: how far, never beyond, the same when repeated."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from data_prep.columns import Column
from data_prep.dataset import Cell, Dataset
from data_prep.stream import Batch
from models.training.interpolation import ROWS, ConditionJitter, Points

Z, ALPHA = (1e-4, 2e-4, 1e-3), (0.5, 1.0, 5.0)
CELLS = torch.tensor([[z, a] for z in Z for a in ALPHA])


def on_a_grid(cells, columns, rows, weights=None):
    """A dataset with these cells, the training rows of each, and their summed weights."""
    sums = [() if weights is None else (one, 0.0, 0.0) for one in weights or rows]
    return Dataset(
        event_columns=(),
        condition_columns=tuple(columns),
        rows={"train": 1, "val": 1, "test": 1},
        cells=tuple(
            Cell(tuple(cell), n, 0, 0, weights=one, squares=one)
            for cell, n, one in zip(cells.tolist(), rows, sums, strict=True)
        ),
        ranges={},
        fingerprint="",
        weight_column=None if weights is None else "w",
    )


def jitter(share=1.0, *, seed=0, rows=ROWS, positive=True, blend="distance"):
    columns = Column("Z", "", positive), Column("alpha", "", positive)
    dataset = on_a_grid(CELLS, columns, [rows] * len(CELLS))
    return ConditionJitter(dataset, jitter=share, seed=seed, blend=blend)


@cache
def moved(share=1.0, *, times=2000, **options):
    """Every cell so many times, as one step moves them."""
    return jitter(share, **options)(CELLS.repeat(times, 1), step=0)[0].unflatten(0, (times, -1))


def test_a_category_stays_where_it_is():
    cells = torch.tensor([[z, k] for z in Z for k in (0.0, 1.0, 2.0)])
    columns = Column("Z", "", True), Column("channel", "", categories=("CE", "RLO", "SMT"))
    one = ConditionJitter(on_a_grid(cells, columns, [ROWS] * 9), jitter=1.0, seed=0)

    back = torch.stack([one(cells, step=step)[0] for step in range(20)])

    assert torch.equal(back[..., 1], cells[:, 1].expand(20, -1))
    assert not torch.isclose(back[..., 0], cells[:, 0]).all()


def test_no_share_moves_nothing():
    moved, weights = jitter(0.0)(CELLS, step=3)

    assert torch.equal(moved, CELLS)
    assert weights is None


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_blended_by_rows_a_condition_moves_up_to_a_share_of_the_way(share, positive):
    way = torch.log if positive else (lambda x: x)
    back = moved(share, positive=positive, blend="rows")[:, 4]
    for column, values in enumerate((Z, ALPHA)):
        low, middle, high = way(torch.tensor(values))
        seen = way(back[:, column])
        low_end, high_end = middle + share * (low - middle), middle + share * (high - middle)

        assert seen.min() >= low_end - 1e-5
        assert seen.max() <= high_end + 1e-5
        assert seen.min() < low_end + 0.1 * (middle - low_end)
        assert seen.max() > high_end - 0.1 * (high_end - middle)


def test_blended_by_distance_a_share_of_the_conditions_moves_all_the_way():
    back = moved(0.3)[:, 4]
    still = torch.isclose(back, CELLS[4]).all(1)

    assert float(still.float().mean()) == pytest.approx(0.7, abs=0.03)
    assert back[:, 1].max() > 0.8 * ALPHA[2]


@pytest.mark.parametrize("blend", ["distance", "rows"])
@pytest.mark.parametrize(("rows", "share"), [(2 * ROWS, 0.125), (ROWS // 10, 0.5)])
def test_with_more_rows_a_cell_moves_less_and_with_fewer_as_asked(rows, share, blend):
    torch.testing.assert_close(
        moved(0.5, rows=rows, blend=blend),
        moved(share, blend=blend),
        rtol=1e-4,
        atol=0,
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
    moved, weights = one(CELLS, step=5)
    again, weights_again = one(CELLS, step=5)

    assert torch.equal(moved, again)
    assert torch.equal(weights, weights_again)
    assert not torch.equal(moved, one(CELLS, step=6)[0])
    assert not torch.equal(moved, jitter(seed=1)(CELLS, step=5)[0])


def test_trainings_together_are_moved_as_each_by_itself():
    each = [jitter(0.6, seed=1), jitter(0.0), jitter(seed=2, blend="rows"), jitter(0.3, seed=3)]
    there_TU = torch.rand(4, len(CELLS), generator=torch.Generator().manual_seed(0)) < 0.7

    moved_TUC, weights_TU = ConditionJitter.together(each, CELLS, there_TU, [5, 6, 7, 8])

    for step, (one, there_U) in enumerate(zip(each, there_TU, strict=True), 5):
        own, weights = one(CELLS[there_U], step=step)
        assert torch.equal(moved_TUC[step - 5][there_U], own)
        assert torch.equal(moved_TUC[step - 5][~there_U], CELLS[~there_U])
        weights = torch.ones(len(own)) if weights is None else weights
        assert torch.equal(weights_TU[step - 5][there_U], weights)


def test_a_table_without_conditions_is_left_alone():
    dataset = on_a_grid(torch.empty(1, 0), (), [1])

    moved, _ = ConditionJitter(dataset, jitter=1.0, seed=0)(torch.empty(1, 0), step=0)
    assert moved.shape == (1, 0)


# ---- weights


def blended(cells, columns, rows, *, weights=None, share=1.0, times=4000):
    """What a perfect learner sees: conditions, the cell of each, and the loss that it has there."""
    one = ConditionJitter(on_a_grid(cells, columns, rows, weights), jitter=share, seed=0)
    c_UC, weight_U = one(cells.repeat(times, 1), step=0)
    number_U = torch.arange(len(cells)).repeat(times)
    return c_UC, number_U, weight_U, weight_U * torch.tensor(weights or rows)[number_U] / times


def shares(coordinate, number_U, loss_U, cells, bins=10):
    """Of each of some cells in the loss in bins of [0, 1], `(cells, bins)`."""
    place = (coordinate * bins).long().clamp(0, bins - 1)
    inside = (coordinate >= 0) & (coordinate <= 1)
    sums = torch.zeros(len(cells), bins)
    for row, cell in zip(sums, cells, strict=True):
        one = inside & (number_U == cell)
        row.index_add_(0, place[one], loss_U[one].float())
    return sums / sums.sum(0)


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("rows", [[20, 1400, 3], [1000, 10, 900]])
@pytest.mark.parametrize("positive", [False, True])
def test_cells_blend_linearly_whatever_their_rows(rows, positive, share):
    cells = torch.tensor([[1.0], [2.0], [8.0]])
    c_UC, number_U, weight_U, loss_U = blended(
        cells, [Column("c", "", positive)], rows, share=share, times=20_000
    )

    for left, (low, high) in enumerate([(1.0, 2.0), (2.0, 8.0)]):
        low, high, c = (
            f.log() if positive else f for f in (torch.tensor(low), torch.tensor(high), c_UC[:, 0])
        )
        moved = ~torch.isclose(c_UC[:, 0], cells[number_U, 0])
        part = (c - low) / (high - low)
        second = shares(part[moved], number_U[moved], loss_U[moved], [left, left + 1])[1]

        torch.testing.assert_close(second, (torch.arange(10) + 0.5) / 10, atol=0.04, rtol=0)


def test_weights_are_one_on_average_and_where_nothing_moved():
    """With a hole in the grid, too."""
    cells, rows = CELLS[:8], [20, 1400, 3, 700, 90, 300, 5, 600]
    columns = Column("Z", "", True), Column("alpha", "", True)

    c_UC, number_U, weight_U, loss_U = blended(cells, columns, rows, share=0.5, times=20_000)

    still = torch.isclose(c_UC, cells[number_U]).all(1)
    assert float(still.float().mean()) > 0.5
    torch.testing.assert_close(weight_U[still], torch.ones(int(still.sum())), rtol=0, atol=0.05)
    assert float(loss_U.sum()) == pytest.approx(sum(rows), rel=0.02)


@pytest.mark.parametrize("weights", [None, [3.0, 0.5, 2.0]], ids=["rows", "weights"])
def test_at_a_hole_of_the_grid_the_cells_that_are_there_blend(weights):
    cells = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    columns = Column("a", ""), Column("b", "")

    c_UC, number_U, weight_U, loss_U = blended(
        cells, columns, [900, 30, 200], weights=weights, times=100_000
    )

    a_U, b_U = c_UC.double().unbind(1)
    near_UJ = torch.stack([(1 - a_U) * (1 - b_U), (1 - a_U) * b_U, a_U * (1 - b_U)], 1)
    # Half-way up and most of the way to the right.
    middle = ((a_U - 0.8).abs() < 0.1) & ((b_U - 0.5).abs() < 0.1)
    found = torch.stack([loss_U[middle & (number_U == j)].sum() for j in range(3)])
    expected = near_UJ[middle].mean(0)
    torch.testing.assert_close(
        (found / found.sum()).double(), expected / expected.sum(), atol=0.03, rtol=0
    )


def test_a_cell_blends_with_those_of_its_category_alone():
    cells = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    columns = Column("a", ""), Column("channel", "", categories=("CE", "SMT"))

    c_UC, number_U, weight_U, _ = blended(cells, columns, [1000, 10, 40, 40])

    first = number_U == 0
    torch.testing.assert_close(weight_U[first], 1 - c_UC[first, 0] * 0.99, rtol=1e-4, atol=1e-6)
    assert torch.equal(weight_U[number_U >= 2], torch.ones(2 * 4000))


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
    moved = torch.stack([one(c_UC, step=step)[0] for step in range(steps)])
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
    moved, weights = scattered(c_NC, columns)[0](torch.from_numpy(c_NC), step=1)

    assert far[0] < 0.001
    assert far[1] == pytest.approx(2.0, rel=0.1)
    assert far[2] == 0
    assert weights is None
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

    moved = torch.stack([one(torch.from_numpy(c_NC), step=step)[0] for step in range(50)])
    far = (moved - torch.from_numpy(c_NC)).abs()[..., 0].amax(0)

    assert far[900:].median() > 20 * far[:900].median()
    assert ends[0][0] <= moved.min()
    assert moved.max() <= ends[1][1]
