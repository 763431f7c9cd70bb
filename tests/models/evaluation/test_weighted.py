"""Weighted statistics: a row of weight w counts as w equal rows, whatever the scale of weights."""

import math

import numpy as np
import pytest

from data_prep.stream import Batch
from models.evaluation import weighted
from models.evaluation.calibration import calibration, gap_error
from models.evaluation.cells import CellRows
from models.evaluation.distances import Bins, distances, ks_distance
from models.evaluation.nll import mean_of
from models.evaluation.report import scores
from models.evaluation.two_sample import Answers, outcome

NAMES = ["mass", "delay"]
ROWS = 300


class Rows:
    """Some rows with whole numbers as weights, and drawn ones beside them."""

    def __init__(self):
        rng = np.random.default_rng(4)
        self.times = rng.integers(1, 6, ROWS)
        self.x = rng.normal(size=(ROWS, 2))
        self.drawn = rng.normal(size=(700, 2)) + 0.1
        self.level = rng.random(ROWS) ** 1.1
        self.cell = rng.integers(0, 4, ROWS)
        self.scores = rng.normal(size=(2, ROWS)) + [[0.0], [0.5]]

    def answers(self, rows, weights):
        """Of one classifier."""
        share = np.ones(len(rows)) if weights is None else weights.astype(float)
        return Answers(self.scores[:, rows], np.stack([share, share]), rows)

    def statistics(self, weights=None, times=1):
        """Every statistic that weights can change, but errors and floors, which know the rows."""
        rows = np.repeat(np.arange(ROWS), times)
        x, weights = self.x[rows], None if weights is None else weights[rows]
        bins = Bins((np.array([-0.5, 0.5]), np.array([0.0, 1.0])))
        near = distances(x, self.drawn, NAMES, bins, np.random.default_rng(0), weights)
        conditions = self.cell[rows, None].astype(np.float32)
        cells = CellRows.of(Batch(x, conditions))
        of_cells = [np.flatnonzero(self.cell[rows] == k) for k in range(4)]
        parts = None if weights is None else [weights[part] for part in of_cells]
        level = [self.level[rows][part] for part in of_cells]
        # A column's ranks lie in the order of the levels.
        rank = {"mass": np.concatenate(level) ** 2}
        found = calibration(level, [50] * 4, rank, parts)
        out = frozenset(cells.keys[:1])
        told = scores(x[:, 0], cells, "test", out, weights, report=out)
        return {
            "mean": mean_of(x[:, 0], weights).mean,
            "ks": ks_distance(x[:, 0], self.drawn[:, 0], weights, None),
            "wasserstein": near.wasserstein,
            "counts": bins.counts(x, weights) / bins.counts(x, weights).sum(),
            "coverage": [one.fraction for one in found.coverage.values()],
            "level_ks": found.level_ks,
            "pit": [found.pit["mass"].ks, found.pit["mass"].mean, found.pit["mass"].spread],
            "two_sample": outcome(self.answers(rows, weights)).auc,
            "nll": [each and each["mean"] for each in told.values()],
        }


@pytest.fixture(scope="module")
def rows():
    return Rows()


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e15])
def test_a_weighted_statistic_is_that_of_a_table_with_the_rows_repeated(rows, scale):
    repeated = rows.statistics(times=rows.times)

    found = rows.statistics((rows.times * scale).astype(np.float32))

    assert found.keys() == repeated.keys()
    for name, value in found.items():
        assert value == pytest.approx(repeated[name], rel=1e-6, abs=1e-12), name


def test_the_quantiles_of_weighted_rows_are_those_of_repeated_ones(rows):
    repeated = np.repeat(rows.x[:, 0], rows.times)
    fractions = (0.1, 0.5, 0.9)

    found = weighted.quantile(rows.x[:, 0], fractions, rows.times)

    np.testing.assert_array_equal(found, np.quantile(repeated, fractions, method="inverted_cdf"))


