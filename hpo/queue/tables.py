"""The SQL tables of the queue: ours beside Optuna's own, and the server's time.

Optuna's tables are its private names: this folder alone knows them.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sql
from optuna.storages._rdb.models import (
    StudyModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialSystemAttributeModel,
    TrialValueModel,
)
from sqlalchemy.ext.compiler import compiles

TRIALS = TrialModel.__table__
STUDIES = StudyModel.__table__
ATTRIBUTES = TrialSystemAttributeModel.__table__
REPORTS = TrialIntermediateValueModel.__table__
VALUES = TrialValueModel.__table__

LEASES = sql.Table(
    "hpo_leases",
    sql.MetaData(),
    # Optuna's trial_id, without a foreign key: `optuna` deletes a study knowing its own tables.
    sql.Column("trial_id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("token", sql.String(32), nullable=False),
    sql.Column("host", sql.String(255), nullable=False),
    sql.Column("pid", sql.Integer, nullable=False),
    sql.Column("started", sql.Double, nullable=False),
    sql.Column("job", sql.String(64)),
    sql.Column("rank", sql.Integer, nullable=False),
    sql.Column("renewed", sql.Double, nullable=False),
    sql.Column("restarts", sql.Integer, nullable=False),
)
TOTALS = sql.Table(
    "hpo_totals",
    LEASES.metadata,
    sql.Column("study_id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("total", sql.Integer, nullable=False),
)
JOBS = sql.Table(
    "hpo_jobs",
    LEASES.metadata,
    sql.Column("study_id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("job", sql.String(64), primary_key=True),
)


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
    """Make the tables of ours that are not there.

    Two processes that make them at once clash: the loser finds them made.
    """
    for table in (LEASES, TOTALS, JOBS):
        try:
            table.create(engine, checkfirst=True)
        except (sql.exc.IntegrityError, sql.exc.OperationalError, sql.exc.ProgrammingError):
            if not sql.inspect(engine).has_table(table.name):
                raise
