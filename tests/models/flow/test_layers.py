"""The autoregressive layers: who sees what, inverses, determinants, bounds."""

import itertools

import pytest
import torch
from nflows.transforms import MaskedAffineAutoregressiveTransform
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline

from models.config import FlowConfig
from models.flow import spline
from models.flow.conditions import Conditions
from models.flow.fused import _SPARE, ACTIVATIONS
from models.flow.layers import CONDITIONERS, LAYERS
from tests.pairwise import every_pair

SHAPES = [(1, 0), (1, 2), (2, 0), (2, 1), (2, 2), (3, 2), (5, 3)]
"""Features and conditions."""
COUNTS = {"own": None, "runs": [5, 1, 7], "long-runs": [90, 60, 50]}
"""Rows of each condition; long runs are spread by a product."""

every_layer = pytest.mark.parametrize("kind", sorted(LAYERS))
every_conditioner = pytest.mark.parametrize("conditioner", sorted(CONDITIONERS))
kinds = {"kind": sorted(LAYERS), "conditioner": sorted(CONDITIONERS)}


def layer(
    kind, features, conditions, *, seed=0, shake=0.3, hidden=10, bins=4, bound=3.0, **options
):
    """A layer with weights far from the identity, in double precision."""
    torch.manual_seed(seed)
    shape = {"blocks": 1, "kind": kind, "hidden": hidden, "bins": bins, "bound": bound}
    config = FlowConfig(**{**shape, **options})
    made = LAYERS[kind](config, features, conditions).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(shake * torch.randn_like(parameter))
    return made.eval()


def rows(features, conditions, *, count=7, seed=1):
    rng = torch.Generator().manual_seed(seed)
    x_NF = torch.randn(count, features, generator=rng, dtype=torch.float64)
    return x_NF, torch.randn(count, conditions, generator=rng, dtype=torch.float64)


def parameters_of(transform, x_NF, c_NC):
    """What the conditioner says, `(F, P, N)`."""
    return torch.stack(transform.autoregressive_net.parameters_of(Conditions(c_NC.t()), x_NF.t()))


def last_biases(transform):
    net = transform.autoregressive_net
    last = getattr(net, "layers", None)
    return last[-1].bias if last is not None else [one.bias[-1] for one in net.networks]


def context_gradient(transform, features, conditions):
    """Largest |d z_f / d c| for every feature f, shape `(F,)`."""
    x_NF, c_NC = rows(features, conditions)
    jacobian = torch.autograd.functional.jacobian(lambda c: transform(x_NF, c)[0].sum(0), c_NC)
    return jacobian.abs().amax(dim=(1, 2))


@every_pair(features=[1, 2, 3, 5], **kinds)
def test_the_condition_reaches_every_feature_of_one_layer(features, kind, conditioner):
    ours = layer(kind, features, 2, conditioner=conditioner)
    assert (context_gradient(ours, features, 2) > 1e-4).all()


@pytest.mark.parametrize("features", [2, 3, 5])
def test_nflows_own_layers_hide_the_condition_from_the_first_feature(features):
    """Why there are layers of our own."""
    torch.manual_seed(0)
    theirs = MaskedAffineAutoregressiveTransform(features, 16, context_features=2).double()

    assert context_gradient(theirs, features, 2)[0] == 0


@every_pair(depth=[1, 2, 3], **kinds)
def test_a_feature_sees_those_before_it_and_no_others(depth, kind, conditioner):
    transform = layer(kind, 4, 1, depth=depth, activation="tanh", conditioner=conditioner)
    x_NF, c_NC = rows(4, 1, count=1)

    jacobian = torch.autograd.functional.jacobian(lambda x: transform(x, c_NC)[0][0], x_NF)[:, 0]

    assert not jacobian.triu(1).any()
    assert (jacobian.tril().abs() > 0).sum() == 10


