"""A worker that trains several trials together: each is a trial of its own, whatever happens."""

import functools
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import optuna
import pytest
from optuna.trial import TrialState

from hpo.execution import worker
from hpo.records.folder import read
from hpo.records.record import NAME
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.study import record_of
from models.config import FlowConfig, TrainConfig
from models.training.stack.meeting import Meeting
from models.training.stack.stack import Stack
from models.training.train import train
from tests.forks import spread

pytestmark = pytest.mark.slow

KILLED, TRIALS, STACK = -9, 5, 3
SPACE = {
    "components": [2, 4],
    "base_hidden": 4,
    "hidden": 4,
    "blocks": [0, 1],
    "batch_size": [64, 128],
    "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
}


def records(runs):
    return [read(runs / "s" / f"trial-{number:05d}" / NAME) for number in range(TRIALS)]


@functools.cache
def alone(data, flow, training):
    """The history of a trial's configuration, trained by itself."""
    configs = FlowConfig.from_dict(dict(flow)), TrainConfig.from_dict(dict(training))
    return train(data, *configs)[1].history


def check_all_ended_as_alone(runs, data):
    """Each trial once, with all of its epochs, and to the accuracy of float32 what it is alone."""
    storage = open_storage(url_of(None, runs), reading=True)
    trials = optuna.load_study(study_name="s", storage=storage).trials
    storage.engine.dispose()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * TRIALS
    for record, trial in zip(records(runs), trials, strict=True):
        assert record.state == "complete"
        assert record.params == trial.params
        same = alone(data, *(tuple(one.items()) for one in (record.flow, record.training)))
        for row, expected in zip(record.epochs, same, strict=True):
            assert row.train_nll == pytest.approx(expected.train_nll, abs=1e-4)
            assert row.val_nll == pytest.approx(expected.val_nll, abs=1e-4)
        assert trial.value == record.best_val_nll
        assert trial.intermediate_values == {row.epoch: row.val_nll for row in record.epochs}
        said = (runs / "s" / f"trial-{trial.number:05d}" / "log.txt").read_text()
        assert said.count(": epoch ") <= len(record.epochs) + 1  # at most one was run again


def shape(record):
    return record.params["blocks"], record.params["batch_size"]


@pytest.fixture(scope="module")
def whole(forks, make, tmp_path_factory):
    """The folder of a study that waits, that of the same one when it is done, and its events."""
    place = tmp_path_factory.mktemp("whole")
    made = make(place / "runs", trials=TRIALS, space=SPACE)
    # By another process: one that closes a file drops the locks that its SQLite has on it.
    subprocess.run(["cp", "-r", place / "runs", place / "fresh"], check=True)
    done = forks.work("s", place / "runs", cwd=place, watch=place / "runs" / "s", stack=STACK)
    assert done.code == 0, done.said
    assert not made.slots.leases()
    return place / "fresh", place / "runs", len(done.events)


def test_trials_trained_together_are_each_its_own(whole, data):
    _, runs, _ = whole

    check_all_ended_as_alone(runs, data)
    ended = records(runs)
    assert {record.environment.stack for record in ended} == {STACK}
    assert len({shape(record) for record in ended[:STACK]}) == 1
    assert len({shape(record) for record in ended[STACK:]}) == 1
    assert len({record.params["learning_rate"] for record in ended}) == TRIALS
    for number in range(TRIALS):
        log = (runs / "s" / f"trial-{number:05d}" / "log.txt").read_text()
        assert log.count("epoch 1:") == log.count("epoch 2:") == 1
        assert f"trial {number} complete" in log


def test_without_a_number_a_worker_trains_as_many_together_as_the_search_can_bear(
    make, tmp_path, monkeypatch
):
    """Of 8 trials in four rounds two, each pair in one stack."""
    sizes, stack, joined = [], Stack.__init__, Meeting.joined
    both = threading.Barrier(2)

    def counted(self, members, held, **options):
        sizes.append(len(members))
        stack(self, members, held, **options)

    @contextmanager
    def met(self, shape):
        with joined(self, shape):
            both.wait(60)
            yield

    monkeypatch.setattr(Stack, "__init__", counted)
    monkeypatch.setattr(Meeting, "joined", met)
    for name in ("captureWarnings", "basicConfig"):
        monkeypatch.setattr(f"logging.{name}", lambda *_, **__: None)
    monkeypatch.setattr("hpo.execution.plan.ROUNDS_ON_CPU", 4)
    made = make(tmp_path / "runs", trials=8, epochs=1, space=SPACE)

    assert worker.work("s", str(tmp_path / "runs"), 1, 1, "auto") == 8

    ended = [record_of(made.folder, number) for number in range(8)]
    assert sizes == [2] * 4
    assert {record.environment.stack for record in ended} == {2}
    shapes = [shape(record) for record in ended]
    assert shapes[::2] == shapes[1::2]
    assert len(set(shapes)) > 1


def test_trials_trained_together_are_pruned_each_by_itself(forks, make, tmp_path):
    pruner = {"kind": "asha", "min_epochs": 1, "reduction_factor": 2}
    made = make(tmp_path / "runs", trials=TRIALS, space=SPACE, pruner=pruner, epochs=4)

    done = forks.work("s", tmp_path / "runs", cwd=tmp_path, stack=STACK)

    assert done.code == 0, done.said
    ended = records(tmp_path / "runs")
    assert {record.state for record in ended} == {"complete", "pruned"}
    trials = made.study.get_trials(deepcopy=False)
    for record, trial in zip(ended, trials, strict=True):
        assert (record.state == "pruned") == (trial.state is TrialState.PRUNED)
        assert record.epochs[-1].epoch in ((1, 2) if record.state == "pruned" else (4,))
        assert trial.intermediate_values == {row.epoch: row.val_nll for row in record.epochs}


def test_trials_trained_together_go_on_from_every_moment(forks, whole, data, tmp_path):
    (fresh, _, events), runs = whole, tmp_path / "runs"
    for number in spread(events - 20, 3):
        shutil.rmtree(runs, ignore_errors=True)
        shutil.copytree(fresh, runs)
        killed = forks.work(
            "s", runs, cwd=tmp_path, watch=runs / "s", kill_before=number, stack=STACK
        )
        assert killed.code == KILLED

        again = forks.work("s", runs, cwd=tmp_path, stack=STACK)

        assert again.code == 0, again.said
        check_all_ended_as_alone(runs, data)
        assert all(record.restarts <= 1 for record in records(runs))


def test_a_worker_that_is_cancelled_hands_all_of_its_trials_back(make, tmp_path):
    """One of its threads waits for a trial."""
    trials = STACK - 1
    made = make(tmp_path / "runs", trials=trials, epochs=100_000, patience=0, space=SPACE)
    program = (
        "from hpo.execution.worker import work; "
        f"print(work('s', {str(tmp_path / 'runs')!r}, 1, 1, {STACK}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    logs = [made.folder / f"trial-{number:05d}" / "log.txt" for number in range(trials)]
    deadline = time.monotonic() + 100
    while not all(log.exists() and "epoch 2:" in log.read_text() for log in logs):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len({lease.owner for lease in made.slots.leases()}) == 1

    process.send_signal(signal.SIGTERM)

    assert process.communicate(timeout=30)[0].strip() == "0"
    looked = made.slots.look()
    assert (looked.counts[TrialState.WAITING], looked.counts[TrialState.RUNNING]) == (trials, 0)
    assert all(trial.intermediate_values for trial in made.study.get_trials(deepcopy=False))
    assert not made.slots.leases()
