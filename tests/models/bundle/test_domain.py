"""The domain of scattered conditions: where rows are near, and what is said of other places."""

import math

import numpy as np
import pytest

from data_prep.columns import Column
from models.bundle import domain
from models.bundle.domain import ExtrapolationWarning, Regions
from models.bundle.files import EmulatorError

Z, ALPHA = Column("Z", "", positive=True), Column("alpha", "")
GRID = [((1e-4, 4e-4), (1.0, 1.0)), ((1e-4, 4e-4), (3.0, 3.0)), ((0.01, 0.02), (1.0, 1.0))]
"""Z in two stretches with a hole between, alpha on a grid."""


def near(regions, *points):
    return regions.near(np, np.array(points)).tolist()


def test_a_region_reaches_half_of_its_size_beyond_its_rows():
    line = Regions.of([((1.0, 3.0),)], [ALPHA])
    logged = Regions.of([((1e-4, 4e-4),)], [Z])

    assert near(line, [0.01], [3.99]) == [True, True]
    assert near(line, [-0.01], [4.01]) == [False, False]
    assert near(logged, [0.5001e-4], [7.999e-4]) == [True, True]
    assert near(logged, [0.4999e-4], [8.001e-4]) == [False, False]


def test_a_hole_between_regions_is_far_and_between_the_values_of_a_grid_is_near():
    regions = Regions.of(GRID, [Z, ALPHA])

    assert near(regions, [2e-4, 1.0], [2e-4, 2.0], [0.015, 1.0]) == [True, True, True]
    assert near(regions, [0.002, 1.0]) == [False]


def test_no_category_is_near_another():
    channel = Column("channel", "", categories=("CE", "SMT"))
    regions = Regions.of([((0.0, 0.0), (1.0, 2.0)), ((1.0, 1.0), (5.0, 6.0))], [channel, ALPHA])

    assert near(regions, [0.0, 1.5], [1.0, 1.5]) == [True, False]


def test_flows_of_two_datasets_know_what_both_have_seen():
    both = Regions.common([[((0.0, 2.0),)], [((2.0, 4.0),)]], [ALPHA])
    apart = Regions.common([[((0.0, 2.0),)], [((8.0, 9.0),)]], [ALPHA])

    assert near(both, [0.5], [2.0], [3.5]) == [False, True, False]
    assert near(apart, [1.0], [8.5]) == [False, False]
    assert Regions.common([(), ()], [ALPHA]) is None


def test_conditions_far_from_all_rows_are_told_or_refused():
    regions, given = Regions.of(GRID, [Z, ALPHA]), {"Z": 0.002, "alpha": 1.0}
    limits = {"Z": (1e-4, 0.02), "alpha": (1.0, 3.0)}

    def ask(action, **other):
        values = given | other
        return domain.conditions([Z, ALPHA], limits, values, 1, action, regions)

    with pytest.warns(ExtrapolationWarning, match=r"Z = 0.002, alpha = 1 is far from all rows"):
        ask("warn")
    with pytest.raises(EmulatorError, match="far from all rows"):
        ask("raise")
    assert ask("ignore").tolist() == [[0.002, 1.0]]
    assert ask("raise", Z=2e-4).tolist() == [[2e-4, 1.0]]
    with pytest.raises(EmulatorError, match=r"outside the range \[0.0001, 0.02\]"):
        ask("raise", Z=1.0)


def test_jax_and_numpy_agree_where_rows_are_near():
    jnp = pytest.importorskip("jax.numpy")
    regions, c_NC = Regions.of(GRID, [Z, ALPHA]), np.array([[2e-4, 2.0], [0.002, 1.0]])

    assert regions.near(jnp, jnp.asarray(c_NC)).tolist() == regions.near(np, c_NC).tolist()
    assert not math.isnan(float(regions.low_KC.sum()))
