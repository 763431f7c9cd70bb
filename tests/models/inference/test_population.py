"""Population models: densities, sums over conditions, and other array libraries."""

import importlib
import pickle

import numpy as np
import pytest

from data_prep.columns import Column
from data_prep.dataset import Total
from models import Emulator
from models.arrays.flow import ArrayFlow
from models.bundle.efficiency import Efficiency
from models.inference.population import PopulationError, PopulationModel
from tests.random_flows import BASE, MASSES, SPIN, a_flow, a_mixed_flow, in_arrays

HERE = {"Z": 0.001, "alpha": 1.0}
LAYERED = {**BASE, "blocks": 1}
OVER_Z = {"Z": ([0.0002, 0.001, 0.008], [1.0, 3.0, 2.0])}


@pytest.fixture(scope="module")
def flow():
    """Of random weights, steep in alpha: a layer above a mixture."""
    return in_arrays(a_flow(seed=5, noise=0.12, options=LAYERED))


@pytest.fixture
def masses():
    """Primaries and ratios, two-dimensional as gwpopulation makes them."""
    rng = np.random.default_rng(0)
    return {"mass_1": rng.uniform(2, 40, (4, 50)), "mass_ratio": rng.uniform(0.05, 1, (4, 50))}


def in_pairs(data):
    return {"mass_1": data["mass_1"], "mass_2": data["mass_1"] * data["mass_ratio"]}


def test_the_density_is_that_of_both_ways_round(flow, masses):
    data = in_pairs(masses)
    heavier, lighter = (data[name].reshape(-1) for name in ("mass_1", "mass_2"))

    density = PopulationModel(flow)(data, **HERE)

    expected = sum(
        np.exp(flow.log_prob(np.stack(pair, 1), **HERE))
        for pair in ((heavier, lighter), (lighter, heavier))
    )
    assert density.shape == (4, 50)
    np.testing.assert_allclose(density.reshape(-1), expected, rtol=1e-10)


def test_per_mass_ratio_it_is_the_primary_mass_times_as_much(flow, masses):
    per_ratio = PopulationModel(flow, second="mass_ratio")(masses, **HERE)

    per_mass = PopulationModel(flow)(in_pairs(masses), **HERE)
    np.testing.assert_allclose(per_ratio, masses["mass_1"] * per_mass, rtol=1e-10)


@pytest.mark.parametrize("second", ["mass_2", "mass_ratio"])
def test_the_density_integrates_to_one(second):
    model = PopulationModel(in_arrays(a_flow(noise=0.05)), second=second)
    log_m, ratio = np.linspace(-2, 7, 200), (np.arange(300) + 0.5) / 300
    m, q = np.meshgrid(np.exp(log_m), ratio, indexing="ij")
    data = {"mass_1": m, "mass_ratio": q, "mass_2": m * q}

    density = model(data, **HERE) * (m if second == "mass_2" else 1) * m

    assert density.sum() * (log_m[1] - log_m[0]) / 300 == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(
    ("heavier", "lighter"),
    [(5.0, 9.0), (-5.0, -9.0), (9.0, 0.0), (9.0, -1.0), (np.nan, 5.0), (9.0, np.inf), (0.0, 0.0)],
)
def test_outside_the_support_the_density_is_exactly_zero(flow, heavier, lighter):
    data = {"mass_1": np.array([heavier, 9.0]), "mass_2": np.array([lighter, 8.0])}

    model = PopulationModel(flow)

    assert model(data, **HERE)[0] == 0
    assert model(data, **HERE)[1] > 0
    assert model.ln_prob(data, **HERE)[0] == -np.inf


@pytest.mark.parametrize("library", ["numpy", "jax.numpy"])
@pytest.mark.parametrize("second", ["mass_2", "mass_ratio"])
def test_of_no_events_there_are_no_densities(flow, library, second):
    """As gwpopulation's own models have it, for an event list that a cut left empty."""
    xp = importlib.import_module(library)
    none = {"mass_1": xp.zeros((3, 0)), second: xp.zeros((3, 0))}
    model = PopulationModel(flow, second=second, over=OVER_Z)

    for found in (model(none, alpha=1.0), model.ln_prob(none, alpha=xp.zeros((3, 0)))):
        assert isinstance(found, type(xp.zeros(0)))
        assert found.shape == (3, 0)


