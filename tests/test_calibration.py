"""Levels and coverage of Gaussians whose density is known."""

import math

import numpy as np
import pytest

from models.calibration import calibration, levels


def log_normal(x, width):
    """Log density of a two-dimensional Gaussian of this width about 0."""
    return -0.5 * (x**2).sum(axis=1) / width**2 - math.log(2 * math.pi * width**2)


def calibrated(width, *, cells=20, rows=500, draws=2000, seed=0):
    """Of a density of this width, for events of width 1, cell by cell."""
    rng = np.random.default_rng(seed)
    each = [
        levels(
            log_normal(rng.normal(size=(rows, 2)), width),
            log_normal(width * rng.normal(size=(draws, 2)), width),
            rng,
        )
        for _ in range(cells)
    ]
    return calibration(each, [draws] * cells)


def test_the_true_density_covers_what_it_says():
    found = calibrated(1.0)

    for p, one in zip((0.5, 0.9), found.coverage.values(), strict=True):
        assert one.nominal == p
        assert one.fraction == pytest.approx(p, abs=4 * one.error)
    assert found.level_ks < 2.5 * found.level_ks_floor


def test_a_density_twice_as_wide_covers_too_much_by_as_much_as_it_must():
    coverage = calibrated(2.0).coverage

    # The region of content p is a disc of radius^2 -2 w^2 ln(1 - p), of which 1 - (1 - p)^(w^2) of
    # the events are inside.
    assert coverage["50"].fraction == pytest.approx(1 - 0.5**4, abs=0.01)
    assert coverage["90"].fraction == pytest.approx(1 - 0.1**4, abs=0.005)


def test_a_density_half_as_wide_covers_too_little():
    found = calibrated(0.5)

    assert found.coverage["50"].fraction == pytest.approx(1 - 0.5**0.25, abs=0.02)
    assert found.level_ks > 10 * found.level_ks_floor


@pytest.mark.parametrize(("rows", "draws"), [(1, 50), (100, 200)], ids=["own-draws", "shared"])
def test_the_error_is_the_spread_of_the_coverage(rows, draws):
    found = [
        calibrated(1.0, cells=400 // rows, rows=rows, draws=draws, seed=seed) for seed in range(300)
    ]

    spread = np.std([each.coverage["50"].fraction for each in found])
    assert found[0].coverage["50"].error == pytest.approx(spread, rel=0.15)
    assert np.mean([each.level_ks for each in found]) == pytest.approx(
        found[0].level_ks_floor, rel=0.15
    )


def test_few_draws_bias_nothing():
    rng = np.random.default_rng(0)
    level = [levels(rng.normal(size=1), rng.normal(size=3), rng) for _ in range(20_000)]

    assert np.mean(level) == pytest.approx(0.5, abs=0.01)
    assert np.mean(np.array(level) < 0.1) == pytest.approx(0.1, abs=0.01)


def test_an_event_outside_the_support_is_in_no_region():
    rng = np.random.default_rng(0)

    assert levels(np.array([-np.inf]), np.array([-1.0, -2.0, -np.inf]), rng) == 1
