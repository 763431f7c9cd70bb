"""A folder of runs and a database that are not of one moment, or not of one study.

What the folder holds of a trial is taken over where it is that trial's, and put aside where it is
not. Database, record and weights say the same in the end.
"""

import json
import shutil
import sqlite3
from contextlib import closing

import optuna
import pytest
from optuna.trial import TrialState

from hpo.execution import trial
from hpo.execution.trial import ClaimedTrial
from hpo.queue.leases import Owner
from hpo.records import table, weights
from hpo.records.folder import read
from hpo.records.record import NAME
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.study import load_study, slots_of, trial_name
from models.evaluation.nll import nll
from models.training import checkpoint

pytestmark = pytest.mark.slow

SPACE = {"hidden": {"low": 4, "high": 9}, "bound": {"low": 3.0, "high": 6.0}, "blocks": 1}


class Search:
    """The study `s` in a folder of runs, with a worker in this process."""

    def __init__(self, runs):
        self.runs, self.folder = runs, runs / "s"
        self.open()

    def open(self):
        self.storage = open_storage(url_of(None, self.runs))
        self.study, self.spec = load_study(self.storage, "s")
        self.slots = slots_of(self.study, self.spec)

    def of(self, number):
        return self.folder / trial_name(number)

    def run(self):
        """Run the trials that wait, after those in the hands of workers that are gone."""
        for lease in self.slots.leases():
            self.slots.release(lease)
        while claim := self.slots.claim(Owner.this_process()):
            folder = self.of(claim.number)
            trial.run(ClaimedTrial(self.study, self.spec, claim, self.slots, folder))

    def restore(self, backup):
        self.storage.engine.dispose()
        shutil.copy(backup, self.runs / "hpo.db")
        self.open()

    def told(self):
        """What the database says of each trial."""
        every = self.study.get_trials()
        return [(one.state, one.value, one.params, one.intermediate_values) for one in every]

    def agree(self, data):
        """Whether database, record and weights of each trial say the same."""
        for number, (state, value, params, reports) in enumerate(self.told()):
            record = read(self.of(number) / NAME)
            assert (record.state, state) == ("complete", TrialState.COMPLETE)
            assert record.trial == number
            assert record.params == params
            assert {row.epoch: row.val_nll for row in record.epochs} == reports
            assert record.best_val_nll == value
            scored = nll(weights.flow_of(record, self.of(number)), data, "val").mean
            assert scored == pytest.approx(value, rel=1e-6)


@pytest.fixture(scope="module")
def ended(make, tmp_path_factory):
    """A folder of runs whose study of four trials has ended, with what was copied in its midst:
    `backup.db`, when trial 1 had reported its first epoch, and `midst`, trial 2 at that point."""
    runs = tmp_path_factory.mktemp("ended")
    make(runs, trials=4, space=SPACE)
    search, report = Search(runs), optuna.Trial.report

    def copying(self, value, step):
        report(self, value, step)
        if (self.number, step) == (1, 1):
            with (
                closing(sqlite3.connect(runs / "hpo.db")) as live,
                closing(sqlite3.connect(runs / "backup.db")) as copy,
            ):
                live.backup(copy)
        if (self.number, step) == (2, 1):
            shutil.copytree(search.of(2), runs / "midst")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.Trial, "report", copying)
        search.run()
    search.storage.engine.dispose()
    return runs


@pytest.fixture
def search(ended, tmp_path):
    search = Search(shutil.copytree(ended, tmp_path / "runs"))
    yield search
    search.storage.engine.dispose()


@pytest.fixture
def restored(search):
    """That study, with the backup in the place of its database."""
    search.restore(search.runs / "backup.db")
    assert [state.name for state, *_ in search.told()] == ["COMPLETE", "RUNNING"]
    return search


def test_what_ended_after_the_backup_is_taken_over_without_training(search, data, monkeypatch):
    before = search.told()
    search.restore(search.runs / "backup.db")
    monkeypatch.setattr(trial, "train", None)

    search.run()

    assert search.told() == before
    search.agree(data)
    assert not (search.folder / "set-aside").exists()


