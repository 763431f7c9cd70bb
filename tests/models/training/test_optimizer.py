"""The optimizer: its schedule, what decays, clipping, averaged weights."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from data_prep.columns import Column
from models.config import FlowConfig, TrainConfig
from models.flow.coordinates import Constants, Moments
from models.flow.density import ConditionalFlow
from models.training.optimizer import Optimizer, clip, learning_rate
from tests.random_flows import flow as a_flow_of


def rates(schedule):
    config = TrainConfig(learning_rate=0.01, warmup=0.1, schedule=schedule)
    return [learning_rate(config, step / 100) for step in range(100)]


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()


def gradients_of(flow, optimizer, value):
    for gradient in optimizer.gradients:
        gradient.fill_(value)


def test_a_cosine_rises_then_falls_to_zero():
    found = rates("cosine")

    assert max(found) == found[10] == 0.01
    assert all(a < b for a, b in pairwise(found[:11]))
    assert all(a > b for a, b in pairwise(found[10:]))
    assert found[-1] < 1e-5


def test_a_plateau_stays_then_falls_to_zero():
    found = rates("plateau")

    assert found[10:70] == [0.01] * 60
    assert all(a > b for a, b in pairwise(found[71:]))
    assert found[-1] < 5e-4


def test_a_plateau_before_its_fall_does_not_depend_on_how_long_the_training_is():
    short, long = (TrainConfig(schedule="plateau", warmup=0.0) for _ in range(2))

    assert learning_rate(short, 0.2) == learning_rate(long, 0.6)


def test_matrices_decay_and_biases_do_not():
    flow = two_layers()
    before = {name: p.detach().clone() for name, p in flow.named_parameters()}
    optimizer = Optimizer(flow, TrainConfig(weight_decay=0.1, decay_rows=0.0), rows=9)

    gradients_of(flow, optimizer, 0.0)
    optimizer.step(0.5)

    for name, parameter in flow.named_parameters():
        shrunk = 0.95 if "weight" in name else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk)


@pytest.mark.parametrize(("rows", "decay"), [(1000, 0.3), (4000, 0.225), (10, 0.3)])
def test_a_decay_of_rows_falls_with_their_number(rows, decay):
    flow = two_layers()
    before = flow[0].weight.detach().clone()
    optimizer = Optimizer(flow, TrainConfig(weight_decay=0.1, decay_rows=500.0), rows=rows)

    gradients_of(flow, optimizer, 0.0)
    optimizer.step(0.5)

    torch.testing.assert_close(flow[0].weight.detach(), before * (1 - 0.5 * decay))


@pytest.mark.parametrize(
    ("conditioner", "conditions"), [("separate", 0), ("separate", 1), ("masked", 1)]
)
def test_what_decays_does_not_depend_on_its_shape(conditioner, conditions):
    """One condition, one feature alone, one hidden unit: matrices of one column."""
    columns = [Column(name, "") for name in ("x", "y", "c")]
    shape = {"base": "normal", "blocks": 2, "hidden": 1 + conditions, "normalise": True}
    config = FlowConfig(conditioner=conditioner, **shape)
    moments = Constants(*(Moments(9, np.zeros(k), np.full(k, 9.0)) for k in (2, conditions)))
    flow = ConditionalFlow(config, columns[:2], columns[2:][:conditions], moments, {"c": (0, 1)})
    before = {name: p.detach().clone() for name, p in flow.named_parameters()}

    optimizer = Optimizer(flow, TrainConfig(weight_decay=0.1, decay_rows=0.0), rows=9)
    optimizer.step(0.5)

    assert any(p.shape[1:] == (1,) and "bias" not in name for name, p in flow.named_parameters())
    for name, parameter in flow.named_parameters():
        matrix = "weight" in name or "first" in name
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if matrix else 1.0))


def test_clipping_shortens_a_long_gradient_and_leaves_a_short_one():
    long, short = [torch.tensor([3.0]), torch.tensor([4.0])], [torch.tensor([0.3])]

    assert clip(long, 1.0) == pytest.approx(5.0)
    clip(short, 1.0)

    assert [float(g) for g in long] == pytest.approx([0.6, 0.8], rel=1e-5)
    assert float(short[0]) == pytest.approx(0.3)


def test_the_average_lags_behind_and_the_last_weights_come_back():
    flow = two_layers()
    optimizer = Optimizer(flow, TrainConfig(ema=0.5, decay_rows=0.0), rows=9)
    start = flow[0].weight.detach().clone()
    for _ in range(20):
        gradients_of(flow, optimizer, 1.0)
        optimizer.step(0.01)
    last = flow[0].weight.detach().clone()

    with optimizer.averaged():
        average = flow[0].weight.detach().clone()

    # Steps of 0.01 each, and an average that halves what is older: two steps' lag in the end.
    torch.testing.assert_close(average - last, torch.full_like(last, 0.01), rtol=0.1, atol=1e-4)
    assert ((start - last) > 0.15).all()
    assert torch.equal(flow[0].weight, last)


def test_a_restored_optimizer_goes_on_as_the_unbroken_one():
    results = []
    for broken in (False, True):
        flow = two_layers()
        optimizer = Optimizer(flow, TrainConfig(ema=0.9), rows=9)
        for step in range(6):
            if broken and step == 3:
                stored = {k: v.clone() for k, v in optimizer.tensors().items()}
                weights = {k: v.clone() for k, v in flow.state_dict().items()}
                flow = two_layers()
                flow.load_state_dict(weights)
                optimizer = Optimizer(flow, TrainConfig(ema=0.9), rows=9)
                optimizer.restore(stored)
            gradients_of(flow, optimizer, 0.1 * step + 0.1)
            optimizer.step(0.01)
        with optimizer.averaged():
            results.append(flow[0].weight.detach().clone())

    assert torch.equal(*results)


def test_the_boxes_of_a_mixture_decay_and_the_biases_of_its_hidden_units_do_not():
    made = a_flow_of(base="mixture", blocks=0)
    network = made.net._distribution.network
    before = [bias.detach().clone() for bias in network.bias]

    optimizer = Optimizer(made, TrainConfig(weight_decay=0.1, decay_rows=0.0), rows=9)
    optimizer.step(0.5)

    torch.testing.assert_close(network.bias[-1].detach(), before[-1] * (1 - 0.5 * 0.1))
    assert all(torch.equal(*pair) for pair in zip(network.bias[:-1], before[:-1], strict=True))
