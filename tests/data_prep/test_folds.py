"""Which cells are interior, and how they are dealt into folds: by nothing but the conditions."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data_prep import cells
from data_prep.columns import Column
from data_prep.dataset import SAMPLE, Cell, Dataset
from data_prep.errors import DataError
from data_prep.regions import Partition

CHANNELS = Column("channel", "", categories=("CE", "RLO"))


def dataset(conditions, *columns, boxes=()):
    """A dataset with these cells, or regions, in ascending order."""
    columns = columns or [Column(f"c{k}", "") for k in range(len(conditions[0]))]
    boxes = boxes or [()] * len(conditions)
    made = tuple(Cell(tuple(c), 6, 2, 2, box=box) for c, box in zip(conditions, boxes, strict=True))
    names = ("x", *(column.name for column in columns))
    return Dataset(
        event_columns=(Column("x", ""),),
        condition_columns=tuple(columns),
        rows={"train": 6 * len(made), "val": 2 * len(made), "test": 2 * len(made)},
        cells=made,
        ranges=dict.fromkeys(names, (0.0, 1e9)),
        scattered=bool(boxes[0]),
        fingerprint="f",
    )


def grid(*sizes):
    return [tuple(map(float, place)) for place in itertools.product(*map(range, sizes))]


def dealt(data, count=4):
    """The fold of each interior cell, by its conditions."""
    folds = cells.folds(data, count)
    return {tuple(cell.values()): number for number, fold in enumerate(folds) for cell in fold}


@pytest.mark.parametrize("sizes", [(12,), (9, 4), (5, 7), (5, 4, 6), (4, 4, 4, 4)])
@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_interior_cell_of_a_grid_is_in_one_fold_its_neighbours_in_others(sizes, count):
    fold = dealt(dataset(grid(*sizes)), count)

    inside = itertools.product(*(range(1, size - 1) for size in sizes))
    assert sorted(fold) == [tuple(map(float, place)) for place in inside]
    for one, other in itertools.combinations(fold, 2):
        if sum(abs(a - b) for a, b in zip(one, other, strict=True)) == 1:
            assert fold[one] != fold[other]
    counts = Counter(fold.values())
    assert sorted(counts) == list(range(count))
    if len(sizes) < 3:
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_folds_of_the_sample_stay_what_they_are():
    """A study that goes on must find those of its first launch."""
    fold = dealt(Dataset.read(SAMPLE))

    metallicities = (0.0002, 0.0004, 0.0006, 0.0008, 0.001, 0.002, 0.004)
    assert sorted({Z for Z, _ in fold}) == sorted(metallicities)
    assert [fold[Z, 1.0] for Z in metallicities] == [0, 1, 3, 0, 2, 1, 3]
    assert [fold[Z, 3.0] for Z in metallicities] == [2, 3, 1, 2, 0, 3, 1]


def test_nothing_counts_but_which_cells_there_are():
    conditions = grid(6, 5)
    fold = dealt(dataset(conditions))

    stretched = dealt(dataset([(10.0**a, 7.0 - 1 / (b + 1)) for a, b in conditions]))
    assert list(stretched.values()) == list(fold.values())
    whole = dataset(conditions)
    rng = np.random.default_rng(1)
    uneven = [replace(cell, train=int(rng.integers(1, 10**6))) for cell in whole.cells]
    assert dealt(replace(whole, cells=tuple(uneven))) == fold


def test_a_condition_with_two_values_is_not_asked():
    fold = dealt(dataset(grid(2, 6)))

    assert sorted(fold) == [(a, b) for a in (0.0, 1.0) for b in (1.0, 2.0, 3.0, 4.0)]
    assert all(fold[0.0, b] != fold[1.0, b] for b in (1.0, 2.0, 3.0, 4.0))


def test_a_text_is_no_side_and_keeps_its_only_cell():
    conditions = [*((0.0, b) for b in grid(6)), (1.0, (2.0,))]
    data = dataset([(a, *b) for a, b in conditions], CHANNELS, Column("Z", ""))

    assert sorted(dealt(data)) == [("CE", b) for b in (1.0, 2.0, 3.0, 4.0)]
    assert cells.faults(data, *cells.folds(data, 4)) == []


def test_a_hole_in_a_grid_is_an_edge_only_where_nothing_is_beyond_it():
    fold = dealt(dataset([c for c in grid(7, 3) if c not in {(0.0, 1.0), (4.0, 1.0)}]), 3)

    # Of (1, 1) the lower neighbour is missing; (3, 1) and (5, 1) are each other's neighbours.
    assert sorted(fold) == [(2.0, 1.0), (3.0, 1.0), (5.0, 1.0)]
    assert fold[3.0, 1.0] != fold[5.0, 1.0]


@pytest.mark.parametrize(
    ("conditions", "columns", "said"),
    [
        (grid(5), (), "3 of its 5 cells"),
        (grid(2, 2), (), "0 of its 4 cells"),
        ([(0.0,), (1.0,)], (CHANNELS,), "0 of its 2 cells"),
    ],
    ids=["few", "two-values", "texts"],
)
def test_too_few_interior_cells_are_refused_in_a_sentence(conditions, columns, said):
    with pytest.raises(DataError) as caught:
        cells.folds(dataset(conditions, *columns), 4)

    assert str(caught.value).startswith(f"{said} are interior, with neighbours on")
    assert (
        "too few for 4 folds: choose fewer (hold_out_folds, at least 3; --folds), or name"
        in str(caught.value)
    )


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_interior_regions_have_others_around_them(columns):
    rng = np.random.default_rng(columns)
    c_SC = rng.random((120_000, columns)).astype(np.float32).astype(np.float64)
    named = [Column(f"c{k}", "") for k in range(columns)]
    partition = Partition.of(c_SC, np.ones(len(c_SC)), named, len(c_SC))
    number_S = partition.numbers(c_SC)
    boxes = [
        tuple(zip(c_SC[number_S == k].min(0), c_SC[number_S == k].max(0), strict=True))
        for k in range(len(partition.middle_KC))
    ]
    data = dataset(partition.middle_KC.tolist(), *named, boxes=boxes)

    fold = dealt(data)

    dealt_out = cells.folds(data, 4)
    assert cells.faults(data, *dealt_out[:2]) == []
    assert [len(cells.find(data, some, SAMPLE)) for some in dealt_out] == [*map(len, dealt_out)]
    of = {cell.conditions: cell.box for cell in data.cells}
    ends = np.array([of[middle] for middle in fold])
    assert (ends[..., 0] > c_SC.min(0)).all()
    assert (ends[..., 1] < c_SC.max(0)).all()
    assert len(fold) >= {1: 62, 2: 30, 3: 6}[columns]
    number = np.array(list(fold.values()))
    low, high = ends[:, None, :, 0], ends[None, :, :, 1]
    overlap = (low <= high) & (low <= high).transpose(1, 0, 2)
    touching = (overlap.sum(2) == columns - 1) & (np.abs(low - high).min(2) < 1e-3)
    same = (number[:, None] == number[None])[touching]
    assert len(same) > len(fold) / 2
    assert same.mean() < 0.1  # one in four by chance
    if columns == 1:
        assert not same.any()
