"""Bounded columns on the real line: inverse, Jacobian, edges, in torch, numpy and JAX alike."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.special import ndtr

from data_prep.columns import Column
from models.bounds import Interval, intervals

INTERVALS = {
    "ratio": (0.0, 1.0),
    "spin": (-1.0, 1.0),
    "masses": (2.5, 150.0),
    "no-float32": (0.1, 0.7),
    "from-below": (1.0, math.inf),
    "from-zero": (0.0, math.inf),
    "from-above": (-math.inf, 0.3),
    "far": (-1e-3, 1e30),
}
every_interval = pytest.mark.parametrize("bounds", INTERVALS.values(), ids=INTERVALS)
both_precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def values(bounds, dtype=np.float64):
    """From bound to bound, the bounds among them, and closer and closer to each."""
    interval = Interval(*bounds)
    low, high = interval.drawn
    low = low if math.isfinite(bounds[0]) else high - 1e4
    high = high if math.isfinite(bounds[1]) else low + 1e4
    steps = (high - low) * np.geomspace(1e-14, 0.5, 200)
    x_N = np.concatenate([np.linspace(low, high, 2001), low + steps, high - steps])
    return interval, np.sort(np.clip(x_N.astype(dtype), dtype(low), dtype(high)))


@every_interval
@both_precisions
def test_the_inverse_is_right_to_the_precision_of_the_numbers(bounds, dtype):
    interval, x_N = values(bounds, dtype)

    y_N, _ = interval.forward(np, x_N)
    again_N = interval.inverse(np, y_N)

    assert y_N.dtype == again_N.dtype == dtype
    assert np.isfinite(y_N).all()
    assert (np.diff(y_N) >= 0).all()
    assert np.abs(again_N - x_N).max() <= 8 * np.finfo(dtype).eps * np.abs(x_N).max()


@every_interval
def test_distances_from_a_bound_keep_their_digits(bounds):
    interval, x_N = values(bounds)
    y_N, _ = interval.forward(np, x_N)

    for bound, distance_N in zip(
        (interval.low, interval.high), (x_N - interval.low, interval.high - x_N), strict=True
    ):
        if math.isfinite(bound):
            close_N = (distance_N > 1e-6 * max(abs(bound), 1e-3)) & (distance_N < 1)
            again_N = np.abs(interval.inverse(np, y_N) - bound)
            np.testing.assert_allclose(again_N[close_N], distance_N[close_N], rtol=1e-6)


@every_interval
def test_the_log_slope_is_that_of_autograd_and_of_differences(bounds):
    interval, x_N = values(bounds)
    x_N = x_N[(x_N > interval.drawn[0]) & (x_N < interval.drawn[1])]
    x = torch.from_numpy(x_N).requires_grad_()

    y_N, log_slope_N = interval.forward(torch, x)
    (slope_N,) = torch.autograd.grad(y_N.sum(), x, create_graph=True)

    torch.testing.assert_close(log_slope_N, slope_N.log(), rtol=1e-9, atol=1e-9)
    inner_N = x_N[500:-500]
    step = 1e-6 * (inner_N[-1] - inner_N[0])
    below_N, above_N = (interval.forward(np, inner_N + way * step)[0] for way in (-0.5, 0.5))
    found_N = interval.forward(np, inner_N)[1]
    np.testing.assert_allclose(np.log((above_N - below_N) / step), found_N, rtol=1e-5, atol=1e-5)


@every_interval
@both_precisions
def test_no_value_inside_or_drawn_has_a_gradient_that_is_not_finite(bounds, dtype):
    interval, x_N = values(bounds, dtype)
    middle = 0.5 * (x_N[0] + x_N[-1])
    x = torch.from_numpy(np.append(x_N, dtype(middle))).requires_grad_()
    far = [0.0, 1e-30, 0.3, 5.0, 20.0, 1e3, 1e10, 1e18, 1e30]
    y = torch.tensor([*far, *(-v for v in far)], dtype=x.dtype, requires_grad=True)

    outcome = interval.forward(torch, x)
    drawn = interval.inverse(torch, y)
    gradients = [*torch.autograd.grad(outcome, [x], [torch.ones_like(x)] * 2)]
    gradients += torch.autograd.grad(drawn.sum(), y)

    for each in (*outcome, drawn, *gradients):
        assert each.isfinite().all()
    if 0 not in (interval.low, interval.high):
        return
    assert gradients[-1][0] > 0  # at y = 0 the curve rises


def test_the_middle_of_an_interval_has_a_slope_and_a_curvature():
    interval = Interval(-1.0, 1.0)

    with jax.enable_x64(True):
        at = jnp.array(0.0)
        forward, inverse = (
            (lambda x: interval.forward(jnp, x)[0]),
            (lambda y: interval.inverse(jnp, y)),
        )
        slopes = [jax.grad(function)(at) for function in (forward, inverse)]
        curvatures = [jax.grad(jax.grad(function))(at) for function in (forward, inverse)]

    np.testing.assert_allclose(slopes, 1.0, rtol=1e-6)
    np.testing.assert_allclose(curvatures, 0.0, atol=1e-6)


@every_interval
def test_all_libraries_agree(bounds):
    interval, x_N = values(bounds)
    y_N, log_slope_N = interval.forward(np, x_N)

    torch_y, torch_slope = interval.forward(torch, torch.from_numpy(x_N))
    with jax.enable_x64(True):
        jax_y, jax_slope = interval.forward(jnp, jnp.asarray(x_N))
        jax_x = interval.inverse(jnp, jax_y)

    for found_y, found_slope in ((torch_y, torch_slope), (jax_y, jax_slope)):
        np.testing.assert_allclose(found_y, y_N, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found_slope, log_slope_N, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(jax_x, interval.inverse(np, y_N), rtol=1e-10, atol=1e-15)


@every_interval
@both_precisions
def test_nothing_drawn_is_beyond_a_bound_as_it_was_said(bounds, dtype):
    interval = Interval(*bounds)
    y_N = np.concatenate([np.linspace(-30, 30, 10_001), [-1e30, 1e30]]).astype(dtype)

    x_N = interval.inverse(np, y_N).astype(np.float64)

    assert (x_N >= bounds[0]).all()
    assert (x_N <= bounds[1]).all()
    assert np.isfinite(x_N).all()
    assert interval.holds(np, x_N.astype(np.float32)).all()


@pytest.mark.parametrize("bounds", [(0.1, 0.7), (0.3, 0.9), (-1, 1), (-0.7, 1e-3)])
def test_rows_at_a_bound_are_inside_and_the_next_ones_are_not(bounds):
    interval = Interval(*bounds)
    at = np.array(bounds)
    kept = at.astype(np.float32)
    beyond = np.nextafter(kept, np.array([-np.inf, np.inf], np.float32))

    for inside in (at, kept, kept.astype(float)):
        assert interval.holds(np, inside).all()
    for outside in (beyond, beyond.astype(float), at + [-1e-7, 1e-7], np.array([np.nan, np.inf])):
        assert not interval.holds(np, outside).any()
    assert np.isfinite(interval.forward(np, at)).all()


def test_a_level_density_becomes_nearly_normal():
    u_N = np.linspace(0, 1, 10_001)
    y_N, _ = Interval(0.0, 1.0).forward(np, u_N)

    assert np.abs(ndtr(math.sqrt(math.pi / 2) * y_N) - u_N).max() < 0.0032


def test_columns_without_bounds_have_no_interval():
    columns = (Column("m", "Msun", True), Column("q", "", low=0, high=1), Column("v", "km / s"))

    found = intervals(columns)

    assert list(found) == [1]
    assert (found[1].low, found[1].high) == (0, 1)
