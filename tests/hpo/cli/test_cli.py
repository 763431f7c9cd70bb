"""The command as a user types it: help, refusals, exit codes, and the path from table to events."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from data_prep.dataset import Dataset
from hpo.cli import main
from hpo.execution.launch import begin
from hpo.execution.plan import make_plan
from hpo.storage.address import url_of
from hpo.study.spec import load

COMMANDS = sorted(main.commands)
RUN = Path(__file__).parents[2] / "data" / "run-schema-1.json"


@pytest.fixture
def hpo(tmp_path, monkeypatch):
    """Run `hpo` in an empty folder: its result has `exit_code`, `stdout` and `stderr`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPO_STORAGE", raising=False)

    def run(*words, code=0):
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result

    return run


def test_help_loads_nothing_heavy():
    probe = (
        "import sys; from hpo.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'optuna', 'pyarrow', 'numpy', 'submitit', 'sqlalchemy', 'matplotlib'}\n"
        "heavy |= {'dash', 'plotly', 'flask', 'werkzeug', 'waitress'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)

    assert done.stderr.strip() == "set()"
    assert "launch" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(hpo, name):
    text = hpo(name, "--help").output

    assert main.commands[name].help.strip().splitlines()[0] in " ".join(text.split())


def groups(group, path=()):
    """A group of commands and all groups in it, with the words that name them."""
    yield path, group
    for name, one in group.commands.items():
        if isinstance(one, click.Group):
            yield from groups(one, (*path, name))


@pytest.mark.parametrize(
    ("path", "group"), [pytest.param(*one, id=" ".join(("hpo", *one[0]))) for one in groups(main)]
)
def test_a_summary_is_one_short_sentence_that_is_not_cut(hpo, monkeypatch, path, group):
    monkeypatch.setenv("COLUMNS", "80")
    told = hpo(*path, "--help").output

    for name, command in group.commands.items():
        summary = command.help.partition("\n\n")[0].strip()
        assert len(summary) <= 60, name
        assert f"{summary}\n" in told


def test_the_shell_completes_commands_and_options(monkeypatch):
    environment = {"COMP_WORDS": "hpo launch --dry", "COMP_CWORD": "2", "PATH": os.environ["PATH"]}
    words = [sys.executable, "-c", "from hpo.cli import main; main(prog_name='hpo')"]
    done = subprocess.run(
        words,
        env=environment | {"_HPO_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "plain,--dry-run\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["prepare", "none.csv", "--out", "p"], "none.csv", id="no-source"),
        pytest.param(["prepare", "x", "--out", "p", "--columns", "a"], "OLD=NEW", id="rename"),
        pytest.param(["prepare", "x", "--out", "p", "--split", "1,2"], "three numbers", id="split"),
        pytest.param(["prepare", "x", "--out", "p", "--names", "a,,b"], "empty name", id="names"),
        pytest.param(["launch", "none.toml"], "the shipped studies are", id="no-study"),
        pytest.param(["launch", "bbh", "--set", "training.epoch=3"], "'epochs'", id="set"),
        pytest.param(
            ["launch", "bbh", "--set", "data.path=none"], "not a prepared dataset", id="no-data"
        ),
        pytest.param(["launch", "bbh", "--storage", "x"], "not a database URL", id="storage"),
        pytest.param(["launch", "thesis", "--trials", "13"], "grid has 12 points", id="grid"),
        pytest.param(["status", "bbh"], "no study database", id="status"),
        pytest.param(["stop", "bbh"], "no study database", id="stop"),
        pytest.param(["logs", "bbh", "3"], "no study database", id="logs"),
        pytest.param(["export", "bbh", "--out", "e"], "no study database", id="export"),
        pytest.param(["runs", "none"], "not a folder", id="runs"),
        pytest.param(["dashboard", "none"], "not a folder", id="dashboard"),
        pytest.param(["evaluate", "none", "sample"], "none", id="evaluate"),
        pytest.param(["sample", "none", "-n", "3", "--out", "x.csv"], "none", id="sample"),
        pytest.param(["plot", "contours", "none", "--out", "x.png"], "none", id="plot"),
        pytest.param(
            ["plot", "none", "contours"], "hpo plot contours none", id="the order of before"
        ),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(hpo, tmp_path, words, message):
    result = hpo(*words, code=2)

    assert message in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_comes_from(hpo, monkeypatch):
    result = CliRunner().invoke(main, ["--debug", "runs", "none"])

    assert result.exception is not None
    assert "not a folder" in str(result.exception)


def test_a_folder_of_texts_without_names_or_conditions_becomes_a_dataset(hpo, table, tmp_path):
    wanted = 0
    for z in (0.0002, 0.001, 0.01):
        rows = [row for row in table.to_pylist() if row["Z"] == z and row["alpha"] == 1]
        (tmp_path / f"runs/Z{z}_alpha1").mkdir(parents=True)
        (tmp_path / f"runs/Z{z}_alpha1/mergers.dat").write_text(
            "".join(f"{row['Mass_0']} {row['Mass_1']}\n" for row in rows)
        )
        wanted += len(rows)
    words = ["runs", "--names", "Mass_0,Mass_1", "--from-path", "Z{Z}_alpha{alpha}"]

    told = json.loads(hpo("prepare", *words, "--out", "prepared", "--format", "json").stdout)[0]

    assert wanted > 0
    assert (told["rows"], told["cells"]) == (wanted, 2)


def test_a_table_becomes_a_dataset_and_says_how_large(hpo, table, tmp_path):
    pyarrow.csv.write_csv(table, tmp_path / "mergers.csv")

    told = json.loads(
        hpo(
            "prepare",
            "mergers.csv",
            "--out",
            "prepared",
            "--where",
            "Z < 0.005",
            "--format",
            "json",
        ).stdout
    )[0]

    kept = sum(z < 0.005 for z in table["Z"].to_pylist())
    assert told["rows"] == told["train"] + told["val"] + told["test"] == kept
    assert told["dropped"] == table.num_rows - kept
    assert told["bytes before"] == (tmp_path / "mergers.csv").stat().st_size
    files = list((tmp_path / "prepared").glob("*/*.parquet"))
    assert told["bytes after"] == sum(path.stat().st_size for path in files)
    assert sum(pq.read_metadata(path).num_rows for path in files) == kept


@pytest.fixture(scope="module")
def studied(forks, tmp_path_factory, prepared):
    """A working folder with a finished study of two trials on `prepared` and its emulator."""
    folder = tmp_path_factory.mktemp("studied")
    spec, url = load("quick", settings=[f"data.path={prepared}"]), f"sqlite:///{folder}/runs/hpo.db"
    begin(
        make_plan(
            spec,
            trials=2,
            workers=1,
            on="local",
            runs=folder / "runs",
            url=url_of(url, folder / "runs"),
        )
    )
    del os.environ["HPO_STORAGE"]  # which `begin` has set
    for done in (
        forks.work("quick", folder / "runs", cwd=folder),
        forks.hpo("export", "quick", "--out", "emulator", cwd=folder),
    ):
        assert done.code == 0, done.said
    return folder


def test_a_listing_without_runs_says_so_and_is_still_one_for_a_program(hpo, tmp_path):
    (tmp_path / "runs").mkdir()
    empty = {style: hpo("runs", "--format", style) for style in ("table", "json", "csv", "latex")}

    assert {done.stderr for done in empty.values()} == {
        "no runs in runs: name the folder that hpo launch tells\n"
    }
    assert empty["table"].stdout == ""
    assert json.loads(empty["json"].stdout) == []
    assert empty["csv"].stdout.startswith("study,trial,state,epochs,best_epoch,best_val_nll")
    assert hpo("runs", "--where", "blocks > 2", "--sort", "blocks").stdout == ""

    shutil.copy(RUN, tmp_path / "runs" / "run.json")
    some = hpo("runs", "--where", "epochs > 1000000", "--format", "csv")
    assert some.stderr == "of 1 run in runs none is as asked\n"
    assert "fingerprint" in some.stdout.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("runs", "RUNS"), id="runs"),
        pytest.param(("runs", "RUNS", "--differing"), id="differing"),
        pytest.param(("studies", "--runs", "RUNS"), id="studies"),
        pytest.param(("status", "quick", "--runs", "RUNS"), id="status"),
        pytest.param(("describe", "sample"), id="data"),
        pytest.param(("describe", "EMULATOR"), id="emulator"),
        pytest.param(("evaluate", "EMULATOR", "DATA"), id="evaluate"),
        pytest.param(("evaluate", "EMULATOR", "DATA", "--against", "EMULATOR"), id="against"),
        pytest.param(("doctor",), id="doctor"),
    ],
)
def test_what_a_command_lists_fits_80_columns(hpo, studied, prepared, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(studied)
    places = {"RUNS": "runs", "EMULATOR": "emulator", "DATA": prepared}

    lines = hpo(*(places.get(word, word) for word in words)).stdout.splitlines()

    assert lines
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.slow
def test_status_logs_and_runs_tell_of_the_study(hpo, studied):
    at = ("--runs", studied / "runs")

    told = hpo("status", "quick", *at).stdout
    assert "2 of 2 trials done" in told
    assert told.endswith(f"more: hpo launch quick --runs {at[1]} --trials 4\n")
    assert hpo("status", "quick", "--watch", *at).stdout == hpo("status", "quick", *at).stdout
    assert json.loads(hpo("status", *at, "--format", "json").stdout)[0]["trials"] == 2
    assert "epoch 3: train" in hpo("logs", "quick", 1, *at).stdout
    assert hpo("logs", "quick", "best", "--follow", *at).stdout.startswith("20")
    assert "trial 9 has not begun" in hpo("logs", "quick", 9, *at, code=2).stderr
    rows = json.loads(hpo("runs", studied / "runs", "--format", "json").stdout)
    assert [row["trial"] for row in rows] == [0, 1]
    some = hpo("runs", studied / "runs", "--where", "trial > 0", "--format", "json").stdout
    assert [row["trial"] for row in json.loads(some)] == [1]
    assert "\\begin{tabular}" in hpo("runs", studied / "runs", "--format", "latex").stdout


@pytest.mark.slow
def test_the_emulator_is_evaluated_sampled_and_drawn(hpo, studied, prepared, tmp_path):
    emulator = studied / "emulator"

    found = json.loads(hpo("evaluate", emulator, prepared, "--format", "json").stdout)
    assert found["cells"]
    worst = hpo("evaluate", emulator, prepared, "--worst", 1).stdout
    assert "further from the data than chance explains" in " ".join(worst.split())
    assert f"... and {len(found['cells']) - 1} cell" in worst
    assert found["test_nll"]["rows"] == Dataset.read(prepared).rows["test"]
    beside = hpo("evaluate", emulator, prepared, "--against", emulator).stdout
    assert "C2ST AUC" in beside
    assert "difference" in beside
    csv = hpo("evaluate", emulator, prepared, "--against", emulator, "--format", "csv").stdout
    table = pyarrow.csv.read_csv(io.BytesIO(csv.encode()))
    names = ["Z", "alpha", "measure", str(emulator), f"{emulator} again", "difference"]
    assert set(names) <= set(table.column_names)
    assert table["Z"].null_count < table.num_rows
    latex = hpo("evaluate", emulator, prepared, "--format", "latex").stdout
    assert latex.count("\\begin{tabular}") == 2

    ask = ("sample", emulator, "-n", 50, "--seed", 3, "--Z", "0.001", "--alpha=1.0", "--out")
    hpo(*ask, "a.parquet")
    hpo(*ask, "b.csv")
    drawn = pq.read_table(tmp_path / "a.parquet")
    assert drawn.column_names == ["Mass_0", "Mass_1", "Z", "alpha"]
    assert drawn.num_rows == 50
    assert drawn.equals(pyarrow.csv.read_csv(tmp_path / "b.csv").cast(drawn.schema))

    grid = ("sample", emulator, "-n", 2, "--seed", 3, "--Z", "0.0002,0.001", "--alpha", "1,3")
    text = hpo(*grid, "--out", "-").stdout_bytes
    drawn = pyarrow.csv.read_csv(io.BytesIO(text))
    points = list(zip(drawn["Z"].to_pylist(), drawn["alpha"].to_pylist(), strict=True))
    assert points[::2] == [(0.0002, 1), (0.0002, 3), (0.001, 1), (0.001, 3)]
    assert drawn.num_rows == 8
    told = hpo("sample", emulator, "--help").stdout
    assert "--Z NUMBER" in told
    assert "--alpha NUMBER" in told

    at = ("--runs", studied / "runs")
    hpo("plot", "contours", emulator, "--data", prepared, "--out", "c.png")
    hpo("plot", "losses", "quick", "--out", "l.svg", *at)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "l.svg").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--Z", "0.001"], "give --alpha", id="missing"),
        pytest.param(["--Z", "0.001", "--alhpa", "1"], "did you mean '--alpha'", id="typo"),
        pytest.param(["--Z", "low", "--alpha", "1"], "--Z must be a number", id="text"),
        pytest.param(["--alpha"], "--alpha needs a value", id="no-value"),
    ],
)
def test_a_condition_given_wrong_is_explained(hpo, studied, words, message):
    ask = ("sample", studied / "emulator", "-n", 5, "--out", "x.csv")

    assert message in hpo(*ask, *words, code=2).stderr


