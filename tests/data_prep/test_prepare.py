"""Preparing: the split's laws, what comes back from disk, and what columns mean."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.columns import Column
from data_prep.dataset import SPLITS, Dataset
from data_prep.errors import DataError
from data_prep.preparation import parts, spool
from data_prep.preparation.prepare import prepare
from data_prep.preparation.split import deal, shares
from data_prep.stream import read_split
from data_prep.tables import arrow

HEADER = "name,Mass_0,Mass_1,Z,alpha"
ROWS = [f"b{n},{10 + n},{8 + n / 2},{(0.0001, 0.03)[n % 2]},{1.0}" for n in range(20)]


def write(path: Path, rows: list[str], header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def rows_of(folder: Path) -> Counter[tuple[float, ...]]:
    """All rows of a prepared dataset with how often each occurs."""
    parts = [np.concatenate(read_split(folder, name).arrays, axis=1) for name in SPLITS]
    return Counter(map(tuple, np.concatenate(parts).tolist()))


def single(table: pa.Table) -> Counter[tuple[float, ...]]:
    """The same of a source table, in single precision."""
    columns = [table[name].to_numpy() for name in ("Mass_0", "Mass_1", "Z", "alpha")]
    return Counter(map(tuple, np.stack(columns, axis=1).astype(np.float32).tolist()))


# ---- the split


@given(
    rows=st.lists(st.integers(0, 400), min_size=1, max_size=30),
    split=st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.1, 0.1), (0.98, 0.01, 0.01), (0.5, 0.5, 0)]),
)
def test_shares_add_up_and_no_larger_cell_is_left_out(rows, split):
    found = shares(np.array(rows), split)

    assert found.sum(axis=1).tolist() == rows
    assert (found >= 0).all()
    wanted = np.array(split) > 0
    assert (found[np.array(rows) >= 5][:, wanted] >= 1).all()
    assert (found[:, ~wanted] == 0).all()
    # Nobody is more than a row from the exact share, but where a row was moved to an empty part.
    exact = np.array(rows)[:, None] * np.array(split)
    assert (abs(found - exact) < 2 + 1e-9).all()


@given(
    codes=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    cuts=st.lists(st.integers(0, 200), max_size=3),
    seed=st.integers(0, 5),
)
def test_dealing_uses_up_the_shares_exactly(codes, cuts, seed):
    cells = np.array(codes)
    wanted = shares(np.bincount(cells, minlength=5), (0.6, 0.2, 0.2))
    left, rng = wanted.copy(), np.random.default_rng(seed)

    dealt = np.concatenate([deal(piece, left, rng) for piece in np.split(cells, sorted(cuts))])

    found = np.zeros_like(wanted)
    np.add.at(found, (cells, dealt), 1)
    np.testing.assert_array_equal(found, wanted)
    assert not left.any()


def test_every_row_of_a_cell_is_as_likely_to_be_tested():
    tested = np.zeros(10)
    for seed in range(3000):
        left, rng = np.array([[6, 2, 2]]), np.random.default_rng(seed)
        halves = [deal(np.zeros(size, int), left, rng) for size in (4, 6)]
        tested += np.concatenate(halves) == 2

    # 600 expected each; 4.5 standard deviations of a binomial.
    np.testing.assert_allclose(tested, 600, atol=100)


# ---- what is written


def test_conditions_come_back_as_they_were_written(table, prepared):
    dataset = Dataset.read(prepared)
    grid = sorted(set(zip(table["Z"].to_pylist(), table["alpha"].to_pylist(), strict=True)))

    assert [cell.conditions for cell in dataset.cells] == grid
    stored = pq.read_table(prepared / "train" / "part-00000.parquet", columns=["Z"])["Z"]
    assert set(stored.to_pylist()) == set(table["Z"].to_pylist())


def test_cells_count_what_the_parts_hold(prepared):
    dataset = Dataset.read(prepared)

    for name in SPLITS:
        found = Counter(map(tuple, read_split(prepared, name).conditions.tolist()))
        wanted = {
            tuple(np.float32(cell.conditions).tolist()): getattr(cell, name)
            for cell in dataset.cells
        }
        assert found == +Counter(wanted)
    assert all(min(cell.train, cell.val, cell.test) >= 1 for cell in dataset.cells)


def test_ranges_and_provenance_are_those_of_the_source(table, prepared):
    dataset = Dataset.read(prepared)

    for name in ("Mass_0", "Z"):
        span = pc.min_max(table[name].cast(pa.float32() if name == "Mass_0" else pa.float64()))
        assert dataset.ranges[name] == (span["min"].as_py(), span["max"].as_py())
    assert [(found["file"], found["rows"]) for found in dataset.sources] == [
        ("mergers.parquet", len(table))
    ]
    assert dataset.bytes_after == sum(p.stat().st_size for p in prepared.glob("*/*.parquet"))


def test_the_seed_alone_decides_split_and_order(table, prepared, tmp_path):
    elsewhere = tmp_path / "mergers-again.parquet"
    pq.write_table(table, elsewhere, row_group_size=701)

    same = prepare([elsewhere], tmp_path / "same", command="another")
    other = prepare([elsewhere], tmp_path / "other", seed=1)

    assert same.fingerprint == Dataset.read(prepared).fingerprint
    assert other.fingerprint != same.fingerprint
    for name in SPLITS:
        first, again = read_split(prepared, name), read_split(tmp_path / "same", name)
        np.testing.assert_array_equal(first.events, again.events)
        np.testing.assert_array_equal(first.conditions, again.conditions)


@dataclass(frozen=True, slots=True)
class Wider(Column):
    """A column with a field that today's has not."""

    prior: str = "flat"


