"""HDF5: every layout gives the rows of the table, in chunks; no pickle is loaded."""

import contextlib
import pickle
import sys

import astropy.units as u
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy.table import QTable
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import DataError
from data_prep.tables import hdf5
from data_prep.tables.source import Reading, Source

ROWS = 1000
pytestmark = [
    pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning"),
    pytest.mark.filterwarnings("ignore::tables.NaturalNameWarning"),
]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Numbers of several types, names that are no identifiers, texts of which some are missing."""
    rng = np.random.default_rng(1)
    texts = np.array(["CE", "SMT", "höher"], object)[rng.integers(0, 3, ROWS)]
    texts[::7] = None
    return pd.DataFrame(
        {
            "Mass(1)": rng.gamma(2, 5, ROWS),
            "k": rng.integers(0, 15, ROWS).astype("int32"),
            "Z": rng.choice(np.float32([0.0001, 0.02]), ROWS),
            "merges": rng.random(ROWS) < 0.5,
            "m2": rng.gamma(2, 5, ROWS),
            "channel": texts,
        }
    )


def read(path, table=None, numbers=(), **columns):
    """All rows of a table: name, values."""
    source = Source.open(path, {}, Reading(table=table))
    chunks = list(source.chunks(numbers or [n for n in source.names if n != "channel"], columns))
    found = {}
    for chunk in chunks:
        assert chunk.end == chunk.rows[-1]
        for name, values in (chunk.numbers | chunk.texts).items():
            found.setdefault(name, []).extend(pa.array(values).to_pylist())
    assert sum(len(chunk.rows) for chunk in chunks) == len(next(iter(found.values())))
    return found


def expect(found, frame, *, but=()):
    assert set(found) == set(frame) - set(but)
    for name, values in found.items():
        if name == "channel":
            assert values == frame[name].astype(object).where(frame[name].notna(), None).tolist()
        else:
            np.testing.assert_allclose(values, frame[name].to_numpy(float), rtol=1e-6)


def records(frame: pd.DataFrame) -> np.ndarray:
    texts = frame["channel"].fillna("").str.encode("utf-8").to_numpy("S8")
    return frame.assign(channel=texts).to_records(
        index=False, column_dtypes={"channel": "S8", "k": ">i4"}
    )


def write(path, frame, kind) -> str:
    """The frame in an HDF5 file; returns the table's name there."""
    if kind == "appended":
        frame.to_hdf(path, key="transients/BBH", format="table")
    elif kind == "data columns":
        frame.to_hdf(path, key="transients/BBH", format="table", data_columns=True)
    elif kind == "categories":
        frame.astype({"channel": "category"}).to_hdf(path, key="transients/BBH", format="table")
    elif kind == "fixed":
        frame.drop(columns="channel").to_hdf(path, key="transients/BBH")
    else:
        with h5py.File(path, "w") as file:
            if kind == "records":
                file["transients/BBH"] = records(frame)
            for name in frame if kind == "columns" else ():
                values = frame[name]
                if name == "channel":
                    values = values.fillna("").to_numpy(object)
                place = file.require_group("transients/BBH")
                place.create_dataset(name, data=values, chunks=(300,), compression="gzip")
    return "transients/BBH"


