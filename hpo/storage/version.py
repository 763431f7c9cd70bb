"""The version of our own tables, beside that which Optuna keeps of its own.

1   the tables without this one
2   rows go with Optuna's; leases tell the machine, and attempts without progress
"""

from __future__ import annotations

import sqlalchemy as sql

from hpo.storage.address import StorageError, masked

VERSION = 2
"""What this program reads and writes. `hpo.queue.upgrade` brings older ones to it."""
TABLE = sql.Table(
    "hpo_version", sql.MetaData(), sql.Column("version", sql.Integer, primary_key=True)
)


def version_of(connection: sql.Connection) -> int:
    """The version of our tables in a database; this program's where they are not made yet."""
    names = sql.inspect(connection).get_table_names()
    found = None
    if TABLE.name in names:
        found = connection.scalar(sql.select(sql.func.max(TABLE.c.version)))
    if found is None:
        return 1 if "hpo_leases" in names else VERSION
    return int(found)


def refuse_other_version(engine: sql.Engine) -> None:
    """Let no process work on tables of another version.

    Raises:
        StorageError: If they are older or newer. Names the remedy.
    """
    with engine.connect() as connection:
        found = version_of(connection)
    if found == VERSION:
        return
    engine.dispose()
    remedy = "run hpo db upgrade" if found < VERSION else "upgrade hpo-flows"
    raise StorageError(
        f"{masked(engine.url)} has hpo-flows' tables of version {found}, this one works on "
        f"{VERSION}: {remedy}"
    )
