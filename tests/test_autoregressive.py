"""The autoregressive layers: who sees what, inverses, determinants, bounds."""

import pytest
import torch
from nflows.transforms import MaskedAffineAutoregressiveTransform

from models.autoregressive import ACTIVATIONS, AffineAutoregressive, Given, Tanh
from models.config import ConfigError, FlowConfig

SHAPES = [(1, 0), (1, 2), (2, 0), (2, 1), (2, 2), (3, 2), (5, 3)]
"""Features and conditions."""


def layer(features, conditions, *, seed=0, **options):
    """A layer with weights far from the identity, in double precision."""
    torch.manual_seed(seed)
    made = AffineAutoregressive(FlowConfig(hidden=16, **options), features, conditions).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def rows(features, conditions, *, count=7, seed=1):
    rng = torch.Generator().manual_seed(seed)
    x_NF = torch.randn(count, features, generator=rng, dtype=torch.float64)
    return x_NF, torch.randn(count, conditions, generator=rng, dtype=torch.float64)


def context_gradient(transform, features, conditions):
    """Largest |d z_f / d c| for every feature f, shape `(F,)`."""
    x_NF, c_NC = rows(features, conditions)
    jacobian = torch.autograd.functional.jacobian(lambda c: transform(x_NF, c)[0].sum(0), c_NC)
    return jacobian.abs().amax(dim=(1, 2))


@pytest.mark.parametrize("features", [2, 3, 5])
def test_the_condition_reaches_every_feature_of_one_layer_unlike_in_nflows(features):
    torch.manual_seed(0)
    theirs = MaskedAffineAutoregressiveTransform(features, 16, context_features=2).double()

    assert context_gradient(theirs, features, 2)[0] == 0
    assert (context_gradient(layer(features, 2), features, 2) > 1e-4).all()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_feature_sees_those_before_it_and_no_others(depth):
    transform = layer(4, 1, depth=depth, activation="tanh")
    x_NF, c_NC = rows(4, 1, count=1)

    parameters = torch.autograd.functional.jacobian(
        lambda x: (transform(x, c_NC)[0] - x).flatten(), x_NF
    )[:, 0]
    jacobian = parameters.reshape(4, 4).abs() > 0

    assert not jacobian.triu(1).any()
    assert jacobian.tril(-1).sum() == 6


@pytest.mark.parametrize(("features", "conditions"), SHAPES)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_inverse_undoes_a_layer_and_their_determinants_cancel(features, conditions, activation):
    transform = layer(features, conditions, activation=activation)
    x_NF, c_NC = rows(features, conditions)

    z_NF, forward_N = transform(x_NF, c_NC)
    back_NF, backward_N = transform.inverse(z_NF, c_NC)

    torch.testing.assert_close(back_NF, x_NF, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(forward_N + backward_N, torch.zeros(7, dtype=torch.float64))


@pytest.mark.parametrize(("features", "conditions"), SHAPES)
def test_the_log_determinant_is_that_of_autograd(features, conditions):
    transform = layer(features, conditions)
    x_NF, c_NC = rows(features, conditions, count=1)

    jacobian = torch.autograd.functional.jacobian(lambda x: transform(x, c_NC)[0][0], x_NF)[:, 0]

    torch.testing.assert_close(transform(x_NF, c_NC)[1][0], jacobian.det().abs().log())


def test_a_fresh_layer_is_near_the_identity():
    torch.manual_seed(0)
    transform = AffineAutoregressive(FlowConfig(hidden=32), 2, 2)
    x_NF, c_NC = (v.float() for v in rows(2, 2))

    z_NF, log_det_N = transform(x_NF, c_NC)

    torch.testing.assert_close(z_NF, x_NF, atol=0.05, rtol=0.05)
    assert log_det_N.abs().max() < 0.05


def test_the_scale_stays_finite_whatever_the_network_says():
    transform = layer(2, 2, blocks=30).float()
    with torch.no_grad():
        for bias in transform.autoregressive_net.layers[-1].bias:
            bias.fill_(1e30)
    x_NF, c_NC = (v.float() for v in rows(2, 2))

    assert transform(x_NF, c_NC)[1].abs().max() <= 2 * 30 / 30 + 1e-4


def test_training_and_evaluation_compute_the_same_tanh_and_gradient():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    results = []
    for training in (True, False):
        y = Tanh().train(training)(x * 1.0)
        results.append((y, torch.autograd.grad(y.sum(), x)[0]))

    for y, gradient in results:
        torch.testing.assert_close(y, torch.tanh(x))
        torch.testing.assert_close(gradient, 1 - torch.tanh(x) ** 2)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_gradients_of_training_are_those_of_finite_differences(activation):
    transform = layer(2, 2, activation=activation).train()
    x_NF, c_NC = rows(2, 2)

    assert torch.autograd.gradcheck(
        lambda x, c: transform(x, c), (x_NF.requires_grad_(), c_NC.requires_grad_())
    )


def test_fewer_hidden_units_than_features_are_refused():
    with pytest.raises(ConfigError, match=r"at least the number of event columns \(5\), got 4"):
        AffineAutoregressive(FlowConfig(hidden=4), 5, 2)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("features", "conditions"), SHAPES)
def test_a_derivative_by_hand_is_that_of_autograd(features, conditions, depth, activation):
    transform = layer(features, conditions, depth=depth, activation=activation).train()
    counts = [5, 1, 7] if conditions else [13]
    x_NF, c_NC = rows(features, conditions, count=13)
    runs_UN = torch.repeat_interleave(
        torch.eye(len(counts), dtype=torch.float64), torch.tensor(counts), dim=1
    )

    results = []
    for given_UN in (None, runs_UN):
        x_NF, c_UC = x_NF.clone().requires_grad_(), c_NC[: len(counts)].clone().requires_grad_()
        z_NF, log_det_N = transform(x_NF, Given(c_UC.t(), counts, given_UN))
        loss = (z_NF * torch.arange(z_NF.numel()).view_as(z_NF).cos()).sum() + (log_det_N**2).sum()
        leaves = [x_NF, c_UC, *transform.parameters()]
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True)
        results.append([z_NF, log_det_N, *gradients])

    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-11)
