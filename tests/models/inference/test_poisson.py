"""The likelihood of a catalogue and of its number of events."""

import importlib
import math

import numpy as np
import pytest
from scipy.stats import gamma

from data_prep.columns import Column
from data_prep.dataset import Total
from examples.mock_files import analysis, write_pesummary
from models.bundle.efficiency import Efficiency
from models.inference.catalog import CatalogLikelihood
from models.inference.mixture import PopulationError
from models.inference.poisson import PoissonLikelihood
from models.inference.population import PopulationModel
from models.inference.published.injections import read_injections
from models.inference.published.posteriors import SamplingPrior, read_posterior
from models.inference.published.universe import PLANCK15_LAL, Universe
from models.namespaces import namespace
from tests.published_files import draws, write_injections
from tests.random_flows import a_flow, in_arrays

OVER_Z = {"Z": ([0.0002, 0.001, 0.008], [1.0, 3.0, 2.0])}
MOST = 1.5
UNIVERSE = Universe(cosmology=PLANCK15_LAL, max_spin=0.95, evolution=2.0, max_redshift=MOST)
PRIOR = SamplingPrior(masses="detector", distance="source_frame", cosmology=PLANCK15_LAL)
EVENTS = [(900.0, 40.0, 30.0), (1500.0, 25.0, 12.0), (3000.0, 18.0, 17.0), (5000.0, 60.0, 31.0)]
DRAWN, YEARS = 5_000, 0.5


@pytest.fixture(scope="module")
def seen():
    """Masses and distances of posterior samples, of each event."""
    rng = np.random.default_rng(4)
    scatter = [np.exp(0.03 * rng.standard_normal((3, 60 + 5 * k))) for k in range(len(EVENTS))]
    each = [np.array(at)[:, None] * near for at, near in zip(EVENTS, scatter, strict=True)]
    return [(np.maximum(m1, m2), np.minimum(m1, m2), distance) for distance, m1, m2 in each]


@pytest.fixture(scope="module")
def made():
    """Injections, of which those in the foreground are found."""
    columns, ln = draws(DRAWN, seed=2)
    loud = columns["mass1_source"] * (1 + columns["redshift"]) > 40 * columns["redshift"]
    return columns, ln, np.where(loud, 0.2, 7.0)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory, seen, made):
    """As read from the collaboration's files, for a model of masses and their ratio."""
    folder = tmp_path_factory.mktemp("published")
    *injected, far = made
    events = [
        read_posterior(
            write_pesummary(folder / f"{k}.h5", {"C00:Mixed": analysis(*columns)}),
            UNIVERSE,
            prior=PRIOR,
            masses="source",
            second="mass_ratio",
        )
        for k, columns in enumerate(seen)
    ]
    path = write_injections(folder / "o4a.hdf", "o4a", injected, drawn=DRAWN, far=far, years=YEARS)
    found = read_injections(path, UNIVERSE, cosmology=PLANCK15_LAL, far=1.0, second="mass_ratio")
    return events, found


class PowerLaw:
    """p(m1, q) of -alpha in m1 from 2 to 120 Msun, even in q: quick, under numpy and JAX."""

    variable_names = ("alpha",)

    def ln_prob(self, dataset, alpha):
        xp = namespace(dataset["mass_1"], alpha)
        slope = 1 - alpha
        norm = (120.0**slope - 2.0**slope) / slope
        return -alpha * xp.log(dataset["mass_1"]) - xp.log(norm)


def likelihoods(catalogue, model=None, *, exposure=300.0, worth=None):
    events, found = catalogue
    model = model or PowerLaw()
    given = {"drawn": found.drawn, "largest_variance": math.inf, "worth": worth}
    return (
        CatalogLikelihood(model, events, found.found, **given),
        PoissonLikelihood(model, events, found.found, exposure=exposure, **given),
    )


