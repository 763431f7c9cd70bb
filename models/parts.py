"""The NLL of a batch and its gradient, worked out part by part.

On the CPU a large batch goes through the flow in parts that fit the cache, with equal conditions
next to each other and worked out once; threads take whole parts, each with gradients of its own,
which add up to those of the batch in a fixed order. It is the same step, in half of the time, and
the same numbers every time for the same number of threads.

Tensor names end in their axes:
    N rows    F event columns    C condition columns    U distinct conditions
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.flow import ConditionalFlow, distinct

CPU_ROWS = 8192
"""Rows whose activations stay in the cache of a CPU core."""
SORTED_ROWS = 1024
"""Fewest rows of a batch worth putting in the order of their conditions."""
REPLICAS, REPLICA_ROWS = 4, 512
"""Most threads that take parts (more wait for Python's lock), fewest rows of a batch for each."""

Part = tuple[Tensor, Tensor, list[int] | None]
"""Arguments of `ConditionalFlow.log_prob`."""


class PartedLoss:
    """The NLL of a flow over batches, and its gradient."""

    def __init__(self, flow: ConditionalFlow, gradients: list[Tensor], *, batch_size: int) -> None:
        """Args: the flow, the tensors that its weights' and biases' gradients are views of, and
        the rows of a batch.
        """
        self._gradients = gradients
        self._replicas = [_Replica(flow, gradients)]
        while len(self._replicas) < _count(batch_size, gradients[0].device):
            self._replicas.append(_replica(flow, gradients))
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Work in threads in here; torch's own threads are divided among them meanwhile."""
        count = len(self._replicas)
        if count == 1:
            yield
            return
        before = torch.get_num_threads()

        def start() -> None:
            # Both are settings of the single thread.
            torch.set_num_threads(before // count)
            torch.set_flush_denormal(True)

        try:
            start()
            with ThreadPoolExecutor(count, initializer=start) as self._pool:
                yield
        finally:
            self._pool = None
            torch.set_num_threads(before)

    def backward(self, x_NF: Tensor, c_NC: Tensor) -> Tensor:
        """Set the gradients to those of the batch's mean NLL; returns that NLL."""
        parts = list(_parts(x_NF, c_NC, len(self._replicas)))
        loss = self._shared(lambda replica, mine: replica.backward(mine, len(x_NF)), parts)
        for replica in self._replicas[1 : len(parts)]:
            for total, gradient in zip(self._gradients, replica.gradients, strict=True):
                total += gradient
        return loss

    def nll(self, x_NF: Tensor, c_NC: Tensor) -> Tensor:
        """Summed NLL of the rows in evaluation mode."""
        return self._shared(_Replica.nll, list(_parts(x_NF, c_NC, len(self._replicas))))

    def _shared(self, work: Callable[[_Replica, list[Part]], Tensor], parts: list[Part]) -> Tensor:
        """The sum of what each makes of its parts; who takes which depends on their number."""
        count = len(self._replicas)
        jobs = [(r, parts[i::count]) for i, r in enumerate(self._replicas) if i < len(parts)]
        if self._pool is None or len(jobs) == 1:
            return torch.stack([work(*job) for job in jobs]).sum()
        futures = [self._pool.submit(work, *job) for job in jobs]
        return torch.stack([future.result() for future in futures]).sum()


@dataclass(frozen=True, slots=True)
class _Replica:
    """A flow whose weights all replicas share, and the gradients that this one adds to."""

    flow: ConditionalFlow
    gradients: list[Tensor]

    def backward(self, parts: list[Part], rows: int) -> Tensor:
        """Set the gradients to those of the parts' share in a mean NLL over `rows`; the share."""
        self.flow.train()
        for gradient in self.gradients:
            gradient.zero_()
        loss = torch.zeros((), dtype=torch.float64, device=parts[0][0].device)
        for arguments in parts:
            part_loss = -self.flow.log_prob(*arguments).sum() / rows
            torch.autograd.backward(part_loss)
            loss += part_loss.detach()
        return loss

    @torch.no_grad()
    def nll(self, parts: list[Part]) -> Tensor:
        """Summed NLL in evaluation mode."""
        self.flow.eval()
        sums = [self.flow.log_prob(*a).sum(dtype=torch.float64) for a in parts]
        return -torch.stack(sums).sum()


def weights_and_biases(flow: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of a flow that are weights, and those that are biases."""
    named = list(flow.named_parameters())
    return [p for n, p in named if ".bias." not in n], [p for n, p in named if ".bias." in n]


def _count(batch_size: int, device: torch.device) -> int:
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), REPLICAS, batch_size // REPLICA_ROWS))


def _replica(flow: ConditionalFlow, gradients: list[Tensor]) -> _Replica:
    """One with the weights of `flow`, in the same memory, and gradients of its own."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in flow.buffers()}
    own = [torch.zeros_like(gradient) for gradient in gradients]
    for parameters, flat in zip(weights_and_biases(flow), own, strict=True):
        views = torch.split(flat, [p.numel() for p in parameters])
        for parameter, gradient in zip(parameters, views, strict=True):
            twin = nn.Parameter(parameter.detach())
            twin.grad = gradient.view_as(parameter)
            memo[id(parameter)] = twin
    return _Replica(copy.deepcopy(flow, memo), own)


def _parts(x_NF: Tensor, c_NC: Tensor, replicas: int) -> Iterator[Part]:
    """A batch in parts that fit the cache, as many for each replica.

    Rows of a large batch are put in the order of their conditions (the order inside a batch means
    nothing), so that a part has few distinct ones: on a grid that leaves a third of the work.
    """
    if x_NF.device.type != "cpu":
        yield x_NF, c_NC, None
        return
    rows = _part_rows(len(x_NF), replicas)
    if len(x_NF) >= SORTED_ROWS:
        c_UC, index_N = distinct(c_NC)
        if len(c_UC) <= len(c_NC) // 32:
            yield from _parts_in_order(x_NF, c_UC, index_N, rows)
            return
    for x_part, c_part in zip(torch.split(x_NF, rows), torch.split(c_NC, rows), strict=True):
        yield x_part, c_part, None


def _part_rows(rows: int, replicas: int) -> int:
    """Rows of a part, such that every replica has as many parts and none exceeds the cache."""
    replicas = max(1, min(replicas, rows // REPLICA_ROWS))
    return -(-rows // (replicas * -(-rows // (replicas * CPU_ROWS))))


def _parts_in_order(x_NF: Tensor, c_UC: Tensor, index_N: Tensor, rows: int) -> Iterator[Part]:
    index_N, order_N = torch.sort(index_N, stable=True)
    x_NF = x_NF[order_N]
    for x_part, index in zip(torch.split(x_NF, rows), torch.split(index_N, rows), strict=True):
        present, counts = torch.unique_consecutive(index, return_counts=True)
        yield x_part, c_UC[present], counts.tolist()
