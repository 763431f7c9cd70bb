"""Exactly N trials, claimed one by one: claim, renew, finish, release.

Optuna alone counts trials per process, so N workers overshoot. Here the launcher writes down N; a
worker claims a trial that waits, or makes the next one while there are fewer than N, in the
transaction that writes its lease. Rows are made late because Optuna reads all unfinished ones again
and again: hundreds that wait would cost more than the search. A released trial goes back to WAITING
under its own number, with its parameters and values, so that it can go on from its checkpoint.

If the server is unreachable the transaction is retried; every transaction here can safely run
twice. Times are the server's: nodes' clocks differ.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

import optuna
import sqlalchemy as sql
from optuna.storages._rdb.models import TrialValueModel
from optuna.trial import TrialState

from hpo.queue.leases import Claim, LeaseLost, Owner
from hpo.queue.tables import ATTRIBUTES, JOBS, LEASES, REPORTS, STUDIES, TOTALS, TRIALS, VALUES, Now
from hpo.queue.trials import TrialReader
from hpo.storage.retry import retried


class Slots(TrialReader):
    """The trials of one study as slots to be claimed.

    Args:
        study: Of an `RDBStorage`; its database also holds the leases.
        max_restarts: How often a trial is handed on after its owner's death.
    """

    def __init__(self, study: optuna.Study, *, max_restarts: int) -> None:
        super().__init__(study)
        self._study = study
        self.max_restarts = max_restarts

    @retried
    def top_up(self, total: int, *, points: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Raise the study's total of trials to `total`; gives how many more that is.

        One transaction that holds the study's row: two launches at once add nothing twice.
        `points` are the parameters of trial 0, 1, ...; without them the sampler decides.
        """
        with self.engine.begin() as connection:
            have = self._count(connection)
            before = max(have, self._total(connection))
            self._set_total(connection, max(before, total))
            for number in range(have, total if points else have):
                self._fix(connection, self._insert(connection, number), (points or ())[number])
            return max(0, total - before)

    @retried
    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> list[int]:
        """Make trials of these parameters, the next to be claimed; their numbers.

        The total grows where they exceed it.
        """
        with self.engine.begin() as connection:
            have = self._count(connection)
            numbers = list(range(have, have + len(points)))
            for number, point in zip(numbers, points, strict=True):
                self._fix(connection, self._insert(connection, number), point)
            self._set_total(connection, max(self._total(connection), have + len(points)))
            return numbers

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
        with self.engine.begin() as connection:
            renewal = sql.update(LEASES).where(_held_by(claim)).values(renewed=Now())
            held = connection.execute(renewal).rowcount
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
            return self._end(claim, state, value, again=tries > 1)

        if not end():
            raise LeaseLost(f"trial {claim.number} was handed to another worker")

    @retried
    def release(self, claim: Claim, *, futile: bool = False) -> bool:
        """Hand a trial back for the next worker; False if the lease has changed hands.

        A futile attempt, without any progress, counts as a restart: the next may be futile, too.
        """
        # A new token fences off the old owner; the row keeps the count of restarts.
        fenced = {"token": uuid.uuid4().hex, "restarts": claim.restarts + futile}
        with self.engine.begin() as connection:
            held = connection.execute(
                sql.update(LEASES).where(_held_by(claim)).values(fenced)
            ).rowcount
            if held:
                connection.execute(
                    sql.update(TRIALS)
                    .where(TRIALS.c.trial_id == claim.trial_id)
                    .where(TRIALS.c.state == TrialState.RUNNING)
                    .values(state=TrialState.WAITING)
                )
        return bool(held)

    @retried
    def add_jobs(self, jobs: Iterable[str]) -> None:
        """Remember the scheduler's jobs that work for the study, for a later launcher."""
        known = self.jobs()
        with self.engine.begin() as connection:
            for job in jobs:
                if job not in known:
                    connection.execute(sql.insert(JOBS).values(study_id=self._study_id, job=job))

    def _count(self, connection: sql.Connection) -> int:
        """Trials of the study, whose row is held until the transaction ends."""
        row = STUDIES.c.study_id == self._study_id
        connection.execute(sql.select(STUDIES.c.study_id).where(row).with_for_update())
        return connection.scalar(sql.select(sql.func.count()).where(self._of_study)) or 0

    def _set_total(self, connection: sql.Connection, total: int) -> None:
        study_id = self._study_id
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
            sql.insert(TRIALS).values(
                study_id=self._study_id, number=number, state=state, datetime_start=start
            )
        )
        assert made.inserted_primary_key is not None
        trial_id: int = made.inserted_primary_key[0]
        return trial_id

    def _fix(self, connection: sql.Connection, trial_id: int, point: Mapping[str, Any]) -> None:
        """Give a trial its parameters, as Optuna's own `enqueue_trial` does."""
        connection.execute(
            sql.insert(ATTRIBUTES).values(
                trial_id=trial_id, key="fixed_params", value_json=json.dumps(point)
            )
        )

    def _claim(self, owner: Owner, token: str) -> Claim | None | Literal[False]:
        """One try: None when no trial waits, False when another worker took it."""
        with self.engine.begin() as connection:
            if ours := self._claimed(connection, token):
                return ours
            row = connection.execute(
                sql.select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.datetime_start)
                .where(self._in_state(TrialState.WAITING))
                .order_by(TRIALS.c.trial_id)
                .limit(1)
                # On a server each worker locks another one instead of waiting for the first.
                .with_for_update(skip_locked=True)
            ).first()
            if row is None:
                return self._begin(connection, owner, token)
            won = connection.execute(
                sql.update(TRIALS)
                .where(TRIALS.c.trial_id == row.trial_id)
                .where(TRIALS.c.state == TrialState.WAITING)
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
        """The claim that an earlier try won."""
        row = connection.execute(
            sql.select(LEASES.c.trial_id, LEASES.c.restarts, TRIALS.c.number)
            .join(TRIALS, TRIALS.c.trial_id == LEASES.c.trial_id)
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
                trial_id=trial_id, token=token, renewed=Now(), restarts=restarts, **asdict(owner)
            )
        )
        return Claim(number=number, trial_id=trial_id, token=token, restarts=restarts)

    def _end(self, claim: Claim, state: TrialState, value: float | None, *, again: bool) -> bool:
        """End a trial and its lease; False, and nothing done, if the lease has changed hands.

        Args: `again` after a try whose answer was lost: a trial that it ended is not ended twice.
        """
        trial_id, here = claim.trial_id, TRIALS.c.trial_id == claim.trial_id
        with self.engine.begin() as connection:
            if not connection.execute(sql.delete(LEASES).where(_held_by(claim))).rowcount:
                now = connection.scalar(sql.select(TRIALS.c.state).where(here))
                return again and now == state
            ended = {"state": state, "datetime_complete": _utc()}
            connection.execute(sql.update(TRIALS).where(here).values(ended))
            if state is TrialState.PRUNED:
                value = self._last_report(connection, trial_id)
            if value is not None:
                stored, kind = TrialValueModel.value_to_stored_repr(value)
                connection.execute(
                    sql.insert(VALUES).values(
                        trial_id=trial_id, objective=0, value=stored, value_type=kind
                    )
                )
        return True

    def _last_report(self, connection: sql.Connection, trial_id: int) -> float | None:
        """The value that a trial reported last, if it is a number."""
        value: float | None = connection.scalar(
            sql.select(REPORTS.c.intermediate_value)
            .where(REPORTS.c.trial_id == trial_id)
            .order_by(REPORTS.c.step.desc())
            .limit(1)
        )
        return value


def _held_by(claim: Claim) -> sql.ColumnElement[bool]:
    return sql.and_(LEASES.c.trial_id == claim.trial_id, LEASES.c.token == claim.token)


def _utc() -> datetime:
    """The time as Optuna stores it."""
    return datetime.now(UTC).replace(tzinfo=None)
