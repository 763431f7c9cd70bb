"""A study's trials as its database tells them: counts, leases, values, in one statement each.

Optuna reads a trial with all of its parameters and reports, which takes seconds for ten thousand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Concatenate, ParamSpec, TypeVar

import optuna
import sqlalchemy as sql
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialValueModel
from optuna.trial import TrialState

from hpo.queue.leases import Lease, Owner
from hpo.queue.tables import JOBS, LEASES, REPORTS, TOTALS, TRIALS, VALUES, Now, make_tables
from hpo.storage.retry import retried

P = ParamSpec("P")
R = TypeVar("R")
Reader = TypeVar("Reader", bound="TrialReader")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSummary:
    """When a trial ran, and its result."""

    number: int
    state: TrialState
    began: datetime | None
    ended: datetime | None
    value: float | None


def transaction(
    method: Callable[Concatenate[Reader, sql.Connection, P], R],
) -> Callable[Concatenate[Reader, P], R]:
    """The method in a transaction of its own, which is run again while the database is away."""

    @functools.wraps(method)
    def run(self: Reader, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.engine.begin() as connection:
            return method(self, connection, *args, **kwargs)

    return retried(run)


class TrialReader:
    """Reads the trials of one study.

    Args:
        study: Of an `RDBStorage`, whose database also holds the leases.
    """

    def __init__(self, study: optuna.Study) -> None:
        backend = getattr(study._storage, "_backend", study._storage)
        assert isinstance(backend, RDBStorage)
        self.engine = backend.engine
        make_tables(self.engine)
        self._study_id = study._study_id
        self._of_study = TRIALS.c.study_id == self._study_id

    @transaction
    def leases(self, connection: sql.Connection) -> list[Lease]:
        """Every running trial's lease, by number."""
        rows = connection.execute(
            sql.select(LEASES, TRIALS.c.number, (Now() - LEASES.c.renewed).label("silent_s"))
            .join(TRIALS, TRIALS.c.trial_id == LEASES.c.trial_id)
            .where(self._of_study, TRIALS.c.state == TrialState.RUNNING)
            .order_by(TRIALS.c.number)
        )
        of_owner = {one.name for one in fields(Owner)}
        of_lease = {one.name for one in fields(Lease)} - {"owner"}
        return [
            Lease(
                owner=Owner(**{name: row[name] for name in of_owner}),
                **{name: row[name] for name in of_lease},
            )
            for row in rows.mappings()
        ]

    def claims_of(self, owner: Owner) -> list[Lease]:
        """The trials in an owner's hands."""
        return [lease for lease in self.leases() if owner.is_same(lease.owner)]

    @transaction
    def counts(self, connection: sql.Connection) -> dict[TrialState, int]:
        """How many trials are in each state; those that are not made yet wait."""
        query = sql.select(TRIALS.c.state, sql.func.count()).group_by(TRIALS.c.state)
        rows = connection.execute(query.where(self._of_study))
        counts = dict.fromkeys(TrialState, 0) | {row[0]: row[1] for row in rows}
        counts[TrialState.WAITING] += max(0, self._total(connection) - sum(counts.values()))
        return counts

    @transaction
    def summaries(self, connection: sql.Connection) -> list[TrialSummary]:
        """Every trial in short, by number."""
        first = sql.and_(VALUES.c.trial_id == TRIALS.c.trial_id, VALUES.c.objective == 0)
        rows = connection.execute(
            sql.select(TRIALS, VALUES.c.value, VALUES.c.value_type)
            .outerjoin(VALUES, first)
            .where(self._of_study)
            .order_by(TRIALS.c.number)
        )
        return [
            TrialSummary(
                number=row.number,
                state=row.state,
                began=row.datetime_start and row.datetime_start.replace(tzinfo=UTC),
                ended=row.datetime_complete and row.datetime_complete.replace(tzinfo=UTC),
                value=row.value_type
                and TrialValueModel.stored_repr_to_value(row.value, row.value_type),
            )
            for row in rows
        ]

    @transaction
    def progress(self, connection: sql.Connection) -> int:
        """A number that grows whenever a trial reports an epoch or ends."""
        count = sql.select(sql.func.count()).where(self._of_study)
        reported = count.join_from(REPORTS, TRIALS, REPORTS.c.trial_id == TRIALS.c.trial_id)
        ended = count.where(TRIALS.c.state.in_([s for s in TrialState if s.is_finished()]))
        return sum(connection.scalar(query) or 0 for query in (reported, ended))

    @transaction
    def jobs(self, connection: sql.Connection) -> list[str]:
        """The scheduler's jobs that were started for the study, ended ones too."""
        here = JOBS.c.study_id == self._study_id
        return list(connection.scalars(sql.select(JOBS.c.job).where(here)))

    def _total(self, connection: sql.Connection) -> int:
        """Trials that the study shall have."""
        here = TOTALS.c.study_id == self._study_id
        return connection.scalar(sql.select(TOTALS.c.total).where(here)) or 0
