"""The likelihood of a catalogue, with the libraries that call it."""

import copy
import importlib
import warnings

import numpy as np
import pytest

from models import ArrayFlow, Emulator
from models.bundle.ensemble import Ensemble
from models.bundle.reliability import CELLS, Catalogs, Reliability, ReliabilityWarning
from models.inference.catalog import CatalogLikelihood
from models.inference.poisson import PoissonLikelihood
from models.inference.population import PopulationError, PopulationModel
from tests.random_flows import a_flow, in_arrays

OVER_Z = {"Z": ([0.0002, 0.001, 0.008], [1.0, 3.0, 2.0])}


@pytest.fixture(scope="module")
def flow():
    """Of random weights, steep in alpha."""
    return in_arrays(a_flow(seed=5, noise=0.12))


@pytest.fixture(scope="module")
def affine():
    """Without splines, which take a compiler seconds."""
    return in_arrays(a_flow(options={"kind": "affine"}, seed=5, noise=0.12))


def drawn(flow, rows, seed=0, **conditions):
    """Mergers as an observer orders them."""
    noise = np.random.default_rng(seed).standard_normal((rows, flow.noise_columns))
    c_C = np.array([conditions[name] for name in flow.condition_columns])
    events = flow.from_noise(noise, c_C)
    return {"mass_1": events.max(1), "mass_2": events.min(1)}


def a_catalogue(flow, *, events=8, samples=60, found=4_000, seed=3):
    """Mergers, posterior samples about them, and injections of which the heavy ones are found."""
    rng = np.random.default_rng(seed)
    true = drawn(flow, events, seed=seed, Z=0.001, alpha=2.0)
    catalogue = []
    for heavier, lighter in zip(true["mass_1"], true["mass_2"], strict=True):
        size = samples + int(rng.integers(0, 20))
        pair = np.exp(np.log([heavier, lighter]) + 0.02 * rng.standard_normal((size, 2)))
        catalogue.append(
            {"mass_1": pair.max(1), "mass_2": pair.min(1), "prior": np.full(size, 0.1)}
        )
    log_masses = rng.normal(2.0, 0.9, (found, 2))
    normal = np.exp(-0.5 * ((log_masses - 2.0) / 0.9) ** 2) / (0.9 * np.sqrt(2 * np.pi))
    pair = np.exp(log_masses)
    density = 2 * (normal / pair).prod(1)
    seen = pair.sum(1) > 8.0
    injections = {
        "mass_1": pair.max(1)[seen],
        "mass_2": pair.min(1)[seen],
        "prior": density[seen],
    }
    return catalogue, injections, found


def test_the_likelihood_is_that_of_its_definition(flow):
    events, injections, count = a_catalogue(flow)
    model = PopulationModel(flow, over=OVER_Z)
    likelihood = CatalogLikelihood(model, events, injections, drawn=count)

    means = [np.mean(model(e, alpha=2.0) / e["prior"]) for e in events]
    detected = np.sum(model(injections, alpha=2.0) / injections["prior"]) / count

    estimate = likelihood.estimate(alpha=2.0)
    expected = np.log(means).sum() - len(events) * np.log(detected)
    assert likelihood([2.0]) == pytest.approx(expected, rel=1e-9)
    assert estimate.detected_fraction == pytest.approx(detected, rel=1e-9)


@pytest.mark.slow
def test_the_likelihood_and_its_variance_are_gwpopulations(flow):
    hyperpe, vt = (
        importlib.import_module("gwpopulation.hyperpe"),
        importlib.import_module("gwpopulation.vt"),
    )
    frames = importlib.import_module("pandas").DataFrame
    events, injections, count = a_catalogue(flow)
    model = PopulationModel(flow, over=OVER_Z)
    selection = vt.ResamplingVT(
        hyperpe.Model([model], cache=False),
        {**injections, "total_generated": count},
        enforce_convergence=False,
    )
    theirs = hyperpe.HyperparameterLikelihood(
        [frames(event) for event in events],
        hyperpe.Model([model], cache=False),
        selection_function=selection,
    )

    ours = CatalogLikelihood(model, events, injections, drawn=count)

    for alpha in (0.7, 2.0, 4.5):
        log_likelihood, variance = theirs.ln_likelihood_and_variance({"alpha": alpha})
        estimate = ours.estimate(alpha=alpha)
        assert estimate.log_likelihood == pytest.approx(log_likelihood, rel=1e-9)
        assert estimate.variance == pytest.approx(variance, rel=1e-6)


