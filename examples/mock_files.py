"""A made-up catalogue in the files that collaborations publish: PESummary's, and injections.

    python examples/mock_files.py PREPARED CATALOG [--events 200] [--samples 300]
                                  [--injections 230000] [--seed 1]

Needs `pip install h5py`. Its mergers are test rows of one cell of a prepared dataset, which no
training saw, at redshifts of `UNIVERSE`, each row at most once. A detector measures chirp mass,
mass ratio and distance, and finds what seems loud enough to it. CATALOG gets `events/*.h5`,
`injections.hdf` and `truth.json`.

Array names end in their axes:
    N mergers    K kernels    L posterior samples
"""

import argparse
import json
from pathlib import Path

import h5py
import numpy as np

from data_prep.dataset import Dataset
from data_prep.stream import read_split
from models import SamplingPrior, Universe
from models.inference.published.universe import PLANCK15_LAL

UNIVERSE = Universe(cosmology=PLANCK15_LAL, max_spin=0.99, evolution=2.7, max_redshift=0.7)
PRIOR = SamplingPrior(masses="detector", distance="source_frame", cosmology=PLANCK15_LAL)
RATE = 20.0
"""Mergers per Gpc^3 and year today."""
ERRORS = np.array([0.02, 0.05, 0.05])
"""Of the logarithms of redshifted chirp mass, mass ratio and luminosity distance."""
REACH = 2800.0
"""Mpc at which two black holes of a redshifted chirp mass of 15 Msun are just found."""
YEAR = 365.25 * 86400
TOLD = {
    "luminosity_distance": "bilby.gw.prior.UniformSourceFrame(minimum=1.0, maximum=9000.0, "
    "cosmology='Planck15_LAL', name='luminosity_distance', unit='Mpc')",
    "chirp_mass": "bilby.gw.prior.UniformInComponentsChirpMass(minimum=1.0, maximum=150.0)",
    "mass_ratio": "bilby.gw.prior.UniformInComponentsMassRatio(minimum=0.02, maximum=1.0)",
    "a_1": "Uniform(minimum=0, maximum=0.99, name='a_1')",
    "a_2": "Uniform(minimum=0, maximum=0.99, name='a_2')",
}
"""What the files tell of the priors of their samples, as those of GWTC-4 do."""


def make(
    prepared: str,
    catalog: Path,
    *,
    events: int = 200,
    samples: int = 300,
    injections: int = 230_000,
    seed: int = 1,
) -> None:
    """Write the files of a catalogue of so many detected mergers."""
    rng = np.random.default_rng(seed)
    masses, truth = _held_back(prepared, rows=3 * events)
    seen = _observed(rng.permutation(masses), _redshifts(len(masses), rng), rng)
    found = np.flatnonzero(_loud(seen))[:events]
    if len(found) < events:
        raise SystemExit(f"{len(found)} of {len(masses)} mergers are loud: take fewer --events")
    (catalog / "events").mkdir(parents=True)
    for number, data in enumerate(seen[found]):
        columns = analysis(*_posterior(data, samples, rng))
        path = catalog / "events" / f"mock{number:04d}.h5"
        write_pesummary(path, {"C00:Mock": columns}, told=TOLD)
    # So many mergers happened before the last one was found.
    years = (found[-1] + 1) / (RATE * UNIVERSE.hypervolume(1.0))
    _inject(
        catalog / "injections.hdf", read_split(prepared, "train").events, injections, years, rng
    )
    (catalog / "truth.json").write_text(json.dumps(truth | {"rate": RATE}) + "\n")


def records(columns):
    """A dataset of records, as catalogues have it."""
    table = np.zeros(len(next(iter(columns.values()))), [(name, "f8") for name in columns])
    for name, values in columns.items():
        table[name] = values
    return table


def analysis(mass_1, mass_2, distance, cosmology=PLANCK15_LAL):
    """The columns of PESummary that depend on these, which are of the detector's frame."""
    z = cosmology.redshift(distance)
    return {
        "mass_1": mass_1,
        "mass_2": mass_2,
        "luminosity_distance": distance,
        "redshift": z,
        "mass_1_source": mass_1 / (1 + z),
        "mass_2_source": mass_2 / (1 + z),
        "mass_ratio": mass_2 / mass_1,
        "a_1": np.full(len(mass_1), 0.3),
    }


def write_pesummary(path, analyses, told=None, description=""):
    """A file of PESummary; `told` are analytic priors of all analyses."""
    with h5py.File(path, "w") as file:
        file["version/pesummary"] = np.array([b"1.0.0"])
        for name, columns in analyses.items():
            group = file.create_group(name)
            group["posterior_samples"] = records(columns)
            group["approximant"] = np.array([b"IMRPhenomXPHM"])
            group["description"] = np.array([description.encode()])
            group["psds/H1"] = np.ones((5, 2))
            group["priors/samples/mass_1"] = np.ones(3)
            for parameter, text in (told or {}).items():
                group[f"priors/analytic/{parameter}"] = np.array([text.encode()])
    return path


