"""The exact posteriors of the benchmark of coverage, beside known ones, and its errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import chi2, norm

from models import Emulator
from models.bundle.ensemble import Ensemble
from tests.random_flows import a_flow

ROOT = Path(__file__).parents[2]
DOMAIN = np.array([[1e-4, 1e-2], [0.5, 5.0]])
SPREAD = np.array([0.8, 0.5])
TRUTH = np.array([0.0012, 1.4])


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """Modules of `benchmarks/`, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import coverage
        import coverage_posterior
        import coverage_report

        yield SimpleNamespace(main=coverage, posterior=coverage_posterior, report=coverage_report)


def normal(shift=0.0, correlation=0.0):
    """Events are normal about the logarithms of the conditions, plus an error."""

    def log_likelihood(x, c):
        z = (x.mean(0) - np.log(c) - shift) / SPREAD
        square = (z**2).sum(1) - 2 * correlation * z.prod(1)
        return -0.5 * len(x) * square / (1 - correlation**2)

    return log_likelihood


def drawn(events, seed):
    rng = np.random.default_rng(seed)
    return np.log(TRUTH) + SPREAD * rng.standard_normal((events, 2))


@pytest.mark.parametrize("events", [40, 1_000, 300_000])
def test_levels_and_ranks_are_those_of_the_known_posterior(bench, events):
    for seed in range(3):
        x = drawn(events, seed)

        one = bench.posterior.surface(normal(), x, TRUTH, DOMAIN)
        found = bench.posterior.found([one], TRUTH)

        z = (np.log(TRUTH) - x.mean(0)) / (SPREAD / np.sqrt(events))
        assert found.level == pytest.approx(chi2.cdf((z**2).sum(), 2), abs=0.01)
        np.testing.assert_allclose(found.ranks_C, norm.cdf(z), atol=0.01)
        assert found.square == pytest.approx((z**2).mean(), rel=0.05)


def test_the_domain_ends_a_posterior(bench):
    """A few events near the edge: compared with the sum over a fine grid."""
    truth, x = np.array([1.2e-4, 4.5]), drawn(12, 3) - np.log(TRUTH) + np.log([1.2e-4, 4.5])

    one = bench.posterior.surface(normal(), x, truth, DOMAIN)
    found = bench.posterior.found([one], truth)

    level, ranks = by_brute_force([normal()], x, truth)
    assert found.level == pytest.approx(level, abs=0.01)
    np.testing.assert_allclose(found.ranks_C, ranks, atol=0.03)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([normal(correlation=0.97)], id="a ridge"),
        pytest.param([normal(), normal(4 * SPREAD / 20)], id="members that disagree"),
    ],
)
def test_what_is_no_round_hill_is_compared_with_the_sum_over_a_fine_grid(bench, members):
    """The members are four standard deviations apart, each on its own grid."""
    x = drawn(400, 5)

    surfaces = [bench.posterior.surface(one, x, TRUTH, DOMAIN) for one in members]
    found = bench.posterior.found(surfaces, TRUTH)

    level, ranks = by_brute_force(members, x, TRUTH)
    assert found.level == pytest.approx(level, abs=0.01)
    np.testing.assert_allclose(found.ranks_C, ranks, atol=0.03)


def by_brute_force(members, x, truth):
    parts = 500
    axes = [low + (high - low) * (np.arange(parts) + 0.5) / parts for low, high in np.log(DOMAIN)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    weights = sum(np.exp(one(x, np.exp(points))) for one in members)
    at = sum(np.exp(one(x, truth[None]))[0] for one in members)
    weights, at = weights / weights.sum(), at / weights.sum()
    return weights[weights > at].sum(), [
        weights[points[:, k] < np.log(truth[k])].sum() for k in (0, 1)
    ]


def test_catalogues_of_one_size_share_no_row_and_are_no_ones_training(bench, prepared):
    options = SimpleNamespace(data=prepared, between=None, sizes=(5, 20), catalogs=300)

    made = list(bench.main.of_simulation(options, DOMAIN))

    rows = bench.main.read_split(prepared, "test")
    here = (rows.conditions == np.float32([0.001, 1.0])).all(1).sum()
    for size in options.sizes:
        some = [one for one in made if len(one.events_NF) == size]
        events = np.concatenate([one.events_NF for one in some])
        assert len(some) == here // size
        assert len(np.unique(events, axis=0)) == len(events)
        assert np.isin(events, rows.events.astype(float)).all()
    assert {tuple(np.float32(one.truth_C)) for one in made} == {tuple(np.float32([0.001, 1.0]))}


def test_a_run_tells_of_every_method_and_goes_on(bench, prepared, tmp_path, monkeypatch, capsys):
    small = {"kind": "affine", "blocks": 1, "hidden": 8}
    flows = [a_flow(options=small, seed=seed, noise=0.1) for seed in (5, 6)]
    Emulator(Ensemble(flows)).save(tmp_path / "two")
    Emulator(flows[0]).save(tmp_path / "single")
    words = ["two", "single", "--results", "found", "--data", str(prepared), "--catalogs", "2"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["coverage.py", *words, "--sizes", "5", "9", "--workers", "1"])

    bench.main.main()
    first = capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "found").glob("*.npz")}
    bench.main.main()

    assert len(times) == 4
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for method in ("two one", "two mean density", "two members", "single one", "control"):
        assert method in first
    monkeypatch.setattr("sys.argv", ["coverage.py", *words, "--law", "known", "--workers", "1"])
    with pytest.raises(SystemExit, match="holds results of other emulators or data"):
        bench.main.main()


def test_catalogues_of_one_cell_count_as_one(bench):
    """Ten cells in which all catalogues fail or none does: the error is that of ten draws."""
    cells = np.repeat(np.arange(10), 50)
    inside = np.repeat(np.arange(10) < 7, 50).astype(float)

    assert bench.report.error(cells, inside) == pytest.approx(np.sqrt(0.7 * 0.3 / 10), rel=0.1)
