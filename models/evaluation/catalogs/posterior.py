"""Exact posteriors of the conditions of a catalogue, on grids that close in on them.

Conditions are given in the coordinates in which the prior is flat over the emulator's domain, such
as the logarithm of a metallicity. A posterior is worked out on a grid of equal parts of each. The
grid begins as the whole domain, with few of the events, and closes in on where the likelihood is
within REACH of its maximum, or opens where it is cut off, until it fits; the last one has all
events. There is no chain, and so no noise.

Array names end in their axes:
    N events    F event columns    C conditions    U points of a grid    G points along one axis
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from scipy.special import logsumexp

from models.bundle.ensemble import Density

Floats = NDArray[np.float64]
LogLikelihood = Callable[[Floats, Floats], Floats]
"""Of events `(N, F)` under each of the conditions `(U, C)`, `(U,)`."""

PARTS = 16_384
"""Densities that are worked out together: their parts stay in the cache."""
IMPOSSIBLE = -1e3
"""Log density of an event that cannot be: a grid closes in on where the fewest are such."""
GRID = 20
"""Points along each condition."""
REACH = 10.0
"""Nats below the maximum, beyond which lies less than a thousandth of a posterior."""
FIRST = 64
"""Events that the first grid takes; each later one takes four times as many."""
FINER, FINEST = 5, 12_000
"""Points along each axis for each of the grid, to which a log-likelihood is interpolated, and of
that finer grid altogether."""
FITS = 0.6
"""Share of a grid's points along each condition that have to be within reach."""
MOST = 14
"""Grids at most."""
DEPTH, CLIFF = 1e4, 200.0
"""Nats below the maximum at which a log-likelihood ends, and step between two points within reach
that is one of an edge, as known densities have them."""


class NoGridError(RuntimeError):
    """A posterior that no grid fits."""


class Surface(NamedTuple):
    """A log-likelihood on a grid, and at the truth."""

    axes_CG: Floats
    """Coordinates of the conditions, at the middles of as many equal parts."""
    ln_U: Floats
    """The last condition varies fastest."""
    ln_truth: float

    @property
    def ln_volume(self) -> float:
        """Of one part of the grid."""
        return float(np.log(np.diff(self.axes_CG, axis=1)[:, 0]).sum())

    def finer(self) -> Surface:
        """On a grid of up to FINER points for each one along every axis, interpolated."""
        columns, grid = self.axes_CG.shape
        times = min(FINER, max(2, int(FINEST ** (1 / columns) / grid)))
        step_C1 = np.diff(self.axes_CG, axis=1)[:, :1]
        box_C2 = self.axes_CG[:, [0, -1]] + 0.5 * step_C1 * np.array([-1, 1])
        axes_CG = _axes(box_C2, times * grid)
        return Surface(axes_CG, self.at(_points(axes_CG)), self.ln_truth)

    def at(self, points_UC: Floats) -> Floats:
        """Interpolated; -inf outside the grid."""
        ln = np.maximum(self.ln_U, self.ln_U.max() - DEPTH).reshape(
            [self.axes_CG.shape[1]] * len(self.axes_CG)
        )
        # A quadratic is its own cubic spline, however oblique; at a cliff a spline would swing.
        kind = "linear" if _has_cliff(ln) else "cubic"
        read = RegularGridInterpolator(tuple(self.axes_CG), ln, kind, False, None)
        half_C = np.diff(self.axes_CG, axis=1)[:, 0] / 2
        low_C, high_C = self.axes_CG[:, 0] - half_C, self.axes_CG[:, -1] + half_C
        inside_U = ((points_UC >= low_C) & (points_UC <= high_C)).all(1)
        out_U = np.full(len(points_UC), -np.inf)
        out_U[inside_U] = read(points_UC[inside_U])
        return out_U


class Found(NamedTuple):
    """Where the truth is in a posterior."""

    level: float
    """Content of the smallest region that holds it."""
    ranks_C: Floats
    """Probability of a smaller value of each condition."""
    square: float
    """Squared distance of the truth from the mean, in the posterior's covariance, per condition: 1
    on average if the posterior is right, 2 where the emulator's error is as large as its width."""


