"""How often the 90 % region of a catalogue's posterior over the conditions holds the truth.

    python benchmarks/coverage.py EMULATOR... --results FOLDER [--data FOLDER] [--between FOLDER]
                                  [--law known|peak] [--catalogs 300] [--sizes 25 50 100 200 1000]
                                  [--workers 2]

Catalogues of every size are drawn at the cells of the grid and between them, and every method
infers the conditions of each: of every EMULATOR (a bundle) its first member, the mean density of
its members, the mean of their likelihoods of the whole catalogue, and, where its export measured
what it is worth, that mean of their powers, which is `CatalogLikelihood` as it comes.
Events are observed without noise and without selection, so the likelihood is the product of the
densities. The prior is flat in the logarithm of every condition, over the first emulator's domain.
Posteriors are exact: see `models.evaluation.catalogs.posterior`.

Without `--law` the events at the cells are rows of the simulation that no training saw: the test
rows of `--data`, in catalogues that share none, as far as the rows go. Those between the cells are
all rows of the dataset `--between`, which must hold cells that no emulator was trained on: prepare
the table in two, with `--where`. With `--law` events are drawn from a known density, at the cells
of `--data`, which must be of that density, and at points between them, one catalogue at each.

Only a truth inside the domain is surrounded by prior, so cells at its edge are left out. Truths at
cells are points of a grid and the prior is not, so that even a perfect emulator need not have 90 %
for few events. Two controls tell that apart: events that the first member drew itself (`control`),
and the known density in the emulator's place (`truth`, with `--law known`).

Each catalogue's result is a file in FOLDER: the same command goes on with what was interrupted.

Array names end in their axes:
    N events    F event columns    C conditions    U points of a grid    K cells
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import coverage_report
import known_density
import numpy as np
from coverage_report import Result
from numpy.typing import NDArray

from data_prep.atomic import draft_of
from data_prep.dataset import SAMPLE, Dataset
from data_prep.stream import Batch, read_split
from models import Emulator
from models.bundle import batched
from models.bundle.ensemble import Density, Ensemble
from models.bundle.files import read_card
from models.bundle.reliability import power_of
from models.evaluation.catalogs.posterior import (
    IMPOSSIBLE,
    Floats,
    LogLikelihood,
    Surface,
    found,
    log_likelihood_of,
    surface,
)

SIZES = (25, 50, 100, 200, 1_000)
AT, BETWEEN = "at the cells", "between the cells"
LEAST_ROWS = 100
"""Training rows of a cell at which catalogues of a known density are drawn."""
SETTINGS = "settings.json"
MEAN, WIDENED = "mean", "-widened"
BEST = (" as exported", " members")
"""Of the methods that there are, the first is what a user of the emulator has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """Mergers of one truth."""

    place: str
    cell: int
    rows: int
    """Training rows of the cell; 0 between the cells."""
    number: int
    truth_C: Floats
    events_NF: Floats

    @property
    def name(self) -> str:
        return f"{self.place.replace(' ', '-')}-{len(self.events_NF)}-{self.number:04d}.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emulators", type=Path, nargs="+", metavar="EMULATOR")
    parser.add_argument("--results", type=Path, required=True, help="folder, made or continued")
    parser.add_argument("--data", type=Path, default=SAMPLE, help="prepared dataset")
    parser.add_argument("--between", type=Path, help="prepared dataset of cells nobody saw")
    parser.add_argument("--law", choices=("known", "peak"), help="density that data is of")
    parser.add_argument("--catalogs", type=int, default=300, help="of each size, at most")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="events")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--report", action="store_true", help="of what is there; infers nothing")
    options = parser.parse_args()
    if options.law and options.between:
        parser.error("--between is of a simulation: a known density has points between its cells")
    emulators = named(options.emulators)
    domain_C2 = np.array(list(Emulator.load(options.emulators[0]).domain.values()))
    made = of_law if options.law else of_simulation
    catalogs = list(made(options, domain_C2))
    keep(options)

    if not options.report:
        # One thread for each worker; read when its libraries are imported.
        os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        work = partial(infer, emulators, options.law, options.results, domain_C2)
        # Sizes in turn, so that what is interrupted tells of all of them.
        in_turn = sorted(catalogs, key=lambda one: one.number)
        if options.workers == 1:
            list(map(work, in_turn))
        else:
            start = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(options.workers, start) as pool:
                list(pool.map(work, in_turn))
    names = [name for name, _ in emulators]
    done = [one for one in catalogs if (options.results / one.name).exists()]
    if not done:
        raise SystemExit(f"{options.results} holds no results yet")
    results = [result(one, options.results / one.name, names) for one in done]
    methods = list(results[0].found)
    wanted = next((one for end in BEST for one in methods if one.endswith(end)), methods[0])
    coverage_report.show(results, wanted)


