"""Steps of several trainings at once: flows of one shape as one, each with its own settings.

The weights of T flows lie side by side (`models/flow/network.py`), and their rows one after
another. What is done to a row is that of one flow alone, and so are the optimizer's steps, whose
settings are a number for each training: learning rate, decay, average, longest gradient. A flow
that is no number any more spoils no other. What a training comes to is what it would alone, to the
accuracy of float32.

A flow with fewer units or components than the widest is filled up with zeros: a unit without
weights stays without, as activations of 0 are 0, and a component of no weight has no gradient.

A step is a function of tensors on the device, `Stack.step`: on a GPU it is recorded once and played
from then on (`models/training/stack/recording.py`).

The idea is that of HFTA: Wang et al. (2021), MLSys, https://arxiv.org/abs/2102.02344

Tensor names end in their axes:
    T trainings    W weights of one flow    N rows    F event columns
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from models.training.stack.recording import Recorded, own_stream
from models.training.stack.rows import Held, Rows, Step

ABSENT = -1e4
"""Raw log-weight of a component that only fills up."""


class Stack:
    """Trainings of one shape, taken out of their flows and optimizers, and put back in the end."""

    def __init__(self, members: Sequence[Member], held: Held) -> None:
        """Args: at least one, all of one `shape`; their rows."""
        self.members, self.rows, self.device = members, Rows(members, held), members[0].device
        flows = [cast("ConditionalFlow", member.flow) for member in members]
        self.flow = _widest(flows)
        self.layout = _Layout(self.flow)
        kinds = ("value", "gradient", "decay", "exp_avg", "exp_avg_sq", "average")
        empty_TW = torch.zeros(len(members), self.layout.weights, device=self.device)
        self.whole = {kind: empty_TW.clone() for kind in kinds}
        self.layout.leave_out(self.whole["value"])
        for t, (member, flow) in enumerate(zip(members, flows, strict=True)):
            decays = {id(one) for one in member.optimizer.decaying}
            rate = decay_of(member.config, member.stream.rows)
            own = self.layout.of(self.whole["decay"][t], flow)
            for name, parameter in flow.named_parameters():
                own[name].fill_(rate if id(parameter) in decays else 0.0)
        self.layout.share(self.flow, self.whole["value"])
        self.flow.train()
        self.sums = Sums.none(len(members), self.device)
        self.play = Recorded(self.step, self.device)

    def go_on(self, members: Sequence[Member]) -> None:
        """Args: the same trainings, where they are now."""
        self.members = members
        self.rows.go_on(members)

    def train(self, check: Callable[[], None] = lambda: None) -> list[Trained]:
        """Take the members' steps and put what came of it into their flows and optimizers.

        `check` is called before each step.
        """
        most = max(member.steps for member in self.members)
        self._copy(into_flows=False)
        self.sums.clear()
        settings_S7T = torch.tensor([self._settings(number) for number in range(most)])
        with own_stream(self.device):
            for number, settings_7T in enumerate(settings_S7T):
                check()
                told, counts = self.rows.tell(number)
                now = torch.tensor([number], dtype=torch.int32)
                if counts is None:
                    self.play(settings_7T, now, *told)
                else:
                    self.step(settings_7T, now, *told, counts=counts)
        self._copy(into_flows=True)
        outcomes = []
        for member, (nll, rows, bad) in zip(self.members, self.sums.found(), strict=True):
            rate = learning_rate(member.config, self._progress(member, member.steps - 1))
            first = member.step + bad if bad >= 0 else None
            outcomes.append(Trained(nll=nll, rows=rows, steps=member.steps, rate=rate, bad=first))
            member.optimizer.steps += member.steps
        return outcomes

    def step(
        self,
        settings_7T: Tensor,
        now_1: Tensor,
        rows_TN: Tensor,
        *moved: Tensor,
        counts: list[int] | None = None,
    ) -> None:
        """One step of every training that does not rest. A function of tensors on the device.

        Args:
            settings_7T: As `_settings` gives them.
            now_1: Number of the step.
            rows_TN, moved, counts: What `Rows.tell` told.
        """
        step = self.rows.look_up(rows_TN, *moved, counts=counts)
        taken_T = step.rows_T > 0
        loss_T = self._backward(step)
        norm_T = self._optimize(taken_T[:, None], *settings_7T.unsqueeze(2))
        self.sums.add(step, now_1, loss_T, norm_T)

    def _backward(self, step: Step) -> Tensor:
        """Set the gradients to those of each member's mean NLL; returns the NLLs, `(T,)`."""
        log_prob_N = self.flow.log_prob_standardised(step.y_FN.t(), step.conditions)
        weighted_N = (log_prob_N + step.log_det_N) * step.weight_N
        loss_T = -weighted_N.view(len(self.members), -1).sum(1) / step.rows_T.clamp(min=1)
        gradients = torch.autograd.grad(loss_T.sum(), list(self.flow.parameters()))
        # Not by parameters' own gradients, which autograd wants each in a block of its own.
        torch.cat([one.flatten(1) for one in gradients], 1, out=self.whole["gradient"])
        loss_T = loss_T.detach().double()
        return loss_T if step.scale_T is None else loss_T * step.scale_T

    @torch.no_grad()
    def _optimize(
        self,
        taken_T1: Tensor,
        rate_T1: Tensor,
        clip_T1: Tensor,
        past_T1: Tensor,
        first_T1: Tensor,
        second_T1: Tensor,
        new_T1: Tensor,
        old_T1: Tensor,
    ) -> Tensor:
        """A step of AdamW for every member; returns the lengths that the gradients had, `(T,)`."""
        value, gradient, decay, mean, square, average = self.whole.values()
        gradient.masked_fill_(~taken_T1, 0.0)  # a number that is none would stay one
        norm_T1 = gradient.square().sum(1, keepdim=True).sqrt()
        gradient.mul_((clip_T1 / (norm_T1 + 1e-6)).clamp(max=1.0))
        mean.lerp_(gradient, new_T1)
        square.mul_(old_T1).addcmul_(gradient, gradient, value=1 - BETAS[1])
        value.mul_(1 - rate_T1 * decay)
        length = (square / second_T1).sqrt_().add_(EPSILON)
        value.sub_((mean * (rate_T1 / first_T1)).div_(length))
        average.lerp_(value, 1 - past_T1)
        return norm_T1[:, 0]

    def _settings(self, number: int) -> list[list[float]]:
        """Of a step, for each member: learning rate, longest gradient, weight of the past in the
        average, what both running means are corrected by, and the weights of the gradient in the
        first and of the past in the second. They leave a member that rests as it is.
        """
        each = []
        for member in self.members:
            config, done = member.config, member.optimizer.steps + number + 1
            running = [1 - beta**done for beta in BETAS]
            if number < member.steps:
                rate = learning_rate(config, self._progress(member, number))
                past, means = averaging(config.ema, done), [1 - BETAS[0], BETAS[1]]
            else:
                rate, past, means = 0.0, 1.0, [0.0, 1.0]
            each.append([rate, config.clip_norm, past, *running, *means])
        return [list(one) for one in zip(*each, strict=True)]

    @staticmethod
    def _progress(member: Member, number: int) -> float:
        return (member.step + number) / member.total_steps

    @torch.no_grad()
    def _copy(self, *, into_flows: bool) -> None:
        """Weights and the optimizers' averages, from the members or to them."""
        for t, member in enumerate(self.members):
            for kind, stored in member.optimizer.state().items():
                here = self.layout.of(self.whole[kind][t], cast("ConditionalFlow", member.flow))
                for name, theirs in stored.items():
                    both = theirs.view_as(here[name]), here[name]
                    (both[0] if into_flows else both[1]).copy_(both[1] if into_flows else both[0])


