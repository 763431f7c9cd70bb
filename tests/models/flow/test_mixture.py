"""A mixture of boxes as a base: its integral in many columns, where it starts, many as one."""

import copy
import math

import numpy as np
import pytest
import torch

from data_prep.columns import Column
from models import boxes
from models.flow.coordinates import Constants, Moments
from models.flow.mixture.distribution import WIDTHS
from tests.pairwise import every_pair
from tests.random_flows import BASE, GRID, MIXTURES, every_mixture, flow, noise_of

C = torch.tensor([[0.7, 1.3]], dtype=torch.float64)


def columns(features):
    return [Column(f"x{n}", "", False) for n in range(features)]


def soften(made):
    """Wide boxes with blurred edges, near each other: one hill."""
    raw_PK = made.net._distribution.network.bias[-1].view(-1, BASE["components"])
    own = slice(1, 1 + boxes.EACH * len(made.event_columns))
    for k, factor, shift in (
        (0, 0.3, 0.0),
        (1, 0.1, 1.0),
        (2, 0.1, -1.0),
        (3, 0.2, 0),
        (4, 0.2, 0),
    ):
        each_FK = raw_PK[own][k :: boxes.EACH]
        each_FK.copy_(factor * each_FK + shift)
    raw_PK[own.stop :] *= 0.5
    return made


@every_pair(
    layers={"mixture": MIXTURES["mixture"], "affine": MIXTURES["mixture-affine-masked"]},
    features=[1, 3, 5, 10],
)
def test_draws_and_density_agree_in_any_number_of_columns(layers, features):
    """The mean over draws of g / p is the integral of g, which is 1, if p is their density."""
    with torch.no_grad():
        made, rows = soften(flow(columns(features), shake=0.05, **layers)), 40_000
        x_NF = made.from_noise(noise_of(made, rows), C, [rows])
        log_p_N = made.log_prob(x_NF, C, [rows])
    middle_F, covariance_FF = x_NF.mean(0), 0.4 * torch.cov(x_NF.t()).reshape(features, features)
    normal = torch.distributions.MultivariateNormal(middle_F, covariance_FF)

    weights_N = (normal.log_prob(x_NF) - log_p_N).exp()

    error = float(weights_N.std()) / math.sqrt(rows)
    assert error < 0.03
    assert float(weights_N.mean()) == pytest.approx(1, abs=4 * error)


@every_pair(conditions=[0, 2], blocks=[0, 1, 2], rows=[3, 5_000])
def test_components_start_at_training_rows(conditions, blocks, rows):
    """In whatever order the layers leave the columns; at distinct ones if there are enough."""
    rng = np.random.default_rng(0)
    rows_NF = rng.normal([2.0, -1.0, 5.0], 0.1, (rows, 3))
    moments = (Moments.of(rows_NF), Moments(1, np.zeros(conditions), np.ones(conditions)))
    constants = Constants(*moments, np.concatenate([rows_NF, rows_NF[:100]]))
    options = {**BASE, "blocks": blocks, "components": 40, "hidden": 8}
    made = flow(columns(3), GRID[:conditions], constants=constants, shake=0, **options)

    raw_PK = made.net._distribution.network.bias[-1].detach().view(-1, 40)

    middle_KF = raw_PK[1 : 1 + 3 * boxes.EACH : boxes.EACH].t()
    order = [2, 1, 0] if blocks == 2 else [0, 1, 2]
    standard_NF = ((rows_NF - rows_NF.mean(0)) / rows_NF.std(0))[:, order]
    distances_K = torch.cdist(middle_KF, torch.from_numpy(standard_NF)).min(1).values
    assert distances_K.max() < 1e-5
    assert len(middle_KF.unique(dim=0)) == min(rows, 40)
    width_FK = raw_PK[2 : 2 + 3 * boxes.EACH : boxes.EACH].exp()
    assert width_FK.min() >= max(WIDTHS[0], BASE["smallest_width"]) - 1e-6
    assert width_FK.max() <= WIDTHS[1] + 1e-6


@every_mixture
def test_noise_of_too_few_columns_is_refused(layers):
    made = flow(**layers)

    with pytest.raises((IndexError, ValueError, RuntimeError)):
        made.from_noise(noise_of(made, 5)[:, 1:], C, [5])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@every_mixture
def test_flows_of_one_shape_are_one_computation(layers):
    """As a GPU trains many trials at once."""
    flows = [flow(seed=seed, hidden=8, bins=4, **layers) for seed in range(3)]
    x_NF = flows[0].sample(C.expand(20, 2), torch.Generator().manual_seed(0))
    parameters, buffers = torch.func.stack_module_state(flows)
    shell = copy.deepcopy(flows[0]).to("meta")

    def loss(parameters, buffers):
        return torch.func.functional_call(
            shell, (parameters, buffers), (x_NF, C.expand(20, 2))
        ).mean()

    found, values = torch.func.vmap(torch.func.grad_and_value(loss))(parameters, buffers)

    for k, one in enumerate(flows):
        value = one(x_NF, C.expand(20, 2)).mean()
        value.backward()
        torch.testing.assert_close(values[k], value)
        for name, parameter in one.named_parameters():
            torch.testing.assert_close(found[name][k], parameter.grad)
