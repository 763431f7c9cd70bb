"""A launch of which every process is killed, launcher and workers: the same command finishes it."""

import pytest
from optuna.trial import TrialState

from hpo.records.folder import read
from tests.hpo.execution.test_launch import (
    family,
    kill,
    launching,
    place,
    records_of,
    trials_of,
    under_way,
    wait_for,
)

__all__ = ["place"]

pytestmark = pytest.mark.slow


def test_a_study_whose_every_process_was_killed_is_finished_by_the_same_command(forks, place):
    words = ("launch", "tiny.toml", "--trials", 3, "--workers", 2)
    words += ("--set", "training.epochs=40", "--set", "pruner.kind=none")
    words += ("--set", "training.patience=0")
    with launching(place, *words) as launcher:
        wait_for(lambda: under_way(place), launcher)
        kill(family(launcher))
    before = {number: epochs_of(place, number) for number in under_way(place)}
    assert before, "the kill came too late to prove anything"

    done = forks.hpo(*words, "--workers", 1, cwd=place)

    assert done.code == 0, done.said
    trials, records = trials_of(place), records_of(place)
    assert [one.state for one in trials] == [TrialState.COMPLETE] * 3
    assert [one.trial for one in records] == [0, 1, 2]
    for record in records:
        assert [row.epoch for row in record.epochs] == list(range(1, 41))
        # Trials that were claimed but had no epoch yet were begun again too.
        assert record.restarts == 1 if record.trial in before else record.restarts <= 1
    for number, rows in before.items():  # with their seconds: these epochs were not run again
        assert records[number].epochs[: len(rows)] == rows


def epochs_of(place, number):
    return read(place / "runs" / "tiny" / f"trial-{number:05d}" / "run.json").epochs
