"""The mixture's log density and derivative by hand, against the plain text and autograd."""

import pytest
import torch
from torch.testing import assert_close

from models import boxes
from models.flow.mixture import fused
from models.flow.mixture.fused import FusedBoxes
from tests.random_flows import GRID, MASSES, flow

COMPONENTS, COUNTS, LIMITS = 5, (3, 1, 40, 7, 130), boxes.limits(3e-4)
ROWS = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
EXTREME = 40.0
"""Beyond all clamps of raw parameters."""


def plain(x_FN, parameters_PKN, limits=LIMITS):
    """Log density by the text that all array libraries share."""
    raw, log = boxes.log_density(torch, x_FN.unbind(0), parameters_PKN, limits)
    return torch.logsumexp(torch.log_softmax(raw, 0) + log, 0)


def drawn(features, *, seed=0, shared=True):
    """Events and parameters of rows, `(F, N)` and `(P, K, U)`, in double precision."""
    rng = torch.Generator().manual_seed(seed)
    count = len(COUNTS) if shared else len(ROWS)
    shape = boxes.parameters_of(features), COMPONENTS, count
    parameters = torch.randn(shape, generator=rng, dtype=torch.float64)
    parameters[2 : 1 + boxes.EACH * features : boxes.EACH] -= 1
    return torch.randn(features, len(ROWS), generator=rng, dtype=torch.float64), parameters


def both(x_FN, parameters_PKU, *, shared=True, dtype=torch.float64, limits=LIMITS):
    """Values, and gradients by events and parameters, by hand and by autograd."""
    of_rows = [one[ROWS] for one in limits] if isinstance(limits[0], torch.Tensor) else limits
    weights_N = torch.linspace(-1, 2, len(ROWS), dtype=torch.float64)
    x, parameters = x_FN.clone().requires_grad_(), parameters_PKU.clone().requires_grad_()
    expected = plain(x, parameters[:, :, ROWS] if shared else parameters, of_rows)
    (expected * weights_N).sum().backward()
    by_hand = []
    for known in (None, weights_N.to(dtype)):
        mixture = FusedBoxes(parameters_PKU.to(dtype), limits, len(x_FN))
        given = x_FN.to(dtype), COUNTS if shared else None, known
        by_hand.append((mixture.forward(*given, keep=True), *mixture.backward(weights_N.to(dtype))))
    found, early = by_hand
    assert all(map(torch.equal, found, early))
    return found, (expected.detach(), x.grad, parameters.grad)


@pytest.fixture(params=[None, 16], ids=["whole", "parts"])
def parts(request, monkeypatch):
    """In one part, and in parts that cut runs of equal conditions."""
    if request.param:
        monkeypatch.setattr(fused, "ELEMENTS", 0)
        monkeypatch.setattr(fused, "FEWEST_ROWS", request.param)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "one-each"])
@pytest.mark.parametrize("features", [1, 2, 3, 10])
def test_the_derivative_by_hand_is_that_of_the_plain_text(features, shared, parts):
    found, expected = both(*drawn(features, shared=shared), shared=shared)

    for mine, other in zip(found, expected, strict=True):
        assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("features", [1, 2, 4])
def test_parameters_beyond_their_clamps_have_the_plain_gradient(features):
    x_FN, parameters = drawn(features, seed=1)
    own = parameters[1 : 1 + boxes.EACH * features]
    rng = torch.Generator().manual_seed(2)
    own[torch.rand(own.shape, generator=rng) < 0.4] *= EXTREME

    found, expected = both(x_FN, parameters)

    for mine, other in zip(found, expected, strict=True):
        assert_close(mine, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("features", [1, 3])
def test_each_condition_may_have_widths_of_its_own(features, parts):
    """As those of several flows side by side have."""
    least = torch.linspace(-3, 2, len(COUNTS), dtype=torch.float64)

    found, expected = both(*drawn(features), limits=(least, least + 0.5))

    for mine, other in zip(found, expected, strict=True):
        assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("features", [1, 2, 3])
def test_events_far_out_have_the_plain_values_and_finite_gradients(features):
    x_FN, parameters = drawn(features)
    x_FN[:, 0], x_FN[0, 1], x_FN[-1, 2], x_FN[:, 50] = 1e30, -1e30, 1e30, 300.0

    found, expected = both(x_FN, parameters)
    single, _ = both(x_FN, parameters, dtype=torch.float32)

    assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)
    assert_close(found[1], expected[1], rtol=1e-9, atol=1e-9)
    assert_close(single[0].double(), expected[0], rtol=1e-5, atol=1e-5)
    for grad in (*found[1:], *single[1:]):
        assert grad.isfinite().all()


@pytest.mark.parametrize("features", [1, 2, 5])
def test_single_precision_is_kept(features):
    found, expected = both(*drawn(features), dtype=torch.float32)

    for mine, other in zip(found, expected, strict=True):
        assert_close(mine.double(), other, rtol=3e-5, atol=3e-5 * other.abs().max().item())


def test_steep_ends_and_sharp_edges_keep_single_precision():
    x_FN, parameters = drawn(2)
    parameters[3:6] = torch.sign(parameters[3:6]) * 5.9  # D, d0, d1 near their clamps
    parameters[8:11] = torch.sign(parameters[8:11]) * 5.9

    found, expected = both(x_FN, parameters, dtype=torch.float32)

    assert_close(found[0].double(), expected[0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("blocks", [0, 2])
def test_a_flow_trains_by_the_plain_gradient(blocks):
    trained = flow(MASSES, GRID, base="mixture", components=4, base_hidden=8, blocks=blocks).train()
    rng = torch.Generator().manual_seed(0)
    x_NF = torch.rand(len(ROWS), 2, generator=rng, dtype=torch.float64) * 30 + 1
    c_UC = torch.rand(len(COUNTS), 2, generator=rng, dtype=torch.float64) + 0.5
    grads = []
    for given in ((c_UC, COUNTS), (c_UC[ROWS],)):
        trained.zero_grad()
        log_prob_N = trained.log_prob(x_NF, *given)
        log_prob_N.mean().backward()
        grads.append((log_prob_N.detach(), *(weight.grad for weight in trained.parameters())))

    for mine, other in zip(*grads, strict=True):
        assert_close(mine, other, rtol=1e-8, atol=1e-10)