def test_of_no_events_an_emulator_has_no_densities(bundle):
    none = np.zeros(0)

    found = PopulationModel(Emulator.load(bundle))({"mass_1": none, "mass_2": none}, **HERE)

    assert found.shape == (0,)


def test_a_mass_ratio_above_one_has_no_density(flow):
    data = {"mass_1": np.full(3, 9.0), "mass_ratio": np.array([1.0, 1.01, 0.5])}

    assert (PopulationModel(flow, second="mass_ratio")(data, **HERE) > 0).tolist() == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("alpha", [0.4, 5.1, np.nan, -1.0, np.inf])
def test_conditions_the_emulator_never_saw_have_no_density(flow, masses, alpha):
    data = in_pairs(masses)

    assert (PopulationModel(flow)(data, Z=0.001, alpha=alpha) == 0).all()


def test_it_extrapolates_when_told_to(flow, masses):
    data = in_pairs(masses)

    density = PopulationModel(flow, extrapolate=True)(data, Z=0.001, alpha=5.5)

    assert (density > 0).all()


def test_metallicities_are_summed_over_in_one_call(flow, masses):
    data = in_pairs(masses)
    model = PopulationModel(flow, over=OVER_Z)

    found = model(data, alpha=2.0)

    each = [PopulationModel(flow)(data, Z=z, alpha=2.0) for z in OVER_Z["Z"][0]]
    assert model.variable_names == ["alpha"]
    np.testing.assert_allclose(found, np.average(each, axis=0, weights=[1, 3, 2]), rtol=1e-10)


@pytest.fixture(scope="module")
def efficiency():
    """Mergers fall with the metallicity, and faster for a small alpha."""
    cells = [
        Total((z, alpha), 100_000.0, round(30 * alpha * (z / 0.01) ** (-0.5 - 0.2 / alpha)))
        for z in np.geomspace(1e-4, 0.02, 6)
        for alpha in (0.5, 1.0, 2.0, 5.0)
    ]
    return Efficiency((Column("Z", "", True), Column("alpha", "", True)), tuple(cells), "binaries")


def test_stars_that_merge_more_often_weigh_more(flow, masses, efficiency):
    """Under each function that may be the rate, by which a catalogue's likelihood is averaged."""
    data = in_pairs(masses)
    model = PopulationModel(flow, over=OVER_Z, efficiency=efficiency)

    densities = np.exp(model.ln_prob_of_members(data, alpha=2.0))

    Z, formed = np.array(OVER_Z["Z"][0]), np.array([1, 3, 2])
    each = [PopulationModel(flow)(data, Z=z, alpha=2.0) for z in Z]
    c = np.array([[z, 2.0] for z in Z])
    expected = [
        np.average(each, axis=0, weights=formed * rates)
        for rates in np.exp(efficiency.log_rates(c))
    ]
    np.testing.assert_allclose(densities, expected, rtol=1e-9)
    np.testing.assert_allclose(model(data, alpha=2.0), np.mean(expected, axis=0), rtol=1e-9)
    assert np.std(densities, axis=0).max() > 1e-3 * densities.max()
    mean = np.average(np.exp(efficiency.log_rate(c)), weights=formed)
    assert model.efficiency(alpha=2.0) == pytest.approx(mean)
    assert not np.allclose(expected, PopulationModel(flow, over=OVER_Z)(data, alpha=2.0), rtol=0.05)


def test_where_nothing_is_summed_over_the_rate_makes_no_difference(flow, masses, efficiency):
    data, model = in_pairs(masses), PopulationModel(flow, efficiency=efficiency)

    found = model.ln_prob_of_members(data, **HERE)

    np.testing.assert_array_equal(found, PopulationModel(flow).ln_prob_of_members(data, **HERE))


