"""Preparing: the split's laws, what comes back from disk, and every refusal."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import textwrap
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

from data_prep.codes import cosmic
from data_prep.columns import Column
from data_prep.dataset import SPLITS, Dataset
from data_prep.errors import DataError
from data_prep.preparation import parts, spool
from data_prep.preparation.prepare import prepare
from data_prep.preparation.split import deal, shares
from data_prep.stream import read_split
from data_prep.tables import arrow
from data_prep.tables.text import table as text
from data_prep.where import FilterError
from tests.conftest import draw_table

BPP = Path(__file__).parents[1] / "data" / "cosmic_bpp.csv.gz"

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


def test_no_row_is_lost_doubled_or_changed(table, prepared):
    dataset = Dataset.read(prepared)

    assert rows_of(prepared) == single(table)
    assert {name: len(read_split(prepared, name).events) for name in SPLITS} == dataset.rows
    assert sum(dataset.rows.values()) == len(table)


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


def test_every_layout_of_a_table_gives_the_same_dataset(table, tmp_path):
    table = table.slice(0, 500).select(["Mass_0", "name", "Mass_1", "Z", "alpha"])
    plain = tmp_path / "a.csv"
    pa_csv.write_csv(table, plain)
    text = plain.read_text()
    files = {
        "a.csv": text.encode(),
        "windows.csv": ("\ufeff" + text.replace("\n", "\r\n")).encode(),
        "a.csv.gz": gzip.compress(text.encode()),
        "a.dat": ("# " + text.replace('"', "").replace(",", "   ")).encode(),
        "quoted.dat": text.replace(",", " \t").encode(),
        "a.dat.gz": gzip.compress(text.replace('"', "").replace(",", "\t").encode()),
        "unended.csv": text.rstrip("\n").encode(),
    }
    found = set()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        found.add(prepare([tmp_path / name], tmp_path / f"{name}-out").fingerprint)
    pq.write_table(table, tmp_path / "a.parquet")
    found.add(prepare([tmp_path / "a.parquet"], tmp_path / "parquet-out").fingerprint)
    strings = pa.table(
        {
            name: column.cast(pa.string())
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    )
    pq.write_table(strings, tmp_path / "strings.parquet")
    found.add(prepare([tmp_path / "strings.parquet"], tmp_path / "strings-out").fingerprint)

    assert len(found) == 1


def test_single_precision_grids_are_what_they_were_meant_to_be(table, tmp_path):
    single_precision = pa.table(
        {name: table[name].cast(pa.float32()) for name in ("Mass_0", "Mass_1", "Z", "alpha")}
    )
    pq.write_table(single_precision, tmp_path / "single.parquet")
    pq.write_table(table, tmp_path / "double.parquet")

    found = prepare([tmp_path / "single.parquet"], tmp_path / "a").fingerprint
    assert found == prepare([tmp_path / "double.parquet"], tmp_path / "b").fingerprint


def test_text_is_read_in_blocks_without_losing_a_row(table, tmp_path, monkeypatch):
    pa_csv.write_csv(table, tmp_path / "a.csv")
    monkeypatch.setattr(text, "BLOCK_BYTES", 1000)

    prepare([tmp_path / "a.csv"], tmp_path / "out")

    assert rows_of(tmp_path / "out") == single(table)


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


# ---- COSMIC


def test_a_bpp_table_gives_the_mergers_that_cosmic_itself_saw(tmp_path):
    rows = pa_csv.read_csv(BPP).to_pylist()
    # COSMIC follows the inspiral: evol_type 6 is the coalescence of what had been two black holes.
    first, merged = {}, set()
    for row in rows:
        if row["kstar_1"] == row["kstar_2"] == 14 and row["sep"] > 0:
            first.setdefault(row["bin_num"], row)
        if row["evol_type"] == 6 and row["bin_num"] in first:
            merged.add(row["bin_num"])
    wanted = Counter(
        tuple(np.float32([row["mass_1"], row["mass_2"], row["metallicity"], row["alpha1"]]))
        for number, row in first.items()
        if number in merged
    )

    dataset = prepare([BPP], tmp_path / "out")

    assert len(merged) == 12
    assert len(first) > 12
    assert rows_of(tmp_path / "out") == wanted
    assert dataset.sources[0]["layout"] == "cosmic bpp"


def test_a_bpp_table_is_the_same_however_it_is_cut(tmp_path, monkeypatch):
    whole = prepare([BPP], tmp_path / "whole").fingerprint
    monkeypatch.setattr(text, "BLOCK_BYTES", 300)

    assert prepare([BPP], tmp_path / "cut").fingerprint == whole


def test_a_joined_bpp_table_counts_binaries_of_the_same_number_apart(tmp_path):
    table = pa_csv.read_csv(BPP)
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "twice.parquet")

    assert sum(prepare([tmp_path / "twice.parquet"], tmp_path / "out").rows.values()) == 24


def test_the_same_binary_of_two_joined_runs_is_two(tmp_path):
    table = pa_csv.read_csv(BPP)
    # evol_type 3 of two black holes: they touch, so this pair merges.
    touching = (pc.field("kstar_1") == 14) & (pc.field("kstar_2") == 14)
    merged = table.filter(touching & (pc.field("evol_type") == 3))["bin_num"]
    some = table.filter(pc.field("bin_num").isin(merged[:12].to_pylist()))
    pq.write_table(pa.concat_tables([some] * 2), tmp_path / "two.parquet")

    assert sum(prepare([tmp_path / "two.parquet"], tmp_path / "out").rows.values()) == 24


def test_a_bpp_table_without_metallicity_says_where_to_get_it(tmp_path):
    pq.write_table(pa_csv.read_csv(BPP).drop(["metallicity"]), tmp_path / "bpp.parquet")

    with pytest.raises(DataError, match=r"bpp table without 'Z': join it from initC on bin_num"):
        prepare([tmp_path / "bpp.parquet"], tmp_path / "out")


def test_a_text_in_a_bpp_table_is_refused_in_any_row(tmp_path):
    lines = gzip.decompress(BPP.read_bytes()).decode().splitlines()
    cells = lines[3].split(",")
    cells[1] = "late"  # tphys, in a row that is no merger
    (tmp_path / "bpp.csv").write_text("\n".join([*lines[:3], ",".join(cells), *lines[4:]]))

    with pytest.raises(DataError, match="column 'tphys', row 3: 'late' is not a number"):
        prepare([tmp_path / "bpp.csv"], tmp_path / "out")


def test_a_bpp_table_is_filtered_and_renamed_by_either_name(tmp_path):
    dataset = prepare([BPP], tmp_path / "a", where="Mass_0 > 15 and mass_2 > 15 and kstar_1 == 14")
    renamed = prepare([BPP], tmp_path / "b", columns={"mass_2": "Mass_0", "mass_1": "Mass_1"})

    assert 0 < sum(dataset.rows.values()) < 12
    assert sum(renamed.rows.values()) == 12


def test_merger_times_follow_peters():
    """Against the integral of Peters (1964), eq. 5.14, done numerically."""
    for eccentricity in (0.0, 0.1, 0.5, 0.9, 0.99):
        e = np.linspace(0, eccentricity, 200_001)[1:]
        bracket = (1 + 121 / 304 * e**2) ** (1181 / 2299)
        shape = e ** (29 / 19) * bracket / (1 - e**2) ** 1.5
        full = eccentricity
        scale = (1 - full**2) / (full ** (12 / 19) * (1 + 121 / 304 * full**2) ** (870 / 2299) or 1)
        integral = 48 / 19 * scale**4 * np.trapezoid(shape, e) if eccentricity else 1.0
        one = np.ones(1)

        circular = cosmic.merger_time(30 * one, 20 * one, 10 * one, 0 * one)
        found = cosmic.merger_time(30 * one, 20 * one, 10 * one, eccentricity * one)

        assert found[0] / circular[0] == pytest.approx(integral, rel=0.03)
    # Two black holes of 30 Msun, 10 Rsun apart: a textbook 27.8 Myr.
    assert cosmic.merger_time(30 * one, 30 * one, 10 * one, 0 * one)[0] == pytest.approx(27.8, 0.01)


# ---- refusals


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        pytest.param(ROWS, "name,Mass0,Mass_1,Z,alpha", "no column 'Mass_0'.*'Mass0'", id="near"),
        pytest.param(
            ROWS, "name,m,Mass_1,Z,alpha", "no column 'Mass_0'.*--columns", id="missing-column"
        ),
        pytest.param(
            ROWS,
            "Mass_0,Mass_0,Mass_1,Z,alpha",
            "two columns 'Mass_0', which differ in row 1",
            id="doubled-column",
        ),
        pytest.param(
            [*ROWS, "b,heavy,5,0.03,1"],
            HEADER,
            "column 'Mass_0', row 21: 'heavy' is not a number.*--drop-invalid",
            id="text",
        ),
        pytest.param(
            [ROWS[0], "b,5,5,Zsun,1"], HEADER, "column 'Z', row 2: 'Zsun' is not", id="text-in-z"
        ),
        pytest.param(
            [ROWS[0], "b,nan,5,0.03,1"],
            HEADER,
            "'Mass_0', row 2: the empty value is not a",
            id="nan",
        ),
        pytest.param(
            [ROWS[0], "b,,5,0.03,1"],
            HEADER,
            "'Mass_0', row 2: the empty value is not a",
            id="empty-cell",
        ),
        pytest.param(
            [ROWS[0], "b,inf,5,0.03,1"], HEADER, "row 2: inf is not a finite", id="infinite"
        ),
        pytest.param(
            [ROWS[0], "b,1e39,5,0.03,1"], HEADER, "1e\\+39 is beyond single", id="overflow"
        ),
        pytest.param(
            [*ROWS[:2], "b,5,-1,0.03,1"], HEADER, "'Mass_1', row 3: -1 is not above", id="negative"
        ),
        pytest.param([*ROWS, "b,5,1,0,1"], HEADER, "'Z', row 21: 0 is not above", id="zero-z"),
        pytest.param([*ROWS[:3], "b,5,1"], HEADER, "row 4: 3 values for 5 columns", id="short-row"),
        pytest.param([*ROWS[:3], "b,5,1,1,1,1"], HEADER, "row 4: 6 values for 5", id="long-row"),
        pytest.param([], HEADER, "holds no row", id="no-rows"),
    ],
)
def test_a_bad_table_is_refused_by_file_column_and_row(tmp_path, rows, header, message):
    path = write(tmp_path / "mergers.csv", rows, header)

    with pytest.raises(DataError, match=message) as caught:
        prepare([path], tmp_path / "out")

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_bad_row_is_named_wherever_the_blocks_are_cut(tmp_path, monkeypatch):
    rows = [ROWS[n % 20] for n in range(2000)]
    monkeypatch.setattr(text, "BLOCK_BYTES", 500)
    for bad, message in (("b,x,1,1,1", "'Mass_0', row 1234: 'x'"), ("b,1", "row 1234: 2 values")):
        rows[1233] = bad
        with pytest.raises(DataError, match=message):
            prepare([write(tmp_path / "a.csv", rows)], tmp_path / "out")


def test_a_bad_row_of_parquet_is_named(tmp_path, table, monkeypatch):
    masses = table["Mass_1"].to_numpy().copy()
    masses[4321] = -3
    bad = table.set_column(table.column_names.index("Mass_1"), "Mass_1", pa.array(masses))
    pq.write_table(bad, tmp_path / "a.parquet")
    monkeypatch.setattr(arrow, "CHUNK_ROWS", 1000)

    with pytest.raises(DataError, match=r"a.parquet, column 'Mass_1', row 4322: -3 is not above"):
        prepare([tmp_path / "a.parquet"], tmp_path / "out")


def test_bad_rows_are_dropped_and_counted_when_asked(tmp_path):
    bad = ["b,heavy,5,0.03,1", "b,nan,5,0.03,1", "b,5,0,0.03,-1", "b,5", "b,1e39,1,0.03,1"]
    rows = [*ROWS[:7], *bad, *ROWS[7:]]
    path = write(tmp_path / "a.csv", rows)

    dataset = prepare([path], tmp_path / "out", drop_invalid=True)
    clean = prepare([write(tmp_path / "b.csv", ROWS)], tmp_path / "clean")

    assert dataset.fingerprint == clean.fingerprint
    assert dataset.dropped == {
        "not a number": 1,
        "not a finite number": 1,
        "not above zero": 1,
        "not one value per column": 1,
        "beyond single precision (1e-45 to 3e38)": 1,
    }
    assert dataset.sources[0]["rows"] == 25


def test_nothing_left_says_what_took_it(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)

    with pytest.raises(DataError, match="no row of .* is left .20 left out: where.: loosen"):
        prepare([path], tmp_path / "out", where="Mass_0 > 1000")


def test_a_filter_on_an_unknown_column_names_the_file(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)

    with pytest.raises(FilterError, match="a.csv: .*did you mean 'Mass_0'"):
        prepare([path], tmp_path / "out", where="Mas_0 > 3")
    with pytest.raises(FilterError, match="a.csv: .*which is text"):
        prepare([path], tmp_path / "out", where="name > 3")


def damaged_parquet(path: Path) -> None:
    table = pa.table({name: np.arange(1.0, 5000) for name in ("Mass_0", "Mass_1", "Z", "alpha")})
    pq.write_table(table, path)
    content = bytearray(path.read_bytes())
    content[4:8000] = bytes(7996)
    path.write_bytes(content)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a.csv", None, "does not exist: check the path", id="missing"),
        pytest.param("a.csv", b"", "is empty", id="empty"),
        pytest.param("a.csv", b"\xff\xfe\x00\x81", "is text in UTF-16.*iconv", id="utf-16"),
        pytest.param("a.csv", b"Mass_0,Z\r1,2\r", "lines that end in CR", id="carriage-returns"),
        pytest.param("a.parquet", b"Mass_0,Mass_1\n", "is not a Parquet file", id="no-parquet"),
        pytest.param("a.parquet", b"PAR1 and then nothing", "cannot be read", id="cut-parquet"),
        pytest.param("a.parquet", damaged_parquet, "cannot be read", id="damaged-parquet"),
        pytest.param(
            "a.csv.gz",
            cut(gzip.compress("\n".join([HEADER, *ROWS * 50]).encode())),
            "damaged or cut off",
            id="cut-gzip",
        ),
        pytest.param("a.csv.gz", b"\x1f\x8b garbage", "cannot be read", id="no-gzip"),
    ],
)
def test_an_unreadable_file_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    if callable(content):
        content(path)
    elif content is not None:
        path.write_bytes(content)

    with pytest.raises(DataError, match=message) as caught:
        prepare([path], tmp_path / "out")

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"split": (0.6, 0.2)}, "three fractions", id="two-parts"),
        pytest.param({"split": (0.6, 0.3, 0.2)}, "add up to 1.1", id="sum"),
        pytest.param({"split": (1.2, -0.2, 0)}, "three fractions", id="negative"),
        pytest.param({"split": (0, 0.5, 0.5)}, "must be above 0", id="no-train"),
        pytest.param({"split": (0.8, 0.2, 0)}, "must be above 0", id="no-test"),
        pytest.param({"columns": {"m1": "Mass_0"}}, "--columns m1=Mass_0: .* no", id="rename"),
        pytest.param({"event_columns": ["Mass_0", "Mass_0"]}, "asked for twice", id="twice"),
        pytest.param({"condition_columns": ["seed"]}, "rename it with --columns", id="reserved"),
        pytest.param({"event_columns": []}, "at least one event column", id="no-events"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    path = write(tmp_path / "a.csv", ROWS)

    with pytest.raises(DataError, match=message):
        prepare([path], tmp_path / "out", **options)

    assert sorted(tmp_path.iterdir()) == [path]


def test_conditions_that_are_no_grid_are_refused_where_a_grid_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "MAX_CELLS", 8)
    path = write(tmp_path / "a.csv", ROWS)
    columns = {"event_columns": ["Mass_0"], "condition_columns": ["Mass_1"]}

    with pytest.raises(DataError, match="over 8 combinations of Mass_1.*leave out --grid"):
        prepare([path], tmp_path / "out", scattered=False, **columns)

    assert prepare([path], tmp_path / "out", **columns).scattered


# ---- the output folder


def test_an_output_that_holds_something_is_never_touched(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    prepare([path], tmp_path / "earlier")
    before = (tmp_path / "earlier" / "dataset.json").read_bytes()

    with pytest.raises(DataError, match="holds something else: choose another --out"):
        prepare([path], tmp_path / "full")
    with pytest.raises(DataError, match="already holds a prepared dataset: remove it or choose"):
        prepare([path], tmp_path / "earlier")
    with pytest.raises(DataError, match="holds something else"):
        prepare([path], path)

    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "earlier" / "dataset.json").read_bytes() == before


def test_an_empty_or_nested_output_folder_is_filled(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)
    (tmp_path / "empty").mkdir()

    prepare([path], tmp_path / "empty")
    prepare([path], tmp_path / "new" / "deeper" / "out")

    assert (tmp_path / "empty" / "dataset.json").exists()
    assert sorted(p.name for p in (tmp_path / "new" / "deeper" / "out").iterdir()) == [
        "dataset.json",
        "test",
        "train",
        "val",
    ]


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", ROWS)

    def interrupt(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([path], tmp_path / "new" / "out", on_progress=interrupt)

    assert sorted(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", ROWS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts.pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left on device: '.*out'"):
        prepare([path], tmp_path / "out")

    assert sorted(tmp_path.iterdir()) == [path]


def test_an_output_below_a_file_is_refused(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)

    with pytest.raises(FileExistsError, match="a.csv"):
        prepare([path], path / "out")


def test_a_kill_while_writing_leaves_nothing_at_out(tmp_path):
    """A process killed between the first part file and the last leaves no `out`."""
    path = write(tmp_path / "a.csv", ROWS)
    program = f"""
        import time
        from pathlib import Path
        from data_prep.preparation import parts, prepare
        put = parts.pq.ParquetWriter.write_table
        def slowly(self, table):
            put(self, table)
            print("writing", flush=True)
            time.sleep(60)
        parts.pq.ParquetWriter.write_table = slowly
        prepare.prepare([Path({os.fspath(path)!r})], Path({os.fspath(tmp_path / "out")!r}))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)

    assert not (tmp_path / "out").exists()
    assert sum(prepare([path], tmp_path / "out").rows.values()) == 20


