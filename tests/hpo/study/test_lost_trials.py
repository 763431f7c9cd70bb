"""Trials that no worker goes on with end in their records and in the study, after any kill."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from hpo.queue.leases import Owner
from hpo.queue.slots import Slots
from hpo.records.folder import read
from hpo.records.record import NAME
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.spec import load
from hpo.study.study import (
    blank_record,
    create_study,
    load_study,
    reap_lost_trials,
    record_of,
    trial_name,
)
from tests.claimers import PROCESSES


class Lost:
    """Three running trials of a dead worker, whose deaths are as many as a trial may cost."""

    def __init__(self, runs):
        storage = open_storage(url_of(None, runs))
        self.study = create_study(storage, load("quick"), runs=runs, fingerprint="f")
        self.slots, self.runs, self.folder = Slots(self.study, max_restarts=0), runs, runs / "quick"
        self.slots.set_total(3)
        dead = replace(Owner.this_process(), pid=2**22 + 1)
        self.claims = [self.slots.claim(dead) for _ in range(3)]
        for claim in self.claims:
            self.slots.trial_of(claim).suggest_int("hidden", 4, 9)

    def left(self, number, **changes):
        """The record that the worker left."""
        params = self.study.trials[number].params
        record = replace(blank_record(self.study, number), params=params, **changes)
        record.write(self.folder / trial_name(number))

    def reap(self):
        reap_lost_trials(self.study, self.slots, self.folder)

    def ends(self):
        """State of the record and of the trial, for each."""
        records = [record_of(self.folder, number) for number in range(3)]
        states = [trial.state for trial in self.study.trials]
        return [(one and one.state, state) for one, state in zip(records, states, strict=True)]


@pytest.fixture
def lost(with_database):
    return Lost(with_database)


FAILED = ("failed", TrialState.FAIL)


def test_a_trial_that_was_lost_too_often_fails_in_record_and_study(lost):
    lost.left(0)
    (lost.folder / trial_name(1) / ".claim-of-the-dead").mkdir(parents=True)

    lost.reap()

    assert lost.ends() == [FAILED] * 3
    records = [record_of(lost.folder, number) for number in range(3)]
    assert [one.params for one in records] == [one.params for one in lost.study.trials]
    assert all(
        one.reason.startswith("its worker died 1 times before an epoch ended") for one in records
    )
    assert [path.name for path in lost.folder.rglob("*") if path.is_file()] == [NAME] * 3
    assert not lost.slots.leases()


def test_a_run_that_had_ended_is_told_as_what_it_was(lost):
    lost.left(1, state="complete", best_val_nll=4.5)
    lost.left(2, state="pruned")

    lost.reap()

    told = [("complete", TrialState.COMPLETE), ("pruned", TrialState.PRUNED)]
    assert lost.ends() == [FAILED, *told]
    assert lost.study.trials[1].value == 4.5


def test_a_record_of_other_parameters_is_kept_beside_the_new_one(lost):
    lost.left(0)
    other = replace(record_of(lost.folder, 0), state="complete", params={"hidden": 99})
    other.write(lost.folder / trial_name(0))

    lost.reap()

    assert lost.ends()[0] == FAILED
    assert read(lost.folder / "set-aside" / "trial-00000-0" / NAME) == other


def test_a_folder_that_cannot_be_written_stops_no_other_trial(lost, caplog):
    lost.folder.mkdir()
    (lost.folder / trial_name(1)).write_text("a file where a folder should be")

    lost.reap()

    assert lost.ends() == [FAILED, (None, TrialState.RUNNING), FAILED]
    assert "trial 1, whose worker is gone, was not ended" in caplog.text

    (lost.folder / trial_name(1)).unlink()
    lost.reap()

    assert lost.ends() == [FAILED] * 3


STEPS = [(Slots, "take"), (Slots, "renew"), (Slots, "finish"), (os, "mkdir"), (os, "replace")]
STEPS += [(os, "rmdir"), (Path, "write_text")]

BEFORE = ("running", "failed")


def test_the_next_reaper_goes_on_where_one_was_killed(lost):
    for number in range(3):
        lost.left(number)
    kills = 0

    while killed(lost.runs, before=kills):
        kills += 1
        for record, trial in lost.ends():
            assert (record, trial) in [
                FAILED,
                (FAILED[0], TrialState.RUNNING),
                ("running", TrialState.RUNNING),
            ]

    assert kills >= 9
    assert lost.ends() == [FAILED] * 3
    assert not list(lost.folder.rglob(".claim-*"))


def killed(runs, *, before):
    """Whether a reaper that kills itself before that step came so far."""
    reaper = PROCESSES.Process(target=reap_and_die, args=(runs, before))
    reaper.start()
    reaper.join()
    assert reaper.exitcode in (0, 9)
    return reaper.exitcode == 9


def reap_and_die(runs, before):
    seen = []

    def dying(real):
        def step(*words, **options):
            seen.append(real)
            if len(seen) > before:
                os._exit(9)
            return real(*words, **options)

        return step

    study, _ = load_study(open_storage(url_of(None, runs)), "quick")
    slots = Slots(study, max_restarts=0)
    for owner, name in STEPS:
        setattr(owner, name, dying(getattr(owner, name)))
    reap_lost_trials(study, slots, runs / "quick")
    os._exit(0)
