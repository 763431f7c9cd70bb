"""Exactly N trials, claimed one by one: claim, renew, finish, release.

Optuna alone counts trials per process, so N workers overshoot. Here the launcher writes down N; a
worker claims a trial that waits, or makes the next one while there are fewer than N, in the
transaction that writes its lease. A released trial goes back to WAITING under its own number, with
its parameters and values, so that it can go on from its checkpoint.

If the server is unreachable the transaction is retried; every transaction here can safely run
twice. Times are the server's: nodes' clocks differ.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any, Literal

import optuna
import sqlalchemy as sql
from optuna.storages._rdb.models import TrialValueModel
from optuna.trial import TrialState

from hpo.queue.leases import Claim, LeaseLost, Owner
from hpo.queue.tables import ATTRIBUTES, JOBS, LEASES, REPORTS, STUDIES, TRIALS, VALUES, Now
from hpo.queue.total import FIXED, Point, TrialMaker, fix
from hpo.queue.trials import transaction


class Slots(TrialMaker):
    """The trials of one study as slots to be claimed.

    Args:
        study: Of an `RDBStorage`; its database also holds the leases.
        max_restarts: After how many futile attempts in a row a trial is still handed on.
    """

    def __init__(self, study: optuna.Study, *, max_restarts: int) -> None:
        super().__init__(study)
        self._study = study
        self.max_restarts = max_restarts

    def claim(self, owner: Owner) -> Claim | None:
        """The waiting trial with the lowest number, or None when none waits."""
        # One token for all tries: a claim whose answer was lost is found again by it.
        token = uuid.uuid4().hex
        while (won := self._claim(owner, token)) is False:
            pass  # another worker was quicker
        return won or None

    def trial_of(self, claim: Claim) -> optuna.Trial:
        """Optuna's handle of a claimed trial."""
        # As Optuna's own `ask`: else the sampler knows the trials of the first suggestion for ever.
        self._study._thread_local.cached_all_trials = None
        # Fills the storage's cache, without which a suggestion raises KeyError.
        self._study.get_trials(deepcopy=False)
        return optuna.Trial(self._study, claim.trial_id)

    @transaction
    def renew(self, connection: sql.Connection, claim: Claim) -> None:
        """Say that the owner of the trial lives.

        Raises:
            LeaseLost: If the trial was taken away.
        """
        _renew(connection, claim)

    @transaction
    def date_back(self, connection: sql.Connection) -> None:
        """Date renewals of the future, before the server's clock was set back, to now.

        Else an owner that died since would count as alive until that time has come.
        """
        of_future = LEASES.c.renewed > Now() + 1.0
        connection.execute(sql.update(LEASES).where(of_future).values(renewed=Now()))

    def finish(self, claim: Claim, state: TrialState, value: float | None = None) -> None:
        """Tell the study how a claimed trial ended, and end its lease, in one transaction.

        The value is that of a complete trial; a pruned one has the last that it reported.

        Raises:
            LeaseLost: If the trial was taken away; nothing is told then.
        """
        if not self._end(claim, state, value, tries=itertools.count()):
            raise LeaseLost(f"trial {claim.number} was handed to another worker")

    @transaction
    def futile(self, connection: sql.Connection, claim: Claim) -> int:
        """How many attempts in a row brought the trial no value, if this one is lost."""
        return _futile(connection, claim, lost=True)

    @transaction
    def release(self, connection: sql.Connection, claim: Claim, *, lost: bool = False) -> bool:
        """Hand a trial back for the next worker; False if the lease has changed hands.

        A lost attempt, ended by its owner's death or its time limit, counts as a restart. It is
        futile unless it brought a value: the next may be, too.
        """
        # A new token fences off the old owner; the row keeps the counts.
        fenced = {
            "token": uuid.uuid4().hex,
            "restarts": claim.restarts + lost,
            "futile": _futile(connection, claim, lost=lost),
        }
        fencing = sql.update(LEASES).where(_held_by(claim)).values(fenced)
        if not connection.execute(fencing).rowcount:
            return False
        _move(connection, claim.trial_id, TrialState.RUNNING, state=TrialState.WAITING)
        return True

    @transaction
    def rename(self, connection: sql.Connection, name: str) -> None:
        """Give the study another name, which no other may have."""
        here = STUDIES.c.study_id == self._study_id
        connection.execute(sql.update(STUDIES).where(here).values(study_name=name))

    @transaction
    def delete(self, connection: sql.Connection) -> None:
        """Delete all trials: Optuna would read each of their rows first, the database locked."""
        ours = sql.select(TRIALS.c.trial_id).where(self._of_study)
        for table in TRIALS.metadata.sorted_tables:
            if table is not TRIALS and "trial_id" in table.c:
                connection.execute(sql.delete(table).where(table.c.trial_id.in_(ours)))
        connection.execute(sql.delete(TRIALS).where(self._of_study))

    @transaction
    def take(self, connection: sql.Connection, claim: Claim) -> Claim:
        """Take a dead owner's trial over, to end it; the old claim is void from then on.

        The owner stays the dead one, so that the next reaper does the same if this one fails.

        Raises:
            LeaseLost: If the lease has changed hands.
        """
        token = uuid.uuid4().hex
        taking = sql.update(LEASES).where(_held_by(claim)).values(token=token)
        if not connection.execute(taking).rowcount:
            raise LeaseLost(f"trial {claim.number} was handed to another worker")
        known = {one.name: getattr(claim, one.name) for one in fields(Claim)}
        return Claim(**known | {"token": token})

    def point(self, claim: Claim) -> dict[str, Any]:
        """The parameters that a claimed trial has, or shall have, as far as they are known."""
        trial = self._study._storage.get_trial(claim.trial_id)
        return {**trial.system_attrs.get(FIXED, {}), **trial.params}

    @transaction
    def fix(self, connection: sql.Connection, claim: Claim, point: Point) -> None:
        """Let a claimed trial have these parameters when they are suggested.

        Raises:
            LeaseLost: If the trial was taken away.
        """
        _renew(connection, claim)
        fixed = sql.and_(ATTRIBUTES.c.trial_id == claim.trial_id, ATTRIBUTES.c.key == FIXED)
        connection.execute(sql.delete(ATTRIBUTES).where(fixed))
        fix(connection, claim.trial_id, point)

    @transaction
    def retract(self, connection: sql.Connection, claim: Claim, epochs: Iterable[int]) -> None:
        """Forget what a claimed trial reported of these epochs, which it is to run again.

        Raises:
            LeaseLost: If the trial was taken away.
        """
        _renew(connection, claim)
        here = sql.and_(REPORTS.c.trial_id == claim.trial_id, REPORTS.c.step.in_(epochs))
        connection.execute(sql.delete(REPORTS).where(here))
        counted = {"reported": _reports(claim.trial_id)}
        connection.execute(sql.update(LEASES).where(_held_by(claim)).values(counted))

    @transaction
    def add_jobs(self, connection: sql.Connection, jobs: Iterable[str]) -> None:
        """Remember the scheduler's jobs that work for the study, for a later launcher."""
        study_id = self._study_id
        known = sql.select(JOBS.c.job).where(JOBS.c.study_id == study_id)
        for job in {*jobs}.difference(connection.scalars(known)):
            connection.execute(sql.insert(JOBS).values(study_id=study_id, job=job))

    @transaction
    def _claim(
        self, connection: sql.Connection, owner: Owner, token: str
    ) -> Claim | None | Literal[False]:
        """One try: None when no trial waits, False when another worker took it."""
        ours = connection.execute(  # that an earlier try won
            sql.select(LEASES.c.trial_id, LEASES.c.restarts, TRIALS.c.number)
            .join(TRIALS, TRIALS.c.trial_id == LEASES.c.trial_id)
            .where(LEASES.c.token == token)
        ).first()
        if ours is not None:
            return Claim(token=token, **ours._mapping)
        row = connection.execute(
            sql.select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.datetime_start)
            .where(self._of_study, TRIALS.c.state == TrialState.WAITING)
            .order_by(TRIALS.c.trial_id)
            .limit(1)
            # On a server each worker locks another one instead of waiting for the first.
            .with_for_update(skip_locked=True)
        ).first()
        if row is None:
            number = self._count(connection)
            if number >= self._total(connection):
                return None
            begun = {"state": TrialState.RUNNING, "datetime_start": _utc()}
            trial_id = self._insert(connection, number, **begun)
            return self._lease(connection, trial_id, number, owner, token, new=True)
        begun = {"state": TrialState.RUNNING, "datetime_start": row.datetime_start or _utc()}
        won = _move(connection, row.trial_id, TrialState.WAITING, **begun)
        new = row.datetime_start is None
        return won and self._lease(connection, row.trial_id, row.number, owner, token, new=new)

    def _lease(
        self,
        connection: sql.Connection,
        trial_id: int,
        number: int,
        owner: Owner,
        token: str,
        *,
        new: bool,
    ) -> Claim:
        """Write the lease of a trial just won; a row left by its last owner tells the counts."""
        counts = {"restarts": 0, "futile": 0, "reported": 0}
        if not new:
            here = LEASES.c.trial_id == trial_id
            query = sql.select(
                LEASES.c.restarts, LEASES.c.futile, _reports(trial_id).label("reported")
            )
            if left := connection.execute(query.where(here)).one_or_none():
                counts |= left._mapping
            connection.execute(sql.delete(LEASES).where(here))
        row = {"trial_id": trial_id, "token": token, "renewed": Now()}
        connection.execute(sql.insert(LEASES).values(row | counts | asdict(owner)))
        return Claim(number=number, trial_id=trial_id, token=token, restarts=counts["restarts"])

    @transaction
    def _end(
        self,
        connection: sql.Connection,
        claim: Claim,
        state: TrialState,
        value: float | None,
        *,
        tries: Iterator[int],
    ) -> bool:
        """End a trial and its lease; False, and nothing done, if the lease has changed hands.

        Args: `tries` counts: after a try whose answer was lost, a trial that it ended is not ended
            twice.
        """
        again, here = next(tries) > 0, TRIALS.c.trial_id == claim.trial_id
        if not connection.execute(sql.delete(LEASES).where(_held_by(claim))).rowcount:
            now = connection.scalar(sql.select(TRIALS.c.state).where(here))
            return again and now == state
        ended = {"state": state, "datetime_complete": _utc()}
        connection.execute(sql.update(TRIALS).where(here).values(ended))
        if state is TrialState.PRUNED:  # the value that it reported last, if it is a number
            reported = sql.select(REPORTS.c.intermediate_value).order_by(REPORTS.c.step.desc())
            of_trial = REPORTS.c.trial_id == claim.trial_id
            value = connection.scalar(reported.where(of_trial).limit(1))
        if value is not None:
            stored, kind = TrialValueModel.value_to_stored_repr(value)
            row = {"trial_id": claim.trial_id, "objective": 0, "value": stored, "value_type": kind}
            connection.execute(sql.insert(VALUES).values(row))
        return True