def log_likelihood_of(flow: Density) -> LogLikelihood:
    """Of events `(N, F)` under many conditions `(U, C)`, part by part."""

    @torch.no_grad()
    def log_likelihood(events_NF: Floats, c_UC: Floats) -> Floats:
        like = flow.conditions.mean_K
        x_NF, c = (torch.as_tensor(each, dtype=like.dtype) for each in (events_NF, c_UC))
        sums = []
        for part_UC in torch.split(c, max(1, PARTS // len(x_NF))):
            counts = [len(x_NF)] * len(part_UC)
            ln_M = flow.log_prob(x_NF.repeat(len(part_UC), 1), part_UC, counts)
            ln_UN = ln_M.view(len(part_UC), -1).clamp_min(IMPOSSIBLE)
            sums.append(ln_UN.double().sum(1))
        return torch.cat(sums).numpy()

    return log_likelihood


def surface(
    log_likelihood: LogLikelihood,
    events_NF: Floats,
    truth_C: Floats,
    domain_C2: Floats,
    grid: int = GRID,
) -> Surface:
    """The log-likelihood where it matters, around its maximum in the domain.

    Raises:
        NoGridError: If that cannot be found.
    """
    box_C2, rows = domain_C2, min(FIRST, len(events_NF))
    for _ in range(MOST):
        axes_CG = _axes(box_C2, grid)
        ln_U = log_likelihood(events_NF[:rows], _points(axes_CG))
        if np.isnan(ln_U).any():
            break
        wanted_C2, fits = _around(box_C2, ln_U, domain_C2, grid)
        if fits and rows == len(events_NF):
            return Surface(axes_CG, ln_U, float(log_likelihood(events_NF, truth_C[None])[0]))
        box_C2, rows = wanted_C2, min(4 * rows, len(events_NF))
    raise NoGridError(f"no grid fits the posterior of {len(events_NF)} events at {truth_C}")


def found(members: Sequence[Surface], truth_C: Floats) -> Found:
    """Where the truth is in the posterior of the members' mean likelihood, each on its own grid."""
    finer = [one.finer() for one in members]
    ln_truth = logsumexp([one.ln_truth for one in members])
    ln_share_M = np.array([logsumexp(one.ln_U) + one.ln_volume for one in finer])
    share_M = np.exp(ln_share_M - logsumexp(ln_share_M))
    level, ranks_C = 0.0, np.zeros(len(truth_C))
    mean_C, square_CC = np.zeros(len(truth_C)), np.zeros((len(truth_C),) * 2)
    for number, (share, one) in enumerate(zip(share_M, finer, strict=True)):
        part_U, points_UC = share * np.exp(one.ln_U - logsumexp(one.ln_U)), _points(one.axes_CG)
        others = [each.at(points_UC) for k, each in enumerate(members) if k != number]
        level += part_U[logsumexp([one.ln_U, *others], axis=0) > ln_truth].sum()
        step_C = np.diff(one.axes_CG, axis=1)[:, 0]
        below_UC = np.clip((truth_C - points_UC) / step_C + 0.5, 0, 1)
        ranks_C += part_U @ below_UC
        away_UC = points_UC - truth_C
        mean_C += part_U @ away_UC
        square_CC += (part_U * away_UC.T) @ away_UC
    within_CC = square_CC - np.outer(mean_C, mean_C)
    square = mean_C @ np.linalg.solve(within_CC, mean_C) / len(mean_C)
    return Found(float(level), ranks_C, float(square))


def _has_cliff(ln: Floats) -> bool:
    """Whether a point within reach is beside one that is far below it."""
    steps = (ln.swapaxes(0, k) for k in range(ln.ndim))
    ends = ((np.maximum(one[1:], one[:-1]), np.abs(np.diff(one, axis=0))) for one in steps)
    return any(bool((step[top > ln.max() - REACH] > CLIFF).any()) for top, step in ends)


def _axes(box_C2: Floats, parts: int) -> Floats:
    low_C1, high_C1 = box_C2[:, :1], box_C2[:, 1:]
    return low_C1 + (high_C1 - low_C1) * (np.arange(parts) + 0.5) / parts


def _points(axes_CG: Floats) -> Floats:
    return np.stack(np.meshgrid(*axes_CG, indexing="ij"), -1).reshape(-1, len(axes_CG))


def _around(box_C2: Floats, ln_U: Floats, ends_C2: Floats, grid: int) -> tuple[Floats, bool]:
    """The box of what is within reach and one part more, and whether this grid fits already.

    It is opened by half where the grid cuts off what is within reach, but never past the ends.
    """
    shape = (grid,) * len(box_C2)
    near_CU = np.array(np.unravel_index(np.flatnonzero(ln_U >= ln_U.max() - REACH), shape))
    first_C, last_C = near_CU.min(1), near_CU.max(1)
    cut_C2 = np.stack([first_C == 0, last_C == grid - 1], 1) & (box_C2 != ends_C2)
    parts_C2 = np.stack([first_C - 1, last_C + 2], 1) + cut_C2 * np.array([-grid, grid]) // 2
    step_C1 = np.diff(box_C2, axis=1) / grid
    wanted_C2 = np.clip(box_C2[:, :1] + step_C1 * parts_C2, ends_C2[:, :1], ends_C2[:, 1:])
    fits = (last_C - first_C + 1 >= FITS * grid) & ~cut_C2.any(1)
    return wanted_C2, bool(fits.all())
