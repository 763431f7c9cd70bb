import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile

import optuna
import pytest
import sqlalchemy as sql
from sqlalchemy.engine import make_url

from hpo.queue.upgrade import upgrade_tables
from hpo.storage import filesystem
from hpo.storage.address import StorageError, hand_down, masked, url_of
from hpo.storage.open import open_storage, open_study


def test_the_option_weighs_more_than_the_environment_and_that_more_than_the_default(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    assert url_of(None, tmp_path).database == str(tmp_path / "hpo.db")

    monkeypatch.setenv("HPO_STORAGE", "postgresql://me@host/db")
    assert url_of(None, tmp_path).host == "host"
    assert url_of("sqlite:////x.db", tmp_path).database == "/x.db"


def test_postgresql_uses_the_driver_that_is_an_extra_of_ours(tmp_path):
    assert url_of("postgresql://me@host/db", tmp_path).drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    "text",
    ["postgresql://me:s3cret@host/db", "postgresql://me@host/db?password=s3cret"],
)
def test_a_shown_url_holds_no_password(text):
    assert "s3cret" not in masked(make_url(text))


def test_an_error_holds_no_password(tmp_path):
    with pytest.raises(StorageError, match="does not answer") as caught:
        open_storage(url_of("postgresql://me:s3{cret@127.0.0.1:1/db", tmp_path))

    assert "s3" not in str(caught.value)


@pytest.mark.parametrize("text", ["s3cret", "postgresql://me:p@s3cret@host/db"])
def test_a_text_that_is_no_url_is_refused_without_being_shown(tmp_path, text):
    with pytest.raises(StorageError, match="sqlite:///runs/hpo.db") as caught:
        url_of(text, tmp_path)

    assert "s3cret" not in str(caught.value)


def test_a_study_that_is_not_there_names_those_that_are(with_database):
    storage = open_storage(url_of(None, with_database))
    optuna.create_study(study_name="mine", storage=storage)

    with pytest.raises(StorageError, match=r"no study 'yours' in .*hpo\.db: it holds mine"):
        open_study(storage, "yours")


def test_a_sqlite_transaction_locks_as_it_begins(tmp_path, monkeypatch):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    url = url_of(None, tmp_path)
    engine = open_storage(url).engine
    other = sql.create_engine(url, connect_args={"timeout": 0})

    with engine.begin() as first, other.connect() as second:
        first.execute(sql.text("SELECT 1"))
        with pytest.raises(sql.exc.OperationalError, match="locked"):
            second.execute(sql.text("DELETE FROM studies"))
    other.dispose()


def test_the_url_can_stand_in_a_file_that_only_its_owner_reads(tmp_path, monkeypatch):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    file = tmp_path / "storage"
    file.write_text("postgresql://me:s3cret@host/db\n")
    monkeypatch.setenv("HPO_STORAGE_FILE", str(file))

    file.chmod(0o640)
    with pytest.raises(StorageError, match="chmod 600") as caught:
        url_of(None, tmp_path)
    assert "s3cret" not in str(caught.value)

    file.chmod(0o600)
    assert url_of(None, tmp_path).password == "s3cret"


def test_a_url_that_stands_in_a_file_is_not_put_into_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HPO_STORAGE", "to be put back afterwards")
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    file = tmp_path / "storage"
    file.write_text("postgresql://me:s3cret@host/db\n")
    file.chmod(0o600)
    monkeypatch.setenv("HPO_STORAGE_FILE", str(file))

    hand_down(url_of(None, tmp_path))
    assert "HPO_STORAGE" not in os.environ

    hand_down(url_of("sqlite:////x.db", tmp_path))
    assert os.environ["HPO_STORAGE"] == "sqlite:////x.db"


