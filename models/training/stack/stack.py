"""Steps of several trainings at once: flows of one shape as one, each with its own settings.

The weights of T flows lie side by side (`models/flow/network.py`), and their rows one after
another. What is done to a row is that of one flow alone, and so are the optimizer's steps, whose
settings are a number for each training: learning rate, decay, average, longest gradient. A flow
that is no number any more spoils no other. What a training comes to is what it would alone, to the
accuracy of float32.

Flows with fewer units, components or bins than others are filled up: `places.py`.

A step is a function of tensors on the device, `Stack.step`: on a GPU it is recorded once and played
from then on (`models/training/stack/recording.py`).

The idea is that of HFTA: Wang et al. (2021), MLSys, https://arxiv.org/abs/2102.02344

Tensor names end in their axes:
    T trainings    W weights of one flow    N rows    F event columns
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from models.flow.density import ConditionalFlow
from models.training.optimizer import BETAS, EPSILON, averaging, decay_of, learning_rate
from models.training.stack.member import Member, Trained
from models.training.stack.places import Places
from models.training.stack.recording import Recorded
from models.training.stack.rows import Held, Rows, Step


class Stack:
    """Trainings of one shape, taken out of their flows and optimizers, and put back in the end."""

    def __init__(self, members: Sequence[Member], held: Held) -> None:
        """Args: at least one, all of one `shape`; their rows."""
        self.members, self.rows, self.device = members, Rows(members, held), members[0].device
        flows = [cast("ConditionalFlow", member.flow) for member in members]
        self.places = Places(flows, members[0].optimizer.names)
        self.flow, values_TW = self.places.flow, self.places.values_TW
        others = ("gradient", "decay", "exp_avg", "exp_avg_sq", "average")
        self.whole = {"value": values_TW} | {kind: torch.zeros_like(values_TW) for kind in others}
        for t, member in enumerate(members):
            weights, rest = member.optimizer.state()["value"]
            rate = decay_of(member.config, member.stream.rows)
            each = torch.full_like(weights, rate), torch.zeros_like(rest)
            self.places.put(self.whole["decay"], t, each)
        self.places.share(values_TW)
        self.flow.train()
        self.sums = Sums.none(len(members), self.device)
        self.play = Recorded(self.device)

    def go_on(self, members: Sequence[Member]) -> None:
        """Args: the same trainings, where they are now."""
        self.members = members
        self.rows.go_on(members)

    def train(self, check: Callable[[], None] = lambda: None) -> list[Trained]:
        """Take the members' steps and put what came of it into their flows and optimizers.

        `check` is called before each step.
        """
        most = max(member.steps for member in self.members)
        self._copy(self.places.put)
        self.sums.clear()
        with self.play.queued():
            for number in range(most):
                check()
                settings_7T = torch.tensor(self._settings(number))
                told, counts = self.rows.tell(number)
                now = torch.tensor([number], dtype=torch.int32)
                if counts is None:
                    self.play(self.step, settings_7T, now, *told)
                else:
                    self.step(settings_7T, now, *told, counts=counts)
        self._copy(self.places.take)
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
        loss_T = -weighted_N.view(len(self.members), -1).sum(1)
        gradients = torch.autograd.grad(loss_T.sum(), list(self.flow.parameters()))
        # Not by parameters' own gradients, which autograd wants each in a block of its own.
        torch.cat([one.flatten(1) for one in gradients], 1, out=self.whole["gradient"])
        self.whole["gradient"].mul_(self.places.present_TW)
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
    def _copy(self, put_or_take: Callable[[Tensor, int, Sequence[Tensor]], None]) -> None:
        """Weights and the optimizers' averages, from the members or to them."""
        for t, member in enumerate(self.members):
            for kind, flats in member.optimizer.state().items():
                put_or_take(self.whole[kind], t, flats)


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
