"""One table, packed or binary: the same dataset, or a sentence; and files that are no table."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import pickle
import re
import sys

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from data_prep.preparation.prepare import prepare
from data_prep.tables import arrow
from data_prep.tables.source import Reading, Source
from data_prep.tables.text import table as text
from tests.conftest import draw_table
from tests.data_prep.forms import CSV, NAMES, ROWS, TABLE, lines, put, refusal, zipped
from tests.fuzz.strategies import memory

# ---- packed


def compressed(kind):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, kind) as file:
        file.write(CSV)
    return sink.getvalue().to_pybytes()


PACKED = {
    "a.csv.gz": gzip.compress(CSV),
    "several.csv.gz": gzip.compress(CSV[:50]) + gzip.compress(CSV[50:]),
    "a.csv.bz2": bz2.compress(CSV),
    "a.csv.xz": lzma.compress(CSV),
    "a.csv.zst": compressed("zstd"),
    "a.csv.lz4": compressed("lz4"),
    "a.csv.zip": zipped({"a.csv": CSV}),
    "of-a-mac.zip": zipped({"run/": b"", "run/a.csv": CSV, "__MACOSX/run/._a.csv": b"\0\5"}),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_text_is_unpacked_as_it_is_read(tmp_path, fingerprint, monkeypatch, name):
    monkeypatch.setattr(text, "BLOCK_BYTES", 100)

    made = prepare([put(tmp_path, name, PACKED[name])], tmp_path / "out")

    assert made.fingerprint == fingerprint
    assert made.bytes_before == len(PACKED[name])


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_text_that_is_cut_off_is_refused(tmp_path, name):
    path = put(tmp_path, name, PACKED[name][:-40])

    assert "damaged or cut off" in refusal(path, tmp_path)


def test_a_zip_of_several_tables_lists_them_and_takes_one(tmp_path, fingerprint):
    path = put(tmp_path, "a.zip", zipped({"a.csv": CSV, "sub/b.csv": CSV[:100], "c.txt": b"x"}))

    fault = refusal(path, tmp_path)
    assert "holds 3 files (a.csv, sub/b.csv, c.txt): name one with --table" in fault
    assert "no file 'd': it holds" in refusal(path, tmp_path, reading=Reading(table="d"))
    for number, name in enumerate(["a.csv", "a"]):
        made = prepare([path], tmp_path / f"out{number}", reading=Reading(table=name))
        assert made.fingerprint == fingerprint


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_a_packed_bomb_takes_little_memory(tmp_path, kind):
    pack = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}[kind]
    path = put(tmp_path, "a.csv", pack(CSV + b"\n" * 60_000_000))

    with memory(300):
        made = prepare([path], tmp_path / "out")

    assert sum(made.rows.values()) == len(ROWS)


# ---- Arrow, FITS, VOTable

TEXTS_OF_NUMBERS = pa.table({name: TABLE[name].cast(pa.string()) for name in NAMES})


def feather(**options):
    return lambda path: pa.feather.write_feather(TABLE, path, **options)


def ipc(opened, rows=7):
    def write(path):
        with opened(str(path), TABLE.schema) as file:
            for batch in TABLE.to_batches(max_chunksize=rows):
                file.write_batch(batch)

    return write


def doubled(path):
    names = [*TABLE.column_names, "Z"]
    pq.write_table(pa.table([*TABLE.columns, TABLE["Z"]], names=names), path)


def fits(path):
    from astropy.table import Table

    table = Table({name: TABLE[name].to_numpy() for name in NAMES}, units={"Mass_0": "solMass"})
    table["number"] = np.arange(len(table), dtype=">i4")
    table["name"] = [f"b{k}" for k in range(len(table))]
    table.write(path, format="fits")


def votable(path):
    from astropy.table import Table

    table = Table({name: TABLE[name].to_numpy() for name in NAMES}, units={"Mass_0": "solMass"})
    table.write(path, format="votable")


def parquet_of_astropy(path):
    from astropy.table import Table

    table = Table({name: TABLE[name].to_numpy() for name in NAMES}, units={"Mass_0": "solMass"})
    table.write(path, format="parquet")


BINARY = {
    "parquet-of-astropy": parquet_of_astropy,
    "feather": feather(),
    "feather-packed": feather(compression="zstd", chunksize=9),
    "feather-plain": feather(compression="uncompressed"),
    "arrow-file": ipc(pa.ipc.new_file),
    "arrow-stream": ipc(pa.ipc.new_stream),
    "parquet-with-a-doubled-column": doubled,
    "parquet-of-texts": lambda path: pq.write_table(TEXTS_OF_NUMBERS, path),
    "fits": fits,
    "votable": votable,
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("rows", [arrow.CHUNK_ROWS, 6])
def test_a_binary_table_is_read(tmp_path, fingerprint, monkeypatch, name, rows):
    for module in ("arrow", "astronomy"):
        monkeypatch.setattr(f"data_prep.tables.{module}.CHUNK_ROWS", rows)
    path = put(tmp_path, "a", BINARY[name])

    assert prepare([path], tmp_path / "out").fingerprint == fingerprint


@pytest.mark.parametrize("name", ["fits", "votable", "parquet-of-astropy"])
def test_units_in_an_astronomers_table_are_taken_over(tmp_path, name):
    assert Source.open(put(tmp_path, "a", BINARY[name]), {}).units == {"Mass_0": "Msun"}


def test_texts_and_integers_in_fits_can_be_filtered_by(tmp_path):
    made = prepare(
        [put(tmp_path, "a.fits", fits)], tmp_path / "out", where="number < 10 or name == 'b20'"
    )

    assert sum(made.rows.values()) == 11


def test_of_several_tables_in_fits_one_is_chosen(tmp_path, fingerprint):
    from astropy.io import fits as io_fits

    fits(tmp_path / "one.fits")
    with io_fits.open(tmp_path / "one.fits") as file:
        tables = [io_fits.BinTableHDU(file[1].data, name=name) for name in ("BBH", "BNS")]
        io_fits.HDUList([io_fits.PrimaryHDU(), *tables]).writeto(tmp_path / "a.fits")

    assert "holds 2 tables: name one of BBH, BNS with --table" in (
        refusal(tmp_path / "a.fits", tmp_path)
    )
    made = prepare([tmp_path / "a.fits"], tmp_path / "out", reading=Reading(table="BBH"))
    assert made.fingerprint == fingerprint


@pytest.mark.parametrize("name", ["fits", "votable"])
def test_without_astropy_a_sentence_names_what_to_install(tmp_path, monkeypatch, name):
    path = put(tmp_path, "a", BINARY[name])
    monkeypatch.setitem(sys.modules, "astropy.io", None)

    assert "needs astropy: pip install 'hpo-flows[astronomy]'" in refusal(path, tmp_path)


@pytest.mark.parametrize("name", ["feather-plain", "feather-packed", "arrow-stream", "fits"])
def test_a_binary_table_that_is_cut_off_is_refused(tmp_path, name):
    path = put(tmp_path, "a", BINARY[name])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])

    assert refusal(path, tmp_path).startswith(f"{path} cannot be read")


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


# ---- what is no table


def npy(path):
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def npz(path):
    with path.open("wb") as file:
        np.savez(file, Mass_0=np.ones(3))


STRANGERS = {
    "numpy": (npy, "NumPy array.*to_parquet"),
    "npz": (npz, "store of NumPy arrays.*to_parquet"),
    "pickle": (pickle.dumps({"a": 1}), "pickle, which can run any program.*read_pickle"),
    "packed-pickle": (gzip.compress(pickle.dumps({"a": 1})), "pickle"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "Excel workbook.*read_excel"),
    "xlsx": (zipped({"[Content_Types].xml": b"x", "xl/workbook.xml": b"x"}), "Excel workbook"),
    "ods": (zipped({"mimetype": b"x", "content.xml": b"x"}), "OpenDocument"),
    "sqlite": (b"SQLite format 3\0" + b"\0" * 90, "SQLite database.*read_sql"),
    "pdf": (b"%PDF-1.5\n%\xe2\xe3", "PDF document"),
    "html": (b"\n<!DOCTYPE html>\n<html><body>404", r"web page \(HTML\).*download the file itself"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "Git LFS.*git lfs pull",
    ),
    "json": (json.dumps([{"Mass_0": 1}]).encode(), "JSON.*read_json"),
    "json-object": (json.dumps({"Mass_0": [1]}, indent=1).encode(), "JSON"),
    "tar": (b"a.csv".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 300, "tar archive.*tar -xf"),
    "packed-tar": (gzip.compress(b"a.csv".ljust(257, b"\0") + b"ustar\x0000"), "tar archive"),
    "packed-parquet": (
        lambda path: path.write_bytes(gzip.compress(b"PAR1" + b"\0" * 90)),
        r"Parquet table, packed by gzip: unpack it first \(gunzip",
    ),
    "packed-twice": (gzip.compress(bz2.compress(CSV)), "packed by bzip2, packed by gzip: unpack"),
    "zip-of-fits": (zipped({"a.fits": b"SIMPLE  =    T"}), "FITS file, packed by zip: unpack"),
    "empty-zip": (zipped({}), "holds no file"),
    "r": (gzip.compress(b"RDX3\nX\n"), "R file.*write.csv"),
    "matlab": (b"MATLAB 5.0 MAT-file, Platform", "MATLAB file"),
    "netcdf": (b"CDF\x01\0\0\0\0", "NetCDF"),
    "utf-16": ("Mass_0,Mass_1".encode("utf-16"), "text in UTF-16.*iconv"),
    "utf-16-without-mark": ("Mass_0,Mass_1".encode("utf-16-le"), "text in UTF-16.*iconv"),
    "json-lines": (b'{"Mass_0": 1}\n{"Mass_0": 2}\n', "JSON, an object a line.*lines=True"),
    "html-table": (b'<table border="1" class="dataframe">\n', "web page"),
    "mrt": (b"Title:\nAuthors:\n====\nByte-by-byte Description of file: t\n", "MRT.*ascii.mrt"),
    "ipac": (b"\\a = 1\n|Mass_0|  Z  |\n|double|real |\n  9.0    0.1  \n", "IPAC.*ascii.ipac"),
    "packed-votable": (
        bz2.compress(b"<?xml version='1.0'?>\n<VOTABLE>"), "VOTable, packed by bzip2: unpack"
    ),
    "png": (b"\x89PNG\r\n\x1a\n", "a picture"),
    "seven-zip": (b"7z\xbc\xaf\x27\x1c\0\4", "7-zip archive.*7z x"),
    "latex": (b"\\begin{tabular}{ll}\n", "LaTeX"),
    "xml": (b"<?xml version='1.0'?><a/>", "XML"),
    "unknown": (bytes(range(200)), "binary file of a kind that is not known.*write the table"),
    "latin-names": ("Masse_0,Größe\n1,2\n".encode("latin-1"), "another encoding than UTF-8.*iconv"),
    "empty": (b"", "is empty"),
    "blank": (b"\n \n\t\n", "is empty"),
    "comments-only": (b"#\n#\n", "is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_table_is_named_with_a_remedy(tmp_path, name):
    content, message = STRANGERS[name]
    path = put(tmp_path, "a.csv", content)

    fault = refusal(path, tmp_path)

    assert fault.startswith(f"{path} ")
    assert "codec" not in fault
    assert re.search(message, fault), fault


def test_a_text_column_in_another_encoding_is_named(tmp_path):
    rows = [*(f"{line},a" for line in lines()), "5,6,0.03,1,ü"]
    content = "\n".join(["Mass_0,Mass_1,Z,alpha,name", *rows]).encode("latin-1")

    fault = refusal(put(tmp_path, "a.csv", content), tmp_path, where="name == 'a'")

    assert "another encoding than UTF-8" in fault


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a")

    assert "no file that can be read twice" in refusal(tmp_path / "a", tmp_path)
