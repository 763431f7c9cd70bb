"""Members of an ensemble in a catalogue's likelihood: their mean, or one that a sampler draws."""

import importlib
import math

import numpy as np
import pytest
from scipy.special import logsumexp

from data_prep.columns import Column
from models import Emulator
from models.arrays.flow import ArrayFlow
from models.arrays.table import Table
from models.bundle.ensemble import Ensemble
from models.inference.catalog import CatalogLikelihood
from models.inference.population import PopulationError, PopulationModel
from tests.random_flows import CHANNEL, GRID, a_flow, flow, in_arrays

HERE = {"Z": 0.001, "alpha": 2.0}
SMALL = {"kind": "affine", "blocks": 1, "hidden": 8}


@pytest.fixture(scope="module")
def flows():
    return [a_flow(options=SMALL, seed=seed, noise=0.12) for seed in (5, 6, 7)]


@pytest.fixture(scope="module")
def ensemble(flows):
    return in_arrays(Ensemble(flows).eval())


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    m = rng.uniform(2, 40, (4, 25))
    return {"mass_1": m, "mass_2": m * rng.uniform(0.05, 1, m.shape)}


@pytest.fixture(scope="module")
def catalogue():
    """Events with posterior samples, and found injections of masses up to 60."""
    rng = np.random.default_rng(3)
    tables = []
    for rows in (40, 60, 50, 3_000):
        pair = np.exp(rng.normal(2.3, 0.5, (rows, 2)))
        tables.append({"mass_1": pair.max(1), "mass_2": pair.min(1), "prior": np.full(rows, 0.01)})
    return tables[:-1], tables[-1], 4_000


def test_the_likelihood_is_the_mean_of_the_members_likelihoods(flows, ensemble, catalogue):
    """Selection effects included."""
    events, injections, drawn = catalogue
    options = {"drawn": drawn, "largest_variance": math.inf}

    of_all = CatalogLikelihood(PopulationModel(ensemble), events, injections, **options)

    each = np.array(
        [
            CatalogLikelihood(PopulationModel(in_arrays(one)), events, injections, **options)(
                [0.001, 2.0]
            )
            for one in flows
        ]
    )
    found = of_all.estimate(**HERE)
    assert of_all([0.001, 2.0]) == pytest.approx(logsumexp(each) - math.log(3), rel=1e-9)
    np.testing.assert_allclose(found.log_likelihood_M, each, rtol=1e-9)


def test_torch_arrays_and_a_sequence_of_flows_are_the_same_members(flows, ensemble, data):
    expected = PopulationModel(ensemble).ln_prob_of_members(data, **HERE)

    assert expected.shape == (3, 4, 25)
    for emulator in (
        Emulator(Ensemble(flows)),
        [in_arrays(one) for one in flows],
        (ensemble.members[0], Emulator(flows[1]), in_arrays(flows[2])),
    ):
        found = PopulationModel(emulator).ln_prob_of_members(data, **HERE)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    mean = np.log(np.exp(expected).mean(0))
    np.testing.assert_allclose(PopulationModel(ensemble).ln_prob(data, **HERE), mean, rtol=1e-9)


def test_tables_of_members_stand_for_them(flows, ensemble):
    tables = [Table.of(one, points=24, condition_points=3) for one in ensemble.members[:2]]
    pair = {"mass_1": np.array([9.0, 14.0]), "mass_2": np.array([8.0, 7.0])}

    found = PopulationModel(tables).ln_prob_of_members(pair, **HERE)

    each = [PopulationModel(one).ln_prob(pair, **HERE) for one in tables]
    np.testing.assert_allclose(found, each, rtol=1e-12)


def test_where_a_member_knows_nothing_no_member_counts(flows, data):
    """Else a posterior would depend on which member saw a condition."""
    narrow = flow(
        conditions=GRID,
        domain={"Z": (5e-4, 1e-2), "alpha": (0.5, 3.0)},
        **{**SMALL, "double": False},
    ).requires_grad_(False)
    model = PopulationModel([in_arrays(flows[0]), in_arrays(narrow)])

    assert (model(data, Z=0.001, alpha=2.0) > 0).all()
    assert (model(data, Z=0.0002, alpha=2.0) == 0).all()
    assert (model(data, Z=0.001, alpha=4.0) == 0).all()


