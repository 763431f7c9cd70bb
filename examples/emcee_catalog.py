"""The posterior of an emulator's conditions and of the merger rate, from published files, by emcee.

    python examples/emcee_catalog.py EMULATOR CATALOG [--points 9] [--steps 10000]

Needs `pip install emcee corner h5py`. CATALOG has posterior samples in `events/*.h5` and
`injections.hdf`, such as `mock_files.py` makes, and in `truth.json` the truth of a mock. Written
beside them are `result.h5`, which popsummary reads, and `posterior.png`.

One likelihood of a large catalogue takes a second. Of two conditions it is a smooth surface, so it
is worked out on a grid, and emcee samples what is interpolated there. Of more parameters, give
emcee the likelihood itself.
"""

import argparse
import itertools
import json
import multiprocessing
from pathlib import Path
from typing import NamedTuple

import corner
import emcee
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter
from scipy.interpolate import RegularGridInterpolator

from models import (
    ArrayFlow,
    CatalogLikelihood,
    Curves,
    PopulationModel,
    SamplingPrior,
    Universe,
    read_injections,
    read_posterior,
    write_popsummary,
)
from models.inference.catalog import Estimate
from models.inference.published.injections import Injections
from models.inference.published.universe import PLANCK15_LAL

UNIVERSE = Universe(cosmology=PLANCK15_LAL, max_spin=0.99, evolution=2.7, max_redshift=0.7)
"""What a model of masses leaves open, for events and injections alike."""
PRIOR = SamplingPrior(masses="detector", distance="source_frame", cosmology=PLANCK15_LAL)
"""What the posterior samples were drawn under."""
FAR = 1.0
"""Largest false alarm rate of events and injections, in 1/yr."""
LOOKS = ((4, 8.0), (4, 6.0), (1, 14.0), (1, 0.0))
"""Grids that close in on the maximum: each takes one event of so many, and injection, and the next
one reaches so many nats down. The posterior of a part is wider, and beside that of all."""
PROCESSES, WALKERS = 2, 32
CHECKED = 8
"""Samples at which the likelihood is compared with what was interpolated."""
PUBLISHED = 200
"""Samples of the posterior that are published, with their merger rates."""


class Catalog(NamedTuple):
    """What an observing run published."""

    names: list[str]
    events: list[dict[str, np.ndarray]]
    run: Injections

    def likelihood(self, model: PopulationModel, every: int = 1) -> CatalogLikelihood:
        """Of one event, and injection, of so many; conditions alone, rates marginalised."""
        found = {name: values[::every] for name, values in self.run.found.items()}
        drawn = self.run.drawn // every
        return CatalogLikelihood(
            model, self.events[::every], found, drawn=drawn, largest_variance=np.inf
        )


def read(folder: Path) -> Catalog:
    """Posterior samples of the events, and the injections that were found."""
    paths = sorted(folder.glob("events/*.h5"))
    events = [read_posterior(path, UNIVERSE, prior=PRIOR, masses="detector") for path in paths]
    injections = folder / "injections.hdf"
    run = read_injections(injections, UNIVERSE, cosmology=PLANCK15_LAL, far=FAR)
    return Catalog([path.stem for path in paths], events, run)


