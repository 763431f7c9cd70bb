"""What `hpo prepare` tells of each column: a line that fits a terminal, and warnings."""

import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from hpo.cli import main

ROWS = [
    f"{9 + n / 7},{1 / (1 + n / 9)},{n / 20 - 0.5},{0.1 + n},{1 + n % 3},"
    f"{(0.0001, 0.03)[n % 2]},1,{n + 1}"
    for n in range(20)
]
HEADER = "mass_1,mass_ratio,chi_eff,tau,x,Z,alpha,weight"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("\n".join([HEADER, *ROWS]) + "\n")
    return path


def told(table: Path, *words: str) -> str:
    out = table.parent / "out"
    done = CliRunner().invoke(main, ["prepare", str(table), "--out", str(out), *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_each_column_has_a_line_that_says_how_it_was_understood(table):
    output = told(table, "--events", "mass_1,mass_ratio,chi_eff", "--weights", "weight")

    words = [line.split() for line in output.partition("\ncolumn")[2].splitlines()]
    lines = {each[0]: each for each in reversed(words) if each}
    assert lines["mass_1"][1:] == ["event", "Msun", "positive", "9", "to", "11.714", "log"]
    assert lines["mass_ratio"][1:5] == ["event", "-", "[0,", "1]"]
    assert lines["mass_ratio"][-2:] == ["bounded", "probit"]
    assert lines["Z"][1:] == ["condition", "-", "positive", "0.0001", "to", "0.03", "log"]
    assert lines["weight"][1] == "weight"
    assert max(map(len, output.splitlines())) <= 80 or "is ready" in output.splitlines()[-1]


def test_two_masses_are_a_pair_and_an_atom_is_told(table):
    output = told(
        table,
        "--events",
        "mass_1,x",
        "--support",
        "x=positive",
        "--unit",
        "x=Msun",
        "--atom",
        "x=2",
    )

    (line,) = [line for line in output.splitlines() if line.startswith("x ")]
    assert line.split()[-6:] == ["atom", "at", "2,", "else", "log", "ratio"]


def test_texts_of_a_condition_are_told(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{n},{('CE', 'a channel of a long name')[n % 2]}" for n in range(1, 21)]
    path.write_text("\n".join(["m1,channel", *rows]) + "\n")

    output = told(path, "--events", "m1", "--conditions", "channel")

    assert "channel  condition  -     2 texts   CE, a channel of a lo...  one-hot" in output


def test_a_name_that_is_not_known_is_real_and_told_so_with_a_warning_if_positive(table):
    dataset = prepare([table], table.parent / "out", event_columns=["mass_1", "tau"])

    assert dataset.event_columns[1].support == "real"
    assert any(
        note.startswith("tau is no known name") and "--support tau=positive" in note
        for note in dataset.notes
    )
    assert Dataset.read(table.parent / "out").notes == dataset.notes


@pytest.mark.parametrize("said", ["positive", "real", "0:30"])
def test_what_was_said_is_not_asked_again(table, said):
    dataset = prepare(
        [table], table.parent / "out", event_columns=["mass_1", "tau"], support={"tau": said}
    )

    assert not any("tau" in note for note in dataset.notes)


def test_weights_that_are_there_are_told(table):
    with_them = prepare([table], table.parent / "a", event_columns=["mass_1"], weights="weight")
    without = prepare([table], table.parent / "b", event_columns=["mass_1"])

    assert any("pass --weights weight" in note for note in without.notes)
    assert not any("--weights" in note for note in with_them.notes)


def test_a_weight_is_no_event(table):
    with pytest.raises(DataError, match="'weight' is a weight.* --weights weight"):
        prepare([table], table.parent / "out", event_columns=["mass_1", "weight"])


def test_a_unit_that_differs_between_codes_is_asked_for(table):
    renamed = {"columns": {"tau": "t_delay"}, "event_columns": ["mass_1", "t_delay"]}
    open_, said = (
        prepare([table], table.parent / name, **renamed, unit=unit)
        for name, unit in (("a", {}), ("b", {"t_delay": "Gyr"}))
    )

    assert any("pass --unit t_delay=" in note for note in open_.notes)
    assert not any("--unit" in note for note in said.notes)
    assert said.event_columns[1].unit == "Gyr"


@pytest.mark.parametrize(
    ("header", "options", "own"),
    [
        ("Mass(1),Mass(2),Metallicity@ZAMS(1),CE_Alpha", [], None),
        ("m_comp_1,m_comp_2,Z,alpha", ["--where", "Z < 0.1"], None),
        ("mass_1,mass_ratio,Z,alpha", [], None),
        ("mchirp,q,chi_b,alphaCE", ["--split", "0.8,0.1,0.1"], "--events mchirp,q --conditions"),
    ],
)
def test_the_command_that_takes_a_table_by_its_own_names_does(
    tmp_path, monkeypatch, header, options, own
):
    path = tmp_path / "a table.csv"
    rows = [f"{9 + n / 7},{1 / (1 + n / 9)},{(0.0001, 0.03)[n % 2]},1" for n in range(20)]
    path.write_text("\n".join([header, *rows]) + "\n")
    words = ["prepare", str(path), "--out", str(tmp_path / "out"), *options]
    monkeypatch.setattr("sys.argv", ["hpo", *words])

    refused = CliRunner().invoke(main, words)

    assert refused.exit_code == 2
    command = refused.output.strip().rpartition("own names: ")[2]
    assert own is None or own in command
    again = CliRunner().invoke(main, shlex.split(command)[1:])
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(("spread", "due"), [(0.5, False), (2.5, True)], ids=["alike", "uneven"])
def test_few_heavy_rows_are_told(tmp_path, spread, due):
    rng = np.random.default_rng(0)
    columns = {name: rng.lognormal(3, 0.3, 5000) for name in ("Mass_0", "Mass_1")}
    columns |= {"Z": np.full(5000, 0.001), "alpha": np.full(5000, 1.0)}
    columns["weight"] = rng.lognormal(0, spread, 5000)
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")

    dataset = prepare([tmp_path / "t.parquet"], tmp_path / "out", weights="weight")

    told = [note for note in dataset.notes if "of equal weight" in note]
    assert bool(told) == due
    assert all(f"{dataset.effective('train'):,.0f} of equal weight" in note for note in told)