def test_what_had_begun_after_the_backup_goes_on_where_it_was(restored, data):
    whole = read(restored.of(2) / NAME)
    shutil.rmtree(restored.of(2))
    (restored.runs / "midst").rename(restored.of(2))
    before = read(restored.of(2) / NAME)
    assert (before.state, len(before.epochs)) == ("running", 1)

    restored.run()

    restored.agree(data)
    record = read(restored.of(2) / NAME)
    assert record.epochs[0] == before.epochs[0]  # with its seconds: it was not trained again
    assert (record.params, record.best_val_nll) == (whole.params, whole.best_val_nll)


@pytest.mark.parametrize("state", ["running", "complete"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trial": 9}, "its trial is 9, the trial's 1"),
        ({"params": {"hidden": 5, "bound": 3.5}}, "its "),
        ({"params": {"hidden": 5}}, "its parameters are ['hidden'], the study's"),
        ({"params": {"hidden": 99, "bound": 3.5}}, "its hidden is 99, which is not in"),
        ({"data": {"fingerprint": "0" * 64}}, "its data is '000"),
        ({"data": {"hold_out_cells": [{"Z": 0.01}]}}, "its held-out cells is "),
        ({"data": {"report_cells": [{"Z": 0.01}]}}, "its report cells is "),
        ({"seeds": {"study": 0, "trial": 1}}, "its seeds is "),
        ({"training": {"epochs": 7}}, "its epochs is 7, the trial's 2"),
        ({"flow": {"kind": "magic"}}, "its options are not of this version"),
    ],
    ids=[
        *("number", "parameters", "fewer", "space", "data", "cells", "report", "seed", "option"),
        "version",
    ],
)
def test_what_is_not_of_the_trial_is_put_aside(restored, data, caplog, state, change, said):
    path = restored.of(1) / NAME
    stored = json.loads(path.read_text())
    for key, value in change.items():
        stored[key] = {**stored[key], **value} if key in ("data", "training", "flow") else value
    path.write_text(json.dumps(stored | {"state": state}))
    known, left = restored.told()[1][2], path.read_bytes()

    restored.run()

    restored.agree(data)
    assert restored.told()[1][2] == known
    aside = restored.folder / "set-aside" / "trial-00001-0"
    assert (aside / NAME).read_bytes() == left
    assert {path.name for path in aside.iterdir()} == {path.name for path in path.parent.iterdir()}
    assert f"is not of this trial: {said}" in caplog.text.replace("\n", " ")
    for folder in (restored.runs, restored.folder):
        assert [row["trial"] for row in table.rows(folder)] == [0, 1, 2, 3]


@pytest.mark.parametrize("state", ["running", "complete"])
def test_weights_of_another_run_are_put_aside(restored, data, state):
    """As a copy of another trial's folder would leave them."""
    path = restored.of(1) / NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": state}))
    shutil.copy(restored.of(3) / checkpoint.FILE, restored.of(1))
    left = (restored.of(1) / checkpoint.FILE).read_bytes()

    restored.run()

    restored.agree(data)
    aside = restored.folder / "set-aside" / "trial-00001-0"
    assert (aside / checkpoint.FILE).read_bytes() == left


@pytest.mark.parametrize("left", ["other", "damaged"])
def test_a_checkpoint_alone_that_is_of_no_use_is_put_aside(restored, data, left):
    (restored.of(1) / NAME).unlink()
    if left == "other":
        shutil.copy(restored.of(3) / checkpoint.FILE, restored.of(1))
    else:
        (restored.of(1) / checkpoint.FILE).write_bytes(b"half a checkp")

    restored.run()

    restored.agree(data)
    assert (restored.folder / "set-aside" / "trial-00001-0" / checkpoint.FILE).exists()


def test_a_second_thing_that_is_put_aside_has_a_place_of_its_own(restored, data):
    (restored.folder / "set-aside" / "trial-00001-0").mkdir(parents=True)
    (restored.of(1) / checkpoint.FILE).write_bytes(b"half a checkp")

    restored.run()

    restored.agree(data)
    assert (restored.folder / "set-aside" / "trial-00001-1" / checkpoint.FILE).exists()
