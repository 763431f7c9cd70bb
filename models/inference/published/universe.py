"""What detectors see, as sources: cosmology, and the redshifts and spins that a model leaves open.

Detectors measure redshifted masses and a luminosity distance D. A density of these becomes one of
source-frame masses and redshift z by (1 + z)^2 dD/dz. A model of masses alone is completed by one
`Universe`, the same for posterior samples and injections: what both divide by cannot differ.

Array names end in their axes:
    N rows
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicHermiteSpline
from scipy.special import hyp2f1

from models.inference.mixture import PopulationError

Floats = NDArray[np.float64]
Second = Literal["mass_2", "mass_ratio"]
LIGHT = 299792.458
"""Speed of light in km/s."""
FARTHEST = 1000.0
"""Redshift up to which a distance is turned into one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosmology:
    """A flat universe of matter and a cosmological constant."""

    hubble: float
    """Hubble constant in km/s/Mpc."""
    matter: float
    """Density of matter over the critical one, today."""

    def __post_init__(self) -> None:
        if not (0 < self.hubble < math.inf and 0 < self.matter < 1):
            raise PopulationError(
                f"a cosmology has a Hubble constant above 0 and matter between 0 and 1, got "
                f"{self.hubble:g} km/s/Mpc and {self.matter:g}"
            )

    def comoving_distance(self, z: ArrayLike) -> Floats:
        """In Mpc.

        Source:
            Baes, Camps & Van De Putte (2017), MNRAS 468, 927
        """
        s = ((1 - self.matter) / self.matter) ** (1 / 3)

        def part(x: ArrayLike) -> Floats:
            x_N = np.asarray(x, float)
            return np.asarray(2 * np.sqrt(x_N) * hyp2f1(1 / 6, 1 / 2, 7 / 6, -(x_N**3)))

        whole = part(s) - part(s / (1 + np.asarray(z, float)))
        return np.asarray(LIGHT / self.hubble * whole / math.sqrt(s * self.matter))

    def luminosity_distance(self, z: ArrayLike) -> Floats:
        """In Mpc."""
        return np.asarray((1 + np.asarray(z, float)) * self.comoving_distance(z))

    def luminosity_distance_slope(self, z: ArrayLike) -> Floats:
        """Mpc for each unit of redshift."""
        z_N = np.asarray(z, float)
        return np.asarray(self.comoving_distance(z_N) + (1 + z_N) * self._comoving_slope(z_N))

    def volume_slope(self, z: ArrayLike) -> Floats:
        """Comoving volume of the whole sky for each unit of redshift, in Gpc^3."""
        distance_N = self.comoving_distance(z) / 1e3
        return np.asarray(4e-3 * math.pi * distance_N**2 * self._comoving_slope(z))

    def redshift(self, luminosity_distance: ArrayLike) -> Floats:
        """Of luminosity distances in Mpc.

        Raises:
            PopulationError: If a distance is not above 0, or beyond a redshift of 1000.
        """
        distance_N = np.asarray(luminosity_distance, float)
        grid = np.expm1(np.linspace(0, math.log1p(FARTHEST), 2000))
        known = self.luminosity_distance(grid)
        if not ((distance_N > 0) & (distance_N < known[-1])).all():
            raise PopulationError(
                f"luminosity distances must be from 0 to {known[-1]:.4g} Mpc: give them in Mpc"
            )
        slope = 1 / self.luminosity_distance_slope(grid)
        return np.asarray(CubicHermiteSpline(known, grid, slope)(distance_N))

    def _comoving_slope(self, z: ArrayLike) -> Floats:
        cubed = (1 + np.asarray(z, float)) ** 3
        return np.asarray(LIGHT / self.hubble / np.sqrt(self.matter * cubed + 1 - self.matter))


