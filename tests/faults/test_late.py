"""A worker that lost its trial comes back, at any of its steps: nothing of what it does lands."""

import os
import shutil

import optuna
import pytest

from hpo.execution import trial
from hpo.execution.trial import ClaimedTrial
from hpo.queue.leases import LeaseLost, Owner
from hpo.queue.slots import Slots
from hpo.records import weights
from hpo.records.folder import read
from hpo.records.record import NAME
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.study import load_study, trial_name
from models.evaluation.nll import nll

pytestmark = pytest.mark.slow

STEPS = [(Slots, "renew"), (Slots, "finish"), (os, "mkdir"), (os, "replace"), (os, "rmdir")]
"""What a worker does to the database and its folder, beside the reports."""


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps, and does something else before one of them."""
    found = Steps()
    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, found.counted(name, getattr(owner, name)))
    return found


class Steps:
    def __init__(self):
        self.seen, self.at, self.instead = [], None, None

    def counted(self, name, real):
        def step(first, *words, **options):
            if isinstance(first, Slots) or "trial-" in os.fspath(first):
                self._count(name)
            return real(first, *words, **options)

        return step

    def _count(self, name):
        self.seen.append(name)
        if len(self.seen) - 1 == self.at:
            self.at = None
            self.instead()


class Search:
    """A study of one trial, and workers of it."""

    def __init__(self, runs):
        self.storage = open_storage(url_of(None, runs))
        self.study, self.spec = load_study(self.storage, "s")
        self.slots = Slots(self.study, max_restarts=3)
        self.folder = runs / "s" / trial_name(0)

    def claim(self):
        claim = self.slots.claim(Owner.this_process())
        return ClaimedTrial(self.study, self.spec, claim, self.slots, self.folder)

    def files(self):
        """Which file each name stands for, and what is in it."""
        paths = [path for path in self.folder.iterdir() if path.name != "log.txt"]
        return {path.name: (path.stat().st_ino, path.read_bytes()) for path in paths}

    def told(self):
        """What the database says of the trial."""
        one = self.study.get_trials()[0]
        return one.state, one.value, one.params, one.intermediate_values


def test_a_worker_that_lost_its_trial_changes_nothing(make, data, tmp_path, steps):
    """Another one took the trial over and completed it."""
    make(tmp_path / "fresh", trials=1, epochs=1)
    shutil.copytree(tmp_path / "fresh", tmp_path / "whole")
    whole = Search(tmp_path / "whole").claim()
    steps.seen.clear()
    trial.run(whole)
    seen = steps.seen.copy()
    assert seen.count("replace") == 7

    for number, step in enumerate(seen):
        search = Search(shutil.copytree(tmp_path / "fresh", tmp_path / str(number)))
        old, left = search.claim(), {}

        def overtaken(search=search, old=old, left=left):
            assert search.slots.release(old.claim)
            left["record"] = trial.run(search.claim())
            left["files"], left["told"] = search.files(), search.told()

        steps.seen, steps.at, steps.instead = [], number, overtaken
        with pytest.raises(LeaseLost):
            trial.run(old)

        when = f"before step {number}, {step}"
        assert search.files() == left["files"], when
        assert search.told() == left["told"], when
        record = left["record"]
        assert (record.state, len(record.epochs)) == ("complete", 1)
        assert read(search.folder / NAME) == record
        state, value, *_ = left["told"]
        assert (state, value) == (optuna.trial.TrialState.COMPLETE, record.best_val_nll)
        scored = nll(weights.flow_of(record, search.folder), data, "val").mean
        assert scored == pytest.approx(record.best_val_nll, rel=1e-6), when
        search.storage.engine.dispose()
