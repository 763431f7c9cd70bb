"""One table in the many texts that people have it in: the same dataset, or a sentence."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from data_prep.tables.source import Reading, Source
from data_prep.tables.text import table as text
from tests.data_prep.forms import CSV, NAMES, ROWS, TABLE, lines, put, refusal, written

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
    "unended": CSV.rstrip(),
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
