"""The emulator as one of gwpopulation's models, beside a redshift distribution of its own.

    python examples/gwpopulation_model.py EMULATOR

Needs `pip install gwpopulation`. The likelihood is a bilby one: hand it to `bilby.run_sampler`.
"""

import sys

import mock_catalog
import numpy as np
from gwpopulation.hyperpe import HyperparameterLikelihood, Model
from gwpopulation.models.redshift import PowerLawRedshift
from gwpopulation.vt import ResamplingVT
from pandas import DataFrame

from models.arrays import ArrayFlow
from models.population import PopulationModel


def main(folder: str) -> None:
    flow = ArrayFlow.load(folder)
    catalog = mock_catalog.make(flow)
    rng = np.random.default_rng(0)
    events, injections = (
        [_with_redshift(table, rng) for table in tables]
        for tables in (catalog.events, [catalog.injections])
    )
    masses, redshifts = PopulationModel(flow), PowerLawRedshift(z_max=1.0)

    # cache=False: the cache looks at the parameters alone, and the data are two different sets.
    likelihood = HyperparameterLikelihood(
        [DataFrame(event) for event in events],
        Model([masses, redshifts], cache=False),
        selection_function=ResamplingVT(
            Model([masses, redshifts], cache=False),
            {**injections[0], "total_generated": catalog.drawn},
            n_events=len(events),
        ),
    )

    print("parameters:", ", ".join([*masses.variable_names, "lamb"]))
    for lamb in (0.0, 3.0):
        log_likelihood = likelihood.log_likelihood_ratio({**catalog.truth, "lamb": lamb})
        print(f"lamb = {lamb:g}: ln L = {log_likelihood:.2f}")


def _with_redshift(table: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """With redshifts drawn evenly from 0.01 to 1, a density of 1 / 0.99 that joins the prior."""
    redshift = rng.uniform(0.01, 1.0, len(table["prior"]))
    return {**table, "redshift": redshift, "prior": table["prior"] / 0.99}


if __name__ == "__main__":
    main(sys.argv[1])
