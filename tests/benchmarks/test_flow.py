"""What the benchmark of flows stands on: its clock, second truth, errors and histograms."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_prep.dataset import SAMPLE
from models.config import FlowConfig, TrainConfig
from models.training.train import train

ROOT = Path(__file__).parents[2]
GRID = (1000, 500)
POINTS = [
    pytest.param(0.0014, 2.2, id="off the grid"),
    pytest.param(0.03, 5.0, id="highest Z and alpha"),
]


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """Modules of `benchmarks/`, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import flow_estimates
        import known_density
        import power_law_peak
        import processor_time
        import rivals
        import smoothed_histogram

        yield SimpleNamespace(
            known=known_density,
            peak=power_law_peak,
            clock=processor_time,
            rivals=rivals,
            estimates=flow_estimates,
            histogram=smoothed_histogram,
        )


@pytest.mark.parametrize(("z", "alpha"), POINTS)
def test_the_power_law_and_peak_integrates_to_one(
    bench: SimpleNamespace, z: float, alpha: float
) -> None:
    log_prob_N, area_N = quadrature(bench.peak, z, alpha)

    assert np.sum(np.exp(log_prob_N) * area_N) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("z", "alpha"), POINTS)
def test_rows_of_the_power_law_and_peak_have_its_moments(
    bench: SimpleNamespace, z: float, alpha: float
) -> None:
    rows = 60_000
    drawn_N2 = bench.peak.sample(*np.full((2, rows), [[z], [alpha]]), np.random.default_rng(0))
    log_prob_N, area_N = quadrature(bench.peak, z, alpha)
    mass_N = np.exp(log_prob_N) * area_N / np.sum(np.exp(log_prob_N) * area_N)

    found_N = bench.peak.log_prob(drawn_N2, *np.full((2, rows), [[z], [alpha]]), GRID)

    assert np.isfinite(found_N).all()
    entropy = -np.sum(mass_N * np.where(mass_N > 0, log_prob_N, 0))
    assert -found_N.mean() == pytest.approx(entropy, abs=0.01)
    log_N2 = np.log(nodes(bench.peak, z, alpha)[0])
    for drawn, exact in zip(np.log(drawn_N2).mean(0), mass_N @ log_N2, strict=True):
        assert drawn == pytest.approx(exact, abs=0.005)


def test_both_known_densities_have_the_same_rows_in_each_cell(bench: SimpleNamespace) -> None:
    first = bench.known.table(1000, seed=3)[:2]

    second = bench.known.conditions(1000, np.random.default_rng(3))

    np.testing.assert_array_equal(first, second)


def test_a_budget_is_of_processor_time_and_evaluation_takes_none(bench: SimpleNamespace) -> None:
    config = TrainConfig(max_minutes=0.5 / 60, eval_every=25, device="cpu", patience=0)
    shape = FlowConfig(blocks=1, bins=4, hidden=8, depth=1)
    start_s = time.process_time()

    with bench.clock.counted() as clock:
        # Sleep is time that others have the processor.
        _, fit = train(SAMPLE, shape, config, on_epoch=lambda _: time.sleep(0.05))

    spent_s = time.process_time() - start_s
    assert fit.stopped is not None
    assert sum(epoch.seconds for epoch in fit.history) == pytest.approx(0.5, abs=0.1)
    assert fit.history[-1].learning_rate < 0.2 * config.learning_rate
    assert spent_s > clock() + 0.01 * len(fit.history)


def test_the_error_of_a_ratio_is_its_spread_over_repetitions(bench: SimpleNamespace) -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        hard_N = rng.exponential(1.0, 2000)
        others_SN = 2 * hard_N + rng.normal(0, 0.3, (3, 2000)) + rng.normal(0, 0.05, (3, 1))
        ours_SN = hard_N + rng.normal(0, 0.3, (3, 2000)) + rng.normal(0, 0.02, (3, 1))
        found.append(bench.estimates.Estimate.ratio(ours_SN, others_SN))

    values = [one.value for one in found]
    assert np.mean(values) == pytest.approx(0.5, abs=0.003)
    told = np.sqrt(np.mean([one.error**2 for one in found]))
    assert told == pytest.approx(np.std(values), rel=0.2)


