"""A flow of columns with atoms: p(x | c) = P(pattern | c) p(rest | c, pattern).

A pattern says which columns of an event lie at which of their atoms; the rest are the columns that
lie at none. A small network of the conditions tells the patterns' probabilities, and every pattern
has a `ConditionalFlow` of its rest, if it has one. So p is the density of a mixed measure: per unit
of the columns at no atom, and a probability where all columns are at one. There are the patterns of
the training rows: an event of any other has the density 0.

Tensor names end in their axes:
    N rows    F event columns    C conditions    U distinct conditions    K patterns
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.columns import single
from data_prep.dataset import Dataset
from data_prep.stream import Batch
from models import patterns
from models.config import FlowConfig
from models.flow import density
from models.flow.conditions import Conditions, by_choice
from models.flow.coordinates import Constants, Moments, Standardise, constants
from models.flow.density import ConditionalFlow
from models.flow.network import Network, drawing
from models.layout import Layout, inputs_of
from models.patterns import Pattern, left, rest_of


class MixedFlow(nn.Module):
    """Flows of the patterns of some columns with atoms; offers what one flow does."""

    def __init__(self, layout: Layout, each: Sequence[Constants]) -> None:
        """Args: columns and patterns; of each pattern's training rows mean and spread."""
        super().__init__()
        self.config, self.patterns, self.domain = layout.config, layout.patterns, layout.domain
        self.event_columns, self.regions = layout.event_columns, layout.regions
        self.condition_columns = layout.condition_columns
        chosen = 1 + (self.config.base == "mixture")
        self.noise_columns = len(self.event_columns) + chosen
        """Numbers that an event is made of: one more than columns chooses the pattern, and one
        before it the component of a mixture."""
        whole = reduce(Moments.merge, (one.conditions for one in each))
        self.conditions = Standardise(self.condition_columns, whole)
        inputs = len(inputs_of(self.condition_columns))
        self.chooser = Network(self.config, inputs, len(self.patterns))
        shares_K = np.array([one.conditions.rows for one in each]) / whole.rows
        with torch.no_grad():
            self.chooser.bias[-1][:, 0] += torch.tensor(shares_K).log()
        self.parts = nn.ModuleDict(
            {
                str(k): ConditionalFlow(
                    part.config, part.event_columns, part.condition_columns, each[k], part.domain
                )
                for k, part in layout.parts().items()
            }
        )

    def forward(self, x_NF: Tensor, c_NC: Tensor) -> Tensor:
        """`log_prob`."""
        return self.log_prob(x_NF, c_NC)

    def log_prob(self, x_NF: Tensor, c_NC: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Natural logarithm of each event's density in the mixed measure, shape `(N,)`.

        Arguments, and what is -inf, as of `ConditionalFlow.log_prob`.
        """
        x = x_NF.float().unbind(1)
        choice_N = (
            sum(
                (k + 1) * patterns.is_of(pattern, self.event_columns, x).long()
                for k, pattern in enumerate(self.patterns)
            )
            - 1
        )
        out_N = torch.full_like(x_NF[:, 0], -torch.inf)
        parts = [partial(self._log_density, k) for k in range(len(self.patterns))]
        ln_N = by_choice(out_N, choice_N, parts, x_NF, c_NC, counts)
        ln_KN = self._log_probabilities(c_NC, counts)
        ln_N = ln_N + ln_KN.gather(0, choice_N.clamp(min=0)[None])[0]
        return density.or_nan(self, ln_N, c_NC, counts)

    def from_noise(
        self, noise_NF: Tensor, c_NC: Tensor, counts: Sequence[int] | None = None
    ) -> Tensor:
        """The events, shape `(N, F)`, made of noise `(N, noise_columns)`.

        Its last column chooses the pattern; columns at an atom are exactly there, as float32.
        """
        noise_NF, u_N = noise_NF[:, :-1], 0.5 * (1 + torch.erf(noise_NF[:, -1] * 0.5**0.5))
        edges_KN = self._log_probabilities(c_NC, counts).exp().cumsum(0)[:-1]
        choice_N = (u_N > edges_KN).sum(0)
        parts = [partial(self._draw, k) for k in range(len(self.patterns))]
        out_NF = torch.zeros_like(noise_NF[:, : len(self.event_columns)])
        out_NF = by_choice(out_NF, choice_N, parts, noise_NF, c_NC, counts)
        return density.or_nan(self, out_NF, c_NC, counts)

    def describe(self) -> dict[str, Any]:
        """All but the numbers of the state dict, JSON-ready; `from_description` reads it."""
        return {**density.describe(self), "patterns": [list(one) for one in self.patterns]}

    def _log_probabilities(self, c_NC: Tensor, counts: Sequence[int] | None) -> Tensor:
        """Natural logarithm of every pattern's probability for every event, `(K, N)`."""
        c_CU = self.conditions(c_NC)[0].t()
        ln_KU = torch.log_softmax(self.chooser(c_CU), 0)
        return Conditions(c_CU, counts).spread(ln_KU)

    def _part(self, k: int) -> ConditionalFlow:
        return cast("ConditionalFlow", self.parts[str(k)])

    def _log_density(
        self, k: int, x_NF: Tensor, c_NC: Tensor, counts: Sequence[int] | None
    ) -> Tensor:
        rest = left(self.patterns[k])
        if not rest:
            return torch.zeros_like(x_NF[:, 0])
        return self._part(k).log_prob(x_NF[:, rest], c_NC, counts)

    def _draw(self, k: int, noise_NF: Tensor, c_NC: Tensor, counts: Sequence[int] | None) -> Tensor:
        columns = [
            torch.full_like(noise_NF[:, 0], 0.0 if atom is None else single(atom))
            for atom in self.patterns[k]
        ]
        if rest := left(self.patterns[k]):
            own = [*rest, *range(len(self.event_columns), noise_NF.shape[1])]
            drawn_NF = self._part(k).from_noise(noise_NF[:, own], c_NC, counts)
            for f, drawn_N in zip(rest, drawn_NF.unbind(1), strict=True):
                columns[f] = drawn_N
        return torch.stack(columns, 1)


OneFlow = ConditionalFlow | MixedFlow
"""What a training fits."""


def build(
    config: FlowConfig, dataset: Dataset, batches: Iterable[Batch], *, seed: int = 0
) -> OneFlow:
    """A flow for this dataset with fresh weights, standardised by its training rows in `batches`.

    Torch's global generator stays as it was.
    """
    if not any(column.atoms for column in dataset.event_columns):
        moments = constants(dataset, batches, config.coordinates)
        return density.build_flow(config, dataset, moments, seed=seed)
    found = dict(sorted(_constants(config, dataset, batches).items(), key=_order))
    conditions = dataset.condition_columns
    layout = Layout(
        config=config,
        event_columns=dataset.event_columns,
        condition_columns=conditions,
        domain={column.name: dataset.ranges[column.name] for column in conditions},
        patterns=tuple(found),
        regions=tuple(cell.box for cell in dataset.cells if cell.box),
    )
    with drawing(seed):
        return MixedFlow(layout, [*found.values()])


def from_description(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> OneFlow:
    """The flow of `describe()` and its state dict, in evaluation mode.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: If the two do not belong together.
    """
    layout = Layout.of(description)
    if not layout.patterns:
        return density.from_description(description, state)
    layout.check(state)
    each = [
        density.unset(rest_of(one, layout.event_columns), layout.condition_columns)
        for one in layout.patterns
    ]
    with drawing():
        flow = MixedFlow(layout, each)
    flow.load_state_dict(dict(state))
    return flow.eval()


def _constants(
    config: FlowConfig, dataset: Dataset, batches: Iterable[Batch]
) -> dict[Pattern, Constants]:
    """Moments of the rows of each pattern that there is."""
    found: dict[Pattern, Constants] = {}
    columns = dataset.event_columns
    for batch in batches:
        for pattern, rows in patterns.of_events(columns, batch.events).items():
            part = replace(dataset, event_columns=rest_of(pattern, columns))
            some = batch.take(rows)
            some = some._replace(events=some.events[:, left(pattern)])
            moments = constants(part, [some], config.coordinates)
            found[pattern] = found[pattern].merge(moments) if pattern in found else moments
    return found


def _order(item: tuple[Pattern, Constants]) -> list[tuple[bool, float]]:
    """Patterns by their atoms, whatever order they were found in; those at none come last."""
    return [(atom is None, atom or 0.0) for atom in item[0]]
