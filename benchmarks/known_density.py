"""A table of mergers whose density is known, as large and as uneven as the thesis's SEVN table.

    python benchmarks/known_density.py FOLDER [--rows ROWS] [--seed SEED]

prepares one in FOLDER and prints the true NLL. The density has features of population synthesis
that flows find hard: a box of low masses with hard edges, a ridge below the diagonal that piles up
without bound at equal masses, a triangle of unequal masses, and a strip one Msun wide at a
metallicity-dependent maximum. All of it changes smoothly with Z and alpha, so the truth is known
between the cells of the grid, too. The 60 cells are weighted by the mergers in the thesis's table.

Tables are kept in single precision. The density allows for it: edges are 1e-6 wider, and the ridge
is averaged over what rounds to one number (a row in 2,000 has equal masses by rounding alone).

Arrays end in their axes:
    N rows    Z, A metallicities and alphas of the grid
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from data_prep.dataset import Dataset
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split

Floats = NDArray[np.float64]

ROWS = 801_038
Z_GRID = np.array(
    [1e-4, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 2e-3, 4e-3, 6e-3, 8e-3, 0.01, 0.014, 0.017, 0.02, 0.03]
)
ALPHA_GRID = np.array([0.5, 1.0, 3.0, 5.0])
COUNTS_AZ = np.array(
    """
    19792 13502 12402 10382 10571 10515 13524 20569 24623 11188 2334 333 289 46 21
    21654 14771 16198 17232 18221 19240 25424 31093 15378  6098 1873 235 187 26  9
    33838 25772 31594 30243 30643 30952 31289 20010  3836   955 1839 228 198 31  8
    35215 26903 30687 28779 28998 29511 26459 10679  1343   882 1859 268 234 47  8
    """.split(),
    float,
).reshape(len(ALPHA_GRID), len(Z_GRID))
"""Mergers in each cell of the thesis's table."""
LEAST_CELL = 500
"""Off-grid points lie in the range of Z where every cell has this many rows of the full table."""

EDGE = 1e-6
"""How much wider than drawn, relatively, the support is: single precision moves rows across."""
ROUNDING = 6e-8
"""How far, relatively, single precision moves a mass."""
RIDGE = 0.12
"""1 - M1/M0 at the lower edge of the ridge."""


class Shape(NamedTuple):
    """Parameters of the density that change with Z and alpha."""

    top_N: Floats
    """Largest mass, Msun."""
    box_N: Floats
    """Weight of the box; the four weights add up to 1."""
    ridge_N: Floats
    triangle_N: Floats
    strip_N: Floats


def shape(z_N: ArrayLike, alpha_N: ArrayLike) -> Shape:
    """The largest mass [Msun] and the weights of the four parts."""
    metals_N = (np.log10(np.asarray(z_N, float)) + 4) / 2.477
    efficiency_N = np.log10(np.asarray(alpha_N, float) / 0.5)
    top_N = 46 - 26 * np.clip(metals_N, 0, None) ** 1.5
    box_N = 0.25 + 0.45 * efficiency_N * (1 - 0.5 * metals_N)
    rest_N = 1 - box_N
    return Shape(top_N, box_N, 0.5 * rest_N, 0.38 * rest_N, 0.12 * rest_N)


def sample(
    z_N: Floats, alpha_N: Floats, rng: np.random.Generator, of: Shape | None = None
) -> Floats:
    """One event for each condition: `(N, 2)`, Msun; of another shape, if one is given."""
    rows, of = len(z_N), of or shape(z_N, alpha_N)
    part_N = (rng.random(rows)[:, None] > np.cumsum(of[1:4], axis=0).T).sum(axis=1)
    u_N, v_N = rng.random((2, rows))

    ridge_N = 10 + (of.top_N - 10) * u_N
    triangle_N = 8 + (of.top_N - 8) * u_N
    mass_0 = [5.5 + 3.5 * np.sqrt(u_N), ridge_N, triangle_N, of.top_N - 1 + u_N]
    mass_1 = [
        5 + 3 * v_N,
        ridge_N * (1 - RIDGE * v_N**2),
        triangle_N * (0.3 + 0.7 * v_N),
        (of.top_N - 1) * (0.6 + 0.35 * v_N),
    ]
    return np.stack([np.choose(part_N, mass_0), np.choose(part_N, mass_1)], axis=1)