@pytest.mark.slow
def test_gwpopulation_gives_the_same_numbers_from_the_same_files(catalogue, seen, made):
    """Its likelihoods of masses, redshifts and spins, with priors by gwpopulation_pipe's rules."""
    from astropy.cosmology import FlatLambdaCDM

    hyperpe, vt, pandas = map(
        importlib.import_module, ("gwpopulation.hyperpe", "gwpopulation.vt", "pandas")
    )
    cosmology = FlatLambdaCDM(67.90, 0.3065, Tcmb0=0)

    def volume(z):
        return 4e-9 * np.pi * cosmology.differential_comoving_volume(z).value

    z = np.linspace(1e-6, MOST, 20_001)
    whole = np.trapezoid(volume(z) * (1 + z), z)

    def redshifts(dataset, evolution):
        z = dataset["redshift"]
        return np.where(z < MOST, volume(z) * (1 + z) ** (evolution - 1) / whole, 0.0)

    def spins(dataset, most):
        within = (dataset["a_1"] < most) & (dataset["a_2"] < most)
        return np.where(within, 1 / (4 * most**2), 0.0)

    frames = []
    for mass_1, mass_2, distance in seen:
        z = PLANCK15_LAL.redshift(distance)
        prior = mass_1 * (1 + z) * volume(z) / (1 + z)  # m1 (1 + z)^2 in the source frame
        columns = {"mass_1": mass_1 / (1 + z), "mass_ratio": mass_2 / mass_1, "redshift": z}
        spin = {"a_1": 0.1, "a_2": 0.1, "prior": prior / (4 * 0.95**2)}
        frames.append(pandas.DataFrame(columns | spin))
    columns, ln, far = made
    sizes = {f"a_{k}": columns[f"spin{k}_magnitude"] for k in (1, 2)}
    total = sum(ln[name] for name in ("mass1_source", "mass2_source", "z", "spin1x", "spin2x"))
    prior = np.exp(total) * columns["mass1_source"]
    prior = prior * (2 * np.pi) ** 2 * sizes["a_1"] ** 2 * sizes["a_2"] ** 2
    injections = sizes | {
        "mass_1": columns["mass1_source"],
        "mass_ratio": columns["mass2_source"] / columns["mass1_source"],
        "redshift": columns["redshift"],
        "prior": prior,
    }
    found = {name: values[far < 1] for name, values in injections.items()}
    model = PopulationModel(in_arrays(a_flow(seed=5, noise=0.12)), over=OVER_Z, second="mass_ratio")
    marginal, poisson = likelihoods(catalogue, model, exposure=300.0)
    parts = hyperpe.Model([model, redshifts, spins], cache=False)
    selection = vt.ResamplingVT(
        parts, {**found, "total_generated": DRAWN}, enforce_convergence=False
    )
    theirs = [
        kind(frames, parts, selection_function=selection)
        for kind in (hyperpe.HyperparameterLikelihood, hyperpe.RateLikelihood)
    ]

    for alpha, rate in ((0.7, 0.01), (2.0, 0.05), (4.5, 0.3)):
        told = {"alpha": alpha, "evolution": 2.0, "most": 0.95, "rate": 300 * rate}
        for ours, other, values in zip(
            (marginal, poisson), theirs, ([alpha], [alpha, rate]), strict=True
        ):
            with np.errstate(divide="ignore"):  # it takes the log of densities that are 0
                expected = other.ln_likelihood_and_variance(dict(told))[0]
            assert ours(values) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("worth", [math.inf, 20])
def test_the_mean_over_all_rates_is_the_likelihood_without_one(catalogue, worth):
    """Flat in the log of the rate, of which the posterior is a gamma distribution.

    So it is whatever the emulator is worth, which tells of masses alone.
    """
    marginal, poisson = likelihoods(catalogue, worth=worth)
    expected = 300 * float(marginal.estimate(alpha=2.0).detected_fraction)
    rates = np.geomspace(1e-4, 200, 400) / expected
    ln = np.array([poisson([2.0, rate]) for rate in rates])

    whole = np.trapezoid(np.exp(ln - ln.max()), np.log(rates))
    ln_mean = np.log(whole) + ln.max()

    assert poisson.names == ["alpha", "rate"]
    assert ln_mean == pytest.approx(marginal([2.0]) + math.lgamma(len(EVENTS)), abs=1e-3)
    density = np.exp(ln - ln.max()) / whole / rates
    known = gamma(len(EVENTS), scale=1 / expected).pdf(rates)
    np.testing.assert_allclose(density, known, rtol=1e-2)


def test_the_error_of_the_number_counts_as_the_number(catalogue):
    """As many expected as there are: the error without a rate; twice as many: four times it."""
    marginal, poisson = likelihoods(catalogue)
    plain = marginal.estimate(alpha=2.0)
    as_many = len(EVENTS) / (300 * float(plain.detected_fraction))
    of_found = 1 / plain.effective_injections - 1 / DRAWN

    once, twice = (
        poisson.estimate(alpha=2.0, rate=rate).variance for rate in (as_many, 2 * as_many)
    )

    assert once == pytest.approx(plain.variance, rel=1e-9)
    assert twice - once == pytest.approx(3 * len(EVENTS) ** 2 * of_found, rel=1e-6)


class Steeper(PowerLaw):
    def ln_prob(self, dataset, alpha):
        return super().ln_prob(dataset, alpha + 0.3)


class Both(PowerLaw):
    def ln_prob_of_members(self, dataset, alpha):
        return np.stack([each.ln_prob(dataset, alpha) for each in (PowerLaw(), Steeper())])


def test_members_are_averaged_over_with_their_own_numbers(catalogue):
    one, two, both = (
        likelihoods(catalogue, model())[1]([1.5, 0.02]) for model in (PowerLaw, Steeper, Both)
    )

    assert both == pytest.approx(np.logaddexp(one, two) - np.log(2), rel=1e-12)
    assert abs(one - two) > 0.1


