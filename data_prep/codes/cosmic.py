"""COSMIC's `bpp` table -> merging binary black holes under SEVN's names.

A `bpp` table has a row for each key moment of each binary. The merger of a binary is taken from
the first row at which both stars are black holes and still bound: the pair merges when its orbit
has shrunk by gravitational waves, if that is within the age of the universe.

Units: masses in solar masses, separation in solar radii, `tphys` in Myr, as COSMIC writes them.
`mass_1` belongs to the initially more massive star: COSMIC's samplers draw `mass_2 = q mass_1`
with q <= 1, and the labels stay with the stars.

https://cosmic-popsynth.github.io/COSMIC/pages/output_info.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError
from data_prep.tables.chunk import Chunk
from data_prep.tables.source import Source

MARKS = (
    "bin_num", "tphys", "mass_1", "mass_2", "kstar_1", "kstar_2", "sep", "ecc", "evol_type",
)  # fmt: skip
"""Columns by which a `bpp` table is told from others."""
NUMBERS = tuple(name for name in MARKS if name != "evol_type")
"""Columns by which a merger is found."""
BLACK_HOLE = 14
"""COSMIC's (BSE's) stellar type `kstar`."""
AGE_MYR = 13_700.0
"""Age of the universe up to which a merger counts."""
ALIASES = {
    "Mass_0": ("mass_1",),
    "Mass_1": ("mass_2",),
    "Z": ("metallicity",),
    "alpha": ("alpha1", "alpha1_0"),
}
"""SEVN's name of a column, and the names under which COSMIC has it."""

_GRAVITY = 6.6743e-11  # m^3 kg^-1 s^-2, CODATA 2018
_LIGHT = 299_792_458.0  # m/s
_SUN_KG = 1.98841e30  # IAU 2015 nominal GM over CODATA 2018 G
_SUN_M = 6.957e8  # IAU 2015 nominal radius
_MYR_S = 1e6 * 365.25 * 86_400


def is_bpp(source: Source) -> bool:
    """Whether the table is COSMIC's `bpp`."""
    return set(MARKS) <= set(source.header)


def named(source: Source, wanted: Iterable[str]) -> tuple[Source, dict[str, str]]:
    """The table, and COSMIC's name of each of SEVN's columns that lacks SEVN's name there.

    COSMIC's own names stay readable beside any that they were renamed to.

    Raises:
        DataError: If Z or alpha is wanted and not there: COSMIC has them in `initC`, not in `bpp`.
    """
    source = replace(source, renamed={name: name for name in source.header} | source.renamed)
    alias = {
        new: next(old for old in olds if old in source.names)
        for new, olds in ALIASES.items()
        if new not in source.names and set(olds) & set(source.names)
    }
    for name in sorted({"Z", "alpha"}.intersection(wanted).difference(source.names, alias)):
        raise DataError(
            f"{source.path} is a COSMIC bpp table without {name!r}: join it from initC on "
            f"bin_num (column {ALIASES[name][0]!r}) before writing the table, "
            f"or name the column with --columns OLD={name}"
        )
    return source, alias


def mergers(chunks: Iterable[Chunk], names: Mapping[str, str]) -> Iterator[Chunk]:
    """The rows of a `bpp` table that stand for a merging pair of black holes, one a binary.

    The chunks hold at least `NUMBERS`, and each wanted column under the name that `names` gives it.
    """
    number, time, found = np.nan, np.inf, False  # of the row before: of its binary, too
    for chunk in chunks:
        of = chunk.numbers
        if not len(chunk.rows):
            yield chunk.under(names)
            continue
        # bin_num begins anew where tables of several runs were joined: then time jumps back.
        begins = np.append(number, of["bin_num"][:-1]) != of["bin_num"]
        begins |= np.append(time, of["tphys"][:-1]) > of["tphys"]
        pair = (of["kstar_1"] == BLACK_HOLE) & (of["kstar_2"] == BLACK_HOLE)
        pair &= (of["sep"] > 0) & (of["ecc"] >= 0) & (of["ecc"] < 1)
        binary = np.cumsum(begins)  # 0: the last one of the chunk before goes on
        candidates = np.flatnonzero(pair & ((binary != 0) | (not found)))
        _, at = np.unique(binary[candidates], return_index=True)
        first = np.zeros(len(pair), bool)
        first[candidates[at]] = True
        found = bool(pair[binary == binary[-1]].any()) or (found and binary[-1] == 0)
        number, time = of["bin_num"][-1], of["tphys"][-1]
        yield chunk.take(first & _merges(chunk)).under(names)


def merger_time(
    mass_1: NDArray[np.float64],
    mass_2: NDArray[np.float64],
    separation: NDArray[np.float64],
    eccentricity: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Time until two point masses merge by gravitational waves, in Myr.

    Args:
        mass_1, mass_2: In solar masses.
        separation: Semi-major axis in solar radii.
        eccentricity: In [0, 1).

    Source:
        Peters (1964), Phys. Rev. 136, B1224, eq. 5.10 for the circular orbit; Mandel (2021),
        RNAAS 5, 223 (arXiv:2110.09254), eq. 5 for the eccentric one, within 3% of the integral.
    """
    masses = mass_1 * mass_2 * (mass_1 + mass_2) * _SUN_KG**3
    circular = 5 * _LIGHT**5 * (separation * _SUN_M) ** 4 / (256 * _GRAVITY**3 * masses)
    shape = 1 + 0.27 * eccentricity**10 + 0.33 * eccentricity**20 + 0.2 * eccentricity**1000
    time: NDArray[np.float64] = circular * shape * (1 - eccentricity**2) ** 3.5 / _MYR_S
    return time


def _merges(chunk: Chunk) -> NDArray[np.bool_]:
    of = chunk.numbers
    with np.errstate(all="ignore"):
        delay = merger_time(of["mass_1"], of["mass_2"], of["sep"], of["ecc"])
        found: NDArray[np.bool_] = of["tphys"] + delay < AGE_MYR
    return found
