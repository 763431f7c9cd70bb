"""What preparing refuses: bad rows, files, options and output folders, which it never touches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.errors import DataError
from data_prep.preparation import parts, spool
from data_prep.preparation.prepare import prepare
from data_prep.tables import arrow
from data_prep.tables.text import table as text
from data_prep.where import FilterError
from tests.data_prep.test_prepare import HEADER, ROWS, write


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        pytest.param(ROWS, "name,Mass0,Mass_1,Z,alpha", "no column 'Mass_0'.*'Mass0'", id="near"),
        pytest.param(
            ROWS, "name,m,Mass_1,Z,alpha", "no column 'Mass_0'.*--columns", id="missing-column"
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a.csv", None, "does not exist: check the path", id="missing"),
        pytest.param("a.csv", b"Mass_0,Z\r1,2\r", "lines that end in CR", id="carriage-returns"),
        pytest.param("a.parquet", b"Mass_0,Mass_1\n", "is not a Parquet file", id="no-parquet"),
        pytest.param("a.parquet", b"PAR1 and then nothing", "cannot be read", id="cut-parquet"),
        pytest.param("a.parquet", damaged_parquet, "cannot be read", id="damaged-parquet"),
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
