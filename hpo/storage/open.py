"""Opens the database of the studies: the only place where a storage URL becomes a connection."""

from __future__ import annotations

import inspect
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Engine, create_engine, event
from sqlalchemy import inspect as inspect_database
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hpo.storage import sqlite
from hpo.storage.address import RUNS, StorageError, masked, way_out
from hpo.storage.retry import cause, clashed, of_disk, retried
from hpo.storage.version import refuse_other_version

STANDSTILL_S = 30
"""Seconds after which a server breaks off the transaction of a process that stands still, as in a
suspended job: all others would wait for its locks as long as it does. It is tried again."""


class RetryingStorage(RDBStorage):
    """Optuna's storage with every transaction retried while the server is away."""


for _name, _method in inspect.getmembers(RDBStorage, inspect.isfunction):
    # The methods with an underscore are called by Optuna's cache; they are whole transactions, too.
    if _name in ("_create_new_trial", "_get_trials", "_set_trial_param", "_get_best_trial_id") or (
        _name[0] != "_" and _name not in ("remove_session", "upgrade")
    ):
        setattr(RetryingStorage, _name, retried(_method))


def open_storage(url: URL, *, reading: bool = False, retrying: bool = True) -> RDBStorage:
    """Optuna's storage on the database, made if it is new.

    Args:
        url: Of the database.
        reading: Nothing is made or can be written, and no lock is taken that a worker of a running
            study waits for.
        retrying: Whether to wait for a server that is away, as workers do.

    Raises:
        StorageError: If the database does not answer, its driver is not installed, or it is of
            another version; when reading, also if it holds no studies.
    """
    of_file = url.get_backend_name() == "sqlite"
    if of_file and url.database and not reading:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    kind = RetryingStorage if retrying else RDBStorage
    with answering(url):
        try:
            if reading:
                storage = _opened_for_reading(kind, url)
            else:
                storage = _connected(kind, template(url), engine_options(url))
            refuse_other_version(storage.engine)
        except RuntimeError as error:  # Optuna's, of its own tables
            raise StorageError(f"{masked(url)}: {error}: run hpo db upgrade") from None
    if of_file and not reading:
        sqlite.serialise(storage.engine, url)
    return storage


