"""Other people's flows, in the coordinates that ours has.

zuko's and nflows' flows are over standardised log M0 and log(M1/M0), under standardised log
conditions, with the Jacobian, so that their NLL is in the data's own units. The flow of the thesis
has raw masses and conditions, as the thesis has it.

Tensor names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import thesis
import torch
import zuko
from nflows.distributions.normal import StandardNormal
from nflows.flows.base import Flow
from nflows.transforms.autoregressive import (
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform as SplineLayer,
)
from nflows.transforms.base import CompositeTransform
from nflows.transforms.permutations import ReversePermutation
from torch import Tensor, nn

NSF, SPLINE, MAF, THESIS = "zuko NSF", "nflows spline MAF", "zuko MAF", "thesis"
TUNED = (NSF, SPLINE, MAF)
BOUND = 5.0
"""Splines reach to this many units of what they see, as zuko's always do: of standard deviations,
unless a shape says otherwise."""
EVALUATION_ROWS = 8192
"""Rows that go through a flow together; all of a split at once is slower."""

Rows = tuple[Tensor, Tensor]
"""Events, `(N, F)`, and conditions, `(N, C)`."""


class Rival(nn.Module):
    """Somebody's flow, in physical units."""

    def prepared(self, rows: Rows) -> Rows:
        """The rows as the flow sees them: done once, before it is trained."""
        return rows

    def inner(self, y_NF: Tensor, given_NC: Tensor) -> Tensor:
        """Log density of prepared events, `(N,)`."""
        raise NotImplementedError

    def jacobian(self, x_NF: Tensor) -> Tensor:
        """What makes it the log density of the events themselves, `(N,)`."""
        return x_NF.new_zeros(len(x_NF))

    def log_prob(self, x_NF: Tensor, c_NC: Tensor) -> Tensor:
        """Log density of events, `(N,)`."""
        return self.inner(*self.prepared((x_NF, c_NC))) + self.jacobian(x_NF)

    def sample(self, c_NC: Tensor) -> Tensor:
        """Draw one event under each condition, `(N, F)`."""
        raise NotImplementedError

    def settle(self, rows: Rows) -> None:
        """Have what is computed from training rows beside the weights computed anew."""


class Standardised(Rival):
    """A flow of zuko or nflows over the coordinates of ours."""

    def __init__(self, flow: nn.Module, rows: Rows, bound: float) -> None:
        super().__init__()
        self.flow = flow
        units = {"x": (_log_ratio(rows[0]), bound / BOUND), "c": (rows[1].log(), 1.0)}
        for name, (values, unit) in units.items():
            self.register_buffer(f"{name}_mean", values.mean(0))
            self.register_buffer(f"{name}_std", values.std(0) * unit)

    def prepared(self, rows: Rows) -> Rows:
        y_NF = (_log_ratio(rows[0]) - self.x_mean) / self.x_std
        return y_NF, (rows[1].log() - self.c_mean) / self.c_std

    def inner(self, y_NF: Tensor, given_NC: Tensor) -> Tensor:
        if isinstance(self.flow, zuko.lazy.Flow):
            return cast("Tensor", self.flow(given_NC).log_prob(y_NF))
        return cast("Tensor", self.flow.log_prob(y_NF, given_NC))

    def jacobian(self, x_NF: Tensor) -> Tensor:
        return -x_NF.log().sum(1) - self.x_std.log().sum()

    def sample(self, c_NC: Tensor) -> Tensor:
        given_NC = (c_NC.log() - self.c_mean) / self.c_std
        if isinstance(self.flow, zuko.lazy.Flow):
            y_NF = self.flow(given_NC).sample()
        else:
            y_NF = self.flow.sample(1, given_NC)[:, 0]
        log_0, log_ratio = (y_NF * self.x_std + self.x_mean).T
        return torch.stack([log_0, log_0 + log_ratio], 1).exp()


class Thesis(Rival):
    """The design of the thesis, over raw masses and conditions."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.flow = thesis.ThesisFlow(rows[0].shape[1], rows[1].shape[1])

    def inner(self, y_NF: Tensor, given_NC: Tensor) -> Tensor:
        return self.flow.log_prob(y_NF, given_NC)

    def sample(self, c_NC: Tensor) -> Tensor:
        return self.flow.sample(c_NC)

    def settle(self, rows: Rows) -> None:
        self.flow.settle(*rows)


def build(name: str, shape: Mapping[str, Any], rows: Rows) -> Rival:
    """The rival of this name; constants of the standardisation from these rows.

    Args:
        shape: `layers` autoregressive layers with `depth` hidden layers of `hidden` units in each
            network, `bins` of each spline, and how many standard deviations these reach to
            (`bound`). The thesis's has none.
    """
    if name == THESIS:
        return Thesis(rows)
    features, conditions = rows[0].shape[1], rows[1].shape[1]
    shape = dict(shape)
    bound = shape.pop("bound", BOUND)
    if name == SPLINE:
        return Standardised(_spline_maf(features, conditions, **shape), rows, bound)
    options: dict[str, Any] = {
        "transforms": shape["layers"],
        "hidden_features": [shape["hidden"]] * shape["depth"],
    }
    if name == NSF:
        flow = zuko.flows.NSF(features, conditions, bins=shape["bins"], **options)
    else:
        flow = zuko.flows.MAF(features, conditions, **options)
    return Standardised(flow, rows, bound)


@torch.no_grad()
def log_prob(flow: Rival, rows: Rows, part: int = EVALUATION_ROWS) -> Tensor:
    """Log density of every row in evaluation mode, `part` rows at a time."""
    flow.eval()
    parts = zip(rows[0].split(part), rows[1].split(part), strict=True)
    return torch.cat([flow.log_prob(*rows) for rows in parts])


@torch.no_grad()
def sample(flow: Rival, c_NC: Tensor, part: int = EVALUATION_ROWS) -> Tensor:
    """Draw an event under each condition in evaluation mode, `part` at a time."""
    flow.eval()
    return torch.cat([flow.sample(some_NC) for some_NC in c_NC.split(part)])


def _spline_maf(
    features: int, conditions: int, *, layers: int, hidden: int, depth: int, bins: int
) -> Flow:
    transforms: list[nn.Module] = []
    for _ in range(layers):
        layer = SplineLayer(
            features,
            hidden,
            context_features=conditions,
            num_blocks=depth,
            num_bins=bins,
            tails="linear",
            tail_bound=BOUND,
        )
        transforms += [ReversePermutation(features), layer]
    return Flow(CompositeTransform(transforms), StandardNormal([features]))


def _log_ratio(x_N2: Tensor) -> Tensor:
    """log M0 and log(M1/M0)."""
    return torch.stack([x_N2[:, 0].log(), (x_N2[:, 1] / x_N2[:, 0]).log()], 1)
