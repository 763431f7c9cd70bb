"""The Jensen-Shannon divergence: truths of known densities, and what holds for any two."""

import math

import numpy as np
import pytest

from hpo.pictures.maps import divergence
from hpo.pictures.maps.divergence import from_reference, jensen_shannon
from hpo.pictures.style import PlotError
from models import Emulator
from tests.random_flows import flow

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


@pytest.fixture
def draws(monkeypatch):
    """Sets the events drawn in each cell."""
    return lambda number: monkeypatch.setattr(divergence, "DRAWS", number)


@pytest.mark.parametrize("apart", [0.3, 1.0, 3.0])
def test_two_gaussians_are_as_far_apart_as_the_integral_says(draws, apart):
    # Along the diagonal: the spreads are 1 and 2, so distances are in units of these.
    distance = apart * math.hypot(1.0, 0.5)
    draws(40_000)

    (value,), (error,) = from_reference(Gaussians(), {"at": 0.0}, [{"at": apart}])

    assert value == pytest.approx(by_quadrature(distance), abs=4 * error)
    assert 0 < error < 0.003


@pytest.mark.parametrize(
    ("apart", "truth"),
    [
        pytest.param(0.0, 0.0, id="the same"),
        pytest.param(0.25, 0.25 * math.log(2), id="a quarter of each alone"),
        pytest.param(2.0, math.log(2), id="nothing in common"),
    ],
)
def test_where_a_density_is_zero_the_divergence_stays_finite(draws, apart, truth):
    draws(20_000)

    (value,), (error,) = from_reference(Boxes(), {"at": 0.0}, [{"at": apart}])

    assert value == pytest.approx(truth, abs=4 * error + 1e-12)


def test_densities_that_are_far_apart_are_ln_2_apart():
    assert jensen_shannon(np.array([0.0, -1e300]), np.array([-1e300, 0.0]))[0] == pytest.approx(
        math.log(2)
    )


def test_no_event_under_any_density_is_a_sentence():
    nothing = np.full(3, -np.inf)

    with pytest.raises(PlotError, match="no event"):
        jensen_shannon(nothing, nothing)


def test_the_divergence_of_a_flow_is_symmetric_within_its_bounds_and_zero_at_itself(
    draws, emulator
):
    draws(2000)

    values, errors = from_reference(emulator, CELLS[0], CELLS)
    back, back_errors = from_reference(emulator, CELLS[-1], CELLS)

    assert values[0] == back[-1] == 0
    assert ((values[1:] > 1e-4) & (values[1:] < math.log(2))).all()
    error = math.hypot(errors[-1], back_errors[0])
    assert values[-1] == pytest.approx(back[0], abs=5 * error)


def test_the_error_is_that_of_repeated_draws(draws):
    draws(500)

    many = [
        from_reference(Gaussians(), {"at": 0.0}, [{"at": 1.0}], seed=seed) for seed in range(200)
    ]

    spread = np.std([values[0] for values, _ in many])
    assert np.mean([errors[0] for _, errors in many]) == pytest.approx(spread, rel=0.25)


def test_every_cell_is_a_step(emulator):
    steps = []

    from_reference(emulator, CELLS[0], CELLS[:3], step=lambda *each: steps.append(each))

    assert steps == [(1, 3), (2, 3), (3, 3)]
