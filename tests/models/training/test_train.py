"""Training: it reaches the truth, resumes exactly, stops with a reason, never reports NaN."""

import itertools
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.dataset import SPLITS
from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from models.config import ConfigError, FlowConfig, TrainConfig
from models.evaluation.nll import nll
from models.flow import conditions
from models.flow.density import ConditionalFlow
from models.training import loss
from models.training.checkpoint import CheckpointError, best_flow, load, save, trim
from models.training.history import Fit
from models.training.train import NonFiniteLoss, train

FLOW = FlowConfig(base="normal", blocks=2, hidden=16)
QUICK = TrainConfig(epochs=4, batch_size=256, learning_rate=5e-3, device="cpu")
ONCE = replace(QUICK, epochs=1)


class Trained(NamedTuple):
    """A training that tests look at. Do not write into its folder."""

    flow: ConditionalFlow
    fit: Fit
    folder: Path
    saved: list[int]
    """Rows that the checkpoint held when each row was told."""

    def copy(self, to):
        return shutil.copytree(self.folder, to, dirs_exist_ok=True)


def trained(prepared, folder, config):
    saved = []

    def on_epoch(_):
        saved.append(len(load(folder).state["history"]))

    return Trained(
        *train(prepared, FLOW, config, checkpoint=folder, on_epoch=on_epoch), folder, saved
    )


@pytest.fixture(scope="module")
def quick(prepared, tmp_path_factory):
    return trained(prepared, tmp_path_factory.mktemp("quick"), QUICK)


@pytest.fixture(scope="module")
def once(prepared, tmp_path_factory):
    return trained(prepared, tmp_path_factory.mktemp("once"), ONCE)


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
def test_an_interrupted_training_ends_as_the_unbroken_one(prepared, quick, tmp_path, eval_every):
    config = replace(QUICK, eval_every=eval_every)
    whole, whole_fit = train(prepared, FLOW, config) if eval_every else quick[:2]

    interrupt(prepared, config, tmp_path, after=2)
    rows = []
    resumed, resumed_fit = train(prepared, FLOW, config, checkpoint=tmp_path, on_epoch=rows.append)

    assert same(whole, resumed)
    assert numbers(whole_fit) == numbers(resumed_fit)
    assert [row.epoch for row in rows] == [e.epoch for e in whole_fit.history[2:]]


def test_a_resumed_training_remembers_its_best_and_its_patience(prepared, tmp_path):
    noisy = {"learning_rate": 0.3, "schedule": "constant", "decay_rows": 0.0}
    config = replace(QUICK, epochs=12, patience=2, batch_size=1024, **noisy)
    whole, whole_fit = train(prepared, FLOW, config)

    interrupt(prepared, config, tmp_path, after=len(whole_fit.history) - 1)
    resumed, resumed_fit = train(prepared, FLOW, config, checkpoint=tmp_path)

    assert whole_fit.stopped is not None
    assert resumed_fit.stopped == whole_fit.stopped
    assert resumed_fit.best.epoch == whole_fit.best.epoch < len(whole_fit.history)
    assert same(whole, resumed)


def test_a_finished_training_is_not_trained_again(prepared, quick, tmp_path):
    trim(quick.copy(tmp_path))

    again, same_fit = train(
        prepared, FLOW, QUICK, checkpoint=tmp_path, on_epoch=lambda _: pytest.fail("trained")
    )

    assert same(quick.flow, again)
    assert same_fit == quick.fit


def test_the_best_flow_of_a_running_trial_is_that_of_its_best_row(prepared, quick):
    _, fit, folder, _ = quick

    assert same(best_flow(folder), quick.flow)
    assert nll(quick.flow, prepared, "val").mean == pytest.approx(fit.best.val_nll, abs=1e-5)
    assert fit.best.val_nll == min(e.val_nll for e in fit.history)