class Surface:
    """Estimates on a grid of the logarithms of the conditions, interpolated."""

    def __init__(self, likelihood: CatalogLikelihood, axes: list[np.ndarray]) -> None:
        points = list(itertools.product(*axes))
        with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
            each = ((likelihood, point) for point in points)
            self.estimates = pool.starmap(estimate, each, chunksize=-(-len(points) // 8))
        events = len(self.estimates[0].effective_samples_J)
        print(f"{len(points)} likelihoods of {events} events")
        self.axes, self.shape = axes, [len(axis) for axis in axes]
        self.ln = np.array([one.log_likelihood for one in self.estimates])

    def of(self, what: str) -> RegularGridInterpolator:
        """A quantity of the estimates; NaN outside the grid."""
        values = np.array([getattr(one, what) for one in self.estimates])
        values = np.maximum(values, values.max() - 1e4)  # a spline takes no -inf
        return RegularGridInterpolator(
            self.axes, values.reshape(self.shape), "cubic", bounds_error=False
        )

    def near(self, reach: float) -> list[tuple[float, float]]:
        """Ends of the box of all points so near to the maximum, and one point more."""
        at = np.argwhere(self.ln.reshape(self.shape) >= self.ln.max() - reach)
        first, last = at.min(0) - 1, at.max(0) + 1
        return [
            (axis[max(low, 0)], axis[min(high, len(axis) - 1)])
            for axis, low, high in zip(self.axes, first, last, strict=True)
        ]


def estimate(likelihood: CatalogLikelihood, logs: tuple[float, ...]) -> Estimate:
    return likelihood.estimate(**dict(zip(likelihood.names, np.exp(logs), strict=True)))


def grid(ends: list[tuple[float, float]], points: int) -> list[np.ndarray]:
    return [np.linspace(low, high, points) for low, high in ends]


def sample(surface: Surface, steps: int) -> emcee.EnsembleSampler:
    """Of the logarithms of the conditions, in which the prior is flat."""
    interpolated = surface.of("log_likelihood")
    best = np.array(list(itertools.product(*surface.axes))[surface.ln.argmax()])
    steps_between = [axis[1] - axis[0] for axis in surface.axes]
    rng = np.random.default_rng(0)
    start = best + 0.5 * np.array(steps_between) * rng.uniform(-1, 1, (WALKERS, len(best)))
    low, high = np.array([(axis[0], axis[-1]) for axis in surface.axes]).T
    sampler = emcee.EnsembleSampler(
        WALKERS,
        len(best),
        lambda logs: np.nan_to_num(interpolated(logs), nan=-np.inf),
        vectorize=True,
    )
    sampler.random_state = np.random.RandomState(0).get_state()
    sampler.run_mcmc(np.clip(start, low, high), steps)
    return sampler


def check(
    surface: Surface, likelihood: CatalogLikelihood, sampler: emcee.EnsembleSampler, domain: list
) -> np.ndarray:
    """The samples, after what tells whether they are of the posterior is printed."""
    length = sampler.get_autocorr_time(tol=0).max()
    logs = sampler.get_chain(discard=int(5 * length), flat=True)
    some = np.random.default_rng(0).choice(logs, CHECKED)
    direct = [estimate(likelihood, one) for one in some]
    off = surface.of("log_likelihood")(some) - [one.log_likelihood for one in direct]
    inside = surface.ln > surface.ln.max() - 4
    near = [one for one, is_near in zip(surface.estimates, inside, strict=True) if is_near]
    low, high = np.array(domain).T
    at_end = (np.minimum(logs - low, high - logs) < 0.01 * (high - low)).any(1).mean()
    best = surface.estimates[surface.ln.argmax()].log_likelihood_M
    shares = np.exp(best - np.logaddexp.reduce(best))
    print(f"autocorrelation {length:.0f} of {len(sampler.get_chain())} steps")
    print(f"effective samples {len(logs) / length:.0f}")
    print(f"interpolated ln L off by {abs(off).max():.3f} at most in {CHECKED}")
    variance = max(one.variance for one in near)
    injections = min(one.effective_injections for one in near)
    worst = min(one.effective_samples_J.min() for one in near)
    least = 4 * len(near[0].effective_samples_J)
    print(f"variance of ln L {variance:.2f} at most, 1 is allowed")
    print(f"effective injections {injections:.0f} at least, {least} are wanted")
    print(f"effective samples of an event {worst:.1f} at least")
    print(f"the log-likelihood counts by {likelihood.power:.2f}")
    print(f"at an end of the domain {100 * at_end:.1f} % of the posterior")
    print(f"shares of the members {', '.join(f'{one:.2f}' for one in shares)}")
    return logs


def publish(
    path: Path, model: PopulationModel, samples: dict[str, np.ndarray], events: list[str]
) -> None:
    """Samples, each with its merger rate per unit of the heavier mass, as popsummary reads them."""
    mass, ratio = np.geomspace(2, 100, 120), (np.arange(40) + 0.5) / 40
    pairs = {"mass_1": mass[:, None], "mass_2": mass[:, None] * ratio}
    rates = [
        # The mean over ratios is the integral over the other mass, by the heavier one.
        values.pop("rate") * mass * model(pairs, **values).mean(1)
        for values in (
            dict(zip(samples, row, strict=True)) for row in zip(*samples.values(), strict=True)
        )
    ]
    write_popsummary(
        path,
        samples,
        models=["emulator of hpo-flows"],
        events=events,
        descriptions={"rate": "mergers per Gpc^3 and year at redshift 0"},
        curves={"primary_mass": Curves(parameters=["mass_1"], positions=mass, values=rates)},
    )


def span(values: np.ndarray) -> tuple[float, float]:
    """Where an axis ends: around nearly all samples, so that each line is closed."""
    low, high = np.quantile(np.log(values), [0.002, 0.998])
    air = 0.12 * (high - low)
    return float(np.exp(low - air)), float(np.exp(high + air))


def draw(
    samples: dict[str, np.ndarray], units: dict[str, str], truth: dict[str, float], out: Path
) -> None:
    """The posterior with its 50 % and 90 % regions, on logarithmic axes, and the truth."""
    figure = corner.corner(
        np.stack(list(samples.values()), axis=1),
        fig=plt.figure(figsize=(5.4, 5.4)),
        bins=40,
        range=[span(values) for values in samples.values()],
        labels=[f"{name} [{units[name] or 'dimensionless'}]" for name in samples],
        label_kwargs={"fontsize": 8},
        labelpad=0.02,
        truths=[truth.get(name) for name in samples],
        color="#0072B2",
        truth_color="#D55E00",
        axes_scale="log",
        levels=(0.5, 0.9),
        smooth=2.0,
        smooth1d=1.0,
        plot_density=False,
        plot_datapoints=False,
    )
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if axis.get_scale() == "log":
            ends = axis.get_view_interval()
            rounds = [m * 10.0**k for k in range(-9, 10) for m in (1, 2, 5)]
            inside = [each for each in rounds if ends[0] <= each <= ends[1]]
            axis.set_major_locator(
                FixedLocator(inside) if len(inside) > 1 else MaxNLocator(4, steps=[1, 5, 10])
            )
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    # An axis beside another has no numbers of its own, nor has a histogram's height.
    for axes in figure.axes:
        place = axes.get_subplotspec()
        axes.tick_params(
            labelbottom=place.is_last_row(),
            labelleft=place.is_first_col() and not place.is_first_row(),
            labelrotation=0,
            labelsize=8,
        )
    figure.savefig(out, dpi=300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emulator")
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--points", type=int, default=9, help="of the grid along each condition")
    parser.add_argument("--steps", type=int, default=10_000, help="of the chain")
    options = parser.parse_args()

    catalog = read(options.catalog)
    flow = ArrayFlow.load(options.emulator, dtype="float32")
    model = PopulationModel(flow)
    likelihood = catalog.likelihood(model)
    # Within by a hair: beyond an end, be it by rounding, the likelihood is 0.
    domain = [np.log(flow.domain[name]) + [1e-6, -1e-6] for name in likelihood.names]

    ends = domain
    for every, reach in LOOKS:
        surface = Surface(catalog.likelihood(model, every), grid(ends, options.points))
        ends = surface.near(reach)
    logs = check(surface, likelihood, sample(surface, options.steps), domain)

    samples = dict(zip(likelihood.names, np.exp(logs).T, strict=True))
    # Of a prior flat in the logarithm of the rate, its posterior under each sample is known.
    seen = UNIVERSE.hypervolume(catalog.run.years) * surface.of("detected_fraction")(logs)
    samples["rate"] = np.random.default_rng(0).gamma(len(catalog.events), 1 / seen)
    told = options.catalog / "truth.json"
    truth = json.loads(told.read_text()) if told.exists() else {}
    for name, values in samples.items():
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
        known = f", truth {truth[name]:.4g}" if name in truth else ""
        print(f"{name} = {middle:.4g} (90% {low:.4g} to {high:.4g}){known}")

    card = json.loads((Path(options.emulator) / "emulator.json").read_text())
    units = card["condition_columns"] | {"rate": "Gpc$^{-3}$ yr$^{-1}$"}
    draw(samples, units, truth, options.catalog / "posterior.png")
    some = np.random.default_rng(0).choice(len(logs), PUBLISHED, replace=False)
    few = {name: values[some] for name, values in samples.items()}
    publish(options.catalog / "result.h5", model, few, catalog.names)


if __name__ == "__main__":
    main()