@pytest.mark.parametrize("kind", [Column, Wider])
def test_the_fingerprint_of_a_table_stays_what_it_was(tmp_path, monkeypatch, kind):
    """Else nobody could go on with a study on the same data, prepared again by a newer version."""
    named = Column.named
    monkeypatch.setattr(
        Column, "named", lambda name, **_: kind(name, named(name).unit, named(name).positive)
    )
    rows = [
        f"{5 + k / 4},{3 + k / 8},{(0.0001, 0.001)[k % 2]},{(0.5, 1.0)[k // 20]}" for k in range(40)
    ]
    source = write(tmp_path / "t.csv", rows, "Mass_0,Mass_1,Z,alpha")

    made = [
        prepare([source], tmp_path / "two").fingerprint,
        prepare(
            [source], tmp_path / "one", event_columns=["Mass_0"], condition_columns=["Z"]
        ).fingerprint,
    ]

    assert made == [
        "ed951ebdd774aacc0d6d3bb02683b7175f6e45b703ceef912ca5bbfaabfe4137",
        "0d51ad36bc75a84387010dadad8a5f1977acf18ea29ffc899c48e6ab813e8151",
    ]


def test_neither_block_nor_bucket_nor_part_boundaries_lose_rows(table, tmp_path, monkeypatch):
    pq.write_table(table, tmp_path / "mergers.parquet")
    monkeypatch.setattr(spool, "BLOCK_ROWS", 700)
    monkeypatch.setattr(parts, "BUCKET_ROWS", 500)
    monkeypatch.setattr(parts, "GROUP_ROWS", 256)
    monkeypatch.setattr(parts, "PART_GROUPS", 4)
    monkeypatch.setattr(arrow, "CHUNK_ROWS", 333)

    prepare([tmp_path / "mergers.parquet"], tmp_path / "out")

    assert rows_of(tmp_path / "out") == single(table)
    assert len(list((tmp_path / "out" / "train").iterdir())) == 4


