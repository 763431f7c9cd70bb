"""A project that was moved, or whose runs were copied, answers the same commands as before."""

import json
import os
import shutil

import optuna
import pytest
import sqlalchemy as sql

from hpo.dashboard.optuna_page import data_folders
from hpo.execution.launch import begin
from hpo.execution.plan import make_plan
from hpo.records.folder import read_all
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.place import DATABASE_ATTRIBUTE, RUNS_ATTRIBUTE
from hpo.study.spec import load

pytestmark = pytest.mark.slow

STUDY = """
[study]
name = "tiny"
trials = 3

[data]
path = "{data}"

[space]
components = [4, 8]

[training]
epochs = 2
batch_size = 512

[pruner]
kind = "none"
"""


@pytest.fixture(scope="module")
def trained(forks, prepared, tmp_path_factory):
    """A project with its data and a study of which two trials ran, moved away from its place."""
    place = tmp_path_factory.mktemp("first") / "project"
    shutil.copytree(prepared, place / "prepared")
    (place / "tiny.toml").write_text(STUDY.format(data="prepared"))
    spec = load(str(place / "tiny.toml"), settings=[f"data.path={place / 'prepared'}"])
    runs = place / "runs"
    begin(make_plan(spec, trials=2, workers=1, on="local", runs=runs, url=url_of(None, runs)))
    del os.environ["HPO_STORAGE"]  # which `begin` has set
    assert forks.work("tiny", runs, cwd=place).code == 0
    return shutil.move(place, tmp_path_factory.mktemp("second") / "kept")


def moved(trained, place):
    return shutil.copytree(trained, place / "new" / "project")


def of_the_last_version(trained, place):
    """A study that knows no more than the path in which its runs were."""
    new = shutil.copytree(trained, place / "new" / "project")
    engine = sql.create_engine(f"sqlite:///{new}/runs/hpo.db")
    with engine.begin() as connection:
        text = sql.text("DELETE FROM study_user_attributes WHERE key = :key")
        assert connection.execute(text, {"key": DATABASE_ATTRIBUTE}).rowcount == 1
    engine.dispose()
    return new


def runs_copied(trained, place):
    """The runs alone, on another machine; the data are in another place."""
    shutil.copytree(trained / "runs", place / "runs")
    (place / "tiny.toml").write_text(STUDY.format(data=trained / "prepared"))
    return place


@pytest.mark.parametrize("how", [moved, of_the_last_version, runs_copied])
def test_every_command_goes_on_where_the_runs_are_now(forks, trained, tmp_path, how):
    place = how(trained, tmp_path)

    def hpo(*words):
        done = forks.hpo(*words, cwd=place)
        assert done.code == 0, done.said
        return done.said

    assert "2 of 2 trials done" in hpo("status", "tiny")
    assert json.loads(hpo("status", "tiny", "--format", "json"))["runs"] == str(place / "runs/tiny")
    assert "epoch 2: train" in hpo("logs", "tiny", 1)
    assert "trial" in hpo("export", "tiny", "--out", "emulator")
    hpo("plot", "losses", "tiny", "--out", "losses.png")
    more = how is moved  # a worker takes seconds to start
    if more:
        (place / "points.json").write_text('[{"components": 8}]')
        assert "tried next, as trial 2" in hpo("enqueue", "tiny", "points.json")

    said = hpo("launch", "tiny.toml", "--workers", 1, "--trials", 2 + more)

    assert f"{2 + more} of {2 + more} trials done ({2 + more} complete" in said
    trials = [path.name for path in (place / "runs" / "tiny").glob("trial-*")]
    assert sorted(trials) == [f"trial-0000{number}" for number in range(2 + more)]
    study = optuna.load_study(study_name="tiny", storage=open_storage(url_of(None, place / "runs")))
    assert study.user_attrs[RUNS_ATTRIBUTE] == str(place / "runs")


def test_the_data_that_moved_with_the_runs_are_found_again(forks, trained, tmp_path):
    place = moved(trained, tmp_path)
    [record, _] = [record for _, record in read_all(place / "runs")]
    assert not os.path.exists(record.data.path)

    assert forks.hpo("export", "tiny", "--out", "emulator", cwd=place).code == 0
    card = json.loads((place / "emulator" / "emulator.json").read_text())
    assert card["provenance"]["data"]["cells"] == 9  # from the dataset itself
    assert forks.hpo("plot", "contours", "emulator", "--out", "c.png", cwd=place).code == 0
    run = "runs/tiny/trial-00000/run.json"
    said = forks.hpo("rerun", run, cwd=place).said
    assert "the same: every NLL and every weight, bit for bit" in said
    storage = open_storage(url_of(None, place / "runs"), reading=True)
    assert data_folders(storage, place / "runs") == [place / "prepared"]


def test_a_log_that_is_not_there_is_told_from_a_trial_that_has_not_begun(forks, trained, tmp_path):
    place = moved(trained, tmp_path)
    (place / "runs" / "tiny" / "trial-00001" / "log.txt").unlink()

    said = {number: forks.hpo("logs", "tiny", number, cwd=place) for number in (1, 2)}

    assert said[1].code == said[2].code == 2
    path = place / "runs" / "tiny" / "trial-00001" / "log.txt"
    assert f"trial 1 has begun, but {path} is not there" in said[1].said
    assert "trial 2 has not begun: 2 of tiny have" in said[2].said

    shutil.rmtree(place / "runs" / "tiny")
    done = forks.hpo("logs", "tiny", 1, cwd=place)
    assert done.code == 2
    assert f"the folder of the study 'tiny' is not in {place / 'runs'}" in done.said
    done = forks.hpo("status", "tiny", cwd=place)
    assert (done.code, "2 of 2 trials done" in done.said) == (0, True)
    assert "Note: the folder of the study 'tiny' is not in" in done.said
