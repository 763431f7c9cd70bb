"""Populations that mix the texts of a category, such as formation channels, by free fractions."""

import importlib

import numpy as np
import pytest

from data_prep.columns import Column
from data_prep.dataset import Total
from models.bundle.efficiency import Efficiency
from models.inference.catalog import CatalogLikelihood
from models.inference.population import PopulationError, PopulationModel
from tests.random_flows import CHANNEL, GRID, flow, in_arrays

FRACTIONS = {"channel_CE": 0.5, "channel_RLO": 0.2}
ALL = {**FRACTIONS, "channel_SMT": 0.3}
SMALL = {"kind": "affine", "activation": "tanh", "blocks": 1, "hidden": 8}
OVER_Z = {"Z": ([0.6, 1.0, 1.9], [1.0, 3.0, 2.0])}


@pytest.fixture(scope="module")
def arrays():
    return in_arrays(flow(conditions=(GRID[0], CHANNEL), blocks=2, shake=0.15))


@pytest.fixture(scope="module")
def efficiency():
    """Every channel falls with the metallicity in its own way."""
    cells = tuple(
        Total((z, float(place)), 1e5, round(30 * (place + 1) * z ** (place - 2.0)))
        for z in np.geomspace(0.5, 2, 5)
        for place in range(3)
    )
    return Efficiency((GRID[0], CHANNEL), cells, "binaries")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    m = rng.uniform(2, 40, (4, 25))
    return {"mass_1": m, "mass_2": m * rng.uniform(0.05, 1, m.shape)}


def of_each(model, data, **conditions):
    return np.array([model(data, **conditions, channel=text) for text in CHANNEL.categories])


def test_the_fractions_of_all_texts_but_the_last_are_parameters(arrays, data):
    model = PopulationModel(arrays)

    found = model(data, Z=1.0, **FRACTIONS)

    each = of_each(model, data, Z=1.0)
    assert model.variable_names == ["Z", "channel_CE", "channel_RLO"]
    np.testing.assert_allclose(found, np.tensordot([0.5, 0.2, 0.3], each, 1), rtol=1e-10)
    np.testing.assert_allclose(model(data, Z=1.0, **ALL), found, rtol=1e-12)
    assert not np.allclose(each[0], each[1], rtol=0.05)


def test_one_text_is_the_emulators_own_density(arrays, data):
    pair = [data[name].reshape(-1) for name in ("mass_1", "mass_2")]

    found = PopulationModel(arrays)(data, Z=1.0, channel="RLO")

    expected = sum(
        np.exp(arrays.log_prob(np.stack(one, 1), Z=1.0, channel="RLO"))
        for one in (pair, pair[::-1])
    )
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-10)


@pytest.mark.parametrize("library", ["numpy", "jax.numpy"])
@pytest.mark.parametrize("over", [None, OVER_Z], ids=["at one Z", "over Z"])
def test_a_mixture_integrates_to_one(library, over, efficiency):
    """With rates and without, whatever the fractions."""
    xp, jax = importlib.import_module(library), importlib.import_module("jax")
    smooth = in_arrays(flow(conditions=(GRID[0], CHANNEL), **SMALL, shake=0.05))
    compiled = jax.jit if library == "jax.numpy" else lambda function: function
    log_m, ratio = np.linspace(-3, 8, 120), (np.arange(60) + 0.5) / 60
    m, q = np.meshgrid(np.exp(log_m), ratio, indexing="ij")
    with jax.enable_x64(True):
        points = {"mass_1": xp.asarray(m), "mass_ratio": xp.asarray(q)}
        for rates in (None, efficiency) if over else (None,):
            model = PopulationModel(smooth, second="mass_ratio", over=over, efficiency=rates)
            at = FRACTIONS if over else {"Z": 0.8, **FRACTIONS}
            density = np.asarray(compiled(model)(points, **at)) * m
            assert density.sum() * (log_m[1] - log_m[0]) / 60 == pytest.approx(1, abs=2e-3)


def test_fractions_are_of_mergers_and_rates_weigh_metallicities_within_a_channel(
    arrays, data, efficiency
):
    model = PopulationModel(arrays, over=OVER_Z, efficiency=efficiency)

    found = model(data, **FRACTIONS)

    expected = 0.0
    for number, fraction in enumerate((0.5, 0.2, 0.3)):
        text, values = CHANNEL.categories[number], OVER_Z["Z"][0]
        each = [PopulationModel(arrays)(data, Z=z, channel=text) for z in values]
        rates_RK = np.exp(efficiency.log_rates(np.array([[z, number] for z in values])))
        weights_RK = np.array(OVER_Z["Z"][1]) * rates_RK
        share_K = (weights_RK / weights_RK.sum(1, keepdims=True)).mean(0)
        expected = expected + fraction * np.average(each, axis=0, weights=share_K)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_summed_over_the_channels_weigh_as_the_simulation_has_them(arrays, data, efficiency):
    texts = CHANNEL.categories
    model = PopulationModel(arrays, over={"channel": (texts, [1, 1, 1])}, efficiency=efficiency)

    found = model(data, Z=0.7)

    expected = np.exp(efficiency.log_rate(np.array([[0.7, number] for number in range(3)])))
    fractions = efficiency.fractions(Z=0.7)
    assert fractions == pytest.approx(dict(zip(texts, expected / expected.sum(), strict=True)))
    rates_RT = np.exp(efficiency.log_rates(np.array([[0.7, number] for number in range(3)])))
    share_T = (rates_RT / rates_RT.sum(1, keepdims=True)).mean(0)
    shares = dict(zip(texts, share_T, strict=True))
    assert model.variable_names == ["Z"]
    mixed = PopulationModel(arrays)(data, Z=0.7, **{f"channel_{t}": shares[t] for t in texts})
    np.testing.assert_allclose(found, mixed, rtol=1e-9)
    with pytest.raises(ValueError, match="channel must be one of CE, RLO, SMT, got 'HG'"):
        PopulationModel(arrays, over={"channel": (["CE", "HG"], [1, 1])})