def test_a_sampler_chooses_a_flow_and_a_rate_by_one_number(flow, masses, efficiency):
    data, options = in_pairs(masses), {"over": OVER_Z, "efficiency": efficiency}
    each = PopulationModel([flow, flow], **options).ln_prob_of_members(data, alpha=2.0)
    model = PopulationModel([flow, flow], **options, sample_member=True)

    for member, row in ((0.0, 0), (0.99, 15), (1.5, 24)):
        np.testing.assert_allclose(model.ln_prob(data, alpha=2.0, member=member), each[row])
    assert (model(data, alpha=2.0, member=2.0) == 0).all()


def test_the_mean_efficiency_has_the_shape_of_the_conditions_and_is_0_outside(flow, efficiency):
    model = PopulationModel(flow, over=OVER_Z, efficiency=efficiency)
    alpha = np.array([[0.6, 2.0], [4.0, 500.0]])

    found = model.efficiency(alpha=alpha)

    assert found.shape == (2, 2)
    assert found[1, 1] == 0
    assert found[0, 1] == pytest.approx(float(model.efficiency(alpha=2.0)))
    plain = PopulationModel(flow, efficiency=efficiency)
    mean = np.exp(efficiency.log_rate(np.array(list(HERE.values()))))
    assert plain.efficiency(**HERE) == pytest.approx(mean)
    assert plain.efficiency(Z=np.zeros((0, 2)), alpha=1.0).shape == (0, 2)


@pytest.mark.slow
def test_under_jax_the_weights_by_mergers_have_gradients(masses, efficiency):
    jax = pytest.importorskip("jax")
    flow = in_arrays(a_flow(options={"kind": "affine"}, seed=5, noise=0.12))
    model = PopulationModel(flow, over=OVER_Z, efficiency=efficiency)
    data = in_pairs(masses)

    with jax.enable_x64(True):
        given = {name: jax.numpy.asarray(values) for name, values in data.items()}
        for function, by_numpy in (
            (lambda alpha: model(given, alpha=alpha).sum(), lambda a: model(data, alpha=a).sum()),
            (lambda alpha: model.efficiency(alpha=alpha), lambda a: model.efficiency(alpha=a)),
        ):
            value, gradient = jax.jit(jax.value_and_grad(function))(1.7)
            np.testing.assert_allclose(value, by_numpy(1.7), rtol=1e-10)
            slope = (by_numpy(1.7 + 1e-6) - by_numpy(1.7 - 1e-6)) / 2e-6
            np.testing.assert_allclose(gradient, slope, rtol=1e-5)


def test_two_conditions_are_summed_over_at_all_combinations(flow, masses):
    data = in_pairs(masses)
    over = {"alpha": ([0.5, 3.0], [1, 1]), "Z": ([0.001, 0.01], [1, 3])}

    found = PopulationModel(flow, over=over)(data)

    each = [PopulationModel(flow)(data, Z=z, alpha=a) for a in (0.5, 3) for z in (0.001, 0.01)]
    np.testing.assert_allclose(found, np.average(each, axis=0, weights=[1, 3, 1, 3]), rtol=1e-10)


def test_a_condition_may_differ_from_sample_to_sample(flow, masses):
    data = in_pairs(masses)
    alpha = np.linspace(0.5, 5, 200).reshape(4, 50)
    model = PopulationModel(flow)

    found = model(data, Z=0.001, alpha=alpha)

    one = {name: values[2, 7] for name, values in data.items()}
    np.testing.assert_allclose(found[2, 7], model(one, Z=0.001, alpha=alpha[2, 7]), rtol=1e-10)


def test_many_samples_go_through_in_parts_to_the_same_density(flow):
    noise = np.random.default_rng(0).standard_normal((40_000, flow.noise_columns))
    events = flow.from_noise(noise, np.array([HERE[name] for name in flow.condition_columns]))
    data = {"mass_1": events.max(1), "mass_2": events.min(1)}
    model = PopulationModel(flow, over=OVER_Z)

    whole = model(data, alpha=1.0)

    few = model({name: values[-10:] for name, values in data.items()}, alpha=1.0)
    np.testing.assert_allclose(whole[-10:], few, rtol=1e-10)


