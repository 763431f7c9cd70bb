"""Conditions that are no grid: how it is seen, how they are cut to regions, copies in one part."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import regions
from data_prep.columns import Column
from data_prep.dataset import SPLITS, Dataset
from data_prep.errors import DataError
from data_prep.preparation import parts, split, spool
from data_prep.preparation.prepare import prepare
from data_prep.regions import LEAST_ROWS, MOST, Partition
from data_prep.stream import Stream, read_split

RNG = np.random.default_rng


def source(path, rows, **columns):
    """A table of two masses and these conditions, each an array or a number."""
    rng = RNG(rows)
    values = {"Mass_0": 5 + 40 * rng.random(rows), "Mass_1": 5 + 40 * rng.random(rows)}
    values |= {
        name: np.broadcast_to(np.asarray(each, float), rows) for name, each in columns.items()
    }
    pq.write_table(pa.table(values), path / "source.parquet")
    return path / "source.parquet"


def prepared(path, rows=6000, *, events=("Mass_0", "Mass_1"), options=None, **columns):
    table = source(path, rows, **columns)
    names = [name for name in columns if name not in events]
    return prepare(
        [table], path / "out", condition_columns=names, event_columns=events, **(options or {})
    )


def log_uniform(rng, rows):
    return 10 ** rng.uniform(-4, -1.5, rows)


def cloud(columns, points, each, rng):
    """Conditions of so many simulations of `each` rows."""
    return {f"c{k}": np.repeat(rng.random(points), each) for k in range(columns)}


CASES = {
    "a value in every row": ({"Z": log_uniform(RNG(1), 6000), "alpha": 1.0}, True),
    "a grid in alpha": (
        {"Z": log_uniform(RNG(1), 6000), "alpha": RNG(2).choice([1, 3], 6000)},
        True,
    ),
    "three conditions": ({f"c{k}": RNG(k).random(6000) for k in range(3)}, True),
    "a cloud of two": (cloud(2, 120, 50, RNG(1)), True),
    "a cloud of five": (cloud(5, 120, 50, RNG(1)), True),
    "a cloud of one": (cloud(1, 120, 50, RNG(1)), True),
    "a grid": ({"Z": RNG(1).choice([1, 2, 5], 6000), "alpha": RNG(2).choice([1, 3], 6000)}, False),
    "a fine grid": (
        {"Z": RNG(1).integers(1, 31, 6000), "alpha": RNG(2).integers(1, 21, 6000)},
        False,
    ),
    "few places of their own": (cloud(2, 20, 300, RNG(1)), False),
}


@pytest.mark.parametrize("case", CASES)
def test_prepare_sees_whether_conditions_are_scattered_and_says_so(tmp_path, case):
    columns, scattered = CASES[case]

    dataset = prepared(tmp_path, **columns)

    assert dataset.scattered == scattered
    assert any("no grid but scattered" in note for note in dataset.notes) == scattered
    assert Dataset.read(tmp_path / "out") == dataset


def test_a_user_decides_whether_conditions_are_scattered(tmp_path):
    grid = RNG(1).integers(1, 41, 6000)

    asked = prepared(tmp_path, Z=grid, alpha=1.0, options={"scattered": True})
    kept = prepare(
        [tmp_path / "source.parquet"], tmp_path / "grid", condition_columns=["Z"], scattered=False
    )

    assert asked.scattered
    assert len(kept.cells) == 40


@pytest.mark.parametrize("case", [name for name, (_, scattered) in CASES.items() if scattered])
def test_every_row_is_in_the_one_region_whose_box_holds_it(tmp_path, case):
    dataset = prepared(tmp_path, **CASES[case][0])

    for part in SPLITS:
        c_NC = read_split(tmp_path / "out", part).conditions
        found = regions.numbers(dataset, c_NC)
        assert found.min() >= 0
        for number, cell in enumerate(dataset.cells):
            assert getattr(cell, part) == (found == number).sum()
            box_C2 = np.array(cell.box, np.float32)
            inside = ((c_NC >= box_C2[:, 0]) & (c_NC <= box_C2[:, 1])).all(axis=1)
            np.testing.assert_array_equal(inside, found == number)
    assert all(cell.rows >= 900 for cell in dataset.cells)  # of a sample: about 1,000
    lows, highs = np.array([cell.box for cell in dataset.cells]).transpose(2, 0, 1)
    assert dict(zip(dataset.ranges, dataset.ranges.values(), strict=True))["Mass_0"][0] >= 5
    for k, column in enumerate(dataset.condition_columns):
        assert dataset.ranges[column.name] == (lows[:, k].min(), highs[:, k].max())


def test_many_rows_are_read_in_bounded_memory_to_as_many_regions_as_there_may_be(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(spool, "MAX_CELLS", 500)
    monkeypatch.setattr(parts, "SAMPLE_ROWS", 20_000)
    monkeypatch.setattr(spool, "BLOCK_ROWS", 10_000)

    dataset = prepared(tmp_path, 100_000, Z=log_uniform(RNG(1), 100_000), y=RNG(2).random(100_000))

    assert dataset.rows == {"train": 60_000, "val": 20_000, "test": 20_000}
    assert len(dataset.cells) == MOST
    assert min(cell.rows for cell in dataset.cells) > 0.8 * 100_000 / MOST
    assert dataset.bytes_after < 20 * 100_000


def test_regions_are_the_same_whenever_the_table_is_prepared(tmp_path):
    columns = {"Z": log_uniform(RNG(1), 6000), "alpha": RNG(2).random(6000)}

    one = prepared(tmp_path, **columns)
    other = prepare(
        [tmp_path / "source.parquet"], tmp_path / "again", condition_columns=["Z", "alpha"]
    )

    assert (one.fingerprint, one.cells) == (other.fingerprint, other.cells)


def test_a_part_holds_conditions_like_the_others(tmp_path):
    dataset = prepared(tmp_path, 60_000, Z=log_uniform(RNG(1), 60_000), y=RNG(2).random(60_000))

    shares = [cell.test / cell.rows for cell in dataset.cells]

    np.testing.assert_allclose(shares, 0.2, atol=0.07)


def test_regions_hold_alike_effective_rows_and_categories_are_apart():
    rng = RNG(0)
    columns = [Column("Z", "", positive=True), Column("channel", "", categories=("CE", "SMT"))]
    c_SC = np.stack([log_uniform(rng, 40_000), rng.random(40_000) < 0.25], axis=1).astype(float)
    heavy = c_SC[:, 0] > 1e-3
    weight = np.where(heavy, 10.0, 1.0)

    found = Partition.of(c_SC, weight, columns, 80_000)
    number = found.numbers(c_SC)

    sums = [np.bincount(number, each, len(found.middle_KC)) for each in (weight, weight**2)]
    effective = 2 * sums[0] ** 2 / sums[1]
    assert effective.min() >= LEAST_ROWS
    assert effective.max() / effective.min() < 3
    for k in range(len(effective)):
        assert len(np.unique(c_SC[number == k, 1])) == 1


def test_a_region_is_a_neighbourhood_and_no_sliver():
    """In two conditions of one spread, the sides of each box are within a factor of four."""
    c_SC = RNG(0).random((30_000, 2)) * [1.0, 100.0]
    columns = [Column("x", ""), Column("y", "")]

    found = Partition.of(c_SC, np.ones(30_000), columns, 30_000)
    number = found.numbers(c_SC)

    for k in range(len(found.middle_KC)):
        sides = np.ptp(c_SC[number == k], axis=0) / [1.0, 100.0]
        assert max(sides) / min(sides) < 4


def test_no_region_spans_a_hole_between_two_stretches():
    """If it did, an emulator would take the hole for a place that it knows."""
    rng = RNG(0)
    c_SC = np.concatenate([rng.uniform(0, 1, 20_700), rng.uniform(3, 4, 19_300)])[:, None]

    found = Partition.of(c_SC, np.ones(40_000), [Column("x", "")], 40_000)
    number = found.numbers(c_SC)

    assert max(np.ptp(c_SC[number == k]) for k in range(len(found.middle_KC))) < 1


def test_a_number_is_that_of_the_cell_with_exactly_these_conditions():
    dataset = Dataset.read(regions_sample())
    c_KC = np.array([cell.conditions for cell in dataset.cells])

    assert regions.numbers(dataset, c_KC).tolist() == list(range(len(c_KC)))
    assert regions.numbers(dataset, c_KC * 1.001).tolist() == [-1] * len(c_KC)
    assert regions.numbers(dataset, c_KC[:0]).tolist() == []


def regions_sample():
    from data_prep.dataset import SAMPLE

    return SAMPLE


def test_rows_are_left_out_and_read_alone_by_region(tmp_path):
    dataset = prepared(tmp_path, Z=log_uniform(RNG(1), 6000), alpha=1.0)
    out, cell = tmp_path / "out", dataset.cells[1]
    point = {"Z": cell.box[0][0], "alpha": 1.0}

    inside = Stream(out, "train", batch_size=10_000, only=[point])
    outside = Stream(out, "train", batch_size=10_000, without=[point])

    (batch,) = inside.epoch(0)
    assert inside.rows == cell.train
    assert inside.rows + outside.rows == dataset.rows["train"]
    assert cell.box[0][0] <= batch.conditions[:, 0].min() * (1 + 1e-6)
    with pytest.raises(DataError, match=r"Z = 1, alpha = 1 is in no region of it: the nearest"):
        Stream(out, "train", batch_size=10, only=[{"Z": 1.0, "alpha": 1.0}])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda one: one.update(box=[[2.0, 1.0], [1.0, 1.0]]), "not in its box"),
        (lambda one: one.update(conditions=[9.0, 1.0]), "not in its box"),
        (lambda one: one.update(box=[[0.0, 1.0]]), "two sides for each condition"),
        (lambda one: one.pop("box"), "two sides for each condition"),
    ],
    ids=["turned", "outside", "short", "none"],
)
def test_a_region_that_cannot_be_is_refused(tmp_path, change, fault):
    prepared(tmp_path, Z=log_uniform(RNG(1), 6000), alpha=1.0)
    path = tmp_path / "out" / "dataset.json"
    stored = json.loads(path.read_text())
    change(stored["cells"][0])
    path.write_text(json.dumps(stored))

    with pytest.raises(DataError, match=fault):
        Dataset.read(tmp_path / "out")


def test_totals_need_a_grid(tmp_path):
    (tmp_path / "totals.csv").write_text("Z,alpha,simulated_binaries\n0.001,1,100\n")

    with pytest.raises(DataError, match=r"--totals .* these conditions are scattered: leave it"):
        prepared(
            tmp_path,
            Z=log_uniform(RNG(1), 6000),
            alpha=1.0,
            options={"totals": tmp_path / "totals.csv"},
        )


# ---- copies


def rows_of(folder, part):
    batch = read_split(folder, part)
    return set(map(tuple, np.concatenate([batch.events, batch.conditions], axis=1).tolist()))


@pytest.mark.parametrize("scattered", [False, True])
def test_no_copy_of_a_row_is_in_another_part(tmp_path, scattered):
    rng = RNG(3)
    distinct = source(tmp_path, 2000, Z=rng.choice([0.01, 0.02], 2000), alpha=rng.random(2000))
    table = pq.read_table(distinct).take(pa.array(rng.integers(2000, size=8000)))
    pq.write_table(table, distinct)
    conditions = ["Z", "alpha"] if scattered else ["Z"]

    dataset = prepare([distinct], tmp_path / "out", condition_columns=conditions)

    train, val, test = (rows_of(tmp_path / "out", part) for part in SPLITS)
    different = len({*train, *val, *test})
    assert dataset.scattered == scattered
    assert len(train) + len(val) + len(test) == different
    assert len(train) == pytest.approx(0.6 * different, rel=0.1)
    assert sum(dataset.rows.values()) == 8000
    assert any(f"{8000 - different:,} of 8,000 rows are copies" in each for each in dataset.notes)


def test_rows_without_a_copy_are_dealt_exactly_all_the_same(tmp_path):
    z = np.repeat([0.01, 0.02, 0.03], [5000, 990, 10])
    table = pq.read_table(source(tmp_path, 6000, Z=z))
    twice = pa.concat_tables([table, table.slice(0, 3)])
    pq.write_table(twice, tmp_path / "source.parquet")

    cells = prepare([tmp_path / "source.parquet"], tmp_path / "out", condition_columns=["Z"]).cells

    assert (cells[2].train, cells[2].val, cells[2].test) == (6, 2, 2)
    assert (cells[1].train, cells[1].val, cells[1].test) == (594, 198, 198)


def test_copies_are_found_in_memory_that_does_not_grow(tmp_path, monkeypatch):
    monkeypatch.setattr(split, "SORTED_ROWS", 1000)
    hash_N = regions.hashes(RNG(0).integers(2500, size=(5000, 1)).astype(float))

    found = split.Repeats.of(np.split(hash_N, 5), 5000, tmp_path)
    monkeypatch.setattr(split, "MOST_REPEATED", 10)
    too_many = split.Repeats.of(np.split(hash_N, 5), 5000, tmp_path)

    values, counts = np.unique(hash_N, return_counts=True)
    assert found.copies == too_many.copies == 5000 - len(values)
    np.testing.assert_array_equal(found.hashes, values[counts > 1])
    assert too_many.among(hash_N).all()
    assert list(tmp_path.iterdir()) == []


def test_rows_at_an_atom_are_no_copies(tmp_path):
    rng = RNG(1)
    spin = np.where(rng.random(6000) < 0.7, 0.0, rng.random(6000))

    dataset = prepared(
        tmp_path,
        events=["chi_eff"],
        chi_eff=spin,
        Z=rng.choice([0.01, 0.02], 6000),
        options={"atoms": {"chi_eff": [0.0]}},
    )

    assert dataset.rows == {"train": 3600, "val": 1200, "test": 1200}
    assert dataset.notes == ()


def test_equal_rows_have_equal_hashes_and_different_ones_do_not():
    values = RNG(0).random((20_000, 3)).astype(np.float32)

    found = regions.hashes(values)

    assert len(np.unique(found)) == len(values)
    np.testing.assert_array_equal(found[::-1], regions.hashes(values[::-1]))
    assert regions.hashes(np.array([[0.0]])) == regions.hashes(np.array([[-0.0]]))
    assert (regions.hashes(values, seed=1) != found).all()
    # Each bit is set in half of them.
    bits = (found[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    np.testing.assert_allclose(bits.mean(axis=0), 0.5, atol=0.02)
