"""A table of many files: folders, and columns that are read from the names of files."""

from __future__ import annotations

import lzma
import subprocess

import pyarrow.parquet as pq
import pytest

from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from data_prep.tables.source import Reading
from tests.data_prep.forms import CSV, ROWS, TABLE, put, refusal, written


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