@dataclass(frozen=True, slots=True)
class Sums:
    """What steps of T trainings add up to, on the device."""

    nll_T: Tensor
    weight_T: Tensor
    rows_T: Tensor
    bad_T: Tensor
    """The first step whose loss or gradient is not finite; -1 for none."""

    @classmethod
    def none(cls, trainings: int, device: torch.device) -> Sums:
        """Of no step."""
        sums_2T = torch.zeros(2, trainings, dtype=torch.float64, device=device)
        counts_2T = torch.zeros(2, trainings, dtype=torch.int64, device=device)
        return cls(*sums_2T, *counts_2T)

    def clear(self) -> None:
        """Begin anew, in the same memory."""
        for one_T, start in (
            (self.nll_T, 0),
            (self.weight_T, 0),
            (self.rows_T, 0),
            (self.bad_T, -1),
        ):
            one_T.fill_(start)

    def add(self, step: Step, now_1: Tensor, loss_T: Tensor, norm_T: Tensor) -> None:
        """Add a step to those of the trainings that did not rest."""
        taken_T = step.rows_T > 0
        self.nll_T.add_(torch.where(taken_T, loss_T * step.rows_T, 0.0))
        self.weight_T.add_(step.own_T)
        self.rows_T.add_(step.rows_T)
        bad_T = taken_T & ~(loss_T.isfinite() & norm_T.isfinite()) & (self.bad_T < 0)
        self.bad_T.copy_(torch.where(bad_T, now_1, self.bad_T))

    def found(self) -> list[tuple[float, int, int]]:
        """Of each training its mean NLL, its rows, and its first bad step."""
        nll_T = (self.nll_T / self.weight_T).tolist()
        return list(zip(nll_T, self.rows_T.tolist(), self.bad_T.tolist(), strict=True))


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
