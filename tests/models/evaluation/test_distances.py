"""Distances of samples whose distance is known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.stream import read_split
from models.bundle import batched
from models.evaluation.cells import CELL_ROWS
from models.evaluation.distances import (
    Bins,
    beyond_chance,
    beyond_data,
    cell_distances,
    distances,
    ks_distance,
)
from tests.random_flows import fresh

NAMES = ["mass", "delay"]


@pytest.fixture(scope="module")
def flow(prepared):
    return fresh(prepared)


def test_the_wasserstein_distance_of_a_shift_is_the_shift_in_the_unit_of_the_column():
    rng = np.random.default_rng(0)
    x = rng.lognormal(3, 0.5, (1000, 2))

    found = distances(x, x + [2.5, -2500], NAMES, Bins.of(x), rng)

    assert found.wasserstein == pytest.approx({"mass": 2.5, "delay": 2500})


def test_the_jensen_shannon_divergence_goes_from_nothing_to_ln_2():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    bins = Bins.of(x)

    assert distances(x, x + 100, NAMES, bins, rng).jensen_shannon < math.log(2)
    apart = Bins(tuple(np.array([50.0]) for _ in NAMES))
    assert distances(x, x + 100, NAMES, apart, rng).jensen_shannon == pytest.approx(math.log(2))
    assert distances(x, x, NAMES, apart, rng).jensen_shannon == 0


def test_bins_hold_every_event_and_equally_many_along_each_column():
    x = np.random.default_rng(0).lognormal(size=(1000, 3))

    counts = Bins.of(x, bins=5).counts(x)

    assert counts.shape == (25,)  # the third column has no bins
    np.testing.assert_array_equal(counts.reshape(5, 5).sum(axis=0), 200)
    np.testing.assert_array_equal(counts.reshape(5, 5).sum(axis=1), 200)
    assert Bins.of(x, bins=5).counts(1e9 * x).sum() == 1000


def test_one_event_column_has_bins_too():
    x = np.random.default_rng(0).normal(size=(100, 1))

    np.testing.assert_array_equal(Bins.of(x, bins=4).counts(x), 25)


@pytest.mark.parametrize("draws", [300, 4000])
def test_like_events_are_as_far_apart_as_the_floor(draws):
    rng = np.random.default_rng(0)
    bins = Bins.of(rng.normal(size=(10_000, 2)))
    found = [
        distances(rng.normal(size=(400, 2)), rng.normal(size=(draws, 2)), NAMES, bins, rng)
        for _ in range(25)
    ]

    far = np.mean([list(each.wasserstein.values()) for each in found])
    floor = np.mean([list(each.wasserstein_floor.values()) for each in found])
    assert far / floor == pytest.approx(1, abs=0.2)
    divergence = np.mean([each.jensen_shannon for each in found])
    assert divergence / np.mean([e.jensen_shannon_floor for e in found]) == pytest.approx(
        1, abs=0.1
    )


def test_events_of_another_correlation_are_above_the_floor_in_the_plane_alone():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    tied = np.stack([x[:, 0], 0.8 * x[:, 0] + 0.6 * rng.normal(size=1000)], axis=1)

    found = distances(x, tied, NAMES, Bins.of(x), rng)

    assert found.jensen_shannon > 2 * found.jensen_shannon_floor
    assert found.wasserstein["delay"] < 3 * found.wasserstein_floor["delay"]


def test_draws_that_are_not_finite_are_left_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 2))
    some = np.concatenate([x, [[np.nan, 0], [0, np.inf]]])

    assert distances(x, some, NAMES, Bins.of(x), rng).wasserstein == {"mass": 0, "delay": 0}
    none = distances(x, np.full((5, 2), np.nan), NAMES, Bins.of(x), rng)
    assert none.jensen_shannon == pytest.approx(math.log(2))


def test_the_ks_distance_of_known_samples():
    assert ks_distance(np.arange(10.0), np.arange(10.0)) == 0
    assert ks_distance(np.arange(10.0), np.arange(10.0) + 100) == 1
    assert ks_distance(np.arange(4.0), np.arange(4.0) + 1) == 0.25


def test_the_ks_distance_counts_ties_once():
    assert ks_distance(np.array([1.0, 1, 1, 2]), np.array([1.0, 2, 2, 2])) == 0.5


def test_draws_of_the_flow_itself_are_no_further_than_the_floor(flow, prepared):
    rng = np.random.default_rng(0)
    test = read_split(prepared, "test")
    own = test._replace(events=batched.draw(flow, test.conditions, rng))

    cells = cell_distances(flow, own, least=50)

    # The floor of one cell is itself a draw; over all of them it is met on average.
    ratio = np.mean([c.ks[n] for c in cells for n in c.ks]) / np.mean(
        [c.floor[n] for c in cells for n in c.floor]
    )
    assert 0.5 < ratio < 1.6


def test_a_flow_that_misses_a_cell_is_far_above_the_floor(flow, prepared):
    test = read_split(prepared, "test")
    shifted = test._replace(events=test.events * 1.5)

    cell = cell_distances(flow, shifted, least=50)[0]

    assert cell.ks["Mass_0"] > 5 * cell.floor["Mass_0"]


def test_only_cells_with_enough_rows_are_measured_the_fullest_first(flow, prepared):
    rows = [cell.rows for cell in cell_distances(flow, read_split(prepared, "test"))]

    assert rows == sorted(rows, reverse=True)
    assert min(rows) >= CELL_ROWS


def test_draws_outside_the_data_are_counted_by_column_and_compared_with_fresh_rows(flow, prepared):
    """Of the data's own distribution, as many are outside as the floor says."""
    dataset, rng = Dataset.read(prepared), np.random.default_rng(0)
    rows = sum(dataset.rows.values())
    outside, floors = [], []
    for _ in range(300):
        data = rng.lognormal(1, 0.5, (rows, 2))
        ends = {"Mass_0": (data[:, 0].min(), data[:, 0].max()), "Mass_1": (0.5, 40.0)}
        found = beyond_data(flow, rng.lognormal(1, 0.5, (rows, 2)), replace(dataset, ranges=ends))
        outside.append(found.outside_range["Mass_0"])
        floors.append(found.outside_range_floor["Mass_0"])

    assert set(floors) == {2 / (rows + 1)}
    assert np.mean(outside) == pytest.approx(floors[0], rel=0.25)


