"""Tables and prepared datasets that are damaged, hostile, or far larger than they look."""

import bz2
import gzip
import io
import json
import lzma
import shutil
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.dataset import SPLITS, Dataset
from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from data_prep.stream import Stream, read_split
from tests.conftest import draw_table
from tests.fuzz.strategies import answer, broken, damaged, fuzz, memory, texts

TABLE = draw_table(60, seed=1)


def parquet(table, **options):
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def csv(table):
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer)
    return buffer.getvalue()


CSV = csv(TABLE)


def archive(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return buffer.getvalue()


def feather(table):
    buffer = io.BytesIO()
    pyarrow.feather.write_feather(table, buffer, chunksize=40)
    return buffer.getvalue()


def fits(table):
    buffer = io.BytesIO()
    columns = {name: table[name].to_numpy() for name in ("Mass_0", "Mass_1", "Z", "alpha")}
    Table(columns, units={"Mass_0": "solMass"}).write(buffer, format="fits")
    return buffer.getvalue()


HEAD = b"# run 7\nMsol,Msol,-,-\nMass_0,Mass_1,Z,alpha\n"
FILES = {
    "a.csv.xz": lzma.compress(CSV),
    "a.csv.bz2": bz2.compress(CSV),
    "a.csv.zip": archive("a.csv", CSV),
    "a.feather": feather(TABLE),
    "a.fits": fits(TABLE),
    "units.csv": HEAD + b"".join(b"%d,8,0.001,1\n" % (9 + k) for k in range(30)),
    "a.csv": CSV,
    "a.csv.gz": gzip.compress(CSV, mtime=0),
    "a.dat": CSV.replace(b",", b"  ").replace(b'"', b""),
    "a.parquet": parquet(TABLE),
    "b.parquet": parquet(TABLE, compression="zstd", version="1.0", use_dictionary=False),
}


def prepared(folder, name, content, megabytes=512, **options):
    """Whatever the file is: a dataset, or a sentence and nothing left of it."""
    source = folder / name
    source.write_bytes(content)
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    with memory(megabytes):
        dataset = answer(prepare, [source], out, **options)
    assert out.exists() == (dataset is not None)
    assert {each.name for each in folder.iterdir()} <= {name, "out"}
    if dataset is not None:
        assert Dataset.read(out) == dataset
        for split in SPLITS:
            rows = read_split(out, split)
            assert np.isfinite(rows.events).all()
            assert np.isfinite(rows.conditions).all()
    return dataset


@fuzz(120)
@given(data=st.data(), name=st.sampled_from(sorted(FILES)), drop=st.booleans())
def test_a_damaged_table(tmp_path_factory, data, name, drop):
    content = data.draw(damaged(FILES[name], most=2))
    prepared(tmp_path_factory.mktemp("table"), name, content, drop_invalid=drop)


HEADER = b"Mass_0,Mass_1,Z,alpha\n"
ROW = b"9,8,0.001,1\n"
cells = (
    texts
    | st.floats().map(str)
    | st.sampled_from(
        ("1e400", "-inf", "nan", "1_0", "0x10", " 9 ", '"9"', "'9'", "9,9", "", '"', "1e-320", "٣")
    )
)


@fuzz(80)
@given(
    rows=st.lists(st.lists(cells, max_size=6).map(",".join), max_size=4),
    where=st.none() | st.just("Mass_0 > 3"),
    encoding=st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "latin-1")),
    drop=st.booleans(),
)
def test_any_rows(tmp_path_factory, rows, where, encoding, drop):
    text = "Mass_0,Mass_1,Z,alpha\n" + "".join(f"{row}\n" for row in [*rows, "9,8,0.001,1"])
    content = text.encode(encoding, "replace")
    folder = tmp_path_factory.mktemp("rows")
    prepared(folder, "a.csv", content, where=where, drop_invalid=drop)


@fuzz(60)
@given(content=st.binary(max_size=200) | st.binary(max_size=50).map(lambda rest: HEADER + rest))
@example(b"")
@example(HEADER)
@example(HEADER + b"\n\n\n")
@example(b"\xef\xbb\xbf")
@example(b"Mass_0,Mass_0,Z,alpha\n")
@example(b"\x00" * 100)
@example(HEADER + b"\x00" * 100)
@example(HEADER + b'"' + b"9" * 100)
@example(HEADER + ROW + b'"unclosed')
@example(b"PAR1")
@example(b"PAR1" * 20)
@example(b"\x1f\x8b")
@example(gzip.compress(HEADER + ROW * 5)[:-9])
@example(gzip.compress(gzip.compress(HEADER + ROW)))
@example(HEADER.replace(b"\n", b"\r") + ROW.replace(b"\n", b"\r"))
@example(b"," * 1000)
@example(b"a" * 300_000 + b"\n")
@example(b"\x1b[2J,Mass_1,Z,alpha\n9,8,0.001,1\n")
def test_any_bytes(tmp_path_factory, content):
    prepared(tmp_path_factory.mktemp("bytes"), "a.csv", content)
    prepared(tmp_path_factory.mktemp("bytes"), "a.parquet", content)