KINDS = ["appended", "data columns", "categories", "fixed", "records", "columns"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_rows_of_the_table(kind, frame, tmp_path, monkeypatch):
    if kind in ("records", "columns"):
        frame = frame.fillna({"channel": ""})
    write(tmp_path / "t.h5", frame, kind)
    monkeypatch.setattr(hdf5, "CHUNK_BYTES", 5000)  # a few dozen rows
    fixed = kind == "fixed"

    found = read(tmp_path / "t.h5", **({} if fixed else {"channel": True}))

    expect(found, frame, but=["channel"] if fixed else [])


def test_a_pickle_in_a_file_is_never_loaded(tmp_path, frame):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    for kind in ("appended", "fixed"):
        path = tmp_path / f"{kind}.h5"
        frame.to_hdf(path, key="t", format="table" if kind == "appended" else "fixed")
        with h5py.File(path, "a") as file:
            if kind == "appended":
                bomb = pickle.dumps(Bomb(), 0)
                file["t"].attrs["info"] = np.bytes_(bomb)
                file["t/table"].attrs["values_block_0_kind"] = np.bytes_(bomb)
            else:
                texts = next(name for name in file["t"] if file["t"][name].dtype.kind == "O")
                file["t"][texts][0] = np.frombuffer(pickle.dumps(Bomb()), "u1")
        with contextlib.suppress(DataError):  # its texts may not be as many as the columns
            table = hdf5.tables(path)["t"]
            list(table.chunks({name: name for name in table.header}, []))
        if kind == "fixed":
            with pytest.raises(DataError, match="'channel' of table t as pickled objects"):
                list(hdf5.tables(path)["t"].chunks({"channel": "channel"}, []))
    assert not (tmp_path / "exploded").exists()


@settings(max_examples=50, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=9),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_names_are_read_from_a_pickle_as_it_would_load_them(names):
    class Node:
        attrs = {"kind": np.bytes_(pickle.dumps(names, 0))}

    from data_prep.tables import store

    assert store._unpickled(Node, "kind") == names


# ---- which table


@pytest.fixture(scope="module")
def several(tmp_path_factory, frame):
    """Tables of different shapes, in groups and at the top."""
    path = tmp_path_factory.mktemp("several") / "several.h5"
    for kind, key in (("table", "transients/BBH"), ("fixed", "initC")):
        frame.drop(columns="channel").iloc[:9].to_hdf(path, key=key, format=kind, mode="a")
    with h5py.File(path, "a") as file:
        file["deep/er/records"] = records(frame)
        file["deep/er/records"].attrs["units"] = "ignored"
        file["deep/er/notes"] = "no table"
        group = file.create_group("BSE_Double_Compact_Objects")
        for name, unit in (("Mass(1)", "Msol"), ("Mass(2)", b"Msol"), ("SEED", "-")):
            group[name] = np.arange(5.0)
            group[name].attrs["units"] = unit
        group["of another length"] = np.arange(4.0)
        group["spin"] = np.arange(15.0).reshape(5, 3)
        group["M1"] = np.arange(5.0).reshape(5, 1)
        file["loop"] = file["deep"]
    return path


def test_the_tables_are_listed_with_their_rows(several):
    with pytest.raises(DataError) as error:
        Source.open(several, {})

    assert str(error.value) == (
        f"{several} is an HDF5 file with tables BSE_Double_Compact_Objects (5 rows), "
        "deep/er/records (1000 rows), initC (9 rows), transients/BBH (9 rows): "
        "choose one with --table"
    )


@pytest.mark.parametrize("name", ["deep/er/records", "/deep/er/records"])
def test_a_table_is_chosen_by_name(several, name):
    assert len(read(several, name)["Mass(1)"]) == ROWS


def test_a_table_that_is_not_there_is_hinted_at(several, tmp_path):
    (tmp_path / "t.csv").write_text("a\n1\n")
    cases = {
        "transients/BHB": r"no such table: did you mean 'transients/BBH'\?",
        "x": "no such table: its tables are BSE_Double_Compact_Objects, deep/er/records, initC",
    }

    for name, message in cases.items():
        with pytest.raises(DataError, match=message):
            Source.open(several, {}, Reading(table=name))
    with pytest.raises(DataError, match="t.csv holds one table only: leave --table out"):
        Source.open(tmp_path / "t.csv", {}, Reading(table="bpp"))


def test_units_and_several_numbers_of_one_dataset_become_columns(several):
    source = Source.open(
        several, {"Mass(1)": "Mass_0"}, Reading(table="BSE_Double_Compact_Objects")
    )
    (chunk,) = source.chunks(["spin_1", "Mass_0"])

    spins = {"spin_0", "spin_1", "spin_2"}
    assert set(source.header) == {"Mass(1)", "Mass(2)", "SEED", "M1", *spins}
    assert source.units["Mass_0"] == source.units["Mass(2)"] == "Msol"
    assert chunk.numbers["spin_1"].tolist() == [1, 4, 7, 10, 13]


def test_the_index_of_a_frame_is_a_column_where_it_has_a_name_of_its_own(tmp_path, frame):
    numbered = frame.drop(columns="channel").set_index(pd.RangeIndex(5, ROWS + 5, name="number"))
    for kind in ("fixed", "table"):
        numbered.to_hdf(tmp_path / f"{kind}.h5", key="t", format=kind)
        assert read(tmp_path / f"{kind}.h5")["number"] == list(range(5, ROWS + 5))


def test_a_frame_without_rows_and_a_file_without_a_table(tmp_path, frame):
    frame.drop(columns="channel").iloc[:0].to_hdf(tmp_path / "empty.h5", key="t")
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file["config"] = "{}"

    assert list(Source.open(tmp_path / "empty.h5", {}).chunks(["k", "Z"])) == []
    with pytest.raises(DataError, match="none.h5 is an HDF5 file without a table"):
        Source.open(tmp_path / "none.h5", {})


def test_without_h5py_the_extra_is_named(several, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)

    with pytest.raises(DataError, match=r"is not installed: pip install 'hpo-flows\[hdf5\]'"):
        Source.open(several, {})


def test_a_file_that_is_cut_off_is_told(several, tmp_path):
    (tmp_path / "cut.h5").write_bytes(several.read_bytes()[:20_000])

    with pytest.raises(
        DataError, match=r"cut.h5 cannot be read \(.+\): it may be damaged or cut off"
    ):
        Source.open(tmp_path / "cut.h5", {}, Reading(table="initC"))


def test_another_compression_is_named_with_the_way_out(tmp_path, frame):
    frame.to_hdf(tmp_path / "t.h5", key="t", format="table", complib="blosc", complevel=5)
    source = Source.open(tmp_path / "t.h5", {})

    with pytest.raises(DataError, match="is compressed by blosc, .*: pip install hdf5plugin"):
        list(source.chunks(["m2"]))


def test_a_file_below_a_block_of_the_user_is_read(tmp_path):
    with h5py.File(tmp_path / "t.mat", "w", userblock_size=512) as file:
        file["g/m"] = np.arange(5.0)

    assert read(tmp_path / "t.mat")["m"] == [0, 1, 2, 3, 4]


def test_units_that_astropy_wrote_are_taken_over(tmp_path):
    table = QTable({"m1": [30.0, 20.0] * u.Msun, "v kick": [5.0, 6.0] * u.km / u.s, "q": [0.5, 1]})
    table.write(tmp_path / "t.h5", path="data", serialize_meta=True)

    assert Source.open(tmp_path / "t.h5", {}).units == {"m1": "solMass", "v kick": "km / s"}


def test_no_link_leads_to_another_file(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["g/secret"] = np.arange(3.0)
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["g/m"] = np.arange(3.0)
        file["g/secret"] = h5py.ExternalLink("other.h5", "/g/secret")
        file["g/nothing"] = h5py.SoftLink("/nowhere")
        file["other"] = h5py.ExternalLink("other.h5", "/g")

    assert Source.open(tmp_path / "t.h5", {}).header == ("m",)


@pytest.mark.parametrize("kind", ["appended", "fixed", "columns"])
def test_damaged_bytes_are_told_or_read_and_nothing_else(kind, frame, tmp_path):
    write(tmp_path / "whole.h5", frame.iloc[:300], kind)
    whole, rng = (tmp_path / "whole.h5").read_bytes(), np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 10):
            damaged[at] = rng.integers(0, 256)
        (tmp_path / "damaged.h5").write_bytes(damaged)
        with contextlib.suppress(DataError):
            source = Source.open(tmp_path / "damaged.h5", {})
            list(source.chunks([], source.readable))
