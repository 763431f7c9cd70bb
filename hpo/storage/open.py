"""The SQL database of a study: which one, opened how, brought up to date.

The only place where a storage URL becomes a connection. The URL may carry a password, so it
travels in the environment, or in a file that only its owner can read, and is shown masked.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import sqlite3
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Engine, create_engine, event
from sqlalchemy import inspect as inspect_database
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from data_prep.errors import InputError
from hpo.storage import filesystem
from hpo.storage.retry import of_disk, patiently

VARIABLE = "HPO_STORAGE"
FILE_VARIABLE = "HPO_STORAGE_FILE"
"""Names a file that holds the URL, for those who want no password in the environment."""


class StorageError(InputError):
    """A database that cannot be used. The message shows its URL without the password."""


def url_of(option: str | None, runs: Path) -> URL:
    """The database that the option, `HPO_STORAGE` or the file of `HPO_STORAGE_FILE` names.

    Else `hpo.db` in the runs folder.

    Raises:
        StorageError: If it is not a URL of a database that SQLAlchemy knows, or others can read
            the file.
    """
    text = option or os.environ.get(VARIABLE) or _text_of_file()
    if not text:
        return URL.create("sqlite", database=str(runs.absolute() / "hpo.db"))
    try:
        url = make_url(text)
        wrong = "@" in (url.host or "")  # then it would be part of a password
    except (ArgumentError, ValueError):  # whose own text would show the password
        wrong = True
    if wrong:
        raise StorageError(
            "the storage is not a database URL: write it as sqlite:///runs/hpo.db or "
            "postgresql://user@host/database, with %40 for @, %3A for : and %2F for / in a password"
        )
    if url.drivername in _DRIVERS:
        url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).absolute()))
    return url


def masked(url: URL) -> str:
    """The URL as it may be shown: no password, and nothing of the query, which can hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


def hand_down(url: URL) -> None:
    """Put the URL where the worker processes of this one find it."""
    if VARIABLE in os.environ or url != _url_of_file():
        os.environ[VARIABLE] = url.render_as_string(hide_password=False)


class PatientStorage(RDBStorage):
    """Optuna's storage, which waits for a server that is away."""


for _name, _method in inspect.getmembers(RDBStorage, inspect.isfunction):
    # Those with an underscore are called by Optuna's cache; they are whole transactions, too.
    if _name in ("_create_new_trial", "_get_trials", "_set_trial_param", "_get_best_trial_id") or (
        _name[0] != "_" and _name not in ("remove_session", "upgrade")
    ):
        setattr(PatientStorage, _name, patiently(_method))


