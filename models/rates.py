"""Rates of some cells from their counts: a smooth curve with its uncertainty.

    ln odds = offset + ln softplus(g + knee) - ln softplus(knee),    g ~ GP(w(x)),
    counts ~ binomial(rate, simulated), or Poisson(rate x simulated) with ln rate for ln odds

Rates of a plateau differ by tens of per cent from cell to cell, those of a cliff by orders. The
softplus makes both of one g: far above -knee the rate is linear in it, far below exponential. The
warp w, an exponential bent either way, makes the lengths of g (Matern 3/2, one for each coordinate)
shorter toward one end. Of given settings the posterior is Laplace's approximation about its mode,
and the settings (amplitude, lengths, bends, knee) are drawn from theirs: the posterior of the rate
is the mean over some `K` of them. `Curve.single` is what was made before: ln rate = offset + g,
without warps, with the best settings of a grid.

Array names end in their axes:
    N points    M cells    C coordinates    K settings    R draws    D numbers of a setting
    Q nodes of an integral    F features

Source:
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning: algorithms 3.1 and 3.2,
    equation 3.32; the kernel is their equation 4.17.
    Snelson, Rasmussen & Ghahramani (2004), Warped Gaussian Processes.
    Wilson et al. (2020), https://arxiv.org/abs/2002.09309: functions drawn from the posterior.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from models import hyperparameters
from models.hyperparameters import Floats
from models.namespaces import Array, Namespace, log_sum

CELLS_TO_LEARN_FROM = 100
"""Cells, evenly chosen, that the settings are drawn by."""
SETTINGS, ROOM = 16, 200_000
"""Settings that are averaged over at most, and the elements of all their matrices of pairs: of many
cells there are fewer settings, which differ less."""
LENGTHS = np.geomspace(0.1, 10.0, 11)
"""Lengths tried on the grid, in units of a condition's range."""
AMPLITUDES = np.geomspace(0.1, 10.0, 9)
"""Amplitudes tried on the grid."""
CELLS_OF_GRID = 200
"""As `CELLS_TO_LEARN_FROM`, where the settings are the best of a grid."""
LEVEL = 3.0
"""Prior standard deviation of the mean of g, about the log of all mergers over all simulated."""
STRAIGHT = -100.0
"""A knee so low that the rate is exp(offset + g)."""
FARTHEST = 5.0
"""Ranges from the middle of a coordinate beyond which the curve stays as it is."""
NODES_Q, WEIGHTS_Q = np.polynomial.hermite_e.hermegauss(16)
FEATURES = 128
"""Waves that a function drawn from the prior is a sum of."""


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
class Curve:
    """The posterior of the rate: as that of g, and what makes rates of it."""

    middle_C: Floats
    range_C: Floats
    """Of the coordinates of the cells."""
    settings: Settings
    counts: Counts
    x_KMC: Floats
    """Warped coordinates of the cells, in lengths."""
    slope_KM: Floats
    """Derivative of the log likelihood at the mode: what is left of a count after its mean."""
    root_KM: Floats
    """Square root of the information that each cell has on its g."""
    known_KMM: Floats
    """Whose product with a prior covariance has the square that the cells take off a variance."""

    @classmethod
    def fit(cls, x_MC: Floats, counts: Counts) -> Curve:
        """Averaged over settings by their evidence."""
        kept = _evenly(len(x_MC), CELLS_TO_LEARN_FROM)
        unit_MC, counted = _unit(x_MC)[kept], counts[kept]

        def evidence(theta_KD: Floats) -> Floats:
            return _Mode.of(Settings.of(theta_KD), unit_MC, counted).evidence_K

        count = max(1, min(SETTINGS, ROOM // len(x_MC) ** 2))
        theta_KD = hyperparameters.drawn(evidence, *Settings.prior(x_MC.shape[1]), count)
        return cls._of(Settings.of(theta_KD), x_MC, counts)

    @classmethod
    def single(cls, x_MC: Floats, counts: Counts) -> Curve:
        """With the best amplitude and lengths of a grid, without warp, roughness and knee."""
        kept, columns = _evenly(len(x_MC), CELLS_OF_GRID), x_MC.shape[1]
        unit_MC, counted = _unit(x_MC)[kept], counts[kept]

        def evidence(grid_KD: Floats) -> Floats:
            return _Mode.of(Settings.straight(grid_KD), unit_MC, counted).evidence_K

        # Isotropic lengths first, then one number after the other until none of them moves.
        isotropic = itertools.product(AMPLITUDES[::2], LENGTHS[::2])
        starts_SD = np.array([[a, *[length] * columns] for a, length in isotropic])
        best_D = hyperparameters.best(evidence, starts_SD, [AMPLITUDES, *[LENGTHS] * columns])
        return cls._of(Settings.straight(best_D[None]), x_MC, counts)

    @classmethod
    def _of(cls, settings: Settings, x_MC: Floats, counts: Counts) -> Curve:
        mode = _Mode.of(settings, _unit(x_MC), counts)
        root_KMM = np.linalg.cholesky(mode.inner_KMM)
        return cls(
            middle_C=(x_MC.min(0) + x_MC.max(0)) / 2,
            range_C=_ranges(x_MC),
            settings=settings,
            counts=counts,
            x_KMC=mode.x_KMC,
            slope_KM=mode.a_KM,
            root_KM=mode.root_KM,
            known_KMM=np.linalg.inv(root_KMM) * mode.root_KM[:, None, :],
        )

    def at(self, x_NC: Floats, rows: int = 1024) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the log rate, each `(N,)`."""
        mean_N, std_N = np.empty(len(x_NC)), np.empty(len(x_NC))
        for start in range(0, len(x_NC), rows):
            part = slice(start, start + rows)
            ln_NP = self._nodes(np, x_NC[part]).reshape(-1, self._weights_P.size)
            mean_N[part] = ln_NP @ self._weights_P
            std_N[part] = np.sqrt((ln_NP - mean_N[part, None]) ** 2 @ self._weights_P)
        return mean_N, std_N

    def log_mean(self, xp: Namespace, x: Array) -> Array:
        """The log of the mean rate at `(*S, C)`: nothing but array operations."""
        ln = self._nodes(xp, x)
        ln = ln.reshape(*ln.shape[:-2], -1) + xp.asarray(np.log(self._weights_P))
        return log_sum(xp, ln, axis=-1)

    def mean_log(self, xp: Namespace, x: Array) -> Array:
        """The mean log of the rate, in the same way."""
        ln = self._nodes(xp, x)
        return ln.reshape(*ln.shape[:-2], -1) @ xp.asarray(self._weights_P)

    def drawn(self, count: int, seed: int) -> Draws:
        """Functions drawn from the posterior, each of one of the settings."""
        return Draws.of(self, np.arange(count) % len(self.slope_KM), seed)

    @property
    def _weights_P(self) -> Floats:
        """Of settings and nodes, flat."""
        each_Q = WEIGHTS_Q / WEIGHTS_Q.sum()
        return np.tile(each_Q / len(self.slope_KM), len(self.slope_KM))

    def _nodes(self, xp: Namespace, x: Array) -> Array:
        """Log rates at the nodes of an integral over g, `(*S, K, Q)`."""
        covariance = self._covariance(xp, x)
        mean = (covariance * xp.asarray(self.slope_KM)).sum(-1)
        seen = xp.einsum("...km,kjm->...kj", covariance, xp.asarray(self.known_KMM))
        prior_K = xp.asarray(self.settings.amplitude_K**2 + LEVEL**2)
        variance = prior_K - (seen**2).sum(-1)
        # No derivative of a root at 0, where the cells tell all.
        std = xp.sqrt(xp.maximum(variance, 1e-12))
        g = mean[..., None] + std[..., None] * xp.asarray(NODES_Q)
        return self.log_rate(xp, g)

    def log_rate(self, xp: Namespace, g: Array) -> Array:
        """Of g `(*S, K, Q)`."""
        knee = xp.asarray(self.settings.knee_K[:, None])
        return self.counts.log_rate(xp, self.counts.offset + _log_softplus(xp, g, knee))

    def warped(self, xp: Namespace, x: Array) -> Array:
        """Coordinates `(*S, C)`, warped, in lengths: `(*S, K, C)`."""
        unit = (x - xp.asarray(self.middle_C)) / xp.asarray(self.range_C)
        return self.settings.warped(xp, xp.clip(unit, -FARTHEST, FARTHEST)[..., None, :])

    def _covariance(self, xp: Namespace, x: Array) -> Array:
        return self.settings.covariance(xp, self.warped(xp, x), self.x_KMC)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Functions that may be the rate: draws of the posterior.

    A wave of random features drawn from the prior, and the cells' correction of it.
    """

    curve: Curve
    """With a setting for each draw."""
    slope_RM: Floats
    """What the covariance with the cells is multiplied by."""
    wave_RFC: Floats
    phase_RF: Floats
    level_R: Floats

    @classmethod
    def of(cls, curve: Curve, which_R: Any, seed: int) -> Draws:
        """Draws of the settings with these numbers."""
        rng, (count, C) = np.random.default_rng(seed), (len(which_R), len(curve.range_C))
        # The spectra of Matern 1/2 and 3/2 are Student's t of one and of three degrees of freedom.
        freedom_RF = np.where(
            rng.random((count, FEATURES)) < curve.settings.rough_K[which_R, None], 1, 3
        )
        wide_RF1 = np.sqrt(rng.chisquare(freedom_RF) / freedom_RF)[..., None]
        chosen = replace(
            curve,
            settings=curve.settings[which_R],
            x_KMC=curve.x_KMC[which_R],
            slope_KM=curve.slope_KM[which_R],
            root_KM=curve.root_KM[which_R],
            known_KMM=curve.known_KMM[which_R],
        )
        prior = cls(
            curve=chosen,
            slope_RM=np.zeros_like(chosen.slope_KM),
            wave_RFC=rng.standard_normal((count, FEATURES, C)) / wide_RF1,
            phase_RF=rng.uniform(0, 2 * np.pi, (count, FEATURES)),
            level_R=LEVEL * rng.standard_normal(count),
        )
        # Counts as the prior's function would have them, whose distance to the real ones is then
        # interpolated: the product of `known_KMM` with itself inverts the covariance of counts.
        noise_RM = rng.standard_normal(prior.slope_RM.shape) / np.maximum(chosen.root_KM, 1e-150)
        at_cells_RM = prior._prior(np, chosen.x_KMC.swapaxes(0, 1)).T
        seen_RM = np.einsum("rjm,rm->rj", chosen.known_KMM, at_cells_RM + noise_RM)
        taken_RM = np.einsum("rjm,rj->rm", chosen.known_KMM, seen_RM)
        return replace(prior, slope_RM=chosen.slope_KM - taken_RM)

    def log_rate(self, xp: Namespace, x: Array) -> Array:
        """Log rates at `(*S, C)`, of every draw: `(*S, R)`. Nothing but array operations."""
        warped = self.curve.warped(xp, x)
        covariance = self.curve.settings.covariance(xp, warped, self.curve.x_KMC)
        g = self._prior(xp, warped) + (covariance * xp.asarray(self.slope_RM)).sum(-1)
        return self.curve.log_rate(xp, g[..., None])[..., 0]

    def _prior(self, xp: Namespace, warped: Array) -> Array:
        """The drawn function of the prior at `(*S, R, C)`: `(*S, R)`."""
        angle = (xp.asarray(self.wave_RFC) * warped[..., None, :]).sum(-1)
        waves = xp.cos(angle + xp.asarray(self.phase_RF)).sum(-1)
        size_R = self.curve.settings.amplitude_K * math.sqrt(2 / FEATURES)
        return xp.asarray(self.level_R) + xp.asarray(size_R) * waves


@dataclass(frozen=True, kw_only=True)
class _Mode:
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
    def of(cls, settings: Settings, unit_MC: Floats, counts: Counts) -> _Mode:
        """Newton's method, with steps halved where they overshoot."""
        x_MKC = settings.warped(np, unit_MC[:, None])
        x_KMC = x_MKC.swapaxes(0, 1)
        prior_KMM = settings.covariance(np, x_MKC, x_KMC).swapaxes(0, 1)
        knee_K1 = settings.knee_K[:, None]

        def height(g_KM: Floats, a_KM: Floats, k: Any) -> Floats:
            e_KM = counts.offset + _log_softplus(np, g_KM, knee_K1[k])
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


def _log_softplus(xp: Namespace, g: Array, knee: Array) -> Array:
    """ln softplus(g + knee) - ln softplus(knee)."""

    def ln(h: Array) -> Array:
        # Far below 0 softplus is exp; log of what is 0 there would have no derivative.
        low = h < -30
        return xp.where(low, h, xp.log(xp.logaddexp(0.0, xp.where(low, 0.0, h))))

    return ln(g + knee) - ln(knee)


def _derivatives(g_KM: Floats, knee_K1: Floats) -> tuple[Floats, Floats, Floats]:
    """`_log_softplus`, and its first and second derivatives."""
    h_KM = g_KM + knee_K1
    low_KM = h_KM < -30
    safe_KM = np.where(low_KM, 0.0, h_KM)
    rise_KM, soft_KM = 1 / (1 + np.exp(-safe_KM)), np.logaddexp(0.0, safe_KM)
    first_KM = rise_KM / soft_KM
    second_KM = first_KM * (1 - rise_KM) - first_KM**2
    return (
        _log_softplus(np, g_KM, knee_K1),
        np.where(low_KM, 1.0, first_KM),
        np.where(low_KM, 0.0, second_KM),
    )


def _inverse(ln_M: Floats, knee_K1: Floats) -> Floats:
    """The g whose `_log_softplus` that is: `(K, M)`."""
    low_K1 = knee_K1 < -30
    safe_K1 = np.where(low_K1, 0.0, knee_K1)
    soft_KM = np.exp(ln_M) * np.logaddexp(0.0, safe_K1)
    bent_KM = soft_KM + np.log(-np.expm1(-soft_KM)) - safe_K1
    return np.where(low_K1, ln_M, bent_KM)


def _inner(prior_KMM: Floats, root_KM: Floats) -> Floats:
    return np.eye(root_KM.shape[1]) + root_KM[:, :, None] * prior_KMM * root_KM[:, None, :]


def _times(a_KMM: Floats, b_KM: Floats) -> Floats:
    return np.asarray((a_KMM @ b_KM[..., None])[..., 0])


def _ranges(x_MC: Floats) -> Floats:
    range_C = np.ptp(x_MC, axis=0)
    return np.where(range_C > 0, range_C, 1.0)


def _unit(x_MC: Floats) -> Floats:
    """In ranges about the middle."""
    return np.asarray((x_MC - (x_MC.min(0) + x_MC.max(0)) / 2) / _ranges(x_MC))


def _evenly(cells: int, most: int) -> Any:
    """Numbers of cells to learn from."""
    return np.unique(np.linspace(0, cells - 1, most).round().astype(int))
