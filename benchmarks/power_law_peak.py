"""A second table of mergers whose density is known: a power law and a peak, with a smooth turn-on.

The density is gwpopulation's `SinglePeakSmoothedMassDistribution` (Talbot & Thrane 2018,
https://arxiv.org/abs/1801.02699), by gwpopulation itself; its parameters move smoothly with Z and
alpha. Nothing in it has the shape of a flow's building blocks, and no flow was designed or tuned on
it before it was measured. The cells and the rows in each are those of `known_density`.

gwpopulation normalises by sums over a grid, here fine enough for 1e-4. Rows do not depend on the
grid: they are drawn by rejection, which is exact.

Arrays end in their axes:
    N rows
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import known_density
import numpy as np
from gwpopulation.models.mass import SinglePeakSmoothedMassDistribution
from known_density import ALPHA_GRID, ROWS, Z_GRID, Floats
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from data_prep.dataset import Dataset

LOWEST, HIGHEST = 2.0, 100.0
"""Masses between which gwpopulation normalises, Msun."""
NORMALISATION = (4000, 2000)
"""Points of its grid of masses and of mass ratios."""


def parameters(z: float, alpha: float) -> dict[str, float]:
    """What gwpopulation calls alpha is the slope of the power law; masses are in Msun."""
    # In single precision the least Z of the grid can be below it.
    metal = max(0.0, np.log(z / Z_GRID[0]) / np.log(Z_GRID[-1] / Z_GRID[0]))
    binding = np.log(alpha / ALPHA_GRID[0]) / np.log(ALPHA_GRID[-1] / ALPHA_GRID[0])
    return {
        "alpha": 2.0 + 1.6 * metal + 0.4 * binding,
        "beta": 0.4 + 1.8 * binding + 0.6 * metal * (1 - binding),
        "mmin": 4.0 + 1.5 * metal + 0.5 * binding,
        "mmax": HIGHEST,
        "lam": 0.03 + 0.3 / (1 + np.exp(8 * (metal - 0.5))),
        "mpp": 37.0 - 15.0 * metal**1.5 + 2.0 * binding,
        "sigpp": 2.5 + 2.0 * metal + 1.0 * binding,
        "delta_m": 3.0 + 2.5 * binding - 1.0 * metal,
    }


def sample(z_N: ArrayLike, alpha_N: ArrayLike, rng: np.random.Generator) -> Floats:
    """One event for each condition: `(N, 2)`, Msun."""
    z_N, alpha_N = np.broadcast_arrays(z_N, alpha_N)
    events_N2 = np.empty((len(z_N), 2))
    for point, rows in _points(z_N, alpha_N):
        mass_0 = _primary(point, len(rows), rng)
        events_N2[rows] = np.stack([mass_0, mass_0 * _ratio(point, mass_0, rng)], axis=1)
    return events_N2


def log_prob(
    events_N2: NDArray[np.floating],
    z_N: ArrayLike,
    alpha_N: ArrayLike,
    normalisation: tuple[int, int] = NORMALISATION,
) -> Floats:
    """True log density [natural log, Msun^-2] of each event, `(N,)`; -inf outside the support."""
    events_N2 = np.asarray(events_N2, float)
    z_N, alpha_N = np.broadcast_arrays(z_N, alpha_N)
    found_N = np.empty(len(events_N2))
    for point, rows in _points(z_N, alpha_N):
        mass_0, mass_1 = events_N2[rows].T
        at = {"mass_1": mass_0, "mass_ratio": mass_1 / mass_0}
        # Its density is of the first mass and the ratio.
        found_N[rows] = _model(normalisation).ln_prob(at, **point) - np.log(mass_0)
    return found_N


def write(folder: Path, rows: int = ROWS, seed: int = 0) -> Dataset:
    """A table as a prepared dataset in the new folder `folder`."""
    rng = np.random.default_rng(seed)
    z_N, alpha_N = known_density.conditions(rows, rng)
    events_N2 = sample(z_N, alpha_N, rng)
    command = f"power_law_peak.write({rows}, {seed})"
    return known_density.prepared(folder, z_N, alpha_N, events_N2, command)


def _points(z_N: Floats, alpha_N: Floats) -> Iterator[tuple[dict[str, float], NDArray[np.intp]]]:
    """The parameters at each distinct condition, and its rows."""
    points_U2, index_N = np.unique(np.stack([z_N, alpha_N], 1), axis=0, return_inverse=True)
    for number, (z, alpha) in enumerate(points_U2):
        yield parameters(z, alpha), np.flatnonzero(index_N.ravel() == number)


@cache
def _model(normalisation: tuple[int, int]) -> SinglePeakSmoothedMassDistribution:
    # Its cache takes other masses for the same ones where there are as many.
    return SinglePeakSmoothedMassDistribution(
        mmin=LOWEST, mmax=HIGHEST, normalization_shape=normalisation, cache=False
    )


def _turn_on(point: dict[str, float], mass_N: Floats) -> Floats:
    """The window that rises from 0 at the least mass to 1."""
    smoothing = SinglePeakSmoothedMassDistribution.smoothing
    window_N: Floats = smoothing(mass_N, mmin=point["mmin"], mmax=HIGHEST, delta_m=point["delta_m"])
    return window_N


def _primary(point: dict[str, float], rows: int, rng: np.random.Generator) -> Floats:
    """First masses: power law or peak, kept by the window."""
    low, slope, kept, found = point["mmin"], 1 - point["alpha"], [np.empty(0)], 0
    ends = ndtr((np.array([low, HIGHEST]) - point["mpp"]) / point["sigpp"])
    while found < rows:
        u_N, v_N = rng.random((2, 2 * (rows - found) + 100))
        power_N = (low**slope + v_N * (HIGHEST**slope - low**slope)) ** (1 / slope)
        peak_N = point["mpp"] + point["sigpp"] * ndtri(ends[0] + v_N * (ends[1] - ends[0]))
        mass_N = np.where(u_N < point["lam"], peak_N, power_N)
        kept.append(mass_N[rng.random(len(mass_N)) < _turn_on(point, mass_N)])
        found += len(kept[-1])
    return np.concatenate(kept)[:rows]


def _ratio(point: dict[str, float], mass_0: Floats, rng: np.random.Generator) -> Floats:
    """Mass ratios under first masses: a power law, kept by the window over its highest value."""
    power = point["beta"] + 1
    least_N, highest_N = (point["mmin"] / mass_0) ** power, _turn_on(point, mass_0)
    ratio_N, left = np.empty(len(mass_0)), np.arange(len(mass_0))
    while len(left):
        u_N, v_N = rng.random((2, len(left)))
        ratio_N[left] = (least_N[left] + u_N * (1 - least_N[left])) ** (1 / power)
        window_N = _turn_on(point, mass_0[left] * ratio_N[left])
        left = left[v_N * highest_N[left] >= window_N]
    return ratio_N
