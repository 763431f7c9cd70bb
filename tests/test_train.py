"""Training: it reaches the truth, resumes exactly, stops with a reason, never reports NaN."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.prepare import prepare
from data_prep.stream import read_split
from models import parts
from models import train as training
from models.checkpoint import CheckpointError, best_flow, load, trim
from models.config import FlowConfig, TrainConfig
from models.measure import nll
from models.train import NonFiniteLoss, train

FLOW = FlowConfig(blocks=2, hidden=16)
QUICK = TrainConfig(epochs=4, batch_size=256, learning_rate=5e-3, device="cpu")


class Killed(Exception):
    """Stands for whatever ends a training from outside."""


def weights(flow):
    return list(flow.state_dict().values())


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def numbers(fit):
    """History without the wall-clock times."""
    return [(e.epoch, e.train_nll, e.val_nll, e.learning_rate, e.loss_rate) for e in fit.history]


def interrupt(folder, config, checkpoint, *, after):
    def on_epoch(epoch):
        if epoch.epoch == after:
            raise Killed

    with pytest.raises(Killed):
        train(folder, FLOW, config, checkpoint=checkpoint, on_epoch=on_epoch)


@pytest.mark.slow
def test_training_reaches_the_score_of_the_truth(prepared, known):
    config = replace(QUICK, epochs=20, learning_rate=1e-2)

    flow, fit = train(prepared, replace(FLOW, blocks=3), config)

    test = read_split(prepared, "test")
    truth = known(test.events.astype(float), test.conditions.astype(float))
    # 3,600 rows teach the flow a little that is not so; below the truth it can only be by luck.
    assert truth - 0.02 < nll(flow, prepared, "test").mean < truth + 0.06
    assert len(fit.history) == 20


@pytest.mark.parametrize("eval_every", [0, 6])
def test_an_interrupted_training_ends_as_the_unbroken_one(prepared, tmp_path, eval_every):
    config = replace(QUICK, eval_every=eval_every, patience=0)
    whole, whole_fit = train(prepared, FLOW, config)

    interrupt(prepared, config, tmp_path, after=2)
    rows = []
    resumed, resumed_fit = train(prepared, FLOW, config, checkpoint=tmp_path, on_epoch=rows.append)

    assert same(whole, resumed)
    assert numbers(whole_fit) == numbers(resumed_fit)
    assert [row.epoch for row in rows] == [e.epoch for e in whole_fit.history[2:]]


def test_a_resumed_training_remembers_its_best_and_its_patience(prepared, tmp_path):
    config = replace(QUICK, epochs=12, learning_rate=0.3, patience=3, schedule="constant")
    whole, whole_fit = train(prepared, FLOW, config)

    interrupt(prepared, config, tmp_path, after=len(whole_fit.history) - 1)
    resumed, resumed_fit = train(prepared, FLOW, config, checkpoint=tmp_path)

    assert whole_fit.stopped is not None
    assert resumed_fit.stopped == whole_fit.stopped
    assert resumed_fit.best_epoch == whole_fit.best_epoch < len(whole_fit.history)
    assert same(whole, resumed)


def test_a_finished_training_is_not_trained_again(prepared, tmp_path):
    first, fit = train(prepared, FLOW, QUICK, checkpoint=tmp_path)
    trim(tmp_path)

    again, same_fit = train(
        prepared, FLOW, QUICK, checkpoint=tmp_path, on_epoch=lambda _: pytest.fail("trained")
    )

    assert same(first, again)
    assert same_fit == fit


def test_the_best_flow_of_a_running_trial_is_that_of_its_best_row(prepared, tmp_path):
    flow, fit = train(prepared, FLOW, QUICK, checkpoint=tmp_path)

    assert same(best_flow(tmp_path), flow)
    assert nll(flow, prepared, "val").mean == pytest.approx(fit.best_val_nll, abs=1e-5)
    assert fit.best_val_nll == min(e.val_nll for e in fit.history)


def test_the_checkpoint_is_saved_before_the_row_is_told(prepared, tmp_path):
    def on_epoch(epoch):
        assert load(tmp_path).state["history"][-1]["epoch"] == epoch.epoch

    train(prepared, FLOW, QUICK, checkpoint=tmp_path, on_epoch=on_epoch)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param({"learning_rate": 0.02}, "learning_rate = 0.005", id="option"),
        pytest.param({"seed": 3}, "seed = 0", id="seed"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(prepared, tmp_path, change, name):
    train(prepared, FLOW, replace(QUICK, epochs=1), checkpoint=tmp_path)

    with pytest.raises(CheckpointError, match=f"of another training: it has {name}"):
        train(prepared, FLOW, replace(QUICK, epochs=1, **change), checkpoint=tmp_path)


def test_the_same_seed_gives_the_same_flow_and_leaves_the_global_generator_alone(prepared):
    config = replace(QUICK, epochs=1)
    before = torch.get_rng_state()
    one, same_seed, other = (
        train(prepared, FLOW, replace(config, seed=seed))[0] for seed in (1, 1, 2)
    )

    assert same(one, same_seed)
    assert not same(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("flushed", [False, True])
def test_denormals_mean_afterwards_what_they_meant_before(prepared, flushed):
    def are_flushed():
        return bool(np.array([1e-310]) * np.array([0.5]) == 0)

    torch.set_flush_denormal(flushed)
    try:
        seen = []
        config = replace(QUICK, epochs=1)
        train(prepared, FLOW, config, on_epoch=lambda _: seen.append(are_flushed()))
        assert seen == [True]
        assert are_flushed() == flushed
    finally:
        torch.set_flush_denormal(False)


def test_a_batch_in_parts_is_the_same_step(prepared, monkeypatch):
    config = replace(QUICK, epochs=1, batch_size=1000)
    whole, _ = train(prepared, FLOW, config)
    monkeypatch.setattr(parts, "CPU_ROWS", 130)

    parted, _ = train(prepared, FLOW, config)

    for a, b in zip(weights(whole), weights(parted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_large_batch_in_the_order_of_its_conditions_is_the_same_step(prepared, monkeypatch):
    config = replace(QUICK, epochs=1, batch_size=2000)
    monkeypatch.setattr(parts, "SORTED_ROWS", 10_000)
    whole, _ = train(prepared, FLOW, config)
    monkeypatch.setattr(parts, "SORTED_ROWS", 1000)
    monkeypatch.setattr(parts, "CPU_ROWS", 600)
    seen = []
    original = parts._parts_in_order
    monkeypatch.setattr(parts, "_parts_in_order", lambda *args: seen.append(1) or original(*args))

    ordered, _ = train(prepared, FLOW, config)

    assert seen
    for a, b in zip(weights(whole), weights(ordered), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_training_nll_is_the_mean_over_the_epoch(prepared):
    """With a step size of next to nothing it is that of the fresh flow on the whole split."""
    config = replace(QUICK, epochs=1, learning_rate=1e-12)

    flow, fit = train(prepared, FLOW, config)

    assert fit.history[0].train_nll == pytest.approx(nll(flow, prepared, "train").mean, abs=1e-4)


def test_the_learning_rate_rises_then_falls_to_zero():
    config = TrainConfig(learning_rate=0.01, warmup=0.1)
    rates = [training._learning_rate(config, step, 100) for step in range(100)]

    assert max(rates) == rates[10] == 0.01
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] < 1e-5


def test_biases_are_not_decayed(prepared):
    config = replace(QUICK, weight_decay=0.1)
    flow = training._Training(prepared, FLOW, config, torch.device("cpu"))

    decayed, free = flow.optimizer.param_groups

    biases = sum(p.numel() for n, p in flow.flow.named_parameters() if ".bias." in n)
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0
    assert free["params"][0].numel() == biases > 0


def test_clipping_shortens_a_long_gradient_and_leaves_a_short_one():
    long, short = [torch.tensor([3.0]), torch.tensor([4.0])], [torch.tensor([0.3])]

    assert training._clip(long, 1.0) == pytest.approx(5.0)
    training._clip(short, 1.0)

    assert [float(g) for g in long] == pytest.approx([0.6, 0.8], rel=1e-5)
    assert float(short[0]) == pytest.approx(0.3)


@pytest.mark.parametrize(("break_at", "epoch"), [(3, 1), (20, 2)])
def test_a_non_finite_loss_ends_training_with_epoch_and_step(
    prepared, monkeypatch, break_at, epoch
):
    calls = iter(range(1, 10_000))
    original = parts.PartedLoss.backward

    def backward(self, x_NF, c_NC):
        loss = original(self, x_NF, c_NC)
        return loss * np.nan if next(calls) == break_at else loss

    monkeypatch.setattr(parts.PartedLoss, "backward", backward)
    rows = []

    with pytest.raises(NonFiniteLoss, match=rf"at step {break_at} \(epoch {epoch}\)"):
        train(prepared, FLOW, QUICK, on_epoch=rows.append)

    assert len(rows) == epoch - 1
    assert all(math.isfinite(row.train_nll) and math.isfinite(row.val_nll) for row in rows)


def test_a_time_budget_holds_over_restarts(prepared, tmp_path):
    config = replace(QUICK, epochs=1000, patience=0)
    interrupt(prepared, config, tmp_path, after=2)
    spent = load(tmp_path).state["elapsed_s"]

    budget = replace(config, max_minutes=spent / 60)
    _, fit = train(prepared, FLOW, budget, checkpoint=tmp_path)

    assert len(fit.history) == 3
    assert "minutes is spent" in fit.stopped


@pytest.mark.parametrize(
    ("features", "given"), [(("Mass_0",), ("alpha",)), (("Mass_1", "GWtime"), ("Z",))]
)
def test_other_columns_train_as_well(table, tmp_path, features, given):
    pq.write_table(table, tmp_path / "table.parquet")
    prepare(
        [tmp_path / "table.parquet"],
        tmp_path / "data",
        event_columns=features,
        condition_columns=given,
    )

    flow, fit = train(tmp_path / "data", FLOW, QUICK)

    assert fit.history[-1].val_nll < fit.history[0].val_nll
    assert len(flow.event_columns) == len(features)


def test_threads_take_the_same_step_every_time_and_give_the_threads_back(prepared):
    config = replace(QUICK, epochs=2, batch_size=2000)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, _ = train(prepared, FLOW, config)
        torch.set_num_threads(3)
        (one, fit), (other, same_fit) = (train(prepared, FLOW, config) for _ in range(2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)

    assert same(one, other)
    assert numbers(fit) == numbers(same_fit)
    for a, b in zip(weights(alone), weights(one), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
