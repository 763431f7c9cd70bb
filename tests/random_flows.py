"""Flows of random weights, in torch and in plain arrays, for the tests that need no fitted one."""

import numpy as np
import pytest
import torch

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.stream import Stream
from models.arrays.flow import ArrayFlow
from models.config import FlowConfig
from models.flow import coordinates
from models.flow.atoms import MixedFlow
from models.flow.coordinates import Constants, Moments
from models.flow.density import ConditionalFlow, build_flow
from models.layout import Layout, inputs_of
from models.patterns import left

MASSES = (Column("Mass_0", "Msun", True), Column("Mass_1", "Msun", True))
GRID = (Column("Z", "", True), Column("alpha", "", True))
DOMAIN = {"Z": (1e-4, 1e-2), "alpha": (0.5, 5.0)}
CHANNEL = Column("channel", "", categories=("CE", "RLO", "SMT"))
LAYERS = {
    "affine": {"kind": "affine"},
    "affine-masked": {"kind": "affine", "conditioner": "masked"},
    "spline": {"kind": "spline"},
    "spline-masked": {"kind": "spline", "conditioner": "masked"},
    "residual": {"kind": "spline", "residual": True, "depth": 3},
    "normalised": {"kind": "spline", "normalise": True},
}
"""Options of a flow of each kind with a normal base."""
BASE = {"base": "mixture", "components": 4, "base_hidden": 16, "smallest_width": 0.3}
MIXTURES = {
    "mixture": {**BASE, "blocks": 0},
    "mixture-affine-masked": {**BASE, "blocks": 1, "kind": "affine", "conditioner": "masked"},
    "mixture-spline": {**BASE, "blocks": 2, "normalise": True},
}
"""Those with a mixture, of boxes wide enough for a grid."""
FLOWS = {**LAYERS, **MIXTURES}

every_layer = pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
every_mixture = pytest.mark.parametrize("layers", MIXTURES.values(), ids=MIXTURES)
every_flow = pytest.mark.parametrize("layers", FLOWS.values(), ids=FLOWS)


def flow(
    events=MASSES,
    conditions=GRID,
    *,
    seed=0,
    shake=0.2,
    constants=None,
    domain=None,
    double=True,
    **options,
):
    """As bent as a trained one: `shake` moves its weights away from the identity."""
    options, inputs = (
        {"base": "normal", "blocks": 3, "hidden": 16, **options},
        len(inputs_of(conditions)),
    )
    moments = constants or Constants(
        Moments(100, np.full(len(events), 2.0), np.full(len(events), 25.0)),
        Moments(100, np.zeros(inputs), np.full(inputs, 100.0)),
    )
    domain = domain or {
        column.name: (0.0, len(column.categories) - 1.0) if column.categories else (0.5, 2.0)
        for column in conditions
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ConditionalFlow(FlowConfig(**options), events, conditions, moments, domain)
    if double:
        made.double()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            parameter.add_((shake * noise).to(parameter))
    return made.eval()


def a_flow(features=2, conditions=2, options=None, *, seed=0, noise=0.1):
    """One as it is loaded, of masses, an effective spin and the grid's conditions."""
    events = (*MASSES, Column("chi_eff", "", False))[:features]
    means, spreads = np.array([2.0, -0.2, 0.1]), np.array([0.5, 0.3, 0.2])
    constants = Constants(
        Moments(100, means[:features], 100 * spreads[:features] ** 2),
        Moments(100, np.array([-7.0, 0.3])[:conditions], np.full(conditions, 100.0)),
    )
    made = flow(
        events,
        GRID[:conditions],
        seed=seed,
        shake=noise,
        constants=constants,
        domain=DOMAIN,
        double=False,  # not cast back: that would round nflows' constants
        **{"blocks": 2, "hidden": 24, **(options or {})},
    )
    return made.requires_grad_(False)


def fresh(folder, *, seed=0, **options):
    """An untrained one of a dataset: about two log-normals with the moments of the whole split."""
    dataset = Dataset.read(folder)
    batches = Stream(folder, "train", batch_size=1000, shuffle=False).epoch(0)
    config = FlowConfig(**{"blocks": 2, "hidden": 16, **options})
    return build_flow(config, dataset, coordinates.constants(dataset, batches), seed=seed).eval()


SPIN = Column("chi_eff", "", False, atoms=(0.0,))
RATIO = Column("q", "", True, atoms=(1.0, 0.3))
PATTERNS = ((None, None, None), (0.0, None, None), (0.0, None, 1.0), (None, None, 0.3))
"""Of the columns of `a_mixed_flow`, not all that could be."""


def a_mixed_flow(
    events=(SPIN, MASSES[0], RATIO), patterns=PATTERNS, *, conditions=GRID, seed=0, **options
):
    """As a trained one, of columns with atoms."""
    layout = Layout(
        config=FlowConfig(**{"base": "normal", "blocks": 2, "hidden": 16, **options}),
        event_columns=events,
        condition_columns=conditions,
        domain={column.name: DOMAIN[column.name] for column in conditions},
        patterns=patterns,
    )
    rng = np.random.default_rng(seed)
    of_conditions = Moments(
        100, np.array([-7.0, 0.3])[: len(conditions)], np.full(len(conditions), 100.0)
    )
    each = [
        Constants(Moments(100, rng.normal(size=f), np.full(f, 20.0)), of_conditions)
        for f in (len(left(one)) for one in patterns)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = MixedFlow(layout, each)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def noise_of(flow, rows, *, seed=0, spread=1.0):
    """What events are made of, `(rows, noise_columns)`, float64."""
    rng = torch.Generator().manual_seed(seed)
    return spread * torch.randn(rows, flow.noise_columns, generator=rng, dtype=torch.float64)


def in_arrays(flow, **options):
    state = {name: value.numpy() for name, value in flow.state_dict().items()}
    return ArrayFlow.from_description(flow.describe(), state, **options)