def test_an_efficiency_tells_the_rate(catalogue):
    def efficiency(alpha):
        return np.where(alpha < 4, 1e-6 * alpha**2, 0.0)

    _, free = likelihoods(catalogue)
    events, found = catalogue
    told = PoissonLikelihood(
        PowerLaw(),
        events,
        found.found,
        drawn=found.drawn,
        exposure=1e8,
        efficiency=efficiency,
        largest_variance=math.inf,
    )

    assert told.names == ["alpha"]
    assert told([2.0]) == pytest.approx(free([2.0, 4e-6 * 1e8 / 300]), rel=1e-12)
    assert told([4.5]) == -math.inf
    assert free([2.0, 0.0]) == free([2.0, -1.0]) == -math.inf


def test_the_error_of_an_efficiency_is_averaged_over(catalogue):
    """Of the whole catalogue: each rate with each member."""
    events, found = catalogue
    rates_RM = np.array([[0.01, 0.02], [0.03, 0.0], [0.05, 0.08]])

    told = PoissonLikelihood(
        Both(),
        events,
        found.found,
        drawn=found.drawn,
        exposure=300.0,
        efficiency=lambda alpha: rates_RM,
        largest_variance=math.inf,
    )

    ln = [
        likelihoods(catalogue, model)[1]([1.5, rate])
        for model, rates in zip((PowerLaw(), Steeper()), rates_RM.T, strict=True)
        for rate in rates
    ]
    assert told([1.5]) == pytest.approx(np.logaddexp.reduce(ln) - np.log(6), rel=1e-12)


@pytest.mark.parametrize("sample_member", [False, True])
@pytest.mark.parametrize("over", [{}, OVER_Z])
def test_an_emulators_rates_go_with_the_densities_that_they_make(catalogue, over, sample_member):
    """With metallicities summed over, a function tells both the rate and the mixture."""
    flows = [in_arrays(a_flow(seed=seed, noise=0.12)) for seed in (5, 6)]
    cells = [
        Total((z, alpha), 5000, round(200 + 1e5 * z + 50 * alpha))
        for z in (1e-4, 1e-3, 1e-2)
        for alpha in (0.5, 1.0, 5.0)
    ]
    columns = Column("Z", "", True), Column("alpha", "", True)
    efficiency = Efficiency(columns, tuple(cells), "binaries")
    events, found = catalogue
    common = {"drawn": found.drawn, "exposure": 1e4, "largest_variance": math.inf}
    here = {"alpha": 2.0} if over else {"alpha": 2.0, "Z": 0.001}
    metals, formed = map(np.array, over.get("Z", ([0.001], [1.0])))
    c_KC = np.stack([metals, np.full(len(metals), 2.0)], 1)
    ln_MR = np.array(
        [
            [
                PoissonLikelihood(
                    PopulationModel(
                        one,
                        over={"Z": (metals, formed * rate_K)} if over else {},
                        second="mass_ratio",
                    ),
                    events,
                    found.found,
                    **common,
                )
                .estimate(**here, rate=np.average(rate_K, weights=formed))
                .log_likelihood
                for rate_K in np.exp(efficiency.log_rates(c_KC))
            ]
            for one in flows
        ]
    )

    model = PopulationModel(
        flows,
        over=over,
        efficiency=efficiency,
        second="mass_ratio",
        sample_member=sample_member,
    )
    told = PoissonLikelihood(model, events, found.found, **common, efficiency=model.efficiencies)

    if not sample_member:
        mean = np.logaddexp.reduce(ln_MR, axis=None) - np.log(ln_MR.size)
        assert told.estimate(**here).log_likelihood == pytest.approx(mean, rel=1e-9)
    else:
        last = told.estimate(**here, member=1.99).log_likelihood
        mean = np.logaddexp.reduce(ln_MR[1]) - np.log(ln_MR.shape[1])
        assert last == pytest.approx(ln_MR[1, -1] if over else mean, rel=1e-9)
    assert np.ptp(ln_MR, axis=1).min() > 0.1


@pytest.mark.slow
def test_under_jax_the_rate_has_its_gradient(catalogue):
    jax = importlib.import_module("jax")
    _, poisson = likelihoods(catalogue)

    with jax.enable_x64(True):
        slopes = jax.jit(jax.grad(poisson.log_likelihood))
        gradient, outside = (slopes(jax.numpy.array([2.0, rate])) for rate in (0.05, 0.0))

    step = 1e-6
    difference = (poisson([2.0, 0.05 + step]) - poisson([2.0, 0.05 - step])) / (2 * step)
    assert float(gradient[1]) == pytest.approx(difference, rel=1e-4)
    assert np.isfinite(outside).all()


def test_what_has_no_rate_is_refused(catalogue):
    with pytest.raises(PopulationError, match="exposure must be a number above 0"):
        likelihoods(catalogue, exposure=0.0)
    _, poisson = likelihoods(catalogue)
    with pytest.raises(PopulationError, match="has the parameter rate"):
        poisson.estimate(alpha=2.0)
