"""Weights kept on the way: at which rows, the very ones evaluated, and the same after a kill."""

import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from models.config import FlowConfig, TrainConfig
from models.evaluation.nll import nll
from models.training import checkpoint, snapshots
from models.training.snapshots import SnapshotError, due, flow_of, kept
from models.training.train import train

FLOW = FlowConfig(base="normal", blocks=1, hidden=8)
CONFIG = TrainConfig(epochs=6, batch_size=1024, snapshots=4, patience=0, device="cpu")
KEPT = [1, 2, 3, 6]


class Killed(Exception):
    """Stands for whatever ends a training from outside."""


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """A training that kept some, in its folder, with its flow. Do not write into it."""
    folder = tmp_path_factory.mktemp("whole")
    flow, fit = train(prepared, FLOW, CONFIG, checkpoint=folder)
    return folder, flow, fit


def flows(folder):
    """What is kept, by its row."""
    stored = checkpoint.load(folder)
    history = checkpoint.history_of(stored)
    return {one.row.epoch: flow_of(one, stored.state["flow"]) for one in kept(folder, history)}


def same(one, other):
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@given(count=some.integers(0, 60), rows=some.integers(1, 1000))
def test_as_many_are_due_as_asked_for_or_as_there_are_rows_the_last_always_and_more_early(
    count, rows
):
    found = sorted(due(count, rows))

    assert len(found) == min(count, rows)
    assert set(found) <= set(range(1, rows + 1))
    assert found[-1:] == [rows] * min(count, 1)
    gaps = [late - early for early, late in zip(found, found[1:], strict=False)]
    assert all(late >= early - 1 for early, late in zip(gaps, gaps[1:], strict=False))  # rounding


def test_the_weights_of_a_row_are_those_that_its_nll_was_taken_with(prepared, whole):
    folder, _, fit = whole

    found = flows(folder)

    assert list(found) == KEPT
    for epoch, flow in found.items():
        row = fit.history[epoch - 1]
        assert nll(flow, prepared, "val").mean == pytest.approx(row.val_nll, rel=1e-6)


def test_the_last_are_the_weights_of_the_emulator_where_it_is_the_best(whole):
    folder, flow, fit = whole

    assert fit.best.epoch == CONFIG.epochs
    assert same(flow, flows(folder)[CONFIG.epochs])


@pytest.mark.parametrize(
    ("after", "late"),
    [
        pytest.param(2, False, id="after a row"),
        pytest.param(3, True, id="between its weights and the checkpoint"),
    ],
)
def test_a_training_that_was_killed_keeps_what_the_unbroken_one_does(
    prepared, whole, tmp_path, monkeypatch, after, late
):
    save = checkpoint.save

    def killed(folder, reached, **_):
        if len(reached.state["history"]) == after:
            if late:
                monkeypatch.setattr(checkpoint, "to_bytes", lambda *_, **__: 1 / 0)
            save(folder, reached)
            raise Killed
        save(folder, reached)

    with pytest.raises((Killed, ZeroDivisionError)):
        train(prepared, FLOW, CONFIG, checkpoint=tmp_path, save=killed)
    monkeypatch.undo()
    assert list(flows(tmp_path)) == [each for each in KEPT if each <= after - late]
    train(prepared, FLOW, CONFIG, checkpoint=tmp_path)

    resumed, unbroken = flows(tmp_path), flows(whole[0])
    assert list(resumed) == list(unbroken)
    assert all(same(resumed[epoch], unbroken[epoch]) for epoch in unbroken)


def test_a_training_that_stops_early_keeps_what_it_has(prepared, tmp_path):
    config = replace(CONFIG, epochs=50, snapshots=50, min_rate=1e3)
    _, fit = train(prepared, FLOW, config, checkpoint=tmp_path)

    assert fit.stopped
    assert list(flows(tmp_path)) == [row.epoch for row in fit.history]


def test_what_another_training_left_does_not_count(prepared, whole, tmp_path):
    shutil.copytree(whole[0] / snapshots.FOLDER, tmp_path / snapshots.FOLDER)
    train(prepared, FLOW, replace(CONFIG, snapshots=0, seed=1), checkpoint=tmp_path)

    assert flows(tmp_path) == {}


def test_a_damaged_one_is_named_with_the_remedy(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    first = min((folder / snapshots.FOLDER).iterdir())
    first.write_bytes(first.read_bytes()[:100])

    with pytest.raises(SnapshotError, match=r"0000001\.safetensors is not a whole .*delete it"):
        flows(folder)


def test_one_of_another_flow_is_refused(whole):
    stored = checkpoint.load(whole[0])
    one = kept(whole[0], checkpoint.history_of(stored))[0]
    other = stored.state["flow"] | {"config": stored.state["flow"]["config"] | {"hidden": 9}}

    with pytest.raises(SnapshotError, match="does not describe a flow"):
        flow_of(one, other)
