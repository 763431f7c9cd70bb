"""COSMIC: a table gives its mergers once each, or is refused; its own HDF5 file is read."""

import gzip
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from data_prep.codes import cosmic
from data_prep.dataset import SPLITS
from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from data_prep.tables import hdf5
from data_prep.tables.text import table as text

BPP = Path(__file__).parents[1] / "data" / "cosmic_bpp.csv.gz"
MERGERS = 12
CONDITIONS = ["metallicity", "alpha1"]
OUT_OF_ORDER = r"row \d+: the rows of binary \d+ do not follow each other from its birth on"


@pytest.fixture(scope="module")
def bpp() -> pd.DataFrame:
    return pd.read_csv(BPP)


def rows_of(folder: Path) -> Counter[tuple[float, ...]]:
    parts = [np.column_stack(read_split(folder, part).arrays) for part in SPLITS]
    return Counter(map(tuple, np.concatenate(parts).tolist()))


def mergers(
    table: pd.DataFrame, folder: Path, weights: str | None = None
) -> Counter[tuple[float, ...]]:
    table.to_csv(folder / "bpp.csv", index=False)
    prepare([folder / "bpp.csv"], folder / "out", weights=weights)
    return rows_of(folder / "out")


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of two black holes alone: binaries without their birth."""
    return table[(table["kstar_1"] == 14) & (table["kstar_2"] == 14)]


# ---- its mergers


def test_a_bpp_table_gives_the_mergers_that_cosmic_itself_saw(bpp, tmp_path):
    # COSMIC follows the inspiral: evol_type 6 is the coalescence of what had been two black holes.
    first, merged = {}, set()
    for row in bpp.to_dict("records"):
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

    assert len(merged) == MERGERS
    assert len(first) > MERGERS
    assert rows_of(tmp_path / "out") == wanted
    assert dataset.sources[0]["layout"] == "cosmic bpp"


def test_a_bpp_table_without_metallicity_says_where_to_get_it(bpp, tmp_path):
    bpp.drop(columns="metallicity").to_parquet(tmp_path / "bpp.parquet")

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

    assert 0 < sum(dataset.rows.values()) < MERGERS
    assert sum(renamed.rows.values()) == MERGERS


@pytest.mark.parametrize("part", ["all", "mergers"])
def test_the_same_binary_of_two_joined_runs_is_two(part, bpp, tmp_path):
    # evol_type 3 of two black holes: they touch, so this pair merges.
    merged = pairs(bpp).query("evol_type == 3")["bin_num"]
    some = bpp if part == "all" else bpp[bpp["bin_num"].isin(merged)]

    assert sum(mergers(pd.concat([some] * 2), tmp_path).values()) == 2 * MERGERS


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


# ---- the order of rows


def by_binary(table: pd.DataFrame) -> pd.DataFrame:
    """Whole binaries in another order."""
    numbers = np.random.default_rng(3).permutation(table["bin_num"].unique())
    return pd.concat([table[table["bin_num"] == number] for number in numbers])


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(lambda table: table, id="as COSMIC writes it"),
        pytest.param(lambda table: table.sort_values(["bin_num", "tphys"]), id="sorted"),
        pytest.param(by_binary, id="binaries in another order"),
        pytest.param(lambda table: table.iloc[3:], id="a table that begins within a binary"),
        pytest.param(pairs, id="pairs of black holes alone"),
    ],
)
def test_a_table_in_order_gives_every_merger_once(order, bpp, tmp_path, monkeypatch):
    for folder in ("whole", "ordered"):
        (tmp_path / folder).mkdir()
    whole = mergers(bpp, tmp_path / "whole")
    monkeypatch.setattr(text, "BLOCK_BYTES", 300)

    assert sum(whole.values()) == MERGERS
    assert mergers(order(bpp), tmp_path / "ordered") == whole


def backwards_from_birth(table: pd.DataFrame) -> pd.DataFrame:
    """Each binary together and its birth first, but the rest from its end."""
    binaries = [rows for _, rows in table.groupby("bin_num", sort=False)]
    return pd.concat([pd.concat([rows.iloc[:1], rows.iloc[:0:-1]]) for rows in binaries])


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(lambda table: table.sample(frac=1, random_state=1), id="mixed"),
        pytest.param(lambda table: table.sample(frac=1, random_state=2), id="mixed again"),
        pytest.param(backwards_from_birth, id="backwards from birth"),
        pytest.param(lambda table: table.sort_values("tphys", kind="stable"), id="by time"),
        pytest.param(lambda table: table.sort_values("mass_1"), id="by mass"),
        pytest.param(lambda table: table.iloc[::-1], id="backwards"),
        pytest.param(lambda table: pairs(table).sort_values("tphys"), id="pairs by time"),
        pytest.param(lambda table: pairs(table).sample(frac=1, random_state=1), id="pairs mixed"),
        pytest.param(
            lambda table: pd.concat([table] * 2).sort_values(["bin_num", "tphys"]), id="two in one"
        ),
    ],
)
def test_a_table_out_of_order_is_refused_wherever_it_is_cut(order, bpp, tmp_path, monkeypatch):
    for size in (text.BLOCK_BYTES, 3000):
        monkeypatch.setattr(text, "BLOCK_BYTES", size)
        with pytest.raises(DataError, match=OUT_OF_ORDER):
            mergers(order(bpp), tmp_path)


# ---- COSMIC's own file


def write(path: Path, bpp: pd.DataFrame, kind: str) -> None:
    """A file as COSMIC of different versions writes it."""
    table = bpp.drop(columns=CONDITIONS)
    first = bpp.drop_duplicates("bin_num")
    initial = first[["bin_num", *CONDITIONS]].assign(randomseed=7)
    initial = initial.sort_values("bin_num", ascending=False)  # another order than that of bpp
    if kind == "cosmic-pop":  # appended, in steps; a row for every binary that was sampled
        more = initial.assign(bin_num=initial["bin_num"] + 1000, metallicity=0.03)
        for part in (slice(0, 100), slice(100, None)):
            table.iloc[part].to_hdf(path, key="bpp", format="table", append=True)
        for each in (initial, more):
            each = each.set_index("bin_num", drop=False)
            each.to_hdf(path, key="initC", format="table", append=True)
        pd.DataFrame([{"0": 1e5}]).to_hdf(path, key="mass_stars", format="table", append=True)
    elif kind == "COSMICOutput":  # what all binaries share is apart
        table.set_index(table["bin_num"].to_numpy()).to_hdf(path, key="bpp")
        table.iloc[:9].to_hdf(path, key="bcm")
        initial.drop(columns=["alpha1", "randomseed"]).to_hdf(path, key="initC")
        shared = {"alpha1_0": first["alpha1"].iloc[0], "randomseed": 7, "stellar_engine": "sse"}
        pd.DataFrame([shared]).to_hdf(path, key="initC_settings")
    else:
        table.to_hdf(path, key="bpp")
        initial.to_hdf(path, key="initCond")


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
@pytest.mark.parametrize("kind", ["cosmic-pop", "COSMICOutput", "old"])
def test_its_own_file_gives_what_the_joined_table_gives(kind, bpp, tmp_path, monkeypatch):
    # Metallicities that differ, so that a wrong join is seen; 6 mergers of each.
    of = {number: 0.0006 + 0.0004 * (at % 2) for at, number in enumerate(bpp["bin_num"].unique())}
    bpp = bpp.assign(metallicity=bpp["bin_num"].map(of))
    write(tmp_path / "dat.h5", bpp, kind)
    monkeypatch.setattr(hdf5, "CHUNK_BYTES", 2000)

    dataset = prepare([tmp_path / "dat.h5"], tmp_path / "own")

    assert rows_of(tmp_path / "own") == mergers(bpp, tmp_path)
    assert {cell.conditions[0] for cell in dataset.cells} == {0.0006, 0.001}
    assert dataset.sources[0]["format"] == "hdf5"


def test_weights_of_stroopwafel_are_columns(bpp, tmp_path):
    write(tmp_path / "dat.h5", bpp, "old")
    weights = np.linspace(1, 2, int(bpp["bin_num"].max()) + 1)
    with h5py.File(tmp_path / "dat.h5", "a") as file:
        file["stroopwafel/weights"] = weights

    prepare([tmp_path / "dat.h5"], tmp_path / "own", weights="weights")

    joined = bpp.assign(weights=weights[bpp["bin_num"]])
    assert rows_of(tmp_path / "own") == mergers(joined, tmp_path, "weights")


def test_a_binary_with_two_initial_conditions_is_refused(bpp, tmp_path):
    write(tmp_path / "dat.h5", pd.concat([bpp, bpp.assign(metallicity=0.02).iloc[:1]]), "old")
    twice = bpp[["bin_num", *CONDITIONS]].drop_duplicates()
    pd.concat([twice, twice.iloc[:1].assign(metallicity=0.02)]).to_hdf(
        tmp_path / "dat.h5", key="initCond"
    )

    with pytest.raises(DataError, match="initCond has two rows with bin_num 0 and different"):
        prepare([tmp_path / "dat.h5"], tmp_path / "out")


def test_a_binary_without_initial_conditions_is_refused_by_row(bpp, tmp_path):
    write(tmp_path / "dat.h5", bpp, "old")
    bpp[["bin_num", *CONDITIONS]].iloc[:0].to_hdf(tmp_path / "dat.h5", key="initCond")

    with pytest.raises(DataError, match="column 'Z', row .*: the empty value is not a finite"):
        prepare([tmp_path / "dat.h5"], tmp_path / "out")
