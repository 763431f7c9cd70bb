"""The best trial is the database's: where the folder of runs says otherwise, a sentence says so."""

import json
import re
import shutil

import optuna
import pytest
from click.testing import CliRunner

from hpo.cli import main
from hpo.records.folder import read
from hpo.records.record import NAME
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.enqueue import best_points

pytestmark = pytest.mark.slow


class Ran:
    """A folder of runs of the study `s`, of which two trials were run."""

    def __init__(self, runs):
        self.runs, self.folder = runs, runs / "s"
        self.storage = open_storage(url_of(None, runs))
        self.study = optuna.load_study(study_name="s", storage=self.storage)
        self.best, self.other = (
            self.folder / f"trial-{one.number:05d}"
            for one in sorted(self.study.trials, key=lambda one: one.value)
        )

    def hpo(self, *words, code=0):
        found = CliRunner().invoke(main, [*words, "--runs", str(self.runs)])
        assert found.exit_code == code, found.output
        return found.output.replace("\n", " ")

    def export(self, *words, code=0, name="s"):
        words = ("--out", str(self.runs / "emulator"), "--overwrite", *words)
        return self.hpo("export", name, *words, code=code)

    def exported(self):
        return self.runs / "s" / f"trial-{read(self.runs / 'emulator' / NAME).trial:05d}"

    def status(self):
        return json.loads(self.hpo("status", "s", "--format", "json"))["best_trial"]


@pytest.fixture
def runs(ran, tmp_path):
    found = Ran(shutil.copytree(ran, tmp_path / "runs"))
    yield found
    found.storage.engine.dispose()


def number(folder):
    return int(folder.name[-5:])


def test_with_the_folder_of_the_best_away_no_other_one_is_taken_for_it(runs, tmp_path):
    runs.best.rename(tmp_path / "away")

    said = runs.export(code=2)

    assert runs.status() == number(runs.best)
    assert f"trial {number(runs.best)} of 's' has the NLL " in said
    assert f"{runs.best / NAME} is not there" in said
    assert "too few" not in runs.export("--ensemble", "2", code=2)
    assert "is not there" in runs.export("--max-cost", "999999999", code=2)
    assert not (runs.runs / "emulator").exists()
    remedy = re.search(r"export the best that is there by (--trial \d+)", said)[1].split()
    runs.export(*remedy)
    assert runs.exported() == runs.other
    (tmp_path / "away").rename(runs.best)
    runs.export()
    assert runs.exported() == runs.best


@pytest.mark.parametrize(
    "change",
    [{"best_val_nll": 0.25}, {"trial": 7}, {"state": "running"}],
    ids=["value", "number", "state"],
)
def test_a_record_that_says_otherwise_is_not_exported(runs, change):
    stored = json.loads((runs.best / NAME).read_text())
    (runs.best / NAME).write_text(json.dumps(stored | change))

    said = runs.export(code=2)

    assert f"{runs.best / NAME} is of trial" in said
    assert f"by --trial {number(runs.other)}" in said
    assert "is of trial" in runs.export("--trial", str(number(runs.best)), code=2)


def test_a_value_that_another_program_told_ranks_as_any(runs):
    asked = runs.study.ask()
    asked.suggest_categorical("hidden", [4])
    runs.study.tell(asked, 0.5)

    said = runs.export(code=2)

    assert runs.status() == asked.number
    assert f"trial {asked.number} of 's' has the NLL 0.5 in the database" in said
    assert f"by --trial {number(runs.best)}" in said
    assert best_points(runs.study, 1) == [asked.params]


def test_a_copy_of_a_study_has_no_runs_until_they_are_copied_too(runs):
    optuna.copy_study(
        from_study_name="s",
        from_storage=runs.storage,
        to_storage=runs.storage,
        to_study_name="copy",
    )

    assert "the folder of the study 'copy' is not in" in runs.export(code=2, name="copy")

    shutil.copytree(runs.folder, runs.runs / "copy")
    runs.export(name="copy")
    assert runs.exported() == runs.best
