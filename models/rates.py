"""ln rate ~ GP(x), counts ~ Poisson(rate x simulated): the posterior of rates of some cells.

The log of the rate is a Gaussian process of coordinates x (Matern 3/2, a length for each), counts
are Poisson given the rate, and the posterior is Laplace's approximation about its mode.

Array names end in their axes:
    N points    M cells    C coordinates

Source:
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning: algorithms 3.1 and 3.2,
    equation 3.32; the kernel is their equation 4.17.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.namespaces import Array, Namespace

Floats = NDArray[np.float64]
CELLS_TO_LEARN_FROM = 200
"""Cells, evenly chosen, that lengths and amplitude are found with."""
LENGTHS = np.geomspace(0.1, 10.0, 11)
"""Lengths tried, in units of a condition's range."""
AMPLITUDES = np.geomspace(0.1, 10.0, 9)
"""Standard deviations tried, of the natural log of the rate about its mean over the conditions."""
LEVEL = 3.0
"""Prior standard deviation of that mean, about the log of all mergers over all simulated."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """The posterior of the log rate."""

    x_MC: Floats
    """Coordinates of the cells, divided by `scale_C`."""
    scale_C: Floats
    """Length over which the log rate varies, for each coordinate."""
    amplitude: float
    offset: float
    """Natural log of all mergers over all simulated."""
    slope_M: Floats
    """Derivative of the log likelihood at the mode: what is left of a count after its mean."""
    root_M: Floats
    """Square root of the expected counts at the mode: inverse errors of the log rates."""
    inner_MM: Array
    """1 + root K root."""
    evidence: float
    """Log marginal likelihood, up to terms that the counts alone decide."""

    @classmethod
    def fit(cls, x_MC: Floats, counts_M: Floats, simulated_M: Floats) -> Process:
        """With the amplitude and lengths of the highest evidence on a grid."""
        unit_C = np.ptp(x_MC, axis=0)
        unit_C = np.where(unit_C > 0, unit_C, 1.0)
        kept = np.unique(np.linspace(0, len(x_MC) - 1, CELLS_TO_LEARN_FROM).round().astype(int))

        def at(settings: Sequence[float], where: Any = kept) -> Process:
            amplitude, *lengths = settings
            scale_C = unit_C * lengths
            return cls._mode(x_MC[where], scale_C, counts_M[where], simulated_M[where], amplitude)

        # Isotropic lengths first, then one number after the other until none of them moves.
        grids = [AMPLITUDES, *[LENGTHS] * len(unit_C)]
        isotropic = itertools.product(AMPLITUDES[::2], LENGTHS[::2])
        starts = ([a, *[length] * len(unit_C)] for a, length in isotropic)
        best = max(starts, key=lambda settings: at(settings).evidence)
        for _ in range(10):
            before = best
            for k, grid in enumerate(grids):
                tried = ([*best[:k], value, *best[k + 1 :]] for value in grid)
                best = max([best, *tried], key=lambda settings: at(settings).evidence)
            if best == before:
                break
        return at(best, slice(None))

    @classmethod
    def _mode(
        cls, x_MC: Floats, scale_C: Floats, counts_M: Floats, simulated_M: Floats, amplitude: float
    ) -> Process:
        """Newton's method to the mode of the posterior, with steps halved where they overshoot."""
        # Half a merger: the cells kept to learn from may be those without any.
        offset = math.log(max(counts_M.sum(), 0.5) / simulated_M.sum())
        prior_MM = _kernel(np, x_MC / scale_C, x_MC / scale_C, amplitude)

        def expected(g_M: Floats) -> Floats:
            with np.errstate(over="ignore"):
                return simulated_M * np.exp(offset + g_M)

        def inner(root_M: Floats) -> Array:
            return np.eye(len(root_M)) + root_M[:, None] * prior_MM * root_M

        # From the counts themselves, smoothed: from their mean, the first steps overshoot by far.
        a_M = np.zeros(len(x_MC))
        g_M = np.log((counts_M + 0.5) / simulated_M) - offset
        height = -math.inf
        for _ in range(100):
            root_M = np.sqrt(expected(g_M))
            wanted_M = expected(g_M) * (g_M - 1) + counts_M
            solved_M = np.linalg.solve(inner(root_M), root_M * (prior_MM @ wanted_M))
            step_M = wanted_M - root_M * solved_M - a_M
            for size in 0.5 ** np.arange(11):
                next_M = a_M + size * step_M
                next_g_M = prior_MM @ next_M
                log_likelihood = counts_M @ (offset + next_g_M) - expected(next_g_M).sum()
                risen = float(log_likelihood - 0.5 * next_M @ next_g_M)
                if risen > height:
                    break
            gain = risen - height
            if gain > 0:
                a_M, g_M, height = next_M, next_g_M, risen
            if not gain >= 1e-9:
                break
        root_M = np.sqrt(expected(g_M))
        inner_MM = inner(root_M)
        return cls(
            x_MC=x_MC / scale_C,
            scale_C=scale_C,
            amplitude=amplitude,
            offset=offset,
            slope_M=a_M,
            root_M=root_M,
            inner_MM=inner_MM,
            evidence=height - 0.5 * float(np.linalg.slogdet(inner_MM)[1]),
        )

    def at(self, x_NC: Floats, rows: int = 4096) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the log rate, each `(N,)`."""
        mean_N, std_N = np.empty(len(x_NC)), np.empty(len(x_NC))
        for start in range(0, len(x_NC), rows):
            part = slice(start, start + rows)
            cross_NM = self.covariance(np, x_NC[part])
            mean_N[part] = self.offset + cross_NM @ self.slope_M
            seen_MN = self.root_M[:, None] * cross_NM.T
            known_N = (seen_MN * np.linalg.solve(self.inner_MM, seen_MN)).sum(axis=0)
            std_N[part] = np.sqrt(np.maximum(self.amplitude**2 + LEVEL**2 - known_N, 0.0))
        return mean_N, std_N

    def covariance(self, xp: Namespace, x: Array) -> Array:
        """Prior covariance of log rates at `(*S, C)` with those of the cells, `(*S, M)`."""
        return _kernel(xp, x / xp.asarray(self.scale_C), xp.asarray(self.x_MC), self.amplitude)


def _kernel(xp: Namespace, a: Array, b_MC: Array, amplitude: float) -> Array:
    """Prior covariance of the log rates: an unknown level and Matern 3/2 about it, `(*S, M)`."""
    # Not 5/2: on COSMIC's cells, each predicted from the others, it is further off and too sure.
    squares = ((a[..., None, :] - b_MC) ** 2).sum(-1)
    # At a cell the root has no derivative and the kernel has: 0.
    apart = squares > 0
    r = xp.where(apart, xp.sqrt(3.0 * xp.where(apart, squares, 1.0)), 0.0)
    return LEVEL**2 + amplitude**2 * (1 + r) * xp.exp(-r)