def test_the_checkpoint_is_saved_before_the_row_is_told(quick):
    assert quick.saved == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param({"learning_rate": 0.02}, "learning_rate = 0.005", id="option"),
        pytest.param({"seed": 3}, "seed = 0", id="seed"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(prepared, once, change, name):
    with pytest.raises(CheckpointError, match=f"of another training: it has {name}"):
        train(prepared, FLOW, replace(ONCE, **change), checkpoint=once.folder)


def test_a_checkpoint_in_which_other_weights_decay_is_refused(prepared, once, tmp_path):
    """An older version took every matrix of one column for a bias."""
    stored = load(once.folder)
    moments = ("optimizer.0.exp_avg", "optimizer.1.exp_avg")
    both = torch.cat([stored.tensors[name] for name in moments])
    for name, part in zip(moments, both.tensor_split([len(both) // 2]), strict=True):
        stored.tensors[name] = part.clone()
    save(tmp_path, stored)

    with pytest.raises(CheckpointError, match="older version, in which other weights decay"):
        train(prepared, FLOW, ONCE, checkpoint=tmp_path)

    trim(tmp_path)
    flow, _ = train(prepared, FLOW, ONCE, checkpoint=tmp_path)
    assert same(flow, once.flow)


def test_the_same_seed_gives_the_same_flow_and_leaves_the_global_generator_alone(prepared, once):
    before = torch.get_rng_state()
    same_seed, other = (train(prepared, FLOW, replace(ONCE, seed=seed))[0] for seed in (0, 1))

    assert same(once.flow, same_seed)
    assert not same(once.flow, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("tf32", "within"), [(False, "highest"), (True, "high")])
def test_matrix_products_are_as_exact_as_asked_and_afterwards_as_before(prepared, tf32, within):
    before = torch.get_float32_matmul_precision()
    seen = []

    def on_epoch(_):
        seen.append(torch.get_float32_matmul_precision())

    train(prepared, FLOW, replace(ONCE, tf32=tf32), on_epoch=on_epoch)

    assert seen == [within]
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("flushed", [False, True])
def test_denormals_mean_afterwards_what_they_meant_before(prepared, flushed):
    def are_flushed():
        return bool(np.array([1e-310]) * np.array([0.5]) == 0)

    torch.set_flush_denormal(flushed)
    try:
        seen = []
        config = ONCE
        train(prepared, FLOW, config, on_epoch=lambda _: seen.append(are_flushed()))
        assert seen == [True]
        assert are_flushed() == flushed
    finally:
        torch.set_flush_denormal(False)


def test_a_batch_in_parts_is_the_same_step(prepared, monkeypatch):
    config = replace(ONCE, batch_size=1000)
    whole, _ = train(prepared, FLOW, config)
    monkeypatch.setattr(loss, "CPU_ROWS", 130)

    parted, _ = train(prepared, FLOW, config)

    for a, b in zip(weights(whole), weights(parted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_batch_in_the_order_of_its_conditions_is_the_same_step(prepared, monkeypatch):
    config = replace(ONCE, batch_size=1000)
    ordered, _ = train(prepared, FLOW, config)
    monkeypatch.setattr(conditions, "SHARED_ROWS", 10_000)

    as_they_came, _ = train(prepared, FLOW, config)

    for a, b in zip(weights(ordered), weights(as_they_came), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_training_nll_is_the_mean_over_the_epoch(prepared):
    """With a step size of next to nothing it is that of the fresh flow on the whole split."""
    config = replace(ONCE, learning_rate=1e-12, jitter=0.0)

    flow, fit = train(prepared, FLOW, config)

    assert fit.history[0].train_nll == pytest.approx(nll(flow, prepared, "train").mean, abs=1e-4)


@pytest.mark.parametrize(("break_at", "epoch"), [(3, 1), (20, 2)])
def test_a_non_finite_loss_ends_training_with_epoch_and_step(
    prepared, monkeypatch, break_at, epoch
):
    calls = iter(range(1, 10_000))
    original = loss.BatchLoss.backward

    def backward(self, *arguments):
        found = original(self, *arguments)
        return found * np.nan if next(calls) == break_at else found

    monkeypatch.setattr(loss.BatchLoss, "backward", backward)
    rows = []

    with pytest.raises(NonFiniteLoss, match=rf"at step {break_at} \(epoch {epoch}\)"):
        train(prepared, FLOW, QUICK, on_epoch=rows.append)

    assert len(rows) == epoch - 1
    assert all(math.isfinite(row.train_nll) and math.isfinite(row.val_nll) for row in rows)


def test_with_a_time_budget_the_learning_rate_falls_in_that_time(prepared):
    config = replace(QUICK, epochs=100_000, patience=0, max_minutes=0.02)

    _, fit = train(prepared, FLOW, config)

    rates = [epoch.learning_rate for epoch in fit.history]
    assert rates[-1] < 0.05 * config.learning_rate < max(rates)
    assert 1.2 <= sum(epoch.seconds for epoch in fit.history) < 4


def test_the_averaged_weights_are_those_that_are_evaluated_and_kept(prepared, quick):
    last, _ = train(prepared, FLOW, replace(QUICK, ema=0.0))

    assert not same(quick.flow, last)
    assert nll(quick.flow, prepared, "val").mean == pytest.approx(quick.fit.best.val_nll, abs=1e-5)


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

    fresh = replace(ONCE, learning_rate=1e-12)
    _, start = train(tmp_path / "data", FLOW, fresh)
    flow, fit = train(tmp_path / "data", FLOW, QUICK)

    assert fit.best.val_nll < start.best.val_nll - 0.005
    assert len(flow.event_columns) == len(features)


def test_threads_take_the_same_step_every_time_and_give_the_threads_back(prepared, monkeypatch):
    config = replace(QUICK, epochs=2, batch_size=2000)
    monkeypatch.setattr(loss, "REPLICA_ROWS", 500)
    monkeypatch.setattr(loss, "CPU_ROWS", 300)
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


# ---- held-out cells

HELD_OUT = [{"Z": 0.001, "alpha": 5.0}, {"alpha": 0.5, "Z": 0.01}]
REPORT = [{"Z": 0.001, "alpha": 1.0}]


def with_other_events_in(cells, prepared, to):
    """A copy of the dataset in which only the events of these cells are others."""
    folder = shutil.copytree(prepared, to)
    for path in (path for split in SPLITS for path in (folder / split).iterdir()):
        table = pq.read_table(path)
        inside = np.zeros(len(table), bool)
        for cell in cells:
            inside |= np.logical_and.reduce(
                [table[name].to_numpy() == v for name, v in cell.items()]
            )
        masses = table["Mass_0"].to_numpy().copy()
        masses[inside] *= 3
        table = table.set_column(0, table.schema.field("Mass_0"), [masses])
        pq.write_table(table, path)
    return folder


def test_what_is_held_out_is_never_seen(prepared, tmp_path):
    other = with_other_events_in(HELD_OUT, prepared, tmp_path / "other")

    config = replace(QUICK, epochs=2)
    (one, fit), (two, other_fit) = (
        train(folder, FLOW, config, hold_out=HELD_OUT) for folder in (prepared, other)
    )

    assert same(one, two)  # bit for bit, with the constants that standardise
    assert numbers(fit) == numbers(other_fit)
    assert fit.history[-1].held_out_nll < other_fit.history[-1].held_out_nll - 1
    assert not same(one, train(other, FLOW, config)[0])  # and it would have shown


def test_nothing_of_a_training_sees_the_cells_to_report_by(prepared, tmp_path):
    other = with_other_events_in(REPORT, prepared, tmp_path / "other")

    config = replace(QUICK, epochs=2, objective="held_out_nll")
    (one, fit), (two, other_fit) = (
        train(folder, FLOW, config, hold_out=HELD_OUT, report=REPORT)
        for folder in (prepared, other)
    )

    assert same(one, two)
    assert numbers(fit) == numbers(other_fit)
    assert [e.held_out_nll for e in fit.history] == [e.held_out_nll for e in other_fit.history]
    assert not same(one, train(other, FLOW, config, hold_out=HELD_OUT)[0])  # it would have shown


def test_each_row_tells_the_nll_of_both_parts_of_the_validation_split(prepared, once):
    flow, fit = train(prepared, FLOW, ONCE, hold_out=HELD_OUT)

    (row,) = fit.history
    others = nll(flow, prepared, "val", without=HELD_OUT)
    held_out = nll(flow, prepared, "val", only=HELD_OUT)
    whole = nll(flow, prepared, "val")
    assert row.val_nll == fit.best.val_nll == pytest.approx(others.mean, abs=1e-5)
    assert row.held_out_nll == fit.best.held_out_nll == pytest.approx(held_out.mean, abs=1e-5)
    assert others.rows + held_out.rows == whole.rows
    assert once.fit.history[0].held_out_nll is None


@pytest.mark.parametrize(
    ("objective", "best", "reason"),
    [("val_nll", 2, "no better validation NLL"), ("held_out_nll", 3, "no better held-out NLL")],
)
def test_the_objective_decides_which_weights_are_kept_and_when_to_stop(
    prepared, monkeypatch, objective, best, reason
):
    val, held_out = [5.0, 4.0, 4.5, 4.6, 4.7, 4.8], [5.0, 4.5, 4.2, 4.3, 4.4, 4.5]
    in_turn = itertools.chain.from_iterable(zip(val, held_out, strict=True))
    monkeypatch.setattr(loss.BatchLoss, "mean_nll", lambda *_: next(in_turn))
    level = replace(QUICK, schedule="constant", warmup=0.0, batch_size=2048)
    config = replace(level, objective=objective, patience=3)

    flow, fit = train(prepared, FLOW, replace(config, epochs=6), hold_out=HELD_OUT)

    assert (fit.best.epoch, len(fit.history)) == (best, best + 3)
    assert (fit.best.val_nll, fit.best.held_out_nll) == (val[best - 1], held_out[best - 1])
    assert reason in fit.stopped
    monkeypatch.undo()
    assert same(flow, train(prepared, FLOW, replace(config, epochs=best), hold_out=HELD_OUT)[0])


def test_a_training_that_holds_out_cells_resumes_exactly(prepared, tmp_path):
    config = replace(QUICK, objective="held_out_nll", eval_every=6)
    whole, whole_fit = train(prepared, FLOW, config, hold_out=HELD_OUT)

    def on_epoch(epoch):
        if epoch.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(prepared, FLOW, config, hold_out=HELD_OUT, checkpoint=tmp_path, on_epoch=on_epoch)
    # The same cells, named in another order and precision, are the same training.
    again = [{k: np.float32(v) for k, v in cell.items()} for cell in reversed(HELD_OUT)]
    resumed, resumed_fit = train(prepared, FLOW, config, hold_out=again, checkpoint=tmp_path)

    assert same(whole, resumed)
    assert numbers(whole_fit) == numbers(resumed_fit)
    assert [e.held_out_nll for e in whole_fit.history] == [
        e.held_out_nll for e in resumed_fit.history
    ]


@pytest.fixture(scope="module")
def held_out(prepared, tmp_path_factory):
    """A folder with the checkpoint of a training that holds out cells. Do not write into it."""
    folder = tmp_path_factory.mktemp("held-out")
    train(prepared, FLOW, ONCE, hold_out=HELD_OUT, checkpoint=folder)
    return folder


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({}, "hold_out = .*0.001"),
        ({"hold_out": HELD_OUT[:1]}, "hold_out = .*0.001"),
        ({"hold_out": HELD_OUT, "report": REPORT}, r"report = \[\], this one .*0.001"),
    ],
    ids=["none", "fewer", "report"],
)
def test_a_checkpoint_with_other_held_out_cells_is_refused(prepared, held_out, named, said):
    with pytest.raises(CheckpointError, match=f"of another training: it has {said}"):
        train(prepared, FLOW, ONCE, **named, checkpoint=held_out)


def test_a_checkpoint_from_before_held_out_cells_goes_on(prepared, once, tmp_path):
    stored = load(once.folder)
    del stored.state["hold_out"], stored.state["report"], stored.state["training"]["objective"]
    del stored.state["history"][0]["held_out_nll"]
    save(tmp_path, stored)

    _, fit = train(prepared, FLOW, ONCE, checkpoint=tmp_path)

    assert len(fit.history) == 1


def test_the_domain_is_what_was_trained_on(prepared):
    largest = [{"Z": Z, "alpha": 5.0} for Z in (0.0001, 0.001, 0.01)]

    flow, _ = train(prepared, FLOW, ONCE, hold_out=largest)

    assert flow.domain == {"Z": (0.0001, 0.01), "alpha": (0.5, 1.0)}


def test_a_held_out_nll_that_is_not_finite_ends_nothing_but_what_it_judges(prepared, monkeypatch):
    original, held_out = loss.BatchLoss.mean_nll, itertools.cycle([False, True])

    def at_a_loss(self, stream, mean_weight):
        return math.inf if next(held_out) else original(self, stream, mean_weight)

    monkeypatch.setattr(loss.BatchLoss, "mean_nll", at_a_loss)
    _, fit = train(prepared, FLOW, ONCE, hold_out=HELD_OUT)
    assert fit.history[0].held_out_nll is None

    judged = replace(ONCE, objective="held_out_nll")
    with pytest.raises(NonFiniteLoss, match="the held-out NLL is inf after step"):
        train(prepared, FLOW, judged, hold_out=HELD_OUT)


def test_a_training_that_cannot_hold_them_out_is_refused(prepared):
    all_cells = [{"Z": Z, "alpha": a} for Z in (0.0001, 0.001, 0.01) for a in (0.5, 1.0, 5.0)]

    with pytest.raises(DataError, match="all 9 cells are held out, so none is left to train on"):
        train(prepared, FLOW, QUICK, hold_out=all_cells)
    with pytest.raises(ConfigError, match="objective = 'held_out_nll' needs cells that are held"):
        train(prepared, FLOW, replace(QUICK, objective="held_out_nll"))


def test_a_bagged_training_is_of_other_rows_and_resumes_to_the_bit(prepared, quick, tmp_path):
    config = replace(QUICK, bag=True, batch_size=1024)
    whole, fit = train(prepared, FLOW, config)

    interrupt(prepared, config, tmp_path, after=2)
    resumed, resumed_fit = train(prepared, FLOW, config, checkpoint=tmp_path)

    assert same(whole, resumed)
    assert numbers(fit) == numbers(resumed_fit)
    assert not same(whole, quick.flow)
    # Coordinates are those of all rows.
    assert torch.equal(whole.conditions.mean_K, quick.flow.conditions.mean_K)
    with pytest.raises(CheckpointError, match="has bag = True, this one False"):
        train(prepared, FLOW, replace(config, bag=False), checkpoint=tmp_path)