def test_bilbys_hyperparameter_likelihood_takes_the_model(flow):
    bilby = importlib.import_module("bilby.hyper.likelihood")
    frames = importlib.import_module("pandas").DataFrame
    events = [
        {name: values[:50] for name, values in event.items()} for event in a_catalogue(flow)[0]
    ]
    model = PopulationModel(flow)
    theirs = bilby.HyperparameterLikelihood(
        [frames(event) for event in events], model, log_evidences=[0.0]
    )

    found = theirs.log_likelihood_ratio({"Z": 0.001, "alpha": 2.0})

    means = [np.mean(model(e, Z=0.001, alpha=2.0) / e["prior"]) for e in events]
    assert found == pytest.approx(np.log(means).sum(), rel=1e-9)


def test_the_true_parameter_is_found_again(flow):
    """With sharp posteriors, everything detected: the best alpha is that of the draws."""
    true = drawn(flow, 400, seed=8, Z=0.001, alpha=2.0)
    events = [
        {"mass_1": [a], "mass_2": [b], "prior": [1.0]}
        for a, b in zip(true["mass_1"], true["mass_2"], strict=True)
    ]
    many = drawn(flow, 2_000, seed=9, Z=0.001, alpha=2.0)
    model = PopulationModel(flow, over={"Z": ([0.001], [1.0])})
    many["prior"] = model(many, alpha=2.0)
    likelihood = CatalogLikelihood(model, events, many, drawn=2_000, largest_variance=np.inf)

    alpha = np.geomspace(0.5, 5, 30)
    log_likelihood = np.array([likelihood([value]) for value in alpha])

    weights = np.exp(log_likelihood - log_likelihood.max())
    mean = np.average(np.log(alpha), weights=weights)
    spread = np.sqrt(np.average((np.log(alpha) - mean) ** 2, weights=weights))
    assert spread < 0.5
    assert abs(mean - np.log(2.0)) < 3 * spread


def test_a_sum_that_is_noise_counts_as_impossible(flow):
    events, injections, count = a_catalogue(flow, samples=30)
    model = PopulationModel(flow, over=OVER_Z)
    strict = CatalogLikelihood(model, events, injections, drawn=count, largest_variance=1e-6)

    assert strict([2.0]) == -np.inf
    assert strict.estimate(alpha=2.0).variance > 1e-6
    assert np.isfinite(strict.estimate(alpha=2.0).log_likelihood)


def measured(square, error):
    """What an export may have found of catalogues of 200 events."""
    found = Catalogs(
        place=CELLS,
        events=200,
        catalogs=30,
        cells=10,
        cells_inside=12,
        covered=21,
        square=square,
        error=error,
        worst={"Z": 0.001, "alpha": 2.0},
    )
    return Reliability(measured=(found,), missing={})


def test_more_events_than_the_emulator_is_good_for_are_warned_of_once(tmp_path):
    """By the number that its export measured, which goes with the ensemble alone."""
    told = measured(square=29.6, error=1.0).to_card()
    two = Ensemble([a_flow(options={"kind": "affine"}, seed=seed, noise=0.12) for seed in (5, 6)])
    emulator = Emulator(two, {"reliability": told})
    array_flow = ArrayFlow.load(emulator.save(tmp_path / "e"))
    events, injections, count = a_catalogue(array_flow)

    def warned_of(emulator, events, make=CatalogLikelihood, **options):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            make(PopulationModel(emulator), events, injections, drawn=count, **options)
        assert {one.filename for one in said} <= {__file__}
        return [str(one.message) for one in said if one.category is ReliabilityWarning]

    for one in (emulator, array_flow):
        (message,) = warned_of(one, events)
        assert (
            "the catalogue has 8 events, and this emulator is good for 7.0 (6.8 to 7.2)" in message
        )
        assert "more rows in cells such as Z = 0.001, alpha = 2, more members, longer" in message
        assert warned_of(one, events[:6]) == []
    assert len(warned_of(array_flow, events, PoissonLikelihood, exposure=1.0)) == 1
    assert warned_of(array_flow.members[0], events) == []
    assert warned_of(array_flow.members, events) == []
    assert warned_of(Emulator(two), events) == []