@pytest.mark.slow
def test_an_export_takes_the_best_or_the_trial_asked_for(hpo, studied, tmp_path):
    at = ("--runs", studied / "runs")
    rows = json.loads(hpo("runs", studied / "runs", "--best", "--format", "json").stdout)

    said = hpo("export", "quick", "--out", "e", *at).stdout
    assert f"trial {rows[0]['trial']} of quick" in said
    assert "good for: not measured: the val rows of 1 cell inside of the domain make fewer" in said
    assert json.loads((tmp_path / "e/run.json").read_text())["trial"] == rows[0]["trial"]
    card = json.loads((tmp_path / "e/emulator.json").read_text())
    card["provenance"]["trial"] = 7
    (tmp_path / "e/emulator.json").write_text(json.dumps(card))
    said = hpo("export", "quick", "--out", "e", *at, code=2).stderr
    assert "e holds another emulator (trial 7 of quick, test NLL " in said
    assert json.loads((tmp_path / "e/emulator.json").read_text()) == card
    said = hpo("export", "quick", "--out", "e", "--overwrite", *at).stdout
    assert "replaced: trial 7 of quick, test NLL " in said
    words = ("--licence", "CC-BY-4.0", "--author", "A", "--author", "B", "--cite", "us")
    hpo("export", "quick", "--out", "e", *words, *at)
    card = json.loads((tmp_path / "e/emulator.json").read_text())
    assert (card["license"], card["authors"], card["citation"]) == ("CC-BY-4.0", ["A", "B"], ["us"])
    said = hpo("export", "quick", "--out", "f", "--license", "ask!", *at, code=2).stderr
    assert "must be an SPDX identifier" in said
    said = hpo("export", "quick", "--out", studied, *at, code=2).stderr
    assert "studied" in said
    assert (
        "has no trial 9" in hpo("export", "quick", "--out", "f", "--trial", 9, *at, code=2).stderr
    )
    said = hpo("export", "quick", "--out", "f", "--max-cost", 1, *at, code=2).stderr
    assert "at most 1 FLOPs per event" in said
    said = hpo("export", "quick", "--out", "f", "--trial", 0, "--ensemble", 2, *at, code=2).stderr
    assert "either --trial or --ensemble" in said
    said = hpo("export", "quick", "--out", "f", "--ensemble", 9, *at, code=2).stderr
    assert "too few for an ensemble of 9" in said


def test_a_dry_run_for_slurm_needs_no_slurm_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["launch", "quick", "--on", "slurm", "--workers", "3", "--dry-run"]

    said = CliRunner().invoke(main, [*words, "--runs", str(tmp_path / "runs")])

    assert said.exit_code == 0, said.output
    assert "#SBATCH --array=0-2%3" in said.output
    assert not (tmp_path / "runs").exists()
