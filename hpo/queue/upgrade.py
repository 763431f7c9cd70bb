"""Optuna's tables and ours brought up to the installed versions."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sql
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from hpo.queue.tables import LEASES, PARENTS, make_tables, remove_orphans, write_version
from hpo.storage import sqlite, version
from hpo.storage.address import StorageError, masked
from hpo.storage.open import engine_options, template
from hpo.storage.retry import cause


def upgrade_tables(url: URL) -> tuple[str, str, Path | None]:
    """Bring Optuna's tables and ours up to the installed versions.

    It can be killed anywhere and called again.

    Returns:
        The versions before, those now, and the path of the copy of a SQLite file. A server is not
        copied: `hpo db backup` does that.

    Raises:
        StorageError: If the database does not answer or cannot be brought up to date.
    """
    try:
        storage = RDBStorage(
            template(url), engine_kwargs=engine_options(url), skip_compatibility_check=True
        )
        try:
            return _upgrade(storage, url)
        finally:
            storage.engine.dispose()
    except (SQLAlchemyError, RuntimeError) as error:
        raise StorageError(f"{masked(url)} was not upgraded: {cause(error)}") from None


def _upgrade(storage: RDBStorage, url: URL) -> tuple[str, str, Path | None]:
    copy, before = None, _versions(storage)
    if before[1] > version.VERSION:
        version.refuse_other_version(storage.engine)
    if before != (storage.get_head_version(), version.VERSION):
        if url.get_backend_name() == "sqlite" and url.database:
            copy = Path(f"{url.database}.before-upgrade")
            sqlite.copy(Path(url.database), copy)
        storage.upgrade()
        if sql.inspect(storage.engine).has_table(LEASES.name):
            _upgrade_ours(storage.engine)
    return _text(before), _text(_versions(storage)), copy


def _versions(storage: RDBStorage) -> tuple[str, int]:
    with storage.engine.connect() as connection:
        ours = version.version_of(connection)
    return storage.get_current_version(), ours


def _text(versions: tuple[str, int]) -> str:
    return f"Optuna's {versions[0]}, ours {versions[1]}"


def _upgrade_ours(engine: sql.Engine) -> None:
    """Bring our tables from version 1 to 2. The version is written when all else is there."""
    with engine.begin() as connection:
        found = sql.inspect(connection)
        if version.version_of(connection) == 1:
            _add_columns(connection, {one["name"] for one in found.get_columns(LEASES.name)})
        for table, parent in PARENTS.items() if engine.dialect.name != "sqlite" else ():
            if found.has_table(table.name) and not found.get_foreign_keys(table.name):
                remove_orphans(connection, table)
                connection.exec_driver_sql(
                    f"ALTER TABLE {table.name} ADD FOREIGN KEY ({parent.name}) "
                    f"REFERENCES {parent.table.name} ({parent.name}) ON DELETE CASCADE"
                )
    write_version(engine)
    make_tables(engine)


def _add_columns(connection: sql.Connection, there: set[str]) -> None:
    """The columns of leases that version 1 did not have: every restart was one without progress."""
    for column in LEASES.c:
        if column.name not in there:
            text = sql.schema.CreateColumn(column).compile(connection)
            connection.exec_driver_sql(f"ALTER TABLE {LEASES.name} ADD COLUMN {text}")
    connection.execute(sql.update(LEASES).values(futile=LEASES.c.restarts))
