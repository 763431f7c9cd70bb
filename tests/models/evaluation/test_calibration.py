"""Levels, coverage and ranks of Gaussians whose density is known."""

import math

import numpy as np
import pytest

from models.evaluation.calibration import calibration, gap_error, levels, ranks


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
    return calibration(each, [draws] * cells, {})


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


@pytest.mark.parametrize(
    ("cells", "rows", "draws"), [(100, 1, 50), (4, 100, 200)], ids=["own-draws", "shared"]
)
def test_the_error_is_the_spread_of_the_coverage(cells, rows, draws):
    found = [calibrated(1.0, cells=cells, rows=rows, draws=draws, seed=seed) for seed in range(300)]

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


def ranked(shift, width, *, rows=400, draws=4000, seed=0):
    """The transform of each column of a density moved and widened in the first, in ten cells."""
    rng = np.random.default_rng(seed)
    level, rank = [], {"moved": [], "true": []}
    for _ in range(10):
        x, drawn = rng.normal(size=(rows, 2)), rng.normal(size=(draws, 2))
        drawn[:, 0] = shift + width * drawn[:, 0]
        level.append(np.full(rows, 0.5))
        for name, column in (("moved", 0), ("true", 1)):
            rank[name].append(ranks(x[:, column], drawn[:, column], rng))
    joined = {name: np.concatenate(each) for name, each in rank.items()}
    return calibration(level, [draws] * 10, joined).pit


def test_ranks_are_uniform_in_the_column_that_is_right_alone():
    for shift, width in ((0.0, 1.0), (0.3, 1.0), (0.0, 2.0)):
        found = ranked(shift, width)

        assert found["true"].ks < 2.5 * found["true"].ks_floor
        assert found["true"].mean == pytest.approx(0.5, abs=0.02)
        assert found["true"].spread == pytest.approx(12**-0.5, abs=0.01)
        if (shift, width) != (0.0, 1.0):
            assert found["moved"].ks > 5 * found["moved"].ks_floor


def test_ranks_tell_to_which_side_a_column_errs_and_whether_it_is_too_wide():
    # P(draw < x) of x ~ N(0, 1) under N(s, 1) has the mean P(N(s, 2) < 0).
    low = 0.5 * (1 + math.erf(-0.3 / 2))
    assert ranked(0.3, 1.0)["moved"].mean == pytest.approx(low, abs=0.02)
    assert ranked(0.0, 2.0)["moved"].spread < 0.25
    assert ranked(0.0, 0.5)["moved"].spread > 0.33


def test_ranks_among_equal_values_are_spread_evenly():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, 20_000)

    rank = np.sort(ranks(values, rng.integers(0, 3, 20_000), rng))

    np.testing.assert_allclose(rank, (np.arange(20_000) + 0.5) / 20_000, atol=0.02)


def test_the_floor_is_the_mean_distance_of_ranks_that_share_their_draws():
    found = [ranked(0.0, 1.0, rows=100, draws=200, seed=seed)["true"] for seed in range(200)]

    assert np.mean([each.ks for each in found]) == pytest.approx(found[0].ks_floor, rel=0.1)


@pytest.mark.parametrize("width", [1.0, 1.3])
def test_the_error_of_a_difference_is_its_spread(width):
    """Of the true density and of one of that width, asked about the same events."""
    gaps, errors = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        pairs = []
        for _ in range(4):
            x = rng.normal(size=(100, 2))
            pairs.append(
                [
                    levels(log_normal(x, w), log_normal(w * rng.normal(size=(500, 2)), w), rng)
                    for w in (1.0, width)
                ]
            )
        first, second = zip(*pairs, strict=True)
        gaps.append(np.mean([np.mean(a <= 0.5) - np.mean(b <= 0.5) for a, b in pairs]))
        errors.append(gap_error(first, second, [500] * 4, 0.5))

    assert np.mean(errors) == pytest.approx(np.std(gaps), rel=0.2)
    apart = math.sqrt(2 * 0.25 / 400)
    assert np.mean(errors) < 0.8 * apart