def test_the_efficiency_is_of_one_channel(arrays, efficiency):
    model = PopulationModel(arrays, efficiency=efficiency)

    found = model.efficiency(Z=0.7, channel="RLO")

    mean = np.exp(efficiency.log_rate(np.array([0.7, CHANNEL.number("RLO")])))
    assert found == pytest.approx(mean)
    with pytest.raises(PopulationError, match="of one channel: give channel='CE'"):
        model.efficiency(Z=0.7, **FRACTIONS)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({**ALL, "channel_SMT": 0.4}, r"channel add up to 1\.1, not to 1"),
        ({"channel": "HG"}, r"channel must be one of CE, RLO, SMT, got 'HG'"),
        ({"channel": 0.5}, r"one of CE, RLO, SMT, got 0\.5: .* channel_CE, channel_RLO$"),
        ({"channel_CE": 0.5}, r"parameters are Z, channel_CE, channel_RLO, got Z, channel_CE"),
        ({**FRACTIONS, "channel_HG": 0.1}, r"got Z, channel_CE, channel_RLO, channel_HG"),
    ],
    ids=["sum", "text", "number", "missing", "unknown"],
)
def test_fractions_that_are_none_are_refused(arrays, data, given, told):
    with pytest.raises(PopulationError, match=told):
        PopulationModel(arrays)(data, Z=1.0, **given)


def test_a_condition_that_is_called_as_a_fraction_is_refused():
    doubled = flow(conditions=(Column("channel_CE", ""), CHANNEL), **SMALL)

    with pytest.raises(PopulationError, match="'channel_CE' is the name of a condition and of a"):
        PopulationModel(in_arrays(doubled))


def test_a_sum_of_one_but_for_rounding_is_one(arrays, data):
    model = PopulationModel(arrays)
    thirds = dict.fromkeys(ALL, 1 / 3 + 3e-7)

    found = model(data, Z=1.0, **thirds)

    np.testing.assert_allclose(found, of_each(model, data, Z=1.0).mean(0), rtol=1e-10)


@pytest.mark.parametrize("wrong", [{"channel_CE": -0.1}, {"channel_CE": 0.9}], ids=["low", "high"])
def test_beyond_the_mixtures_the_density_is_zero(data, wrong):
    """So that a sampler with flat priors of its own stays among them."""
    jax, small = importlib.import_module("jax"), flow(conditions=(GRID[0], CHANNEL), **SMALL)
    model, at = PopulationModel(in_arrays(small)), {"Z": 1.0, **FRACTIONS, **wrong}

    assert (model(data, **at) == 0).all()
    with jax.enable_x64(True):
        given = {name: jax.numpy.asarray(values) for name, values in data.items()}
        summed = jax.jit(
            jax.value_and_grad(lambda f: model(given, **{**at, "channel_CE": f}).sum())
        )
        value, gradient = summed(at["channel_CE"])
    assert float(value) == 0
    assert np.isfinite(float(gradient))


def test_a_catalogue_finds_the_fractions_that_it_was_drawn_with(arrays):
    rng, truth, texts = np.random.default_rng(4), np.array([0.6, 0.1, 0.3]), CHANNEL.categories
    place_N = rng.choice(3, size=3_000, p=truth)
    noise_NF = rng.standard_normal((3_000, 2))
    drawn_NF = arrays.from_noise(noise_NF, np.stack([np.ones(3_000), place_N], 1))
    data = {"mass_1": drawn_NF.max(1), "mass_2": drawn_NF.min(1)}
    events = [{"prior": [1.0], **{k: v[j : j + 1] for k, v in data.items()}} for j in range(3_000)]
    # What is detected is drawn as the equal mixture is, so that all of every mixture is.
    prior = PopulationModel(arrays)(data, Z=1.0, channel_CE=1 / 3, channel_RLO=1 / 3)
    likelihood = CatalogLikelihood(
        PopulationModel(arrays, over={"Z": ([1.0], [1.0])}),
        events,
        {**data, "prior": prior},
        drawn=3_000,
        largest_variance=np.inf,
    )

    each_TN = np.array([likelihood.model(data, channel=text) for text in texts])
    share_T = np.full(3, 1 / 3)
    for _ in range(2_000):  # EM, to the fractions of the highest likelihood
        part_TN = share_T[:, None] * each_TN
        share_T = (part_TN / part_TN.sum(0)).mean(1)

    assert likelihood.names == ["channel_CE", "channel_RLO"]
    slope_2N = (each_TN[:2] - each_TN[2]) / (share_T @ each_TN)
    error_2 = np.sqrt(np.diag(np.linalg.inv(slope_2N @ slope_2N.T)))
    assert (np.abs(share_T - truth)[:2] < 3 * error_2).all()
    assert (error_2 < 0.15).all()
    found = likelihood.estimate(channel_CE=share_T[0], channel_RLO=share_T[1])
    ln_likelihood = np.log(share_T @ each_TN).sum() - 3_000 * np.log(found.detected_fraction)
    assert found.log_likelihood == pytest.approx(ln_likelihood)
    assert likelihood([0.8, 0.3]) == -np.inf
