"""Found injections of sensitivity estimates, with the density that they were drawn from.

Read are the files of LIGO-T2100113 and T2100377 (O3, and O1 to O3: the group `injections`), and of
T2400073 and T2400110 (O4a, and O1 to O4a: the records `events`). They differ in the variates that
the density is told of: source-frame masses, redshift, and spins by their components, or by
magnitude and angles. Spins are divided out by the distribution of the `Universe`.

Essick et al. (2025), https://arxiv.org/abs/2508.10638 (O1 to O4a)

Array names end in their axes:
    N injections
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.tables import hdf5
from models.inference.mixture import PopulationError
from models.inference.published.universe import Cosmology, Floats, Second, Universe

TABLES = ("injections", "events")
MASSES = ("mass1_source", "mass2_source")
REDSHIFTS = ("redshift", "z")
DISTANCES = ("distance", "luminosity_distance")
COMPONENTS = tuple(f"spin{which}{axis}" for which in (1, 2) for axis in "xyz")
ANGLES = tuple(
    f"spin{which}_{part}"
    for which in (1, 2)
    for part in ("magnitude", "polar_angle", "azimuthal_angle")
)
LOUD = "semianalytic_observed_phase_maximized_snr_net"
"""Signal-to-noise ratio of injections into O1 and O2, which no search looked for."""
OPTIMAL = "optimal_snr_net"
"""That of the O1 to O3 file, in which the column `name` tells the run."""
DENSITIES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("lnpdraw_mass1_source_mass2_source_redshift_" + "_".join(COMPONENTS),), COMPONENTS),
    (("lnpdraw_mass1_source_mass2_source_redshift_" + "_".join(ANGLES),), ANGLES),
    (("sampling_pdf",), COMPONENTS),
    (
        (
            "mass1_source_mass2_source_sampling_pdf",
            "redshift_sampling_pdf",
            "spin1x_spin1y_spin1z_sampling_pdf",
            "spin2x_spin2y_spin2z_sampling_pdf",
        ),
        COMPONENTS,
    ),
    (
        (
            "lnpdraw_mass1_source",
            "lnpdraw_mass2_source_GIVEN_mass1_source",
            "lnpdraw_z",
            *(f"lnpdraw_{name}" for name in ANGLES),
        ),
        ANGLES,
    ),
)
"""Columns whose product is the density, or whose sum is its log, and the spins that it is of."""
TOTALS = ("total_generated",)
TIMES = ("analysis_time_s", "total_analysis_time", "analysis_time")
"""Attributes: injections that were made, and seconds of observation."""
YEAR = 365.25 * 86400
APART = 1e-3
"""By which distances of a file may differ from those of the cosmology that is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Injections:
    """Those found of the injections into some time of observation."""

    found: dict[str, Floats]
    """Columns with `prior`, the density that they were drawn from, as `CatalogLikelihood` wants."""
    drawn: int
    """Injections that were made, found or not."""
    years: float
    """Of observation."""

    def __add__(self, other: Injections) -> Injections:
        """Those of two runs together, each by its share of the time.

        The mean over all that were drawn becomes the mean of the runs' detected fractions, weighted
        by their years.
        """
        if set(self.found) != set(other.found) or not (self.years > 0 and other.years > 0):
            raise PopulationError(
                "injections of two runs have the same columns and times of observation above 0, "
                f"got {', '.join(self.found)} over {self.years:g} years and "
                f"{', '.join(other.found)} over {other.years:g} years: read them alike"
            )
        drawn, years = self.drawn + other.drawn, self.years + other.years
        priors = [
            each.found["prior"] * (each.drawn / drawn) * (years / each.years)
            for each in (self, other)
        ]
        found = {
            name: np.concatenate([self.found[name], other.found[name]]) for name in self.found
        } | {"prior": np.concatenate(priors)}
        return Injections(found=found, drawn=drawn, years=years)


def read_injections(
    path: str | Path,
    universe: Universe,
    *,
    cosmology: Cosmology,
    far: float,
    snr: float | None = None,
    second: Second = "mass_2",
) -> Injections:
    """The injections that a search, or a threshold in loudness, finds.

    Injections of no weight, beyond the largest redshift or spin of the universe, are left out.

    Args:
        path: An HDF5 file.
        universe: The same that posterior samples are read with.
        cosmology: That the file's redshifts are told in; PLANCK15_LAL for those of O3 and O4a.
        far: Largest false alarm rate, in 1/yr, of any search; the same that chose the events.
        snr: Smallest signal-to-noise ratio of injections that no search looked for (O1 and O2). A
            file with such injections needs it.
        second: The quantity beside mass_1 that the model is a density of.

    Raises:
        PopulationError: If the layout is none that is known, a threshold is missing, the distances
            are of another cosmology, or none is found.
        DataError: If h5py is not installed.
        OSError: If the file cannot be read.
    """
    path = Path(path)
    name, table = _chosen(path)
    header = set(table.header)
    told, spins = _density(path, header)
    rates = [each for each in table.header if _is_far(each)]
    wanted = {*MASSES, *told, *spins, *rates}
    wanted |= {*REDSHIFTS, *DISTANCES, LOUD, OPTIMAL, "weights"} & header
    columns = table.values(wanted)
    found_N = _found(path, table, columns, rates, far, snr)
    columns = {each: values[found_N] for each, values in columns.items()}

    z_N = next(columns[each] for each in REDSHIFTS if each in columns)
    distance_N = cosmology.luminosity_distance(z_N)
    _check(path, columns, distance_N)
    ln_N = _ln_drawn(columns, told) - _ln_spins(columns, spins, universe.max_spin)
    ln_N = ln_N - np.log(columns.get("weights", 1.0))
    ln_N = ln_N - 2 * np.log1p(z_N) - np.log(cosmology.luminosity_distance_slope(z_N))
    heavier_N, lighter_N = (columns[each] * (1 + z_N) for each in MASSES)
    found = universe.sources((heavier_N, lighter_N), distance_N, ln_N, second=second)
    kept_N = ~np.isposinf(found["prior"])
    found = {each: values[kept_N] for each, values in found.items()}
    attributes = hdf5.attributes(path, name)
    return Injections(
        found=found,
        drawn=int(_number(path, attributes, TOTALS)),
        years=_number(path, attributes, TIMES) / YEAR,
    )