def log_prob(
    events_N2: NDArray[np.floating],
    z_N: ArrayLike,
    alpha_N: ArrayLike,
    of: Shape | None = None,
) -> Floats:
    """True log density [natural log, Msun^-2] of each event, `(N,)`; -inf outside the support."""
    mass_0, mass_1 = np.asarray(events_N2, float).T
    of, ratio_N = of or shape(z_N, alpha_N), mass_1 / mass_0
    edge_N = of.top_N - 1

    box_N = _within(5.5, mass_0, 9) * _within(5, mass_1, 8) / 3
    box_N *= 2 * np.clip(mass_0 - 5.5, 1e-9, None) / 3.5**2
    ridge_N = _within(10, mass_0, of.top_N) / (of.top_N - 10) * _pile_up(1 - ratio_N) / mass_0
    triangle_N = _within(8, mass_0, of.top_N) * _within(0.3, ratio_N, 1)
    triangle_N /= (of.top_N - 8) * 0.7 * mass_0
    strip_N = _within(edge_N, mass_0, of.top_N) * _within(0.6, mass_1 / edge_N, 0.95)
    strip_N /= 0.35 * edge_N

    density_N = of.box_N * box_N + of.ridge_N * ridge_N
    density_N += of.triangle_N * triangle_N + of.strip_N * strip_N
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(density_N))


def conditions(rows: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Z and alpha of mergers spread over the cells as SEVN's are."""
    cells_N = rng.choice(COUNTS_AZ.size, rows, p=COUNTS_AZ.ravel() / COUNTS_AZ.sum())
    return Z_GRID[cells_N % len(Z_GRID)], ALPHA_GRID[cells_N // len(Z_GRID)]


def table(rows: int = ROWS, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Z, alpha, and events [Msun], `(rows, 2)`."""
    rng = np.random.default_rng(seed)
    z_N, alpha_N = conditions(rows, rng)
    return z_N, alpha_N, sample(z_N, alpha_N, rng)


def write(folder: Path, rows: int = ROWS, seed: int = 0) -> Dataset:
    """The table as a prepared dataset in the new folder `folder`."""
    return prepared(folder, *table(rows, seed), f"known_density.write({rows}, {seed})")


def prepared(
    folder: Path, z_N: Floats, alpha_N: Floats, events_N2: Floats, command: str
) -> Dataset:
    """Mergers of any density as a prepared dataset in the new folder `folder`."""
    columns = {"Mass_0": events_N2[:, 0], "Mass_1": events_N2[:, 1], "Z": z_N, "alpha": alpha_N}
    with tempfile.TemporaryDirectory(prefix="known-density-") as draft:
        source = Path(draft) / "known.parquet"
        pq.write_table(pa.table(columns), source)
        return prepare([source], folder, command=command)


def off_grid(n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Z and alpha of `n` points between the cells, log-uniform over their range."""
    populated = Z_GRID[(COUNTS_AZ >= LEAST_CELL).all(axis=0)]
    limits = np.log([[populated[0], populated[-1]], [ALPHA_GRID[0], ALPHA_GRID[-1]]])
    z_N, alpha_N = np.exp(rng.uniform(*limits.T, (n, 2))).T
    return z_N, alpha_N


def _within(low: ArrayLike, x_N: Floats, high: ArrayLike) -> Floats:
    """1 where a value lies between two others, else 0."""
    inside_N = (x_N > np.multiply(low, 1 - EDGE)) & (x_N < np.multiply(high, 1 + EDGE))
    return inside_N.astype(float)


def _pile_up(gap_N: Floats) -> Floats:
    """Density of 1 - M1/M0 in the ridge, 1 / 2 sqrt(RIDGE gap), averaged over the rounding."""
    inside_N = (gap_N >= 0) & (gap_N < RIDGE * (1 + EDGE))
    low_N, high_N = np.clip(gap_N - ROUNDING, 0, None), np.clip(gap_N, 0, None) + ROUNDING
    return inside_N * (np.sqrt(high_N) - np.sqrt(low_N)) / (high_N - low_N) / np.sqrt(RIDGE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.folder, options.rows, options.seed)
    test = read_split(options.folder, "test")
    nll = -log_prob(test.events, *test.conditions.T).mean()
    print(f"{options.folder}: true NLL of its test rows {nll:.4f} nats per event")


if __name__ == "__main__":
    main()
