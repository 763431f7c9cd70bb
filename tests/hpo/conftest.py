"""A new database in the folder of a test, as a copy: to make Optuna's tables takes a second."""

import shutil

import pytest

from hpo.storage.address import url_of
from hpo.storage.open import open_storage


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A SQLite file with Optuna's tables and no study. Do not write into it."""
    folder = tmp_path_factory.mktemp("empty")
    storage = open_storage(url_of(f"sqlite:///{folder}/hpo.db", folder))
    storage.engine.dispose()
    return folder / "hpo.db"


@pytest.fixture
def with_database(empty_database, tmp_path, monkeypatch):
    """The folder of the test, with an empty `hpo.db`, which is the storage where none is named."""
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    monkeypatch.delenv("HPO_STORAGE_FILE", raising=False)
    shutil.copy(empty_database, tmp_path / "hpo.db")
    return tmp_path