PLANCK15_LAL = Cosmology(hubble=67.90, matter=0.3065)
"""Planck15_LAL of bilby and LALSuite, which the injections of O3 and O4a were made with."""
PLANCK15 = Cosmology(hubble=67.74, matter=0.3075)
"""Planck15 of astropy and wcosmo, but for radiation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Universe:
    """The distribution of redshifts and spins that completes a model of masses.

    Spins are isotropic, their magnitudes evenly distributed from 0 to `max_spin`, as in the priors
    of parameter estimation. Mergers go with the comoving volume and the time at their source as
    (1 + z)^evolution, so that z has the density dV/dz (1 + z)^(evolution - 1), as gwpopulation's
    `PowerLawRedshift`.
    """

    cosmology: Cosmology
    """That source-frame masses and redshifts are told in."""
    max_spin: float
    evolution: float | None
    """0 for a merger rate that never changed; None for a model that has the column `redshift`."""
    max_redshift: float | None = None
    """Beyond which nothing merges; None with an evolution of None alone."""

    def __post_init__(self) -> None:
        if not 0 < self.max_spin <= 1:
            raise PopulationError(f"max_spin must be above 0 and at most 1, got {self.max_spin}")
        if (self.evolution is None) != (self.max_redshift is None):
            raise PopulationError(
                "evolution and max_redshift belong together: give both, or both as None for a "
                "model that has the column redshift"
            )
        if self.max_redshift is not None and not 0 < self.max_redshift < FARTHEST:
            raise PopulationError(
                f"max_redshift must be above 0 and below {FARTHEST:g}, got {self.max_redshift}"
            )

    def hypervolume(self, years: float) -> float:
        """Gpc^3 yr in which so many years of observation find mergers at the rate of today.

        A merger rate R in Gpc^-3 yr^-1 at z = 0 makes R times that many mergers, detected or not.

        Raises:
            PopulationError: If the model, not this universe, says how mergers evolve.
        """
        return years * self._volume

    def sources(
        self,
        masses: tuple[Floats, Floats],
        distance: Floats,
        ln_density_N: Floats,
        *,
        second: Second,
    ) -> dict[str, Floats]:
        """Columns for a likelihood: masses, redshift, and `prior`; inf where nothing merges.

        Args:
            masses: The heavier one and the lighter, each `(N,)`, redshifted, in Msun.
            distance: Luminosity distance in Mpc, `(N,)`.
            ln_density_N: Log of the density of these three that rows were drawn from.
            second: The quantity beside mass_1 that the model is a density of.

        Returns:
            `mass_1`, `second`, `redshift`, and in `prior` the density of the first two, over which
            the redshift that is taken for granted is divided; of all three without an evolution.
        """
        z_N = self.cosmology.redshift(distance)
        first_N, other_N = masses[0] / (1 + z_N), masses[1] / (1 + z_N)
        ln_N = ln_density_N + 2 * np.log1p(z_N)
        ln_N = ln_N + np.log(self.cosmology.luminosity_distance_slope(z_N))
        if self.evolution is not None:
            ln_N = ln_N - self._ln_redshift(z_N)
        if second == "mass_ratio":
            other_N, ln_N = other_N / first_N, ln_N + np.log(first_N)
        return {"mass_1": first_N, second: other_N, "redshift": z_N, "prior": np.exp(ln_N)}

    def _ln_redshift(self, z_N: Floats) -> Floats:
        """Log density of redshifts; -inf beyond the largest."""
        most = self.max_redshift or 0.0
        within_N = z_N <= most
        ln_N = np.log(self._mergers(np.where(within_N, z_N, most)) / self._volume)
        return np.where(within_N, ln_N, -math.inf)

    def _mergers(self, z: Floats) -> Floats:
        if self.evolution is None:
            raise PopulationError(
                "this universe knows no evolution of mergers, since the model does: give evolution "
                "and max_redshift, or the exposure itself"
            )
        return np.asarray(self.cosmology.volume_slope(z) * (1 + z) ** (self.evolution - 1))

    @property
    def _volume(self) -> float:
        """In Gpc^3, by Gauss and Legendre: the integrand is smooth."""
        at, weights = np.polynomial.legendre.leggauss(200)
        half = (self.max_redshift or 0.0) / 2
        return float(half * (weights * self._mergers(half * (1 + at))).sum())
