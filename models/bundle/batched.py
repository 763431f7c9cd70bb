"""A flow, or an ensemble of flows, applied to many events part by part, in bounded memory.

Tensor names end in their axes:
    N rows    F event columns    C condition columns    U distinct conditions
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.bundle.ensemble import Density
from models.flow.conditioners import TriangularLinear
from models.flow.conditions import Rows, distinct, micro_batches
from models.flow.network import Network

ROWS = 16_384
"""Rows that go through a flow together: their activations stay in the cache of a CPU core."""
MicroBatch = tuple[Rows, Tensor, list[int]]
"""Which rows, their distinct conditions, and rows of each."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one evaluation of a flow."""

    parameters: int
    flops_per_event: int
    """Of one `log_prob`: a multiplication and an addition are two operations."""


def log_prob(
    flow: Density, events_NF: NDArray[Any], conditions_NC: NDArray[Any]
) -> NDArray[np.float64]:
    """Log density of each event; conditions: one row for each event, or one for all."""
    return _in_parts(flow, flow.log_prob, events_NF, conditions_NC)


def from_noise(
    flow: Density, noise_NF: NDArray[Any], conditions_NC: NDArray[Any]
) -> NDArray[np.float64]:
    """The events made of noise; conditions: one row for each event, or one for all."""
    return _in_parts(flow, flow.from_noise, noise_NF, conditions_NC)


def draw(
    flow: Density, conditions_NC: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """One event for each row of conditions, `(N, F)` in the columns' units."""
    noise_NF = rng.standard_normal((len(conditions_NC), flow.noise_columns), np.float32)
    return from_noise(flow, noise_NF, conditions_NC)


def cost(flow: Density) -> Cost:
    """Parameters and operations; what a mask switches off is neither stored nor counted."""
    parameters = sum(p.numel() for p in flow.parameters())
    weights = sum(m.weights for m in flow.modules() if isinstance(m, (TriangularLinear, Network)))
    return Cost(parameters, 2 * weights)


def _in_parts(
    flow: Density,
    function: Callable[[Tensor, Tensor, list[int]], Tensor],
    first_NF: NDArray[Any],
    conditions_NC: NDArray[Any],
) -> NDArray[np.float64]:
    """Apply a method of the flow in evaluation mode; threads of the CPU take whole parts.

    Whatever depends on the conditions alone is computed once for equal ones, wherever they are.
    """
    flow.eval()
    like = flow.conditions.mean_K
    cpu = like.device.type == "cpu"
    first, c_NC = _tensor(first_NF, like), _tensor(conditions_NC, like)

    @torch.no_grad()  # a setting of the single thread
    def work(part: MicroBatch) -> Tensor:
        rows, c_UC, counts = part
        return function(first[rows], c_UC, counts).double().cpu()

    if not len(first):  # an empty part has the right shape, too
        return work((slice(0), c_NC, [])).numpy()
    parts = list(micro_batches(*_distinct(c_NC, len(first)), ROWS if cpu else 64 * ROWS))
    threads = min(torch.get_num_threads(), len(parts)) if cpu else 1
    if threads == 1:
        results = [work(part) for part in parts]
    else:
        # As many threads of torch's own inside of these would only wait for each other.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            results = list(pool.map(work, parts))
    out = torch.empty(len(first), *results[0].shape[1:], dtype=torch.float64)
    for (rows, *_), result in zip(parts, results, strict=True):
        out[rows if isinstance(rows, slice) else rows.cpu()] = result
    return out.numpy()


def _distinct(c_NC: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """`distinct`, without sorting where all rows have one condition, the usual case."""
    if len(c_NC) == 1 or bool((c_NC == c_NC[0]).all()):
        return c_NC[:1], torch.zeros(rows, dtype=torch.long, device=c_NC.device)
    return distinct(c_NC)


def _tensor(values: NDArray[Any], like: Tensor) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=like.dtype, device=like.device)
