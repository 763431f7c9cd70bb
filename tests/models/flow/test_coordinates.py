"""Standardising: its constants, its inverse, its Jacobian, its edges."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.stream import Batch
from models import config
from models.flow.coordinates import Coordinates, Moments, Standardise, constants

COLUMNS = (Column("Mass_0", "Msun", True), Column("chi", "", False))

MASS, OTHER_MASS = Column("m0", "Msun", True), Column("m1", "Msun", True)
SPINS = Column("chi_eff", "", low=-1, high=1)
SPIN, TIME = Column("chi", "", False), Column("t", "Myr", True)
TABLES = {
    "one": (MASS,),
    "two": (MASS, OTHER_MASS),
    "apart": (MASS, SPIN, OTHER_MASS),
    "bounded": (Column("q", "", low=0, high=1), MASS, SPINS, OTHER_MASS, Column("n", "", low=1)),
    "late": (SPIN, TIME, MASS, Column("q", "", True), OTHER_MASS),
}
PAIRS = {"two": (0, 1), "apart": (0, 2), "bounded": (1, 3), "late": (2, 4)}
UNPAIRED = {
    "one": TABLES["one"],
    "other-units": (MASS, TIME),
    "no-units": (Column("a", "", True), Column("b", "", True)),
    "not-positive": (MASS, Column("m1", "Msun", False)),
    "bounded": (Column("m0", "Msun", low=2, high=100), Column("m1", "Msun", low=2, high=100)),
}

every_kind = pytest.mark.parametrize("kind", get_args(config.Coordinates))

tables = arrays(np.float64, (24, 3), elements=st.floats(-1e6, 1e6))


def physical(columns, rows=6, seed=0):
    """Values in the support, in double precision."""
    values = np.random.default_rng(seed).normal(0.5, 0.7, (rows, len(columns)))
    values = np.where([column.positive for column in columns], np.exp(values), values)
    for k, (low, high) in enumerate(column.limits for column in columns):
        share = np.exp(-np.exp(values[:, k]))
        if np.isfinite(low):
            values[:, k] = low - np.log(share) if np.isinf(high) else low + (high - low) * share
    return torch.from_numpy(values)


def turned(columns, kind, seed=0):
    rng = np.random.default_rng(seed)
    moments = Moments.of(rng.normal(0.3, 0.6, (500, len(columns))))
    return Standardise(columns, moments, kind).double()


def standardise(seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(2.0, 0.5, (500, 2))
    return Standardise(COLUMNS, Moments.of(values)).double()


@given(table=tables, cut=st.integers(1, 23))
def test_moments_do_not_depend_on_where_the_stream_is_cut(table, cut):
    merged = Moments.of(table[:cut]).merge(Moments.of(table[cut:]))

    assert merged.rows == 24
    np.testing.assert_allclose(merged.mean_K, table.mean(axis=0), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(merged.m2_K / 24, table.var(axis=0), rtol=1e-9, atol=1e-3)


def test_a_constant_column_is_not_divided_by_zero():
    moments = Moments.of(np.log(np.full((1000, 1), 0.0002)))

    assert moments.spread_K == pytest.approx(1.0)


def test_the_inverse_undoes_standardising():
    scale = standardise()
    x_NK = torch.tensor([[3.0, -2.0], [40.0, 0.5]], dtype=torch.float64)

    y_NK, _, inside_N = scale(x_NK)

    assert inside_N.all()
    torch.testing.assert_close(scale.inverse(y_NK), x_NK)


def test_the_log_jacobian_is_that_of_autograd():
    scale = standardise()
    x_K = torch.tensor([7.0, -1.5], dtype=torch.float64)

    jacobian = torch.autograd.functional.jacobian(lambda x: scale(x[None])[0][0], x_K)

    torch.testing.assert_close(scale(x_K[None])[1][0], jacobian.det().abs().log())


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_row_outside_the_support_is_told_and_stays_harmless(bad):
    x_NK = torch.tensor([[bad, 0.0], [5.0, 0.0]], dtype=torch.float64, requires_grad=True)

    y_NK, log_det_N, inside_N = standardise()(x_NK)
    (y_NK.sum() + log_det_N.sum()).backward()

    assert inside_N.tolist() == [False, True]
    assert y_NK.isfinite().all()
    assert log_det_N.isfinite().all()
    assert x_NK.grad.isfinite().all()


def test_drawn_positive_values_are_positive_and_finite_whatever_comes_out_of_the_flow():
    x_NK = standardise().float().inverse(torch.tensor([[-1e9, 0.0], [1e9, 0.0]]))

    assert (x_NK[:, 0] > 0).all()
    assert x_NK.isfinite().all()


@every_kind
@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
def test_the_inverse_undoes_any_coordinates(columns, kind):
    scale, x_NK = turned(columns, kind), physical(columns)

    torch.testing.assert_close(scale.inverse(scale(x_NK)[0]), x_NK)


@every_kind
@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
def test_the_log_jacobian_of_any_coordinates_is_that_of_autograd(columns, kind):
    scale, (x_K,) = turned(columns, kind), physical(columns, rows=1)

    jacobian = torch.autograd.functional.jacobian(lambda x: scale(x[None])[0][0], x_K)

    torch.testing.assert_close(scale(x_K[None])[1][0], jacobian.det().abs().log())


@pytest.mark.parametrize("name", PAIRS)
def test_the_pair_is_turned_and_nothing_else(name):
    columns, (first, second) = TABLES[name], PAIRS[name]
    x_NK = physical(columns)
    a, b = x_NK[:, first], x_NK[:, second]
    others = [k for k in range(len(columns)) if k not in (first, second)]
    plain, ratio, total = (
        torch.from_numpy(Coordinates(columns, kind).of_array(x_NK.numpy()))
        for kind in ("log", "log_ratio", "log_total")
    )

    torch.testing.assert_close(plain[:, first], a.log())
    torch.testing.assert_close(plain[:, second], b.log())
    torch.testing.assert_close(ratio[:, first], a.log())
    torch.testing.assert_close(ratio[:, second], (b / a).log())
    torch.testing.assert_close(total[:, first], (a + b).log())
    torch.testing.assert_close(total[:, second], (b / a).log())
    for other in (ratio, total):
        assert torch.equal(other[:, others], plain[:, others])


@every_kind
@pytest.mark.parametrize("columns", UNPAIRED.values(), ids=UNPAIRED)
def test_columns_that_are_no_pair_are_left_as_they_are(columns, kind):
    values = physical(columns).numpy()

    np.testing.assert_array_equal(
        Coordinates(columns, kind).of_array(values), Coordinates(columns, "log").of_array(values)
    )


@every_kind
def test_mean_and_spread_are_those_in_the_coordinates_of_the_flow(kind):
    columns, conditions = TABLES["apart"], (Column("Z", "", True),)
    dataset = Dataset(
        event_columns=columns,
        condition_columns=conditions,
        rows={"train": 500, "val": 1, "test": 1},
        cells=(),
        ranges={},
        fingerprint="",
    )
    events = physical(columns, rows=500).numpy().astype("f4")
    Z = physical(conditions, rows=500, seed=1).numpy().astype("f4")
    batches = [Batch(events[a:b], Z[a:b]) for a, b in [(0, 3), (3, 300), (300, 500)]]

    found = constants(dataset, batches, kind)
    y_NK = Standardise(columns, found.events, kind).double()(torch.from_numpy(events).double())[0]
    z_NK = Standardise(conditions, found.conditions).double()(torch.from_numpy(Z).double())[0]

    for standard in (y_NK, z_NK):
        np.testing.assert_allclose(standard.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(standard.std(0, unbiased=False), 1, rtol=1e-5)


@every_kind
def test_a_pair_outside_the_support_is_told_and_stays_harmless(kind):
    x_NK = torch.tensor([[0.0, 1.0], [2.0, -1.0], [np.nan, 1.0], [1e-30, 1e30], [3.0, 2.0]])
    x_NK = x_NK.double().requires_grad_()

    y_NK, log_det_N, inside_N = turned(TABLES["two"], kind)(x_NK)
    (y_NK.sum() + log_det_N.sum()).backward()

    assert inside_N.tolist() == [False, False, False, True, True]
    assert y_NK.isfinite().all()
    assert log_det_N.isfinite().all()
    assert x_NK.grad.isfinite().all()


@pytest.mark.parametrize("bad", [-1.001, 1.001, 7.0, np.nan, np.inf, -np.inf])
def test_a_value_beyond_its_bounds_is_told_and_stays_harmless(bad):
    scale = turned((SPINS, MASS), "log_ratio")
    x_NK = torch.tensor([[bad, 5.0], [0.0, 5.0], [-1.0, 5.0], [1.0, 5.0]], dtype=torch.float64)
    x_NK.requires_grad_()

    y_NK, log_det_N, inside_N = scale(x_NK)
    density_N = torch.where(inside_N, log_det_N - 0.5 * (y_NK**2).sum(1), -torch.inf)
    (gradient_NK,) = torch.autograd.grad(density_N.exp().sum(), x_NK)

    assert inside_N.tolist() == [False, True, True, True]
    for each in (y_NK, log_det_N, gradient_NK):
        assert each.isfinite().all()
    assert (gradient_NK[0] == 0).all()


def test_the_bounds_of_a_condition_stay_where_they_are():
    columns = (Column("chi_b", "", low=0, high=1),)
    moments = Moments.of(np.array([[0.0], [0.5], [1.0]]))

    y_NK, _, inside_N = Standardise(columns, moments)(torch.tensor([[0.0], [0.5], [1.0]]))

    assert inside_N.all()
    torch.testing.assert_close(y_NK.diff(dim=0), torch.full((2, 1), 0.5 * 6**0.5))


@every_kind
def test_a_drawn_pair_is_positive_and_finite_whatever_comes_out_of_the_flow(kind):
    far = torch.tensor([-1e30, -1e9, -100.0, 0.0, 100.0, 1e9, 1e30])

    x_NK = turned(TABLES["two"], kind).float().inverse(torch.cartesian_prod(far, far))

    assert (x_NK > 0).all()
    assert x_NK.isfinite().all()
