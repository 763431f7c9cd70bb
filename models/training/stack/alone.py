"""Steps of a training by itself, on batches that are streamed: of what no stack can train."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from itertools import islice

import torch

from data_prep.stream import Batch, Stream
from models.training.loss import BatchLoss, tensors_of, total_weight
from models.training.optimizer import learning_rate
from models.training.stack.member import Member, Trained


class Alone:
    """Where a training is in its batches."""

    def __init__(self, stream: Stream, loss: BatchLoss) -> None:
        self._stream, self._loss = stream, loss
        self._batches, self._next = _endless(stream, 0), 0

    def take(
        self, member: Member, progress: Callable[[int], float], check: Callable[[], None]
    ) -> Trained:
        """One gradient step per batch; a device is waited for in the end alone.

        Args:
            member: The training.
            progress: Share of the whole training that is done before a step.
            check: What is called before each step.
        """
        if self._next != member.step:  # restored, or the last ones were taken with others
            self.close()
            self._batches = _endless(self._stream, member.step)
        total = torch.zeros((), dtype=torch.float64, device=member.device)
        first_bad = torch.full((), -1, device=member.device)
        rows, weight, rate, step = 0, 0.0, 0.0, member.step
        for batch in islice(self._batches, member.steps):
            done = progress(step)
            if done >= 1 and rows:
                break
            check()
            x_NF, c_NC, w_N = tensors_of(batch, member.mean_weight)
            move = partial(member.jitter, step=step) if member.jitter.moves else None
            loss = self._loss.backward(x_NF, c_NC, w_N, move)
            rate = learning_rate(member.config, done)
            norm = member.optimizer.step(rate)

            total += loss * len(x_NF)
            bad = ~(loss.isfinite() & norm.isfinite()) & (first_bad < 0)
            first_bad = torch.where(bad, step, first_bad)
            weight += total_weight(w_N, len(x_NF))
            rows += len(x_NF)
            step += 1
        self._next = step
        bad_step = int(first_bad.item())
        return Trained(
            nll=float(total.item()) / weight,
            rows=rows,
            steps=step - member.step,
            rate=rate,
            bad=bad_step if bad_step >= 0 else None,
        )

    def close(self) -> None:
        """Read no further."""
        self._batches.close()


def _endless(stream: Stream, step: int) -> Generator[Batch, None, None]:
    """The batches of a training from its step `step` on, epoch after epoch."""
    epoch, start = divmod(step, stream.batches)
    while True:
        yield from stream.epoch(epoch, start=start)
        epoch, start = epoch + 1, 0
