"""Standardising: its constants, its inverse, its Jacobian, its edges."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.columns import Column
from models.preprocess import Moments, Standardise

COLUMNS = (Column("Mass_0", "Msun", True), Column("chi", "", False))

tables = arrays(np.float64, (24, 3), elements=st.floats(-1e6, 1e6))


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
