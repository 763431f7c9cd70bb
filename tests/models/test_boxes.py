"""A smooth box: its density is the slope of its own distribution, which its draws undo."""

import importlib
import math

import numpy as np
import pytest
import torch

from models import boxes
from tests.pairwise import every_pair

LIMITS = boxes.limits(1e-4)


def random_parameters(features, components, *, seed=0, spread=1.5):
    """Of components, `(P, K, 1)`: edges blurred and hard, tilted and sheared."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, spread, (boxes.parameters_of(features), components, 1))


def share_below(x, box):
    """What of a box lies below x, in the module's own words, without its numerical care."""
    A = (x - box.middle) * box.sharpness / box.width + box.sharpness / 2
    t = (np.logaddexp(0, A) - np.logaddexp(0, A - box.sharpness)) / box.sharpness
    bend = box.first + box.last - 2
    return (t * t + box.first * t * (1 - t)) / (1 + bend * t * (1 - t))


@pytest.mark.parametrize("spread", [0.0, 1.5, 4.0])
def test_a_draw_is_where_the_box_has_that_share(spread):
    rows, parameters = 4_000, random_parameters(1, 50, spread=spread)
    u = np.random.default_rng(1).uniform(1e-6, 1 - 1e-6, rows)
    box = boxes._box(np, parameters, 0, [], LIMITS)

    (x,) = boxes.draw(np, [u], parameters, LIMITS)

    np.testing.assert_allclose(share_below(x, box), np.broadcast_to(u, x.shape), atol=1e-10)


@pytest.mark.parametrize("spread", [0.0, 1.5, 4.0])
def test_the_density_is_the_slope_of_the_share(spread):
    parameters = random_parameters(1, 50, spread=spread)
    box = boxes._box(np, parameters, 0, [], LIMITS)
    u = np.linspace(0.01, 0.99, 99)
    (x,) = boxes.draw(np, [u], parameters, LIMITS)
    step = 1e-4 * box.width / box.sharpness

    _, log_p = boxes.log_density(np, [x], parameters, LIMITS)

    slope = (share_below(x + step, box) - share_below(x - step, box)) / (2 * step)
    np.testing.assert_allclose(np.exp(log_p), slope, rtol=1e-4)


