"""Conditions that are texts in pictures and on the command line."""

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from hpo.cli import main
from hpo.pictures import cells
from hpo.pictures.contours import contours
from hpo.pictures.likelihood import animation
from hpo.pictures.maps.divergence import divergence
from hpo.pictures.maps.errors import errors, rows_of_cells
from models import Emulator
from tests.random_flows import CHANNEL, GRID, flow

COLUMNS = (GRID[0], CHANNEL)


@pytest.fixture(scope="module")
def emulator():
    options = {"blocks": 1, "hidden": 8, "bins": 4, "double": False}
    return Emulator(flow(conditions=COLUMNS, **options).requires_grad_(False))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    table = {name: rng.lognormal(2, 0.3, 8_000) for name in ("Mass_0", "Mass_1")}
    table |= {"Z": rng.choice([0.6, 1.2], 8_000), "channel": rng.choice(CHANNEL.categories, 8_000)}
    pq.write_table(pa.table(table), folder / "table.parquet")
    options = {"condition_columns": ("Z", "channel")}
    prepare([folder / "table.parquet"], folder / "prepared", **options)
    return folder / "prepared"


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_rows_are_chosen_by_a_text():
    conditions = np.float32([[0.6, 0], [0.6, 2], [1.2, 2]])

    found = cells.at_conditions(conditions, COLUMNS, {"channel": "SMT"}, "rows")

    assert found.tolist() == [False, True, True]
    with pytest.raises(DataError, match="channel must be one of CE, RLO, SMT, got 'HG'"):
        cells.at_conditions(conditions, COLUMNS, {"channel": "HG"}, "rows")
    wanted = {"Z": 1.2, "channel": "RLO"}
    with pytest.raises(cells.PlotError, match="Z = 1.2, channel = RLO: channel is one of CE, SMT"):
        cells.at_conditions(conditions, COLUMNS, wanted, "rows")


def test_maps_have_texts_along_an_axis(emulator, prepared, tmp_path, seen):
    errors(emulator, prepared, out=tmp_path / "errors.png")
    divergence(emulator, None, conditions={"Z": 0.5, "channel": "CE"}, out=tmp_path / "d.png")
    rows_of_cells(Dataset.read(prepared), out=tmp_path / "rows.png")

    for figure in seen:
        assert ticks(figure.axes[0].yaxis) == ["CE", "RLO", "SMT"]
    assert "channel = CE (framed)" in seen[1].get_suptitle()


def test_contours_are_of_one_text_or_all(emulator, prepared, tmp_path, seen):
    contours(emulator, prepared, conditions={"channel": "RLO"}, out=tmp_path / "c.png")
    contours(emulator, prepared, out=tmp_path / "all.png")

    one, whole = (figure.legends[0].get_title().get_text() for figure in seen)
    assert "test rows, channel = RLO: NLL" in one
    assert "all cells" in whole


def test_a_film_shows_every_text_for_a_second(emulator, tmp_path, monkeypatch):
    monkeypatch.setattr("hpo.pictures.likelihood.PER_SECOND", 1)
    frames = []

    animation(
        emulator,
        conditions={"Z": 1.0},
        step=lambda number, total: frames.append((number, total)),
        out=tmp_path / "film.gif",
    )

    assert frames[-1] == (3, 3)


def test_on_the_command_line_a_text_is_a_word(emulator, tmp_path):
    folder, out = emulator.save(tmp_path / "emulator"), tmp_path / "events.csv"
    words = ["sample", str(folder), "-n", "4", "--Z", "1", "--out", str(out)]

    done = CliRunner().invoke(main, [*words, "--channel", "SMT"])
    refused = CliRunner().invoke(main, [*words, "--channel=HG"])

    assert done.exit_code == 0, done.output
    assert pa_csv.read_csv(out)["channel"].to_pylist() == ["SMT"] * 4
    assert refused.exit_code == 2
    assert "--channel must be one of CE, RLO, SMT, got 'HG'" in refused.output
