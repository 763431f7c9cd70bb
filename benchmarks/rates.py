"""Each cell's count predicted from the other cells: do the errors of rates mean what they say?

    python benchmarks/rates.py [--of cosmic sevn known] [--truths 20] [--single] [--results FILE]

    cosmic    the shipped sample: 36 cells of 40,000 binaries
    sevn      the 60 counts that `known_density` has, of 5 million binaries each: taken for them,
              as the sum is not known; it moves all rates alike
    known     rates made up on COSMIC's grid, smooth with a cliff whose place moves with alpha: of
              each of `--truths` counts are drawn, and six cells are left out one after the other

Of the log of the left-out count over its prediction, in standard deviations (that of the
prediction and that of the count), it tells how many are within one and two, with the exact 95 %
interval of such a share, and the rms: 68 %, 95 % and 1 where errors are right. Plateau and cliff
apart, and cells inside the grid apart from those on its edge, which are extrapolated. `--single` is
the curve of bundles exported before rates were averaged over settings.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import known_density
import numpy as np
from known_density import Floats
from scipy.stats import binomtest

from data_prep.columns import Column
from data_prep.dataset import SAMPLE, Dataset, Total
from models.bundle.efficiency import Efficiency

COLUMNS = (Column("Z", "", True), Column("alpha", "", True))
CLIFF = {"cosmic": 0.004, "sevn": 0.008}
"""Z from which the rate falls by orders."""
LEFT_OUT = 6
"""Cells that are predicted of each known truth."""
Cells = tuple[Total, ...]
Problem = tuple[Cells, "np.typing.NDArray[np.bool_]", list[int]]
"""Cells, which of them are of the cliff, and which are left out."""


def problems(which: str, truths: int) -> Iterator[Problem]:
    """What is to be predicted."""
    if which == "known":
        for seed in range(truths):
            yield _known(np.random.default_rng(seed))
        return
    cells = _cosmic() if which == "cosmic" else _sevn()
    cliff_M = np.array([cell.conditions[0] >= CLIFF[which] for cell in cells])
    yield cells, cliff_M, list(range(len(cells)))


def _cosmic() -> Cells:
    return tuple(
        Total(cell.conditions, 40_000, cell.train + cell.val + cell.test)
        for cell in Dataset.read(SAMPLE).cells
    )


def _sevn() -> Cells:
    return tuple(
        Total((z, alpha), 5_000_000, int(known_density.COUNTS_AZ[i, j]))
        for i, alpha in enumerate(known_density.ALPHA_GRID.tolist())
        for j, z in enumerate(known_density.Z_GRID.tolist())
    )


def _known(rng: np.random.Generator) -> Problem:
    """Waves of 0.3 to 0.8 in ln Z and ln alpha, cut off above some Z by its power of 4 to 8."""
    places = np.array([cell.conditions for cell in _cosmic()])
    u_M, v_M = np.log(places).T
    (p, q, r), (a, b, c) = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.3, 0.8, 3)
    waves_M = a * np.sin(u_M + p) + b * np.sin(1.5 * v_M + q) + c * np.sin(u_M + v_M + r)
    edge_M = math.log(rng.uniform(0.0015, 0.003)) - rng.uniform(0, 0.4) * v_M
    fall_M = np.logaddexp(0.0, rng.uniform(4, 8) * (u_M - edge_M))
    counts_M = rng.poisson(40_000 * np.minimum(0.04 * np.exp(waves_M - fall_M), 1.0))
    cells = tuple(
        Total(tuple(place), 40_000, int(count))
        for place, count in zip(places.tolist(), counts_M, strict=True)
    )
    some = rng.choice(len(cells), LEFT_OUT, replace=False)
    return cells, u_M > edge_M, some.tolist()


def errors(cells: Cells, left_out: list[int], averaged: bool) -> Floats:
    """Of each left-out cell the error of its prediction in standard deviations."""
    z = []
    for k in left_out:
        rest = Efficiency(COLUMNS, cells[:k] + cells[k + 1 :], "binaries", (), averaged)
        here = dict(zip(("Z", "alpha"), cells[k].conditions, strict=True))
        rate, std = rest(**here, return_std=True, on_extrapolation="ignore")
        # Of the count that is expected or, where that is small, of one of a half.
        count = max(cells[k].mergers, 0.5)
        spread = math.hypot(float(std / rate), 1 / math.sqrt(count + 0.5))
        z.append(math.log(count / cells[k].simulated / float(rate)) / spread)
    return np.array(z)


def on_edge(cells: Cells) -> Floats:
    """Whether a condition of a cell is the lowest or the highest."""
    places = np.array([cell.conditions for cell in cells])
    return np.asarray(((places == places.min(0)) | (places == places.max(0))).any(1))


def share(good_P: Floats) -> str:
    """How many, and in what range the share of all is that so many may be."""
    low, high = binomtest(int(good_P.sum()), len(good_P)).proportion_ci()
    return f"{np.mean(good_P):.1%} ({low:.0%} to {high:.0%})"


def main() -> None:
    """Print a line for each kind of cells."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--of", nargs="+", default=["cosmic", "sevn", "known"])
    parser.add_argument("--truths", type=int, default=20)
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    print(f"{'of':8}{'cells':10}{'':>5}{'within 1':>24}{'within 2':>24}{'rms':>8}")
    for which in given.of:
        started, z, cliff, edge = time.process_time(), [], [], []
        for cells, cliff_M, left_out in problems(which, given.truths):
            z.append(errors(cells, left_out, not given.single))
            cliff.append(cliff_M[left_out])
            edge.append(on_edge(cells)[left_out])
        z_P, cliff_P, edge_P = map(np.concatenate, (z, cliff, edge))
        kinds = {"plateau": ~cliff_P, "cliff": cliff_P, "interior": ~edge_P, "edge": edge_P}
        for kind, mine_P in kinds.items():
            one_P = np.abs(z_P[mine_P])
            row = {"cells": len(one_P), "within_1": np.mean(one_P < 1).item()}
            row |= {"within_2": np.mean(one_P < 2).item(), "rms": np.sqrt(np.mean(one_P**2)).item()}
            print(
                f"{which:8}{kind:10}{row['cells']:5}{share(one_P < 1):>24}{share(one_P < 2):>24}"
                f"{row['rms']:8.2f}",
                flush=True,
            )
            if given.results:
                told = {"of": which, "kind": kind, "single": given.single, **row}
                with given.results.open("a") as file:
                    file.write(json.dumps(told) + "\n")
        print(f"{which:8}{time.process_time() - started:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