def test_an_emulator_by_torch_gives_what_plain_arrays_give(flow, masses):
    data = in_pairs(masses)
    torchs, plain = Emulator(a_flow(seed=5, noise=0.12, options=LAYERED)), flow
    alpha = np.linspace(0.5, 5, 200).reshape(4, 50)

    for over in ({}, OVER_Z):
        given = {"alpha": alpha} if over else {"alpha": alpha, "Z": 0.001}
        np.testing.assert_allclose(
            PopulationModel(torchs, over=over)(data, **given),
            PopulationModel(plain, over=over)(data, **given),
            rtol=1e-3,
        )


def test_another_column_is_read_under_its_own_name():
    flow = in_arrays(a_flow(features=3))
    data = {"mass_1": np.array([9.0, 9.0]), "mass_2": np.full(2, 8.0), "chi_eff": [0.1, np.nan]}

    density = PopulationModel(flow)(data, **HERE)

    pair = flow.log_prob([[9.0, 8.0, 0.1], [8.0, 9.0, 0.1]], **HERE)
    assert density[0] == pytest.approx(np.exp(pair).sum())
    assert density[1] == 0


def test_a_value_at_an_atom_counts_by_its_probability():
    one = a_mixed_flow((*MASSES, SPIN), ((None, None, 0.0), (None, None, None)))
    data = {"mass_1": np.full(3, 9.0), "mass_2": np.full(3, 8.0), "chi_eff": [0.0, 0.1, np.nan]}
    pairs = [[[9.0, 8.0, chi], [8.0, 9.0, chi]] for chi in (0.0, 0.1)]

    for flow in (in_arrays(one), Emulator(one)):
        density = PopulationModel(flow)(data, **HERE)

        expected = [np.exp(flow.log_prob(pair, **HERE)).sum() for pair in pairs]
        np.testing.assert_allclose(density, [*expected, 0], rtol=1e-5)


def test_a_model_is_hashable_and_survives_a_pickle(flow, masses):
    model = PopulationModel(flow, over=OVER_Z)
    again = pickle.loads(pickle.dumps(model))

    assert {model: 1}[model] == 1
    np.testing.assert_array_equal(
        again(in_pairs(masses), alpha=1.0), model(in_pairs(masses), alpha=1.0)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda f: PopulationModel(f, masses=("Mass_0", "Mass_2")),
            "two of the emulator's event columns, Mass_0, Mass_1, got Mass_0, Mass_2",
            id="masses",
        ),
        pytest.param(lambda f: PopulationModel(f, second="q"), "mass_2 or mass_ratio", id="second"),
        pytest.param(
            lambda f: PopulationModel(f, over={"z": ([1], [1])}), "over names z, but", id="over"
        ),
        pytest.param(
            lambda f: PopulationModel(f, over={"Z": ([0.001, 0.002], [1])}),
            "as many values as weights",
            id="weights",
        ),
        pytest.param(
            lambda f: PopulationModel(f, over={"Z": ([0.05], [1])}),
            "Z = 0.05, outside the range",
            id="outside",
        ),
        pytest.param(
            lambda f: PopulationModel(f)({"mass_1": [9.0], "mass_ratio": [0.5]}, **HERE),
            "the data has no mass_2, only mass_1, mass_ratio",
            id="data",
        ),
        pytest.param(
            lambda f: PopulationModel(f)({"mass_1": [9.0], "mass_2": [5.0]}, Z=0.001),
            "the parameters are Z, alpha, got Z",
            id="parameters",
        ),
    ],
)
def test_a_model_that_cannot_be_is_refused_with_a_sentence(flow, make, message):
    with pytest.raises(PopulationError, match=message):
        make(flow)


def test_an_emulator_by_torch_says_what_jax_needs(masses):
    jax = importlib.import_module("jax")
    model = PopulationModel(Emulator(a_flow()))
    data = {name: jax.numpy.asarray(values) for name, values in in_pairs(masses).items()}

    with pytest.raises(PopulationError, match=r"load the bundle with models.arrays.flow.ArrayFlow"):
        model(data, **HERE)


def test_a_bundle_from_disk_is_all_that_a_model_needs(bundle, masses):
    model = PopulationModel(ArrayFlow.load(bundle), second="mass_ratio")

    assert model.variable_names == ["Z", "alpha"]
    assert (model(masses, **HERE) > 0).all()
