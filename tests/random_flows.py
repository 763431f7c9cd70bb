"""Flows of random weights, in torch and in plain arrays, for the tests that need no fitted one."""

import numpy as np
import torch

from data_prep.columns import Column
from models.arrays.flow import ArrayFlow
from models.config import FlowConfig
from models.flow.coordinates import Constants, Moments
from models.flow.density import ConditionalFlow

EVENTS = (
    Column("Mass_0", "Msun", True),
    Column("Mass_1", "Msun", True),
    Column("chi_eff", "", False),
)
CONDITIONS = (Column("Z", "", True), Column("alpha", "", True))
DOMAIN = {"Z": (1e-4, 1e-2), "alpha": (0.5, 5.0)}
MEANS, SPREADS = np.array([2.0, -0.2, 0.1]), np.array([0.5, 0.3, 0.2])


def a_flow(features=2, conditions=2, options=None, *, seed=0, noise=0.1):
    """With weights far enough from the first ones that nothing is near the identity."""
    constants = Constants(
        Moments(100, MEANS[:features], 100 * SPREADS[:features] ** 2),
        Moments(100, np.array([-7.0, 0.3])[:conditions], np.full(conditions, 100.0)),
    )
    config = FlowConfig(**{"hidden": 24, **(options or {})})
    torch.manual_seed(seed)
    flow = ConditionalFlow(
        config, EVENTS[:features], CONDITIONS[:conditions], constants, DOMAIN
    ).eval()
    for name, value in flow.state_dict().items():
        if name.startswith("net") and value.is_floating_point():
            value += noise * torch.randn_like(value)
    return flow.requires_grad_(False)


def in_arrays(flow, **options):
    state = {name: value.numpy() for name, value in flow.state_dict().items()}
    return ArrayFlow.from_description(flow.describe(), state, **options)
