"""Settings of a process, such as its lengths: drawn from their posterior, or the best of grids.

Array names end in their axes:
    S settings    D numbers of a setting

Source:
    Cappe, Guillin, Marin & Robert (2004), Journal of Computational and Graphical Statistics 13,
    907: population Monte Carlo, importance sampling whose proposal follows what was found.
    Rue, Martino & Chopin (2009), JRSS B 71, 319: settings are averaged over by their evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Log = Callable[[Floats], Floats]
"""Of settings `(S, D)` the log evidence, `(S,)`; -inf where there is none."""
FIRST, LATER, MOST = 256, 96, 10
"""Settings tried in the first round and in later ones, and the largest number of rounds."""
ENOUGH = 64.0
"""Effective settings after which no further round is made."""
FREEDOM = 6.0
"""Degrees of freedom of the later proposals: their tails are heavier than the posterior's."""


def drawn(evidence: Log, mean_D: Floats, std_D: Floats, count: int) -> Floats:
    """As many settings, equally probable, from the posterior under a normal prior: `(count, D)`.

    The same for the same evidence: its random numbers are of one seed.
    """
    rng, D = np.random.default_rng(0), len(mean_D)
    theta_SD = mean_D + std_D * rng.standard_normal((FIRST, D))
    ln_evidence_S = evidence(theta_SD)
    proposals = [(FIRST, mean_D, np.diag(std_D), math.inf)]
    for round_ in range(1, MOST + 1):
        ln_prior_S = _log_density(theta_SD, mean_D, np.diag(std_D), math.inf)
        ln_proposed_S = np.logaddexp.reduce(
            [
                math.log(rows) + _log_density(theta_SD, center_D, root_DD, freedom)
                for rows, center_D, root_DD, freedom in proposals
            ]
        )
        ln_weight_S = ln_evidence_S + ln_prior_S - ln_proposed_S
        if round_ == MOST or (round_ > 3 and _effective(ln_weight_S) >= ENOUGH):
            break
        proposals.append((LATER, *_fitted(theta_SD, ln_weight_S), FREEDOM))
        _, center_D, root_DD, freedom = proposals[-1]
        wide_S1 = np.sqrt(rng.chisquare(freedom, (LATER, 1)) / freedom)
        new_SD = center_D + rng.standard_normal((LATER, D)) @ root_DD.T / wide_S1
        theta_SD = np.concatenate([theta_SD, new_SD])
        ln_evidence_S = np.concatenate([ln_evidence_S, evidence(new_SD)])
    return _resampled(theta_SD, _weights(ln_weight_S), count)


def best(evidence: Log, starts_SD: Floats, grids: Sequence[Floats]) -> Floats:
    """The highest evidence on grids: the best start, then one number after the other, `(D,)`."""
    values_S = evidence(starts_SD)
    best_D, height = starts_SD[values_S.argmax()], values_S.max()
    for _ in range(10):
        before = height
        for k, grid in enumerate(grids):
            tried_SD = np.tile(best_D, (len(grid), 1))
            tried_SD[:, k] = grid
            values_S = evidence(tried_SD)
            if values_S.max() > height:
                best_D, height = tried_SD[values_S.argmax()], values_S.max()
        if height == before:
            break
    return np.asarray(best_D)


def _fitted(theta_SD: Floats, ln_weight_S: Floats) -> tuple[Floats, Floats]:
    """Mean of weighted settings, and a root of their covariance made wider by a tenth."""
    columns = theta_SD.shape[1]
    # Tempered, or else a few settings far above the others would make the proposal too narrow.
    while _effective(ln_weight_S) < 4 * columns:
        ln_weight_S = 0.7 * ln_weight_S
    weight_S = _weights(ln_weight_S)
    mean_D = weight_S @ theta_SD
    apart_SD = theta_SD - mean_D
    covariance_DD = 1.2 * (weight_S[:, None] * apart_SD).T @ apart_SD
    root_DD = np.linalg.cholesky(covariance_DD + 1e-6 * np.eye(columns))
    return np.asarray(mean_D), np.asarray(root_DD, np.float64)


def _resampled(theta_SD: Floats, weight_S: Floats, count: int) -> Floats:
    """Systematically, along the first number: the draws lie as evenly as the weights allow."""
    order_S = np.argsort(theta_SD[:, 0], kind="stable")
    steps = (np.arange(count) + 0.5) / count
    at = np.searchsorted(np.cumsum(weight_S[order_S]), steps).clip(max=len(weight_S) - 1)
    return np.asarray(theta_SD[order_S[at]])


def _log_density(theta_SD: Floats, mean_D: Floats, root_DD: Floats, freedom: float) -> Floats:
    """Of a normal distribution, or of Student's with fewer degrees of freedom."""
    y_DS = np.linalg.solve(root_DD, (theta_SD - mean_D).T)
    squares_S, D = (y_DS**2).sum(0), len(mean_D)
    ln_volume = float(np.log(np.diag(root_DD)).sum())
    if freedom == math.inf:
        return np.asarray(-0.5 * squares_S - ln_volume - 0.5 * D * math.log(2 * math.pi))
    half = (freedom + D) / 2
    scale = math.lgamma(half) - math.lgamma(freedom / 2) - 0.5 * D * math.log(math.pi * freedom)
    return np.asarray(scale - ln_volume - half * np.log1p(squares_S / freedom))


def _weights(ln_S: Floats) -> Floats:
    weight_S = np.exp(ln_S - ln_S.max())
    return np.asarray(weight_S / weight_S.sum())


def _effective(ln_S: Floats) -> float:
    return float(1 / (_weights(ln_S) ** 2).sum())
