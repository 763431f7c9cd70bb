import sqlite3

import pymysql
import pytest
import sqlalchemy as sql
from optuna.exceptions import StorageInternalError

from hpo.storage import retry
from hpo.storage.retry import retried, transient

GONE = sql.exc.OperationalError("SELECT secret", {}, Exception("server closed the connection"))


class Flaky:
    """Fails so many times before it works."""

    def __init__(self, failures, error=GONE):
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "done"


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that were made, in place of making them."""
    made = []
    monkeypatch.setattr(retry.time, "sleep", made.append)
    return made


def test_what_fails_while_the_server_is_away_is_done_when_it_is_back(pauses, caplog):
    flaky = Flaky(5)

    assert retried_(flaky) == "done"
    assert flaky.calls == 6
    assert pauses[0] < pauses[-1]
    assert "server closed the connection" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("code", [1213, "40P01"])
def test_one_that_gives_way_to_others_again_and_again_waits_no_longer_each_time(pauses, code):
    driver = Exception(code, "deadlock found")
    driver.sqlstate = code
    lost = sql.exc.OperationalError("UPDATE", {}, driver)

    assert retried_(Flaky(20, lost)) == "done"
    assert max(pauses) < 1.0


def retried_(function):
    return retried(lambda: function())()


def test_a_mistake_is_not_tried_again():
    flaky = Flaky(1, sql.exc.IntegrityError("", {}, Exception("duplicate key")))

    with pytest.raises(sql.exc.IntegrityError):
        retried_(flaky)
    assert flaky.calls == 1


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(retry, "LONGEST_OUTAGE_S", -1.0)

    with pytest.raises(sql.exc.OperationalError):
        retried_(Flaky(99))


def test_optunas_error_is_judged_by_its_cause():
    away, wrong = StorageInternalError("x"), StorageInternalError("x")
    away.__cause__, wrong.__cause__ = GONE, ValueError()

    assert transient(away)
    assert not transient(wrong)


def test_a_sqlite_file_that_is_locked_is_waited_for_and_one_that_is_broken_is_not(tmp_path):
    engine = sql.create_engine(f"sqlite:///{tmp_path / 'x.db'}", connect_args={"timeout": 0})
    with engine.connect() as first, engine.connect() as second:
        first.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(sql.exc.OperationalError) as locked:
            second.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(sql.exc.OperationalError) as broken:
            second.exec_driver_sql("SELECT * FROM nothing")

    assert transient(locked.value)
    assert not transient(broken.value)


def test_a_drivers_own_error_of_a_lost_connection_is_one():
    lost = pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")

    assert transient(lost)
    assert transient(pymysql.err.InterfaceError(0, ""))
    assert not transient(pymysql.err.ProgrammingError(1146, "no such table"))
    assert not transient(sqlite3.OperationalError("no such table"))
