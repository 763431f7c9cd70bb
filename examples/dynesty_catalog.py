"""The evidence of a catalogue of mergers, metallicities summed over, with dynesty.

    python examples/dynesty_catalog.py EMULATOR

Needs `pip install dynesty`. The progenitors' metallicity is no property of a population but one of
each merger: here it is evenly distributed in log Z over the emulator's domain.
"""

import sys

import dynesty
import mock_catalog
import numpy as np

from models import ArrayFlow, CatalogLikelihood, PopulationModel, Table


def main(folder: str, live_points: int = 100) -> None:
    flow = ArrayFlow.load(folder)
    catalog = mock_catalog.make(flow)
    metallicities = np.geomspace(*flow.domain["Z"], 6)
    # Thousands of calls on all samples: a table answers many times as fast as the flow.
    tables = [Table.of(one, points=64, condition_points=8) for one in flow.members]
    model = PopulationModel(tables, over={"Z": (metallicities, np.ones(6))})
    likelihood = CatalogLikelihood(model, catalog.events, catalog.injections, drawn=catalog.drawn)
    low, high = np.array([flow.domain[name] for name in likelihood.names]).T

    def log_uniform(unit: np.ndarray) -> np.ndarray:
        return low * (high / low) ** unit

    sampler = dynesty.NestedSampler(
        likelihood,
        log_uniform,
        len(likelihood.names),
        nlive=live_points,
        rstate=np.random.default_rng(0),
    )
    sampler.run_nested(dlogz=0.5, print_progress=False)

    found = sampler.results
    print(f"ln evidence {found.logz[-1]:.2f} +/- {found.logzerr[-1]:.2f}")
    for name, values in zip(likelihood.names, found.samples_equal().T, strict=True):
        print(f"{name} = {np.median(values):.4g} +/- {values.std():.2g}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
