"""The databases on which claims are tested: a SQLite file, and one of each server."""

import optuna
import pytest
import sqlalchemy as sql

from hpo.queue.tables import PARENTS
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from tests import claimers

SERVERS = [pytest.param(name, marks=pytest.mark.cluster) for name in ("postgres", "mariadb")]


@pytest.fixture(scope="session")
def databases():
    """URL of the one database of each server, which its tests leave without studies."""
    return {}


@pytest.fixture(params=["sqlite", *SERVERS])
def url(request, with_database, databases):
    """URL of a database without studies."""
    if request.param == "sqlite":
        url = f"sqlite:///{with_database}/hpo.db"
    else:
        if request.param not in databases:
            databases[request.param] = request.getfixturevalue(request.param).create("claims")
        url = databases[request.param]
    yield url
    claimers.close()
    storage = open_storage(url_of(url, with_database))
    for name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    with storage.engine.connect() as connection:
        for table in PARENTS:
            if sql.inspect(connection).has_table(table.name):
                assert connection.execute(sql.select(table)).all() == []
    storage.engine.dispose()