def test_equal_weights_change_nothing(rows):
    plain, found = rows.statistics(), rows.statistics(np.full(ROWS, 3.0, np.float32))

    for name, value in found.items():
        assert value == pytest.approx(plain[name], rel=1e-12, abs=1e-12), name
    error = mean_of(rows.x[:, 0]).error
    assert mean_of(rows.x[:, 0], np.full(ROWS, 3.0)).error == pytest.approx(error, rel=1e-12)
    both = [calibration([rows.level], [50], {}, some) for some in (None, [np.full(ROWS, 3.0)])]
    for ours, theirs in zip(*(one.coverage.values() for one in both), strict=True):
        # Of weighted events from those that are inside, of equal ones from what is expected.
        assert ours.error == pytest.approx(theirs.error, rel=0.1)
    assert both[0].level_ks_floor == pytest.approx(both[1].level_ks_floor)


def test_one_row_that_outweighs_all_is_the_only_effective_one():
    weights = np.array([1e30, 1.0, 1.0, 1.0], np.float32)

    assert weighted.effective(weights, 4) == pytest.approx(1)
    assert weighted.effective(np.full(4, 1e-38, np.float32), 4) == pytest.approx(4)
    assert weighted.effective(None, 4) == 4
    assert weighted.effective(np.empty(0), 0) == 0


def importance(rng, rows, kind):
    """Rows of a standard normal by way of another density, with their weights."""
    if kind == "noise":
        return rng.normal(size=(rows, 2)), np.exp(1.5 * rng.normal(size=rows))
    if kind == "wide":
        x = 2.5 * rng.normal(size=(rows, 2))
        return x, np.exp(-0.5 * (x**2).sum(axis=1) * (1 - 1 / 2.5**2))
    x = rng.normal(size=(rows, 2)) + [0.8, 0]
    return x, np.exp(-0.8 * x[:, 0])


KINDS = pytest.mark.parametrize("kind", ["noise", "wide", "shift"])


@KINDS
def test_a_perfect_density_is_as_far_off_as_the_floor_however_weights_vary(kind):
    rng, bins = np.random.default_rng(1), Bins.of(np.random.default_rng(2).normal(size=(9999, 2)))
    ratios = []
    for _ in range(40):
        x, weights = importance(rng, 500, kind)
        found = distances(x, rng.normal(size=(5000, 2)), NAMES, bins, rng, weights)
        across = [found.wasserstein[name] / found.wasserstein_floor[name] for name in NAMES]
        ratios.append([np.mean(across), found.jensen_shannon / found.jensen_shannon_floor])

    assert np.mean(ratios, axis=0) == pytest.approx([1, 1], abs=0.2)


def test_the_floor_of_a_distance_from_few_draws_goes_by_effective_rows():
    """As many draws as effective rows: half of the distance is theirs."""
    rng, bins, ratios = np.random.default_rng(7), Bins((np.zeros(1), np.zeros(1))), []
    for _ in range(60):
        x, weights = importance(rng, 500, "noise")
        found = distances(x, rng.normal(size=(60, 2)), NAMES, bins, rng, weights)
        ratios += [found.wasserstein[name] / found.wasserstein_floor[name] for name in NAMES]

    assert np.mean(ratios) == pytest.approx(1, abs=0.2)


@KINDS
def test_errors_are_the_spread_of_weighted_means_and_coverages(kind):
    rng, z = np.random.default_rng(5), []
    for _ in range(200):
        x, weights = importance(rng, 1000, kind)
        radius = (x**2).sum(axis=1)
        mean = mean_of(radius, weights)
        cover = calibration([1 - np.exp(-radius / 2)], [10**9], {}, [weights]).coverage
        off = [(each.fraction - each.nominal) / each.error for each in cover.values()]
        z.append([(mean.mean - 2) / mean.error, *off])

    assert np.sqrt(np.mean(np.square(z), axis=0)) == pytest.approx(np.ones(3), abs=0.25)


def test_the_error_of_a_difference_of_coverages_is_that_of_repeated_events():
    """Two densities: what falls out of one region and into the other, by weight."""
    rng, gaps, errors = np.random.default_rng(6), [], []
    for _ in range(300):
        x, weights = importance(rng, 400, "wide")
        one = 1 - np.exp(-(x**2).sum(axis=1) / 2)
        other = 1 - np.exp(-((x - [0.3, 0]) ** 2).sum(axis=1) / 2)
        gaps.append(np.average((one <= 0.5) * 1.0 - (other <= 0.5), weights=weights))
        errors.append(gap_error([one], [other], [10**9], 0.5, [weights]))

    assert np.std(gaps) == pytest.approx(np.mean(errors), rel=0.15)
    assert math.isfinite(gap_error([one], [one], [50], 0.5, [weights]))
