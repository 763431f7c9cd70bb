"""How far apart an emulator's densities are at different conditions: Jensen-Shannon divergences.

By Monte Carlo, of exact densities, with no bins and no data. With p and q at two cells, m their
mean and events drawn from both in equal parts, it is the mean over m of

    ln 2 - H(r),    r = p / (p + q),    H(r) = -r ln r - (1 - r) ln (1 - r).

That equals 1/2 E_p[ln p/m] + 1/2 E_q[ln q/m], but no term is ever negative or above ln 2, whatever
is drawn: where one density is zero it is ln 2, where both agree 0.

Letters of the arrays:
    K, J cells    N events drawn in each cell    F event columns

Source:
    Lin (1991), IEEE Transactions on Information Theory 37, 145.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.errors import InputError
from hpo.pictures.density import Array
from hpo.pictures.steps import Step, silent

if TYPE_CHECKING:
    from models import Emulator

At = Mapping[str, float]
"""A value of every condition."""

ALL_DRAWS = 1000
"""Events drawn in each cell where all are compared with all."""

DRAWS = 5000
"""Events drawn in each cell where all are compared with one."""


class DivergenceError(InputError):
    """Densities that cannot be compared. The message is one sentence."""


@dataclass(frozen=True, slots=True)
class Divergences:
    """In nats, from 0 (the same density) to ln 2 (no event in common)."""

    values: Array
    errors: Array
    """Standard errors of the draw, of the same shape."""


def jensen_shannon(log_p_N: Array, log_q_N: Array) -> tuple[float, float]:
    """The divergence of two densities and its standard error, in nats.

    Args:
        log_p_N: Log density p of events drawn from p and q in equal parts, in any order.
        log_q_N: Log density q of the same events; -inf outside the support.

    Raises:
        DivergenceError: If no event has a density under either.
    """
    # An event drawn at the very edge of a support may round out of it.
    drawn = np.maximum(log_p_N, log_q_N) > -math.inf
    if not drawn.any():
        raise DivergenceError("no event that the emulator draws has a density under it")
    with np.errstate(over="ignore"):
        ratio_N = np.clip(log_q_N[drawn] - log_p_N[drawn], -700.0, 700.0)
    # With r = 1 / (1 + e^ratio): -ln r = softplus(ratio), -ln(1 - r) = softplus(-ratio).
    r_N = 1.0 / (1.0 + np.exp(ratio_N))
    entropy_N = r_N * np.logaddexp(0.0, ratio_N) + (1.0 - r_N) * np.logaddexp(0.0, -ratio_N)
    each_N = np.clip(math.log(2) - entropy_N, 0.0, math.log(2))
    return float(each_N.mean()), float(each_N.std()) / math.sqrt(len(each_N))


def from_one(
    emulator: Emulator,
    reference: At,
    cells: Sequence[At],
    *,
    draws: int | None = None,
    seed: int = 0,
    step: Step = silent,
) -> Divergences:
    """From the density at the reference to that at each cell, shape `(K,)`."""
    draws = draws or DRAWS
    own_NF = _drawn(emulator, reference, draws, seed)
    own_N = _log_prob(emulator, own_NF, reference)
    found = []
    for k, cell in enumerate(cells):
        theirs_NF = _drawn(emulator, cell, draws, seed + 1 + k)
        p_N = np.concatenate([own_N, _log_prob(emulator, theirs_NF, reference)])
        q_N = _log_prob(emulator, np.concatenate([own_NF, theirs_NF]), cell)
        found.append(jensen_shannon(p_N, q_N))
        step(k + 1, len(cells))
    values_K, errors_K = np.array(found).reshape(-1, 2).T
    return Divergences(values_K, errors_K)


def between_all(
    emulator: Emulator,
    cells: Sequence[At],
    *,
    draws: int | None = None,
    seed: int = 0,
    step: Step = silent,
) -> Divergences:
    """Between the densities at every two cells, shape `(K, K)`: symmetric, 0 on the diagonal."""
    draws = draws or ALL_DRAWS
    all_NF = np.concatenate(
        [_drawn(emulator, cell, draws, seed + k) for k, cell in enumerate(cells)]
    )
    log_JKN = np.empty((len(cells), len(cells), draws))  # of the events of K at the cell J
    for j, cell in enumerate(cells):
        log_JKN[j] = _log_prob(emulator, all_NF, cell).reshape(len(cells), draws)
        step(j + 1, len(cells))
    values_KK, errors_KK = np.zeros((2, len(cells), len(cells)))
    for j in range(len(cells)):
        for k in range(j):
            found = jensen_shannon(log_JKN[j, [j, k]].ravel(), log_JKN[k, [j, k]].ravel())
            values_KK[j, k], errors_KK[j, k] = found
    return Divergences(values_KK + values_KK.T, errors_KK + errors_KK.T)


def _drawn(emulator: Emulator, at: At, draws: int, seed: int) -> Array:
    return emulator.sample(draws, seed=seed, on_extrapolation="ignore", **at)


def _log_prob(emulator: Emulator, events_NF: Array, at: At) -> Array:
    return emulator.log_prob(events_NF, return_std=False, on_extrapolation="ignore", **at)
