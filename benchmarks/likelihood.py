"""Processor time of the densities that one likelihood of a catalogue asks for, by each library.

    python benchmarks/likelihood.py EMULATOR [--events 200] [--samples 5000] [--rounds 5]

A population model under one set of conditions, which differs from call to call: both ways round of
every posterior sample, of the first member of an ensemble. The libraries take turns. The time is
that of all threads, of numpy and torch one; JAX is compiled before.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import ArrayFlow, Emulator, PopulationModel

SPREAD = 0.05
"""Of the samples of one event, in the logarithm of a mass."""
STEP = 1e-3
"""By how much, relatively, conditions differ from call to call."""
Masses = dict[str, NDArray[Any]]
Call = Callable[[float], Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("emulator", type=Path)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--samples", type=int, default=5000, help="of each event")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    flow = ArrayFlow.load(options.emulator).members[0]
    single = ArrayFlow.load(options.emulator, dtype="float32").members[0]
    middle = {name: float(np.sqrt(low * high)) for name, (low, high) in flow.domain.items()}
    masses = drawn(flow, middle, options.events, options.samples)
    ways = {
        "numpy, float64": by_numpy(PopulationModel(flow), masses, middle),
        "numpy, float32": by_numpy(PopulationModel(single), masses, middle),
        "JAX, float32": by_jax(PopulationModel(single), masses, middle),
    }
    if len(ArrayFlow.load(options.emulator).members) == 1:
        emulator = Emulator.load(options.emulator)
        ways["torch, float32"] = by_numpy(PopulationModel(emulator), masses, middle)
    truth = ways["numpy, float64"](1.0)
    for name, call in ways.items():
        print(f"{name}: ln p to {np.abs(np.asarray(call(1.0)) - truth).max():.1g}", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name, call in ways.items():
            start_s = time.process_time()
            call(1 + STEP * number)
            seconds[name].append(time.process_time() - start_s)
    count = options.events * options.samples
    for name, each in seconds.items():
        low, high = min(each), max(each)
        print(f"{name}: {np.median(each):.2f} s ({low:.2f} to {high:.2f}) for {count:,} samples")


def drawn(flow: ArrayFlow, here: dict[str, float], events: int, samples: int) -> Masses:
    """Posterior samples of a mock catalogue."""
    rng = np.random.default_rng(0)
    c_C = np.array([here[name] for name in flow.condition_columns])
    x_NF = flow.from_noise(rng.standard_normal((events, flow.noise_columns)), c_C[None])
    x_NF = np.repeat(x_NF, samples, axis=0)
    x_NF = x_NF * np.exp(SPREAD * rng.standard_normal(x_NF.shape))
    return {"mass_1": x_NF.max(1), "mass_2": x_NF.min(1)}


def by_numpy(model: PopulationModel, masses: Masses, here: dict[str, float]) -> Call:
    return lambda factor: model.ln_prob(
        masses, **{name: value * factor for name, value in here.items()}
    )


def by_jax(model: PopulationModel, masses: Masses, here: dict[str, float]) -> Call:
    import jax

    given = {name: jax.numpy.asarray(values, "float32") for name, values in masses.items()}
    # The samples as arguments: as constants they would be worked on by the compiler.
    compiled = jax.jit(lambda masses, here: model.ln_prob(masses, **here))
    return lambda factor: compiled(
        given, {name: value * factor for name, value in here.items()}
    ).block_until_ready()


if __name__ == "__main__":
    main()
