"""Studies as optuna-dashboard's own application reads them."""

import json
import shutil

import optuna
import pytest
import sqlalchemy as sql
from werkzeug.test import Client

from data_prep.dataset import SAMPLE
from hpo.dashboard import optuna_page
from hpo.storage.address import url_of
from hpo.storage.open import open_storage, open_study
from hpo.study.spec import load
from hpo.study.study import create_study


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database with a new study on the sample. Do not write into it."""
    folder = tmp_path_factory.mktemp("database")
    storage = open_storage(url_of(f"sqlite:///{folder}/hpo.db", folder))
    create_study(storage, spec_of(), runs=folder, fingerprint="f")
    storage.engine.dispose()
    return folder / "hpo.db"


@pytest.fixture
def storage(database, tmp_path):
    """A copy of that database."""
    shutil.copy(database, tmp_path)
    opened = open_storage(url_of(f"sqlite:///{tmp_path}/hpo.db", tmp_path))
    yield opened
    opened.engine.dispose()


@pytest.fixture
def study(storage):
    return open_study(storage, "quick")


def spec_of(*settings):
    return load("quick", settings=[f"data.path={SAMPLE}", *settings])


def seen(storage, number):
    """The study as optuna-dashboard's page is told it."""
    answer = Client(optuna_page.wsgi(storage)).get(f"/api/studies/{number}")
    assert answer.status_code == 200
    return json.loads(answer.text)


def test_the_studies_numbers_are_those_of_the_addresses_and_new_ones_appear(storage, study):
    looking = open_storage(storage.engine.url, reading=True)
    numbers = optuna_page.studies(looking)
    assert numbers == {"quick": study._study_id}
    assert seen(looking, numbers["quick"])["name"] == "quick"

    other = optuna.create_study(study_name="other", storage=storage)
    assert optuna_page.studies(looking) == {"quick": study._study_id, "other": other._study_id}
    looking.engine.dispose()


def test_the_data_that_studies_were_launched_on_is_known(storage, study, tmp_path):
    optuna.create_study(study_name="of another program", storage=storage)
    gone = load("quick", settings=[f"data.path={tmp_path}/gone"], name="gone")
    create_study(storage, gone, runs=tmp_path, fingerprint="f")

    assert optuna_page.data_folders(storage, tmp_path) == [SAMPLE, tmp_path / "gone"]


def test_trials_that_ended_are_not_read_again(storage, study):
    study.add_trial(optuna.trial.create_trial(value=2.0))
    looking = open_storage(storage.engine.url, reading=True)
    application = optuna_page.wsgi(looking)
    asked = []
    sql.event.listen(looking.engine, "before_cursor_execute", lambda *words: asked.append(words[2]))

    def look():
        application._inmemory_cache._trials_last_fetched_at.clear()  # as some seconds later
        Client(application).get(f"/api/studies/{study._study_id}/param_importances")
        return sum("FROM trial_values" in statement for statement in asked)

    first = look()
    assert first > 0
    assert look() == first
    looking.engine.dispose()


def test_what_waits_is_told_and_other_programs_studies_are_passed_over(storage, study, tmp_path):
    looking = open_storage(storage.engine.url, reading=True)
    optuna.create_study(study_name="of another program", storage=storage)
    before = sum(one.waiting for one in optuna_page.progress(looking, tmp_path))

    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING))

    [told] = optuna_page.progress(looking, tmp_path)
    assert (told.study, told.running) == ("quick", ())
    assert told.waiting == before + 1
    looking.engine.dispose()


def test_a_database_that_is_gone_tells_nothing_of_what_waits(storage, tmp_path):
    looking = open_storage(storage.engine.url, reading=True)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE studies RENAME TO elsewhere")

    assert optuna_page.progress(looking, tmp_path) == []
    looking.engine.dispose()
