"""How many trials a study has, and those whose parameters were given: by a grid or by a user.

A trial's row is made before it is claimed only where its parameters are given, since Optuna reads
all unfinished rows again and again: hundreds that wait would cost more than the search.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from optuna.distributions import json_to_distribution
from optuna.trial import TrialState

from hpo.queue.tables import ATTRIBUTES, OF_TRIALS, PARAMETERS, STUDIES, TOTALS, TRIALS
from hpo.queue.trials import TrialReader, transaction

Point = Mapping[str, Any]
"""Values of parameters by their names."""
FIXED = "fixed_params"
"""The trial's attribute in which Optuna keeps parameters that were given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTotal:
    """What asking for a total came to."""

    before: int
    """Trials that the study had and was to have."""
    now: int
    begun: int
    """Trials that have begun, which stay whatever is asked for."""
    removed: int
    """Trials with given parameters that waited, and are removed."""

    @property
    def added(self) -> int:
        """How many trials more there are to be."""
        return max(0, self.now - self.before)


class TrialMaker(TrialReader):
    """Makes the trials of one study."""

    @transaction
    def set_total(
        self,
        connection: sql.Connection,
        total: int,
        *,
        lower: bool = True,
        points: Sequence[Point] = (),
    ) -> NewTotal:
        """Have the study come to so many trials; each transaction holds its row as it counts.

        Args:
            total: Trials in all. A lower one than before removes what waits beyond it without
                having begun. The same one again leaves what was enqueued since then.
            lower: Whether the total may become lower than it was.
            points: Parameters of a grid's trials. The first ones that no trial has are made, until
                `total` of them are there; other parameters that a user enqueued come on top.
        """
        had, known = self._count(connection), self._total(connection)
        begun, total = self._begun(connection), total if lower else max(total, known)
        removed = self._remove(connection, max(total, begun)) if total < known else 0
        missing, there = self._compared(connection, points)
        made = missing[: max(0, total - there)]
        self._fix(connection, made, had - removed)
        self._set_total(connection, total)
        return NewTotal(
            before=max(had, known),
            now=max(had - removed + len(made), total),
            begun=begun,
            removed=removed,
        )

    @transaction
    def enqueue(self, connection: sql.Connection, points: Sequence[Point]) -> list[int]:
        """Make trials of these parameters, the next to be claimed; their numbers.

        They count among the study's total, and where they exceed it come on top.
        """
        have = self._count(connection)
        self._fix(connection, points, have)
        return list(range(have, have + len(points)))

    def _count(self, connection: sql.Connection) -> int:
        """Trials of the study, whose row is held until the transaction ends."""
        row = STUDIES.c.study_id == self._study_id
        connection.execute(sql.select(STUDIES.c.study_id).where(row).with_for_update())
        return connection.scalar(sql.select(sql.func.count()).where(self._of_study)) or 0

    def _set_total(self, connection: sql.Connection, total: int) -> None:
        study_id = self._study_id
        connection.execute(sql.delete(TOTALS).where(TOTALS.c.study_id == study_id))
        connection.execute(sql.insert(TOTALS).values(study_id=study_id, total=total))

    @property
    def _never_begun(self) -> sql.ColumnElement[bool]:
        waiting = TRIALS.c.state == TrialState.WAITING
        return sql.and_(self._of_study, waiting, TRIALS.c.datetime_start.is_(None))

    def _begun(self, connection: sql.Connection) -> int:
        """How many trials have begun; the others are held, so that none does until the end."""
        connection.execute(sql.select(TRIALS.c.trial_id).where(self._never_begun).with_for_update())
        # By number, which is the count of the trials before: between two of them none may go.
        last = sql.select(sql.func.max(TRIALS.c.number))
        number = connection.scalar(last.where(self._of_study, sql.not_(self._never_begun)))
        return 0 if number is None else number + 1

    def _remove(self, connection: sql.Connection, first: int) -> int:
        """Delete what never began from this number on; how many trials that were."""
        gone = sql.and_(self._never_begun, TRIALS.c.number >= first)
        ids = sql.select(TRIALS.c.trial_id).where(gone)
        for table in OF_TRIALS:
            connection.execute(sql.delete(table).where(table.c.trial_id.in_(ids)))
        return connection.execute(sql.delete(TRIALS).where(gone)).rowcount

    def _compared(
        self, connection: sql.Connection, points: Sequence[Point]
    ) -> tuple[list[Point], int]:
        """Points that no trial has, and how many there are that one has."""
        if not points:
            return [], 0
        # What was given of a trial, under what it has been run with.
        found: dict[int, dict[str, Any]] = defaultdict(dict)
        given = sql.select(ATTRIBUTES.c.trial_id, ATTRIBUTES.c.value_json).join(TRIALS)
        for row in connection.execute(given.where(self._of_study, ATTRIBUTES.c.key == FIXED)):
            found[row.trial_id] |= json.loads(row.value_json)
        for row in connection.execute(sql.select(PARAMETERS).join(TRIALS).where(self._of_study)):
            values = json_to_distribution(row.distribution_json)
            found[row.trial_id][row.param_name] = values.to_external_repr(row.param_value)
        names = points[0].keys()  # a grid's points have the same ones
        had = [{name: one[name] for name in names & one.keys()} for one in found.values()]
        missing = [point for point in points if point not in had]
        return missing, len(points) - len(missing)

    def _insert(self, connection: sql.Connection, number: int, **values: Any) -> int:
        """A new trial."""
        row = {"study_id": self._study_id, "number": number, **values}
        made = connection.execute(sql.insert(TRIALS).values(row)).inserted_primary_key
        assert made is not None
        return int(made[0])

    def _fix(self, connection: sql.Connection, points: Sequence[Point], first: int) -> None:
        """Make trials of these parameters from a number on, as Optuna's own `enqueue_trial`."""
        for number, point in enumerate(points, start=first):
            fix(connection, self._insert(connection, number, state=TrialState.WAITING), point)


def fix(connection: sql.Connection, trial_id: int, point: Point) -> None:
    """Give a trial these parameters, to be suggested when it begins."""
    row = {"trial_id": trial_id, "key": FIXED, "value_json": json.dumps(point)}
    connection.execute(sql.insert(ATTRIBUTES).values(row))