def test_histograms_are_a_density_and_draw_from_it(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.histogram, "BINS", 128)
    rng = np.random.default_rng(0)
    c_N2 = rng.choice([[1.0, 1.0], [1.0, 4.0], [4.0, 1.0], [4.0, 4.0]], 8000)
    first_N = np.exp(rng.normal(2, 0.3, 8000)) * c_N2[:, 0] ** 0.3
    rows = np.stack([first_N, first_N * rng.random(8000) ** 0.2], 1)
    density = bench.histogram.SmoothedHistograms((rows[::2], c_N2[::2]), (rows[1::2], c_N2[1::2]))
    # Equal masses are an edge, so they lie between two of the points.
    log_0, log_q = np.meshgrid(np.arange(-3, 8, 0.02), np.arange(-4.005, 3, 0.01))
    events_N2 = np.exp(np.stack([log_0.ravel(), (log_0 + log_q).ravel()], 1))
    between_N2 = np.full((len(events_N2), 2), 2.0)

    mass_N = np.exp(density.log_prob(events_N2, between_N2)) * events_N2.prod(1)
    mass_N *= 0.02 * 0.01
    drawn_N2 = density.sample(np.full((20_000, 2), 2.0), rng)

    assert mass_N.sum() == pytest.approx(1, abs=0.01)
    exact_2 = mass_N @ np.log(events_N2)
    np.testing.assert_allclose(np.log(drawn_N2).mean(0), exact_2, atol=0.02)


@pytest.mark.parametrize("name", ["zuko NSF", "nflows spline MAF", "zuko MAF"])
def test_a_rival_is_a_density_of_the_masses_themselves(bench: SimpleNamespace, name: str) -> None:
    shape = {"layers": 1, "hidden": 8, "depth": 1, "bins": 4, "bound": 10.0}
    if name == bench.rivals.MAF:
        del shape["bins"]
    torch.manual_seed(0)
    events_N2 = torch.randn(500, 2).mul(0.2).add(2).exp()
    rival = bench.rivals.build(name, shape, (events_N2, events_N2))
    step = 0.05
    axes = torch.cartesian_prod(torch.arange(-4, 9, step), torch.arange(-7, 7, step))
    grid_N2 = torch.stack([axes[:, 0], axes.sum(1)], 1).exp()

    log_prob_N = bench.rivals.log_prob(rival, (grid_N2, events_N2[:1].expand(len(grid_N2), -1)))

    mass_N = (log_prob_N + grid_N2.log().sum(1)).exp() * step**2
    assert float(mass_N.double().sum()) == pytest.approx(1, abs=0.01)


def nodes(law: SimpleNamespace, z: float, alpha: float) -> tuple[NDArray[np.floating], ...]:
    """Events and areas [Msun^2] of a quadrature by Gauss and Legendre in pieces."""
    point = law.parameters(z, alpha)
    low, turned_on = point["mmin"], point["mmin"] + point["delta_m"]
    edges = [np.linspace(low, turned_on, 12), np.geomspace(turned_on, law.HIGHEST, 25)[1:]]
    mass_N, of_mass_N = pieces(np.concatenate(edges))
    share_N, of_share_N = pieces(np.linspace(0, 1, 8))
    least_N = (low / mass_N)[:, None]
    ratio_NN = least_N + (1 - least_N) * share_N
    events_N2 = np.stack([np.repeat(mass_N, len(share_N)), (mass_N[:, None] * ratio_NN).ravel()], 1)
    return events_N2, ((of_mass_N * mass_N)[:, None] * (1 - least_N) * of_share_N).ravel()


def pieces(edges: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    x_N, weights_N = np.polynomial.legendre.leggauss(12)
    widths = np.diff(edges)[:, None]
    return (edges[:-1, None] + widths * (x_N + 1) / 2).ravel(), (widths * weights_N / 2).ravel()


def quadrature(
    law: SimpleNamespace, z: float, alpha: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Log densities and areas."""
    events_N2, area_N = nodes(law, z, alpha)
    return law.log_prob(events_N2, *np.full((2, len(area_N)), [[z], [alpha]]), GRID), area_N