@contextmanager
def answering(url: URL) -> Iterator[None]:
    """Turn the error of a database that does not answer, or has no driver here, into a sentence.

    Raises:
        StorageError: If the body met one.
    """
    try:
        yield
    except ImportError as error:
        raise StorageError(
            f"{masked(url)} needs a driver that is not installed: pip install "
            "'hpo-flows[postgres]' for PostgreSQL, 'hpo-flows[mysql]' for MySQL and MariaDB"
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageError(f"{masked(url)} does not answer: {cause(error)}{way_out(url)}") from None


@contextmanager
def explaining_disk_errors(url: URL) -> Iterator[None]:
    """Turn the error of a full or read-only disk of the database into a sentence.

    Raises:
        StorageError: If the body met one.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        if not of_disk(error):
            raise
        raise StorageError(
            f"{masked(url)} cannot be written: {cause(error)}: make room there, or have it "
            "mounted for writing, then run the same command again"
        ) from error


def open_study(storage: RDBStorage, name: str) -> optuna.Study:
    """The study of that name.

    Raises:
        StorageError: If there is none. Names those there are.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        names = ", ".join(optuna.get_all_study_names(storage)) or "none"
        place = masked(storage.engine.url)
        elsewhere = kept_in_file(storage, name)
        raise StorageError(
            f"there is no study {name!r} in {place}: it holds {names}{elsewhere}"
        ) from None


def kept_in_file(storage: RDBStorage, name: str, runs: Path = RUNS) -> str:
    """The end of a sentence about a study that is not on the server, but in the runs' own file."""
    file = runs / "hpo.db"
    if storage.engine.url.get_backend_name() == "sqlite" or not file.is_file():
        return ""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as database:
        try:
            found = database.execute("select 1 from studies where study_name = ?", [name])
            known = found.fetchone() is not None
        except sqlite3.Error:  # no database of studies
            return ""
    return f"; {file} has one of that name: give --storage sqlite:///{file}" if known else ""


def template(url: URL) -> str:
    """As Optuna takes it: it fills `{...}` by str.format, so a brace has to be doubled."""
    return url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")


def _connected(kind: type[RDBStorage], text: str, options: dict[str, Any]) -> RDBStorage:
    """Optuna's storage, its tables made if they are not there.

    Two processes that make them at once clash: the loser finds them on its next try.
    """
    for pause_s in (0.2, 0.5, 1.0, 2.0):
        try:
            return _checked(kind, text, engine_kwargs=options)
        except DBAPIError as error:
            if not clashed(error):
                raise
            time.sleep(pause_s)
    return _checked(kind, text, engine_kwargs=options)


def _checked(kind: type[RDBStorage], text: str, **options: Any) -> RDBStorage:
    """Optuna's storage on tables of its version, else its error.

    Optuna compares them with two connections at once: as many workers as a pooler has connections,
    each with one, would wait for another for ever.
    """
    storage = kind(text, skip_compatibility_check=True, **options)
    if storage.get_current_version() == storage.get_head_version():
        return storage
    storage.engine.dispose()
    return kind(text, **options)


def _opened_for_reading(kind: type[RDBStorage], url: URL) -> RDBStorage:
    """Optuna's storage for reading only, on a database that has its tables."""
    of_file = url.get_backend_name() == "sqlite"
    options = sqlite.reader_options(url) if of_file else engine_options(url, reading=True)
    engine = create_engine(url, **options)
    try:
        if not inspect_database(engine).has_table("studies"):
            raise StorageError(f"{masked(url)} holds no studies: run hpo launch first")
    finally:
        engine.dispose()
    storage = _checked(kind, template(url), engine_kwargs=options, skip_table_creation=True)
    if of_file:  # a transaction reads one moment; SQLite's lock for it stops no writer
        event.listen(storage.engine, "begin", lambda one: one.exec_driver_sql("BEGIN"))
    return storage


def reading_at_one_moment(engine: Engine) -> Engine:
    """The engine with transactions that only read, and see the database as of one moment."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{sqlite.READING: True})
    return engine.execution_options(isolation_level="REPEATABLE READ")


def engine_options(url: URL, *, reading: bool = False) -> dict[str, Any]:
    """Settings of SQLAlchemy's engine for a worker, or for a reader of a server."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    # One connection a process, which its heartbeat shares: servers allow about a hundred in all. A
    # second one for a moment, since Optuna takes it while it holds the first as it makes its
    # tables. Tried before it is used: the server may have been restarted meanwhile.
    options: dict[str, Any] = {"pool_size": 1, "max_overflow": 1, "pool_timeout": 30}
    options["pool_pre_ping"] = True
    options["pool_events"] = [(_set_standstill(url), "connect")]
    if reading:  # a connection for each of a few threads, none of which the server lets write
        options |= {"pool_size": 4, "max_overflow": 4}
    if url.drivername == "postgresql+psycopg":
        # A pooler such as PgBouncer gives each transaction another connection of the server, which
        # does not have what the driver prepared on the last one.
        options["connect_args"] = {"prepare_threshold": None}
    if url.get_backend_name() in ("mysql", "mariadb"):
        # After a wait for a lock its holder's changes are seen, as on PostgreSQL.
        options["isolation_level"] = "READ COMMITTED"
        if reading:
            options["connect_args"] = {"init_command": "SET SESSION TRANSACTION READ ONLY"}
    elif reading and url.get_backend_name() == "postgresql":
        # Set as each transaction begins: a pooler refuses settings made on connecting.
        options["execution_options"] = {"postgresql_readonly": True}
    return options


def _set_standstill(url: URL) -> Callable[[DBAPIConnection, object], None]:
    """What tells a server `STANDSTILL_S` on connecting; behind a pooler it holds for all alike."""
    statement = "SET idle_in_transaction_session_timeout = {0}000"
    if url.get_backend_name() in (
        "mysql",
        "mariadb",
    ):  # of an idle connection, made anew if need be
        statement = "SET SESSION wait_timeout = {0}"

    def on_connect(connection: DBAPIConnection, _: object) -> None:
        connection.cursor().execute(statement.format(STANDSTILL_S))
        connection.commit()

    return on_connect
