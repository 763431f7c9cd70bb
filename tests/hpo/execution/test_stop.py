"""`hpo stop` and `hpo enqueue` on a real study with real workers."""

import json
import os
import signal
import subprocess
import sys
import time

import optuna
import pytest
from click.testing import CliRunner
from optuna.trial import TrialState

from hpo.cli import main
from hpo.queue.leases import Owner
from hpo.queue.slots import Slots
from hpo.storage.address import url_of
from hpo.storage.open import open_storage

pytestmark = pytest.mark.slow

STUDY = """
[study]
name = "long"
trials = 3
workers = 1

[data]
path = "{data}"

[space]
components = [4, 8]

[training]
epochs = 4000
batch_size = 64
patience = 0

[pruner]
kind = "none"
"""


@pytest.fixture
def place(tmp_path, prepared, monkeypatch):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.toml").write_text(STUDY.format(data=prepared))
    return tmp_path


def hpo(*words, code=0):
    """Run `hpo` in this process and give back what it printed on both streams."""
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done.output


def slots_of(place):
    study = optuna.load_study(study_name="long", storage=open_storage(url_of(None, place / "runs")))
    return Slots(study, max_restarts=3), study


def test_stop_now_ends_the_workers_and_their_trials_go_back(place):
    launch = subprocess.Popen(
        [sys.executable, "-m", "hpo.cli", "launch", "long.toml"],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        record = place / "runs" / "long" / "trial-00000" / "run.json"
        deadline = time.monotonic() + 100
        while not (record.exists() and json.loads(record.read_text())["epochs"]):
            assert time.monotonic() < deadline
            time.sleep(0.2)

        said = hpo("stop", "long", "--now")

        assert "1 local worker ended, 0 trials still running" in said
        assert launch.wait(timeout=60) == 0
    finally:
        launch.kill()
    slots, study = slots_of(place)
    assert slots.look().counts[TrialState.WAITING] == 3
    assert study.trials[0].intermediate_values
    assert slots.claim(Owner.this_process()).restarts == 0


def test_points_are_given_to_a_study_that_is_made_for_them(place):
    (place / "points.json").write_text('[{"components": 8}, {"components": 4}]')

    assert "as trials 0, 1" in hpo("enqueue", "long.toml", "points.json")
    hpo("enqueue", "long", "points.json", "--from", "long", code=2)

    slots, study = slots_of(place)
    slots.set_total(3)
    trials = [slots.trial_of(slots.claim(Owner.this_process())) for _ in range(3)]
    assert [trial.suggest_categorical("components", [4, 8]) for trial in trials[:2]] == [8, 4]


def test_a_worker_that_is_cancelled_hands_its_trial_back(place):
    """As scancel and preemption do: SIGTERM, then some seconds."""
    hpo("enqueue", "long.toml", points_file(place))
    program = "from hpo.execution.worker import work; print(work('long', 'runs', 1, 1))"
    worker = subprocess.Popen(
        [sys.executable, "-c", program], cwd=place, stdout=subprocess.PIPE, text=True
    )
    log = place / "runs" / "long" / "trial-00000" / "log.txt"
    deadline = time.monotonic() + 100
    while not (log.exists() and "epoch 2:" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    os.kill(worker.pid, signal.SIGTERM)

    assert worker.communicate(timeout=30)[0].strip() == "0"
    slots, study = slots_of(place)
    assert study.trials[0].state == TrialState.WAITING
    assert slots.claim(Owner.this_process()).restarts == 0


def points_file(place):
    (place / "one.json").write_text('{"components": 4}')
    return "one.json"
