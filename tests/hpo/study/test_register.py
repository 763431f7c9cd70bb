"""Studies listed, renamed and deleted: all that is theirs and nothing else, through any kill."""

import json
import os
import pty
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import optuna
import pytest
import sqlalchemy as sql
from click.testing import CliRunner
from optuna.trial import TrialState

from hpo.cli import main
from hpo.cluster.jobs import JobState
from hpo.queue.leases import Owner
from hpo.records.folder import read_all
from hpo.records.record import now
from hpo.storage.address import url_of
from hpo.storage.open import open_storage, open_study
from hpo.study import register
from hpo.study.place import WORKERS
from hpo.study.spec import SpecError, load
from hpo.study.study import RENAMING_ATTRIBUTE, blank_record, create_study, slots_of, trial_name
from tests.forks import content_of

KILLED = -9


def fill(storage, runs, name, *, trials=3):
    """A study of so many trials with their folders, one of them pruned."""
    spec = load("quick", name=name)
    study = create_study(storage, spec, runs=runs, fingerprint="f")
    study.set_user_attr("note of a user", "mine")
    slots, us = slots_of(study, spec), Owner.this_process()
    slots.set_total(5)
    slots.add_jobs(["17"])
    (runs / name / WORKERS).mkdir(parents=True)
    (runs / name / WORKERS / "17_log.out").write_text("said")
    for number in range(trials):
        trial = slots.trial_of(claim := slots.claim(us))
        trial.suggest_float("x", 0, 1)
        trial.report(4.5, 1)
        folder = runs / name / trial_name(number)
        record = replace(blank_record(study, number), state="complete", updated=now())
        record.write(folder)
        (folder / "log.txt").write_text("began")
        state = TrialState.PRUNED if number == 1 else TrialState.COMPLETE
        slots.finish(claim, state, None if number == 1 else 4.5 - number)


def rows_of(url):
    """All rows of all tables, of which the keys that count up are left out."""
    engine = sql.create_engine(url)
    tables = sql.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        found = {
            table.name: sorted(
                str([value for name, value in row.items() if not name.endswith("_attribute_id")])
                for row in connection.execute(sql.select(table)).mappings()
            )
            for table in tables.sorted_tables
        }
    engine.dispose()
    return found


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request, empty_database, tmp_path):
    """A database of each kind."""
    if request.param != "sqlite":
        server = request.getfixturevalue(request.param)
        return url_of(server.create(f"t{random.SystemRandom().randrange(10**12)}"), None)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs")
    return url_of(None, tmp_path / "runs")


@pytest.fixture
def project(empty_database, tmp_path):
    """A folder with the studies `old` and `other` in `runs`."""
    runs = tmp_path / "project" / "runs"
    runs.mkdir(parents=True)
    shutil.copy(empty_database, runs)
    storage = open_storage(url_of(None, runs))
    for name, trials in (("other", 1), ("old", 3)):
        fill(storage, runs, name, trials=trials)
    storage.engine.dispose()
    return runs.parent


@pytest.fixture
def storage(url):
    opened = open_storage(url)
    yield opened
    opened.engine.dispose()


def test_a_deleted_study_leaves_nothing_behind(storage, url, tmp_path):
    runs = tmp_path / "runs"
    fill(storage, runs, "kept")
    rows, files = rows_of(url), content_of(runs / "kept")

    fill(storage, runs, "gone")
    assert rows_of(url) != rows
    found = register.belongings(storage, "gone", None)
    register.delete(storage, "gone", None)

    assert (found.trials, found.folder, found.files) == (3, runs / "gone", 7)
    assert rows_of(url) == rows
    assert content_of(runs / "kept") == files
    assert {path.name for path in runs.iterdir() if "hpo.db" not in path.name} == {"kept"}
    assert [one["study"] for one in register.listing(storage, None)] == ["kept"]