def named(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """Every emulator with its name."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise SystemExit(f"emulators need names of their own, got {', '.join(names)}")
    return list(zip(names, folders, strict=True))


def keep(options: argparse.Namespace) -> None:
    """Refuse a folder of other results."""
    settings = {
        "emulators": [read_card(folder)["files"] for folder in options.emulators],
        "data": [Dataset.read(one).fingerprint for one in (options.data, options.between) if one],
        "law": options.law,
        "catalogs": options.catalogs,
    }
    path = options.results / SETTINGS
    if path.exists() and json.loads(path.read_text()) != settings:
        raise SystemExit(f"{options.results} holds results of other emulators or data")
    with draft_of(path) as draft:
        draft.write_text(json.dumps(settings))


def of_law(options: argparse.Namespace, domain_C2: Floats) -> Iterator[Catalog]:
    """Catalogues of a known density, at its cells in turn, and at a point each between them."""
    law = law_of(options.law)
    cells = [
        (number, cell.train, np.array(cell.conditions))
        for number, cell in enumerate(Dataset.read(options.data).cells)
        if cell.train >= LEAST_ROWS and interior(np.array(cell.conditions), domain_C2)
    ]
    for place, size in ((place, size) for place in (AT, BETWEEN) for size in options.sizes):
        for number in range(options.catalogs):
            rng = np.random.default_rng([zlib.crc32(place.encode()), size, number])
            at, rows, truth_C = cells[number % len(cells)]
            if place == BETWEEN:
                at, rows, truth_C = number, 0, np.ravel(known_density.off_grid(1, rng))
            z_N, alpha_N = np.repeat(truth_C[:, None], size, axis=1)
            yield Catalog(
                place=place,
                cell=at,
                rows=rows,
                number=number,
                truth_C=truth_C,
                events_NF=law.sample(z_N, alpha_N, rng),
            )


def of_simulation(options: argparse.Namespace, domain_C2: Floats) -> Iterator[Catalog]:
    """Catalogues of rows that no training saw, of one size without a row in common."""
    sources = [(AT, options.data, ("test",))]
    if options.between:
        sources.append((BETWEEN, options.between, ("train", "val", "test")))
    for place, folder, splits in sources:
        parts = [read_split(folder, split) for split in splits]
        rows = Batch(*map(np.concatenate, zip(*(part[:2] for part in parts), strict=True)))
        dataset, rng = Dataset.read(folder), np.random.default_rng(0)
        seen = {tuple(np.float32(cell.conditions)): cell.train for cell in dataset.cells}
        cells_KC, cell_N = np.unique(rows.conditions, axis=0, return_inverse=True)
        chunks: dict[int, list[tuple[int, NDArray[np.intp]]]] = {size: [] for size in options.sizes}
        for k, cell_C in enumerate(cells_KC):
            if not interior(cell_C, domain_C2):
                continue
            mine = rng.permutation(np.flatnonzero(cell_N.ravel() == k))
            for size, some in chunks.items():
                some += [(k, mine[at : at + size]) for at in range(0, len(mine) - size + 1, size)]
        for size, some in chunks.items():
            # Of the size alone, so that further sizes leave the numbers of these as they are.
            order = np.random.default_rng(size).permutation(len(some))
            for number, at in enumerate(order[: options.catalogs]):
                k, chosen = some[at]
                yield Catalog(
                    place=place,
                    cell=k,
                    rows=seen[tuple(np.float32(cells_KC[k]))] if place == AT else 0,
                    number=number,
                    truth_C=cells_KC[k].astype(float),
                    events_NF=rows.events[chosen].astype(float),
                )


def interior(truth_C: Floats, domain_C2: Floats) -> bool:
    """Whether prior is all around; not at the edge, but for rounding to float32."""
    low_C, high_C = domain_C2.T
    return bool(((truth_C > low_C * (1 + 1e-6)) & (truth_C < high_C * (1 - 1e-6))).all())


def infer(
    emulators: Sequence[tuple[str, Path]],
    law: str | None,
    results: Path,
    domain_C2: Floats,
    catalog: Catalog,
) -> None:
    """The surfaces of a catalogue, in its file."""
    path = results / catalog.name
    if path.exists():
        return
    truth_C, ends_C2 = np.log(catalog.truth_C), np.log(domain_C2)
    found = {
        name: surface(by_logarithms(one), events_NF, truth_C, ends_C2)
        for name, one, events_NF in likelihoods(emulators, law, catalog)
    }
    arrays = {f"{name}/{k}": v for name, one in found.items() for k, v in one._asdict().items()}
    with draft_of(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)


def by_logarithms(log_likelihood: LogLikelihood) -> LogLikelihood:
    """Of the logarithms of the conditions."""
    return lambda events_NF, points_UC: log_likelihood(events_NF, np.exp(points_UC))


def likelihoods(
    emulators: Sequence[tuple[str, Path]], law: str | None, catalog: Catalog
) -> Iterator[tuple[str, LogLikelihood, Floats]]:
    """Name, likelihood and events of every surface that is wanted."""
    events_NF = catalog.events_NF
    for number, (name, folder) in enumerate(emulators):
        densities = densities_of(folder)
        power = power_of(len(events_NF), worth_of(folder))
        for which, density in densities.items():
            yield f"{name}/{which}", log_likelihood_of(density), events_NF
            if power < 1 and which != MEAN:
                yield f"{name}/{which}{WIDENED}", to_power(power, density), events_NF
        if not number:
            conditions_NC = np.repeat(catalog.truth_C[None], len(events_NF), axis=0)
            rng = np.random.default_rng(zlib.crc32(catalog.name.encode()))
            drawn_NF = batched.draw(densities["0"], conditions_NC, rng)
            yield "control", log_likelihood_of(densities["0"]), drawn_NF
    if law == "known":
        yield "truth", of_truth, events_NF


@cache
def densities_of(folder: Path) -> dict[str, Density]:
    """The members of a bundle by number, and their mean density."""
    module = Emulator.load(folder).module
    if not isinstance(module, Ensemble):
        return {"0": module}
    return {str(k): flow for k, flow in enumerate(module.flows)} | {MEAN: module}


@cache
def worth_of(folder: Path) -> float:
    """Events that a bundle is worth, as its export measured."""
    reliability = Emulator.load(folder).reliability
    return reliability.worth if reliability else math.inf


def to_power(power: float, density: Density) -> LogLikelihood:
    """Of a flow, counting by a power."""
    log_likelihood = log_likelihood_of(density)
    return lambda events_NF, c_UC: power * log_likelihood(events_NF, c_UC)


def of_truth(events_NF: Floats, c_UC: Floats) -> Floats:
    """Of the known density."""
    z_U1, alpha_U1 = c_UC.T[..., None]
    ln_UN = known_density.log_prob(events_NF, z_U1, alpha_U1)
    # A grid closes in on where the fewest events are impossible, if some are at all of its points.
    return np.asarray(np.maximum(ln_UN, IMPOSSIBLE).sum(1))


def law_of(name: str) -> ModuleType:
    """The module of a known density; gwpopulation is loaded only for its own."""
    if name == "known":
        return known_density
    import power_law_peak

    return power_law_peak


def result(catalog: Catalog, path: Path, names: Sequence[str]) -> Result:
    """What every method makes of the surfaces of a catalogue."""
    with np.load(path) as stored:
        arrays = dict(stored)
    known = {key.rpartition("/")[0] for key in arrays}
    surfaces = {
        name: Surface(*(arrays[f"{name}/{field}"] for field in Surface._fields)) for name in known
    }
    methods: dict[str, list[Surface]] = {}
    for name in names:
        numbers = [k for k in map(str, range(len(known))) if f"{name}/{k}" in known]
        members = [surfaces[f"{name}/{k}"] for k in numbers]
        methods[f"{name} one"] = members[:1]
        if len(members) > 1:
            methods[f"{name} mean density"] = [surfaces[f"{name}/{MEAN}"]]
            methods[f"{name} members"] = members
        if f"{name}/0{WIDENED}" in known:
            methods[f"{name} as exported"] = [surfaces[f"{name}/{k}{WIDENED}"] for k in numbers]
    methods |= {name: [surfaces[name]] for name in ("control", "truth") if name in known}
    return Result(
        place=catalog.place,
        cell=catalog.cell,
        rows=catalog.rows,
        size=len(catalog.events_NF),
        found={name: found(each, np.log(catalog.truth_C)) for name, each in methods.items()},
    )


if __name__ == "__main__":
    main()