@pytest.fixture
def default(tmp_path, monkeypatch):
    """The file that `hpo db start` makes, with the address of a server that does not run."""
    for name in ("HPO_STORAGE", "HPO_STORAGE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file = tmp_path / "config" / "hpo" / "storage"
    file.parent.mkdir(parents=True)
    file.touch(0o600)
    file.write_text("postgresql://hpo:s3cret@login1:9/hpo?hostaddr=127.0.0.1\n")
    return file


def test_the_server_of_ones_own_is_found_where_nothing_else_is_named(
    default, tmp_path, monkeypatch
):
    assert url_of(None, tmp_path).host == "login1"
    assert url_of("sqlite:////x.db", tmp_path).database == "/x.db"

    named = tmp_path / "named"
    named.touch(0o600)
    named.write_text("sqlite:////y.db")
    monkeypatch.setenv("HPO_STORAGE_FILE", str(named))
    assert url_of(None, tmp_path).database == "/y.db"
    monkeypatch.setenv("HPO_STORAGE", "sqlite:////z.db")
    assert url_of(None, tmp_path).database == "/z.db"


def test_a_file_of_the_server_that_others_can_read_is_refused(default, tmp_path):
    default.chmod(0o640)

    with pytest.raises(StorageError, match=f"run chmod 600 {default}"):
        url_of(None, tmp_path)


def test_a_server_of_ones_own_that_does_not_answer_is_to_be_started(default, tmp_path):
    with pytest.raises(
        StorageError, match="does not answer: .*: run hpo db start on login1$"
    ) as told:
        open_storage(url_of(None, tmp_path))
    assert "s3cret" not in str(told.value)

    with pytest.raises(StorageError, match="does not answer") as told:
        open_storage(url_of("postgresql://me@127.0.0.1:9/other", tmp_path))
    assert "hpo db start" not in str(told.value)


@pytest.mark.parametrize("shared", [True, False])
def test_workers_find_the_server_of_ones_own(default, tmp_path, monkeypatch, shared):
    monkeypatch.setattr(filesystem, "kind_of", lambda _: "nfs4" if shared else "ext4")
    url = url_of(None, tmp_path)

    hand_down(url)

    # A file that all nodes see keeps the password out of the environment of jobs.
    assert ("HPO_STORAGE" in os.environ) != shared
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of-the-node"))
    assert url_of(None, tmp_path) == url
    if shared:
        default.unlink()
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        with pytest.raises(StorageError, match="run hpo db start$"):
            url_of(None, tmp_path)


@pytest.mark.cluster
def test_a_study_that_is_in_the_file_of_the_runs_is_told_of(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = open_storage(url_of("sqlite:///runs/hpo.db", tmp_path))
    optuna.create_study(storage=here, study_name="mine")
    here.engine.dispose()
    storage = open_storage(url_of(database, tmp_path))

    with pytest.raises(
        StorageError, match="runs/hpo.db has one of that name: give --storage sqlite:"
    ):
        open_study(storage, "mine")
    with pytest.raises(StorageError, match="it holds none$"):
        open_study(storage, "other")
    storage.engine.dispose()


def test_a_database_of_an_older_optuna_is_upgraded_after_it_was_copied(tmp_path, monkeypatch):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    url = url_of(None, tmp_path)
    engine = open_storage(url).engine
    with engine.begin() as connection:
        connection.execute(sql.text("UPDATE alembic_version SET version_num = 'v3.0.0.d'"))

    with pytest.raises(StorageError, match="hpo db upgrade"):
        open_storage(url)
    before, now, copy = upgrade_tables(url)

    assert (before, now) == ("Optuna's v3.0.0.d, ours 2", "Optuna's v3.2.0.a, ours 2")
    assert copy.is_file()
    open_storage(url)
    assert upgrade_tables(url) == (now, now, None)


def test_a_sqlite_file_on_a_network_file_system_has_no_memory_shared_by_processes(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    monkeypatch.setattr(filesystem, "kind_of", lambda path: "nfs4")

    with open_storage(url_of(None, tmp_path)).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"


@pytest.fixture
def written(with_database):
    """URL of a database with one study of two trials."""
    url = url_of(None, with_database)
    storage = open_storage(url)
    study = optuna.create_study(study_name="mine", storage=storage)
    for value in (3.0, 2.0):
        study.add_trial(optuna.trial.create_trial(value=value))
    storage.engine.dispose()
    return url


def test_who_only_looks_sees_the_trials_and_cannot_change_one(written):
    storage = open_storage(written, reading=True)
    study = open_study(storage, "mine")

    assert [trial.value for trial in study.trials] == [3.0, 2.0]
    with pytest.raises(optuna.exceptions.StorageInternalError):
        study.set_user_attr("changed", True)
    with pytest.raises(sql.exc.OperationalError, match="readonly"):
        with storage.engine.begin() as connection:
            connection.execute(sql.text("DELETE FROM trials"))


@pytest.mark.parametrize("reading", [False, True])
def test_opening_a_database_takes_one_connection_at_a_time(written, reading):
    held = []
    hooks = {
        "checkout": lambda *_: held.append((held[-1] if held else 0) + 1),
        "checkin": lambda *_: held.append(held[-1] - 1),
    }
    for name, hook in hooks.items():
        sql.event.listen(sql.pool.Pool, name, hook)

    open_storage(written, reading=reading).engine.dispose()

    for name, hook in hooks.items():
        sql.event.remove(sql.pool.Pool, name, hook)
    assert max(held) == 1


def test_who_only_looks_neither_waits_for_a_writer_nor_keeps_one_waiting(written):
    writer, reader = open_storage(written).engine, open_storage(written, reading=True).engine
    count = sql.text("SELECT count(*) FROM trials")

    with writer.connect() as writing:
        writing.execute(sql.text("DELETE FROM trials"))  # holds the write lock from here on
        with reader.connect() as reading:
            assert reading.execute(count).scalar() == 2
            writing.commit()  # not kept from it by the transaction that still reads
            assert reading.execute(count).scalar() == 2
        with reader.connect() as reading:
            assert reading.execute(count).scalar() == 0
    writer.dispose()
    reader.dispose()


def test_looking_makes_no_database(tmp_path):
    url = url_of(f"sqlite:///{tmp_path}/none/hpo.db", tmp_path)

    with pytest.raises(StorageError, match="there is no study database .*none/hpo.db"):
        open_storage(url, reading=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "holds no studies: run hpo launch first", id="empty"),
        pytest.param(b"no database " * 100, "cannot be read: file is not a database", id="other"),
    ],
)
def test_a_file_without_studies_is_refused_and_left_as_it_is(tmp_path, content, message):
    path = tmp_path / "hpo.db"
    path.write_bytes(content)

    with pytest.raises(StorageError, match=message):
        open_storage(url_of(f"sqlite:///{path}", tmp_path), reading=True)
    assert path.read_bytes() == content


def test_a_database_of_an_older_optuna_is_not_brought_up_to_date_by_looking(written):
    engine = open_storage(written).engine
    with engine.begin() as connection:
        connection.execute(sql.text("UPDATE alembic_version SET version_num = 'v3.0.0.d'"))

    for _ in range(2):
        with pytest.raises(StorageError, match="hpo db upgrade"):
            open_storage(written, reading=True)


LOOK = """
import os, sys, warnings
from pathlib import Path
from hpo.storage import filesystem
from hpo.storage.address import url_of
from hpo.storage.open import open_storage, open_study
warnings.showwarning = lambda message, *_: print("warned:", message)
for url in sys.argv[1:]:
    study = open_study(open_storage(url_of(url, Path()), reading=True), "mine")
    print([trial.value for trial in study.trials])
    os.setuid(65534)  # once what Python loads late is loaded, since another user may not read it
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="to run this: be root, to look as another user")
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_in_a_folder_that_cannot_be_written_is_read_all_the_same(written, mode):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        os.chmod(folder, 0o755)
        copy = shutil.copy(written.database, folder)
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
        os.chmod(copy, 0o644)
        command = [sys.executable, "-c", LOOK, f"sqlite:///{written.database}", f"sqlite:///{copy}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert os.listdir(folder) == ["hpo.db"]

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[3.0, 2.0]"
    assert ("it is shown as it is now" in done.stdout) == (mode == "wal")
