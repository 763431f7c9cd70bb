"""The masked conditioner: what every group sees, and its derivative by hand."""

import pytest
import torch

from models.config import ConfigError, FlowConfig
from models.flow.conditions import Conditions
from models.flow.masked import MaskedConditioner


def conditioner(features=3, conditions=2, *, outputs=4, seed=0, hidden=9, **options):
    torch.manual_seed(seed)
    made = MaskedConditioner(
        FlowConfig(hidden=hidden, conditioner="masked", **options), features, conditions, outputs
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def numbers(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_group_sees_the_condition_and_the_features_before_it(depth):
    made = conditioner(depth=depth, activation="silu")
    c_CN, x_FN = numbers(2, 1), numbers(3, 1, seed=2)

    def parameters(c, x):
        return torch.stack(made.parameters_of(Conditions(c), x))[:, :, 0]

    by_c, by_x = torch.autograd.functional.jacobian(parameters, (c_CN, x_FN))

    assert (by_c.abs() > 1e-9).all()
    seen = (by_x.abs() > 1e-9).any(dim=1)[:, :, 0]
    assert seen.tolist() == [[False] * 3, [True, False, False], [True, True, False]]


def test_groups_one_after_another_are_those_worked_out_together():
    made, given, x_FN = conditioner(), Conditions(numbers(2, 5)), numbers(3, 5, seed=2)
    state = made.start()

    one_by_one = [made.group(given, torch.split(x_FN[:f], 1) if f else [], state) for f in range(3)]

    for a, b in zip(one_by_one, made.parameters_of(given, x_FN), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("features", [1, 2, 3])
def test_its_derivative_by_hand_is_that_of_autograd(features, depth, activation):
    made, counts = conditioner(features, depth=depth, activation=activation), [90, 60, 50]
    x_FN, c_CU = numbers(features, 200).requires_grad_(), numbers(2, 3, seed=2).requires_grad_()
    leaves = [x_FN, c_CU, *made.parameters()]
    results = []
    for fused in (False, True):
        first, *later = made.parameters_of(Conditions(c_CU, counts, fused), x_FN)
        loss = first.square().sum() + sum((p * p.detach().cos()).sum() for p in later)
        grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        results.append([first, *later, *grads])

    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-10)


def test_fewer_hidden_units_than_features_are_refused():
    with pytest.raises(ConfigError, match=r"at least the number of event columns \(5\), got 4"):
        conditioner(5, hidden=4)
