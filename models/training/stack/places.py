"""A flow with room for each of several of one shape, and where their weights are among its own.

What only fills up changes nothing: a unit without weights stays without, as activations of 0 are 0;
a component has no weight; a bin has no size.

Tensor names end in their axes:
    T flows    W weights of the flow that has room for each    V weights of one of them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from models import boxes
from models.config import OF_EACH
from models.flow.conditioners import SeparateConditioner
from models.flow.density import ConditionalFlow, unset
from models.flow.layers import SplineAutoregressive
from models.flow.mixture.distribution import BoxMixture
from models.flow.network import Network, drawing
from models.layout import UNIT_SLOPE

ABSENT = -1e4
"""Raw log-weight of a component that only fills up."""


class Places:
    """Where the weights of each flow are."""

    def __init__(self, flows: Sequence[ConditionalFlow], names: Sequence[str]) -> None:
        """Args: flows that differ by options `OF_EACH` alone, and their parameters, in the order in
        which each flow has its weights.
        """
        self.flow = _widest(flows)
        """Has room for each of them; its buffers are theirs."""
        parameters, device = dict(self.flow.named_parameters()), flows[0].events.mean_K.device
        self.shapes = {name: parameter.shape for name, parameter in parameters.items()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        values_W = torch.cat([parameter.detach().flatten() for parameter in parameters.values()])
        self.values_TW = values_W.repeat(len(flows), 1)
        """Weights of nothing: those that only fill up keep them."""
        self.at_TV = [self._of(flow, names).to(device) for flow in flows]
        self.present_TW = torch.zeros_like(self.values_TW)
        """1 for a weight that the flow has, else 0."""
        for present_W, at_V in zip(self.present_TW, self.at_TV, strict=True):
            present_W[at_V] = 1.0

    def put(self, numbers_TW: Tensor, t: int, flats: Sequence[Tensor]) -> None:
        """Write a flow's weights, or numbers of them, to their places."""
        numbers_TW[t, self.at_TV[t]] = torch.cat([*flats])

    def take(self, numbers_TW: Tensor, t: int, flats: Sequence[Tensor]) -> None:
        """Read them from there."""
        parts = torch.split(numbers_TW[t, self.at_TV[t]], [flat.numel() for flat in flats])
        for flat, part in zip(flats, parts, strict=True):
            flat.copy_(part)

    def share(self, numbers_TW: Tensor) -> None:
        """Make the flow's parameters views of these numbers, an axis of flows in front."""
        parts = torch.split(numbers_TW, self.sizes, 1)
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            path, _, last = name.rpartition(".")
            self.flow.get_submodule(path)._parameters[last] = nn.Parameter(part.view(-1, *shape))

    def _of(self, flow: ConditionalFlow, names: Sequence[str]) -> Tensor:
        """The places of a flow's weights, `(V,)`."""
        found = {}
        wholes = torch.split(torch.arange(sum(self.sizes)), self.sizes)
        shapes = zip(wholes, self.shapes.values(), _rows(self.flow), strict=True)
        for (whole, shape, ours), (name, own), theirs in zip(
            shapes, flow.named_parameters(), _rows(flow), strict=True
        ):
            kinds = zip(torch.split(whole.view(shape), ours), theirs, strict=True)
            each = [rows[:count, : own.shape[1]].flatten() for rows, count in kinds]
            found[name] = torch.cat(each)
        return torch.cat([found[name] for name in names])


@torch.no_grad()
def _widest(flows: Sequence[ConditionalFlow]) -> ConditionalFlow:
    """A flow that has room for each of these, and no weights."""
    first, configs = flows[0], [flow.config for flow in flows]
    columns, device = (first.event_columns, first.condition_columns), first.events.mean_K.device
    each = {name: [getattr(one, name) for one in configs] for name in OF_EACH}
    config = replace(first.config, **{name: max(values) for name, values in each.items()})
    with drawing():
        whole = ConditionalFlow(config, *columns, unset(*columns), first.domain, first.regions)
    whole.load_state_dict(dict(first.named_buffers()), strict=False)
    whole.to(device)
    for parameter in whole.parameters():
        parameter.zero_()
    for module in whole.modules():
        if isinstance(module, BoxMixture):
            module.network.bias[-1][: module.components] = ABSENT
            if len(set(each["components"])) > 1:
                module.own = each["components"]
            if len(set(each["smallest_width"])) > 1:
                limits = [boxes.limits(smallest) for smallest in each["smallest_width"]]
                least_T, most_T = torch.tensor(limits, device=device).t()
                module.limits = least_T, most_T
        if isinstance(module, SplineAutoregressive) and len(set(each["bins"])) > 1:
            module.own = torch.tensor(each["bins"], device=device)
            for network in _networks(module):
                network.bias[-1][2 * config.bins :] = UNIT_SLOPE
    return whole


def _rows(flow: ConditionalFlow) -> list[list[int]]:
    """Of each parameter how many rows of each kind there are, such as widths of bins."""
    kinds: dict[int, list[int]] = {}
    for module in flow.modules():
        if isinstance(module, BoxMixture):
            each = boxes.parameters_of(module.features)
            kinds |= _of_last(module.network, [module.components] * each)
        if isinstance(module, SplineAutoregressive):
            bins = flow.config.bins
            for network in _networks(module):
                kinds |= _of_last(network, [bins, bins, bins - 1])
    return [kinds.get(id(one), [len(one)]) for one in flow.parameters()]


def _of_last(network: Network, rows: list[int]) -> dict[int, list[int]]:
    return {id(one): rows for one in (network.weight[-1], network.bias[-1])}


def _networks(layer: SplineAutoregressive) -> Sequence[Network]:
    return cast("SeparateConditioner", layer.autoregressive_net).networks