def test_rows_are_shuffled_across_the_whole_part(tmp_path, monkeypatch):
    count = 9_000
    order = np.arange(1.0, count + 1)
    table = pa.table({"Mass_0": order, "Mass_1": order, "Z": np.full(count, 0.1)})
    pq.write_table(table, tmp_path / "a.parquet")
    monkeypatch.setattr(parts, "BUCKET_ROWS", 1_000)

    prepare(
        [tmp_path / "a.parquet"],
        tmp_path / "out",
        condition_columns=["Z"],
        split=(0.98, 0.01, 0.01),
    )

    mass = read_split(tmp_path / "out", "train").events[:, 0]
    thirds = [third.mean() for third in np.split(mass, 3)]
    # Mean of 3,000 of 9,000 uniform values: standard deviation 39.
    np.testing.assert_allclose(thirds, order.mean(), atol=160)
    assert abs(np.corrcoef(mass[1:], mass[:-1])[0, 1]) < 0.05


def test_a_table_that_leaves_a_part_empty_is_refused(tmp_path):
    table = pa.table({"Mass_0": [1.0, 2.0], "Mass_1": [1.0, 2.0], "Z": [0.1, 0.2]})
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(DataError, match=r"2 rows in 2 cells leave none for val and test"):
        prepare([tmp_path / "a.parquet"], tmp_path / "out", condition_columns=["Z"])

    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_an_event_column_that_never_changes_is_refused(table, tmp_path):
    same = table.set_column(table.column_names.index("Mass_1"), "Mass_1", [np.full(6_000, 5.0)])
    pq.write_table(same, tmp_path / "a.parquet")

    with pytest.raises(DataError, match=r"'Mass_1' is 5 in every row"):
        prepare([tmp_path / "a.parquet"], tmp_path / "out")


def test_the_encoding_is_the_measured_one(prepared):
    group = pq.read_metadata(prepared / "train" / "part-00000.parquet").row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(4)}

    for name in ("Z", "alpha"):
        assert "RLE_DICTIONARY" in columns[name].encodings
    for name in ("Mass_0", "Mass_1"):
        assert columns[name].physical_type == "FLOAT"
        assert "BYTE_STREAM_SPLIT" in columns[name].encodings
    assert not any(column.is_stats_set for column in columns.values())


# ---- layouts


def test_single_precision_grids_are_what_they_were_meant_to_be(table, tmp_path):
    single_precision = pa.table(
        {name: table[name].cast(pa.float32()) for name in ("Mass_0", "Mass_1", "Z", "alpha")}
    )
    pq.write_table(single_precision, tmp_path / "single.parquet")
    pq.write_table(table, tmp_path / "double.parquet")

    found = prepare([tmp_path / "single.parquet"], tmp_path / "a").fingerprint
    assert found == prepare([tmp_path / "double.parquet"], tmp_path / "b").fingerprint


def test_several_sources_become_one_dataset(table, tmp_path):
    pq.write_table(table.slice(0, 2500), tmp_path / "a.parquet")
    pa_csv.write_csv(table.slice(2500), tmp_path / "b.csv")
    seen: list[int] = []

    dataset = prepare(
        [tmp_path / "a.parquet", tmp_path / "b.csv"], tmp_path / "out", on_progress=seen.append
    )

    assert rows_of(tmp_path / "out") == single(table)
    assert [found["rows"] for found in dataset.sources] == [2500, 3500]
    assert seen == sorted(seen)
    assert seen[-1] == 6000


def test_columns_are_renamed(tmp_path):
    path = write(tmp_path / "a.csv", ROWS, "id,m1,m2,metallicity,alpha")

    dataset = prepare(
        [path],
        tmp_path / "out",
        columns={"m1": "Mass_0", "m2": "Mass_1", "metallicity": "Z"},
        where="Mass_0 > 12",
    )

    assert dataset.ranges["Mass_0"] == (13, 29)


def test_two_columns_can_change_places(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)

    dataset = prepare([path], tmp_path / "out", columns={"Mass_0": "Mass_1", "Mass_1": "Mass_0"})

    assert dataset.ranges["Mass_1"] == (10, 29)


