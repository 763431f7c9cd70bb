"""The splines: their knots, inverse, derivatives and edges; nflows and zuko as witnesses."""

import math

import pytest
import torch
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline
from torch.nn import functional
from zuko.transforms import MonotonicRQSTransform

from models.flow import spline
from models.layout import UNIT_SLOPE
from tests.pairwise import every_pair

BOUND = 3.0
BINS = [1, 2, 8, 32]


def parameters(bins, rows, *, spread=1.5, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    shape = 3 * bins - 1, rows
    return (spread * torch.randn(shape, generator=rng, dtype=torch.float64)).to(dtype)


def inputs(rows, *, reach=1.0, seed=1, dtype=torch.float64):
    """Numbers all over [-reach, reach], in units of the bound."""
    rng = torch.Generator().manual_seed(seed)
    unit = torch.rand(rows, generator=rng, dtype=torch.float64)
    return (reach * BOUND * (2 * unit - 1)).to(dtype)


def knots(parameters_PN):
    """Places, values and slopes of all knots, each `(K + 1, N)`, worked out the long way."""
    bins = (len(parameters_PN) + 1) // 3
    places = []
    for raw in (parameters_PN[:bins], parameters_PN[bins : 2 * bins]):
        size = (torch.softmax(raw, 0) + spline.SMALLEST_BIN) / (1 + bins * spline.SMALLEST_BIN)
        edge = functional.pad(size.cumsum(0), (0, 0, 1, 0))
        places.append(BOUND * (2 * edge - 1))
    inner = functional.softplus(parameters_PN[2 * bins :]) + spline.SMALLEST_SLOPE
    return *places, functional.pad(inner, (0, 0, 1, 1), value=1.0)


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bins", BINS)
def test_a_curve_passes_through_its_knots_with_the_slopes_there(bins):
    parameters_PN = parameters(bins, 20)

    for x_N, z_N, slope_N in zip(*knots(parameters_PN), strict=True):
        # Just to the left and to the right: value and slope have no step.
        for side in (-1e-12, 0.0, 1e-12):
            found_N, log_det_N = spline.forward(x_N + side, parameters_PN, BOUND)
            close(found_N, z_N)
            close(log_det_N.exp(), slope_N, 1e-6)


@pytest.mark.parametrize("direction", [spline.forward, spline.inverse])
@pytest.mark.parametrize("bins", BINS)
def test_the_curves_are_those_of_nflows(bins, direction):
    parameters_PN, x_N = parameters(bins, 500), inputs(500, reach=1.5)
    least = spline.SMALLEST_BIN / (1 + bins * spline.SMALLEST_BIN)

    found = direction(x_N, parameters_PN, BOUND)
    theirs = unconstrained_rational_quadratic_spline(
        x_N,
        *torch.split(parameters_PN.t(), [bins, bins, bins - 1], dim=1),
        inverse=direction is spline.inverse,
        tail_bound=BOUND,
        min_bin_width=least,
        min_bin_height=least,
        min_derivative=spline.SMALLEST_SLOPE,
    )

    close(found[0], theirs[0])
    close(found[1], theirs[1])


@pytest.mark.parametrize("bins", BINS)
def test_the_curves_are_those_of_zuko(bins):
    parameters_PN, x_N = parameters(bins, 500), inputs(500, reach=1.5)
    limit = 1e-30

    def unbent(wanted, strength):
        """What zuko's soft clipping turns into `wanted`."""
        return wanted / (1 - strength * wanted.abs() / -math.log(limit))

    places_x, places_z, slopes = knots(parameters_PN)
    theirs = MonotonicRQSTransform(
        unbent(places_x.diff(dim=0).div(2 * BOUND).log().t(), 2),
        unbent(places_z.diff(dim=0).div(2 * BOUND).log().t(), 2),
        unbent(slopes[1:-1].log().t(), 1),
        bound=BOUND,
        slope=limit,
    )

    z_N, log_det_N = spline.forward(x_N, parameters_PN, BOUND)
    their_z_N, their_log_det_N = theirs.call_and_ladj(x_N)
    close(z_N, their_z_N)
    close(log_det_N, their_log_det_N)
    close(spline.inverse(x_N, parameters_PN, BOUND)[0], theirs.inv(x_N))


@pytest.mark.parametrize("bins", BINS)
def test_the_inverse_undoes_a_curve_and_their_log_derivatives_cancel(bins):
    parameters_PN, x_N = parameters(bins, 500), inputs(500, reach=1.5)

    z_N, forward_N = spline.forward(x_N, parameters_PN, BOUND)
    back_N, backward_N = spline.inverse(z_N, parameters_PN, BOUND)

    close(back_N, x_N, 1e-8)
    close(forward_N + backward_N, torch.zeros(500, dtype=torch.float64), 1e-8)


@pytest.mark.parametrize("direction", [spline.forward, spline.inverse])
@pytest.mark.parametrize("bins", BINS)
def test_the_log_derivative_is_that_of_autograd(bins, direction):
    parameters_PN, x_N = parameters(bins, 100), inputs(100, reach=1.5).requires_grad_()

    value_N, log_det_N = direction(x_N, parameters_PN, BOUND)

    close(log_det_N, torch.autograd.grad(value_N.sum(), x_N)[0].log())


@pytest.mark.parametrize("direction", [spline.forward, spline.inverse])
def test_first_and_second_derivatives_are_those_of_finite_differences(direction):
    parameters_PN, x_N = parameters(3, 6, spread=0.7), inputs(6, reach=0.9)
    leaves = x_N.requires_grad_(), parameters_PN.requires_grad_()

    assert torch.autograd.gradcheck(lambda x, p: direction(x, p, BOUND), leaves)
    assert torch.autograd.gradgradcheck(lambda x, p: direction(x, p, BOUND), leaves)


@pytest.mark.parametrize("direction", [spline.forward, spline.inverse])
def test_beyond_the_bound_is_the_identity_and_nothing_jumps_there(direction):
    outside = torch.tensor([1.0, 1 + 1e-12, 2.0, 1e30], dtype=torch.float64) * BOUND
    just_inside = torch.tensor([1 - 1e-12], dtype=torch.float64) * BOUND

    for sign in (-1, 1):
        z_N, log_det_N = direction(sign * outside, parameters(8, 4), BOUND)
        assert torch.equal(z_N, sign * outside)
        assert (log_det_N == 0).all()

        z_N, log_det_N = direction(sign * just_inside, parameters(8, 1), BOUND)
        close(z_N, sign * just_inside)
        assert log_det_N.abs() < 1e-6


def test_a_curve_rises_everywhere():
    x_N = torch.linspace(-1.2 * BOUND, 1.2 * BOUND, 5001, dtype=torch.float64)

    for seed in range(10):
        parameters_PN = parameters(8, 1, spread=4.0, seed=seed).expand(-1, len(x_N))
        assert (spline.forward(x_N, parameters_PN, BOUND)[0].diff() > 0).all()


@every_pair(
    part=["widths", "heights", "slopes", "all", "one"],
    value=[-1e30, -1e4, -50.0, 50.0, 1e4, 1e30],
    dtype=[torch.float32, torch.float64],
)
def test_whatever_the_network_says_all_stays_finite(part, value, dtype):
    bins, rows = 8, 64
    place = {
        "widths": slice(0, bins),
        "heights": slice(bins, 2 * bins),
        "slopes": slice(2 * bins, None),
        "all": slice(None),
        "one": slice(3, None, bins),
    }[part]
    x_N = torch.cat([inputs(rows - 6, dtype=dtype), torch.tensor([-1, 0, 1, 1e30, -1e30, 0.5])])
    x_N = x_N.to(dtype)
    x_N[-6:-3] *= BOUND

    for direction in (spline.forward, spline.inverse):
        parameters_PN = parameters(bins, rows, dtype=dtype)
        parameters_PN[place] = value
        leaves = x_N.clone().requires_grad_(), parameters_PN.requires_grad_()
        results = direction(*leaves, BOUND)
        # The inverse's density changes by more than a float32 between two of these slopes.
        of = results if direction is spline.forward else results[:1]
        gradients = torch.autograd.grad(sum(r.sum() for r in of), leaves)

        assert all(v.isfinite().all() for v in (*results, *gradients))


@pytest.mark.parametrize("bins", BINS)
def test_in_single_precision_the_inverse_is_off_by_rounding_alone(bins):
    x_N, parameters_PN = inputs(20_000), parameters(bins, 20_000, spread=1.0)

    z_N = spline.forward(x_N, parameters_PN, BOUND)[0]
    back_N, log_det_N = spline.inverse(z_N.float(), parameters_PN.float(), BOUND)

    # Rounding of z moves x by that over the slope; where the curve is flat, by more.
    slowest_N = log_det_N.exp().clamp(min=1).double()
    error_N = (back_N - x_N).abs() / (BOUND * slowest_N)
    assert error_N.max() < 64 * torch.finfo(torch.float32).eps


def test_in_single_precision_steep_edges_of_flat_bins_are_inverted():
    """Where nflows' formula of the root loses its digits: it subtracts two like numbers."""
    parameters_PN = torch.zeros(5, 1000)
    parameters_PN[-1] = 1e5
    z_N = torch.linspace(-0.999, 0.999, 1000) * BOUND

    back_N = spline.inverse(z_N, parameters_PN, BOUND)[0]
    exact_N = spline.inverse(z_N.double(), parameters_PN.double(), BOUND)[0]

    close(back_N.double(), exact_N, 5e-6)


def both_ways(counts, features, bins, *, reach=1.2):
    """Arguments of the curves by hand and of the plain ones, of rows with shared first curves."""
    rows = sum(counts)
    shared = parameters(bins, len(counts), seed=2)
    later = [parameters(bins, rows, seed=3 + f) for f in range(1, features)]
    index_N = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    x_FN = inputs(features * rows, reach=reach).view(features, rows)
    return x_FN, [shared, *later], index_N


@every_pair(
    bins=BINS, features=[1, 3], counts={"own": [1] * 40, "runs": [5, 1, 0, 34], "one": [40]}
)
def test_the_derivative_by_hand_is_that_of_autograd(bins, features, counts):
    x_FN, parameters_, index_N = both_ways(counts, features, bins)
    weights = torch.linspace(-1, 2, features * 40, dtype=torch.float64).view(features, 40)

    leaves = [x_FN.requires_grad_(), *(p.requires_grad_() for p in parameters_)]
    spread = [parameters_[0][:, index_N], *parameters_[1:]]
    pairs = [spline.forward(x, p, BOUND) for x, p in zip(x_FN, spread, strict=True)]
    z_FN, log_det_FN = (torch.stack(part) for part in zip(*pairs, strict=True))
    expected = torch.autograd.grad((z_FN * weights + log_det_FN * weights**2).sum(), leaves)

    for index in {id(i): i for i in (index_N, None if len(counts) == 40 else index_N)}.values():
        curves = spline.FusedCurves(BOUND)
        with torch.no_grad():
            found = curves.forward(x_FN.detach(), [p.detach() for p in parameters_], index)
            grad_x_FN, grads = curves.backward(weights, weights**2)

        close(found[0], z_FN.detach())
        close(found[1], log_det_FN.detach())
        for one, other in zip([grad_x_FN, *grads], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("counts", [[1] * 40, [5, 1, 0, 34]], ids=["own", "runs"])
@pytest.mark.parametrize("bins", BINS)
def test_the_inverse_by_hand_is_the_plain_one(bins, counts):
    x_FN, (shared, *_), index_N = both_ways(counts, 1, bins)

    found_N = spline.FusedCurves(BOUND).inverse(x_FN[0], shared, index_N)

    close(found_N, spline.inverse(x_FN[0], shared[:, index_N], BOUND)[0])


def test_values_at_the_bound_and_at_edges_between_bins_are_no_exception_by_hand():
    bins, rows = 4, 9
    parameters_PN = torch.zeros(3 * bins - 1, rows, dtype=torch.float64)
    x_N = torch.linspace(-1, 1, rows, dtype=torch.float64) * BOUND

    for index_N in (None, torch.zeros(rows, dtype=torch.long)):
        one = parameters_PN if index_N is None else parameters_PN[:, :1]
        z_FN, log_det_FN = spline.FusedCurves(BOUND).forward(x_N[None], [one], index_N)
        expected = spline.forward(x_N, parameters_PN, BOUND)

        close(z_FN[0], expected[0])
        close(log_det_FN[0], expected[1])


@pytest.mark.parametrize("first", ["export", "inference"])
def test_a_use_without_gradients_does_not_spoil_those_that_follow(first):
    """What is kept between calls must not belong to the mode of the first call."""

    class Curve(torch.nn.Module):
        def forward(self, x_N, parameters_PN):
            return spline.forward(x_N, parameters_PN, BOUND)

    bins = {"export": 5, "inference": 7}[first]
    x_N, parameters_PN = inputs(6), parameters(bins, 6)
    spline._edges.cache_clear()
    if first == "export":
        torch.export.export(Curve(), (x_N, parameters_PN))
    else:
        with torch.inference_mode():
            spline.forward(x_N, parameters_PN, BOUND)
    parameters_PN.requires_grad_()

    sum(r.sum() for r in spline.forward(x_N, parameters_PN, BOUND)).backward()

    assert parameters_PN.grad.isfinite().all()


def kinds(parameters_PM, bins):
    """Widths, heights, slopes."""
    return torch.split(parameters_PM, [bins, bins, bins - 1])


@pytest.mark.parametrize("by_hand", [False, True], ids=["plain", "by hand"])
@pytest.mark.parametrize("curves", [2, 12], ids=["shared", "own"])
def test_curves_of_fewer_bins_than_there_is_room_for_are_those_without_the_room(by_hand, curves):
    """Side by side, as those of several flows; none has as many bins as there is room for."""
    most, rows, own = 8, 12, [1, 7, 4]
    x_N = inputs(len(own) * rows, reach=1.2)
    x_N[::rows] = math.nextafter(BOUND, 0.0)  # in the last bin, though it rounds to the bound
    weights_N = torch.linspace(-1, 2, len(own) * rows, dtype=torch.float64)
    filled, expected = [], []
    for bins, x, weights in zip(own, x_N.split(rows), weights_N.split(rows), strict=True):
        raw_PM = parameters(bins, curves, seed=bins).requires_grad_()
        z, log_det = spline.forward(x, raw_PM.repeat_interleave(rows // curves, 1), BOUND)
        (z * weights + log_det * weights**2).sum().backward()
        expected.append((z, log_det, *kinds(raw_PM.grad, bins)))
        room = zip(kinds(raw_PM.detach(), bins), (0.0, 0.0, UNIT_SLOPE), strict=True)
        filled += [functional.pad(k, (0, 0, 0, most - bins), value=v) for k, v in room]
    filled_PM = torch.cat([torch.cat(filled[at : at + 3]) for at in (0, 3, 6)], 1)
    index_N = torch.arange(len(own) * rows) // (rows // curves)
    own_T = torch.tensor(own)

    if by_hand:
        fused = spline.FusedCurves(BOUND, own_T)
        index = index_N if curves < rows else None
        (z_N,), (log_det_N,) = fused.forward(x_N[None], [filled_PM], index)
        _, (grad_PM,) = fused.backward(weights_N[None], weights_N[None] ** 2)
    else:
        filled_PM.requires_grad_()
        own_N = own_T.repeat_interleave(rows)
        z_N, log_det_N = spline.forward(x_N, filled_PM[:, index_N], BOUND, own_N)
        (z_N * weights_N + log_det_N * weights_N**2).sum().backward()
        grad_PM = filled_PM.grad

    found = [kinds(part, most) for part in grad_PM.split(curves, 1)]
    for t, (z, log_det, *grads) in enumerate(expected):
        close(z_N.split(rows)[t], z, 1e-5)
        close(log_det_N.split(rows)[t], log_det, 1e-5)
        for one, other in zip(found[t], grads, strict=True):
            close(one[: len(other)], other, 1e-5)