def _move(connection: sql.Connection, trial_id: int, before: TrialState, **values: Any) -> bool:
    """Change a trial's row if it is in the state `before`; whether it was."""
    here = sql.and_(TRIALS.c.trial_id == trial_id, TRIALS.c.state == before)
    return bool(connection.execute(sql.update(TRIALS).where(here).values(values)).rowcount)


def _renew(connection: sql.Connection, claim: Claim) -> None:
    renewal = sql.update(LEASES).where(_held_by(claim)).values(renewed=Now())
    if not connection.execute(renewal).rowcount:
        raise LeaseLost(f"trial {claim.number} was handed to another worker")


def _futile(connection: sql.Connection, claim: Claim, *, lost: bool) -> int:
    """Attempts in a row without a value when this one ends; 0 if the lease has changed hands."""
    now = _reports(claim.trial_id)
    query = sql.select(LEASES.c.futile, now > LEASES.c.reported).where(_held_by(claim))
    futile, progress = connection.execute(query).one_or_none() or (0, True)
    return 0 if progress else futile + lost


def _reports(trial_id: int) -> sql.ScalarSelect[int]:
    """How many values a trial has reported."""
    query = sql.select(sql.func.count(REPORTS.c.trial_id)).where(REPORTS.c.trial_id == trial_id)
    return query.scalar_subquery()


def _held_by(claim: Claim) -> sql.ColumnElement[bool]:
    return sql.and_(LEASES.c.trial_id == claim.trial_id, LEASES.c.token == claim.token)


def _utc() -> datetime:
    """The time as Optuna stores it."""
    return datetime.now(UTC).replace(tzinfo=None)
