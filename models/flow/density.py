"""The flow: p(events | conditions) = N(f(events; conditions)) |det df/d events|.

f is a stack of autoregressive layers between standardised coordinates and normal noise; events
are in physical units. With `models/flow/layers.py` the only module that imports nflows; everything
else sees an `nn.Module` with `log_prob` and `sample`.

Tensor names end in their axes:
    N rows    F features (event columns)    C conditions

Papamakarios, Pavlakou & Murray (2017), https://arxiv.org/abs/1705.07057
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import ActNorm, CompositeTransform, ReversePermutation
from torch import Tensor, nn

from data_prep.columns import Column
from data_prep.dataset import Dataset
from models import bounds
from models.config import FlowConfig
from models.flow.conditions import Conditions
from models.flow.coordinates import Constants, Moments, Standardise
from models.flow.layers import LAYERS
from models.flow.mixture.distribution import BoxMixture
from models.flow.network import drawing
from models.layout import Layout, inputs_of

SMALLEST_SPREAD = 1e-6
"""Least standard deviation of a feature, of a first batch, that is scaled to 1."""
FEWEST_ROWS = 16
"""Of a first batch, that tell a spread."""


class ConditionalFlow(nn.Module):
    """A density over F event columns, given C conditions, all in physical units."""

    def __init__(
        self,
        config: FlowConfig,
        event_columns: Sequence[Column],
        condition_columns: Sequence[Column],
        constants: Constants,
        domain: Mapping[str, tuple[float, float]],
        regions: Sequence[Sequence[tuple[float, float]]] = (),
    ) -> None:
        """Args: shape, columns, mean and spread of the training split, range of each condition, and
        their ranges in each region where they are scattered.
        """
        super().__init__()
        self.config = config
        self.event_columns = tuple(event_columns)
        self.condition_columns = tuple(condition_columns)
        self.domain = {column.name: domain[column.name] for column in condition_columns}
        self.regions = tuple(map(tuple, regions))
        self.events = Standardise(event_columns, constants.events, config.coordinates)
        self.conditions = Standardise(condition_columns, constants.conditions)
        self.net = Flow(CompositeTransform(self._layers()), self._base(constants))

    @property
    def noise_columns(self) -> int:
        """Numbers that an event is made of: one more than columns chooses a mixture's component."""
        return len(self.event_columns) + (self.config.base == "mixture")

    def _base(self, constants: Constants) -> BoxMixture | StandardNormal:
        features, inputs = len(self.event_columns), len(inputs_of(self.condition_columns))
        if self.config.base == "normal":
            return StandardNormal([features])
        start_NF = torch.from_numpy(np.unique(constants.rows_NF, axis=0)).float()
        if len(start_NF):
            start_NF = (start_NF - self.events.mean_K) / self.events.spread_K
        if self.config.blocks and self.config.blocks % 2 == 0:
            start_NF = start_NF.flip(1)  # as the layers leave the features
        return BoxMixture(self.config, features, inputs, start_NF)

    def _layers(self) -> list[nn.Module]:
        layers: list[nn.Module] = []
        features, inputs = len(self.event_columns), len(inputs_of(self.condition_columns))
        for block in range(self.config.blocks):
            if block:
                layers.append(Reversal(features))
            if self.config.normalise:
                layers.append(Normalisation(features))
            kind = LAYERS[self.config.kind]
            layers.append(kind(self.config, features, inputs))
        return layers

    def forward(self, x_NF: Tensor, c_NC: Tensor) -> Tensor:
        """`log_prob`."""
        return self.log_prob(x_NF, c_NC)

    def log_prob(self, x_NF: Tensor, c_NC: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Natural-log density of each event, shape `(N,)`, per unit of each event column.

        -inf outside the support. NaN, unless `counts` are given, where conditions cannot be at all,
        such as a metallicity of 0; for others neither values nor gradients are NaN.

        Args:
            x_NF: Events.
            c_NC: Their conditions.
            counts: If given, `c_NC` holds one row for each of U runs of events with the same
                conditions, and `counts` their lengths, which may all be 1. The numbers are equal
                and come faster. In training mode they can then be differentiated only once and only
                by the weights; in evaluation mode they come faster only without gradients.
        """
        y_NF, log_det_N, inside_N = self.events(x_NF)
        log_prob_N = self.log_prob_standardised(y_NF, self._conditions(c_NC, counts)) + log_det_N
        return or_nan(self, torch.where(inside_N, log_prob_N, -torch.inf), c_NC, counts)

    def log_prob_standardised(self, y_NF: Tensor, conditions: Conditions) -> Tensor:
        """Natural-log density of standardised events, `(N,)`, per unit of each."""
        noise_NF, log_det_N = self.net._transform(y_NF, conditions)
        base = self.net._distribution
        given = (conditions,) if isinstance(base, BoxMixture) else ()
        log_prob_N: Tensor = base.log_prob(noise_NF, *given) + log_det_N
        return log_prob_N

    def from_noise(
        self, noise_NF: Tensor, c_NC: Tensor, counts: Sequence[int] | None = None
    ) -> Tensor:
        """The events, shape `(N, F)`, made of standard normal noise, `(N, noise_columns)`."""
        conditions, base = self._conditions(c_NC, counts), self.net._distribution
        if isinstance(base, BoxMixture):
            noise_NF = base.from_noise(noise_NF, conditions)
        y_NF, _ = self.net._transform.inverse(noise_NF, conditions)
        return or_nan(self, self.events.inverse(y_NF), c_NC, counts)

    @torch.no_grad()
    def sample(self, c_NC: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One event for each row of conditions, shape `(N, F)`, in physical units."""
        device = c_NC.device if generator is None else generator.device
        noise_NF = torch.randn(len(c_NC), self.noise_columns, generator=generator, device=device)
        return self.from_noise(noise_NF.to(c_NC), c_NC)

    def describe(self) -> dict[str, Any]:
        """All but the numbers of the state dict, JSON-ready; `from_description` reads it."""
        return describe(self)

    def _conditions(self, c_NC: Tensor, counts: Sequence[int] | None) -> Conditions:
        # Not through nflows' Flow.log_prob: it wants a context with a row for every event.
        c_CU = self.conditions(c_NC)[0].t()
        differentiated = torch.is_grad_enabled() and not self.training
        fused = counts is not None and not differentiated
        if counts is not None and len(counts) == sum(counts):
            counts = None
        return Conditions(c_CU, counts, fused)


def or_nan(flow: Any, out: Tensor, c_NC: Tensor, counts: Sequence[int] | None) -> Tensor:
    """`out` of a flow's rows, but NaN where conditions cannot be; `counts` tell of checked ones."""
    if counts is not None:
        return out
    c = c_NC if out.ndim == 1 else c_NC[:, None]
    known: Tensor = bounds.or_nan(torch, out, flow.condition_columns, c)
    return known


class Reversal(ReversePermutation):  # type: ignore[misc]
    """The features in reverse order; rows stay views of arrays with the columns first."""

    def forward(self, inputs: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return inputs.t().flip(0).t(), inputs.new_zeros(inputs.shape[:1])

    inverse = forward


class Normalisation(ActNorm):  # type: ignore[misc]
    """nflows' layer, set in place since views share its memory; a constant feature only moves.

    It looks whether it is set while it trains, for which a GPU would be waited for in every step.
    """

    known = False
    """Whether it is known here that it is set."""

    def train(self, mode: bool = True) -> Self:
        """Takes its scales from rows until it is set."""
        super().train(mode and not self.known)
        return self

    @torch.no_grad()
    def _initialize(self, inputs: Tensor) -> None:
        if len(inputs) >= FEWEST_ROWS:
            spread_F, mean_F = torch.std_mean(inputs, 0, correction=0)
            spread_F = torch.where(spread_F > SMALLEST_SPREAD, spread_F, 1.0)
            self.log_scale.copy_(-spread_F.log())
            self.shift.copy_(-mean_F / spread_F)
        self.initialized.fill_(True)


def normalise(flow: nn.Module, x_NF: Tensor, c_NC: Tensor) -> None:
    """Let the layers between take their scales from these rows; one that meets none keeps 1."""
    with torch.no_grad():
        flow.train()(x_NF, c_NC)
    for layer in flow.modules():
        if isinstance(layer, Normalisation):
            layer.initialized.fill_(True)
            layer.known = True


def build_flow(
    config: FlowConfig, dataset: Dataset, constants: Constants, *, seed: int = 0
) -> ConditionalFlow:
    """A flow for this dataset with fresh weights; torch's global generator stays as it was."""
    with drawing(seed):
        return ConditionalFlow(
            config,
            dataset.event_columns,
            dataset.condition_columns,
            constants,
            dataset.ranges,
            [cell.box for cell in dataset.cells if cell.box],
        )


def describe(flow: Any) -> dict[str, Any]:
    """Shape and columns of a flow, JSON-ready."""
    boxes = [list(map(list, box)) for box in flow.regions]
    return {
        "config": asdict(flow.config),
        "event_columns": [column.as_stored() for column in flow.event_columns],
        "condition_columns": [column.as_stored() for column in flow.condition_columns],
        "domain": {name: list(limits) for name, limits in flow.domain.items()},
        **({"regions": boxes} if boxes else {}),  # nothing new for who does not know of it
    }


def unset(events: Sequence[Column], conditions: Sequence[Column]) -> Constants:
    """Moments that are about to be replaced by stored ones."""
    of_events, of_conditions = (
        Moments(1, np.zeros(size), np.zeros(size))
        for size in (len(events), len(inputs_of(conditions)))
    )
    return Constants(of_events, of_conditions)


def from_description(
    description: Mapping[str, Any], state: Mapping[str, Tensor]
) -> ConditionalFlow:
    """The flow of `ConditionalFlow.describe()` and its state dict, in evaluation mode.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: If the two do not belong together.
    """
    layout = Layout.of(description)
    layout.check(state)
    columns = layout.event_columns, layout.condition_columns
    with drawing():
        flow = ConditionalFlow(
            layout.config, *columns, unset(*columns), layout.domain, layout.regions
        )
    flow.load_state_dict(dict(state))
    return flow.eval()
