"""A study's trials as its database tells them at one moment: states, leases, values, the total.

Optuna reads a trial with all of its parameters and reports, which takes seconds for ten thousand.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
import sqlalchemy as sql
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialValueModel
from optuna.trial import TrialState

from hpo.queue.leases import Lease, Owner
from hpo.queue.tables import (
    JOBS,
    LEASES,
    REPORTS,
    STUDIES,
    STUDY_ATTRIBUTES,
    TOTALS,
    TRIALS,
    VALUES,
    Now,
    make_tables,
)
from hpo.storage.address import StorageError
from hpo.storage.open import reading_at_one_moment
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A study at one moment."""

    total: int
    """Trials that it has and shall have."""
    trials: tuple[TrialSummary, ...]
    """Those that are made, by number."""
    leases: tuple[Lease, ...]
    """Of the running ones, by number."""
    attributes: Mapping[str, Any]
    """The study's user attributes."""

    @property
    def counts(self) -> Mapping[TrialState, int]:
        """How many trials are in each state; those that are not made yet wait."""
        counts = Counter(one.state for one in self.trials)
        counts[TrialState.WAITING] += self.total - len(self.trials)
        return counts

    @property
    def ranked(self) -> list[TrialSummary]:
        """The trials with a result, the best first: the one meaning of a study's best trial."""
        valued = [
            (one.value, one.number, one)
            for one in self.trials
            if one.state is TrialState.COMPLETE and one.value is not None
        ]
        return [one for _, _, one in sorted(valued, key=lambda each: each[:2])]

    @property
    def finished(self) -> set[int]:
        """Numbers of the trials that ended."""
        return {one.number for one in self.trials if one.state.is_finished()}


def transaction(
    method: Callable[Concatenate[Reader, sql.Connection, P], R],
) -> Callable[Concatenate[Reader, P], R]:
    """The method in a transaction of its own, which is run again while the database is away."""

    @functools.wraps(method)
    def run(self: Reader, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.engine.begin() as connection:
            return method(self, connection, *args, **kwargs)

    return retried(run)


def one_moment(
    method: Callable[Concatenate[Reader, sql.Connection, P], R],
) -> Callable[Concatenate[Reader, P], R]:
    """As `transaction`, for a method that only reads, whose statements see the same moment."""

    @functools.wraps(method)
    def run(self: Reader, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._reading.begin() as connection:
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
        self._reading = reading_at_one_moment(self.engine)
        self._name = study.study_name
        self._study_id = study._study_id
        self._of_study = TRIALS.c.study_id == self._study_id

    @one_moment
    def look(self, connection: sql.Connection) -> Snapshot:
        """The study as it is now.

        Raises:
            StorageError: If it was deleted.
        """
        total, attributes = self._study_row(connection)
        first = sql.and_(VALUES.c.trial_id == TRIALS.c.trial_id, VALUES.c.objective == 0)
        held = sql.and_(_LEASED, TRIALS.c.state == TrialState.RUNNING)
        query = sql.select(TRIALS, VALUES.c.value, VALUES.c.value_type, *_LEASE_COLUMNS)
        query = query.outerjoin(VALUES, first).outerjoin(LEASES, held)
        rows = connection.execute(query.where(self._of_study).order_by(TRIALS.c.number)).all()
        return Snapshot(
            total=max(total, len(rows)),
            trials=tuple(map(_summary, rows)),
            leases=tuple(_lease(row) for row in rows if row.token is not None),
            attributes=attributes,
        )

    @one_moment
    def attributes(self, connection: sql.Connection) -> Mapping[str, Any]:
        """The study's user attributes, in one statement; StorageError as `look`."""
        return self._study_row(connection)[1]

    @one_moment
    def leases(self, connection: sql.Connection) -> list[Lease]:
        """Every running trial's lease, by number."""
        rows = connection.execute(
            sql.select(TRIALS.c.trial_id, TRIALS.c.number, *_LEASE_COLUMNS)
            .join(LEASES, _LEASED)
            .where(self._of_study, TRIALS.c.state == TrialState.RUNNING)
            .order_by(TRIALS.c.number)
        )
        return [_lease(row) for row in rows]

    def claims_of(self, owner: Owner) -> list[Lease]:
        """The trials in an owner's hands."""
        return [lease for lease in self.leases() if owner.is_same(lease.owner)]

    @one_moment
    def progress(self, connection: sql.Connection) -> int:
        """A number that grows whenever a trial reports an epoch or ends."""
        count = sql.select(sql.func.count()).where(self._of_study)
        reported = count.join_from(REPORTS, TRIALS, REPORTS.c.trial_id == TRIALS.c.trial_id)
        ended = count.where(TRIALS.c.state.in_([s for s in TrialState if s.is_finished()]))
        return sum(connection.scalar(query) or 0 for query in (reported, ended))

    @one_moment
    def jobs(self, connection: sql.Connection) -> list[str]:
        """The scheduler's jobs that were started for the study, ended ones too."""
        here = JOBS.c.study_id == self._study_id
        return list(connection.scalars(sql.select(JOBS.c.job).where(here)))

    def _study_row(self, connection: sql.Connection) -> tuple[int, dict[str, Any]]:
        """The total that was asked for, and the study's user attributes."""
        has = STUDY_ATTRIBUTES.c.study_id == STUDIES.c.study_id
        rows = connection.execute(
            sql.select(TOTALS.c.total, STUDY_ATTRIBUTES.c.key, STUDY_ATTRIBUTES.c.value_json)
            .select_from(STUDIES)
            .outerjoin(TOTALS, TOTALS.c.study_id == STUDIES.c.study_id)
            .outerjoin(STUDY_ATTRIBUTES, has)
            .where(STUDIES.c.study_id == self._study_id)
        ).all()
        if not rows:
            raise StorageError(f"the study {self._name!r} is not in its database any more")
        return rows[0].total or 0, {row.key: json.loads(row.value_json) for row in rows if row.key}

    def _total(self, connection: sql.Connection) -> int:
        """Trials that the study shall have."""
        here = TOTALS.c.study_id == self._study_id
        return connection.scalar(sql.select(TOTALS.c.total).where(here)) or 0


_LEASED = LEASES.c.trial_id == TRIALS.c.trial_id
_LEASE_COLUMNS = (
    *(column for column in LEASES.c if column.name != "trial_id"),
    (Now() - LEASES.c.renewed).label("silent_s"),
)
_OF_OWNER = tuple(one.name for one in fields(Owner))
_OF_LEASE = tuple(one.name for one in fields(Lease) if one.name != "owner")


def _lease(row: sql.Row[Any]) -> Lease:
    values = row._mapping
    owner = Owner(**{name: values[name] for name in _OF_OWNER})
    return Lease(owner=owner, **{name: values[name] for name in _OF_LEASE})


def _summary(row: sql.Row[Any]) -> TrialSummary:
    return TrialSummary(
        number=row.number,
        state=row.state,
        began=row.datetime_start and row.datetime_start.replace(tzinfo=UTC),
        ended=row.datetime_complete and row.datetime_complete.replace(tzinfo=UTC),
        value=row.value_type and TrialValueModel.stored_repr_to_value(row.value, row.value_type),
    )
