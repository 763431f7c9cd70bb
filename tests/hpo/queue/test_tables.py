"""Our tables beside Optuna's: their rows go with its rows, and older ones are upgraded."""

import contextlib
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sql
from optuna.storages import RDBStorage

from hpo.queue.leases import Owner
from hpo.queue.tables import JOBS, PARENTS, TOTALS, make_tables
from hpo.queue.upgrade import upgrade_tables
from hpo.storage import version
from hpo.storage.address import StorageError, url_of
from hpo.storage.open import open_storage, template
from tests import claimers
from tests.claimers import STUDY, slots_of

FIRST = """
CREATE TABLE hpo_leases (
    trial_id INTEGER NOT NULL PRIMARY KEY,
    token VARCHAR(32) NOT NULL,
    host VARCHAR(255) NOT NULL,
    pid INTEGER NOT NULL,
    started DOUBLE PRECISION NOT NULL,
    job VARCHAR(64),
    rank INTEGER NOT NULL,
    renewed DOUBLE PRECISION NOT NULL,
    restarts INTEGER NOT NULL
);
CREATE TABLE hpo_totals (study_id INTEGER NOT NULL PRIMARY KEY, total INTEGER NOT NULL);
CREATE TABLE hpo_jobs (
    study_id INTEGER NOT NULL, job VARCHAR(64) NOT NULL, PRIMARY KEY (study_id, job)
)
"""
"""Our tables as version 1 made them."""


def connected(url):
    return sql.create_engine(url_of(url, Path()), poolclass=sql.NullPool).begin()


def rows_of(url):
    """How many rows each of our tables has."""
    with connected(url) as connection:
        count = sql.select(sql.func.count())
        return [connection.scalar(count.select_from(table)) for table in PARENTS]


def delete_by_stock_optuna(url, name=STUDY):
    storage = RDBStorage(template(url_of(url, Path())))
    optuna.delete_study(study_name=name, storage=storage)
    storage.engine.dispose()


def test_the_next_study_inherits_nothing_of_a_deleted_one(url):
    slots, _ = slots_of(url)
    slots.set_total(200)
    for _ in range(2):
        slots.release(slots.claim(Owner.this_process()), lost=True)
    slots.add_jobs(["12_0"])
    claimers.close()

    delete_by_stock_optuna(url)

    assert rows_of(url) == [0, 0, 0]
    slots, _ = slots_of(url)
    assert slots.set_total(10).added == 10
    assert slots.claim(Owner.this_process()).restarts == 0
    assert slots.jobs() == []


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_triggers_that_an_upgrade_of_optuna_dropped_are_made_again(url):
    slots_of(url)[0].set_total(1)
    with connected(url) as connection:
        connection.exec_driver_sql("DROP TRIGGER hpo_totals_follow")
    delete_by_stock_optuna(url)
    assert rows_of(url)[1] == 1

    assert slots_of(url)[0].set_total(10).added == 10

    delete_by_stock_optuna(url)
    assert rows_of(url) == [0, 0, 0]


@pytest.fixture
def first(url):
    """URL of a database of version 1: a study of three trials, with what a deleted one left."""
    slots, study = slots_of(url)
    slots.set_total(3)
    slots.add_jobs(["12_0"])
    slots.release(slots.claim(Owner.this_process()), lost=True)
    study_id, trial_id = study._study_id, study.trials[0]._trial_id
    claimers.close()
    with connected(url) as connection:
        drop_tables(connection)
        for statement in FIRST.split(";"):
            connection.exec_driver_sql(statement)
        owner = {"host": "h", "pid": 1, "started": 0, "rank": 0}
        lease = owner | {"token": "t", "renewed": 0, "restarts": 2}
        columns = {name: sql.column(name) for name in ["trial_id", *lease]}
        old = sql.table("hpo_leases", *columns.values())
        leases = [lease | {"trial_id": one} for one in (trial_id, trial_id + 7)]
        connection.execute(sql.insert(old), leases)
        for one in (study_id, study_id + 7):
            connection.execute(sql.insert(TOTALS).values(study_id=one, total=3))
            connection.execute(sql.insert(JOBS).values(study_id=one, job="12_0"))
    yield url
    claimers.close()
    with connected(url) as connection:
        drop_tables(connection)


def drop_tables(connection):
    for table in (*PARENTS, version.TABLE):
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table.name}_follow")
        table.drop(connection, checkfirst=True)


@pytest.mark.parametrize("reading", [False, True])
def test_a_database_of_the_first_version_is_refused(first, reading):
    with pytest.raises(StorageError, match="of version 1, this one works on 2: run hpo db upgrade"):
        open_storage(url_of(first, Path()), reading=reading)


def check_upgraded(url):
    slots, study = slots_of(url)
    assert rows_of(url) == [1, 1, 1], "what a deleted study left is gone"
    assert slots.jobs() == ["12_0"]
    assert slots.set_total(3).added == 0
    claim = slots.claim(Owner.this_process())
    assert (claim.number, claim.restarts, slots.futile(claim)) == (0, 2, 3)
    claimers.close()
    delete_by_stock_optuna(url)
    assert rows_of(url) == [0, 0, 0]


def test_a_database_of_the_first_version_goes_on_after_its_upgrade(first):
    before, now, _ = upgrade_tables(url_of(first, Path()))

    assert (before[-6:], now[-6:]) == ("ours 1", "ours 2")
    assert upgrade_tables(url_of(first, Path())) == (now, now, None)
    check_upgraded(first)


def test_an_upgrade_that_was_killed_anywhere_is_ended_by_the_next(first):
    for last in range(1, 50):  # each time it comes one statement further
        try:
            with killed_after(last):
                upgrade_tables(url_of(first, Path()))
            break
        except Killed:
            continue

    assert last > 3
    check_upgraded(first)


def test_tables_that_were_left_half_made_are_made_by_the_next(url):
    with connected(url) as connection:
        drop_tables(connection)
    engine = sql.create_engine(url_of(url, Path()), poolclass=sql.NullPool)
    for last in range(1, 50):
        try:
            with killed_after(last):
                make_tables(engine)
            break
        except Killed:
            continue

    assert last > 3
    with connected(url) as connection:
        assert connection.scalar(sql.select(version.TABLE.c.version)) == version.VERSION
    assert slots_of(url)[0].set_total(3).now == 3


class Killed(BaseException):
    pass


@contextlib.contextmanager
def killed_after(last):
    """End the body after so many statements that write."""
    done = []

    def count(_connection, _cursor, statement, *_):
        if statement.split()[0] not in ("SELECT", "SHOW", "DESCRIBE", "PRAGMA"):
            done.append(statement)
        if len(done) == last:
            raise Killed

    sql.event.listen(sql.Engine, "after_cursor_execute", count)
    try:
        yield
    finally:
        sql.event.remove(sql.Engine, "after_cursor_execute", count)


def test_a_database_of_a_newer_version_asks_for_a_newer_program(url):
    slots_of(url)
    with connected(url) as connection:
        connection.execute(sql.update(version.TABLE).values(version=version.VERSION + 1))

    told = "of version 3, this one works on 2: upgrade hpo-flows"
    try:
        for look in (open_storage, upgrade_tables):
            with pytest.raises(StorageError, match=told):
                look(url_of(url, Path()))
    finally:
        with connected(url) as connection:
            connection.execute(sql.update(version.TABLE).values(version=version.VERSION))