@every_pair(shape=SHAPES, activation=sorted(ACTIVATIONS), **kinds)
def test_the_inverse_undoes_a_layer_and_their_determinants_cancel(
    shape, activation, kind, conditioner
):
    features, conditions = shape
    transform = layer(kind, features, conditions, activation=activation, conditioner=conditioner)
    x_NF, c_NC = rows(features, conditions)
    x_NF *= 2  # Some beyond the bound of a spline.

    z_NF, forward_N = transform(x_NF, c_NC)
    back_NF, backward_N = transform.inverse(z_NF, c_NC)

    assert (z_NF - x_NF).abs().max() > 0.01
    torch.testing.assert_close(back_NF, x_NF, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(forward_N + backward_N, torch.zeros(7, dtype=torch.float64))


@every_pair(shape=SHAPES, **kinds)
def test_the_log_determinants_are_those_of_autograd(shape, kind, conditioner):
    features, conditions = shape
    transform = layer(kind, features, conditions, conditioner=conditioner)
    x_NF, c_NC = rows(features, conditions, count=1)

    for direction in (transform, transform.inverse):
        jacobian = torch.autograd.functional.jacobian(lambda x, f=direction: f(x, c_NC)[0][0], x_NF)
        torch.testing.assert_close(direction(x_NF, c_NC)[1][0], jacobian[:, 0].det().abs().log())


@every_layer
@every_conditioner
def test_residual_layers_and_other_depths_are_inverted_too(kind, conditioner):
    for depth, residual in itertools.product((1, 2, 3), (False, True)):
        if residual and conditioner == "masked":
            continue
        transform = layer(kind, 3, 2, depth=depth, residual=residual, conditioner=conditioner)
        x_NF, c_NC = rows(3, 2)

        torch.testing.assert_close(transform.inverse(transform(x_NF, c_NC)[0], c_NC)[0], x_NF)


@every_conditioner
def test_an_affine_layer_is_nflows_formula_of_the_same_scale_and_shift(conditioner):
    """Their scale is softplus(raw) + 1e-3, ours exp(limit tanh(raw / limit))."""
    transform = layer("affine", 3, 2, conditioner=conditioner)
    theirs = MaskedAffineAutoregressiveTransform(3, 8)
    x_NF, c_NC = rows(3, 2)
    raw_FN, shift_FN = parameters_of(transform, x_NF, c_NC).unbind(1)
    scale_FN = (transform.limit * torch.tanh(raw_FN / transform.limit)).exp()
    their_raw_FN = (scale_FN - 1e-3).expm1().log()

    expected = theirs._elementwise_forward(
        x_NF, torch.stack([their_raw_FN, shift_FN], 2).transpose(0, 1).flatten(1)
    )

    for found, wanted in zip(transform(x_NF, c_NC), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@every_conditioner
def test_a_spline_layer_is_nflows_spline_of_the_same_parameters(conditioner):
    transform = layer("spline", 3, 2, bins=5, shake=0.5, conditioner=conditioner)
    x_NF, c_NC = rows(3, 2, count=100)
    parameters_NFP = parameters_of(transform, x_NF, c_NC).permute(2, 0, 1)
    assert 1 < parameters_NFP.abs().max() < spline.LARGEST_RAW
    least = spline.SMALLEST_BIN / (1 + 5 * spline.SMALLEST_BIN)

    z_NF, log_det_NF = unconstrained_rational_quadratic_spline(
        x_NF,
        *parameters_NFP.split([5, 5, 4], dim=2),
        tail_bound=3.0,
        min_bin_width=least,
        min_bin_height=least,
        min_derivative=spline.SMALLEST_SLOPE,
    )

    for found, wanted in zip(transform(x_NF, c_NC), (z_NF, log_det_NF.sum(1)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@every_conditioner
def test_a_spline_layer_leaves_alone_what_lies_beyond_its_bound(conditioner):
    transform = layer("spline", 2, 2, shake=1.0, conditioner=conditioner)
    c_NC = rows(2, 2, count=4)[1]
    far_NF = torch.tensor([[3.0, -3.0], [-3.0, 3.0], [1e3, 7.0], [-4.0, -1e6]]).double()

    for direction in (transform, transform.inverse):
        z_NF, log_det_N = direction(far_NF, c_NC)
        assert torch.equal(z_NF, far_NF)
        assert (log_det_N == 0).all()

        near_NF, near_log_det_N = direction(far_NF[:2] * (1 - 1e-12), c_NC[:2])
        torch.testing.assert_close(near_NF, far_NF[:2], rtol=0, atol=1e-6)
        assert near_log_det_N.abs().max() < 1e-4


@every_layer
@every_conditioner
def test_a_fresh_layer_is_near_the_identity(kind, conditioner):
    torch.manual_seed(0)
    transform = LAYERS[kind](
        FlowConfig(blocks=1, kind=kind, hidden=32, conditioner=conditioner), 2, 2
    )
    x_NF, c_NC = (v.float() for v in rows(2, 2))

    z_NF, log_det_N = transform(x_NF, c_NC)

    # The slopes of a spline start at softplus(0), not 1, between its bins.
    torch.testing.assert_close(z_NF, x_NF, atol=0.05, rtol=0.05)
    assert log_det_N.abs().max() < (0.05 if kind == "affine" else 0.5)


@every_pair(value=[-1e30, -1e4, 1e4, 1e30], **kinds)
def test_values_and_gradients_stay_finite_whatever_the_network_says(value, kind, conditioner):
    transform = layer(kind, 2, 2, blocks=30, conditioner=conditioner).float()
    with torch.no_grad():
        for bias in last_biases(transform):
            bias.fill_(value)
    x_NF, c_NC = (v.float() for v in rows(2, 2))

    for fused in (False, True):
        x_NF = x_NF.clone().requires_grad_()
        results = transform(x_NF, Conditions(c_NC.t(), None, fused))
        leaves = [x_NF, *transform.parameters()]
        gradients = torch.autograd.grad(sum(r.sum() for r in results), leaves)

        assert all(v.isfinite().all() for v in (*results, *gradients))
    assert transform.inverse(rows(2, 2)[0].float(), c_NC)[0].isfinite().all()


@every_conditioner
def test_the_scale_of_an_affine_layer_is_bounded(conditioner):
    transform = layer("affine", 2, 2, blocks=30, conditioner=conditioner).float()
    with torch.no_grad():
        for bias in last_biases(transform):
            bias.fill_(1e30)
    x_NF, c_NC = (v.float() for v in rows(2, 2))

    assert transform(x_NF, c_NC)[1].abs().max() <= 2 * 30 / 30 + 1e-4


@every_layer
@every_conditioner
def test_huge_numbers_go_through_and_stay_finite(kind, conditioner):
    transform = layer(kind, 2, 2, conditioner=conditioner).float()
    x_NF = torch.tensor([[1e30, 0.5], [0.5, -1e30], [3.0, -3.0], [-1e30, 1e30]])
    x_NF.requires_grad_()

    results = transform(x_NF, rows(2, 2, count=4)[1].float())
    sum(r.sum() for r in results).backward()

    assert all(r.isfinite().all() for r in results)
    assert x_NF.grad.isfinite().all()


@every_pair(activation=sorted(ACTIVATIONS), **kinds)
def test_the_gradients_are_those_of_finite_differences(activation, kind, conditioner):
    transform = layer(
        kind, 2, 2, hidden=4, bins=2, activation=activation, conditioner=conditioner
    ).train()
    x_NF, c_NC = rows(2, 2, count=3)
    weights = list(transform.parameters())

    assert torch.autograd.gradcheck(
        lambda x, c, *_: transform(x, c), (x_NF.requires_grad_(), c_NC.requires_grad_(), *weights)
    )


def by_hand_and_not(transform, features, conditions, counts):
    """Values and gradients of `x` and of all weights, of the fused path and of the plain one."""
    count = 13 if counts is None else sum(counts)
    x_NF, c_NC = rows(features, conditions, count=count)
    c_CU = c_NC.t() if counts is None else c_NC[: len(counts)].t()
    results = []
    for fused in (True, False):
        x_NF = (1.5 * x_NF if fused else x_NF).detach().requires_grad_()
        z_NF, log_det_N = transform(x_NF, Conditions(c_CU, counts, fused))
        loss = (z_NF * torch.arange(z_NF.numel()).view_as(z_NF).cos()).sum() + (log_det_N**2).sum()
        gradients = torch.autograd.grad(loss, [x_NF, *transform.parameters()])
        results.append([z_NF, log_det_N, *gradients])
    return results


@every_pair(
    features=[1, 2, 3, 5],
    conditions=[0, 1, 3],
    counts=COUNTS,
    bins=[1, 2, 8],
    depth=[1, 2, 3],
    activation=sorted(ACTIVATIONS),
    conditioner=["separate", "residual", "masked"],
)
def test_a_derivative_of_splines_by_hand_is_that_of_autograd(
    features, conditions, counts, bins, depth, activation, conditioner
):
    options = {"bins": bins, "depth": depth, "activation": activation}
    if conditioner == "residual":
        options["residual"] = True
    else:
        options["conditioner"] = conditioner
    transform = layer("spline", features, conditions, **options).train()

    for fused, plain in zip(*by_hand_and_not(transform, features, conditions, counts), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-9)


@every_pair(
    features=[1, 2, 3],
    counts=COUNTS,
    activation=sorted(ACTIVATIONS),
    conditioner=sorted(CONDITIONERS),
)
def test_a_derivative_of_affine_layers_by_hand_is_that_of_autograd(
    features, counts, activation, conditioner
):
    transform = layer("affine", features, 2, activation=activation, conditioner=conditioner).train()

    for fused, plain in zip(*by_hand_and_not(transform, features, 2, counts), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-9)


@every_pair(features=[1, 2, 3, 5], counts=COUNTS, activation=["relu", "tanh", "silu"], **kinds)
def test_without_gradients_density_and_draws_by_hand_are_the_plain_ones(
    features, counts, activation, kind, conditioner
):
    transform = layer(kind, features, 2, activation=activation, conditioner=conditioner)
    count = 13 if counts is None else sum(counts)
    x_NF, c_NC = rows(features, 2, count=count)
    c_CU = c_NC.t() if counts is None else c_NC[: len(counts)].t()

    with torch.no_grad():
        # Twice, since arrays are used again.
        for _ in range(2):
            for direction in (transform, transform.inverse):
                fused = direction(x_NF, Conditions(c_CU, counts, True))
                plain = direction(x_NF, Conditions(c_CU, counts, False))
                torch.testing.assert_close(fused[0], plain[0], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(
                transform(x_NF, Conditions(c_CU, counts, True))[1],
                transform(x_NF, Conditions(c_CU, counts, False))[1],
            )


@every_conditioner
def test_values_kept_from_one_pass_are_not_changed_by_the_next(conditioner):
    """What is given back to be used again must not be in anyone's hands."""
    transform = layer("spline", 2, 2, conditioner=conditioner).train()
    x_NF, c_NC = rows(2, 2, count=200)
    conditions = Conditions(c_NC[:2].t(), [150, 50], True)
    weights = list(transform.parameters())

    def step(factor):
        z_NF, log_det_N = transform(factor * x_NF, conditions)
        return [z_NF, log_det_N, *torch.autograd.grad((z_NF.sum() + log_det_N.sum()), weights)]

    kept = step(1.0)
    copies = [v.detach().clone() for v in kept]
    with torch.no_grad():
        transform.inverse(x_NF, conditions), transform(-x_NF, conditions)
    step(0.5)

    assert all(torch.equal(v, copy) for v, copy in zip(kept, copies, strict=True))


@every_conditioner
def test_arrays_made_in_inference_mode_can_be_used_again_outside(conditioner):
    transform = layer("spline", 2, 2, hidden=11, conditioner=conditioner)
    x_NF, c_NC = rows(2, 2, count=201)

    def conditions():
        return Conditions(c_NC[:2].t(), [150, 51], True)

    with torch.inference_mode():
        transform(x_NF, conditions()), transform.inverse(x_NF, conditions())
    with torch.no_grad():
        transform.inverse(x_NF, conditions())
    z_NF, _ = transform.train()(x_NF, conditions())
    z_NF.sum().backward()

    assert all(p.grad.isfinite().all() for p in transform.parameters() if p.grad is not None)


@pytest.mark.parametrize(("conditioner", "units"), [("separate", 13), ("masked", 7)])
def test_an_evaluation_gives_the_arrays_of_hidden_units_back(conditioner, units):
    """Masked, the first of two features has 6 of the 13 hidden units to itself."""
    options = {"conditioner": conditioner, "hidden": 13, "activation": "tanh"}
    transform = layer("spline", 2, 2, **options)
    x_NF, c_NC = rows(2, 2, count=203)
    _SPARE.arrays.clear()

    with torch.no_grad():
        transform(x_NF, Conditions(c_NC[:1].t(), [203], True))

    assert any(key[:2] == (units, 203) for key in _SPARE.arrays)
