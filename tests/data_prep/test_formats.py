"""One table in the many forms that people have it in: the same dataset, or a sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import subprocess
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from data_prep.tables import arrow
from data_prep.tables.source import Reading, Source
from data_prep.tables.text import table as text
from tests.fuzz.strategies import memory

NAMES = ("Mass_0", "Mass_1", "Z", "alpha")
ROWS = [(5 + k / 4, 3 + k / 8, (0.0001, 0.03)[k % 2], (0.5, 1.0)[k // 20]) for k in range(40)]
TABLE = pa.table({name: [row[k] for row in ROWS] for k, name in enumerate(NAMES)})


def lines(separator=",", row=lambda values: map(repr, values)):
    return [separator.join(row(values)) for values in ROWS]


def written(*head, rows=None, end="\n"):
    return end.join([*head, *(lines() if rows is None else rows), ""]).encode()


CSV = written("Mass_0,Mass_1,Z,alpha")


@pytest.fixture(scope="module", autouse=True)
def unsynced():
    """No machine crashes here, and the many small files would wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory):
    """Of the table, as plain CSV."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "a.csv").write_bytes(CSV)
    return prepare([folder / "a.csv"], folder / "out").fingerprint


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    return path


def refusal(path, folder, **options):
    with pytest.raises(DataError) as caught:
        prepare([path], folder / "out", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- text

FORTRAN = [" ".join(f"{value:.15E}".replace("E", "D") for value in row) for row in ROWS]
INDEXED = [f"{k},{line}" for k, line in enumerate(lines())]
WITH_GAPS = [f"{line},{('NA', '--', 'nan', '', '3.5')[k % 5]}" for k, line in enumerate(lines())]


def widely(*values):
    return ",".join(f"{value:>20}" for value in values)


TEXTS = {
    "semicolons": written("Mass_0;Mass_1;Z;alpha", rows=lines(";")),
    "bars": written("Mass_0 | Mass_1 | Z | alpha", rows=lines(" | ")),
    "tabs": written("Mass_0\tMass_1\tZ\talpha", rows=lines("\t")),
    "comments": written("# SEVN v2.7 run", "# Z grid 5, date 2023, by X", "Mass_0,Mass_1,Z,alpha"),
    "comments-of-other-marks": written("% a run", "! of 2023, 5 cells", "// x", CSV.decode()[:21]),
    "comments-in-the-rows": written(
        "# a", "Mass_0\tMass_1\tZ\talpha", *lines("\t")[:7], "# restarted", rows=lines("\t")[7:]
    ),
    "blank-lines-above": written("", "", "Mass_0,Mass_1,Z,alpha"),
    "a-title-without-mark": written("Merging binaries of run 7", "Mass_0,Mass_1,Z,alpha"),
    "names-in-a-comment": written("# Mass_0 Mass_1 Z alpha", rows=lines(" ")),
    "names-in-the-last-comment": written(
        "# run 7", "#", "# Mass_0 Mass_1 Z alpha", rows=lines(" ")
    ),
    "names-by-commas-over-blanks": written("# Mass_0, Mass_1, Z, alpha", rows=lines("  ")),
    "names-then-units-in-comments": written(
        "# Mass_0 Mass_1 Z alpha", "# Msun Msun - -", rows=lines(" ")
    ),
    "quoted-names": written('"Mass_0","Mass_1","Z","alpha"'),
    "quoted-names-of-blanks": written('"Mass_0" "Mass_1" "Z" "alpha"', rows=lines(" ")),
    "units-below": written("Mass_0,Mass_1,Z,alpha", "Msun,Msun,,"),
    "units-in-brackets-below": written(
        "Mass_0;Mass_1;Z;alpha", "[Msun];[Msun];[-];[]", rows=lines(";")
    ),
    "units-above": written("Msun,Msun,-,-", "Mass_0,Mass_1,Z,alpha"),
    "types-units-names": written(
        widely("FLOAT", "FLOAT", "FLOAT", "FLOAT"),
        widely("Msol", "Msol", "-", "-"),
        widely("Mass_0", "Mass_1", "Z", "alpha"),
        rows=[widely(*values) for values in ROWS],
    ),
    "units-types-names": written(
        "Msol\tMsol\t#\t#",
        "float\tfloat\tfloat\tfloat",
        "Mass_0\tMass_1\tZ\talpha",
        rows=lines("\t"),
    ),
    "units-that-begin-with-a-mark": written(
        "#\tMsol\tMsol\t#\t#",
        "int\tfloat\tfloat\tfloat\tfloat",
        "SEED\tMass_0\tMass_1\tZ\talpha",
        rows=[f"{k}\t{line}" for k, line in enumerate(lines("\t"))],
    ),
    "ecsv": written(
        "# %ECSV 1.0", "# ---", "# datatype:",
        "# - {name: Mass_0, unit: solMass, datatype: float64}",
        "# - name: Mass_1", "#   unit: solMass", "#   datatype: float64",
        "# - {name: Z, datatype: float64}", "# - {name: alpha, datatype: float64}",
        "# meta: !!omap", "# - {made: !astropy.time.Time {format: jd}}", "# schema: astropy-2.0",
        "Mass_0 Mass_1 Z alpha", rows=lines(" "),
    ),
    "units-in-a-comment-below-names": written(
        "Mass_0,Mass_1,Z,alpha", "# Msun,Msun,-,-", rows=lines(",")
    ),
    "a-rule-below-names-and-units": written(
        "# VizieR", "Mass_0\tMass_1\tZ\talpha", "Msun\tMsun\t\t", "------\t------\t---\t-----",
        rows=lines("\t"),
    ),
    "a-rule-of-markdown": written(
        "| Mass_0 | Mass_1 | Z | alpha |", "|---|---:|---|---|",
        rows=[f"| {line} |" for line in lines(" | ")],
    ),
    "a-printed-frame": written(
        "   Mass_0  Mass_1   Z  alpha",
        rows=[f"{k:3}  {line}" for k, line in enumerate(lines("   "))],
    ),
    "quoted-numbers": written(
        '"Mass_0","Mass_1","Z","alpha"', rows=[f'"{line}"'.replace(",", '","') for line in lines()]
    ),
    "rows-that-begin-with-a-mark": written(
        "ID,Mass_0,Mass_1,Z,alpha", rows=[f"#{k},{line}" for k, line in enumerate(lines())]
    ),
    "rdb": written("Mass_0\tMass_1\tZ\talpha", "N\tN\t10N\tN", rows=lines("\t")),
    "units-beside-names": written("Mass_0 [Msun]  Mass_1 [Msun]  Z [-]  alpha", rows=lines(" ")),
    "units-beside-names-in-a-comment": written(
        "# run 7", "# Mass_0 (Msun) Mass_1 (Msun) Z alpha", rows=lines(" ")
    ),
    "units-of-a-labelled-row": written(
        "name,Mass_0,Mass_1,Z,alpha", "units,Msun,Msun,,", rows=[f"b,{line}" for line in lines()]
    ),
    "numbers-of-columns": written(
        "# (1) (2) (3) (4)", "# Mass_0 Mass_1 Z alpha", "# [Msun] [Msun] [] []", rows=lines(" ")
    ),
    "byte-order-mark": b"\xef\xbb\xbf" + CSV,
    "byte-order-mark-and-comment": b"\xef\xbb\xbf# run 7\n" + CSV,
    "windows": CSV.replace(b"\n", b"\r\n"),
    "windows-units": written("Mass_0,Mass_1,Z,alpha", "Msun,Msun,,", end="\r\n"),
    "delimiter-at-the-end": written("Mass_0,Mass_1,Z,alpha,", rows=[f"{row}," for row in lines()]),
    "delimiter-at-the-end-of-rows": written(
        "Mass_0,Mass_1,Z,alpha", rows=[f"{row}," for row in lines()]
    ),
    "delimiter-at-the-end-of-names": written("Mass_0,Mass_1,Z,alpha,"),
    "index-of-pandas": written(",Mass_0,Mass_1,Z,alpha", rows=INDEXED),
    "row-names-of-r": written(
        '"Mass_0" "Mass_1" "Z" "alpha"',
        rows=[f'"{k + 1}" {line}' for k, line in enumerate(lines(" "))],
    ),
    "fortran": written("  Mass_0   Mass_1  Z   alpha", rows=FORTRAN),
    "fortran-aligned": written("#  Mass_0   Mass_1  Z   alpha", rows=[f"   {r}" for r in FORTRAN]),
    "gaps-in-another-column": written("Mass_0,Mass_1,Z,alpha,spin", rows=WITH_GAPS),
    "doubled-column": written("Mass_0,Mass_1,Z,alpha,Z", rows=[
        f"{line},{row[2]}" for line, row in zip(lines(), ROWS, strict=True)
    ]),
    "latin-comment": "# von Müller\n".encode("latin-1") + CSV,
    "names-with-blanks-around": written("Mass_0 , Mass_1 , Z , alpha"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_table_is_read_however_it_was_laid_out(tmp_path, fingerprint, name):
    path = put(tmp_path, "a.txt", TEXTS[name])

    made = prepare([path], tmp_path / "out")

    assert made.fingerprint == fingerprint
    assert made.sources[0]["rows"] == len(ROWS)


@pytest.mark.parametrize("name", [name for name in TEXTS if "unit" in name or name == "ecsv"])
def test_units_in_a_text_are_taken_over(tmp_path, name):
    source = Source.open(put(tmp_path, "a.txt", TEXTS[name]), {"Mass_1": "m2"})

    assert source.units == {"Mass_0": "Msun", "m2": "Msun"}


def test_a_unit_in_the_name_of_a_column_is_part_of_both(tmp_path):
    path = put(tmp_path, "a.csv", written("Mass_0 [Msun],Mass(1),tau [Gyr],log(L)"))

    source = Source.open(path, {"tau [Gyr]": "tau"})

    assert source.names == ("Mass_0 [Msun]", "Mass(1)", "log(L)", "tau")
    assert source.units == {"Mass_0 [Msun]": "Msun", "tau": "Gyr"}


@pytest.mark.parametrize(
    "name", ["gaps-in-another-column", "windows-units", "comments-in-the-rows"]
)
def test_blocks_of_a_text_can_end_anywhere(tmp_path, fingerprint, monkeypatch, name):
    monkeypatch.setattr(text, "BLOCK_BYTES", 60)

    assert prepare([put(tmp_path, "a", TEXTS[name])], tmp_path / "out").fingerprint == fingerprint


def test_missing_values_are_no_text_to_a_filter(tmp_path):
    path = put(tmp_path, "a.csv", TEXTS["gaps-in-another-column"])

    made = prepare([path], tmp_path / "out", where="spin > 3 or Mass_1 > 4")

    assert sum(made.rows.values()) == 32


@pytest.mark.parametrize("mark", ["NA", "--", "null", "N/A", ""])
def test_a_missing_value_is_told_as_such(tmp_path, mark):
    path = put(tmp_path, "a.csv", written("Mass_0,Mass_1,Z,alpha", f"{mark},5,0.03,1"))

    assert "'Mass_0', row 1: the empty value is not a finite number" in refusal(path, tmp_path)


@pytest.mark.parametrize("separator", [" ", ",", "\t", ";"])
@pytest.mark.parametrize("head", [(), ("# run 7 of 2023",), ("# made by x", "")])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_text_without_names_asks_for_them_and_takes_them(
    tmp_path, fingerprint, separator, head, mark
):
    path = put(tmp_path, "a.dat", mark + written(*head, rows=lines(separator)))

    assert "no line of names (it begins with 5.0, 3.0, 0.0001, ...): give them with --names" in (
        refusal(path, tmp_path).replace("0.0001, 0.5", "0.0001, ...")
    )
    assert (
        prepare([path], tmp_path / "out", reading=Reading(names=NAMES)).fingerprint == fingerprint
    )


def test_a_text_without_names_may_have_no_rows(tmp_path, fingerprint):
    files = [
        put(tmp_path, "a", b""),
        put(tmp_path, "b", written()),
        put(tmp_path, "c", b"# none\n"),
    ]

    made = prepare(files, tmp_path / "out", reading=Reading(names=NAMES))

    assert made.fingerprint == fingerprint
    assert [told["rows"] for told in made.sources] == [0, len(ROWS), 0]


@pytest.mark.parametrize(
    ("content", "names", "message"),
    [
        pytest.param(CSV, NAMES, "has a line of names already.*--columns", id="there"),
        pytest.param(written(), NAMES[:3], "has 4 values in a row, but --names gives 3", id="few"),
        pytest.param(written(), (*NAMES, "x"), "4 values .* but --names gives 5", id="many"),
        pytest.param(
            lambda path: pq.write_table(TABLE, path), NAMES, "leave --names out", id="parquet"
        ),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, content, names, message):
    path = put(tmp_path, "a", content)

    with pytest.raises(DataError, match=message):
        prepare([path], tmp_path / "out", reading=Reading(names=names))


@pytest.mark.parametrize("separator", [";", "\t", " "])
@pytest.mark.parametrize("named", [True, False])
def test_a_decimal_comma_is_refused_by_what_it_is(tmp_path, separator, named):
    rows = [line.replace(".", ",") for line in lines(separator)]
    content = written(*([separator.join(NAMES)] if named else []), rows=rows)
    reading = Reading(names=None if named else NAMES)

    fault = refusal(put(tmp_path, "a.csv", content), tmp_path, reading=reading)

    assert "decimal comma (5,0)" in fault
    assert "decimal=','" in fault


def test_two_columns_of_one_name_that_differ_are_refused_with_their_row(tmp_path):
    rows = [
        f"{line},{row[2] * (1 + (k == 30))}"
        for k, (line, row) in enumerate(zip(lines(), ROWS, strict=True))
    ]
    path = put(tmp_path, "a.csv", written("Mass_0,Mass_1,Z,alpha,Z", rows=rows))

    fault = refusal(path, tmp_path)
    assert "two columns 'Z', which differ in row 31" in fault
    assert "--columns 'Z (column 5)=Z'" in fault
    second = prepare([path], tmp_path / "out", columns={"Z (column 5)": "Z"})

    assert second.ranges["Z"] == (0.0001, 0.03)


def test_a_text_column_can_be_doubled_too(tmp_path, fingerprint):
    head = "Mass_0,Mass_1,Z,alpha,name,name"
    path = put(tmp_path, "a.csv", written(head, rows=[f"{line},ab,ab" for line in lines()]))

    assert prepare([path], tmp_path / "out", where="name == 'ab'").fingerprint == fingerprint


# ---- packed


def zipped(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


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


# ---- folders and paths


def test_a_folder_of_parquet_gives_its_partitions_as_columns(tmp_path, fingerprint):
    for number, (Z, alpha) in enumerate([(Z, a) for Z in (0.0001, 0.03) for a in (0.5, 1.0)]):
        rows = [k for k, row in enumerate(ROWS) if row[2:] == (Z, alpha)]
        part = TABLE.take(rows).drop_columns(["Z", "alpha"] if number else ["alpha"])
        put(
            tmp_path,
            f"t/Z={Z}/alpha={alpha}/p.parquet",
            lambda path, p=part: pq.write_table(p, path),
        )
    put(tmp_path, "t/_SUCCESS", b"")
    put(tmp_path, "t/_metadata.parquet", b"PAR1")
    put(tmp_path, "t/.crc/p.parquet", b"crc")

    made = prepare([tmp_path / "t"], tmp_path / "out")

    again = prepare(sorted((tmp_path / "t").glob("Z*/*/*.parquet")), tmp_path / "again")
    (told,) = made.sources
    assert made.fingerprint == again.fingerprint
    assert sum(made.rows.values()) == len(ROWS)
    assert (told["file"], told["files"], told["rows"]) == ("t", 4, len(ROWS))
    assert told["bytes"] == made.bytes_before == again.bytes_before
    shell = "LC_ALL=C sha256sum $(find Z* -name '*.parquet' | LC_ALL=C sort) | sha256sum"
    sums = subprocess.run(shell, shell=True, cwd=tmp_path / "t", capture_output=True, check=True)
    assert told["sha256"] == sums.stdout.decode().split()[0]


def sevn(folder, name="sevn_output_Z{Z}A{alpha}/output_0.csv", head="Mass_0,Mass_1"):
    for Z, alpha in {row[2:] for row in ROWS}:
        rows = [f"{row[0]},{row[1]}" for row in ROWS if row[2:] == (Z, alpha)]
        put(folder, name.format(Z=Z, alpha=alpha), written(head, rows=rows))
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("sevn_output_Z{Z}A{alpha}/output_0.csv", "sevn_output_Z{Z}A{alpha}"),
        ("Z{Z}/alpha_{alpha}/output_0.csv", "Z{Z}/alpha_{alpha}"),
        ("Z{Z}/alpha_{alpha}/output_0.csv", "Z{Z}/alpha_{alpha}/output_0.csv"),
        ("mergers_Z{Z}_{alpha}.csv", "mergers_Z{Z}_{alpha}"),
        ("mergers_Z{Z}_{alpha}.csv", "mergers_Z{Z}_{alpha}.csv"),
        ("mergers_Z{Z}_{alpha}_x7.csv", "*_Z{Z}_{alpha}_*"),
        ("Z{Z:e}A{alpha:.1e}/o.csv", "Z{Z}A{alpha}"),
        ("Z{Z}A{alpha}_Z{Z}/o.csv", "Z{Z}A{alpha}_Z{Z}"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_conditions_are_read_from_names(tmp_path, fingerprint, name, pattern, whole):
    folder = tmp_path / "of Zoe" / "t"
    files = sevn(folder, name)

    made = prepare(
        [folder] if whole else files, tmp_path / "out", reading=Reading(from_path=pattern)
    )

    assert {cell.conditions for cell in made.cells} == {row[2:] for row in ROWS}
    assert sum(made.rows.values()) == len(ROWS)
    assert made.ranges["Mass_0"] == (5, 14.75)


def test_a_text_in_one_name_is_a_text_in_all(tmp_path):
    files = [
        path for one in ("7", "CE", "A") for path in sevn(tmp_path / one, one + "_{Z}_{alpha}.csv")
    ]

    made = prepare(
        files,
        tmp_path / "out",
        condition_columns=["channel", "Z"],
        reading=Reading(from_path="{channel}_{Z}_{alpha}"),
    )

    assert made.condition_columns[0].categories == ("7", "A", "CE")
    assert sum(made.rows.values()) == 3 * len(ROWS)


def test_a_text_from_a_name_can_be_filtered_by(tmp_path):
    files = sevn(tmp_path / "t", "CE_{Z}/a{alpha}.csv") + sevn(
        tmp_path / "u", "SMT_{Z}/a{alpha}.csv"
    )

    made = prepare(
        files,
        tmp_path / "out",
        condition_columns=["Z"],
        reading=Reading(from_path="{channel}_{Z}/a{alpha}"),
        where="channel == 'SMT' and alpha < 0.7",
    )

    assert sum(made.rows.values()) == len(ROWS) // 2


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [
        pytest.param(
            "run_Z{Z}_a{alpha}/o.csv",
            "sevn_output_Z{Z}A{alpha}",
            "such as 'sevn_output_Z0.001A0.001': for 'run_Z[0-9.]+_a[0-9.]+' it is --from-path "
            "'run_Z{Z}_a{alpha}'",
            id="other-name",
        ),
        pytest.param("a/o_{Z}_{alpha}.csv", "Z{Z}{alpha}", "other text between", id="adjacent"),
        pytest.param("a/o_{Z}_{alpha}.csv", "ZA", "must have {NAME} for each value", id="no-name"),
        pytest.param(
            "a/o_{Z}_{alpha}.csv", "b_{Z}", "does not match .* write the whole name", id="few"
        ),
        pytest.param(
            "Z={Z}_alpha={alpha}/o.csv", None, "pass --from-path 'Z={Z}_alpha={alpha}'", id="signs"
        ),
        pytest.param("Z00{alpha:.0f}2_{Z}/o.csv", "Z{Z}_{x}", "can be .* or 0.00", id="digits"),
        pytest.param(
            "Z{Z}A{alpha}/o.csv", "Z{Mass_0}A{alpha}", "has a column 'Mass_0'", id="twice"
        ),
    ],
)
def test_a_path_that_does_not_match_is_refused_with_an_example(tmp_path, name, pattern, message):
    files = sevn(tmp_path / "t", name)

    with pytest.raises(DataError, match=message):
        prepare(files, tmp_path / "out", reading=Reading(from_path=pattern))


def test_a_column_that_the_folder_has_is_hinted_at(tmp_path):
    files = sevn(tmp_path / "t")

    fault = refusal(files[0], tmp_path)

    assert "tells Z and alpha, pass --from-path 'sevn_output_Z{Z}A{alpha}'" in fault


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({}, "folder without tables", id="empty"),
        pytest.param({"README.md": b"x"}, "folder without tables", id="no-table"),
        pytest.param(
            {"s/output_0.csv": CSV, "s/output_1.csv": CSV, "s/evolved_0.dat": CSV},
            r"several kinds \(csv, dat\): name the tables, for instance .*t/\*/\*\.csv",
            id="kinds",
        ),
        pytest.param(
            {"a.csv": CSV, "b.csv": CSV.replace(b"alpha", b"beta")},
            "tables of different columns: 'alpha' is not in both .*a.csv and .*b.csv",
            id="columns",
        ),
    ],
)
def test_a_folder_that_is_no_table_is_refused(tmp_path, files, message):
    (tmp_path / "t").mkdir()
    for name, content in files.items():
        put(tmp_path, f"t/{name}", content)

    with pytest.raises(DataError, match=message):
        prepare([tmp_path / "t"], tmp_path / "out")


def test_totals_come_in_by_the_same_door(tmp_path):
    source = put(tmp_path, "a.csv", CSV)
    cells = sorted({row[2:] for row in ROWS})
    rows = [f"{Z};{alpha};100" for Z, alpha in cells]
    totals = put(
        tmp_path, "t.txt.xz", lzma.compress(written("# x", "Z;alpha;simulated_binaries", rows=rows))
    )

    made = prepare([source], tmp_path / "out", totals=totals)

    assert [(one.conditions, one.simulated) for one in made.totals] == [(c, 100) for c in cells]


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
