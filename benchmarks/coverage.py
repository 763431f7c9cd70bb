"""How often the 90 % region of a posterior over (Z, alpha) holds the truth, by an emulator.

    pip install '.[examples]'
    python benchmarks/coverage.py EMULATOR [--data FOLDER] [--catalogs 50] [--events 100]
                                  [--cells interior|all] [--control] [--workers 2]

Each mock catalogue is drawn from simulated mergers of one cell that no training saw: the test rows.
Events are observed without noise and without selection, so the likelihood is the product of the
emulator's densities. The prior is flat in the logarithm of every condition, over the emulator's
domain. emcee draws from the posterior; the truth is inside the region of highest density that
holds 90 % if its log posterior is above that of the lowest tenth of the chain.

Only a truth inside the domain is surrounded by prior, so cells at the edge of the grid are left out
by default. All truths are points of the grid and the prior is not, so that even a perfect emulator
need not have 90 % for few events: `--control` draws the events from the emulator itself instead.

Array names end in their axes:
    N rows    F event columns    C conditions    W walkers    M draws
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset import SAMPLE, Dataset
from data_prep.stream import Batch, read_split
from models import ArrayFlow
from models.bundle.files import read_card

Floats = NDArray[np.floating]

LEVELS = (0.5, 0.68, 0.9)
LEAST_ROWS = 200
"""Test rows of a cell from which catalogues are drawn."""
AIM = (0.80, 0.98)
"""For the 90 % region: 50 catalogues of a perfect emulator have 82 to 98 % in 95 of 100 cases."""
WALKERS, STEPS, DISCARD = 16, 200, 40
COARSE = 16
"""Points along each condition of the grid, from whose posterior the walkers start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """Mergers of one cell."""

    events_NF: Floats
    truth_C: Floats
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Posterior:
    """What is found of one catalogue."""

    rank: float
    """Fraction of the posterior that is denser than at the truth."""
    effective: float
    """Draws that are independent, of the chain."""
    away_C: Floats
    """Truth minus the posterior's mean, in its standard deviations, of each log condition."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emulator", type=Path, help="bundle, as `hpo export` writes it")
    parser.add_argument("--data", type=Path, default=SAMPLE, help="prepared dataset")
    parser.add_argument("--catalogs", type=int, default=50)
    parser.add_argument("--events", type=int, default=100, help="of each catalogue")
    parser.add_argument("--cells", choices=("interior", "all"), default="interior")
    parser.add_argument("--control", action="store_true", help="events of the emulator itself")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.events > LEAST_ROWS:
        parser.error(f"a catalogue has at most {LEAST_ROWS} events, the rows that a cell must have")
    warn_of_seen_rows(options.emulator, options.data)

    cells = populated(read_split(options.data, "test"), options.cells == "interior")
    if not cells:
        parser.error(f"{options.data} has no such cell with {LEAST_ROWS} test rows")
    catalogs = drawn(cells, options.catalogs, options.events, options.seed)
    if options.control:
        catalogs = of_the_emulator(ArrayFlow.load(options.emulator), catalogs)
    # One thread for each worker; read when their numpy is imported.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    start_s = time.perf_counter()
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(partial(infer, options.emulator), catalogs))
    report(found, len(cells), options)
    print(f"{time.perf_counter() - start_s:.0f} s with {options.workers} workers")


def warn_of_seen_rows(emulator: Path, data: Path) -> None:
    """Test rows of other data may be among those that the emulator was trained on."""
    seen = read_card(emulator)["provenance"].get("data_fingerprint")
    if seen != Dataset.read(data).fingerprint:
        print("note: the emulator was trained on other data, perhaps on these rows")


def populated(test: Batch, interior: bool) -> list[Batch]:
    """The rows of each cell with enough of them, perhaps without the edges of the grid."""
    cells_KC, cell_N, counts_K = np.unique(
        test.conditions, axis=0, return_inverse=True, return_counts=True
    )
    low_C, high_C = test.conditions.min(0), test.conditions.max(0)
    inside_K = ((cells_KC > low_C) & (cells_KC < high_C)).all(1) | (not interior)
    rows = [
        np.flatnonzero(cell_N.ravel() == k)
        for k in np.flatnonzero((counts_K >= LEAST_ROWS) & inside_K)
    ]
    return [test.take(chosen) for chosen in rows]


def drawn(cells: Sequence[Batch], catalogs: int, events: int, seed: int) -> list[Catalog]:
    """Catalogues of different rows of a cell each, the cell by chance."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(catalogs):
        cell = cells[rng.integers(len(cells))]
        rows = rng.choice(len(cell.events), events, replace=False)
        made.append(
            Catalog(events_NF=cell.events[rows], truth_C=cell.conditions[0], seed=seed + number)
        )
    return made