def test_what_bounds_exclude_is_not_counted_as_if_it_were_measured(prepared):
    dataset = Dataset.read(prepared)
    names = [column.name for column in dataset.event_columns]
    full = replace(dataset, ranges=dict.fromkeys(names, (0.0, 1.0)))
    short = replace(dataset, ranges=dict.fromkeys(names, (0.25, 1.0)))
    bounded = SimpleNamespace(event_columns=[Column(name, "", low=0, high=1) for name in names])
    real = SimpleNamespace(event_columns=[Column(name, "") for name in names])
    events = np.array([[0.1, 0.5], [0.2, 0.9], [np.nan, 1.0], [1.0, 2.0]])

    assert beyond_data(bounded, events, full).outside_range == {}
    found = beyond_data(bounded, events, short)
    assert found.outside_range["Mass_0"] == 0.5
    assert found.outside_range_floor["Mass_0"] == 1 / (sum(dataset.rows.values()) + 1)
    assert found.not_finite == 0.25
    assert beyond_data(real, events, full).outside_range == {"Mass_0": 0.0, "Mass_1": 0.25}
    weights = np.array([0.0, 0.0, 1.0, 3.0])
    assert beyond_data(real, events, full, weights).outside_range["Mass_1"] == 0.75


def test_chance_explains_the_cells_of_an_exact_emulator_and_not_those_of_a_wrong_one(
    flow, prepared
):
    """Of data that the flow itself drew, and of data that are a quarter larger."""
    dataset, test = Dataset.read(prepared), read_split(prepared, "test")
    named = {1.0: 0, 1.25: 0}
    for factor, times in ((1.0, 8), (1.25, 1)):
        for seed in range(times):
            drawn = batched.draw(flow, test.conditions, np.random.default_rng(seed))
            data = test._replace(events=(factor * drawn).astype(np.float32))
            found = cell_distances(flow, data, dataset, least=50, seed=seed, most=8_000)
            cells = [{"ks": one.ks, "floor": one.floor, "conditions": {}} for one in found]
            assert len(cells) > 4
            named[factor] += any(beyond_chance(cells))

    assert named[1.0] <= 2  # one in 20, which is two or less with a probability of 0.99
    assert named[1.25] == 1


def test_without_a_cell_there_is_nothing_to_explain():
    assert beyond_chance([]) == []
