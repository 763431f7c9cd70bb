"""Several flows as one density: their mean, which scores better than most of them alone.

`p(x | c) = 1/K sum_k p_k(x | c)`: an ensemble (Lakshminarayanan et al. 2017,
https://arxiv.org/abs/1612.01474). Where its members differ, the data did not decide.

Axes:
    N rows    F event columns    C conditions    U distinct conditions    K members
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.errors import InputError
from models.bundle import domain
from models.flow import atoms
from models.flow.atoms import MixedFlow, OneFlow
from models.flow.conditions import by_choice
from models.flow.coordinates import Standardise
from models.flow.density import ConditionalFlow, or_nan
from models.layout import MEMBERS, members_of


class EnsembleError(InputError):
    """Flows that make no ensemble. The message is one sentence."""


class Ensemble(nn.Module):
    """Flows of the same columns with equal weights; offers what one flow does."""

    def __init__(self, members: Sequence[OneFlow]) -> None:
        """Raises EnsembleError if there is none, or if they are of different columns."""
        super().__init__()
        if not members:
            raise EnsembleError("an ensemble has at least one flow, got none")
        for other in members[1:]:
            for what in ("event_columns", "condition_columns"):
                ours, theirs = ([c.title for c in getattr(x, what)] for x in (members[0], other))
                if ours != theirs:
                    raise EnsembleError(
                        f"the members of an ensemble have one set of {what.replace('_', ' ')}, got "
                        f"{', '.join(ours) or 'none'} and {', '.join(theirs) or 'none'}"
                    )
        self.members = nn.ModuleList(members)
        self.event_columns = members[0].event_columns
        self.condition_columns = members[0].condition_columns
        self.domain = domain.common([member.domain for member in members])
        """Range of each condition that every member has seen."""
        self.noise_columns = members[0].noise_columns + 1
        """Numbers that an event is made of: one more than a flow needs chooses the member."""

    @property
    def flows(self) -> list[OneFlow]:
        """The members."""
        return [member for member in self.members if isinstance(member, OneFlow)]

    @property
    def conditions(self) -> Standardise:
        """Of the first member, for their dtype and device."""
        return self.flows[0].conditions

    def forward(self, x_NF: Tensor, c_NC: Tensor) -> Tensor:
        """An alias of `log_prob`."""
        return self.log_prob(x_NF, c_NC)

    def log_prob(self, x_NF: Tensor, c_NC: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Natural-log density of each event, as that of `ConditionalFlow`, shape `(N,)`."""
        each_KN = torch.stack([one.log_prob(x_NF, c_NC, counts) for one in self.flows])
        # By hand: torch.logsumexp has NaN gradients where every member says -inf.
        top_N = each_KN.detach().amax(0)
        top_N = torch.where(top_N.isfinite(), top_N, torch.zeros_like(top_N))
        mean_N = (each_KN - top_N).exp().mean(0)
        inside_N = mean_N > 0
        log_N = torch.where(inside_N, mean_N, torch.ones_like(mean_N)).log() + top_N
        return or_nan(self, torch.where(inside_N, log_N, -torch.inf), c_NC, counts)

    def from_noise(
        self, noise_NF: Tensor, c_NC: Tensor, counts: Sequence[int] | None = None
    ) -> Tensor:
        """The events, shape `(N, F)`, made of standard normal noise `(N, F + 1)`.

        Its last column chooses the member, in equal parts.
        """
        noise_NF, member_N = noise_NF[:, :-1], self._member(noise_NF[:, -1])
        out_NF = torch.zeros_like(noise_NF[:, : len(self.event_columns)])
        parts = [member.from_noise for member in self.flows]
        out_NF = by_choice(out_NF, member_N, parts, noise_NF, c_NC, counts)
        return or_nan(self, out_NF, c_NC, counts)

    def describe(self) -> dict[str, Any]:
        """All but the numbers of the state dict, JSON-ready; `from_description` reads it."""
        return {MEMBERS: [member.describe() for member in self.flows]}

    def _member(self, noise_N: Tensor) -> Tensor:
        count = len(self.members)
        edges = [NormalDist().inv_cdf(k / count) for k in range(1, count)]
        if not edges:
            return torch.zeros_like(noise_N, dtype=torch.long)
        return (noise_N[:, None] > torch.tensor(edges).to(noise_N)).sum(1)


Density = ConditionalFlow | MixedFlow | Ensemble
"""The density inside an emulator."""


def from_description(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> Density:
    """The density of `describe()` and its state dict, in evaluation mode.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: If the two do not belong together.
    """
    if MEMBERS not in description:
        return atoms.from_description(description, state)
    each = members_of(description, state)
    return Ensemble([atoms.from_description(*one) for one in each]).eval()