def _chosen(path: Path) -> tuple[str, hdf5.HDF5]:
    there = hdf5.tables(path)
    for name in TABLES:
        if name in there and set(MASSES) <= set(there[name].header):
            return name, there[name]
    raise PopulationError(
        f"{path} has no injections: those of O3 are in the group injections, those of O4a in the "
        f"records events, with {', '.join(MASSES)}; found {', '.join(there) or 'no table'}"
    )


def _density(path: Path, header: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns of the density, and of the spins that it is of."""
    for told, spins in DENSITIES:
        if {*told, *spins} <= set(header) and set(REDSHIFTS) & set(header):
            return told, spins
    there = sorted(name for name in header if "pdf" in name or "pdraw" in name)
    raise PopulationError(
        f"{path} tells the density of injections in a way that is not known, by "
        f"{', '.join(there) or 'no column'}: give the columns and prior to CatalogLikelihood "
        "yourself"
    )


def _is_far(name: str) -> bool:
    """Whether a column is the false alarm rate that a search gives, or its inverse."""
    name = name.lower()
    return name.startswith(("far_", "ifar_")) or name.endswith(("_far", "_ifar"))


def _found(
    path: Path,
    table: hdf5.HDF5,
    columns: Mapping[str, Floats],
    rates: Collection[str],
    far: float,
    snr: float | None,
) -> NDArray[np.bool_]:
    """Which are found; a search that knows nothing of an injection has not found it."""
    found_N = np.zeros(table.rows, bool)
    for name in rates:
        inverse = "ifar" in name.lower()
        with np.errstate(divide="ignore"):
            found_N |= (1 / columns[name] if inverse else columns[name]) < far
    loud_N = np.full(table.rows, math.nan)
    if LOUD in columns:
        loud_N = columns[LOUD]
    elif OPTIMAL in columns and "name" in table.header:
        loud_N = np.where(_before_o3(table), columns[OPTIMAL], math.nan)
    if snr is None and np.isfinite(loud_N).any():
        raise PopulationError(
            f"{path} has injections that no search looked for, of O1 and O2, known by their "
            "signal-to-noise ratio alone: give the threshold snr, such as 10"
        )
    found_N |= loud_N > (math.inf if snr is None else snr)
    if not found_N.any():
        raise PopulationError(
            f"{path}: none of {table.rows} injections has a false alarm rate below {far:g} per "
            f"year in {', '.join(rates) or 'any column'}: raise far"
        )
    return found_N


def _before_o3(table: hdf5.HDF5) -> NDArray[np.bool_]:
    chunks = table.chunks({"name": "name"}, ())
    runs = [text for chunk in chunks for text in chunk.texts["name"].to_pylist()]
    return np.isin(runs, ("o1", "o2"))


def _check(path: Path, columns: Mapping[str, Floats], distance_N: Floats) -> None:
    first_N, second_N = (columns[name] for name in MASSES)
    if not ((first_N >= second_N) & (second_N > 0)).all():
        raise PopulationError(
            f"{path} has injections with mass2_source above mass1_source or not above 0, whose "
            "density cannot be told: order them in another file"
        )
    for name in DISTANCES:
        away = np.abs(columns.get(name, distance_N) / distance_N - 1).max()
        if away > APART:
            raise PopulationError(
                f"{path}: {name} and redshift are of another cosmology than is said, distances "
                f"differ by up to {away:.2g}: give the file's as cosmology"
            )


def _ln_drawn(columns: Mapping[str, Floats], told: Collection[str]) -> Floats:
    """Log density in the variates of the file."""
    logs = [columns[n] if n.startswith("lnpdraw") else np.log(columns[n]) for n in told]
    return np.asarray(np.sum(logs, axis=0))


def _ln_spins(columns: Mapping[str, Floats], spins: tuple[str, ...], most: float) -> Floats:
    """Log density, in the same variates, of even magnitudes up to `most` and isotropic spins."""
    ln_N: Any = 0.0
    for which in (spins[:3], spins[3:]):
        parts = [columns[name] for name in which]
        if spins == COMPONENTS:
            magnitude_N = np.sqrt(np.sum(np.square(parts), axis=0))
            ln_N = ln_N - np.log(4 * math.pi * magnitude_N**2)
        else:
            magnitude_N = parts[0]
            ln_N = ln_N + np.log(np.sin(parts[1]) / (4 * math.pi))
        ln_N = ln_N + np.where(magnitude_N <= most, -math.log(most), -math.inf)
    return np.asarray(ln_N)


def _number(path: Path, attributes: Mapping[str, Any], names: Collection[str]) -> float:
    for name in names:
        if name in attributes:
            return float(np.asarray(attributes[name]).reshape(-1)[0])
    raise PopulationError(
        f"{path} has none of the attributes {', '.join(names)}, which tell how many injections "
        "were made and how long was observed: give the columns to CatalogLikelihood yourself"
    )