def _held_back(prepared, rows):
    """Masses of the test rows of the cell nearest to the middle that has so many, and the cell."""
    test = read_split(prepared, "test")
    conditions = test.conditions.astype(float)
    cells, cell, counts = np.unique(conditions, axis=0, return_inverse=True, return_counts=True)
    middle = np.log(conditions.min(0) * conditions.max(0)) / 2
    away = ((np.log(cells) - middle) ** 2).sum(1)
    nearest = np.where(counts >= min(rows, counts.max()), away, np.inf).argmin()
    names = [column.name for column in Dataset.read(Path(prepared)).condition_columns]
    truth = dict(zip(names, cells[nearest].tolist(), strict=True))
    return test.events[cell.ravel() == nearest].astype(float), truth


def _redshifts(rows, rng):
    """Drawn from the distribution of mergers in the universe."""
    z = np.linspace(1e-4, UNIVERSE.max_redshift, 5000)
    return np.interp(rng.random(rows), np.cumsum(_per_redshift(z)) / _per_redshift(z).sum(), z)


def _per_redshift(z):
    """Mergers for each unit of redshift, up to a constant."""
    return UNIVERSE.cosmology.volume_slope(z) * (1 + z) ** (UNIVERSE.evolution - 1)


def _observed(masses, z, rng):
    """Logarithms of chirp mass, ratio and distance as measured, `(N, 3)`; ratios can exceed 1."""
    total, heavier = masses.sum(1), masses.max(1)
    chirp = (1 + z) * (masses.prod(1) ** 3 / total) ** 0.2
    true = np.stack([chirp, masses.min(1) / heavier, PLANCK15_LAL.luminosity_distance(z)], 1)
    return np.log(true) + ERRORS * rng.standard_normal(true.shape)


def _loud(seen):
    """The amplitude of a signal goes as chirp mass^(5/6) / distance."""
    return 5 / 6 * (seen[:, 0] - np.log(15)) > seen[:, 2] - np.log(REACH)


def _posterior(data, samples, rng):
    """Redshifted masses and distance, under `PRIOR`: by rejection from the likelihood."""
    kept = []
    while sum(map(len, kept)) < samples:
        near = data + ERRORS * rng.standard_normal((20 * samples, 3))
        chirp, ratio, distance = np.exp(near[near[:, 1] < 0]).T
        heavier = chirp * (1 + ratio) ** 0.2 * ratio**-0.6
        # The likelihood is even in logarithms, of which dm1 dm2 dD is m1 m2 D times the volume.
        ln = PRIOR.ln_density(distance) + np.log(heavier**2 * ratio * distance)
        taken = rng.random(len(ln)) < np.exp(ln - ln.max())
        kept.append(np.stack([heavier, heavier * ratio, distance], 1)[taken])
    return np.concatenate(kept)[:samples].T


def _inject(path, rows, drawn, years, rng):
    """Signals with masses from around rows of the simulation, in the records of O4a's files."""
    centers, width = np.log(rng.choice(rows, 300, replace=False).astype(float)), 0.12
    pairs = centers[rng.integers(300, size=drawn)] + width * rng.standard_normal((drawn, 2))
    heavier, lighter, z = pairs.max(1), pairs.min(1), _redshifts(drawn, rng)
    masses = np.exp(np.stack([heavier, lighter], 1))
    found = _loud(_observed(masses, z, rng))
    columns = {"mass1_source": masses[:, 0], "mass2_source": masses[:, 1], "redshift": z}
    columns = {name: values[found] for name, values in columns.items()}
    ln = _ln_kernels(np.log(masses[found]), centers, width) - np.log(masses[found]).sum(1)
    whole = UNIVERSE.hypervolume(1.0)
    ln += np.log(_per_redshift(z[found]) / whole)
    for which in (1, 2):  # isotropic, of even magnitudes
        size = rng.uniform(0, UNIVERSE.max_spin, found.sum())
        direction = rng.standard_normal((found.sum(), 3))
        spin = size[:, None] * direction / np.linalg.norm(direction, axis=1)[:, None]
        columns |= {f"spin{which}{axis}": spin[:, k] for k, axis in enumerate("xyz")}
        ln -= np.log(4 * np.pi * size**2 * UNIVERSE.max_spin)
    names = ["mass1_source", "mass2_source", "redshift"]
    names += [f"spin{which}{axis}" for which in (1, 2) for axis in "xyz"]
    columns |= {
        "luminosity_distance": PLANCK15_LAL.luminosity_distance(z[found]),
        "lnpdraw_" + "_".join(names): ln,
        "pycbc_far": np.full(found.sum(), 0.1),
    }
    with h5py.File(path, "w") as file:
        file["events"] = records(columns)
        file.attrs.update(total_generated=drawn, total_analysis_time=years * YEAR)


def _ln_kernels(ln_masses, centers, width):
    """Log density in the logarithms of both masses, of a pair either way round."""
    total = np.zeros(len(ln_masses))
    for one in centers:
        for pair in (ln_masses, ln_masses[:, ::-1]):
            total += np.exp(-0.5 * (((pair - one) / width) ** 2).sum(1))
    return np.log(total / (len(centers) * 2 * np.pi * width**2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared")
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--samples", type=int, default=300, help="of each event's posterior")
    parser.add_argument("--injections", type=int, default=230_000, help="made, found or not")
    parser.add_argument("--seed", type=int, default=1)
    options = vars(parser.parse_args())
    make(options.pop("prepared"), options.pop("catalog"), **options)


if __name__ == "__main__":
    main()
