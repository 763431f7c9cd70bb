"""A study's trials as its database tells them: counts, leases, values, in one statement each.

Optuna reads a trial with all of its parameters and reports, which takes seconds for ten thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import optuna
import sqlalchemy as sql
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialValueModel
from optuna.trial import TrialState

from hpo.queue.leases import Lease, Owner
from hpo.queue.tables import JOBS, LEASES, REPORTS, TOTALS, TRIALS, VALUES, Now, make_tables
from hpo.storage.retry import retried


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSummary:
    """When a trial ran, and its result."""

    number: int
    state: TrialState
    began: datetime | None
    ended: datetime | None
    value: float | None

    @property
    def took_s(self) -> float | None:
        """Seconds from its beginning to its end."""
        if self.began is None or self.ended is None:
            return None
        return (self.ended - self.began).total_seconds()


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

    @retried
    def leases(self) -> list[Lease]:
        """Every running trial's lease, by number."""
        with self.engine.begin() as connection:
            rows = connection.execute(
                sql.select(LEASES, TRIALS.c.number, (Now() - LEASES.c.renewed).label("silent_s"))
                .join(TRIALS, TRIALS.c.trial_id == LEASES.c.trial_id)
                .where(self._in_state(TrialState.RUNNING))
                .order_by(TRIALS.c.number)
            ).all()
        return [
            Lease(
                number=row.number,
                trial_id=row.trial_id,
                token=row.token,
                owner=Owner(
                    host=row.host, pid=row.pid, started=row.started, job=row.job, rank=row.rank
                ),
                silent_s=row.silent_s,
                restarts=row.restarts,
            )
            for row in rows
        ]

    def claims_of(self, owner: Owner) -> list[Lease]:
        """The trials in an owner's hands."""
        return [lease for lease in self.leases() if owner.is_same(lease.owner)]

    @retried
    def counts(self) -> dict[TrialState, int]:
        """How many trials are in each state; those that are not made yet wait."""
        with self.engine.begin() as connection:
            total = self._total(connection)
            rows = connection.execute(
                sql.select(TRIALS.c.state, sql.func.count())
                .where(self._of_study)
                .group_by(TRIALS.c.state)
            ).all()
        counts = {state: 0 for state in TrialState} | {row[0]: row[1] for row in rows}
        counts[TrialState.WAITING] += max(0, total - sum(counts.values()))
        return counts

    @retried
    def summaries(self) -> list[TrialSummary]:
        """Every trial in short, by number."""
        first = sql.and_(VALUES.c.trial_id == TRIALS.c.trial_id, VALUES.c.objective == 0)
        with self.engine.begin() as connection:
            rows = connection.execute(
                sql.select(TRIALS, VALUES.c.value, VALUES.c.value_type)
                .outerjoin(VALUES, first)
                .where(self._of_study)
                .order_by(TRIALS.c.number)
            ).all()
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

    @retried
    def progress(self) -> int:
        """A number that grows whenever a trial reports an epoch or ends."""
        reports = sql.select(sql.func.count()).select_from(
            REPORTS.join(TRIALS, REPORTS.c.trial_id == TRIALS.c.trial_id)
        )
        with self.engine.begin() as connection:
            made = connection.scalar(reports.where(self._of_study))
        ended = sum(count for state, count in self.counts().items() if state.is_finished())
        return (made or 0) + ended

    @retried
    def jobs(self) -> list[str]:
        """The scheduler's jobs that were started for the study, ended ones too."""
        with self.engine.begin() as connection:
            here = JOBS.c.study_id == self._study_id
            return list(connection.scalars(sql.select(JOBS.c.job).where(here)))

    def _in_state(self, state: TrialState) -> sql.ColumnElement[bool]:
        return sql.and_(self._of_study, TRIALS.c.state == state)

    def _total(self, connection: sql.Connection) -> int:
        """Trials that the study shall have."""
        here = TOTALS.c.study_id == self._study_id
        return connection.scalar(sql.select(TOTALS.c.total).where(here)) or 0
