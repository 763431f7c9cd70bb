"""The SQL tables of the queue: ours beside Optuna's own, and the server's time.

Optuna's tables are its private names: this folder alone knows them.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sql
from optuna.storages._rdb.models import (
    StudyModel,
    StudyUserAttributeModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialValueModel,
)
from sqlalchemy.ext.compiler import compiles

from hpo.storage import version
from hpo.storage.retry import clashed

TRIALS = TrialModel.__table__
STUDIES = StudyModel.__table__
STUDY_ATTRIBUTES = StudyUserAttributeModel.__table__
ATTRIBUTES = TrialSystemAttributeModel.__table__
PARAMETERS = TrialParamModel.__table__
REPORTS = TrialIntermediateValueModel.__table__
VALUES = TrialValueModel.__table__
OF_TRIALS = tuple(
    table
    for table in TRIALS.metadata.tables.values()
    if any(key.column.table is TRIALS for key in table.foreign_keys)
)
"""Every table of Optuna's whose rows belong to trials."""

_OURS = sql.MetaData()


def _gone_with(column: sql.Column[Any]) -> sql.ForeignKeyConstraint:
    """Lets a server delete our rows with Optuna's; SQLite obeys no foreign keys unless asked to."""
    key = sql.ForeignKeyConstraint([column.name], [column], ondelete="CASCADE")
    key.ddl_if(callable_=lambda *_, dialect, **__: dialect.name != "sqlite")
    return key


LEASES = sql.Table(
    "hpo_leases",
    _OURS,
    sql.Column("trial_id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("token", sql.String(32), nullable=False),
    sql.Column("host", sql.String(255), nullable=False),
    # Null in rows of version 1.
    sql.Column("machine", sql.String(255)),
    sql.Column("pid", sql.Integer, nullable=False),
    sql.Column("started", sql.Double, nullable=False),
    sql.Column("job", sql.String(64)),
    sql.Column("rank", sql.Integer, nullable=False),
    sql.Column("renewed", sql.Double, nullable=False),
    # How often the trial was taken up again, and how often in a row without any progress.
    sql.Column("restarts", sql.Integer, nullable=False),
    sql.Column("futile", sql.Integer, nullable=False, server_default="0"),
    # How many values the trial had reported when it was claimed.
    sql.Column("reported", sql.Integer, nullable=False, server_default="0"),
    _gone_with(TRIALS.c.trial_id),
)
TOTALS = sql.Table(
    "hpo_totals",
    _OURS,
    sql.Column("study_id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("total", sql.Integer, nullable=False),
    _gone_with(STUDIES.c.study_id),
)
JOBS = sql.Table(
    "hpo_jobs",
    _OURS,
    sql.Column("study_id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("job", sql.String(64), primary_key=True),
    _gone_with(STUDIES.c.study_id),
)
PARENTS = {LEASES: TRIALS.c.trial_id, TOTALS: STUDIES.c.study_id, JOBS: STUDIES.c.study_id}
"""Each table of ours, and the column of Optuna's whose rows its own belong to."""


class Now(sql.ColumnElement[float]):
    """The server's time, seconds since 1970."""

    inherit_cache = True
    type = sql.Double()


@compiles(Now)
def _now(_: Now, compiler: Any, **__: Any) -> str:
    return {
        "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
        "postgresql": "extract(epoch from clock_timestamp())::double precision",
    }.get(compiler.dialect.name, "(unix_timestamp(sysdate(6)) + 0e0)")  # MySQL and MariaDB


def make_tables(engine: sql.Engine) -> None:
    """Make what is not there of our tables and their version.

    Two processes that make them at once clash: the loser finds them made.
    """
    names = {*sql.inspect(engine).get_table_names()}
    missing = [table for table in PARENTS if table.name not in names]
    if missing:
        write_version(engine)  # first, since our tables without it are those of version 1
    for table in missing:
        _unless_made(engine, sql.schema.CreateTable(table))
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            make_triggers(connection)


def write_version(engine: sql.Engine) -> None:
    """Say that our tables are of this program's version."""
    _unless_made(engine, sql.schema.CreateTable(version.TABLE, if_not_exists=True))
    _unless_made(engine, sql.insert(version.TABLE).values(version=version.VERSION))


def make_triggers(connection: sql.Connection) -> None:
    """Let SQLite delete our rows with Optuna's: it uses the numbers of deleted rows again.

    Optuna's upgrade makes its tables anew, without triggers. What was deleted since has left rows.
    """
    if connection.exec_driver_sql("PRAGMA query_only").scalar():
        return
    query = sql.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    found = [*connection.scalars(query)]
    for table, parent in PARENTS.items():
        trigger, key = f"{table.name}_follow", parent.name
        if trigger not in found:
            remove_orphans(connection, table)
            connection.exec_driver_sql(
                f"CREATE TRIGGER {trigger} AFTER DELETE ON {parent.table.name} "
                f"BEGIN DELETE FROM {table.name} WHERE {key} = OLD.{key}; END"
            )


def remove_orphans(connection: sql.Connection, table: sql.Table) -> None:
    """Delete our rows of trials or studies that are gone."""
    parent = PARENTS[table]
    connection.execute(sql.delete(table).where(table.c[parent.name].not_in(sql.select(parent))))


def _unless_made(engine: sql.Engine, statement: sql.Executable) -> None:
    """Run what makes a table, or its row, unless another process was quicker."""
    try:
        with engine.begin() as connection:
            connection.execute(statement)
    except sql.exc.DBAPIError as error:
        if not clashed(error):
            raise
