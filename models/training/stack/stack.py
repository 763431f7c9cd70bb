"""Steps of several trainings at once: flows of one shape as one, each with its own settings.

The weights of T flows lie side by side (`models/flow/network.py`), and their rows one after
another. What is done to a row is that of one flow alone, and so are the optimizer's steps, whose
settings are a number for each training: learning rate, decay, average, longest gradient. A flow
that is no number any more spoils no other. What a training comes to is what it would alone, to the
accuracy of float32.

A flow with fewer units or components than the widest is filled up with zeros: a unit without
weights stays without, as activations of 0 are 0, and a component of no weight has no gradient.

The idea is that of HFTA: Wang et al. (2021), MLSys, https://arxiv.org/abs/2102.02344

Tensor names end in their axes:
    T trainings    W weights of one flow    N rows    F event columns
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from models import boxes
from models.config import OF_EACH
from models.flow.density import ConditionalFlow, unset
from models.flow.mixture.distribution import BoxMixture
from models.flow.network import drawing
from models.training.optimizer import BETAS, EPSILON, averaging, decay_of, learning_rate
from models.training.stack.member import Member, Trained
from models.training.stack.rows import Held, Rows, Step

ABSENT = -1e4
"""Raw log-weight of a component that only fills up."""


class Stack:
    """Trainings of one shape, taken out of their flows and optimizers, and put back in the end."""

    def __init__(
        self, members: Sequence[Member], held: Held, *, check: Callable[[], None] = lambda: None
    ) -> None:
        """Args: at least one, all of one `shape`; their rows; what is called before each step."""
        self.members, self.rows, self.check = members, Rows(members, held), check
        flows = [cast("ConditionalFlow", member.flow) for member in members]
        self.flow = _widest(flows)
        self.layout = _Layout(self.flow)
        kinds = ("value", "gradient", "decay", "exp_avg", "exp_avg_sq", "average")
        empty_TW = torch.zeros(len(members), self.layout.weights, device=members[0].device)
        self.whole = {kind: empty_TW.clone() for kind in kinds}
        self.layout.leave_out(self.whole["value"])
        for t, (member, flow) in enumerate(zip(members, flows, strict=True)):
            decays = {id(one) for one in member.optimizer.decaying}
            rate = decay_of(member.config, member.stream.rows)
            own = self.layout.of(self.whole["decay"][t], flow)
            for name, parameter in flow.named_parameters():
                own[name].fill_(rate if id(parameter) in decays else 0.0)
        self._copy(into_flows=False)
        self.layout.share(self.flow, self.whole["value"])
        self.flow.train()

    def train(self) -> list[Trained]:
        """Take the members' steps and put what came of it into their flows and optimizers."""
        device, steps = self.members[0].device, [member.steps for member in self.members]
        total_T, weight_T = torch.zeros(2, len(steps), dtype=torch.float64, device=device)
        rows_T, bad_T = torch.tensor([[0], [-1]], device=device).repeat(1, len(steps))
        settings = [self._settings(number) for number in range(max(steps))]
        settings_S5T = torch.tensor(settings, dtype=torch.float32).to(device)
        taken_ST = torch.arange(max(steps))[:, None] < torch.tensor(steps)
        for number, taken_T in enumerate(taken_ST.to(device)):
            self.check()
            resting = [t for t, count in enumerate(steps) if number >= count]
            kept = {kind: whole_TW[resting] for kind, whole_TW in self.whole.items() if resting}
            step = self.rows.step(number)
            loss_T = self._backward(step)
            norm_T = self._optimize(*settings_S5T[number].unsqueeze(2))
            for kind, kept_RW in kept.items():
                self.whole[kind][resting] = kept_RW
            total_T += torch.where(taken_T, loss_T * step.rows_T, 0.0)
            weight_T += torch.where(taken_T, step.own_T, 0.0)
            rows_T += torch.where(taken_T, step.rows_T, 0)
            finite_T = loss_T.isfinite() & norm_T.isfinite()
            bad_T = torch.where(taken_T & ~finite_T & (bad_T < 0), number, bad_T)
        self._copy(into_flows=True)
        found = zip((total_T / weight_T).tolist(), rows_T.tolist(), bad_T.tolist(), strict=True)
        outcomes = []
        for t, (member, (nll, rows, bad)) in enumerate(zip(self.members, found, strict=True)):
            rate = settings[member.steps - 1][0][t]
            first = member.step + bad if bad >= 0 else None
            outcomes.append(Trained(nll=nll, rows=rows, steps=member.steps, rate=rate, bad=first))
            member.optimizer.steps += member.steps
        return outcomes

    def _backward(self, step: Step) -> Tensor:
        """Set the gradients to those of each member's mean NLL; returns the NLLs, `(T,)`."""
        log_prob_N = self.flow.log_prob_standardised(step.y_FN.t(), step.conditions)
        log_prob_N = log_prob_N + step.log_det_N
        if step.weight_N is not None:
            log_prob_N = log_prob_N * step.weight_N
        loss_T = -log_prob_N.view(len(self.members), -1).sum(1) / step.rows_T
        gradients = torch.autograd.grad(loss_T.sum(), list(self.flow.parameters()))
        # Not by parameters' own gradients, which autograd wants each in a block of its own.
        torch.cat([one.flatten(1) for one in gradients], 1, out=self.whole["gradient"])
        loss_T = loss_T.detach().double()
        return loss_T if step.scale_T is None else loss_T * step.scale_T

    @torch.no_grad()
    def _optimize(
        self, rate_T1: Tensor, clip_T1: Tensor, past_T1: Tensor, first_T1: Tensor, second_T1: Tensor
    ) -> Tensor:
        """A step of AdamW for every member; returns the lengths that the gradients had, `(T,)`."""
        value, gradient, decay, mean, square, average = self.whole.values()
        norm_T1 = gradient.square().sum(1, keepdim=True).sqrt()
        gradient.mul_((clip_T1 / (norm_T1 + 1e-6)).clamp(max=1.0))
        mean.lerp_(gradient, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        value.mul_(1 - rate_T1 * decay)
        length = (square / second_T1).sqrt_().add_(EPSILON)
        value.sub_((mean * (rate_T1 / first_T1)).div_(length))
        average.lerp_(value, 1 - past_T1)
        return norm_T1[:, 0]

    def _settings(self, number: int) -> list[list[float]]:
        """Of a step, for each member: learning rate, longest gradient, weight of the past in the
        average, and what both running means are corrected by.
        """
        each = []
        for member in self.members:
            config, done = member.config, member.optimizer.steps + number + 1
            progress = (member.step + number) / member.total_steps
            running = (1 - beta**done for beta in BETAS)
            rate, past = learning_rate(config, progress), averaging(config.ema, done)
            each.append((rate, config.clip_norm, past, *running))
        return [list(one) for one in zip(*each, strict=True)]

    @torch.no_grad()
    def _copy(self, *, into_flows: bool) -> None:
        """Weights and the optimizers' averages, from the members or to them."""
        for t, member in enumerate(self.members):
            for kind, stored in member.optimizer.state().items():
                here = self.layout.of(self.whole[kind][t], cast("ConditionalFlow", member.flow))
                for name, theirs in stored.items():
                    both = theirs.view_as(here[name]), here[name]
                    (both[0] if into_flows else both[1]).copy_(both[1] if into_flows else both[0])


class _Layout:
    """Where each flow's parameters are among W numbers that have room for those of the widest."""

    def __init__(self, widest: ConditionalFlow) -> None:
        self.shapes = {name: one.shape for name, one in widest.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.weights = sum(self.sizes)
        base = widest.net._distribution
        self.boxes: dict[str, int] = {}
        """Numbers of each component, in parameters that have a row for each of them."""
        if isinstance(base, BoxMixture):
            last = len(base.network.weight) - 1
            for one in (base.network.weight[last], base.network.bias[last]):
                (name,) = (name for name, other in widest.named_parameters() if other is one)
                self.boxes[name] = boxes.parameters_of(base.features)

    def of(self, numbers_W: Tensor, flow: ConditionalFlow) -> dict[str, Tensor]:
        """A flow's parameters, or what there is for each of them: views."""
        found = {}
        parts = zip(self.shapes.items(), torch.split(numbers_W, self.sizes), strict=True)
        own = dict(flow.named_parameters())
        for (name, shape), part in parts:
            rows, columns = own[name].shape
            if each := self.boxes.get(name):
                found[name] = part.view(each, -1, shape[1])[:, : rows // each, :columns]
            else:
                found[name] = part.view(shape)[:rows, :columns]
        return found

    def leave_out(self, values_TW: Tensor) -> None:
        """Give no component any weight."""
        for name, part_TW in zip(self.shapes, torch.split(values_TW, self.sizes, 1), strict=True):
            if name in self.boxes and self.shapes[name][1] == 1:
                part_TW.view(len(part_TW), self.boxes[name], -1)[:, 0] = ABSENT

    def share(self, flow: ConditionalFlow, values_TW: Tensor) -> None:
        """Make the flow's parameters views of these numbers, an axis of flows in front."""
        parts = torch.split(values_TW, self.sizes, 1)
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            path, _, last = name.rpartition(".")
            flow.get_submodule(path)._parameters[last] = nn.Parameter(part.view(-1, *shape))


def _widest(flows: Sequence[ConditionalFlow]) -> ConditionalFlow:
    """A flow that has room for each of these; its buffers are theirs."""
    first, configs = flows[0], [flow.config for flow in flows]
    columns = first.event_columns, first.condition_columns
    widest = {name: max(getattr(one, name) for one in configs) for name in OF_EACH}
    config = replace(first.config, **widest)
    with drawing():
        whole = ConditionalFlow(config, *columns, unset(*columns), first.domain, first.regions)
    whole.load_state_dict(dict(first.named_buffers()), strict=False)
    base = whole.net._distribution
    if isinstance(base, BoxMixture) and len({one.smallest_width for one in configs}) > 1:
        each = [boxes.limits(one.smallest_width) for one in configs]
        base.limits = tuple(torch.tensor(each, device=first.events.mean_K.device).t())
    return whole.to(first.events.mean_K.device)