def test_where_filters_on_columns_that_are_not_kept(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)

    dataset = prepare([path], tmp_path / "out", where='name in ("b3", "b5", "b7") or Mass_0 < 14')

    assert sum(dataset.rows.values()) == 6
    assert dataset.dropped == {"where": 14}
    assert dataset.sources[0]["rows"] == 20
    assert dataset.where == 'name in ("b3", "b5", "b7") or Mass_0 < 14'


def test_where_can_take_out_bad_rows(tmp_path):
    path = write(tmp_path / "a.csv", [*ROWS, "bad,0,5,0.03,1"])

    assert sum(prepare([path], tmp_path / "out", where="Mass_0 > 0").rows.values()) == 20


# ---- what columns mean


def test_what_is_said_of_a_column_is_kept(tmp_path):
    path = write(tmp_path / "a.csv", ROWS, "id,S1_mass,x,Z,alpha")

    dataset = prepare(
        [path],
        tmp_path / "out",
        event_columns=["S1_mass", "x"],
        support={"x": "1:", "alpha": "0.5:5"},
        unit={"x": "Gyr"},
    )

    kept = Dataset.read(tmp_path / "out")
    assert kept == dataset
    assert kept.event_columns == (Column("S1_mass", "Msun", True), Column("x", "Gyr", low=1.0))
    assert kept.condition_columns[1] == Column("alpha", "", low=0.5, high=5.0)


def test_a_column_that_is_renamed_to_an_unknown_name_keeps_its_meaning(tmp_path):
    path = write(tmp_path / "a.csv", ROWS, "id,S1_mass,x,Z,alpha")
    renamed = {"S1_mass": "heavy", "x": "Mass_1"}

    dataset = prepare([path], tmp_path / "out", event_columns=["heavy", "Mass_1"], columns=renamed)

    assert [column.support for column in dataset.event_columns] == ["positive", "positive"]
    assert [column.unit for column in dataset.event_columns] == ["Msun", "Msun"]
    assert dataset.notes == ()


@pytest.mark.parametrize(
    ("name", "value", "said", "message"),
    [
        ("q", 1.0001, {}, r"column 'q', row 3: 1.0001 is outside \[0, 1\]: .* --support q=LOW"),
        ("chi_eff", -2, {}, r"-2 is outside \[-1, 1\]"),
        ("S1_mass", 0, {}, "0 is not above zero: .*, or say by --support S1_mass="),
        ("x", -1, {"x": "positive"}, "column 'x', row 3: -1 is not above zero"),
        ("x", 7.5, {"x": "0:7"}, r"7.5 is outside \[0, 7\]"),
        ("q", 1.0001, {"q": "positive"}, None),
        ("q", 1 + 1e-12, {}, None),
    ],
)
def test_a_row_outside_the_support_is_refused(tmp_path, name, value, said, message):
    rows = [f"{value if k == 2 else k / 20},{k},0.1" for k in range(1, 20)]
    rows.insert(0, "0.5,30,0.1")
    path = write(tmp_path / "a.csv", rows, f"{name},y,Z")
    options = {"event_columns": [name, "y"], "condition_columns": ["Z"], "support": said}

    if message is None:
        prepare([path], tmp_path / "out", **options)
        return
    with pytest.raises(DataError, match=message):
        prepare([path], tmp_path / "out", **options)
    prepare([path], tmp_path / "out", **options, drop_invalid=True)


@pytest.mark.parametrize(
    ("option", "said", "message"),
    [
        ("support", {"Mass_2": "real"}, "--support Mass_2: there is no column 'Mass_2' .*Mass_"),
        ("unit", {"mass": "kg"}, "--unit mass: there is no column"),
        ("atoms", {"Z": (0.1,)}, "--atom Z: there is no event column 'Z'"),
        ("lattice", {"Mass_0": 0.0}, "--lattice Mass_0=0: a step is a number above 0"),
    ],
)
def test_what_is_said_of_no_column_is_refused(tmp_path, option, said, message):
    with pytest.raises(DataError, match=message):
        prepare([write(tmp_path / "a.csv", ROWS)], tmp_path / "out", **{option: said})
