"""Whether a study's database can be used from here: its place, its tables, its connections.

Looks without making anything: a SQLite file that is not there is not made.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from hpo.doctor.check import Check, guarded, said
from hpo.storage import filesystem
from hpo.storage.address import masked

SPARE = 5
"""Connections to the database beside the workers': launch, status, dashboard, other users."""
ANSWER_S = 10
"""Longest wait for a database server to take a connection."""


def locks(url: URL, on: str, force_sqlite: bool) -> list[Check]:
    """Whether two workers can write at once without harm."""
    if url.get_backend_name() != "sqlite":
        return [Check("storage locks", "ok", "a server keeps the workers apart")]
    if not url.database:
        found = "SQLite in memory is seen by one process alone"
        return [Check("storage locks", "failed", found, "name a file: --storage sqlite:///hpo.db")]
    kind = filesystem.kind_of(Path(url.database))
    found = f"{masked(url)} is for one machine"
    if on == "slurm":
        found += ": SQLite's locks do not hold between nodes"
    elif filesystem.is_network(kind):
        found += f", but lies on {kind}, where SQLite's locks may not hold"
    else:
        return [Check("storage locks", "ok", f"{found}, as the workers are ({kind or 'unknown'})")]
    remedy = "give a server with --storage postgresql+psycopg://user@host/database"
    if on != "slurm":
        remedy += ", or a file on this machine's own disk"
    return [Check("storage locks", "warning" if force_sqlite else "failed", found, remedy)]


def answers(url: URL, workers: int) -> list[Check]:
    """Whether the database answers, and then what it says."""
    new = _is_new_file(url)
    reachable = _new_file(url) if new else _reachable(url)
    if new or reachable.verdict != "ok":
        return [reachable]
    return [
        reachable,
        *guarded("storage tables", lambda: _tables(url), url),
        *guarded("storage connections", lambda: _connections(url, workers), url),
    ]


def _is_new_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file()


def _new_file(url: URL) -> Check:
    folder = Path(url.database or "").absolute().parent
    if fault := filesystem.write_fault(folder):
        found = f"{masked(url)} cannot be made: {fault}"
        return Check("storage", "failed", found, "give another with --storage")
    return Check("storage", "ok", f"{masked(url)} will be made")


def _reachable(url: URL) -> Check:
    # SQLite opens a file only when it is read: `select 1` would find nothing wrong with a picture.
    sqlite = url.get_backend_name() == "sqlite"
    try:
        with _connected(url) as connection:
            connection.exec_driver_sql("pragma schema_version" if sqlite else "select 1")
    except ImportError as error:
        found = f"{masked(url)} needs a driver that is not installed: {error}"
        remedy = "pip install 'hpo-flows[postgres]' or 'hpo-flows[mysql]'"
        return Check("storage", "failed", found, remedy)
    except SQLAlchemyError as error:
        found = f"{masked(url)} does not answer: {said(error, url)}"
        return Check("storage", "failed", found, "check the URL, and that the database is there")
    if sqlite and (fault := filesystem.write_fault(Path(url.database or "").absolute().parent)):
        found = f"{masked(url)} cannot be written: {fault}"
        return Check("storage", "failed", found, "give another with --storage")
    return Check("storage", "ok", f"{masked(url)} answers")


def _tables(url: URL) -> list[Check]:
    """Optuna's tables against the installed Optuna. RDBStorage itself would make what it misses."""
    with _connected(url) as connection:
        if not inspect(connection).has_table("version_info"):
            return [Check("storage tables", "ok", "hpo launch will make Optuna's tables")]
        revision = _revision(connection)
    head, *older = _revisions()
    optuna = metadata.version("optuna")
    if revision == head:
        return [Check("storage tables", "ok", f"of Optuna {optuna} ({revision})")]
    if revision is None:
        found = "Optuna's tables have no revision: they are being made, or very old"
        return [Check("storage tables", "warning", found, "hpo db upgrade")]
    found = f"Optuna's tables are of {revision}, the installed Optuna {optuna} has {head}"
    remedy = "hpo db upgrade" if revision in older else "pip install --upgrade optuna"
    return [Check("storage tables", "failed", found, remedy)]


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.exec_driver_sql("select version_num from alembic_version").scalar()
    return None if found is None else str(found)


def _revisions() -> list[str]:
    """Those that the installed Optuna knows, the newest first."""
    storage = RDBStorage("sqlite://")
    try:
        head = storage.get_head_version()
        return [head, *(one for one in storage.get_all_versions() if one != head)]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _connections(url: URL, workers: int) -> list[Check]:
    """Whether the server has a connection left for each worker."""
    backend = url.get_backend_name()
    if backend not in ("postgresql", "mysql", "mariadb"):
        return []
    with _connected(url) as connection:
        count = _of_postgresql if backend == "postgresql" else _of_mysql
        limit, used = count(connection)
    return [_room(workers, limit=limit, used=used)]


def _room(workers: int, *, limit: int, used: int) -> Check:
    found = f"{limit - used} of the server's {limit} are free, {workers} workers take one each"
    if workers + SPARE > limit - used:
        remedy = f"fewer --workers, or max_connections = {workers + SPARE + used} or more"
        return Check("storage connections", "warning", found, remedy)
    return Check("storage connections", "ok", found)


def _of_postgresql(connection: Connection) -> tuple[int, int]:
    """Connections that ordinary users can have, and those that are in use.

    Not counted in pg_stat_activity: there others' sessions do not show what they are.
    """
    row = connection.exec_driver_sql(
        "select cast(current_setting('max_connections') as int)"
        " - cast(current_setting('superuser_reserved_connections') as int)"
        " - cast(coalesce(current_setting('reserved_connections', true), '0') as int),"
        " (select cast(sum(numbackends) as int) from pg_stat_database)"
    ).one()
    return int(row[0]), int(row[1])


def _of_mysql(connection: Connection) -> tuple[int, int]:
    limit = connection.exec_driver_sql("show variables like 'max_connections'").one()
    used = connection.exec_driver_sql("show status like 'Threads_connected'").one()
    return int(limit[1]), int(used[1])


_WAIT: dict[str, dict[str, Any]] = {
    "psycopg": {"connect_timeout": ANSWER_S},
    "psycopg2": {"connect_timeout": ANSWER_S},
    "pymysql": {"connect_timeout": ANSWER_S, "read_timeout": ANSWER_S},
}


@contextlib.contextmanager
def _connected(url: URL) -> Iterator[Connection]:
    """One connection, closed at the end. A SQLite file that is not there is not made."""
    if url.get_backend_name() == "sqlite":
        place = f"{Path(url.database or '').absolute().as_uri()}?mode=rw"
        engine = create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(place, uri=True), poolclass=NullPool
        )
    else:
        wait = _WAIT.get(url.get_driver_name(), {})
        engine = create_engine(url, connect_args=wait, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection
