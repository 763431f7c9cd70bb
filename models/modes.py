"""Counts given a Gaussian process with some settings: Laplace's approximation about the mode.

The process and its link to the rate are told in `models/rates.py`.

Array names end in their axes:
    M cells    C coordinates    K settings    Q nodes of an integral    D numbers of a setting
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from models.hyperparameters import Floats
from models.namespaces import Array, Namespace

LEVEL = 3.0
"""Prior standard deviation of the mean of g, about the log of all mergers over all simulated."""
STRAIGHT = -100.0
"""A knee so low that the rate is exp(offset + g)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hyperparameters, some of each."""

    amplitude_K: Floats
    """Standard deviation of g about its mean."""
    length_KC: Floats
    """Lengths over which g varies, in units of the range of the warped coordinate."""
    bend_KC: Floats
    """Of the warp: the log of its slope at the upper end over that at the lower end."""
    rough_K: Floats
    """Share of the variance that is Matern 1/2, which may step from cell to cell."""
    knee_K: Floats

    @classmethod
    def of(cls, theta_KD: Floats) -> Settings:
        """From numbers whose prior is normal: `prior`."""
        C = (theta_KD.shape[1] - 3) // 2
        amplitude_K, length_KC, knee_K = (
            np.exp(np.clip(part, -20.0, 5.0))
            for part in (theta_KD[:, 0], theta_KD[:, 1 : C + 1], theta_KD[:, -1])
        )
        return cls(
            amplitude_K=amplitude_K,
            length_KC=length_KC,
            bend_KC=np.clip(theta_KD[:, C + 1 : 2 * C + 1], -20.0, 20.0),
            rough_K=1 / (1 + np.exp(-np.clip(theta_KD[:, -2], -20.0, 20.0))),
            knee_K=knee_K,
        )

    @staticmethod
    def prior(C: int) -> tuple[Floats, Floats]:
        """Means and standard deviations, each `(D,)`.

        Of ln amplitude, ln lengths, bends, the log odds of the rough share, and ln knee.
        """
        means_D = np.array([0.5, *[0.0] * 2 * C, 0.0, 1.0])
        return means_D, np.array([1.0, *[1.0] * C, *[2.0] * C, 1.5, 1.0])

    @classmethod
    def straight(cls, grid_KD: Floats) -> Settings:
        """From amplitude and lengths, without warp and knee."""
        lengths_KC = grid_KD[:, 1:]
        return cls(
            amplitude_K=grid_KD[:, 0],
            length_KC=lengths_KC,
            bend_KC=np.zeros_like(lengths_KC),
            rough_K=np.zeros(len(grid_KD)),
            knee_K=np.full(len(grid_KD), STRAIGHT),
        )

    def warped(self, xp: Namespace, unit: Array) -> Array:
        """Coordinates `(*S, 1, C)` in ranges about their middle, warped, in lengths: `(*S, K, C)`.

        The range of a warped coordinate is 1, too.
        """
        bend_KC = np.where(np.abs(self.bend_KC) < 1e-3, 1.0, self.bend_KC)
        straight_KC = np.abs(self.bend_KC) < 1e-3
        bent = xp.expm1(xp.asarray(bend_KC) * unit) / xp.asarray(2 * np.sinh(bend_KC / 2))
        return xp.where(xp.asarray(straight_KC), unit, bent) / xp.asarray(self.length_KC)

    def covariance(self, xp: Namespace, a: Array, b_KMC: Array) -> Array:
        """Prior covariance of g at warped `(*S, K, C)` with that at cells: `(*S, K, M)`."""
        squares = ((a[..., None, :] - xp.asarray(b_KMC)) ** 2).sum(-1)
        # At a cell the root has no derivative, and is not missed.
        apart = squares > 0
        r = xp.where(apart, xp.sqrt(xp.where(apart, squares, 1.0)), 0.0)
        smooth, rough_K1 = math.sqrt(3.0) * r, xp.asarray(self.rough_K[:, None])
        kernel = (1 - rough_K1) * (1 + smooth) * xp.exp(-smooth) + rough_K1 * xp.exp(-r)
        return LEVEL**2 + xp.asarray(self.amplitude_K[:, None] ** 2) * kernel

    def __getitem__(self, which: Any) -> Settings:
        """Some of them."""
        return Settings(
            amplitude_K=self.amplitude_K[which],
            length_KC=self.length_KC[which],
            bend_KC=self.bend_KC[which],
            rough_K=self.rough_K[which],
            knee_K=self.knee_K[which],
        )


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Mergers of cells, of how many simulated."""

    mergers_M: Floats
    simulated_M: Floats
    binomial: bool
    """Whether mergers are some of the simulated ones; else they are Poisson."""

    def __getitem__(self, which: Any) -> Counts:
        """Those of some cells."""
        mergers_M, simulated_M = self.mergers_M[which], self.simulated_M[which]
        return Counts(mergers_M=mergers_M, simulated_M=simulated_M, binomial=self.binomial)

    @cached_property
    def offset(self) -> float:
        """The log of all mergers over all simulated, or the log of the odds."""
        # Half a merger: the cells kept to learn from may be those without any.
        mergers, simulated = max(self.mergers_M.sum(), 0.5), self.simulated_M.sum()
        if self.binomial:
            simulated = max(simulated - mergers, 0.5)
        return math.log(mergers / simulated)

    def log_rate(self, xp: Namespace, e: Array) -> Array:
        """Of `offset + ln softplus`, the log odds of a binomial count."""
        return e - xp.logaddexp(0.0, e) if self.binomial else e

    def start_M(self) -> Floats:
        """Where each cell's own count puts it above `offset`."""
        rest_M = self.simulated_M - self.mergers_M if self.binomial else self.simulated_M - 0.5
        return np.asarray(np.log((self.mergers_M + 0.5) / (rest_M + 0.5)) - self.offset)

    def likelihood(self, e_KM: Floats) -> tuple[Floats, Floats, Floats]:
        """Its log summed over cells, `(K,)`, and of each cell the slope and minus the curvature."""
        with np.errstate(over="ignore"):
            if not self.binomial:
                expected_KM = self.simulated_M * np.exp(e_KM)
                ln_K = (self.mergers_M * e_KM - expected_KM).sum(-1)
                return ln_K, self.mergers_M - expected_KM, expected_KM
            rate_KM = 1 / (1 + np.exp(-e_KM))
        ln_KM = self.mergers_M * e_KM - self.simulated_M * np.logaddexp(0.0, e_KM)
        expected_KM = self.simulated_M * rate_KM
        return ln_KM.sum(-1), self.mergers_M - expected_KM, expected_KM * (1 - rate_KM)


@dataclass(frozen=True, kw_only=True)
class Mode:
    """The mode of the posterior of g at the cells, for each of some settings."""

    x_KMC: Floats
    a_KM: Floats
    root_KM: Floats
    """Square root of the information that each cell has on its g."""
    inner_KMM: Floats
    """1 + root K root."""
    evidence_K: Floats
    """Log marginal likelihood, up to terms that the counts alone decide; -inf for none."""

    @classmethod
    def of(cls, settings: Settings, unit_MC: Floats, counts: Counts) -> Mode:
        """Newton's method, with steps halved where they overshoot."""
        x_MKC = settings.warped(np, unit_MC[:, None])
        x_KMC = x_MKC.swapaxes(0, 1)
        prior_KMM = settings.covariance(np, x_MKC, x_KMC).swapaxes(0, 1)
        knee_K1 = settings.knee_K[:, None]

        def height(g_KM: Floats, a_KM: Floats, k: Any) -> Floats:
            e_KM = counts.offset + log_softplus(np, g_KM, knee_K1[k])
            return np.asarray(counts.likelihood(e_KM)[0] - 0.5 * (a_KM * g_KM).sum(-1))

        def information(g_KM: Floats, k: Any) -> tuple[Floats, Floats]:
            ln_KM, first_KM, second_KM = _derivatives(g_KM, knee_K1[k])
            _, slope_KM, bend_KM = counts.likelihood(counts.offset + ln_KM)
            root_KM = np.sqrt(np.maximum(bend_KM * first_KM**2 - slope_KM * second_KM, 1e-300))
            return slope_KM * first_KM, root_KM

        # From the counts themselves, smoothed: from their mean, the first steps overshoot by far.
        g_KM = _inverse(counts.start_M(), knee_K1)
        a_KM, height_K = np.zeros_like(g_KM), np.full(len(g_KM), -math.inf)
        going = np.arange(len(g_KM))
        for _ in range(100):
            slope_KM, root_KM = information(g_KM[going], going)
            wanted_KM = root_KM**2 * g_KM[going] + slope_KM
            seen_KM = root_KM * _times(prior_KMM[going], wanted_KM)
            inner_KMM = _inner(prior_KMM[going], root_KM)
            solved_KM = np.linalg.solve(inner_KMM, seen_KM[..., None])[..., 0]
            step_KM = wanted_KM - root_KM * solved_KM - a_KM[going]
            gain_K, left = np.zeros(len(going)), np.arange(len(going))
            for size in 0.5 ** np.arange(11):
                at = going[left]
                next_KM = a_KM[at] + size * step_KM[left]
                next_g_KM = _times(prior_KMM[at], next_KM)
                risen_K = height(next_g_KM, next_KM, at)
                up = risen_K > height_K[at]
                gain_K[left[up]] = risen_K[up] - height_K[at[up]]
                a_KM[at[up]], g_KM[at[up]], height_K[at[up]] = (
                    next_KM[up],
                    next_g_KM[up],
                    risen_K[up],
                )
                left = left[~up]
            going = going[gain_K >= 1e-9]
            if not len(going):
                break
        _, root_KM = information(g_KM, slice(None))
        inner_KMM = _inner(prior_KMM, root_KM)
        evidence_K = height_K - 0.5 * np.linalg.slogdet(inner_KMM)[1]
        return cls(
            x_KMC=x_KMC,
            a_KM=a_KM,
            root_KM=root_KM,
            inner_KMM=inner_KMM,
            evidence_K=np.where(np.isfinite(evidence_K), evidence_K, -math.inf),
        )


def _derivatives(g_KM: Floats, knee_K1: Floats) -> tuple[Floats, Floats, Floats]:
    """`log_softplus`, and its first and second derivatives."""
    h_KM = g_KM + knee_K1
    low_KM = h_KM < -30
    safe_KM = np.where(low_KM, 0.0, h_KM)
    rise_KM, soft_KM = 1 / (1 + np.exp(-safe_KM)), np.logaddexp(0.0, safe_KM)
    first_KM = rise_KM / soft_KM
    second_KM = first_KM * (1 - rise_KM) - first_KM**2
    return (
        log_softplus(np, g_KM, knee_K1),
        np.where(low_KM, 1.0, first_KM),
        np.where(low_KM, 0.0, second_KM),
    )


def _inverse(ln_M: Floats, knee_K1: Floats) -> Floats:
    """The g whose `log_softplus` that is: `(K, M)`."""
    low_K1 = knee_K1 < -30
    safe_K1 = np.where(low_K1, 0.0, knee_K1)
    soft_KM = np.exp(ln_M) * np.logaddexp(0.0, safe_K1)
    bent_KM = soft_KM + np.log(-np.expm1(-soft_KM)) - safe_K1
    return np.where(low_K1, ln_M, bent_KM)


def _inner(prior_KMM: Floats, root_KM: Floats) -> Floats:
    return np.eye(root_KM.shape[1]) + root_KM[:, :, None] * prior_KMM * root_KM[:, None, :]


def _times(a_KMM: Floats, b_KM: Floats) -> Floats:
    return np.asarray((a_KMM @ b_KM[..., None])[..., 0])


def log_softplus(xp: Namespace, g: Array, knee: Array) -> Array:
    """ln softplus(g + knee) - ln softplus(knee)."""

    def ln(h: Array) -> Array:
        # Far below 0 softplus is exp; log of what is 0 there would have no derivative.
        low = h < -30
        return xp.where(low, h, xp.log(xp.logaddexp(0.0, xp.where(low, 0.0, h))))

    return ln(g + knee) - ln(knee)
