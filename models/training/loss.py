"""The NLL of a batch, -1/N sum w log p(event | conditions), and its gradient, by micro-batches.

w is the weight of a row over the mean weight of all rows that are read, 1 where rows have none: a
batch of weighted rows, too, has the NLL and the gradient of the whole on average.

On the CPU a large batch goes through the flow in micro-batches that fit the cache, with equal
conditions next to each other and computed once. Threads take whole micro-batches, each with
gradients of its own, which add up to those of the batch in a fixed order: a step takes half of the
time, and its numbers are repeatable for a given number of threads. Threads that meet inside every
small operation lose more than they win, above all where another process has a core for a moment.

To a GPU a batch goes in one transfer, which holds a condition for each row: what decides sizes is
worked out before, on the host, which waits for nothing.

Tensor names end in their axes:
    N rows    F event columns    C condition columns    U distinct conditions
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.stream import Batch, Stream
from models.flow.atoms import OneFlow
from models.flow.conditions import distinct, micro_batches
from models.training.arithmetic import fused, pinned
from models.training.optimizer import views, weights_and_biases

CPU_ROWS = 8192
"""Rows whose activations stay in the cache of a CPU core."""
DEVICE_ROWS = 32_768
"""Most rows of a micro-batch elsewhere: what 1 GB has room for, evaluated."""
_EVALUATION = threading.Lock()
"""Of the trainings that share a GPU one evaluates at a time: more would be no quicker, and take
memory each."""
REPLICAS, REPLICA_ROWS = 4, 4096
"""Most threads that take micro-batches, fewest rows of a batch for each: with fewer they wait for
Python's lock."""
MicroBatch = tuple[Tensor, Tensor, list[int] | None, Tensor | None]
"""Arguments of `ConditionalFlow.log_prob`, and the weights of the events."""
Move = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""What moves the distinct conditions of a batch and weights the losses of their rows."""


class BatchLoss:
    """The NLL of a flow over batches, and its gradient."""

    def __init__(self, flow: OneFlow, gradients: list[Tensor], *, batch_size: int) -> None:
        """Args: the flow, the flat tensors that its parameters' gradients are views of, and the
        rows of a batch.
        """
        self._gradients, self._device = gradients, gradients[0].device
        count = min(torch.get_num_threads(), REPLICAS, batch_size // REPLICA_ROWS)
        more = count - 1 if fused(self._device) else 0
        self._replicas = [_Replica(flow, gradients)]
        self._replicas += [_replica(flow, gradients) for _ in range(more)]
        self._pool: ThreadPoolExecutor | None = None
        self._held: dict[Stream, list[tuple[list[MicroBatch], float]]] = {}

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Work in threads in here, each with a share of torch's own; alone, with one.

        On small batches torch's threads cost more than they give.
        """
        count = len(self._replicas)
        before = torch.get_num_threads()

        def start() -> None:
            # Both are settings of the single thread.
            torch.set_num_threads(1 if count == 1 else before // count)
            torch.set_flush_denormal(True)

        try:
            start()
            with ThreadPoolExecutor(count, initializer=start) as self._pool:
                yield
        finally:
            self._pool = None
            torch.set_num_threads(before)

    def backward(
        self,
        x_NF: Tensor,
        c_NC: Tensor,
        weights_N: Tensor | None = None,
        move: Move | None = None,
    ) -> Tensor:
        """Set the gradients to those of the batch's mean NLL; returns that NLL, on the device.

        The batch is on the host. Weights are divided by their mean over all batches. `move` is
        applied to the distinct ones among the conditions. The weights that it gives are one on
        average over all rows, so that gradients are those of the whole on average; the NLL is
        divided by their mean in the batch, which would else be most of its noise.
        """
        c_UC, index_N = self._shared_by(c_NC, moved=move is not None)
        c_UC, moved_U = (c_UC, None) if move is None else move(c_UC)
        scale: Tensor | float = 1.0
        if moved_U is not None:
            own_N = torch.ones_like(x_NF[:, 0]) if weights_N is None else weights_N
            weights_N = own_N * moved_U[index_N]
            scale = own_N.sum(dtype=torch.float64) / weights_N.sum(dtype=torch.float64)
        parts = self._parts(x_NF, c_UC, index_N, weights_N)
        loss = self._shared(lambda replica, mine: replica.backward(mine, len(x_NF)), parts)
        for replica in self._replicas[1 : len(parts)]:
            for total, gradient in zip(self._gradients, replica.gradients, strict=True):
                total += gradient
        return loss * scale

    def mean_nll(self, stream: Stream, mean_weight: float) -> float:
        """Of all rows of a stream, in evaluation mode, in nats."""
        total, weight = torch.zeros((), dtype=torch.float64, device=self._device), 0.0
        with nullcontext() if fused(self._device) else _EVALUATION:
            for parts, own in self._evaluated(stream, mean_weight):
                total += self._shared(_Replica.nll, parts)
                weight += own
        return float(total.item()) / weight

    def _evaluated(
        self, stream: Stream, mean_weight: float
    ) -> Iterable[tuple[list[MicroBatch], float]]:
        """The batches of a stream and their weights; sent to a GPU once, if memory holds them."""
        if stream in self._held:
            return self._held[stream]
        each = (tensors_of(batch, mean_weight) for batch in stream.epoch(0))
        batches = (
            (
                self._parts(x_NF, *self._shared_by(c_NC, moved=False), w_N),
                total_weight(w_N, len(x_NF)),
            )
            for x_NF, c_NC, w_N in each
        )
        if fused(self._device) or stream.in_memory(0) is None:
            return batches
        return self._held.setdefault(stream, list(batches))

    def _shared_by(self, c_NC: Tensor, *, moved: bool) -> tuple[Tensor, Tensor | slice]:
        """Distinct conditions and which of them each row has, where that is of any use."""
        return distinct(c_NC) if moved or fused(self._device) else (c_NC, slice(None))

    def _parts(
        self, x_NF: Tensor, c_UC: Tensor, index_N: Tensor | slice, weights_N: Tensor | None
    ) -> list[MicroBatch]:
        """Micro-batches: equally many for every replica, none beyond the cache."""
        rows = len(x_NF)
        if isinstance(index_N, slice) or not fused(self._device):
            return self._sent(x_NF, c_UC[index_N], weights_N)
        replicas = max(1, min(len(self._replicas), rows // REPLICA_ROWS))
        rows = -(-rows // (replicas * -(-rows // (replicas * CPU_ROWS))))
        return [
            (x_NF[one], c, counts, None if weights_N is None else weights_N[one])
            for one, c, counts in micro_batches(c_UC, index_N, rows)
        ]

    def _sent(self, x_NF: Tensor, c_NC: Tensor, weights_N: Tensor | None) -> list[MicroBatch]:
        """Micro-batches on the device, of one transfer."""
        own = [] if weights_N is None else [weights_N[:, None]]
        whole = pinned(torch.cat([x_NF, c_NC, *own], 1), self._device)
        whole = whole.to(self._device, non_blocking=True)
        events, conditions = x_NF.shape[1], x_NF.shape[1] + c_NC.shape[1]
        return [
            (
                part[:, :events],
                part[:, events:conditions],
                None,
                part[:, conditions] if own else None,
            )
            for part in torch.split(whole, DEVICE_ROWS)
        ]

    def _shared(
        self, work: Callable[[_Replica, list[MicroBatch]], Tensor], parts: list[MicroBatch]
    ) -> Tensor:
        """The sum of each replica's results; their number decides which takes which part."""
        count = len(self._replicas)
        jobs = [(r, parts[i::count]) for i, r in enumerate(self._replicas) if i < len(parts)]
        if self._pool is None or len(jobs) == 1:
            return torch.stack([work(*job) for job in jobs]).sum()
        return torch.stack(list(self._pool.map(work, *zip(*jobs, strict=True)))).sum()


@dataclass(frozen=True, slots=True)
class _Replica:
    """A flow whose weights all replicas share, and the gradients that this one adds to."""

    flow: OneFlow
    gradients: list[Tensor]

    def backward(self, parts: list[MicroBatch], rows: int) -> Tensor:
        """Set the gradients to those of the parts' share in a mean NLL over `rows`; returns it."""
        self.flow.train()
        for gradient in self.gradients:
            gradient.zero_()
        loss = torch.zeros((), dtype=torch.float64, device=parts[0][0].device)
        for part in parts:
            part_loss = -self._log_prob(part).sum() / rows
            torch.autograd.backward(part_loss)
            loss += part_loss.detach()
        return loss

    @torch.no_grad()
    def nll(self, parts: list[MicroBatch]) -> Tensor:
        """Summed NLL in evaluation mode."""
        self.flow.eval()
        sums = [self._log_prob(part).sum(dtype=torch.float64) for part in parts]
        return -torch.stack(sums).sum()

    def _log_prob(self, part: MicroBatch) -> Tensor:
        """Of each row, times its weight."""
        x_NF, c_UC, counts, weights_N = part
        log_prob_N = self.flow.log_prob(x_NF, c_UC, counts)
        return log_prob_N if weights_N is None else log_prob_N * weights_N


def total_weight(weights_N: Tensor | None, rows: int) -> float:
    """Of so many rows."""
    return rows if weights_N is None else weights_N.sum(dtype=torch.float64).item()


def tensors_of(batch: Batch, mean_weight: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """Events, conditions, and the weights over their mean."""
    weights = None if batch.weights is None else torch.from_numpy(batch.weights / mean_weight)
    return torch.from_numpy(batch.events), torch.from_numpy(batch.conditions), weights


def _replica(flow: OneFlow, gradients: list[Tensor]) -> _Replica:
    """A replica that shares the memory of the weights and has gradients of its own."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in flow.buffers()}
    own = [torch.zeros_like(gradient) for gradient in gradients]
    for parameters, flat in zip(weights_and_biases(flow), own, strict=True):
        for parameter, gradient in zip(parameters, views(flat, parameters), strict=True):
            memo[id(parameter)] = twin = nn.Parameter(parameter.detach())
            twin.grad = gradient
    return _Replica(copy.deepcopy(flow, memo), own)
