"""The SQL database of a study: which one, opened how.

The only place where a storage URL becomes a connection. The URL may carry a password, so it
travels in the environment alone and is shown masked.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from data_prep.errors import InputError

VARIABLE = "HPO_STORAGE"


class StorageError(InputError):
    """A database that cannot be used. The message shows its URL without the password."""


def url_of(option: str | None, runs: Path) -> URL:
    """The database that `--storage` or `HPO_STORAGE` names, else `hpo.db` in the runs folder.

    Raises:
        StorageError: If it is not a URL of a database that SQLAlchemy knows.
    """
    text = option or os.environ.get(VARIABLE)
    if not text:
        return URL.create("sqlite", database=str(runs.absolute() / "hpo.db"))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # whose own text would show the password
        raise StorageError(
            "the storage is not a database URL: write it as sqlite:///runs/hpo.db or "
            "postgresql://user@host/database, with %40 for @, %3A for : and %2F for / in a password"
        ) from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).absolute()))
    return url


def masked(url: URL) -> str:
    """The URL as it may be shown: no password, and nothing of the query, which can hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


def hand_down(url: URL) -> None:
    """Put the URL where the worker processes of this one find it."""
    os.environ[VARIABLE] = url.render_as_string(hide_password=False)


def open_storage(url: URL) -> RDBStorage:
    """Optuna's storage on the database, made if it is new.

    Raises:
        StorageError: If the database does not answer or its driver is not installed.
    """
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    # Optuna fills `{...}` in a URL by str.format: a brace in a password has to be doubled.
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    try:
        storage = _connected(text, _engine_options(url))
    except ImportError as error:
        raise StorageError(
            f"{masked(url)} needs a driver that is not installed: "
            "pip install 'hpo-flows[postgres]' for PostgreSQL"
        ) from error
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()[0]
        raise StorageError(f"{masked(url)} does not answer: {cause}") from None
    if url.get_backend_name() == "sqlite":
        _serialise(storage.engine)
    return storage


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
        raise StorageError(f"there is no study {name!r} in {place}: it holds {names}") from None


def _connected(text: str, options: dict[str, Any]) -> RDBStorage:
    """Optuna's storage, its tables made if they are not there.

    Two processes that make them at once clash (optuna#4621): the loser finds them on its next try.
    """
    for pause_s in (0.2, 0.5, 1.0, 2.0):
        try:
            return RDBStorage(text, engine_kwargs=options)
        except (IntegrityError, OperationalError) as error:
            if "exist" not in str(error.orig) and "UNIQUE" not in str(error.orig):
                raise
            time.sleep(pause_s)
    return RDBStorage(text, engine_kwargs=options)


def _engine_options(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    # A worker talks to the database for milliseconds an epoch: a connection held between would
    # only use up the server's, and die when the server restarts.
    return {"poolclass": NullPool}


def _serialise(engine: Engine) -> None:
    """Make every SQLite transaction take the write lock as it begins.

    Optuna reads before it writes. With SQLite's own, late, lock two workers read the same row and
    the second one fails or overwrites (optuna#4002).
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # RDBStorage has opened connections before the listeners were there
