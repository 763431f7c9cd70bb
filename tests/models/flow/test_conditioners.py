"""The conditioners: networks, what every feature sees, and derivatives by hand."""

import pytest
import torch
from torch.nn import functional

from models.config import ConfigError, FlowConfig
from models.flow.conditioners import MaskedConditioner, SeparateConditioner
from models.flow.conditions import Conditions
from models.flow.fused import ACTIVATIONS
from models.flow.network import FusedPass, Network
from tests.pairwise import every_pair

OFFICIAL = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
}


def network(*, inputs=3, outputs=4, seed=0, hidden=6, **options):
    torch.manual_seed(seed)
    return Network(FlowConfig(hidden=hidden, **options), inputs, outputs).double()


def numbers(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_an_activation_is_that_of_torch_in_place_and_not_and_so_is_its_derivative(name):
    activation = ACTIVATIONS[name]
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    expected = OFFICIAL[name](x)
    (gradient,) = torch.autograd.grad(expected.sum() * 3, x)

    torch.testing.assert_close(activation.of(x), expected)
    y = x.detach().clone()
    activation.into(y, y)
    torch.testing.assert_close(y, expected.detach())
    grad = torch.full_like(y, 3.0)
    activation.back(grad, x.detach(), y)
    torch.testing.assert_close(grad, gradient)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_an_activation_stays_finite_for_any_number(name):
    x = torch.tensor([-1e30, -1e4, -100.0, 100.0, 1e4, 1e30], requires_grad=True)
    activation = ACTIVATIONS[name]

    y = activation.of(x)
    y.sum().backward()

    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("residual", [False, True])
def test_a_network_is_the_formula_that_it_says(residual):
    made, x_IN = network(residual=residual, depth=3, activation="gelu"), numbers(3, 5)
    (w0, w1, w2, w3), (b0, b1, b2, b3) = made.weight, made.bias

    first = w0 @ x_IN + b0
    second = w1 @ functional.gelu(first) + b1 + residual * first
    third = w2 @ functional.gelu(second) + b2 + residual * second

    torch.testing.assert_close(made(x_IN), w3 @ functional.gelu(third) + b3)


@every_pair(activation=sorted(ACTIVATIONS), depth=[1, 2, 3], residual=[False, True])
def test_a_pass_by_hand_is_that_of_autograd(activation, depth, residual):
    made = network(activation=activation, depth=depth, residual=residual)
    x_IN, weights_PN = numbers(3, 7).requires_grad_(), numbers(4, 7, seed=2)
    out_PN = made(x_IN)
    expected = torch.autograd.grad((out_PN * weights_PN).sum(), [x_IN, *made.weight, *made.bias])

    # Twice: the second takes the arrays that the first gave back.
    for _ in range(2):
        with torch.no_grad():
            by_hand = FusedPass(made, x_IN.detach())
            torch.testing.assert_close(by_hand.forward(), out_PN.detach())
            grad_IN, grads = by_hand.backward(weights_PN.clone())

        for found, wanted in zip([grad_IN, *grads], expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_two_passes_at_once_do_not_share_their_arrays():
    made, x_IN, weights_PN = network(), numbers(3, 7), numbers(4, 7, seed=2)
    with torch.no_grad():
        alone = FusedPass(made, x_IN)
        alone.forward()
        expected = alone.backward(weights_PN.clone())[1]
        one, other = FusedPass(made, x_IN), FusedPass(made, 5 * x_IN)
        one.forward(), other.forward()
        other.backward(weights_PN.clone())
        found = one.backward(weights_PN.clone())[1]

    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_number_of_weights_is_told():
    assert network(depth=2).weights == 3 * 6 + 6 * 6 + 6 * 4


@pytest.mark.parametrize("conditions", [0, 2])
def test_a_feature_has_a_network_of_the_condition_and_the_features_before_it(conditions):
    torch.manual_seed(0)
    made = SeparateConditioner(FlowConfig(hidden=6), 3, conditions, 4).double()
    c_CU, x_FN = numbers(conditions, 2), numbers(3, 5, seed=2)
    conditions = Conditions(c_CU, [2, 3])
    c_CN = c_CU[:, [0, 0, 1, 1, 1]]

    first, *later = made.parameters_of(conditions, x_FN)

    torch.testing.assert_close(first, made.networks[0](c_CU))
    for f, found in enumerate(later, 1):
        torch.testing.assert_close(found, made.networks[f](torch.cat([c_CN, x_FN[:f]])))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("counts", [[3, 0, 2], [100, 150, 6]], ids=["few", "many"])
def test_what_distinct_conditions_have_is_spread_to_their_rows(counts, fused):
    x_KU = numbers(4, 3)
    conditions = Conditions(x_KU, counts, fused)
    index_N = [u for u, count in enumerate(counts) for _ in range(count)]

    torch.testing.assert_close(conditions.spread(x_KU), x_KU[:, index_N])
    torch.testing.assert_close(conditions.c_CN, x_KU[:, index_N])


def masked(features=3, conditions=2, *, outputs=4, seed=0, hidden=9, **options):
    torch.manual_seed(seed)
    made = MaskedConditioner(
        FlowConfig(hidden=hidden, conditioner="masked", **options), features, conditions, outputs
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_group_sees_the_condition_and_the_features_before_it(depth):
    made = masked(depth=depth, activation="silu")
    c_CN, x_FN = numbers(2, 1), numbers(3, 1, seed=2)

    def parameters(c, x):
        return torch.stack(made.parameters_of(Conditions(c), x))[:, :, 0]

    by_c, by_x = torch.autograd.functional.jacobian(parameters, (c_CN, x_FN))

    assert (by_c.abs() > 1e-9).all()
    seen = (by_x.abs() > 1e-9).any(dim=1)[:, :, 0]
    assert seen.tolist() == [[False] * 3, [True, False, False], [True, True, False]]


def test_groups_one_after_another_are_those_worked_out_together():
    made, conditions, x_FN = masked(), Conditions(numbers(2, 5)), numbers(3, 5, seed=2)
    state = made.start()

    one_by_one = [
        made.group(conditions, torch.split(x_FN[:f], 1) if f else [], state) for f in range(3)
    ]

    for a, b in zip(one_by_one, made.parameters_of(conditions, x_FN), strict=True):
        torch.testing.assert_close(a, b)


@every_pair(features=[1, 2, 3], depth=[1, 2, 3], activation=["relu", "tanh", "silu"])
def test_its_derivative_by_hand_is_that_of_autograd(features, depth, activation):
    made, counts = masked(features, depth=depth, activation=activation, hidden=27), [90, 60, 50]
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
        masked(5, hidden=4)
