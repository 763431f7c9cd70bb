"""A flow applied to many events: in parts, and what that costs."""

import numpy as np
import pytest

from models.bundle import batched
from tests.random_flows import GRID, flow


def test_the_cost_counts_only_weights_in_use():
    """Two features, one condition, hidden 4, depth 2: counted by hand."""
    block_weights = (2 * 1 + 2 * 2) + (2 * 2 + 2 * 4) + (2 * 2 + 2 * 4)
    affine = {"kind": "affine", "conditioner": "masked"}
    cost = batched.cost(flow(conditions=GRID[:1], blocks=3, hidden=4, **affine))

    assert cost.flops_per_event == 3 * 2 * block_weights
    assert cost.parameters == 3 * (block_weights + 4 + 4 + 4)


@pytest.mark.parametrize("conditions", [1, 50])
def test_the_density_does_not_depend_on_the_parts(conditions, monkeypatch):
    rng, density = np.random.default_rng(0), flow()
    c_NC = rng.uniform([1e-4, 0.5], [0.02, 5], (conditions, 2))
    x_NF = rng.lognormal(3, 0.5, (50, 2))
    whole_N = batched.log_prob(density, x_NF, c_NC)
    monkeypatch.setattr(batched, "ROWS", 17)

    np.testing.assert_allclose(batched.log_prob(density, x_NF, c_NC), whole_N, atol=1e-5)
