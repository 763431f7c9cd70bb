"""The Jensen-Shannon divergence: truths of known densities, and what holds for any two."""

import math

import numpy as np
import pytest

from hpo.pictures import divergence
from hpo.pictures.divergence import DivergenceError, between_all, from_one, jensen_shannon
from models import Emulator
from tests.models.flow.test_density import flow

CELLS = [{"Z": Z, "alpha": alpha} for Z in (0.6, 1.8) for alpha in (0.6, 1.0, 1.8)]


class Gaussians:
    """Stands in for an emulator: a normal distribution of two columns, its mean at `at`."""

    def sample(self, n, *, seed, on_extrapolation, at):
        return at + np.random.default_rng(seed).normal(size=(n, 2)) * [1.0, 2.0]

    def log_prob(self, events, *, return_std, on_extrapolation, at):
        z = (events - at) / [1.0, 2.0]
        return (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(axis=1) - math.log(2.0)


class Boxes:
    """Even from `at` to `at + 1`, nothing elsewhere."""

    def sample(self, n, *, seed, on_extrapolation, at):
        return at + np.random.default_rng(seed).uniform(size=(n, 1))

    def log_prob(self, events, *, return_std, on_extrapolation, at):
        inside = (events[:, 0] >= at) & (events[:, 0] <= at + 1)
        return np.where(inside, 0.0, -np.inf)


def by_quadrature(distance):
    """Of two normal distributions with spread 1 whose means are so far apart."""
    x = np.linspace(-12, 12 + distance, 100_001)
    p, q = (np.exp(-0.5 * (x - mean) ** 2) / math.sqrt(2 * math.pi) for mean in (0.0, distance))
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.nan_to_num(p * np.log(p / m)) + np.nan_to_num(q * np.log(q / m))
    return float(terms.sum() * (x[1] - x[0]) / 2)


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator(flow(blocks=2, hidden=8, bins=4, shake=0.3).float())


@pytest.mark.parametrize("apart", [0.3, 1.0, 3.0])
def test_two_gaussians_are_as_far_apart_as_the_integral_says(apart):
    # Along the diagonal: the spreads are 1 and 2, so distances are in units of these.
    distance = apart * math.hypot(1.0, 0.5)

    found = from_one(Gaussians(), {"at": 0.0}, [{"at": apart}], draws=40_000)

    assert found.values[0] == pytest.approx(by_quadrature(distance), abs=4 * found.errors[0])
    assert 0 < found.errors[0] < 0.003


@pytest.mark.parametrize(
    ("apart", "truth"),
    [
        pytest.param(0.0, 0.0, id="the same"),
        pytest.param(0.25, 0.25 * math.log(2), id="a quarter of each alone"),
        pytest.param(2.0, math.log(2), id="nothing in common"),
    ],
)
def test_where_a_density_is_zero_the_divergence_stays_finite(apart, truth):
    found = from_one(Boxes(), {"at": 0.0}, [{"at": apart}], draws=20_000)

    assert found.values[0] == pytest.approx(truth, abs=4 * found.errors[0] + 1e-12)


def test_densities_that_are_far_apart_are_ln_2_apart():
    assert jensen_shannon(np.array([0.0, -1e300]), np.array([-1e300, 0.0]))[0] == pytest.approx(
        math.log(2)
    )


def test_no_event_under_any_density_is_a_sentence():
    nothing = np.full(3, -np.inf)

    with pytest.raises(DivergenceError, match="no event"):
        jensen_shannon(nothing, nothing)


def test_the_matrix_of_a_flow_is_symmetric_within_its_bounds_and_zero_at_itself(emulator):
    found = between_all(emulator, [*CELLS, CELLS[0]], draws=300)

    np.testing.assert_array_equal(found.values, found.values.T)
    np.testing.assert_array_equal(found.errors, found.errors.T)
    assert (np.diag(found.values) == 0).all()
    assert found.values[0, -1] == 0  # the same conditions once more
    others = found.values[np.triu_indices(len(CELLS), 1)]
    assert ((others > 1e-4) & (others < math.log(2))).all()


def test_both_ways_of_asking_agree(emulator):
    all_pairs = between_all(emulator, CELLS, draws=4000)

    one = from_one(emulator, CELLS[2], CELLS, draws=4000)

    error = np.hypot(one.errors, all_pairs.errors[2])
    assert (np.abs(one.values - all_pairs.values[2]) <= 5 * error).all()
    assert one.values[2] == 0


def test_the_error_is_that_of_repeated_draws():
    many = [
        from_one(Gaussians(), {"at": 0.0}, [{"at": 1.0}], draws=500, seed=s) for s in range(200)
    ]

    spread = np.std([each.values[0] for each in many])
    assert np.mean([each.errors[0] for each in many]) == pytest.approx(spread, rel=0.25)


def test_every_cell_is_a_step(emulator, monkeypatch):
    monkeypatch.setattr(divergence, "DRAWS", 10)
    steps = []

    from_one(emulator, CELLS[0], CELLS[:3], step=lambda *each: steps.append(each))

    assert steps == [(1, 3), (2, 3), (3, 3)]