def test_the_likelihood_counts_by_what_the_emulator_is_worth(flow):
    """As if the catalogue had so many fewer events, its variance too."""
    events, injections, count = a_catalogue(flow)
    model = PopulationModel(flow, over=OVER_Z)

    def made(**options):
        return CatalogLikelihood(model, events, injections, drawn=count, **options)

    whole, half = (made(worth=worth).estimate(alpha=2.0) for worth in (np.inf, 8))
    assert half.log_likelihood == pytest.approx(whole.log_likelihood / 2)
    assert half.variance == pytest.approx(whole.variance / 4)
    assert half.detected_fraction == whole.detected_fraction
    with pytest.raises(PopulationError, match="worth must be a number of events above 0, got 0"):
        made(worth=0)

    model.reliability = measured(square=1 + 200 / 24, error=0.2)
    assert made().power == pytest.approx(24 / 32)
    assert made(worth=np.inf).power == 1


def test_an_event_the_population_cannot_make_is_impossible_and_never_nan(flow):
    events, injections, count = a_catalogue(flow)
    events[2]["mass_2"] = 2 * events[2]["mass_1"]
    likelihood = CatalogLikelihood(
        PopulationModel(flow, over=OVER_Z), events, injections, drawn=count
    )

    assert likelihood([2.0]) == -np.inf
    assert likelihood([7.0]) == -np.inf
    assert likelihood.estimate(alpha=2.0).effective_samples_J[2] == 0


def test_effective_numbers_are_those_of_equal_weights(flow):
    """Samples drawn from the population itself all weigh the same."""
    model = PopulationModel(flow, over={"Z": ([0.001], [1.0])})
    event, found = (drawn(flow, rows, seed=rows, Z=0.001, alpha=2.0) for rows in (50, 300))
    event["prior"], found["prior"] = model(event, alpha=2.0), model(found, alpha=2.0)

    estimate = CatalogLikelihood(model, [event], found, drawn=300).estimate(alpha=2.0)

    assert estimate.effective_samples_J.tolist() == pytest.approx([50])
    assert estimate.effective_injections == pytest.approx(300)
    assert estimate.variance == pytest.approx(0, abs=1e-9)
    assert estimate.log_likelihood == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda e, i: e.clear(), "at least one event", id="none"),
        pytest.param(lambda e, i: e[1].pop("prior"), "event 1 has no prior", id="no-prior"),
        pytest.param(lambda e, i: i.pop("prior"), "the injections has no prior", id="no-draw"),
        pytest.param(
            lambda e, i: e[0].update(mass_1=[1.0]),
            "columns of event 0 must be of one length",
            id="l",
        ),
        pytest.param(
            lambda e, i: i["prior"].__setitem__(0, 0.0), "must be finite and above 0", id="zero"
        ),
        pytest.param(
            lambda e, i: e[0].update({k: [] for k in e[0]}), "has no posterior samples", id="empty"
        ),
    ],
)
def test_a_catalogue_that_cannot_be_used_is_refused(flow, change, message):
    events, injections, count = copy.deepcopy(a_catalogue(flow))
    change(events, injections)

    with pytest.raises(PopulationError, match=message):
        CatalogLikelihood(PopulationModel(flow), events, injections, drawn=count)


def test_fewer_injections_drawn_than_found_are_refused(flow):
    events, injections, _ = a_catalogue(flow)

    with pytest.raises(PopulationError, match="drawn must count all injections"):
        CatalogLikelihood(PopulationModel(flow), events, injections, drawn=10)