def test_a_renamed_study_has_its_new_name_everywhere_and_nothing_else_changes(
    storage, url, tmp_path
):
    runs = tmp_path / "runs"
    fill(storage, runs, "marmot")
    told, files = json.dumps(rows_of(url)), content_of(runs / "marmot")
    records = [record for _, record in read_all(runs)]

    folder = register.rename(storage, "marmot", "badger", None)

    assert folder == runs / "badger"
    mark = json.dumps(str([open_study(storage, "badger")._study_id, RENAMING_ATTRIBUTE, "null"]))
    found = json.dumps(rows_of(url)).replace(f", {mark}", "").replace(f"{mark}, ", "")
    assert found == told.replace("marmot", "badger")
    renamed = [replace(record, study="badger") for record in records]
    assert [record for _, record in read_all(runs)] == renamed
    assert sorted(content_of(folder)) == sorted(files)
    assert not (runs / "marmot").exists()
    spec = load("quick", name="badger")
    assert create_study(storage, spec, runs=runs, fingerprint="f").study_name == "badger"


@pytest.mark.slow
@pytest.mark.parametrize("words", [("delete", "old", "--yes"), ("rename", "old", "new")])
def test_a_command_that_was_killed_anywhere_is_finished_by_the_same_one(
    forks, project, tmp_path, words
):
    for number in (1, 2):  # one trial has as many kinds of moments as three
        shutil.rmtree(project / "runs" / "old" / trial_name(number))
    shutil.copytree(project, tmp_path / "fresh")
    whole = forks.hpo(*words, cwd=project, commits=True)
    assert whole.code == 0, whole.said
    wanted = state_of(project)
    begin = [kind for kind, _ in whole.events].index("os.rename") - 3  # before that it reads
    assert "commit" in [kind for kind, _ in whole.events][-3:]
    done = []

    for number in range(begin, len(whole.events)):
        shutil.rmtree(project)
        shutil.copytree(tmp_path / "fresh", project)
        assert forks.hpo(*words, cwd=project, commits=True, kill_before=number).code == KILLED
        again = forks.hpo(*words, cwd=project)
        done.append("there is no study 'old'" in again.said)
        assert again.code == (2 if done[-1] else 0), again.said
        assert state_of(project) == wanted, whole.events[number]

    assert done == sorted(done)  # the name in the database comes last, but for looks


def state_of(project):
    """Rows and files, without what tells of a rename."""
    rows = rows_of(url_of(None, project / "runs"))
    about = [one for one in rows["study_user_attributes"] if RENAMING_ATTRIBUTE not in one]
    names = {path.name for path in (project / "runs").iterdir()} - {"hpo.db-wal", "hpo.db-shm"}
    files = {name: value for name, value in content_of(project).items() if "hpo.db" not in name}
    return rows | {"study_user_attributes": about}, files, names


def test_a_study_that_is_half_renamed_is_not_launched_and_gets_no_third_name(project):
    storage = open_storage(url_of(None, project / "runs"))
    open_study(storage, "old").set_user_attr(RENAMING_ATTRIBUTE, "new")

    with pytest.raises(SpecError, match="it is half renamed: run hpo rename old new first"):
        create_study(storage, load("quick", name="old"), runs=project / "runs", fingerprint="f")
    with pytest.raises(register.RegisterError, match="half renamed: run hpo rename old new first"):
        register.rename(storage, "old", "third", None)
    register.rename(storage, "old", "new", None)
    register.rename(storage, "new", "third", None)
    assert [one["study"] for one in register.listing(storage, None)] == ["other", "third"]


def hpo(project, *words, code=0):
    at = ("--storage", f"sqlite:///{project}/runs/hpo.db")
    done = CliRunner().invoke(main, [*map(str, words), *at])
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize("words", [("rename", "old", "new"), ("delete", "old", "--yes")])
def test_a_study_with_workers_is_left_alone(project, words):
    before = state_of(project)
    storage = open_storage(url_of(None, project / "runs"))
    study = open_study(storage, "old")
    slots = slots_of(study, load("quick"))
    claim = slots.claim(Owner.this_process())

    said = hpo(project, *words, code=2).stderr

    assert "1 trial in the hands of workers" in said
    assert "hpo stop old --now" in said
    slots.release(claim)
    assert content_of(project / "runs" / "old") == {
        name.removeprefix("runs/old/"): value
        for name, value in before[1].items()
        if name.startswith("runs/old/")
    }
    hpo(project, *words)


