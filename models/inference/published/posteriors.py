"""Posterior samples of events: HDF5 files of PESummary, as GWOSC publishes them, and of GWTC-1.

A file of PESummary has a dataset of records `ANALYSIS/posterior_samples` for each analysis, and
may tell in `ANALYSIS/priors/analytic` bilby's prior of each parameter. A file of GWTC-1 has
`Overall_posterior` and others. What samples were drawn under is said by who reads them, and held
against what the file tells.

PESummary: Hoy & Raymond (2021), https://arxiv.org/abs/2006.06639
Distance priors: Appendix C of Abbott et al. (2019), https://arxiv.org/abs/1811.12940

Array names end in their axes:
    L posterior samples
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.errors import suggestion
from data_prep.tables import hdf5
from models.inference.mixture import PopulationError
from models.inference.published.universe import (
    PLANCK15,
    PLANCK15_LAL,
    Cosmology,
    Floats,
    Second,
    Universe,
)

Frame = Literal["detector", "source"]
SAMPLES = "/posterior_samples"
"""What follows the name of an analysis of PESummary."""
OLD = {
    "mass_1": "m1_detector_frame_Msun",
    "mass_2": "m2_detector_frame_Msun",
    "luminosity_distance": "luminosity_distance_Mpc",
}
"""Columns of GWTC-1 by PESummary's name."""
DISTANCES = {
    "euclidean": r"PowerLaw\(alpha=2(\.0*)?,",
    "comoving_volume": "UniformComovingVolume",
    "source_frame": "UniformSourceFrame",
}
"""Distance priors, and how bilby writes them."""
COSMOLOGIES = {"Planck15_LAL": PLANCK15_LAL, "Planck15": PLANCK15}
"""By bilby's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingPrior:
    """What samples of an event were drawn under; spins as a `Universe` has them."""

    masses: Frame
    """Frame in whose two component masses it is flat: "detector" for all published catalogues."""
    distance: Literal["euclidean", "comoving_volume", "source_frame"]
    """In D^2 (bilby's `PowerLaw(alpha=2)`, the files *_nocosmo of GWTC-2.1 and 3), in comoving
    volume, or in comoving volume and time at the source (`UniformSourceFrame`, the files *_cosmo
    and GWTC-4)."""
    cosmology: Cosmology | None = None
    """Of the distance prior; "euclidean" needs none."""

    def __post_init__(self) -> None:
        if self.masses not in ("detector", "source") or self.distance not in DISTANCES:
            raise PopulationError(
                "a sampling prior has masses of detector or source and a distance of "
                f"{', '.join(DISTANCES)}, got {self.masses} and {self.distance}"
            )
        if self.cosmology is None and not (self.masses, self.distance) == ("detector", "euclidean"):
            raise PopulationError(
                f"a prior with masses of {self.masses} and the distance {self.distance} needs the "
                "cosmology that it was made with, such as PLANCK15_LAL"
            )

    def ln_density(self, distance: Floats) -> Floats:
        """Log density of redshifted masses and luminosity distances in Mpc, up to a constant."""
        ln_L = 2 * np.log(distance)
        if self.cosmology is not None:
            z_L = self.cosmology.redshift(distance)
            if self.distance != "euclidean":
                ln_L = np.log(self.cosmology.volume_slope(z_L))
                ln_L = ln_L - np.log(self.cosmology.luminosity_distance_slope(z_L))
            if self.distance == "source_frame":
                ln_L = ln_L - np.log1p(z_L)
            if self.masses == "source":
                ln_L = ln_L - 2 * np.log1p(z_L)
        return np.asarray(ln_L)


def read_posterior(
    path: str | Path,
    universe: Universe,
    *,
    prior: SamplingPrior,
    masses: Frame,
    analysis: str | None = None,
    second: Second = "mass_2",
) -> dict[str, Floats]:
    """Posterior samples of one event, as `CatalogLikelihood` and gwpopulation take them.

    Samples beyond the largest redshift of the universe weigh nothing: they are left out, and
    the priors of the others are raised by their share, so that means stay what they are.

    Args:
        path: An HDF5 file.
        universe: The same that injections are read with.
        prior: What the samples were drawn under.
        masses: Columns that are read: "detector" takes `mass_1`, `mass_2`, which are redshifted,
            "source" `mass_1_source`, `mass_2_source` and `redshift`; both `luminosity_distance`.
            Redshift and source frame of what is returned are of the universe's cosmology.
        analysis: Its name in the file, such as C01:Mixed; None for the only one.
        second: The quantity beside mass_1 that the model is a density of.

    Returns:
        Columns `mass_1`, `second` and `redshift`, and `prior` up to a constant, each `(L,)`.

    Raises:
        PopulationError: If the analysis or a column is not there, values cannot be, no sample is
            within the universe, or the file tells of another prior than `prior` and `universe`.
        DataError: If h5py is not installed.
        OSError: If the file cannot be read.
    """
    path = Path(path)
    name, table = _chosen(path, analysis)
    if name.endswith(SAMPLES):
        _compare(path, name.removesuffix(SAMPLES), prior, universe)
    ending = "" if masses == "detector" else "_source"
    wanted = [f"mass_1{ending}", f"mass_2{ending}", "luminosity_distance"]
    wanted += ["redshift"] * bool(ending)
    found = _columns(path, table, wanted)
    one_L, two_L, distance_L = (found[each] for each in wanted[:3])
    stretch_L = 1 + found["redshift"] if ending else np.ones(len(one_L))
    pair = np.maximum(one_L, two_L) * stretch_L, np.minimum(one_L, two_L) * stretch_L
    samples = universe.sources(pair, distance_L, prior.ln_density(distance_L), second=second)
    kept_L = np.isfinite(samples["prior"])
    if not kept_L.any():
        raise PopulationError(
            f"{path}: no posterior sample of {name} is below the redshift "
            f"{universe.max_redshift}: leave the event out, or raise max_redshift"
        )
    samples = {column: values[kept_L] for column, values in samples.items()}
    samples["prior"] = samples["prior"] / kept_L.mean()
    return samples


def _chosen(path: Path, analysis: str | None) -> tuple[str, hdf5.HDF5]:
    """The name and table of an analysis, the only one if none is named."""
    found = {
        name.removesuffix(SAMPLES): (name, table)
        for name, table in hdf5.tables(path).items()
        if name.endswith((SAMPLES, "_posterior"))
    }
    if not found:
        raise PopulationError(
            f"{path} has no posterior samples as PESummary or GWTC-1 has them "
            f"(ANALYSIS{SAMPLES}, Overall_posterior): name another file"
        )
    if analysis is None and len(found) > 1:
        raise PopulationError(
            f"{path} has {len(found)} analyses: choose one of {', '.join(found)} by analysis"
        )
    chosen = analysis or next(iter(found))
    if chosen not in found:
        hint = suggestion(chosen, found, otherwise="its analyses are")
        raise PopulationError(f"{path} has no analysis {chosen}: {hint}")
    return found[chosen]


def _columns(path: Path, table: hdf5.HDF5, wanted: list[str]) -> dict[str, Floats]:
    """The wanted columns by PESummary's names, all positive."""
    there = {each: OLD[each] if OLD.get(each) in table.header else each for each in wanted}
    if missing := [each for each, name in there.items() if name not in table.header]:
        raise PopulationError(
            f"{path}: the samples of {table.name} have no {', '.join(missing)}: choose the other "
            "masses, detector or source, or another analysis"
        )
    read = table.values(list(there.values()))
    found = {each: read[name] for each, name in there.items()}
    good_L = np.all([values > 0 for values in found.values()], axis=0)
    good_L = good_L & np.all([np.isfinite(values) for values in found.values()], axis=0)
    if not good_L.all():
        row = int(np.flatnonzero(~good_L)[0])
        told = ", ".join(f"{each} = {values[row]:g}" for each, values in found.items())
        raise PopulationError(
            f"{path}: row {row + 1} of {table.name} has {told}, where all must be above 0: "
            "choose another analysis"
        )
    return found


def _compare(path: Path, analysis: str, prior: SamplingPrior, universe: Universe) -> None:
    """Hold what is said of a prior against what the file tells, where it does."""
    told = hdf5.texts(path, f"{analysis}/priors/analytic")
    wrong = [*_unlike_masses(told, prior), *_unlike_spins(told, universe.max_spin)]
    # The distance prior of samples that were reweighted is that of the run before.
    about = hdf5.texts(path, analysis).get("description", "")
    reweighted = hdf5.texts(path, f"{analysis}/meta_data/reweighting") or "reweighted" in about
    if not reweighted:
        wrong += _unlike_distance(told.get("luminosity_distance", ""), prior)
    if wrong:
        raise PopulationError(
            f"{path}: {analysis} was drawn under another prior than is said: {'; '.join(wrong)}: "
            "say the file's, or read another analysis"
        )


def _unlike_masses(told: Mapping[str, str], prior: SamplingPrior) -> list[str]:
    text = told.get("chirp_mass", "")
    if not text or ("UniformInComponentsChirpMass" in text and prior.masses == "detector"):
        return []
    return [f"the file's chirp_mass is {text}, not flat in masses of the {prior.masses} frame"]


def _unlike_spins(told: Mapping[str, str], max_spin: float) -> list[str]:
    if "chi_1" in told and "a_1" not in told:
        return [f"the file's spins are aligned, chi_1 is {told['chi_1']}"]
    texts = {name: told[name] for name in ("a_1", "a_2") if name in told}
    ends = {name: re.search(r"maximum=([\d.eE+-]+)", text) for name, text in texts.items()}
    return [
        f"the file's {name} is {texts[name]}, not even up to a max_spin of {max_spin:g}"
        for name, end in ends.items()
        if "Uniform(" not in texts[name] or not end or abs(float(end[1]) - max_spin) > 1e-9
    ]


def _unlike_distance(text: str, prior: SamplingPrior) -> list[str]:
    if text and not re.search(DISTANCES[prior.distance], text):
        return [f"the file's luminosity_distance is {text}, not {prior.distance}"]
    name = re.search(r"=\s*['\"]?(Planck\w+)", text)
    known = COSMOLOGIES.get(name[1]) if name else None
    if name and known is not None and prior.cosmology not in (None, known):
        return [f"the file's cosmology is {name[1]}, not {prior.cosmology}"]
    return []
