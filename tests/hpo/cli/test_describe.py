"""`hpo describe`: columns, parts and cells of a dataset or an emulator, as tables and a picture."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_prep.dataset import SAMPLE, Cell, Dataset
from data_prep.preparation.prepare import prepare
from hpo.cli import main
from hpo.emulator import description
from hpo.pictures.maps.errors import rows_of_cells
from hpo.pictures.style import PlotError

EMULATORS = Path(__file__).parents[2] / "data"


def told(*words: object) -> str:
    done = CliRunner().invoke(main, ["describe", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def weighted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weighted")
    rows = [f"{9 + n / 7},{n % 3 / 2},{(0.0001, 0.03)[n % 2]},{1 + n % 2}" for n in range(200)]
    (folder / "t.csv").write_text("\n".join(["m1,spin_1,Z,w", *rows]) + "\n")
    prepare(
        [folder / "t.csv"],
        folder / "out",
        event_columns=["m1", "spin_1"],
        condition_columns=["Z"],
        weights="w",
    )
    return folder / "out"


def scattered() -> Dataset:
    boxes = [((0.0001 * 2**k, 0.0002 * 2**k), (a, a)) for k in range(4) for a in (0.5, 3.0)]
    cells = [Cell((box[0][0], box[1][0]), 600, 200, 200, box=box) for box in boxes]
    rows = {"train": 4800, "val": 1600, "test": 1600}
    sample = Dataset.read(SAMPLE)
    return dataclasses.replace(sample, scattered=True, cells=tuple(cells), rows=rows)


def test_a_dataset_is_told_in_tables(weighted):
    output = told(weighted)

    lines = [line.split() for line in output.splitlines()]
    assert "200 rows in 2 cells, of t.csv" in " ".join(output.split())
    assert ["spin_1", "event", "-", "[0,", "1]", "0", "to", "1", "bounded", "probit"] in lines
    assert ["w", "weight", "-", "positive", "1", "to", "2", "-"] in lines
    assert ["part", "rows", "effective", "rows", "mean", "weight"] in lines
    assert any(line[:2] == ["0.0001", "100"] and line[-1] == "100" for line in lines)
    assert "Note: spin_1 has 3 distinct values, whole steps of 0.5 apart" in output
    wide = [line for line in output.splitlines() if len(line) > 80]
    assert all(line.startswith(("Note", str(weighted))) for line in wide)


def test_json_holds_everything(weighted):
    found = json.loads(told(weighted, "--format", "json"))
    dataset = Dataset.read(weighted)

    assert [part["effective rows"] for part in found["parts"]] == [
        round(dataset.effective(part["part"]), 1) for part in found["parts"]
    ]
    assert [cell["rows"] for cell in found["cells"]] == [cell.rows for cell in dataset.cells]
    assert found["columns"][0]["lowest"] == 9
    assert found["notes"] == list(dataset.notes)
    assert found["fingerprint"] == dataset.fingerprint


def test_csv_is_the_table_of_cells():
    rows = list(csv.DictReader(io.StringIO(told("sample", "--format", "csv"))))

    cells = Dataset.read(SAMPLE).cells
    assert [(float(row["Z"]), float(row["alpha"])) for row in rows] == [c.conditions for c in cells]
    assert [int(row["test"]) for row in rows] == [cell.test for cell in cells]


def test_regions_are_told_by_their_ends(tmp_path):
    dataset = scattered()
    dataset.write(tmp_path)

    rows = list(csv.DictReader(io.StringIO(told(tmp_path, "--format", "csv"))))
    assert rows[1] == {
        "Z lowest": "0.0001", "Z highest": "0.0002", "alpha lowest": "3.0", "alpha highest": "3.0",
        "rows": "1000", "train": "600", "val": "200", "test": "200",
    }  # fmt: skip
    output = told(tmp_path)
    assert "in 8 regions" in " ".join(output.split())
    assert "0.0001 to 0.0002" in output
    assert "regions" in json.loads(told(tmp_path, "--format", "json"))


@pytest.mark.parametrize(("name", "flows"), [("1-affine", "one flow"), ("2-ensemble", "2 flows")])
def test_an_emulator_is_told_without_torch(name, flows):
    output = told(EMULATORS / f"emulator-{name}")

    assert f"an emulator, {flows}" in output
    assert "Z       condition  -     positive  0.5 to 2" in output


@pytest.mark.parametrize("broken", [{}, {"architecture": {}}, {"architecture": {"members": 1}}])
def test_a_card_that_describes_no_flow_is_refused(tmp_path, broken):
    card = json.loads((EMULATORS / "emulator-1-affine" / "emulator.json").read_text())
    del card["architecture"]
    (tmp_path / "emulator.json").write_text(json.dumps(card | broken))

    done = CliRunner().invoke(main, ["describe", str(tmp_path)])

    assert done.exit_code == 2
    assert "describes no flow" in done.output


def test_a_folder_of_neither_is_refused(tmp_path):
    done = CliRunner().invoke(main, ["describe", str(tmp_path)])

    assert done.exit_code == 2
    assert "is neither a prepared dataset (it has no dataset.json) nor an emulator" in done.output


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_shows_the_rows_of_each_cell(tmp_path, suffix):
    out = tmp_path / f"cells{suffix}"

    output = told("sample", "--picture", out)

    assert str(out) in output
    text = out.read_bytes()
    assert suffix == ".png" or (b">6143<" in text and b">1<" in text)


@pytest.mark.parametrize("columns", [None, ["Z"], ["alpha"]])
def test_regions_are_drawn_where_they_are(tmp_path, columns):
    out = rows_of_cells(scattered(), columns=columns, out=tmp_path / "regions.svg")

    assert "8 regions, 8,000 rows" in out.read_text()


def test_a_picture_of_no_condition_is_refused(tmp_path):
    with pytest.raises(PlotError, match="there is no condition 'Mass_0'"):
        rows_of_cells(Dataset.read(SAMPLE), columns=["Mass_0"], out=tmp_path / "a.png")


def test_the_counts_of_a_grid_stand_in_one_and_thin_cells_are_named():
    sample = Dataset.read(SAMPLE)

    rows = description.grid(sample)

    assert list(rows[0])[:2] == ["Z", "alpha 0.5"]
    counted = sum(value for row in rows for name, value in row.items() if name != "Z")
    assert counted == sum(sample.rows.values())
    few = [cell for cell in sample.cells if cell.test < 200]
    said = description.thin(sample) or ""
    assert said.startswith(f"{len(few)} of {len(sample.cells)} cells have fewer than 200 test rows")
    least = min(few, key=lambda cell: cell.test)
    assert f"alone: Z = {least.conditions[0]:g}, alpha = {least.conditions[1]:g}" in said


def test_regions_have_no_grid():
    assert description.grid(scattered()) == []
    assert description.thin(scattered()) is None
