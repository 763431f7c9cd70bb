"""Where a study's runs are found after its project, its runs or its database were moved."""

import shutil

import pytest

from hpo.queue.leases import Owner
from hpo.queue.slots import Slots
from hpo.storage.address import url_of
from hpo.storage.open import open_storage, open_study
from hpo.study.place import (
    DATABASE_ATTRIBUTE,
    RUNS_ATTRIBUTE,
    PlaceError,
    folder_of,
    runs_of_launch,
)
from hpo.study.spec import load
from hpo.study.study import create_study, trial_name


def url_in(project, database):
    return url_of(f"sqlite:///{project / database}", None)


@pytest.fixture
def begun(empty_database):
    """Makes a study in `project/runs` of which so many trials have begun; all runs."""

    def made(project, database, *, trials=1):
        file = project / database
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty_database, file)
        return filled(project / "runs", url_in(project, database), trials)

    return made


def filled(runs, url, trials):
    storage = open_storage(url)
    study = create_study(storage, load("quick"), runs=runs, fingerprint="f")
    slots = Slots(study, max_restarts=3)
    slots.set_total(2)
    for _ in range(trials):
        claim = slots.claim(Owner.this_process())
        (runs / "quick" / trial_name(claim.number)).mkdir(parents=True)
    runs.mkdir(exist_ok=True)
    storage.engine.dispose()
    return runs


def found(url, told=None):
    storage = open_storage(url, reading=True)
    try:
        return folder_of(storage, open_study(storage, "quick"), told)
    finally:
        storage.engine.dispose()


DATABASES = pytest.mark.parametrize("database", ["runs/hpo.db", "hpo.db", "data/bases/hpo.db"])


@DATABASES
@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_project_that_was_moved_or_copied_has_its_runs_where_it_is_now(
    begun, tmp_path, database, how
):
    begun(tmp_path / "old", database)
    new = tmp_path / "elsewhere" / "deeper" / "new"

    how(tmp_path / "old", new)

    assert found(url_in(new, database)) == new / "runs" / "quick"
    assert runs_of_launch(url_in(new, database), "quick", None) == new / "runs"


@DATABASES
def test_the_attribute_of_an_older_version_follows_the_database_or_the_option(
    begun, tmp_path, database
):
    begun(tmp_path / "old", database)
    storage = open_storage(url_in(tmp_path / "old", database))
    open_study(storage, "quick").set_user_attr(DATABASE_ATTRIBUTE, None)
    storage.engine.dispose()
    assert found(url_in(tmp_path / "old", database)) == tmp_path / "old" / "runs" / "quick"
    new = shutil.move(tmp_path / "old", tmp_path / "new")

    told = None if database == "runs/hpo.db" else new / "runs"
    assert found(url_in(new, database), told) == new / "runs" / "quick"


def test_a_database_that_alone_was_copied_knows_where_the_runs_stayed(begun, tmp_path):
    runs = begun(tmp_path, "runs/hpo.db")
    (tmp_path / "node").mkdir()
    shutil.copy(runs / "hpo.db", tmp_path / "node")

    assert found(url_in(tmp_path, "node/hpo.db")) == runs / "quick"


def test_a_folder_that_has_but_the_name_of_the_study_is_not_its_own(begun, tmp_path):
    runs = begun(tmp_path, "hpo.db")
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "notes.txt").touch()

    assert found(url_in(tmp_path, "hpo.db")) == runs / "quick"


def test_the_runs_that_are_told_win_where_the_study_is(begun, tmp_path):
    runs = begun(tmp_path, "runs/hpo.db")
    shutil.copytree(runs, tmp_path / "copy")

    assert found(url_in(tmp_path, "runs/hpo.db"), tmp_path / "copy") == tmp_path / "copy" / "quick"


def test_runs_told_where_the_study_is_not_are_refused_with_the_place_where_it_is(begun, tmp_path):
    runs = begun(tmp_path, "runs/hpo.db")

    with pytest.raises(PlaceError) as refused:
        found(url_in(tmp_path, "runs/hpo.db"), tmp_path / "empty")

    assert f"{tmp_path / 'empty'} has no folder of the study 'quick', which is in {runs}" in str(
        refused.value
    )


@pytest.mark.parametrize("told", [False, True])
def test_a_folder_that_is_nowhere_is_told_with_a_remedy_that_works(begun, tmp_path, told):
    runs = begun(tmp_path, "hpo.db")
    shutil.move(runs, tmp_path / "away")
    option = tmp_path / "typo" if told else None

    with pytest.raises(PlaceError, match="the folder of the study 'quick' is not in") as refused:
        found(url_in(tmp_path, "hpo.db"), option)

    looked = [runs, tmp_path, *([option] if option else [])]
    assert all(str(one) in str(refused.value) for one in looked)
    assert found(url_in(tmp_path, "hpo.db"), tmp_path / "away") == tmp_path / "away" / "quick"
    remedy = str(refused.value).partition("mkdir -p ")[2].partition(" goes on")[0]
    assert refused.value.folder in (tmp_path / remedy).parents
    (tmp_path / remedy).mkdir(parents=True)
    assert found(url_in(tmp_path, "hpo.db")) == runs / "quick"


def test_a_study_of_which_nothing_has_begun_has_its_runs_where_the_launch_says(
    begun, tmp_path, monkeypatch
):
    runs = begun(tmp_path, "hpo.db", trials=0)
    monkeypatch.chdir(tmp_path)
    url = url_in(tmp_path, "hpo.db")
    assert runs_of_launch(url, "quick", tmp_path / "other") == tmp_path / "other"
    assert runs_of_launch(url, "quick", None) == runs

    (tmp_path / "new").mkdir()
    shutil.move(tmp_path / "hpo.db", tmp_path / "new")
    shutil.rmtree(runs)
    monkeypatch.chdir(tmp_path / "new")
    assert (
        runs_of_launch(url_in(tmp_path, "new/hpo.db"), "quick", None) == tmp_path / "new" / "runs"
    )


def test_the_next_launch_stores_where_the_runs_are_now(begun, tmp_path):
    begun(tmp_path / "old", "runs/hpo.db")
    new = shutil.move(tmp_path / "old", tmp_path / "new")
    storage = open_storage(url_in(new, "runs/hpo.db"))

    study = create_study(storage, load("quick"), runs=new / "runs", fingerprint="f")

    stored = {key: study.user_attrs[key] for key in (RUNS_ATTRIBUTE, DATABASE_ATTRIBUTE)}
    assert set(stored.values()) == {str(new / "runs")}


def test_the_runs_of_a_server_are_where_they_were_or_where_one_is_told(database, tmp_path):
    url = url_of(database, None)
    filled(tmp_path / "runs", url, 1)
    assert found(url) == tmp_path / "runs" / "quick"

    shutil.move(tmp_path / "runs", tmp_path / "moved")

    with pytest.raises(PlaceError, match=f"is not in {tmp_path / 'runs'}: bring it back"):
        found(url)
    assert found(url, tmp_path / "moved") == tmp_path / "moved" / "quick"