@pytest.mark.parametrize("features", [1, 2, 4])
def test_draws_of_a_component_are_uniform_in_the_shares_column_by_column(features):
    """The chain: each column's box lies where the columns before it put it."""
    parameters = random_parameters(features, 3, seed=2, spread=0.7)
    u_F = np.random.default_rng(1).uniform(1e-5, 1 - 1e-5, (features, 1, 500))

    x_F = boxes.draw(np, list(u_F), parameters, LIMITS)

    step, jacobian = 1e-6, np.empty((features, features, 3, 500))
    for g in range(features):
        low, high = (
            boxes.draw(
                np,
                list(u_F + sign * step * np.eye(features)[g][:, None, None]),
                parameters,
                LIMITS,
            )
            for sign in (-1, 1)
        )
        jacobian[:, g] = (np.stack(high) - np.stack(low)) / (2 * step)
    _, log_p = boxes.log_density(np, x_F, parameters, LIMITS)
    _, log_det = np.linalg.slogdet(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    np.testing.assert_allclose(log_p, -log_det, atol=2e-3)


EXTREMES = [-1e4, -3.0, 0.0, 3.0, 1e4]
"""Of a raw parameter: beyond every limit on both sides, and between."""
FAR = [-3e38, -1e30, -1e12, -40.0, -1e-30, 0.0, 1e-30, 40.0, 1e12, 1e30, 3e38]


@every_pair(dtype=[torch.float32, torch.float64], x=FAR, sharpness=EXTREMES, tilt=EXTREMES)
def test_any_number_has_a_finite_density_and_finite_gradients(dtype, x, sharpness, tilt):
    """In two columns, whose second hangs on the first, of whatever width."""
    raw = torch.zeros(boxes.parameters_of(2), len(EXTREMES), dtype=dtype)
    raw[[2, 7]] = torch.tensor(EXTREMES, dtype=dtype)
    raw[[3, 8]], raw[[4, 9]], raw[[5, 10]] = sharpness, tilt, -tilt
    raw[11:] = 1.0
    raw.requires_grad_()
    x_F = [torch.full((1,), value, dtype=dtype, requires_grad=True) for value in (x, 0.5)]

    _, log_p = boxes.log_density(torch, x_F, raw, LIMITS)
    log_p.sum().backward()

    assert log_p.isfinite().all()
    assert all(each.grad.isfinite().all() for each in (raw, *x_F))


@every_pair(dtype=[torch.float32, torch.float64], u=[0.0, 1e-30, 0.3, 1.0], tilt=EXTREMES)
def test_any_number_between_0_and_1_makes_a_finite_event(dtype, u, tilt):
    raw = torch.zeros(boxes.parameters_of(2), len(EXTREMES), dtype=dtype)
    raw[[3, 8]], raw[[4, 9]], raw[[5, 10]] = torch.tensor(EXTREMES, dtype=dtype), tilt, -tilt
    raw[11:] = 1.0
    u_F = [torch.full((1,), u, dtype=dtype, requires_grad=True) for _ in range(2)]

    x_F = boxes.draw(torch, u_F, raw.requires_grad_(), LIMITS)
    sum(x.sum() for x in x_F).backward()

    assert all(x.isfinite().all() for x in x_F)
    assert all(each.grad.isfinite().all() for each in (raw, *u_F))


@pytest.mark.parametrize("spread", [0.0, 1.5, 4.0])
def test_single_precision_is_enough(spread):
    """Where a rounding of x moves it little on the scale of an edge."""
    parameters = random_parameters(2, 30, spread=spread).astype("f4")
    u_F = np.random.default_rng(0).uniform(1e-3, 1 - 1e-3, (2, 200))
    exact = parameters.astype("f8")
    exact[[2, 7]], parameters[[2, 7]] = 0.0, 0.0
    x_F = [x.astype("f4") for x in boxes.draw(np, list(u_F), exact, boxes.limits(0.5))]

    _, found = boxes.log_density(np, x_F, parameters, boxes.limits(0.5))

    _, log_p = boxes.log_density(np, [x.astype("f8") for x in x_F], exact, boxes.limits(0.5))
    sharpest = 1 + math.exp(boxes.SHARPNESS[1])
    assert found.dtype == np.float32
    assert np.abs(found - log_p).max() < 4 * sharpest * np.finfo("f4").eps * np.abs(x_F).max()


@pytest.mark.parametrize("sharpness", [-1.0, 4.0, 9.0])
def test_tails_are_heavier_than_those_of_a_normal(sharpness):
    """Beyond an edge the density falls by a constant factor for each step of the edge's scale."""
    raw = np.zeros((boxes.parameters_of(1), 1, 1))
    raw[3] = sharpness
    far = 0.5 + np.array([20.0, 40.0, 60.0]) / (1 + np.exp(sharpness))

    for x in (far, -far):
        _, log_p = boxes.log_density(np, [x], raw, LIMITS)
        first, second = np.diff(log_p[0])
        assert second == pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize("features", [1, 2, 3, 10])
def test_no_density_is_above_that_of_the_narrowest_box(features):
    """Repeated events pull components together, as far as the least width lets them."""
    raw = random_parameters(features, 100, spread=20.0)
    raw[1 : 1 + boxes.EACH * features : boxes.EACH] = 0.0
    x_F = [np.linspace(-0.1, 0.1, 2_001) for _ in range(features)]

    _, log_p = boxes.log_density(np, x_F, raw, LIMITS)

    assert log_p.max() < features * (boxes.TILT - LIMITS[0]) + 1e-9


def test_every_library_gives_the_same():
    jnp = importlib.import_module("jax.numpy")
    parameters = random_parameters(3, 8).astype("f4")
    u_F = np.random.default_rng(0).uniform(0.01, 0.99, (3, 50)).astype("f4")

    x_F = boxes.draw(np, list(u_F), parameters, LIMITS)
    _, log_p = boxes.log_density(np, x_F, parameters, LIMITS)

    for xp, array in ((torch, torch.from_numpy), (jnp, jnp.asarray)):
        raw, u, x = array(parameters), [array(u) for u in u_F], [array(x) for x in x_F]
        for one, other in zip(boxes.draw(xp, u, raw, LIMITS), x_F, strict=True):
            np.testing.assert_allclose(np.asarray(one), other, rtol=1e-3, atol=1e-4)
        found = np.asarray(boxes.log_density(xp, x, raw, LIMITS)[1])
        np.testing.assert_allclose(found, log_p, rtol=1e-3, atol=1e-2)
