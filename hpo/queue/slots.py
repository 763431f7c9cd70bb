"""Exactly N trials: claimed one by one, taken back from the dead.

The only module that touches Optuna's private names. Optuna alone counts trials per process, so N
workers overshoot, and it leaves the trial of a killed worker RUNNING for ever. Here the launcher
writes down N; a worker claims a trial that waits, or makes the next one while there are fewer than
N, in the transaction that writes its lease. Rows are made late because Optuna reads all that have
not ended again and again: hundreds that wait would cost more than the search. A trial whose owner
is gone goes back to WAITING under its own number, with the parameters and values that it had, so
that it can go on from its checkpoint.

Every transaction is begun again while the server is away, and bears it. Times are the server's:
nodes' clocks differ.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import optuna
import sqlalchemy as sql
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    StudyModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialSystemAttributeModel,
    TrialValueModel,
)
from optuna.trial import TrialState

from hpo.queue.jobs import JobState, job_states
from hpo.queue.leases import JOBS, LEASES, TOTALS, Claim, Lease, LeaseLost, Now, Owner, make_tables
from hpo.storage.retry import retried

_TRIALS = TrialModel.__table__
_STUDIES = StudyModel.__table__
_ATTRIBUTES = TrialSystemAttributeModel.__table__
_REPORTS = TrialIntermediateValueModel.__table__
_VALUES = TrialValueModel.__table__
_AskScheduler = Callable[[Iterable[str]], Mapping[str, JobState] | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaped:
    """What became of the trials of dead owners, by number."""

    released: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSummary:
    """When a trial went, and what came of it: all that can be told of it in a line."""

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


class Slots:
    """The trials of one study as slots to be claimed.

    Args:
        study: Of an `RDBStorage`; its database also holds the leases.
        max_restarts: How often a trial is handed on after its owner's death.
        ask: What says which jobs there are; None for "no answer".
    """

    def __init__(
        self,
        study: optuna.Study,
        *,
        max_restarts: int,
        ask: _AskScheduler = job_states,
    ) -> None:
        self._study = study
        self.max_restarts = max_restarts
        self._ask = ask
        backend = getattr(study._storage, "_backend", study._storage)
        assert isinstance(backend, RDBStorage)
        self._engine = backend.engine
        make_tables(self._engine)

    @retried
    def top_up(self, total: int, *, points: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Have the study get `total` trials in all, and say how many more that is.

        One transaction that holds the study's row: two launches at once add nothing twice.

        Args:
            total: Trials that the study shall have in all.
            points: Parameters of trial 0, 1, ...; without them the sampler decides.
        """
        with self._engine.begin() as connection:
            have = self._count(connection)
            before = max(have, self._total(connection))
            self._set_total(connection, max(before, total))
            for number in range(have, total if points else have):
                self._fix(connection, self._insert(connection, number), (points or ())[number])
            return max(0, total - before)

    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> list[int]:
        """Have these parameters tried next, by trials that count to the total or exceed it.

        Returns:
            The numbers of the trials.
        """
        return retried(self._enqueue)(points)

    def claim(self, owner: Owner) -> Claim | None:
        """The waiting trial with the lowest number, or None when none waits."""
        # One token for all tries: a claim whose answer was lost is found again by it.
        token = uuid.uuid4().hex
        claim = retried(self._claim)
        while (won := claim(owner, token)) is False:
            pass  # another worker was quicker
        return won or None

    def trial_of(self, claim: Claim) -> optuna.Trial:
        """Optuna's handle of a claimed trial."""
        # As Optuna's own `ask`: else the sampler knows the trials of the first suggestion for ever.
        self._study._thread_local.cached_all_trials = None
        # Fills the storage's cache, without which a suggestion raises KeyError.
        self._study.get_trials(deepcopy=False)
        return optuna.Trial(self._study, claim.trial_id)

    @retried
    def renew(self, claim: Claim) -> None:
        """Say that the owner of the trial lives.

        Raises:
            LeaseLost: If the trial was taken away.
        """
        with self._engine.begin() as connection:
            held = connection.execute(
                sql.update(LEASES)
                .where(LEASES.c.trial_id == claim.trial_id)
                .where(LEASES.c.token == claim.token)
                .values(renewed=Now())
            ).rowcount
        if not held:
            raise LeaseLost(f"trial {claim.number} was handed to another worker")

    def finish(self, claim: Claim, state: TrialState, value: float | None = None) -> None:
        """Tell the study how a claimed trial ended, and end its lease, in one transaction.

        Args:
            claim: Of the trial.
            state: COMPLETE, PRUNED or FAIL.
            value: Of a complete trial; that of a pruned one is the last that it reported.

        Raises:
            LeaseLost: If the trial was taken away; nothing is told then.
        """
        tries = 0

        @retried
        def end() -> bool:
            nonlocal tries
            tries += 1
            return self._end(claim.trial_id, claim.token, state, value, again=tries > 1)

        if not end():
            raise LeaseLost(f"trial {claim.number} was handed to another worker")

    def release(self, claim: Claim, *, futile: bool = False) -> None:
        """Hand a claimed trial back, to be gone on with by whoever asks next.

        Args:
            claim: Of the trial.
            futile: Whether it got nowhere, which counts as a restart: it might never get anywhere.
        """
        retried(self._wait_again)(claim.trial_id, claim.token, claim.restarts + futile)

    def reap(self, me: Owner | None = None) -> Reaped:
        """Take the trials of dead owners back; those restarted too often fail.

        A trial can also be RUNNING without any lease, when another tool than this one claimed it;
        it is left alone.

        Args: the process that calls, if it is a worker: what its job held before it was started
            anew is lost.
        """
        released, failed = [], []
        for lease in self._lost(me):
            if lease.restarts < self.max_restarts:
                wait_again = retried(self._wait_again)
                if wait_again(lease.trial_id, lease.token, lease.restarts + 1):
                    released.append(lease.number)
            elif retried(self._end)(lease.trial_id, lease.token, TrialState.FAIL, None):
                failed.append(lease.number)
        return Reaped(released=tuple(released), failed=tuple(failed))

    @retried
    def leases(self) -> list[Lease]:
        """Every running trial's lease, by number."""
        with self._engine.begin() as connection:
            rows = connection.execute(
                sql.select(LEASES, _TRIALS.c.number, (Now() - LEASES.c.renewed).label("silent_s"))
                .join(_TRIALS, _TRIALS.c.trial_id == LEASES.c.trial_id)
                .where(self._in_state(TrialState.RUNNING))
                .order_by(_TRIALS.c.number)
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

    def claims_of(self, owner: Owner) -> list[Claim]:
        """The trials in an owner's hands."""
        return [
            Claim(
                number=lease.number,
                trial_id=lease.trial_id,
                token=lease.token,
                restarts=lease.restarts,
            )
            for lease in self.leases()
            if owner.is_same(lease.owner)
        ]

    @retried
    def counts(self) -> dict[TrialState, int]:
        """How many trials are in each state; those that are not made yet wait."""
        with self._engine.begin() as connection:
            total = self._total(connection)
            rows = connection.execute(
                sql.select(_TRIALS.c.state, sql.func.count())
                .where(_TRIALS.c.study_id == self._study._study_id)
                .group_by(_TRIALS.c.state)
            ).all()
        counts = {state: 0 for state in TrialState} | {row[0]: row[1] for row in rows}
        counts[TrialState.WAITING] += max(0, total - sum(counts.values()))
        return counts

    @retried
    def summaries(self) -> list[TrialSummary]:
        """Every trial's course, by number.

        One statement: Optuna reads a trial with all of its parameters and reports, which takes
        seconds for ten thousand.
        """
        first = sql.and_(_VALUES.c.trial_id == _TRIALS.c.trial_id, _VALUES.c.objective == 0)
        with self._engine.begin() as connection:
            rows = connection.execute(
                sql.select(_TRIALS, _VALUES.c.value, _VALUES.c.value_type)
                .outerjoin(_VALUES, first)
                .where(_TRIALS.c.study_id == self._study._study_id)
                .order_by(_TRIALS.c.number)
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
            _REPORTS.join(_TRIALS, _REPORTS.c.trial_id == _TRIALS.c.trial_id)
        )
        with self._engine.begin() as connection:
            made = connection.scalar(reports.where(_TRIALS.c.study_id == self._study._study_id))
        ended = sum(count for state, count in self.counts().items() if state.is_finished())
        return (made or 0) + ended

    @retried
    def add_jobs(self, jobs: Iterable[str]) -> None:
        """Remember the scheduler's jobs that work for the study, for a later launcher."""
        study_id = self._study._study_id
        with self._engine.begin() as connection:
            for job in jobs:
                here = sql.and_(JOBS.c.study_id == study_id, JOBS.c.job == job)
                if connection.execute(sql.select(JOBS).where(here)).first() is None:
                    connection.execute(sql.insert(JOBS).values(study_id=study_id, job=job))

    @retried
    def jobs(self) -> list[str]:
        """The scheduler's jobs that were started for the study, ended ones too."""
        with self._engine.begin() as connection:
            rows = connection.execute(
                sql.select(JOBS.c.job).where(JOBS.c.study_id == self._study._study_id)
            )
            return [row.job for row in rows]

    def _in_state(self, state: TrialState) -> sql.ColumnElement[bool]:
        return sql.and_(_TRIALS.c.study_id == self._study._study_id, _TRIALS.c.state == state)

    def _lost(self, me: Owner | None) -> list[Lease]:
        """The leases of dead owners; the scheduler is asked at most once, and only if need be."""
        leases = self.leases()
        if any(lease.silent_s < 0 for lease in leases):
            self._date_back()
        doubtful = [lease.owner.job for lease in leases if lease.doubtful and lease.owner.job]
        jobs = self._ask(doubtful) if doubtful else {}
        return [
            lease
            for lease in leases
            if not lease.lives(jobs) or (me is not None and me.succeeds(lease.owner))
        ]

    @retried
    def _date_back(self) -> None:
        """Date renewals of the future, before the server's clock was set back, to now.

        Else an owner that died since would count as alive until that time has come.
        """
        with self._engine.begin() as connection:
            connection.execute(
                sql.update(LEASES).where(LEASES.c.renewed > Now() + 1.0).values(renewed=Now())
            )

    def _enqueue(self, points: Sequence[Mapping[str, Any]]) -> list[int]:
        with self._engine.begin() as connection:
            have = self._count(connection)
            numbers = list(range(have, have + len(points)))
            for number, point in zip(numbers, points, strict=True):
                self._fix(connection, self._insert(connection, number), point)
            self._set_total(connection, max(self._total(connection), have + len(points)))
            return numbers

    def _count(self, connection: sql.Connection) -> int:
        """Trials of the study, whose row is held until the transaction ends."""
        study_id = self._study._study_id
        connection.execute(
            sql.select(_STUDIES.c.study_id).where(_STUDIES.c.study_id == study_id).with_for_update()
        )
        count = sql.select(sql.func.count()).where(_TRIALS.c.study_id == study_id)
        return connection.scalar(count) or 0

    def _total(self, connection: sql.Connection) -> int:
        """Trials that the study shall have."""
        here = TOTALS.c.study_id == self._study._study_id
        return connection.scalar(sql.select(TOTALS.c.total).where(here)) or 0

    def _set_total(self, connection: sql.Connection, total: int) -> None:
        study_id = self._study._study_id
        connection.execute(sql.delete(TOTALS).where(TOTALS.c.study_id == study_id))
        connection.execute(sql.insert(TOTALS).values(study_id=study_id, total=total))

    def _insert(
        self,
        connection: sql.Connection,
        number: int,
        state: TrialState = TrialState.WAITING,
        start: datetime | None = None,
    ) -> int:
        """A new trial."""
        made = connection.execute(
            sql.insert(_TRIALS).values(
                study_id=self._study._study_id, number=number, state=state, datetime_start=start
            )
        )
        assert made.inserted_primary_key is not None
        trial_id: int = made.inserted_primary_key[0]
        return trial_id

    def _fix(self, connection: sql.Connection, trial_id: int, point: Mapping[str, Any]) -> None:
        """Give a trial its parameters, as Optuna's own `enqueue_trial` does."""
        connection.execute(
            sql.insert(_ATTRIBUTES).values(
                trial_id=trial_id, key="fixed_params", value_json=json.dumps(point)
            )
        )

    def _claim(self, owner: Owner, token: str) -> Claim | None | Literal[False]:
        """One try: None when no trial waits, False when another worker took it."""
        with self._engine.begin() as connection:
            if ours := self._claimed(connection, token):
                return ours
            row = connection.execute(
                sql.select(_TRIALS.c.trial_id, _TRIALS.c.number, _TRIALS.c.datetime_start)
                .where(self._in_state(TrialState.WAITING))
                .order_by(_TRIALS.c.trial_id)
                .limit(1)
                # On a server each worker locks another one instead of waiting for the first.
                .with_for_update(skip_locked=True)
            ).first()
            if row is None:
                return self._begin(connection, owner, token)
            won = connection.execute(
                sql.update(_TRIALS)
                .where(_TRIALS.c.trial_id == row.trial_id)
                .where(_TRIALS.c.state == TrialState.WAITING)
                .values(
                    state=TrialState.RUNNING,
                    datetime_start=row.datetime_start or _utc(),
                )
            ).rowcount
            return bool(won) and self._lease(connection, row.trial_id, row.number, owner, token)

    def _begin(self, connection: sql.Connection, owner: Owner, token: str) -> Claim | None:
        """A new trial in the owner's hands, or None when the study has all of its trials."""
        number = self._count(connection)
        if number >= self._total(connection):
            return None
        trial_id = self._insert(connection, number, TrialState.RUNNING, _utc())
        return self._lease(connection, trial_id, number, owner, token)

    def _claimed(self, connection: sql.Connection, token: str) -> Claim | None:
        """What an earlier try won."""
        row = connection.execute(
            sql.select(LEASES.c.trial_id, LEASES.c.restarts, _TRIALS.c.number)
            .join(_TRIALS, _TRIALS.c.trial_id == LEASES.c.trial_id)
            .where(LEASES.c.token == token)
        ).first()
        if row is None:
            return None
        return Claim(number=row.number, trial_id=row.trial_id, token=token, restarts=row.restarts)

    def _lease(
        self, connection: sql.Connection, trial_id: int, number: int, owner: Owner, token: str
    ) -> Claim:
        """Write the lease of a trial just won; a row left by its last owner tells the restarts."""
        here = LEASES.c.trial_id == trial_id
        restarts = connection.scalar(sql.select(LEASES.c.restarts).where(here)) or 0
        connection.execute(sql.delete(LEASES).where(here))
        connection.execute(
            sql.insert(LEASES).values(
                trial_id=trial_id,
                token=token,
                host=owner.host,
                pid=owner.pid,
                started=owner.started,
                job=owner.job,
                rank=owner.rank,
                renewed=Now(),
                restarts=restarts,
            )
        )
        return Claim(number=number, trial_id=trial_id, token=token, restarts=restarts)

    def _wait_again(self, trial_id: int, token: str, restarts: int) -> bool:
        """Put the trial back unless its lease has changed hands meanwhile; say which."""
        with self._engine.begin() as connection:
            held = connection.execute(
                sql.update(LEASES)
                .where(LEASES.c.trial_id == trial_id)
                .where(LEASES.c.token == token)
                # A new token fences off the old owner; the row keeps the count of restarts.
                .values(token=uuid.uuid4().hex, restarts=restarts)
            ).rowcount
            if held:
                connection.execute(
                    sql.update(_TRIALS)
                    .where(_TRIALS.c.trial_id == trial_id)
                    .where(_TRIALS.c.state == TrialState.RUNNING)
                    .values(state=TrialState.WAITING)
                )
        return bool(held)

    def _end(
        self,
        trial_id: int,
        token: str,
        state: TrialState,
        value: float | None,
        *,
        again: bool = False,
    ) -> bool:
        """End a trial and its lease; False, and nothing done, if the lease has changed hands.

        Args: `again` after a try whose answer was lost: what it ended is not to be ended twice.
        """
        with self._engine.begin() as connection:
            held = connection.execute(
                sql.delete(LEASES)
                .where(LEASES.c.trial_id == trial_id)
                .where(LEASES.c.token == token)
            ).rowcount
            if not held:
                now = connection.scalar(
                    sql.select(_TRIALS.c.state).where(_TRIALS.c.trial_id == trial_id)
                )
                return again and now == state
            connection.execute(
                sql.update(_TRIALS)
                .where(_TRIALS.c.trial_id == trial_id)
                .values(state=state, datetime_complete=_utc())
            )
            if state is TrialState.PRUNED:
                value = self._last_report(connection, trial_id)
            if value is not None:
                stored, kind = TrialValueModel.value_to_stored_repr(value)
                connection.execute(
                    sql.insert(_VALUES).values(
                        trial_id=trial_id, objective=0, value=stored, value_type=kind
                    )
                )
        return True

    def _last_report(self, connection: sql.Connection, trial_id: int) -> float | None:
        """The value that a trial reported last, if it is a number."""
        value: float | None = connection.scalar(
            sql.select(_REPORTS.c.intermediate_value)
            .where(_REPORTS.c.trial_id == trial_id)
            .order_by(_REPORTS.c.step.desc())
            .limit(1)
        )
        return value


def _utc() -> datetime:
    """The time as Optuna stores it."""
    return datetime.now(UTC).replace(tzinfo=None)
