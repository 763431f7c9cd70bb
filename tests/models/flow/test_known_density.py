"""The benchmark's own truth: a density that is one, and the sampler that goes with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import known_density as known
from data_prep.stream import read_split

POINTS = [
    pytest.param(1e-4, 0.5, id="lowest Z and alpha"),
    pytest.param(0.0014, 2.2, id="off the grid"),
    pytest.param(0.03, 5.0, id="highest Z and alpha"),
]


@pytest.mark.parametrize(("z", "alpha"), POINTS)
def test_the_density_integrates_to_one(z: float, alpha: float) -> None:
    log_prob_N, area_N = quadrature(z, alpha)

    assert np.sum(np.exp(log_prob_N) * area_N) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("z", "alpha"), POINTS)
def test_samples_have_the_entropy_of_the_density(z: float, alpha: float) -> None:
    z_N, alpha_N = np.full((2, 200_000), [[z], [alpha]])
    log_prob_N, area_N = quadrature(z, alpha)
    density_N = np.exp(log_prob_N)
    entropy = -np.sum(density_N * np.where(density_N > 0, log_prob_N, 0) * area_N)

    drawn_N = known.log_prob(known.sample(z_N, alpha_N, np.random.default_rng(0)), z_N, alpha_N)

    assert -drawn_N.mean() == pytest.approx(entropy, abs=0.01)


def test_rows_in_single_precision_stay_in_the_support() -> None:
    z_N, alpha_N, events_N2 = known.table(200_000, seed=1)

    exact_N = known.log_prob(events_N2, z_N, alpha_N)
    single_N = known.log_prob(
        events_N2.astype(np.float32), z_N.astype(np.float32), alpha_N.astype(np.float32)
    )

    assert np.isfinite(exact_N).all()
    assert np.isfinite(single_N).all()
    assert single_N.mean() == pytest.approx(exact_N.mean(), abs=5e-4)


def test_cells_are_as_full_as_in_the_thesis() -> None:
    assert known.COUNTS_AZ.sum() == known.ROWS
    z_N, alpha_N, _ = known.table(100_000, seed=0)

    fullest = ((z_N == 1e-4) & (alpha_N == 5)).mean()

    assert fullest == pytest.approx(35_215 / known.ROWS, rel=0.05)


def test_a_table_is_prepared_with_its_columns(tmp_path: Path) -> None:
    dataset = known.write(tmp_path / "known", rows=5_000, seed=3)
    test = read_split(tmp_path / "known", "test")

    assert [column.name for column in dataset.event_columns] == ["Mass_0", "Mass_1"]
    assert np.isfinite(known.log_prob(test.events, *test.conditions.T)).all()


def test_off_grid_points_are_off_the_grid_and_inside_its_range() -> None:
    z_N, alpha_N = known.off_grid(20, np.random.default_rng(0))

    assert not np.isin(z_N, known.Z_GRID).any()
    assert not np.isin(alpha_N, known.ALPHA_GRID).any()
    assert (z_N > 1e-4).all()
    assert (z_N < 0.01).all()
    assert (alpha_N > 0.5).all()
    assert (alpha_N < 5).all()


def quadrature(z: float, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log density at points that fill the plane, and the area of each: random in equal cells.

    Below the diagonal 1 - M1/M0 = t^2, where the pile-up at equal masses has no pole; above it
    there is only the box.
    """
    top, rng = float(known.shape(z, alpha).top_N), np.random.default_rng(1)
    mass_0, t = strata(5.4, top + 0.1, 0, 0.9, rng)
    below = np.stack([mass_0, mass_0 * (1 - t**2)], axis=1)
    area_below = (top - 5.3) * 0.9 / len(t) * mass_0 * 2 * t
    above = np.stack(strata(5.4, 8.1, 5.4, 8.1, rng), axis=1)
    area_above = 2.7**2 / len(above) * (above[:, 1] > above[:, 0])
    points, area_N = np.concatenate([below, above]), np.append(area_below, area_above)
    return known.log_prob(points, z, alpha), area_N


def strata(
    low: float, high: float, bottom: float, top: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One random point in each of 600 x 600 equal cells of a rectangle."""
    x, y = (np.indices((600, 600)) + rng.random((2, 600, 600))).reshape(2, -1) / 600
    return low + (high - low) * x, bottom + (top - bottom) * y
