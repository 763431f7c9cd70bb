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
from typing import Any

import numpy as np

from models import hyperparameters
from models.hyperparameters import Floats
from models.modes import LEVEL, Counts, Mode, Settings, log_softplus
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
FARTHEST = 5.0
"""Ranges from the middle of a coordinate beyond which the curve stays as it is."""
NODES_Q, WEIGHTS_Q = np.polynomial.hermite_e.hermegauss(16)
FEATURES = 128
"""Waves that a function drawn from the prior is a sum of."""


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
            return Mode.of(Settings.of(theta_KD), unit_MC, counted).evidence_K

        count = max(1, min(SETTINGS, ROOM // len(x_MC) ** 2))
        theta_KD = hyperparameters.drawn(evidence, *Settings.prior(x_MC.shape[1]), count)
        return cls._of(Settings.of(theta_KD), x_MC, counts)

    @classmethod
    def single(cls, x_MC: Floats, counts: Counts) -> Curve:
        """With the best amplitude and lengths of a grid, without warp, roughness and knee."""
        kept, columns = _evenly(len(x_MC), CELLS_OF_GRID), x_MC.shape[1]
        unit_MC, counted = _unit(x_MC)[kept], counts[kept]

        def evidence(grid_KD: Floats) -> Floats:
            return Mode.of(Settings.straight(grid_KD), unit_MC, counted).evidence_K

        # Isotropic lengths first, then one number after the other until none of them moves.
        isotropic = itertools.product(AMPLITUDES[::2], LENGTHS[::2])
        starts_SD = np.array([[a, *[length] * columns] for a, length in isotropic])
        best_D = hyperparameters.best(evidence, starts_SD, [AMPLITUDES, *[LENGTHS] * columns])
        return cls._of(Settings.straight(best_D[None]), x_MC, counts)

    @classmethod
    def _of(cls, settings: Settings, x_MC: Floats, counts: Counts) -> Curve:
        mode = Mode.of(settings, _unit(x_MC), counts)
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
        return self.counts.log_rate(xp, self.counts.offset + log_softplus(xp, g, knee))

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


def _ranges(x_MC: Floats) -> Floats:
    range_C = np.ptp(x_MC, axis=0)
    return np.where(range_C > 0, range_C, 1.0)


def _unit(x_MC: Floats) -> Floats:
    """In ranges about the middle."""
    return np.asarray((x_MC - (x_MC.min(0) + x_MC.max(0)) / 2) / _ranges(x_MC))


def _evenly(cells: int, most: int) -> Any:
    """Numbers of cells to learn from."""
    return np.unique(np.linspace(0, cells - 1, most).round().astype(int))