def open_storage(url: URL, *, reading: bool = False, patient: bool = True) -> RDBStorage:
    """Optuna's storage on the database, made if it is new.

    Args:
        url: Of the database.
        reading: Only looks. Nothing is made or can be written, and no lock is taken that a worker
            of a running study waits for.
        patient: Whether to wait for a server that is away, as workers do.

    Raises:
        StorageError: If the database does not answer, its driver is not installed, or it is of
            another version; when reading, also if it holds no studies.
    """
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database and not reading:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    kind = PatientStorage if patient else RDBStorage
    try:
        if reading:
            return _looking(kind, url)
        storage = _connected(kind, _template(url), _engine_options(url))
    except ImportError as error:
        raise StorageError(
            f"{masked(url)} needs a driver that is not installed: pip install "
            "'hpo-flows[postgres]' for PostgreSQL, 'hpo-flows[mysql]' for MySQL and MariaDB"
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageError(f"{masked(url)} does not answer: {_cause(error)}") from None
    except RuntimeError as error:  # Optuna's, of its own tables
        raise StorageError(f"{masked(url)}: {error}: run hpo db upgrade") from None
    if sqlite:
        _serialise(storage.engine, shared=_is_shared(url))
        _guard(storage.engine, url)
    return storage


@contextmanager
def telling(url: URL) -> Iterator[None]:
    """Have a full or read-only disk of the database told in a sentence.

    Raises:
        StorageError: If the body met one.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        if not of_disk(error):
            raise
        raise StorageError(
            f"{masked(url)} cannot be written: {_cause(error)}: make room there, or have it "
            "mounted for writing, then run the same command again"
        ) from error


def upgrade(url: URL) -> tuple[str, str, Path | None]:
    """Bring Optuna's tables up to the installed version.

    Returns:
        The version before, the one now, and where a copy of a SQLite file was put; a server's
        owner makes their own (`pg_dump`, `mysqldump`).

    Raises:
        StorageError: If the database does not answer or cannot be brought up to date.
    """
    copy = None
    try:
        storage = RDBStorage(
            _template(url), engine_kwargs=_engine_options(url), skip_compatibility_check=True
        )
        before, head = storage.get_current_version(), storage.get_head_version()
        if before != head:
            copy = _copied(url)
            storage.upgrade()
    except (SQLAlchemyError, RuntimeError) as error:
        raise StorageError(f"{masked(url)} was not upgraded: {_cause(error)}") from None
    return before, storage.get_current_version(), copy


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


_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
"""The drivers that are extras of ours."""


def _text_of_file() -> str | None:
    name = os.environ.get(FILE_VARIABLE)
    if not name:
        return None
    path = Path(name)
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StorageError(f"{FILE_VARIABLE}: {path}: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StorageError(f"{FILE_VARIABLE}: others can read {path}: run chmod 600 {path}")
    return text


def _url_of_file() -> URL | None:
    return url_of(_text_of_file(), Path()) if os.environ.get(FILE_VARIABLE) else None


def _template(url: URL) -> str:
    """As Optuna takes it: it fills `{...}` by str.format, so a brace has to be doubled."""
    return url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")


def _cause(error: Exception) -> str:
    """What the driver said, in a line, without the statement."""
    source = error.__cause__ if isinstance(error, StorageInternalError) else error
    said = str(getattr(source, "orig", None) or type(error).__name__).strip()
    return said.splitlines()[0]


def _is_shared(url: URL) -> bool:
    """Whether a SQLite file is on a file system of several machines."""
    kind = filesystem.kind_of(Path(url.database)) if url.database else None
    return filesystem.is_network(kind)


def _copied(url: URL) -> Path | None:
    """A copy of a SQLite file, taken while others may write."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    copy = Path(f"{url.database}.before-upgrade")
    with closing(sqlite3.connect(url.database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def _connected(kind: type[RDBStorage], text: str, options: dict[str, Any]) -> RDBStorage:
    """Optuna's storage, its tables made if they are not there.

    Two processes that make them at once clash (optuna#4621): the loser finds them on its next try.
    """
    for pause_s in (0.2, 0.5, 1.0, 2.0):
        try:
            return _checked(kind, text, engine_kwargs=options)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if "exist" not in str(error.orig) and "UNIQUE" not in str(error.orig):
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


def _looking(kind: type[RDBStorage], url: URL) -> RDBStorage:
    """Optuna's storage for reading alone, on a database that has its tables."""
    sqlite = url.get_backend_name() == "sqlite"
    options = _file_reader_options(url) if sqlite else _server_reader_options(url)
    engine = create_engine(url, **options)
    try:
        if not inspect_database(engine).has_table("studies"):
            raise StorageError(f"{masked(url)} holds no studies: run hpo launch first")
    finally:
        engine.dispose()
    storage = _checked(kind, _template(url), engine_kwargs=options, skip_table_creation=True)
    if sqlite:
        event.listen(storage.engine, "begin", _begin_to_read)
    return storage


def _begin_to_read(connection: Any) -> None:
    """What is read until the commit is of one moment; SQLite's lock for it stops no writer."""
    connection.exec_driver_sql("BEGIN")


def _engine_options(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    # One connection a process, which its heartbeat shares: servers allow about a hundred in all. A
    # second one for a moment, since Optuna takes it while it holds the first as it makes its
    # tables. Tried before it is used: the server may have been restarted meanwhile.
    options: dict[str, Any] = {"pool_size": 1, "max_overflow": 1, "pool_timeout": 30}
    options["pool_pre_ping"] = True
    if url.drivername == "postgresql+psycopg":
        # A pooler such as PgBouncer gives each transaction another connection of the server, which
        # does not have what the driver prepared on the last one.
        options["connect_args"] = {"prepare_threshold": None}
    if url.get_backend_name() in ("mysql", "mariadb"):
        # Who waited for a lock shall see what its holder wrote, as on PostgreSQL.
        options["isolation_level"] = "READ COMMITTED"
    return options


def _server_reader_options(url: URL) -> dict[str, Any]:
    """A connection for each of a few threads, none of which the server lets write."""
    options = _engine_options(url) | {"pool_size": 4, "max_overflow": 4}
    if url.get_backend_name() == "postgresql":
        # Said as each transaction begins: a pooler refuses what is asked for on connecting.
        options["execution_options"] = {"postgresql_readonly": True}
    elif url.get_backend_name() in ("mysql", "mariadb"):
        options["connect_args"] = {"init_command": "SET SESSION TRANSACTION READ ONLY"}
    return options


def _file_reader_options(url: URL) -> dict[str, Any]:
    """Connections to a SQLite file that is not made and not written.

    Raises:
        StorageError: If there is no such file, or SQLite cannot read it.
    """
    path = Path(url.database or "")
    if not path.is_file():
        raise StorageError(f"there is no study database {path}: run hpo launch first")
    address = f"{path.absolute().as_uri()}?mode=rw"
    try:
        if not _readable(address):
            # A folder in which nothing can be written has no place for the index of the write-ahead
            # log either, without which SQLite only reads what it may take for unchanging.
            address = f"{path.absolute().as_uri()}?immutable=1"
            _connected_to_read(address).close()
            _warn_of_snapshot(path)
    except sqlite3.Error as error:
        raise StorageError(f"{masked(url)} cannot be read: {error}") from None
    return {"creator": functools.partial(_connected_to_read, address)}


def _readable(address: str) -> bool:
    try:
        _connected_to_read(address).close()
    except sqlite3.OperationalError as error:
        if "readonly" in str(error) or "unable to open" in str(error):
            return False
        raise
    return True


def _connected_to_read(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, uri=True, timeout=10, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA query_only=ON")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _warn_of_snapshot(path: Path) -> None:
    log = Path(f"{path}-wal")
    recent = " without its latest changes" if log.exists() and log.stat().st_size else ""
    warnings.warn(
        f"{path} is in a folder that cannot be written, so it is shown as it is now{recent}: to "
        "follow it, look as a user who may write there",
        stacklevel=2,
    )


def _guard(engine: Engine, url: URL) -> None:
    """Refuse a SQLite file that was taken away: what is written to one without a name is lost.

    Raises:
        FileNotFoundError: In each transaction, if the file is gone or is another one.
    """
    if not url.database or url.database == ":memory:":
        return
    file = _identity(url.database)

    @event.listens_for(engine, "do_connect")
    def _connect(*_: Any) -> None:
        _refuse_other(url, file)

    @event.listens_for(engine, "begin")
    def _begin(_: Any) -> None:
        _refuse_other(url, file)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _refuse_other(url: URL, file: tuple[int, int] | None) -> None:
    if url.database and _identity(url.database) != file:
        told = (
            "the database is gone, or another one was put in its place: bring it back (is its disk "
            "mounted?), then run the same command again"
        )
        raise FileNotFoundError(errno.ENOENT, told, url.database)


def _serialise(engine: Engine, *, shared: bool) -> None:
    """Make every SQLite transaction take the write lock as it begins.

    Optuna reads before it writes. With SQLite's own, late, lock two workers read the same row and
    the second one fails or overwrites (optuna#4002).

    Args: whether other machines see the file.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        if not shared:  # its index is memory that the processes of one machine share
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # RDBStorage has opened connections before the listeners were there
