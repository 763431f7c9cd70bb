"""The emulator as one of gwpopulation's models, sampled by bilby.

    python examples/gwpopulation_model.py EMULATOR

Needs `pip install gwpopulation`, which brings bilby. Beside the emulator's masses stands a redshift
distribution of gwpopulation's own, with a parameter `lamb`.
"""

import sys
import tempfile

import bilby
import mock_catalog
import numpy as np
from gwpopulation.hyperpe import HyperparameterLikelihood, Model
from gwpopulation.models.redshift import PowerLawRedshift
from gwpopulation.vt import ResamplingVT
from pandas import DataFrame

from models import ArrayFlow, PopulationModel, Table


def main(folder: str, live_points: int = 100) -> None:
    flow = ArrayFlow.load(folder)
    catalog = mock_catalog.make(flow)
    rng = np.random.default_rng(0)
    events, injections = (
        [_with_redshift(table, rng) for table in tables]
        for tables in (catalog.events, [catalog.injections])
    )
    # Thousands of calls on all samples: a table answers many times as fast as the flow.
    tables = [Table.of(one, points=64, condition_points=8) for one in flow.members]
    # The member of an ensemble is one more parameter: its error is common to all events.
    masses = PopulationModel(tables, sample_member=len(tables) > 1)
    redshifts = PowerLawRedshift(z_max=1.0)

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
    anyone = {"member": 0} if masses.sample_member else {}
    at_truth = likelihood.log_likelihood_ratio({**catalog.truth, **anyone, "lamb": 0.0})
    print(f"ln L at the truth {at_truth:.2f}")

    bilby.core.utils.random.seed(0)
    priors = {name: bilby.core.prior.LogUniform(*ends) for name, ends in flow.domain.items()}
    priors["lamb"] = bilby.core.prior.Uniform(-4, 8)
    if masses.sample_member:
        priors["member"] = bilby.core.prior.Uniform(0, len(tables))
    with tempfile.TemporaryDirectory() as outdir:
        result = bilby.run_sampler(
            likelihood,
            priors,
            sampler="dynesty",
            nlive=live_points,
            dlogz=0.5,
            sample="unif",
            bound="multi",
            outdir=outdir,
            save=False,
            resume=False,
            check_point=False,
            print_progress=False,
        )
    for name in priors:
        low, middle, high = np.quantile(result.posterior[name], [0.05, 0.5, 0.95])
        truth = f", truth {catalog.truth[name]:.4g}" if name in catalog.truth else ""
        print(f"{name} = {middle:.4g} (90% {low:.4g} to {high:.4g}){truth}")


def _with_redshift(table: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """With redshifts drawn evenly from 0.01 to 1, a density of 1 / 0.99 that joins the prior."""
    redshift = rng.uniform(0.01, 1.0, len(table["prior"]))
    return {**table, "redshift": redshift, "prior": table["prior"] / 0.99}


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