def columns_of(kind):
    n = 40
    make = {
        "texts": pa.array(["9.5"] * n),
        "mixed": pa.array((["9.5", "x"] * n)[:n]),
        "bool": pa.array([True] * n),
        "null": pa.nulls(n),
        "list": pa.array([[1.0]] * n),
        "struct": pa.array([{"a": 1.0}] * n),
        "time": pa.array([1] * n, pa.timestamp("us")),
        "binary": pa.array([b"\xff\xfe"] * n),
        "decimal": pa.array([9] * n).cast(pa.decimal128(30, 2)),
        "big": pa.array([2**64 - 1] * n, pa.uint64()),
        "half": pa.array(np.full(n, 9.5, np.float16)),
        "dictionary": pa.array(["9.5"] * n).dictionary_encode(),
        "map": pa.array([[("a", 1.0)]] * n, pa.map_(pa.string(), pa.float64())),
        "inf": pa.array([float("inf")] * n),
        "large": pa.array(["9.5"] * n, pa.large_string()),
        "view": pa.array([9.5] * n),
    }[kind]
    good = pa.array(np.linspace(5, 9, n))
    return make, good


KINDS = "texts mixed bool null list struct time binary decimal big half dictionary map inf large"


PLACES = ("Mass_0", "Z", "name")


@pytest.mark.parametrize(
    ("kind", "place", "drop"),
    [  # every kind in every place; each of both with and without dropping
        (kind, place, bool((k + p) % 2))
        for k, kind in enumerate(KINDS.split())
        for p, place in enumerate(PLACES)
    ],
)
def test_columns_of_any_type(tmp_path, kind, place, drop):
    strange, good = columns_of(kind)
    table = dict.fromkeys(("Mass_0", "Mass_1"), good)
    table |= dict.fromkeys(("Z", "alpha"), pa.array([0.5] * len(good))) | {place: strange}
    where = "name != 'a'" if place == "name" else None
    prepared(tmp_path, "a.parquet", parquet(pa.table(table)), drop_invalid=drop, where=where)


def zeros(rows):
    """A Parquet file of so many equal rows in one group: some kB on disk."""
    ones = pa.array(np.ones(rows))
    table = pa.table(dict.fromkeys(("Mass_0", "Mass_1", "Z", "alpha"), ones))
    return parquet(table, compression="zstd", row_group_size=rows)


@pytest.mark.slow
def test_a_parquet_bomb_takes_little_memory(tmp_path):
    """Eight million rows in one row group: 256 MB when unpacked whole."""
    content = zeros(8_000_000)
    assert len(content) < 2e6
    (tmp_path / "a.parquet").write_bytes(content)
    with memory(200):
        answer(prepare, [tmp_path / "a.parquet"], tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])  # whether the file says it is a dictionary
def test_a_text_that_a_parquet_repeats_takes_its_memory_once(tmp_path, named):
    """A text of 5 kB in 130,000 rows: 650 MB when unpacked."""
    rows = 130_000
    masses = pa.array(np.linspace(5, 9, rows))
    table = dict.fromkeys(("Mass_0", "Mass_1", "Z", "alpha"), masses)
    table |= dict.fromkeys(("Z", "alpha"), pa.array(np.ones(rows)))
    indices = pa.array(np.zeros(rows, np.int32))
    table["name"] = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 5_000]))
    content = parquet(pa.table(table), compression="zstd", store_schema=named)
    (tmp_path / "a.parquet").write_bytes(content)

    with memory(400):
        made = prepare([tmp_path / "a.parquet"], tmp_path / "out", where="name != 'a'")

    assert sum(made.rows.values()) == rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()], ids=str)
def test_a_text_that_is_repeated_where_numbers_belong_takes_its_memory_once(tmp_path, kind):
    rows = 130_000
    ones = pa.array(np.ones(rows))
    indices = pa.array(np.zeros(rows, np.int32))
    long = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 5_000]).cast(kind))
    table = pa.table(dict.fromkeys(("Mass_1", "Z", "alpha"), ones) | {"Mass_0": long})
    content = parquet(table, compression="zstd", store_schema=False)
    (tmp_path / "a.parquet").write_bytes(content)

    with memory(400), pytest.raises(DataError, match="Mass_0"):
        prepare([tmp_path / "a.parquet"], tmp_path / "out")


