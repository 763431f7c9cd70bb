"""Training on weighted rows: it reaches the density that the weights make, whatever their scale."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.dataset import Dataset
from data_prep.preparation.prepare import prepare
from data_prep.stream import Stream, read_split
from models.bundle import batched
from models.config import FlowConfig, TrainConfig
from models.evaluation.nll import nll
from models.flow.conditions import distinct
from models.flow.coordinates import Moments
from models.training import train as training
from models.training.loss import tensors_of
from models.training.train import train
from tests.conftest import SPREAD, centre, draw_table, known_nll

FLOW = FlowConfig(blocks=2, hidden=16)
ONCE = TrainConfig(epochs=1, batch_size=256, learning_rate=5e-3, device="cpu")


def reached(flow):
    """Excess NLL of a flow on fresh rows of the truth, in nats."""
    fresh = draw_table(20_000, seed=77)
    x, c = (
        np.stack([fresh[name].to_numpy() for name in names], axis=1)
        for names in (("Mass_0", "Mass_1"), ("Z", "alpha"))
    )
    return -float(batched.log_prob(flow, x, c).mean()) - known_nll(x, c)


def test_moments_of_weighted_rows_are_those_of_repeated_ones():
    rng = np.random.default_rng(0)
    values, times = 1e6 + rng.normal(size=(500, 2)), rng.integers(1, 9, 500)
    weights = (times * 1e-9).astype(np.float32)

    parts = [slice(0, 120), slice(120, 500)]
    found = Moments.of(values[parts[0]], weights[parts[0]])
    found = found.merge(Moments.of(values[parts[1]], weights[parts[1]]))

    whole = Moments.of(np.repeat(values, times, axis=0))
    np.testing.assert_allclose(found.mean_K, whole.mean_K, rtol=1e-12)
    np.testing.assert_allclose(found.spread_K, whole.spread_K, rtol=1e-6)


def test_the_batches_of_an_epoch_have_the_gradient_of_the_whole_on_average(weighted):
    """The NLL of a batch is divided by its rows and the mean weight of all, not by its weights."""
    state = training._Training(weighted, FLOW, replace(ONCE, jitter=0.0))
    batches = list(state.stream.epoch(0))
    summed, losses = 0.0, 0.0
    for batch in batches:
        x, c, w = tensors_of(batch, state.mean_weight)
        losses += float(state.loss.backward(x, c, w)) * len(x)
        summed += torch.cat(state.optimizer.gradients) * len(x)

    flow, rows = state.flow, read_split(weighted, "train")
    flow.zero_grad(set_to_none=False)
    x, c, w = map(torch.from_numpy, rows)
    whole = -(flow.log_prob(x, c) * w).sum() / w.sum()
    whole.backward()
    summed /= len(x)

    assert len(batches) > 10
    assert losses / len(x) == pytest.approx(whole.item(), rel=1e-5)
    torch.testing.assert_close(summed, torch.cat(state.optimizer.gradients), rtol=1e-3, atol=1e-5)


def test_losses_of_moved_rows_count_as_told_and_the_nll_is_that_of_an_event(weighted):
    state = training._Training(weighted, FLOW, ONCE)
    x, c, w = tensors_of(next(iter(state.stream.epoch(0))), state.mean_weight)
    times_U = torch.rand(len(distinct(c)[0])) * 3

    loss = state.loss.backward(x, c, w, lambda c_UC: (c_UC, times_U))

    gradients, flow = torch.cat(state.optimizer.gradients), state.flow
    flow.zero_grad(set_to_none=False)
    moved = w * times_U[distinct(c)[1]]
    total = -(flow.log_prob(x, c) * moved).sum()
    (total / len(x)).backward()
    assert loss.item() == pytest.approx(
        total.item() / moved.sum().item() * w.mean().item(), rel=1e-5
    )
    torch.testing.assert_close(
        gradients, torch.cat(state.optimizer.gradients), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("normalise", [False, True], ids=["plain", "normalised"])
def test_a_weighted_table_starts_and_scores_as_one_with_repeated_rows(tmp_path, normalise):
    rng, table = np.random.default_rng(1), draw_table(900, seed=5)
    times = rng.integers(1, 5, 900)
    columns = {name: table[name].to_numpy() for name in ("Mass_0", "Mass_1", "Z", "alpha")}
    pq.write_table(pa.table(columns | {"w": times * 0.1}), tmp_path / "weighted.parquet")
    prepare([tmp_path / "weighted.parquet"], tmp_path / "weighted", weights="w")
    state = training._Training(
        tmp_path / "weighted", replace(FLOW, normalise=normalise), replace(ONCE, batch_size=10_000)
    )

    rows = read_split(tmp_path / "weighted", "val")
    often = np.rint(rows.weights / 0.1).astype(int)
    x, c = (np.repeat(array, often, axis=0) for array in rows[:2])
    repeated = -batched.log_prob(state.flow.eval(), x, c).mean()
    train_rows = read_split(tmp_path / "weighted", "train")
    many = np.rint(train_rows.weights / 0.1).astype(int)
    log_mass = np.log(np.repeat(train_rows.events[:, 0], many).astype(float))

    assert state.loss.mean_nll(state.validation, state.mean_weight) == pytest.approx(
        repeated, rel=1e-5
    )
    assert float(state.flow.events.mean_K[0]) == pytest.approx(log_mass.mean(), rel=1e-5)
    assert float(state.flow.events.spread_K[0]) == pytest.approx(log_mass.std(), rel=1e-5)


def test_layers_between_take_their_scales_from_weighted_rows(weighted):
    """The rows are twice as wide as the density that their weights make."""
    state = training._Training(
        weighted, FlowConfig(blocks=1, hidden=4, normalise=True), replace(ONCE, batch_size=10_000)
    )
    (scale,) = (p for name, p in state.flow.named_parameters() if name.endswith("log_scale"))

    # What comes in was standardised by weighted moments: nothing is left to do.
    np.testing.assert_allclose(scale.detach().exp(), 1.0, rtol=0.02)


def test_a_training_on_weighted_rows_reaches_the_truth_that_the_weights_make(weighted, tmp_path):
    """As one on as many fresh rows as the weighted ones are worth; without the weights it fails."""
    config = replace(ONCE, epochs=12, learning_rate=1e-2)
    effective = Dataset.read(weighted).effective("train")
    rows = round(effective / 0.6)
    pq.write_table(draw_table(rows, seed=8), tmp_path / "fresh.parquet")
    prepare([tmp_path / "fresh.parquet"], tmp_path / "fresh")
    source = weighted.parent / "mergers.parquet"
    prepare([source], tmp_path / "blind")

    ours, fit = train(weighted, FLOW, config)
    fresh, blind = (train(tmp_path / name, FLOW, config)[0] for name in ("fresh", "blind"))

    assert effective < 0.5 * Dataset.read(weighted).rows["train"]
    excess = reached(ours)
    assert excess == pytest.approx(reached(fresh), abs=0.04)
    assert excess < 0.08 < 0.3 < reached(blind)
    # What is told is the NLL of the truth, too.
    told = nll(ours, weighted, "test")
    assert told.mean == pytest.approx(_truth(), abs=0.1)
    assert told.effective_rows < 0.5 * told.rows
    assert fit.best.val_nll == pytest.approx(nll(ours, weighted, "val").mean, rel=1e-6)


def _truth():
    """NLL of the truth on its own rows, in nats."""
    fresh = draw_table(20_000, seed=78)
    mean = centre(fresh["Z"].to_numpy(), fresh["alpha"].to_numpy())
    return float(mean.sum(axis=1).mean()) + sum(map(math.log, SPREAD)) + math.log(2 * math.pi) + 1


def test_the_scale_of_the_weights_changes_nothing(weighted, tmp_path):
    table = pq.read_table(weighted.parent / "mergers.parquet")
    # By a power of two: not even the last bit of a number in single precision.
    larger = pa.array(table["weight"].to_numpy() * 2.0**40)
    at = table.column_names.index("weight")
    pq.write_table(table.set_column(at, "weight", larger), tmp_path / "larger.parquet")
    prepare([tmp_path / "larger.parquet"], tmp_path / "larger", weights="weight")

    fits = [train(folder, FLOW, ONCE)[1].best for folder in (weighted, tmp_path / "larger")]

    assert fits[0].train_nll == pytest.approx(fits[1].train_nll, rel=1e-9)
    assert fits[0].val_nll == pytest.approx(fits[1].val_nll, rel=1e-9)


def test_a_training_on_weighted_rows_is_repeatable_and_resumes_exactly(weighted, tmp_path):
    config = replace(ONCE, epochs=3)
    whole, fit = train(weighted, FLOW, config)

    def stop(epoch):
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(weighted, FLOW, config, checkpoint=tmp_path, on_epoch=stop)
    resumed, resumed_fit = train(weighted, FLOW, config, checkpoint=tmp_path)

    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [e.train_nll for e in fit.history] == [e.train_nll for e in resumed_fit.history]
    assert [e.val_nll for e in fit.history] == [e.val_nll for e in resumed_fit.history]


def test_the_told_training_nll_is_the_weighted_mean(weighted):
    flow, fit = train(weighted, FLOW, replace(ONCE, learning_rate=1e-12, jitter=0.0))

    assert fit.best.train_nll == pytest.approx(nll(flow, weighted, "train").mean, rel=1e-5)
    rows = next(iter(Stream(weighted, "train", batch_size=99_999, shuffle=False).epoch(0)))
    direct = -batched.log_prob(flow, rows.events, rows.conditions)
    assert fit.best.train_nll == pytest.approx(np.average(direct, weights=rows.weights), rel=1e-5)