def test_a_filter_knows_the_texts_of_every_batch(tmp_path):
    """Of a Parquet of several batches, whose dictionary grows from one to the next."""
    table = draw_table(200_000, seed=3)
    names = table.column("name").to_pylist()
    names[::50_000] = [None] * 4
    table = table.set_column(table.schema.get_field_index("name"), "name", pa.array(names))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=60_000)
    wanted = [f"binary-{number}" for number in range(1, 200_000, 4_999)]

    made = prepare([tmp_path / "a.parquet"], tmp_path / "out", where=f"name in {tuple(wanted)}")

    assert sum(made.rows.values()) == len(wanted)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32()], ids=str)
def test_a_dictionary_that_fills_its_indices_is_read(tmp_path, kind):
    count = 127 if kind == pa.int8() else 255
    values = pa.array([f"{5 + number / 100:g}" for number in range(count + 1)])
    places = pa.array([None, *range(count + 1)], kind)
    ones = pa.array(np.ones(count + 2))
    masses = pa.DictionaryArray.from_arrays(places, values)
    table = {"Mass_0": masses, "Mass_1": pa.array(np.linspace(5, 9, count + 2))}
    table |= dict.fromkeys(("Z", "alpha"), ones)
    pq.write_table(pa.table(table), tmp_path / "a.parquet")

    made = prepare([tmp_path / "a.parquet"], tmp_path / "out", drop_invalid=True)

    assert sum(made.rows.values()) == count + 1


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