@pytest.mark.slow
def test_a_gzip_bomb_takes_little_memory(tmp_path):
    """Half a gigabyte in a single line; rows of nothing are among the formats."""
    path = tmp_path / "a.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(HEADER)
        for _ in range(512):
            file.write(b"9" * 2**20)
    assert path.stat().st_size < 10e6
    with memory(300), pytest.raises(DataError):
        prepare([path], tmp_path / "out")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "a.csv").write_bytes(CSV)
    totals = TABLE.group_by(["Z", "alpha"]).aggregate([("ID", "count")])
    totals = totals.rename_columns(["Z", "alpha", "simulated_binaries"])
    simulated = pa.array(totals.column("simulated_binaries").to_numpy() * 100)
    pyarrow.csv.write_csv(totals.set_column(2, "simulated_binaries", simulated), folder / "t.csv")
    prepare([folder / "a.csv"], folder / "out", totals=folder / "t.csv")
    return folder / "out"


@pytest.fixture(scope="module")
def stranger(dataset, tmp_path_factory):
    """A copy to be written into."""
    folder = tmp_path_factory.mktemp("stranger") / "out"
    shutil.copytree(dataset, folder)
    return folder


def streamed(folder):
    """All that reads a dataset, in bounded memory."""
    with memory(512):
        found = answer(Dataset.read, folder)
        if found is None:
            return
        stream = answer(Stream, folder, "train", batch_size=7)
        if stream is not None:
            answer(lambda: [batch.events.shape for batch in stream.epoch(0)])
        named = [{"Z": 0.001, "alpha": 1.0}]
        answer(Stream, folder, "train", batch_size=7, without=named)
        answer(read_split, folder, "test")


@fuzz(120)
@given(data=st.data())
def test_a_broken_dataset_json(dataset, stranger, data):
    stored = json.loads((dataset / "dataset.json").read_text())
    text = json.dumps(data.draw(broken(stored)))
    (stranger / "dataset.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    streamed(stranger)


def test_numbers_that_no_dataset_has(dataset, stranger):
    stored = json.loads((dataset / "dataset.json").read_text())
    cell = stored["cells"][0]
    for key, value in {
        "schema": 10**400,
        "rows": {"train": 10**15, "val": 10**400, "test": -1},
        "ranges": {"Z": [0, 10**400]},
        "cells": [{**cell, "conditions": [10**400, 1.0]}, {**cell, "train": 10**30}],
        "condition_columns": [{"name": "\x1b[2J", "unit": "", "positive": True}],
        "event_columns": [],
        "totals": [{"conditions": [1, 1], "simulated": 10**400, "mergers": 10**400}],
        "fingerprint": 3,
        "split": [[]],
    }.items():
        (stranger / "dataset.json").write_text(json.dumps(stored | {key: value}))
        with pytest.raises(DataError):
            Dataset.read(stranger)


@fuzz(60)
@given(text=st.binary(max_size=60))
@example(b"[" * 100_000)
@example(b'{"schema": 1' + b"0" * 100_000 + b"}")
@example(b'{"schema": 1, "schema": 1}')
@example(b'{"schema": NaN}')
def test_a_dataset_json_of_any_bytes(stranger, text):
    (stranger / "dataset.json").write_bytes(text)
    streamed(stranger)


@fuzz(80)
@given(data=st.data())
def test_damaged_parts(dataset, stranger, data):
    shutil.copy(dataset / "dataset.json", stranger)
    part = dataset / "train" / "part-00000.parquet"
    (stranger / "train" / "part-00000.parquet").write_bytes(
        data.draw(damaged(part.read_bytes(), most=2))
    )
    streamed(stranger)
    shutil.copy(part, stranger / "train")


@pytest.mark.parametrize("kind", KINDS.split())
def test_parts_of_another_type(dataset, stranger, kind):
    shutil.copy(dataset / "dataset.json", stranger)
    path = stranger / "train" / "part-00000.parquet"
    part = pq.read_table(dataset / "train" / "part-00000.parquet")
    strange, _ = columns_of(kind)
    repeated = pa.concat_arrays([strange] * 2).slice(0, len(part))
    place = part.column_names.index("Mass_0")
    pq.write_table(part.set_column(place, "Mass_0", repeated), path)
    streamed(stranger)
    pq.write_table(part.rename_columns(["x", *part.column_names[1:]]), path)
    streamed(stranger)
    pq.write_table(part.slice(0, 3), path)
    streamed(stranger)
    shutil.copy(dataset / "train" / "part-00000.parquet", path)