@pytest.mark.slow
def test_emcee_samples_the_likelihood(flow):
    emcee = importlib.import_module("emcee")
    events, injections, count = a_catalogue(flow, events=4, samples=30, found=1_000)
    model = PopulationModel(flow, over={"Z": ([0.001], [1.0])})
    likelihood = CatalogLikelihood(model, events, injections, drawn=count)
    start = np.random.default_rng(0).uniform(1, 4, (8, 1))

    chains = []
    for vectorize in (False, True):
        sampler = emcee.EnsembleSampler(8, 1, likelihood, vectorize=vectorize)
        sampler.random_state = np.random.RandomState(0).get_state()  # noqa: NPY002
        sampler.run_mcmc(start, 20)
        chains.append(sampler.get_chain(flat=True))

    np.testing.assert_array_equal(*chains)
    chain = chains[0]
    assert ((chain > 0.5) & (chain < 5)).all()
    assert 0.2 < sampler.acceptance_fraction.mean() < 1


@pytest.mark.slow
def test_dynesty_samples_the_likelihood(flow):
    dynesty = importlib.import_module("dynesty")
    events, injections, count = a_catalogue(flow, events=3, samples=30, found=1_000)
    model = PopulationModel(flow, over={"Z": ([0.001], [1.0])})
    likelihood = CatalogLikelihood(model, events, injections, drawn=count)

    sampler = dynesty.NestedSampler(
        likelihood, lambda u: 0.5 + 4.5 * u, 1, nlive=40, rstate=np.random.default_rng(0)
    )
    sampler.run_nested(dlogz=0.5, print_progress=False)

    alpha = np.linspace(0.5, 5, 200)
    evidence = np.log(np.mean([np.exp(likelihood([value])) for value in alpha]))
    assert sampler.results.logz[-1] == pytest.approx(evidence, abs=0.6)


@pytest.mark.slow
def test_under_jax_the_likelihood_compiles_and_has_its_gradient(affine):
    jax = importlib.import_module("jax")
    events, injections, count = a_catalogue(affine, events=3, samples=30, found=500)
    model = PopulationModel(affine)
    likelihood = CatalogLikelihood(model, events, injections, drawn=count, largest_variance=50.0)
    theta, step = np.array([0.002, 2.0]), np.array([1e-7, 1e-4])

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(likelihood.log_likelihood))(
            jax.numpy.asarray(theta)
        )

    differences = [
        (likelihood(theta + step * unit) - likelihood(theta - step * unit)) / (2 * step @ unit)
        for unit in np.eye(2)
    ]
    assert float(value) == pytest.approx(likelihood(theta), rel=1e-9)
    np.testing.assert_allclose(gradient, differences, rtol=1e-3)


@pytest.mark.slow
def test_under_jax_single_precision_is_enough(affine):
    jax = importlib.import_module("jax")
    events, injections, count = a_catalogue(affine, events=3, samples=30, found=500)
    likelihood = CatalogLikelihood(
        PopulationModel(affine, over=OVER_Z), events, injections, drawn=count, largest_variance=50.0
    )

    found = jax.jit(likelihood.log_likelihood)(jax.numpy.array([2.0]))

    assert found.dtype == np.float32
    assert float(found) == pytest.approx(likelihood([2.0]), abs=2e-3)


@pytest.mark.slow
def test_gwpopulation_compiles_the_model_under_jax(affine):
    jax = importlib.import_module("jax")
    gwpopulation = importlib.import_module("gwpopulation")
    pandas = importlib.import_module("pandas")
    from gwpopulation.experimental.jax import JittedLikelihood
    from gwpopulation.hyperpe import HyperparameterLikelihood, Model
    from gwpopulation.vt import ResamplingVT

    events, injections, count = a_catalogue(affine, events=3, samples=30, found=500)
    model = PopulationModel(affine)
    expected = CatalogLikelihood(model, events, injections, drawn=count, largest_variance=np.inf)
    before = jax.config.jax_enable_x64
    gwpopulation.set_backend("jax")
    try:
        theirs = HyperparameterLikelihood(
            [pandas.DataFrame(event) for event in events],
            Model([model], cache=False),
            selection_function=ResamplingVT(
                Model([model], cache=False),
                {**injections, "total_generated": count},
                enforce_convergence=False,
            ),
        )
        found = JittedLikelihood(theirs).log_likelihood_ratio({"Z": 0.002, "alpha": 2.0})
    finally:
        gwpopulation.set_backend("numpy")
        jax.config.update("jax_enable_x64", before)

    assert found == pytest.approx(expected([0.002, 2.0]), rel=1e-7)
