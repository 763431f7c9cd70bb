import math

import numpy as np
import pytest
from matplotlib.path import Path

from hpo.pictures import density


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.99])
def test_a_contour_encloses_the_fraction_it_is_named_after(fraction):
    draws = np.random.default_rng(0).normal(size=(400_000, 2))
    counts, edges, _ = np.histogram2d(*draws.T, bins=100, range=[(-5, 5)] * 2)

    (height,) = density.enclosing(counts, [fraction], len(draws))

    assert counts[counts >= height].sum() / counts.sum() == pytest.approx(fraction, abs=0.01)
    # Of a standard normal in the plane, the edge lies where r^2 = -2 ln(1 - fraction).
    truth = len(draws) * (edges[1] - edges[0]) ** 2 / (2 * math.pi) * (1 - fraction)
    assert height == pytest.approx(truth, rel=0.15)


def test_what_lies_outside_the_picture_counts_in_the_whole():
    inside = np.full((2, 2), 10.0)

    assert density.enclosing(inside, [0.3, 0.5, 0.9], whole=80) == [10.0, 10.0]


def test_smoothing_moves_events_and_loses_none():
    counts = np.random.default_rng(0).poisson(0.5, (30, 20)).astype(float)
    counts[0, 0] = 50

    smoothed = density.smooth(counts, (2.0, 1.0))

    assert smoothed.shape == counts.shape
    assert smoothed.sum() == pytest.approx(counts.sum())
    assert smoothed.max() < counts.max()


def test_smoothing_spreads_a_single_event_as_a_gaussian():
    counts = np.zeros((41, 41))
    counts[20, 20] = 1

    smoothed = density.smooth(counts, (3.0, 1.5))

    away = np.arange(41) - 20
    assert (smoothed.sum(axis=1) * away**2).sum() == pytest.approx(9.0, rel=1e-3)
    assert (smoothed.sum(axis=0) * away**2).sum() == pytest.approx(2.25, rel=1e-3)


@pytest.mark.parametrize("fraction", density.LEVELS)
def test_an_outline_has_the_named_fraction_of_the_events_inside(fraction):
    draws = np.random.default_rng(1).normal(size=(100_000, 2)) * (1, 3)
    edges = (np.linspace(-5, 5, 91), np.linspace(-15, 15, 91))
    smoothed = density.smooth(density.counts(draws, edges), (1.0, 1.0))

    (height,) = density.enclosing(smoothed, [fraction], len(draws))
    line = density.outline(smoothed, edges, height)

    pieces = np.split(line, np.flatnonzero(np.isnan(line[:, 0])))
    largest = max(pieces, key=len)[1:] if len(pieces) > 2 else pieces[0]
    inside = Path(largest[np.isfinite(largest[:, 0])]).contains_points(draws).mean()
    assert inside == pytest.approx(fraction, abs=0.015)


def test_an_outline_at_a_height_that_is_nowhere_is_empty():
    edges = (np.arange(4.0), np.arange(4.0))

    assert np.isnan(density.outline(np.ones((3, 3)), edges, 7.0)).all()


def test_every_piece_of_an_outline_is_closed():
    edges = (np.linspace(0, 1, 11), np.linspace(0, 2, 11))

    line = density.outline(np.ones((10, 10)), edges, 0.5)

    assert np.isnan(line[-1]).all()
    np.testing.assert_allclose(line[0], line[-2])
    assert np.ptp(line[:-1], axis=0) == pytest.approx([1, 2], abs=0.2)


@pytest.mark.parametrize("rows", [600, 20_000])
def test_contours_of_data_leave_a_gap_empty_and_enclose_what_they_say(rows):
    """Two masses that pile up at the smallest one there is, 5.7, and fade out above."""
    every = 5.7 + np.random.default_rng(0).exponential(2.0, (rows + 20_000, 2))
    events, others = every[:rows], every[rows:]
    within = (np.linspace(3, 30, 91), np.linspace(3, 30, 91))

    lines = density.estimate(events, within).contours([0.5, 0.9])

    for fraction, line in lines.items():
        assert np.nanmin(line) > 5.68
        largest = max(np.split(line, np.flatnonzero(np.isnan(line[:, 0]))), key=len)
        outline = Path(largest[np.isfinite(largest[:, 0])])
        assert outline.contains_points(others).mean() == pytest.approx(fraction, abs=0.06)


def test_an_estimate_of_a_constant_is_where_it_is():
    events = np.stack([np.full(50, 3.0), np.linspace(0, 1, 50)], axis=1)

    plane = density.estimate(events, (np.linspace(2, 4, 91), np.linspace(-1, 2, 91)))

    assert plane.held_XY.sum() == pytest.approx(50)


def test_an_estimate_of_events_that_are_all_elsewhere_has_no_contours():
    plane = density.estimate(np.full((50, 2), 9.0), (np.linspace(0, 1, 91), np.linspace(0, 1, 91)))

    assert plane.contours([0.5]) == {}


def test_a_marginal_counts_what_lies_outside_in_the_whole():
    events = np.concatenate([np.linspace(0.01, 0.99, 60), np.full(40, 9.0)])
    edges = np.linspace(0, 1, 4)

    held = (density.marginal(events, edges) * np.diff(edges)).sum()

    assert held == pytest.approx(0.6)


@pytest.mark.parametrize(("rows", "levels"), [(39, []), (40, [0.5]), (201, [0.5, 0.9])])
def test_a_contour_is_only_drawn_where_rows_lie_outside_it(rows, levels):
    assert density.sure(rows) == levels


def test_bins_hold_nearly_all_events_of_both_and_none_below_zero():
    rng = np.random.default_rng(0)
    data, drawn = rng.exponential(1.0, 5000), rng.exponential(1.2, 5000)

    edges = density.edges(data, drawn)

    assert edges[0] == 0.0
    assert np.mean(data < edges[-1]) > 0.998
    assert np.mean(drawn < edges[-1]) > 0.99


def test_no_bin_is_beyond_the_bounds_of_the_column():
    rng = np.random.default_rng(0)
    data, drawn = 2 * rng.beta(0.5, 0.5, (2, 5000)) - 1

    edges = density.edges(data, drawn, None, (-1.0, 1.0))

    assert (edges[0], edges[-1]) == (-1, 1)


def test_the_bins_of_weighted_events_hold_what_those_of_repeated_ones_do():
    rng = np.random.default_rng(2)
    events, times = rng.normal(size=(500, 2)), rng.integers(1, 5, 500)
    weights = times / times.mean()
    often = np.repeat(events, times, axis=0)
    edges = density.edges(events[:, 0], events[:, 1], weights)
    axes = (np.linspace(-3, 3, 91), np.linspace(-3, 3, 91))

    np.testing.assert_allclose(
        density.counts(events, axes, weights) * times.mean(), density.counts(often, axes)
    )
    np.testing.assert_allclose(
        density.marginal(events[:, 0], edges, weights), density.marginal(often[:, 0], edges)
    )
    np.testing.assert_allclose(
        density.edges(often[:, 0], events[:, 1], np.ones(len(often))), edges, rtol=1e-12
    )


def test_smoothing_of_weighted_events_goes_by_effective_rows():
    rng = np.random.default_rng(3)
    events, axes = rng.normal(size=(4000, 2)), (np.linspace(-3, 3, 901),) * 2
    weights = rng.lognormal(0, 1.5, 4000)
    rows = round(weights.sum() ** 2 / (weights**2).sum())

    found = density.spreads(events, axes, weights)

    assert rows < 800
    assert found == pytest.approx(density.spreads(events[:rows], axes), rel=0.15)
    assert found > density.spreads(events, axes)
