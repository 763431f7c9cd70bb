"""A density applied to many events: in evaluation mode, part by part, in bounded memory.

Serves one flow and an ensemble alike: `DensityLike` names what both offer.

Tensor names end in their axes:
    N rows    F event columns    C condition columns    U distinct conditions
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.flow.conditions import Rows, distinct, micro_batches
from models.flow.coordinates import Standardise
from models.flow.masked import TriangularLinear
from models.flow.separate import Network

ROWS = 16_384
"""Rows that go through a flow together: their activations stay in the cache of a CPU core."""
MicroBatch = tuple[Rows, Tensor, list[int]]
"""Which rows, their distinct conditions, and rows of each."""


class DensityLike(Protocol):
    """What a flow and an ensemble offer."""

    @property
    def events(self) -> Standardise: ...
    @property
    def noise_columns(self) -> int: ...
    def log_prob(self, x_NF: Tensor, c_NC: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Natural-log density of each event."""

    def from_noise(
        self, noise_NF: Tensor, c_NC: Tensor, counts: Sequence[int] | None = None
    ) -> Tensor:
        """The events made of standard normal noise."""

    def eval(self) -> Any: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def modules(self) -> Iterator[nn.Module]: ...


@dataclass(frozen=True, slots=True)
class Cost:
    """What one evaluation of a flow takes."""

    parameters: int
    flops_per_event: int
    """Of one log_prob, a multiplication and an addition counted as two; only weights in use."""


def log_prob(
    flow: DensityLike, events_NF: NDArray[Any], conditions_NC: NDArray[Any]
) -> NDArray[np.float64]:
    """Log density of each event in evaluation mode, part by part in bounded memory.

    Conditions: one row for each event, or one for all.
    """
    return _in_parts(flow, flow.log_prob, events_NF, conditions_NC)


def from_noise(
    flow: DensityLike, noise_NF: NDArray[Any], conditions_NC: NDArray[Any]
) -> NDArray[np.float64]:
    """The events that the flow makes of noise, part by part in bounded memory.

    Conditions: one row for each event, or one for all.
    """
    return _in_parts(flow, flow.from_noise, noise_NF, conditions_NC)


def draw(
    flow: DensityLike, conditions_NC: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """One event for each row of conditions, `(N, F)` in the columns' units."""
    noise_NF = rng.standard_normal((len(conditions_NC), flow.noise_columns), np.float32)
    return from_noise(flow, noise_NF, conditions_NC)


def cost(flow: DensityLike) -> Cost:
    """Parameters and operations; what a mask switches off is neither stored nor counted."""
    parameters = sum(p.numel() for p in flow.parameters())
    weights = sum(m.weights for m in flow.modules() if isinstance(m, (TriangularLinear, Network)))
    return Cost(parameters, 2 * weights)


@torch.no_grad()
def _in_parts(
    flow: DensityLike,
    function: Callable[[Tensor, Tensor, list[int]], Tensor],
    first_NF: NDArray[Any],
    conditions_NC: NDArray[Any],
) -> NDArray[np.float64]:
    """Apply a method of the flow in evaluation mode, a part in each thread; the result in float64.

    Equal conditions are worked out once, wherever their rows are.
    """
    flow.eval()
    like = flow.events.mean_K
    first, rows = _tensor(first_NF, like), ROWS if like.device.type == "cpu" else 64 * ROWS
    if not len(first):  # an empty part has the right shape, too
        return function(first, _tensor(conditions_NC, like), []).double().cpu().numpy()
    c_UC, index_N = _distinct(_tensor(conditions_NC, like), len(first))
    parts = list(micro_batches(c_UC, index_N, rows))
    results = _threaded(lambda part: function(first[part[0]], *part[1:]).double(), parts, like)
    out = torch.empty(len(first), *results[0].shape[1:], dtype=torch.float64)
    for part, result in zip(parts, results, strict=True):
        out[part[0] if isinstance(part[0], slice) else part[0].cpu()] = result.cpu()
    return out.numpy()


def _distinct(c_NC: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """As `distinct`; one condition for all, the usual case, is seen without sorting."""
    if len(c_NC) == 1 or bool((c_NC == c_NC[0]).all()):
        return c_NC[:1], torch.zeros(rows, dtype=torch.long, device=c_NC.device)
    return distinct(c_NC)


def _threaded(
    work: Callable[[MicroBatch], Tensor], parts: list[MicroBatch], like: Tensor
) -> list[Tensor]:
    """What becomes of each part, in threads that take whole parts."""
    threads = min(torch.get_num_threads(), len(parts))
    if like.device.type != "cpu" or threads == 1:
        return [work(part) for part in parts]

    @torch.no_grad()
    def alone(part: MicroBatch) -> Tensor:
        return work(part)

    # A setting of the single thread: threads inside of threads would only wait for each other.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(alone, parts))


def _tensor(values: NDArray[Any], like: Tensor) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=like.dtype, device=like.device)
