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
from dataclasses import dataclass, field, replace
from pathlib import Path

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


def mergers(chunks: Iterable[Chunk], names: Mapping[str, str], path: Path) -> Iterator[Chunk]:
    """The rows of a `bpp` table that stand for a merging pair of black holes, one a binary.

    The chunks hold at least `NUMBERS`, and each wanted column under the name that `names` gives it.

    Raises:
        DataError: If the rows of a binary do not follow each other in time. Names file and row.
    """
    order = _Order(path)
    found = False  # of the binary of the row before: whether its pair of black holes is
    for chunk in chunks:
        of = chunk.numbers
        if not len(chunk.rows):
            yield chunk.under(names)
            continue
        binary = np.cumsum(order.begins(chunk))  # 0: the last one of the chunk before goes on
        pair = (of["kstar_1"] == BLACK_HOLE) & (of["kstar_2"] == BLACK_HOLE)
        pair &= (of["sep"] > 0) & (of["ecc"] >= 0) & (of["ecc"] < 1)
        candidates = np.flatnonzero(pair & ((binary != 0) | (not found)))
        _, at = np.unique(binary[candidates], return_index=True)
        first = np.zeros(len(pair), bool)
        first[candidates[at]] = True
        found = bool(pair[binary == binary[-1]].any()) or (found and binary[-1] == 0)
        merging = chunk.take(first & _merges(chunk))
        order.note(merging)
        yield merging.under(names)
    order.end()


@dataclass
class _Order:
    """Where binaries begin in a `bpp` table, and whether their rows are in order."""

    path: Path
    number: float = np.nan
    time: float = np.nan
    """`bin_num` and `tphys` of the row before."""
    births: int = 0
    """Of its binary, up to there."""
    at_birth: bool | None = None
    """Whether binaries begin with their birth; None before the second one, since the first one of
    a part of a table can begin anywhere."""
    mergers: list[NDArray[np.float64]] = field(default_factory=list)
    """Number and masses of each and its row, where binaries do not begin with their birth."""

    def begins(self, chunk: Chunk) -> NDArray[np.bool_]:
        """Which rows are the first of a binary.

        bin_num begins anew where tables of several runs were joined: a binary is born.
        """
        of, rows = chunk.numbers, np.arange(len(chunk.rows))
        born = of["evol_type"] == 1 if "evol_type" in of else np.zeros(len(rows), bool)
        birth = born | (of["tphys"] == 0)
        same = np.append(self.number, of["bin_num"][:-1]) == of["bin_num"]
        falls = np.append(self.time, of["tphys"][:-1]) > of["tphys"]
        first: NDArray[np.bool_] = ~same | (falls & birth)
        total = np.cumsum(born) + self.births
        start = np.maximum.accumulate(np.where(first, rows, -1))
        births = total - np.where(start < 0, 0, total[start] - born[start])
        starts = np.flatnonzero(first)[int(np.isnan(self.number)) :]
        if self.at_birth is None and len(starts):
            self.at_birth = bool(birth[starts[0]])
        wrong = (falls & ~first) | (births > 1)
        wrong[starts] |= birth[starts] != self.at_birth
        if wrong.any():
            at = int(wrong.argmax())
            raise self._error(chunk.rows[at], of["bin_num"][at])
        self.number, self.time, self.births = of["bin_num"][-1], of["tphys"][-1], int(births[-1])
        return first

    def note(self, merging: Chunk) -> None:
        if not self.at_birth:
            columns = [merging.numbers[name] for name in ("bin_num", "mass_1", "mass_2")]
            self.mergers.append(np.stack([*columns, merging.rows], axis=1))

    def end(self) -> None:
        """Refuse a merger that is there twice: its binary was in several places."""
        found = np.concatenate([np.empty((0, 4)), *self.mergers])
        _, at = np.unique(found[:, :3], axis=0, return_index=True)
        for again in np.delete(found, at, axis=0)[:1]:
            raise self._error(int(again[3]), again[0])

    def _error(self, row: int, number: float) -> DataError:
        return DataError(
            f"{self.path}, row {row}: the rows of binary {number:g} do not follow each other from "
            "its birth on, and its merger would count several times: sort the table by bin_num and "
            "tphys (a table of several runs by run first), or name COSMIC's own file"
        )


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