def of_the_emulator(flow: ArrayFlow, catalogs: Sequence[Catalog]) -> list[Catalog]:
    """As many events under the same conditions, drawn from the emulator."""
    made = []
    for catalog in catalogs:
        rng = np.random.default_rng(catalog.seed)
        noise = rng.standard_normal((len(catalog.events_NF), flow.noise_columns))
        made.append(replace(catalog, events_NF=flow.from_noise(noise, catalog.truth_C)))
    return made


class LogPosterior:
    """Of the logarithms of the conditions, for many at once."""

    def __init__(self, flow: ArrayFlow, events_NF: Floats) -> None:
        self.flow, self.events_NF = flow, events_NF
        limits = np.log([flow.domain[name] for name in flow.condition_columns])
        self.low_C, self.high_C = limits.T

    def __call__(self, log_c_WC: Floats) -> Floats:
        out_W = np.full(len(log_c_WC), -np.inf)
        # A truth at the edge is still inside, but for its rounding to float32.
        near = 1e-6
        inside_W = ((log_c_WC > self.low_C - near) & (log_c_WC < self.high_C + near)).all(1)
        if inside_W.any():
            c_W1C = np.exp(log_c_WC[inside_W])[:, None]
            log_prob_WN = self.flow.log_density(self.events_NF[None], c_W1C)
            out_W[inside_W] = log_prob_WN.sum(1, dtype=np.float64)
        return out_W

    def start(self, walkers: int, rng: np.random.Generator) -> Floats:
        """Places by their posterior on a coarse grid, each moved at random inside its box."""
        steps = (np.arange(COARSE) + 0.5) / COARSE
        axes = [
            low + (high - low) * steps for low, high in zip(self.low_C, self.high_C, strict=True)
        ]
        grid_MC = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        log_post_M = np.concatenate([self(part) for part in np.array_split(grid_MC, COARSE)])
        weight_M = np.exp(log_post_M - log_post_M.max())
        places = rng.choice(len(grid_MC), walkers, p=weight_M / weight_M.sum())
        box_C = (self.high_C - self.low_C) / COARSE
        return grid_MC[places] + box_C * rng.uniform(-0.5, 0.5, (walkers, len(axes)))


def infer(emulator: Path, catalog: Catalog) -> Posterior:
    """Where the truth of a catalogue is in its posterior."""
    import emcee

    log_posterior = LogPosterior(ArrayFlow.load(emulator, dtype="float32"), catalog.events_NF)
    np.random.seed(catalog.seed)  # noqa: NPY002 -- emcee's own
    rng = np.random.default_rng(catalog.seed)
    sampler = emcee.EnsembleSampler(WALKERS, len(catalog.truth_C), log_posterior, vectorize=True)
    sampler.run_mcmc(log_posterior.start(WALKERS, rng), STEPS)

    log_truth_C = np.log(catalog.truth_C)
    at_truth = log_posterior(log_truth_C[None])[0]
    draws_MC = sampler.get_chain(discard=DISCARD, flat=True)
    correlation = sampler.get_autocorr_time(discard=DISCARD, tol=0).max()
    return Posterior(
        rank=float((sampler.get_log_prob(discard=DISCARD, flat=True) > at_truth).mean()),
        effective=len(draws_MC) / float(correlation),
        away_C=(log_truth_C - draws_MC.mean(0)) / draws_MC.std(0),
    )


def report(found: Sequence[Posterior], cells: int, options: argparse.Namespace) -> None:
    ranks = np.array([posterior.rank for posterior in found])
    count = len(found)
    print(
        f"{count} catalogues of {options.events} "
        f"{'events of the emulator' if options.control else 'test events'}, from {cells} cells "
        f"({options.cells}, at least {LEAST_ROWS} test rows)"
    )
    for level in LEVELS:
        inside = int((ranks < level).sum())
        error = math.sqrt(level * (1 - level) / count)
        print(
            f"truth inside the {level:4.0%} region: {inside} of {count}, {inside / count:.2f} "
            f"(a perfect one: {level:.2f} +- {error:.2f})"
        )
    away_C = np.stack([posterior.away_C for posterior in found])
    print(
        "(truth - mean) / standard deviation of each log condition: mean "
        f"{shown(away_C.mean(0))}, standard deviation {shown(away_C.std(0))}"
    )
    print(f"independent draws of a chain, median: {np.median([p.effective for p in found]):.0f}")
    covered = float((ranks < 0.9).mean())
    verdict = "met   " if AIM[0] <= covered <= AIM[1] else "MISSED"
    print(f"{verdict} truth inside the 90% region: {covered:.2f} (aim {AIM[0]:g} to {AIM[1]:g})")


def shown(values_C: Floats) -> str:
    return " and ".join(f"{value:.2f}" for value in values_C)


if __name__ == "__main__":
    main()
