"""A made-up catalogue for the examples: mergers of an emulator or of a simulation, seen by a
made-up detector.

Exchange this for your own data; what the likelihoods want of it is the dictionaries made here.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.stream import read_split
from models.arrays import ArrayFlow

ERROR = 0.05
"""Of ln mass, as a detector measures it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MockCatalog:
    """What an observing run hands to a population analysis, and the truth that made it."""

    truth: dict[str, float]
    """The conditions that the mergers were drawn under."""
    events: list[dict[str, np.ndarray]]
    """Posterior samples of each event, with `prior`, the density they were drawn under."""
    injections: dict[str, np.ndarray]
    """Those found of the injected signals, with `prior`, the density they were drawn from."""
    drawn: int
    """Injected signals, found or not."""


def make(
    flow: ArrayFlow,
    data: str | None = None,
    *,
    events: int = 15,
    samples: int = 100,
    drawn: int = 10_000,
    seed: int = 1,
) -> MockCatalog:
    """A catalogue of so many detected events, at the middle of the emulator's domain.

    With the folder of a prepared dataset the mergers are simulated ones that no training saw: test
    rows of the cell that is nearest to the middle.
    """
    rng = np.random.default_rng(seed)
    truth = {name: float(np.sqrt(low * high)) for name, (low, high) in flow.domain.items()}
    if data is None:
        noise = rng.standard_normal((100 * events, flow.noise_columns))
        masses = flow.from_noise(noise, np.array([truth[name] for name in flow.condition_columns]))
    else:
        masses, truth = _simulated(data, truth, least=20 * events)
        masses = rng.permutation(masses)
    observed = masses * np.exp(ERROR * rng.standard_normal(masses.shape))
    observed = observed[_seen(observed, rng)][:events]
    posteriors = [one * np.exp(ERROR * rng.standard_normal((samples, 2))) for one in observed]

    # Injected from a normal distribution of the log masses, somewhat wider than that of mergers.
    mean, spread = np.log(masses).mean(), 1.2 * np.log(masses).std()
    z = rng.standard_normal((drawn, 2))
    injected = np.exp(mean + spread * z)
    per_log_masses = 2 * np.exp(-0.5 * (z**2).sum(1)) / (2 * np.pi * spread**2)
    found = _seen(injected * np.exp(ERROR * rng.standard_normal(injected.shape)), rng)
    return MockCatalog(
        truth=truth,
        events=[_ordered(pairs, np.ones(samples)) for pairs in posteriors],
        injections=_ordered(injected[found], per_log_masses[found]),
        drawn=drawn,
    )


def _simulated(
    folder: str, near: dict[str, float], *, least: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Mergers of the nearest cell with so many test rows, in log conditions, and what it is."""
    test = read_split(folder, "test")
    cells, cell, rows = np.unique(
        test.conditions.astype(float), axis=0, return_inverse=True, return_counts=True
    )
    away = (np.log(cells / list(near.values())) ** 2).sum(1)
    nearest = np.where(rows >= least, away, np.inf).argmin()
    masses = test.events[cell.ravel() == nearest].astype(float)
    return masses, dict(zip(near, cells[nearest].tolist(), strict=True))


def _seen(observed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Heavy mergers are louder."""
    return rng.random(len(observed)) < np.minimum(1, (observed.sum(1) / 60) ** 2)


def _ordered(pairs: np.ndarray, per_log_masses: np.ndarray) -> dict[str, np.ndarray]:
    """The heavier mass first, and the prior, given per unit of both log masses, in solar masses."""
    return {
        "mass_1": pairs.max(1),
        "mass_2": pairs.min(1),
        "prior": per_log_masses / pairs.prod(1),
    }