@pytest.mark.parametrize("over", [{}, {"Z": ([0.0002, 0.008], [1, 2])}], ids=["plain", "summed"])
def test_a_member_that_a_sampler_draws_is_that_member(ensemble, data, over):
    mean, drawn = (
        PopulationModel(ensemble, over=over, sample_member=choice) for choice in (False, True)
    )
    at = {name: HERE[name] for name in mean.variable_names}

    each = mean.ln_prob_of_members(data, **at)

    assert drawn.variable_names == [*at, "member"]
    for number in range(3):
        for value in (number, number + 0.99, np.array(number + 0.5)):
            found = drawn.ln_prob(data, **at, member=value)
            np.testing.assert_allclose(found, each[number], rtol=1e-12)
    rows = np.arange(100).reshape(4, 25) % 3
    picked = drawn.ln_prob(data, **at, member=rows)
    np.testing.assert_allclose(picked, np.take_along_axis(each, rows[None], 0)[0], rtol=1e-12)


@pytest.mark.parametrize("member", [-0.01, 3.0, np.nan, np.inf])
def test_no_such_member_has_no_density(ensemble, data, member):
    model = PopulationModel(ensemble, sample_member=True)

    assert (model(data, **HERE, member=member) == 0).all()


def test_the_mean_over_drawn_members_is_the_likelihood_without(ensemble, catalogue):
    events, injections, drawn = catalogue
    options = {"drawn": drawn, "largest_variance": math.inf}
    of_all = CatalogLikelihood(PopulationModel(ensemble), events, injections, **options)
    of_one = CatalogLikelihood(
        PopulationModel(ensemble, sample_member=True), events, injections, **options
    )

    each = [of_one([0.001, 2.0, number]) for number in (0.2, 1.0, 2.9)]

    assert of_one.names == ["Z", "alpha", "member"]
    assert of_all([0.001, 2.0]) == pytest.approx(logsumexp(each) - math.log(3), rel=1e-9)
    assert of_one([0.001, 2.0, 3.1]) == -np.inf


@pytest.mark.slow
def test_under_jax_members_compile_and_have_gradients(ensemble, catalogue, data):
    jax = importlib.import_module("jax")
    events, injections, drawn = catalogue
    options = {"drawn": drawn, "largest_variance": math.inf}
    pair, theta, step = ensemble.members[:2], np.array([0.002, 2.0]), np.array([0, 1e-4])
    likelihood = CatalogLikelihood(PopulationModel(pair), events, injections, **options)

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(likelihood.log_likelihood))(
            jax.numpy.asarray(theta)
        )

    slope = (likelihood(theta + step) - likelihood(theta - step)) / 2e-4
    assert float(value) == pytest.approx(likelihood(theta), rel=1e-9)
    assert float(gradient[1]) == pytest.approx(slope, rel=1e-4)
    of_one = PopulationModel(pair, sample_member=True)
    choose = jax.jit(lambda member: of_one.ln_prob(data, **HERE, member=member))
    for member in (0.2, 1.7, 2.0):
        expected = of_one.ln_prob(data, **HERE, member=member)
        np.testing.assert_allclose(choose(jax.numpy.asarray(member)), expected, atol=1e-3)


class Density:
    """A model that knows no members."""

    def __init__(self, ln_prob, variable_names=("theta",)):
        self.ln_prob, self.variable_names = ln_prob, variable_names


class Shifted:
    """Normal events about theta plus the error of each member."""

    variable_names = ("theta",)

    def __init__(self, errors):
        self.errors_M1 = np.reshape(errors, (-1, 1))

    def ln_prob_of_members(self, data, theta):
        z = data["x"] - theta - self.errors_M1
        return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)


FOUND = {"x": np.arange(-10, 10, 0.5), "prior": np.full(40, 1 / 20)}
"""Injections of which all are found: nothing is selected."""


def exactly(x):
    return [{"x": [value], "prior": [1.0]} for value in x]


def test_an_error_common_to_all_events_widens_the_posterior_by_as_much():
    """The law behind it: a truth that is one of the members is covered as often as it is said."""
    rng, model = np.random.default_rng(1), Shifted([-0.4, 0.05, 0.4])
    mean = Density(lambda data, theta: _mean(model.ln_prob_of_members(data, theta)))
    covered = {"members": 0, "mean density": 0}
    for _ in range(100):
        truth = rng.uniform(-0.05, 0.05)
        x = truth + rng.choice(model.errors_M1[:, 0]) + rng.standard_normal(40)
        theta = truth + np.linspace(-1.5, 1.5, 31)
        for name, one in (("members", model), ("mean density", mean)):
            likelihood = CatalogLikelihood(
                one, exactly(x), FOUND, drawn=40, largest_variance=math.inf
            )
            ln_L = np.array([likelihood([value]) for value in theta])
            weights = np.exp(ln_L - ln_L.max())
            covered[name] += weights[weights > weights[15]].sum() < 0.9 * weights.sum()

    assert 83 <= covered["members"] <= 97
    assert covered["mean density"] < 75