def test_a_study_that_waits_in_slurm_is_left_alone(project, monkeypatch):
    waits = {"17": JobState("17", "PENDING", "Priority")}
    monkeypatch.setattr(register, "job_states", lambda jobs: waits if jobs == ["17"] else {})

    said = hpo(project, "delete", "old", "--yes", code=2).stderr

    assert "0 trials in the hands of workers and 1 job in SLURM" in said
    assert (project / "runs" / "old").is_dir()


@pytest.mark.parametrize(
    ("new", "message"),
    [
        pytest.param("other", "there is a study 'other' already", id="taken"),
        pytest.param("of-nobody", "of-nobody is there already: move it away", id="folder"),
        pytest.param("../up", "must be letters, digits", id="path"),
        pytest.param("old", "there is a study 'old' already", id="same"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_has_changed(project, new, message):
    (project / "runs" / "of-nobody").mkdir()
    before = state_of(project)

    assert message in hpo(project, "rename", "old", new, code=2).stderr

    assert state_of(project) == before


def test_a_study_whose_folder_is_gone_can_still_be_deleted_and_its_namesakes_stay(project):
    shutil.rmtree(project / "runs" / "old")
    (project / "runs" / "old").mkdir()
    (project / "runs" / "old" / "thesis.txt").write_text("mine")

    said = hpo(project, "delete", "old", "--yes").stdout

    assert "a folder of its runs is not there" in said
    assert (project / "runs" / "old" / "thesis.txt").read_text() == "mine"
    [left] = json.loads(hpo(project, "studies", "--format", "json").stdout)
    assert left["study"] == "other"


def test_a_folder_that_is_a_link_is_deleted_with_what_it_leads_to(project, tmp_path):
    shutil.move(project / "runs" / "old", tmp_path / "scratch")
    (project / "runs" / "old").symlink_to(tmp_path / "scratch")

    hpo(project, "delete", "old", "--yes")

    assert not (tmp_path / "scratch").exists()
    assert not os.path.lexists(project / "runs" / "old")


def test_a_deletion_asks_and_says_what_it_would_take(project):
    before = state_of(project)
    said = hpo(project, "delete", "old", code=2).stderr
    assert "give --yes" in said
    there = rf"3 trials of old in the database, and {project}/runs/old with 7 files \([\d.]+ kB\)"
    assert re.search(there, said)
    assert state_of(project) == before

    for answer, code, left in (("n", 1, ["other", "old"]), ("y", 0, ["other"])):
        ours, theirs = pty.openpty()
        asking = subprocess.Popen(
            [sys.executable, "-m", "hpo.cli", "delete", "old"],
            cwd=project,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.write(ours, f"{answer}\n".encode())
        said = asking.communicate(timeout=60)[0].decode()
        for end in (ours, theirs):
            os.close(end)
        assert (asking.returncode, "Delete 3 trials of old" in said) == (code, True), said
        storage = open_storage(url_of(None, project / "runs"))
        assert optuna.get_all_study_names(storage) == left


def test_the_listing_tells_of_each_study_how_far_it_is_and_where(project):
    storage = open_storage(url_of(None, project / "runs"))
    optuna.create_study(study_name="of another program", storage=storage).ask()

    rows = json.loads(hpo(project, "studies", "--format", "json").stdout)

    assert rows == json.loads(hpo(project, "status", "--format", "json").stdout)
    one, two, foreign = rows
    assert [one["study"], two["study"]] == ["other", "old"]
    assert (two["ended"], two["trials"], two["best"]) == (3, 5, 2.5)
    assert two["runs"] == str(project / "runs" / "old")
    assert two["active"][:10] == now()[:10]
    assert foreign == dict.fromkeys(one) | {"study": "of another program", "trials": 1}
    shutil.rmtree(project / "runs" / "other")
    assert json.loads(hpo(project, "studies", "--format", "json").stdout)[0]["runs"] is None
