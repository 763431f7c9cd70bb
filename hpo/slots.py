"""Exactly N trials: rows made in advance, claimed one by one, taken back from the dead.

The only module that touches Optuna's private names. Optuna alone counts trials per process, so N
workers overshoot, and it leaves the trial of a killed worker RUNNING for ever. Here the launcher
makes the N rows as WAITING; a worker claims one by a guarded UPDATE, in the same transaction that
writes its lease; a trial whose owner is gone goes back to WAITING under its own number, with the
parameters and values that it had, so that it can go on from its checkpoint.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import optuna
import psutil
import sqlalchemy as sql
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import StudyModel, TrialModel, TrialSystemAttributeModel
from optuna.trial import TrialState

LEASE_S = 180.0
"""Seconds without a renewal after which the owner on another host counts as dead."""

_TRIALS = TrialModel.__table__
_STUDIES = StudyModel.__table__
_ATTRIBUTES = TrialSystemAttributeModel.__table__
_LEASES = sql.Table(
    "hpo_leases",
    sql.MetaData(),
    # Optuna's trial_id, without a foreign key: `optuna` deletes a study knowing its own tables.
    sql.Column("trial_id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("token", sql.String(32), nullable=False),
    sql.Column("host", sql.String(255), nullable=False),
    sql.Column("pid", sql.Integer, nullable=False),
    sql.Column("started", sql.Double, nullable=False),
    sql.Column("job", sql.String(64)),
    sql.Column("renewed", sql.Double, nullable=False),
    sql.Column("restarts", sql.Integer, nullable=False),
)


class LeaseLost(RuntimeError):
    """The trial was taken away, since its worker seemed dead; the worker must not write now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The process that holds a trial."""

    host: str
    pid: int
    started: float
    """When the process began, seconds since 1970: a process id alone is used again."""

    job: str | None = None
    """The scheduler's job id."""

    @classmethod
    def this_process(cls) -> Owner:
        """The process that calls."""
        job = os.environ.get("SLURM_JOB_ID")
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        if array:  # SLURM_JOB_ID of an array's task is another number than the one users see
            job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        started = psutil.Process().create_time()
        return cls(host=socket.gethostname(), pid=os.getpid(), started=started, job=job)

    def lives(self, silent_s: float) -> bool:
        """Whether the process runs: looked up on this host, else judged by its last renewal."""
        if self.host != socket.gethostname():
            return silent_s < LEASE_S
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """Who holds a running trial, and since when it has been heard of."""

    number: int
    trial_id: int
    token: str
    owner: Owner
    silent_s: float
    restarts: int

    @property
    def lives(self) -> bool:
        """Whether the owner still runs."""
        return self.owner.lives(self.silent_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A trial in this process's hands."""

    number: int
    trial_id: int
    token: str
    restarts: int
    """How many owners lost it before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaped:
    """What became of the trials of dead owners, by number."""

    released: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()


class Slots:
    """The trials of one study as slots to be claimed.

    Args:
        study: Of an `RDBStorage`; its database also holds the leases.
        max_restarts: How often a trial is handed on after its owner's death.
    """

    def __init__(self, study: optuna.Study, *, max_restarts: int) -> None:
        self._study = study
        self._max_restarts = max_restarts
        backend = getattr(study._storage, "_backend", study._storage)
        assert isinstance(backend, RDBStorage)
        self._engine = backend.engine
        _LEASES.create(self._engine, checkfirst=True)

    def top_up(self, total: int, *, points: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Make rows until the study has `total`, and say how many were made.

        One transaction that holds the study's row: two launches at once make no row twice.

        Args:
            total: Trials that the study shall have in all.
            points: Parameters of trial 0, 1, ...; without them the sampler decides.
        """
        with self._engine.begin() as connection:
            study_id = self._study._study_id
            connection.execute(
                sql.select(_STUDIES.c.study_id)
                .where(_STUDIES.c.study_id == study_id)
                .with_for_update()
            )
            have = connection.scalar(
                sql.select(sql.func.count()).where(_TRIALS.c.study_id == study_id)
            )
            assert have is not None
            for number in range(have, total):
                made = connection.execute(
                    sql.insert(_TRIALS).values(
                        study_id=study_id, number=number, state=TrialState.WAITING
                    )
                )
                if points is not None:
                    assert made.inserted_primary_key is not None
                    connection.execute(
                        sql.insert(_ATTRIBUTES).values(
                            trial_id=made.inserted_primary_key[0],
                            key="fixed_params",
                            value_json=json.dumps(points[number]),
                        )
                    )
            return max(0, total - have)

    def claim(self, owner: Owner) -> Claim | None:
        """The waiting trial with the lowest number, or None when none waits."""
        while True:
            with self._engine.begin() as connection:
                row = connection.execute(
                    sql.select(_TRIALS.c.trial_id, _TRIALS.c.number, _TRIALS.c.datetime_start)
                    .where(self._in_state(TrialState.WAITING))
                    .order_by(_TRIALS.c.trial_id)
                    .limit(1)
                ).first()
                if row is None:
                    return None
                won = connection.execute(
                    sql.update(_TRIALS)
                    .where(_TRIALS.c.trial_id == row.trial_id)
                    .where(_TRIALS.c.state == TrialState.WAITING)
                    .values(
                        state=TrialState.RUNNING,
                        datetime_start=row.datetime_start or datetime.now(UTC).replace(tzinfo=None),
                    )
                ).rowcount
                if won:
                    return self._lease(connection, row.trial_id, row.number, owner)

    def trial_of(self, claim: Claim) -> optuna.Trial:
        """Optuna's handle of a claimed trial."""
        # Fills the storage's cache, without which a suggestion raises KeyError.
        self._study.get_trials(deepcopy=False)
        return optuna.Trial(self._study, claim.trial_id)

    def renew(self, claim: Claim) -> None:
        """Say that the owner of the trial lives.

        Raises:
            LeaseLost: If the trial was taken away.
        """
        with self._engine.begin() as connection:
            held = connection.execute(
                sql.update(_LEASES)
                .where(_LEASES.c.trial_id == claim.trial_id)
                .where(_LEASES.c.token == claim.token)
                .values(renewed=time.time())
            ).rowcount
        if not held:
            raise LeaseLost(f"trial {claim.number} was handed to another worker")

    def finish(self, claim: Claim, state: TrialState, value: float | None = None) -> None:
        """Tell the study how a claimed trial ended, and end its lease.

        Raises:
            LeaseLost: If the trial was taken away; nothing is told then.
        """
        self.renew(claim)
        self._study.tell(claim.number, value, state=state, skip_if_finished=True)
        self._drop(claim.trial_id, claim.token)

    def release(self, claim: Claim) -> None:
        """Hand a claimed trial back, to be gone on with by whoever asks next."""
        with self._engine.begin() as connection:
            self._wait_again(connection, claim.trial_id, claim.token, claim.restarts)

    def reap(self) -> Reaped:
        """Take the trials of dead owners back; those restarted too often fail.

        A trial can also be RUNNING without any lease, when another tool than this one claimed it;
        it is left alone.
        """
        released, failed = [], []
        for lease in self.leases():
            if lease.lives:
                continue
            if lease.restarts < self._max_restarts:
                with self._engine.begin() as connection:
                    token, restarts = lease.token, lease.restarts + 1
                    if self._wait_again(connection, lease.trial_id, token, restarts):
                        released.append(lease.number)
            elif fence := self._fence(lease):
                self._study.tell(lease.number, state=TrialState.FAIL, skip_if_finished=True)
                self._drop(lease.trial_id, fence)
                failed.append(lease.number)
        return Reaped(released=tuple(released), failed=tuple(failed))

    def leases(self) -> list[Lease]:
        """Every running trial's lease, by number."""
        with self._engine.begin() as connection:
            rows = connection.execute(
                sql.select(_LEASES, _TRIALS.c.number)
                .join(_TRIALS, _TRIALS.c.trial_id == _LEASES.c.trial_id)
                .where(self._in_state(TrialState.RUNNING))
                .order_by(_TRIALS.c.number)
            ).all()
        now = time.time()
        return [
            Lease(
                number=row.number,
                trial_id=row.trial_id,
                token=row.token,
                owner=Owner(host=row.host, pid=row.pid, started=row.started, job=row.job),
                silent_s=now - row.renewed,
                restarts=row.restarts,
            )
            for row in rows
        ]

    def counts(self) -> dict[TrialState, int]:
        """How many trials are in each state."""
        with self._engine.begin() as connection:
            rows = connection.execute(
                sql.select(_TRIALS.c.state, sql.func.count())
                .where(_TRIALS.c.study_id == self._study._study_id)
                .group_by(_TRIALS.c.state)
            ).all()
        return {state: 0 for state in TrialState} | {row[0]: row[1] for row in rows}

    def _in_state(self, state: TrialState) -> sql.ColumnElement[bool]:
        return sql.and_(_TRIALS.c.study_id == self._study._study_id, _TRIALS.c.state == state)

    def _lease(self, connection: sql.Connection, trial_id: int, number: int, owner: Owner) -> Claim:
        """Write the lease of a trial just won; a row left by its last owner tells the restarts."""
        here = _LEASES.c.trial_id == trial_id
        restarts = connection.scalar(sql.select(_LEASES.c.restarts).where(here)) or 0
        token = uuid.uuid4().hex
        connection.execute(sql.delete(_LEASES).where(here))
        connection.execute(
            sql.insert(_LEASES).values(
                trial_id=trial_id,
                token=token,
                host=owner.host,
                pid=owner.pid,
                started=owner.started,
                job=owner.job,
                renewed=time.time(),
                restarts=restarts,
            )
        )
        return Claim(number=number, trial_id=trial_id, token=token, restarts=restarts)

    def _wait_again(
        self, connection: sql.Connection, trial_id: int, token: str, restarts: int
    ) -> bool:
        """Put the trial back unless its lease has changed hands meanwhile; say which."""
        held = connection.execute(
            sql.update(_LEASES)
            .where(_LEASES.c.trial_id == trial_id)
            .where(_LEASES.c.token == token)
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

    def _fence(self, lease: Lease) -> str | None:
        """A new token in place of the dead owner's, or None if the lease has changed hands."""
        token = uuid.uuid4().hex
        with self._engine.begin() as connection:
            held = connection.execute(
                sql.update(_LEASES)
                .where(_LEASES.c.trial_id == lease.trial_id)
                .where(_LEASES.c.token == lease.token)
                .values(token=token)
            ).rowcount
        return token if held else None

    def _drop(self, trial_id: int, token: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                sql.delete(_LEASES)
                .where(_LEASES.c.trial_id == trial_id)
                .where(_LEASES.c.token == token)
            )
