"""Infer the emulator's conditions from a catalogue of mergers with emcee.

    python examples/emcee_catalog.py EMULATOR [--data PREPARED] [--events 15] [--steps 300]
                                     [--picture FILE]

Needs `pip install emcee corner`. `CatalogLikelihood` takes care of selection effects and says -inf
outside the emulator's domain, which makes the prior flat inside it. With `--data` the mergers are
simulated ones that no training saw.
"""

import argparse

import corner
import emcee
import mock_catalog
import numpy as np

from models import ArrayFlow, CatalogLikelihood, PopulationModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emulator")
    parser.add_argument("--data", help="prepared dataset that the mergers are taken from")
    parser.add_argument("--events", type=int, default=15)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--picture", help="file to draw the posterior in")
    options = parser.parse_args()

    flow = ArrayFlow.load(options.emulator)
    # More events have to be known better, by more injections.
    catalog = mock_catalog.make(
        flow, options.data, events=options.events, drawn=600 * options.events
    )
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
    sampler.run_mcmc(start, options.steps)

    chain = sampler.get_chain(discard=options.steps // 3, flat=True)
    for name, values in zip(likelihood.names, chain.T, strict=True):
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
        print(
            f"{name} = {middle:.4g} (90% {low:.4g} to {high:.4g}), truth {catalog.truth[name]:.4g}"
        )
    if options.picture:
        draw(chain, likelihood.names, catalog.truth, options.picture)


def draw(chain: np.ndarray, names: list[str], truth: dict[str, float], out: str) -> None:
    """The posterior with its 50 % and 90 % regions, on logarithmic axes, and the truth."""
    figure = corner.corner(
        chain,
        bins=24,
        labels=names,
        truths=[truth[name] for name in names],
        truth_color="C1",
        axes_scale="log",
        levels=(0.5, 0.9),
        smooth=1.0,
        plot_density=False,
        data_kwargs={"alpha": 0.2},
    )
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
