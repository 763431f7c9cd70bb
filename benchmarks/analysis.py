"""What the analysis of a catalogue costs, and what gwpopulation's likelihood of the same files.

    python benchmarks/analysis.py EMULATOR PREPARED FOLDER [--events 200] [--rounds 20]

The commands of `docs/inference.md` make a catalogue of the prepared dataset and infer the
emulator's conditions from it, each with its time. Then both likelihoods are called in turn on the
same rows, at parameters that are drawn evenly: ours of the emulator, and gwpopulation's
`HyperparameterLikelihood` of its power law and peak, under numpy both. emcee, too, calls the
latter, as often as the analysis called ours on all events. Seconds are of processor time, in one
thread, unless they are said to be by the clock.
"""

from __future__ import annotations

import argparse
import resource
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import emcee
import numpy as np
from gwpopulation.hyperpe import HyperparameterLikelihood, Model
from gwpopulation.models.mass import SinglePeakSmoothedMassDistribution
from gwpopulation.vt import ResamplingVT
from numpy.typing import NDArray
from pandas import DataFrame

from models import ArrayFlow, PopulationModel

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
Floats = NDArray[np.float64]
Call = Callable[[], object]
ENDS = {
    "alpha": (1.0, 5.0),
    "beta": (-1.0, 4.0),
    "mmin": (3.0, 6.0),
    "mmax": (45.0, 90.0),
    "lam": (0.0, 0.5),
    "mpp": (20.0, 45.0),
    "sigpp": (1.0, 8.0),
    "delta_m": (0.5, 6.0),
}
"""Of the parameters of the power law and peak."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("emulator", type=Path)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("folder", type=Path, help="that the catalogue is written into")
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--points", type=int, default=9, help="of the grid of each condition")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    run("mock_files.py", options.prepared, options.folder, "--events", options.events)
    run("emcee_catalog.py", options.emulator, options.folder, "--points", options.points)

    flow = ArrayFlow.load(options.emulator, dtype="float32")
    ours, theirs = likelihoods(flow, options.folder)
    rng = np.random.default_rng(0)
    domain = [flow.domain[name] for name in flow.condition_columns]
    calls = 2 * options.points ** len(domain)
    start_s = time.process_time()
    chain(theirs, calls, rng)
    print(f"gwpopulation: {calls} likelihoods by emcee {time.process_time() - start_s:.0f} s")

    seconds = np.array(
        [
            (
                timed(lambda: ours(np.exp(rng.uniform(*np.log(domain).T)))),
                timed(lambda: theirs(rng.uniform(*np.array(list(ENDS.values())).T))),
            )
            for _ in range(options.rounds)
        ]
    )
    for name, column in zip(("hpo-flows", "gwpopulation"), seconds.T, strict=True):
        print(f"{name}: {told(column)} s for a likelihood, {options.rounds} in turn")
    print(f"ratio {told(seconds[:, 0] / seconds[:, 1])}")


def run(script: str, *words: object) -> None:
    """A command of the page, with what it prints and what it took."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, words)]
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{script}: {used_s:.0f} s, {time.perf_counter() - start_s:.0f} s by the clock")


def likelihoods(flow: ArrayFlow, folder: Path) -> tuple[Callable[[Floats], float], ...]:
    """Of the same rows: the emulator's, and that of gwpopulation's own model."""
    catalog = runpy.run_path(str(EXAMPLES / "emcee_catalog.py"))["read"](folder)
    ours = catalog.likelihood(PopulationModel(flow))
    ratios = [_with_ratio(each) for each in (*catalog.events, catalog.run.found)]
    mass = Model([SinglePeakSmoothedMassDistribution()], cache=False)
    selection = ResamplingVT(
        mass,
        {**ratios[-1], "total_generated": catalog.run.drawn},
        n_events=len(catalog.events),
        enforce_convergence=False,
    )
    frames = [DataFrame(each) for each in ratios[:-1]]
    likelihood = HyperparameterLikelihood(frames, mass, selection_function=selection)

    def theirs(values: Floats) -> float:
        with np.errstate(divide="ignore"):  # the log of densities that are 0
            found = likelihood.ln_likelihood_and_variance(dict(zip(ENDS, values, strict=True)))
        return float(found[0])

    rows = sum(len(each["prior"]) for each in ratios)
    print(f"{len(catalog.events)} events, {rows} rows, {len(flow.members)} members")
    return ours, theirs


def chain(theirs: Callable[[Floats], float], calls: int, rng: np.random.Generator) -> None:
    low, high = np.array(list(ENDS.values())).T

    def ln_posterior(values: Floats) -> float:
        return theirs(values) if ((values > low) & (values < high)).all() else -np.inf

    walkers = 2 * len(low)
    start = rng.uniform(0.7 * low + 0.3 * high, 0.3 * low + 0.7 * high, (walkers, len(low)))
    emcee.EnsembleSampler(walkers, len(low), ln_posterior).run_mcmc(start, calls // walkers)


def timed(call: Call) -> float:
    start_s = time.process_time()
    call()
    return time.process_time() - start_s


def told(values_N: Floats) -> str:
    """The mean and its standard error."""
    return f"{values_N.mean():.3g} +- {values_N.std(ddof=1) / len(values_N) ** 0.5:.2g}"


def _with_ratio(table: dict[str, Floats]) -> dict[str, Floats]:
    """In the coordinates of gwpopulation's model: m1 and q, of which dm2 = m1 dq."""
    mass = table["mass_1"]
    return {
        "mass_1": mass,
        "mass_ratio": table["mass_2"] / mass,
        "prior": table["prior"] * mass,
    }


if __name__ == "__main__":
    main()
