"""Whether a study's database can be used from here: its place, its tables, its connections.

Nothing is made: a missing SQLite file stays missing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from optuna.storages import RDBStorage
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from hpo.doctor.check import Check, guarded, said
from hpo.storage import filesystem, version
from hpo.storage.address import is_own, masked, way_out

SPARE = 5
"""Connections to the database beside the workers': launch, status, dashboard, other users."""
ANSWER_S = 10
"""Longest wait for a database server to take a connection."""


def lock_checks(url: URL, on: str, force_sqlite: bool) -> list[Check]:
    """Whether two workers can safely write at once."""
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
    remedy = "run hpo db start, or give a server with --storage postgresql://user@host/database"
    if on != "slurm":
        remedy += ", or a file on this machine's own disk"
    return [Check("storage locks", "warning" if force_sqlite else "failed", found, remedy)]


def answer_checks(url: URL, workers: int) -> list[Check]:
    """Whether the database answers, has tables of this Optuna, and connections left."""
    file = Path(url.database or "").absolute() if url.get_backend_name() == "sqlite" else None
    new = file is not None and not file.is_file()
    if fault := filesystem.write_fault(file.parent) if file else None:
        found = f"{masked(url)} cannot be {'made' if new else 'written'}: {fault}"
        return [Check("storage", "failed", found, "give another with --storage")]
    if new:
        return [Check("storage", "ok", f"{masked(url)} will be made")]
    try:
        with _connected(url) as connection:
            # SQLite opens a file only when it is read: `select 1` would take a picture for one.
            connection.exec_driver_sql("pragma schema_version" if file else "select 1")
    except ImportError as error:
        found = f"{masked(url)} needs a driver that is not installed: {error}"
        remedy = "pip install 'hpo-flows[postgres]' or 'hpo-flows[mysql]'"
        return [Check("storage", "failed", found, remedy)]
    except SQLAlchemyError as error:
        found = f"{masked(url)} does not answer: {said(error, url)}"
        remedy = way_out(url).removeprefix(": ") or "check the URL, and that the database is there"
        return [Check("storage", "failed", found, remedy)]
    return [
        Check("storage", "ok", f"{masked(url)} answers"),
        *guarded("storage tables", lambda: [_tables(url)], url),
        *guarded("storage connections", lambda: _connections(url, workers), url),
    ]


def _tables(url: URL) -> Check:
    """Optuna's tables and ours against those installed. RDBStorage would make missing ones."""
    with _connected(url) as connection:
        if not inspect(connection).has_table("version_info"):
            return Check("storage tables", "ok", "hpo launch will make Optuna's tables")
        revision = None
        if inspect(connection).has_table("alembic_version"):
            query = "select version_num from alembic_version"
            revision = connection.exec_driver_sql(query).scalar()
        ours = version.version_of(connection)
    if revision is None:
        found = "Optuna's tables have no revision: they are being made, or very old"
        return Check("storage tables", "warning", found, "hpo db upgrade")
    installed = RDBStorage("sqlite://")
    head, known = installed.get_head_version(), installed.get_all_versions()
    installed.engine.dispose()
    optuna = metadata.version("optuna")
    if revision == head and ours != version.VERSION:
        found = f"hpo-flows' tables are of version {ours}, this one works on {version.VERSION}"
        older = ours < version.VERSION
        remedy = "hpo db upgrade" if older else "pip install --upgrade hpo-flows"
        return Check("storage tables", "failed", found, remedy)
    if revision == head:
        return Check("storage tables", "ok", f"of Optuna {optuna} ({revision})")
    found = f"Optuna's tables are of {revision}, the installed Optuna {optuna} has {head}"
    remedy = "hpo db upgrade" if revision in known else "pip install --upgrade optuna"
    return Check("storage tables", "failed", found, remedy)


def _connections(url: URL, workers: int) -> list[Check]:
    """Whether the server has a connection left for each worker."""
    backend = url.get_backend_name()
    if backend not in ("postgresql", "mysql", "mariadb"):
        return []
    with _connected(url) as connection:
        count = _of_postgresql if backend == "postgresql" else _of_mysql
        return [_room(workers, *count(connection), own=is_own(url))]


def _room(workers: int, limit: int, used: int, *, own: bool = False) -> Check:
    found = f"{limit - used} of the server's {limit} are free, {workers} workers take one each"
    if workers + SPARE > limit - used:
        needed = workers + SPARE + used
        remedy = f"fewer --workers, or max_connections = {needed} or more"
        if own:
            remedy = f"fewer --workers, or hpo db stop and hpo db start --connections {needed}"
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
    asked = ("show variables like 'max_connections'", "show status like 'Threads_connected'")
    limit, used = (int(connection.exec_driver_sql(query).one()[1]) for query in asked)
    return limit, used


@contextlib.contextmanager
def _connected(url: URL) -> Iterator[Connection]:
    """One connection, closed at the end. A SQLite file that is not there is not made."""
    if url.get_backend_name() == "sqlite":
        place = f"{Path(url.database or '').absolute().as_uri()}?mode=rw"
        engine = create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(place, uri=True), poolclass=NullPool
        )
    else:
        known = url.get_driver_name() in ("psycopg", "psycopg2", "pymysql")
        wait = {"connect_timeout": ANSWER_S} if known else {}
        engine = create_engine(url, connect_args=wait, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection
