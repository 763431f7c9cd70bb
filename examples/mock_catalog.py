"""A made-up catalogue for the examples: mergers of an emulator or of a simulation, seen by a
made-up detector.

Exchange this for your own data; what the likelihoods want of it is the dictionaries made here.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.stream import read_split
from models import ArrayFlow, PopulationModel

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
        masses, truth = _simulated(data, truth, least=10 * events)
        masses = rng.permutation(masses)
    observed = masses * np.exp(ERROR * rng.standard_normal(masses.shape))
    observed = observed[_seen(observed, rng)][:events]
    # Under a prior flat in the logarithms of both masses.
    posteriors = [one * np.exp(ERROR * rng.standard_normal((samples, 2))) for one in observed]
    injected, density = _of_all_conditions(flow, drawn, rng)
    found = _seen(injected * np.exp(ERROR * rng.standard_normal(injected.shape)), rng)
    return MockCatalog(
        truth=truth,
        events=[_ordered(pairs) | {"prior": 1 / pairs.prod(1)} for pairs in posteriors],
        injections=_ordered(injected[found]) | {"prior": density[found]},
        drawn=drawn,
    )


def _of_all_conditions(
    flow: ArrayFlow, rows: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Masses from a mixture of the populations at a grid of conditions, and its density there."""
    grid = {name: np.geomspace(*flow.domain[name], 4) for name in flow.condition_columns}
    conditions = np.stack([rng.choice(values, rows) for values in grid.values()], 1)
    masses = flow.from_noise(rng.standard_normal((rows, flow.noise_columns)), conditions)
    over = {name: (values, np.ones(len(values))) for name, values in grid.items()}
    return masses, PopulationModel(flow, over=over)(_ordered(masses))


def _simulated(
    folder: str, near: dict[str, float], *, least: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Mergers of the nearest cell with so many test rows, in log conditions, and what it is."""
    test = read_split(folder, "test")
    cells, cell, rows = np.unique(
        test.conditions.astype(float), axis=0, return_inverse=True, return_counts=True
    )
    away = (np.log(cells / list(near.values())) ** 2).sum(1)
    nearest = np.where(rows >= min(least, rows.max()), away, np.inf).argmin()
    masses = test.events[cell.ravel() == nearest].astype(float)
    return masses, dict(zip(near, cells[nearest].tolist(), strict=True))


def _seen(observed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Heavy mergers are louder."""
    return rng.random(len(observed)) < np.minimum(1, (observed.sum(1) / 60) ** 2)


def _ordered(pairs: np.ndarray) -> dict[str, np.ndarray]:
    """The heavier mass first."""
    return {"mass_1": pairs.max(1), "mass_2": pairs.min(1)}
