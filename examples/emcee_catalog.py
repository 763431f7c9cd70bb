"""Infer the emulator's conditions from a catalogue of mergers with emcee.

    python examples/emcee_catalog.py EMULATOR [--data PREPARED] [--events 15] [--steps 300]
                                     [--picture FILE]

Needs `pip install emcee`. `CatalogLikelihood` takes care of selection effects and says -inf outside
the emulator's domain, which makes the prior flat inside it. With `--data` the mergers are simulated
ones that no training saw.
"""

import argparse

import emcee
import matplotlib.pyplot as plt
import mock_catalog
import numpy as np

from models.arrays import ArrayFlow
from models.population import CatalogLikelihood, PopulationModel


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
        draw(chain, likelihood.names, catalog.truth, flow.domain, options.picture)


def draw(
    chain: np.ndarray,
    names: list[str],
    truth: dict[str, float],
    domain: dict[str, tuple[float, float]],
    out: str,
) -> None:
    """The posterior of the first two conditions over the emulator's domain, and the truth."""
    x, y = names[:2]
    figure, axes = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
    corners = [*np.log10(domain[x]), *np.log10(domain[y])]
    drawn = axes.hexbin(
        *chain.T[:2],
        gridsize=30,
        xscale="log",
        yscale="log",
        extent=corners,
        cmap="Blues",
        mincnt=1,
    )
    figure.colorbar(drawn, label="draws [count]")
    axes.axvline(truth[x], color="C1", lw=1)
    axes.axhline(truth[y], color="C1", lw=1, label="truth")
    axes.set(xlabel=x, ylabel=y, xlim=domain[x], ylim=domain[y])
    for axis, (low, high) in ((axes.xaxis, domain[x]), (axes.yaxis, domain[y])):
        axis.set_ticks(np.geomspace(low, high, 5), [f"{v:.2g}" for v in np.geomspace(low, high, 5)])
        axis.set_ticks([], minor=True)
    axes.legend()
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
