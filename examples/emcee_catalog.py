"""Infer the emulator's conditions from a catalogue of mergers with emcee.

    python examples/emcee_catalog.py EMULATOR

Needs `pip install emcee`. `CatalogLikelihood` takes care of selection effects and says -inf outside
the emulator's domain, which makes the prior flat inside it.
"""

import sys

import emcee
import mock_catalog
import numpy as np

from models.arrays import ArrayFlow
from models.population import CatalogLikelihood, PopulationModel


def main(folder: str, steps: int = 300) -> None:
    flow = ArrayFlow.load(folder)
    catalog = mock_catalog.make(flow)
    likelihood = CatalogLikelihood(
        PopulationModel(flow), catalog.events, catalog.injections, drawn=catalog.drawn
    )
    estimate = likelihood.estimate(**catalog.truth)
    print(f"ln L at the truth {estimate.log_likelihood:.2f} +/- {estimate.variance**0.5:.2f}")
    print(f"effective injections {estimate.effective_injections:.0f}")

    rng = np.random.default_rng(0)
    walkers = 4 * len(likelihood.names)
    near = np.array([catalog.truth[name] for name in likelihood.names])
    start = near * np.exp(0.1 * rng.standard_normal((walkers, len(near))))
    sampler = emcee.EnsembleSampler(walkers, len(near), likelihood)
    sampler.run_mcmc(start, steps)

    chain = sampler.get_chain(discard=steps // 3, flat=True)
    for name, values in zip(likelihood.names, chain.T, strict=True):
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
        print(
            f"{name} = {middle:.4g} (90% {low:.4g} to {high:.4g}), truth {catalog.truth[name]:.4g}"
        )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