def _mean(ln_MN):
    return logsumexp(ln_MN, axis=0) - math.log(len(ln_MN))


def test_the_variance_is_that_of_fresh_samples_and_injections():
    """Members share their samples: their errors do not average out."""
    rng, model = np.random.default_rng(2), Shifted([-0.2, 0.1])
    centres, found, told = rng.standard_normal(6), [], []
    for _ in range(400):
        events = []
        for centre in centres:
            x = centre + 0.7 * rng.standard_normal(60)
            events.append({"x": x, "prior": np.full(60, 1.0)})
        x = 2.5 * rng.standard_normal(1_000)
        prior = np.exp(-0.5 * (x / 2.5) ** 2) / (2.5 * math.sqrt(2 * math.pi))
        kept = x > -0.3
        injections = {"x": x[kept], "prior": prior[kept]}
        one = CatalogLikelihood(model, events, injections, drawn=1_000).estimate(theta=0.1)
        found.append(one.log_likelihood)
        told.append(one.variance)

    assert np.mean(told) == pytest.approx(np.var(found), rel=0.2)


def test_members_that_are_all_the_same_tell_what_one_does(catalogue, flows):
    events, injections, drawn = catalogue
    one, same = (
        CatalogLikelihood(
            PopulationModel([in_arrays(flows[0])] * count), events, injections, drawn=drawn
        ).estimate(**HERE)
        for count in (1, 3)
    )

    for name in ("log_likelihood", "variance", "detected_fraction", "effective_injections"):
        assert getattr(same, name) == pytest.approx(getattr(one, name), rel=1e-9)
    np.testing.assert_allclose(same.effective_samples_J, one.effective_samples_J, rtol=1e-9)


def test_an_event_that_one_member_cannot_make_leaves_the_others():
    model = Shifted([0.0, 0.5])
    of_members = model.ln_prob_of_members

    def without_the_first(data, theta):
        ln_MN = of_members(data, theta)
        return np.where((data["x"] > 3) & (np.arange(2)[:, None] == 0), -np.inf, ln_MN)

    model.ln_prob_of_members = without_the_first
    likelihood = CatalogLikelihood(
        model, exactly([0.2, 3.5]), FOUND, drawn=40, largest_variance=math.inf
    )

    found = likelihood.estimate(theta=0.0)

    assert found.log_likelihood_M[0] == -np.inf
    assert found.log_likelihood == pytest.approx(found.log_likelihood_M[1] - math.log(2))
    assert found.effective_samples_J.tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda f: PopulationModel([]), "needs an emulator", id="none"),
        pytest.param(
            lambda f: PopulationModel(f[0], sample_member=True), "is a single one", id="single"
        ),
        pytest.param(
            lambda f: PopulationModel([f[0], in_arrays(a_flow(3, options=SMALL))]),
            "one set of event columns, got Mass_0, Mass_1 and Mass_0, Mass_1, chi_eff",
            id="columns",
        ),
        pytest.param(
            lambda f: PopulationModel([f[0], in_arrays(flow(**SMALL))]),
            "no Z is in the domain of all members",
            id="domain",
        ),
        pytest.param(
            lambda f: PopulationModel(
                [
                    in_arrays(flow(conditions=(each,), **SMALL))
                    for each in (CHANNEL, Column("channel", "", categories=("CE", "SMT")))
                ]
            ),
            "know different texts of channel",
            id="texts",
        ),
        pytest.param(
            lambda f: PopulationModel(
                [in_arrays(flow(conditions=(Column("member", ""),), **SMALL))] * 2,
                sample_member=True,
            ),
            "'member' is the name of a condition",
            id="name",
        ),
        pytest.param(
            lambda f: PopulationModel([f[0], f[1]], sample_member=True)(
                {"mass_1": [9.0], "mass_2": [5.0]}, **HERE
            ),
            "the parameters are Z, alpha, member, got Z, alpha",
            id="missing",
        ),
    ],
)
def test_members_that_make_no_model_are_refused_with_a_sentence(ensemble, make, message):
    with pytest.raises(PopulationError, match=message):
        make(ensemble.members)


def test_a_single_flow_is_its_own_member(bundle):
    one = ArrayFlow.load(bundle)

    assert one.members == (one,)
