"""Exact posteriors of catalogues, beside posteriors that are known in closed form."""

import numpy as np
import pytest
from scipy.stats import chi2, norm

from models.evaluation.catalogs.posterior import NoGridError, found, surface

DOMAIN = np.log([[1e-4, 1e-2], [0.5, 5.0]])
SPREAD = np.array([0.8, 0.5])
TRUTH = np.log([0.0012, 1.4])


def normal(shift=0.0, correlation=0.0):
    """Events are normal about the conditions, plus an error."""

    def log_likelihood(x, c):
        z = (x.mean(0) - c - shift) / SPREAD
        square = (z**2).sum(1) - 2 * correlation * z.prod(1)
        return -0.5 * len(x) * square / (1 - correlation**2)

    return log_likelihood


def drawn(events, seed):
    rng = np.random.default_rng(seed)
    return TRUTH + SPREAD * rng.standard_normal((events, 2))


@pytest.mark.parametrize("events", [40, 1_000, 300_000])
def test_levels_and_ranks_are_those_of_the_known_posterior(events):
    for seed in range(3):
        x = drawn(events, seed)

        one = surface(normal(), x, TRUTH, DOMAIN)
        where = found([one], TRUTH)

        z = (TRUTH - x.mean(0)) / (SPREAD / np.sqrt(events))
        assert where.level == pytest.approx(chi2.cdf((z**2).sum(), 2), abs=0.01)
        np.testing.assert_allclose(where.ranks_C, norm.cdf(z), atol=0.01)
        assert where.square == pytest.approx((z**2).mean(), rel=0.05)


@pytest.mark.parametrize(("columns", "grid"), [(1, 20), (2, 14), (3, 8)])
def test_a_coarse_grid_of_one_to_three_conditions_does_as_well(columns, grid):
    """As those have them that `coverage` works out."""
    rng, truth, ends = (
        np.random.default_rng(1),
        np.zeros(columns),
        np.tile([-2.0, 3.0], (columns, 1)),
    )
    x = 0.7 * rng.standard_normal((150, columns))

    def log_likelihood(x, c):
        return -0.5 * len(x) * (((x.mean(0) - c) / 0.7) ** 2).sum(1)

    where = found([surface(log_likelihood, x, truth, ends, grid)], truth)

    z = x.mean(0) / (0.7 / np.sqrt(len(x)))
    assert where.square == pytest.approx((z**2).mean(), rel=0.05)
    assert where.level == pytest.approx(chi2.cdf((z**2).sum(), columns), abs=0.02)


def test_a_likelihood_that_is_no_number_has_no_grid():
    with pytest.raises(NoGridError, match="no grid fits the posterior of 40 events"):
        surface(lambda x, c: np.full(len(c), np.nan), drawn(40, 0), TRUTH, DOMAIN)


def test_the_domain_ends_a_posterior():
    """A few events near the edge: compared with the sum over a fine grid."""
    truth = np.log([1.2e-4, 4.5])
    x = drawn(12, 3) - TRUTH + truth

    one = surface(normal(), x, truth, DOMAIN)
    where = found([one], truth)

    level, ranks = by_brute_force([normal()], x, truth)
    assert where.level == pytest.approx(level, abs=0.01)
    np.testing.assert_allclose(where.ranks_C, ranks, atol=0.03)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([normal(correlation=0.97)], id="a ridge"),
        pytest.param([normal(), normal(4 * SPREAD / 20)], id="members that disagree"),
    ],
)
def test_what_is_no_round_hill_is_compared_with_the_sum_over_a_fine_grid(members):
    """The members are four standard deviations apart, each on its own grid."""
    x = drawn(400, 5)

    surfaces = [surface(one, x, TRUTH, DOMAIN) for one in members]
    where = found(surfaces, TRUTH)

    level, ranks = by_brute_force(members, x, TRUTH)
    assert where.level == pytest.approx(level, abs=0.01)
    np.testing.assert_allclose(where.ranks_C, ranks, atol=0.03)


def by_brute_force(members, x, truth):
    parts = 500
    axes = [low + (high - low) * (np.arange(parts) + 0.5) / parts for low, high in DOMAIN]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    weights = sum(np.exp(one(x, points)) for one in members)
    at = sum(np.exp(one(x, truth[None]))[0] for one in members)
    weights, at = weights / weights.sum(), at / weights.sum()
    return weights[weights > at].sum(), [weights[points[:, k] < truth[k]].sum() for k in (0, 1)]
