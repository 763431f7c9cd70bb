"""Small files in the layouts that collaborations publish: GWTC-1, injections of all runs.

Those of PESummary are written by `examples/mock_files.py`.

Array names end in their axes:
    N injections    L posterior samples
"""

import h5py
import numpy as np
from scipy.stats import truncnorm

from examples.mock_files import YEAR, records
from models.inference.published.universe import PLANCK15_LAL

CARTESIAN = "spin1x_spin1y_spin1z_spin2x_spin2y_spin2z"
ANGLES = [
    f"spin{which}_{part}"
    for which in (1, 2)
    for part in ("magnitude", "polar_angle", "azimuthal_angle")
]


def write_gwtc1(path, mass_1, mass_2, distance):
    with h5py.File(path, "w") as file:
        for name in ("IMRPhenomPv2_posterior", "Overall_posterior"):
            file[name] = records(
                {
                    "costheta_jn": np.zeros(len(mass_1)),
                    "luminosity_distance_Mpc": distance,
                    "m1_detector_frame_Msun": mass_1,
                    "m2_detector_frame_Msun": mass_2,
                    "spin1": np.zeros(len(mass_1)),
                }
            )
    return path


def draws(rows, seed=0, furthest=1.2):
    """Injections with their densities: masses, redshifts, and spins that prefer to be aligned.

    Magnitudes are half-normal, a third of the tilts of (1 + cos t)^3 / 4, as those of O4a.
    """
    rng = np.random.default_rng(seed)
    # p(m1) of a power law from 3 to 100, m2 even from 2 to m1, z even.
    slope, low, high = -2.0, 3.0, 100.0
    ends = low ** (slope + 1), high ** (slope + 1)
    mass_1 = (ends[0] + rng.random(rows) * (ends[1] - ends[0])) ** (1 / (slope + 1))
    out = {
        "mass1_source": mass_1,
        "mass2_source": rng.uniform(2.0, mass_1),
        "redshift": rng.uniform(1e-3, furthest, rows),
    }
    ln = {
        "mass1_source": np.log(mass_1**slope * (slope + 1) / (ends[1] - ends[0])),
        "mass2_source": -np.log(mass_1 - 2.0),
        "z": np.full(rows, -np.log(furthest - 1e-3)),
    }
    size = truncnorm(0, 2, scale=0.5)
    for which in (1, 2):
        a = size.rvs(rows, random_state=rng)
        aligned = rng.random(rows) < 0.3
        cosine = np.where(aligned, 2 * rng.random(rows) ** 0.25 - 1, rng.uniform(-1, 1, rows))
        azimuth = rng.uniform(0, 2 * np.pi, rows)
        sine = np.sqrt(1 - cosine**2)
        out |= {
            f"spin{which}x": a * sine * np.cos(azimuth),
            f"spin{which}y": a * sine * np.sin(azimuth),
            f"spin{which}z": a * cosine,
            f"spin{which}_magnitude": a,
            f"spin{which}_polar_angle": np.arccos(cosine),
            f"spin{which}_azimuthal_angle": azimuth,
        }
        ln |= {
            f"spin{which}_magnitude": size.logpdf(a),
            f"spin{which}_polar_angle": np.log((0.3 * (1 + cosine) ** 3 / 4 + 0.35) * sine),
            f"spin{which}_azimuthal_angle": np.full(rows, -np.log(2 * np.pi)),
        }
        ln[f"spin{which}x"] = (
            ln[f"spin{which}_magnitude"] + np.log(0.3 * (1 + cosine) ** 3 / 4 + 0.35)
        ) - np.log(2 * np.pi * a**2)
    return out, ln


def write_injections(path, layout, made, *, drawn, far=None, years=0.5, extra=None, keep=None):
    """A file in the layout of a run: o3, mixture, o4a (joint), angles (joint), factors."""
    columns, ln = made
    masses = ln["mass1_source"] + ln["mass2_source"]
    spins = [ln[f"spin{which}x"] for which in (1, 2)]
    rows = len(masses)
    far = np.full(rows, 0.1) if far is None else far
    plain = {name: values for name, values in columns.items() if name not in ANGLES}
    if layout in ("angles", "factors"):
        plain = {name: columns[name] for name in columns if name not in CARTESIAN.split("_")}
    plain |= {
        "o3": {
            "mass1_source_mass2_source_sampling_pdf": np.exp(masses),
            "redshift_sampling_pdf": np.exp(ln["z"]),
            "spin1x_spin1y_spin1z_sampling_pdf": np.exp(spins[0]),
            "spin2x_spin2y_spin2z_sampling_pdf": np.exp(spins[1]),
        },
        "mixture": {"sampling_pdf": np.exp(masses + ln["z"] + sum(spins))},
        "o4a": {
            f"lnpdraw_mass1_source_mass2_source_redshift_{CARTESIAN}": masses + ln["z"] + sum(spins)
        },
        "angles": {
            "lnpdraw_mass1_source_mass2_source_redshift_" + "_".join(ANGLES): masses
            + ln["z"]
            + sum(ln[name] for name in ANGLES)
        },
        "factors": {
            "lnpdraw_mass1_source": ln["mass1_source"],
            "lnpdraw_mass2_source_GIVEN_mass1_source": ln["mass2_source"],
            "lnpdraw_z": ln["z"],
            **{f"lnpdraw_{name}": ln[name] for name in ANGLES},
        },
    }[layout]
    distance = PLANCK15_LAL.luminosity_distance(columns["redshift"])
    if layout == "factors":
        plain["z"] = plain.pop("redshift")
    if layout in ("o3", "mixture"):
        plain |= {"distance": distance, "far_gstlal": np.full(rows, np.inf), "far_mbta": far}
    else:
        plain |= {"luminosity_distance": distance, "pycbc_far": far, "cwb-bbh_far": far + 1e3}
    plain |= extra or {}
    if keep is not None:
        plain = {name: values[keep] for name, values in plain.items()}
    with h5py.File(path, "w") as file:
        if layout in ("o3", "mixture"):
            group = file.create_group("injections")
            for name, values in plain.items():
                group[name] = values
            group.attrs.update(total_generated=drawn, analysis_time_s=years * YEAR)
        else:
            file["events"] = records(plain)
            file.attrs.update(total_generated=drawn, total_analysis_time=years * YEAR)
            file.attrs["searches"] = ["pycbc", "cwb-bbh"]
    return path
