"""The flow in plain arrays against the flow in torch, and gradients of both."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from models import Emulator
from models.arrays.flow import ArrayFlow
from models.bundle.ensemble import Ensemble
from tests.random_flows import (
    CHANNEL,
    GRID,
    MIXTURES,
    a_flow,
    a_mixed_flow,
    flow,
    in_arrays,
    noise_of,
)

CASES = [
    pytest.param(2, 2, {}, id="default"),
    pytest.param(2, 2, {"conditioner": "masked"}, id="masked"),
    pytest.param(2, 2, {"kind": "affine", "blocks": 12}, id="affine"),
    pytest.param(
        3, 2, {"kind": "affine", "conditioner": "masked", "normalise": True}, id="affine-masked"
    ),
    pytest.param(2, 2, {"coordinates": "log_total", "activation": "relu"}, id="log-total-relu"),
    pytest.param(2, 2, {"coordinates": "log", "activation": "gelu"}, id="log-gelu"),
    pytest.param(
        3, 2, {"residual": True, "depth": 3, "normalise": True, "blocks": 3}, id="residual"
    ),
    pytest.param(3, 2, {"conditioner": "masked", "activation": "tanh", "blocks": 3}, id="three"),
    pytest.param(1, 2, {"bins": 1, "blocks": 1}, id="one-column-one-bin"),
    pytest.param(2, 0, {}, id="no-condition"),
    pytest.param(2, 0, {"conditioner": "masked"}, id="no-condition-masked"),
    pytest.param(3, 2, {**MIXTURES["mixture"], "components": 1}, id="mixture-of-one"),
]
"""Those whose events are a smooth function of their noise."""
EVERY_CASE = [
    *CASES,
    *(pytest.param(2, 2, layers, id=name) for name, layers in MIXTURES.items()),
    pytest.param(3, 0, MIXTURES["mixture"], id="mixture-no-condition"),
]
FEW_CASES = [
    pytest.param(2, 0, {"kind": "affine"}, id="affine"),
    pytest.param(
        3, 2, {"kind": "affine", "conditioner": "masked", "normalise": True}, id="affine-masked"
    ),
    pytest.param(
        2,
        2,
        {
            "residual": True,
            "depth": 3,
            "coordinates": "log_total",
            "activation": "relu",
            "blocks": 1,
            "bins": 4,
        },
        id="residual",
    ),
    pytest.param(
        2,
        2,
        {
            "conditioner": "masked",
            "coordinates": "log",
            "activation": "gelu",
            "blocks": 1,
            "bins": 4,
        },
        id="masked",
    ),
    pytest.param(1, 2, {"bins": 1, "blocks": 1, "activation": "tanh"}, id="one-column-one-bin"),
    pytest.param(2, 2, MIXTURES["mixture"], id="mixture"),
]
"""Every function of the layers once: a spline takes a compiler seconds."""


def some_rows(features=2, conditions=2, rows=500):
    """Events, conditions, noise of the events: the bulk and far beyond the splines."""
    rng = np.random.default_rng(1)
    x_NF = np.exp(rng.normal(2.0, 0.8, size=(rows, 3)))[:, :features]
    c_NC = np.stack([10 ** rng.uniform(-4, -2, rows), rng.uniform(0.5, 5, rows)], 1)
    return x_NF, c_NC[:, :conditions], 2 * rng.standard_normal((rows, features))


def some_noise(flow, rows):
    """So near the middle that Phi of it keeps its digits."""
    return noise_of(flow, rows, spread=2.0 if flow.config.base == "normal" else 0.7).numpy()


def tensors(*values, dtype=torch.float64):
    return [torch.from_numpy(value).to(dtype) for value in values]


@pytest.mark.parametrize(("features", "conditions", "options"), EVERY_CASE)
def test_in_float64_it_is_the_torch_flow_to_ten_digits(features, conditions, options):
    flow = a_flow(features, conditions, options)
    in_numpy = in_arrays(flow)
    x_NF, c_NC, _ = some_rows(features, conditions)
    noise_NF = some_noise(flow, len(x_NF))

    flow.double()
    log_prob = flow.log_prob(*tensors(x_NF, c_NC)).numpy()
    events = flow.from_noise(*tensors(noise_NF, c_NC)).numpy()

    found = in_numpy.log_density(x_NF, c_NC)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, log_prob, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(in_numpy.from_noise(noise_NF, c_NC), events, rtol=1e-10)


@pytest.mark.parametrize(("features", "conditions", "options"), EVERY_CASE)
def test_in_float32_it_is_the_torch_flow_to_five_digits(features, conditions, options):
    flow = a_flow(features, conditions, options, noise=0.03)
    x_NF, c_NC, _ = some_rows(features, conditions)
    x_NF, c_NC = x_NF.astype(np.float32), c_NC.astype(np.float32)

    found = in_arrays(flow, dtype="float32").log_density(x_NF, c_NC)

    assert found.dtype == np.float32
    log_prob = flow.double().log_prob(*tensors(x_NF, c_NC)).numpy()
    np.testing.assert_allclose(found, log_prob, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("features", "conditions", "options"), CASES)
def test_events_made_of_noise_have_the_density_of_that_noise(features, conditions, options):
    """The inverse undoes, and the determinant is that of the map by finite differences."""
    flow = in_arrays(a_flow(features, conditions, options))
    _, c_NC, _ = some_rows(features, conditions, rows=20)
    noise_NF = noise_of(flow, 20, spread=0.5).numpy()

    step = 1e-6
    columns = [
        flow.from_noise(noise_NF + step * unit, c_NC)
        - flow.from_noise(noise_NF - step * unit, c_NC)
        for unit in np.eye(features, flow.noise_columns)
    ]
    _, log_det_N = np.linalg.slogdet(np.stack(columns, -1) / (2 * step))
    log_normal_N = -0.5 * (noise_NF[:, :features] ** 2 + np.log(2 * np.pi)).sum(1)

    log_density_N = flow.log_density(flow.from_noise(noise_NF, c_NC), c_NC)
    np.testing.assert_allclose(log_density_N, log_normal_N - log_det_N, atol=1e-5)


@pytest.mark.parametrize("options", [{}, *MIXTURES.values()], ids=["normal", *MIXTURES])
def test_an_ensemble_is_the_mean_of_its_members(options):
    ensemble = Ensemble([a_flow(options=options, seed=seed) for seed in range(3)]).eval()
    in_numpy = in_arrays(ensemble)
    x_NF, c_NC, _ = some_rows()
    noise_NF = noise_of(ensemble, 500, spread=0.7).numpy()

    ensemble.double()
    log_prob = ensemble.log_prob(*tensors(x_NF, c_NC)).numpy()
    events = ensemble.from_noise(*tensors(noise_NF, c_NC)).numpy()

    assert in_numpy.noise_columns == ensemble.noise_columns == 3 + ("base" in options)
    np.testing.assert_allclose(in_numpy.log_density(x_NF, c_NC), log_prob, rtol=1e-10)
    np.testing.assert_allclose(in_numpy.from_noise(noise_NF, c_NC), events, rtol=1e-10)
    assert in_numpy.log_density(np.array([-1.0, 5.0]), c_NC[0]) == -np.inf


def test_a_bundle_gives_what_the_emulator_gives(bundle):
    emulator, flow = Emulator.load(bundle), ArrayFlow.load(bundle)
    events = emulator.sample(300, seed=3, Z=0.001, alpha=1.0)
    alpha = np.linspace(0.5, 5, 300)

    for given in ({"Z": 0.001, "alpha": 1.0}, {"alpha": alpha, "Z": 0.002}):
        np.testing.assert_allclose(
            flow.log_prob(events, **given), emulator.log_prob(events, **given), rtol=1e-4, atol=1e-4
        )
    assert flow.event_columns == emulator.event_columns
    assert flow.condition_columns == emulator.condition_columns
    assert flow.domain == emulator.domain


@pytest.mark.parametrize("options", [{}, *MIXTURES.values()], ids=["normal", *MIXTURES])
def test_one_condition_for_all_gives_what_one_for_each_would(options):
    made = a_flow(options=options)
    flow, noise_NF = in_arrays(made), noise_of(made, 500).numpy()
    x_NF, c_NC, _ = some_rows()
    x_2NF = np.stack([x_NF, x_NF[:, ::-1]])

    shared = flow.log_density(x_2NF, c_NC[0])

    each = flow.log_density(x_2NF, np.broadcast_to(c_NC[0], (2, 500, 2)))
    assert shared.shape == (2, 500)
    np.testing.assert_allclose(shared, each, rtol=1e-12)
    np.testing.assert_allclose(
        flow.log_density(x_NF[:, None], c_NC[None, :7]).diagonal(),
        flow.log_density(x_NF[:7], c_NC[:7]),
        rtol=1e-12,
    )
    drawn_N7F = flow.from_noise(noise_NF[:, None], c_NC[None, :7])
    for k in range(7):
        alone_NF = flow.from_noise(noise_NF, c_NC[k])
        np.testing.assert_allclose(drawn_N7F[:, k], alone_NF, rtol=1e-9)


@pytest.mark.parametrize("event", [[-1.0, 5.0], [5.0, 0.0], [np.nan, 5.0], [5.0, np.inf]], ids=str)
@pytest.mark.parametrize("options", [{}, MIXTURES["mixture"]], ids=["normal", "mixture"])
def test_events_that_cannot_be_have_no_density(event, options):
    flow = in_arrays(a_flow(options=options))

    found = flow.log_density(np.array([event, [9.0, 8.0]]), np.array([0.001, 1.0]))

    assert found[0] == -np.inf
    assert np.isfinite(found[1])


def test_a_density_integrates_to_one():
    flow = in_arrays(a_flow(noise=0.05))
    log_m = np.linspace(-3, 8, 350)
    x_MMF = np.stack(np.meshgrid(np.exp(log_m), np.exp(log_m), indexing="ij"), -1)

    density = np.exp(flow.log_density(x_MMF, np.array([0.001, 1.0]))) * x_MMF.prod(-1)

    assert density.sum() * (log_m[1] - log_m[0]) ** 2 == pytest.approx(1, abs=1e-3)


def test_importing_it_imports_no_torch():
    names = "models.arrays.flow, models.inference.catalog"
    code = f"import sys, {names}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"torch", "nflows", "jax", "bilby"} & set(out.stdout.split())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("features", "conditions", "options"), EVERY_CASE)
def test_the_torch_module_has_the_gradient_of_finite_differences(features, conditions, options):
    module = Emulator(a_flow(features, conditions, options)).module.double()
    x_NF, c_NC, _ = some_rows(features, conditions, rows=6)
    x, c = (value.requires_grad_() for value in tensors(x_NF, c_NC))

    # In logarithms: a step of finite differences has to be small beside a metallicity.
    logs = [value.detach().log().requires_grad_() for value in (x, c)]
    assert torch.autograd.gradcheck(lambda x, c: module.log_prob(x.exp(), c.exp()), logs)

    one = torch.func.grad(lambda x, c: module.log_prob(x[None], c[None])[0], argnums=(0, 1))
    each = torch.func.vmap(one)(x.detach(), c.detach())
    together = torch.autograd.grad(
        module.log_prob(x, c).sum(), (x, c), allow_unused=True, materialize_grads=True
    )
    for found, expected in zip(each, together, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_torch_module_has_no_nan_gradient_outside_the_support():
    module = Emulator(a_flow()).module
    x = torch.tensor([[-1.0, 5.0], [9.0, 8.0], [5.0, 0.0]], requires_grad=True)
    c = torch.tensor([[0.001, 1.0]]).repeat(3, 1).requires_grad_()

    module.log_prob(x, c).exp().sum().backward()

    assert x.grad.isfinite().all()
    assert c.grad.isfinite().all()
    assert (x.grad[[0, 2]] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(("features", "conditions", "options"), FEW_CASES)
def test_jax_compiles_it_to_the_same_numbers_and_torchs_gradient(features, conditions, options):
    jax = importlib.import_module("jax")
    flow = a_flow(features, conditions, options)
    plain = in_arrays(flow)
    x_NF, c_NC, _ = some_rows(features, conditions, rows=50)
    noise_NF = some_noise(flow, 50)
    x, c = (value.requires_grad_() for value in tensors(x_NF, c_NC))
    gradients = torch.autograd.grad(
        flow.double().log_prob(x, c).sum(), (x, c), allow_unused=True, materialize_grads=True
    )

    with jax.enable_x64(True):
        x_J, c_J = jax.numpy.asarray(x_NF), jax.numpy.asarray(c_NC)

        def summed(x, c):
            log_prob = plain.log_density(x, c)
            return log_prob.sum(), log_prob

        both = jax.jit(jax.value_and_grad(summed, (0, 1), has_aux=True))
        (_, log_prob), found = both(x_J, c_J)
        events = jax.jit(plain.from_noise)(jax.numpy.asarray(noise_NF), c_J)

    assert log_prob.dtype == np.float64
    np.testing.assert_allclose(log_prob, plain.log_density(x_NF, c_NC), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(events, plain.from_noise(noise_NF, c_NC), rtol=1e-10)
    for ours, torchs in zip(found, gradients, strict=True):
        np.testing.assert_allclose(ours, torchs, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_jax_in_single_precision_warns_of_nothing_and_has_five_digits():
    jax = importlib.import_module("jax")
    flow = in_arrays(a_flow(noise=0.03))
    x_NF, c_NC, _ = some_rows()

    found = jax.jit(flow.log_density)(jax.numpy.asarray(x_NF), jax.numpy.asarray(c_NC))

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, flow.log_density(x_NF, c_NC), rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_under_jax_no_gradient_is_nan_outside_the_support():
    jax = importlib.import_module("jax")
    members = [a_flow(options={"blocks": 1, "kind": kind}) for kind in ("affine", "spline")]
    flow = in_arrays(Ensemble(members).eval())
    x = jax.numpy.array([[-1.0, 5.0], [9.0, 8.0], [np.nan, 3.0], [5.0, 0.0]])
    c = jax.numpy.array([0.001, 1.0])

    density = jax.jit(jax.grad(lambda x, c: jax.numpy.exp(flow.log_density(x, c)).sum(), (0, 1)))

    of_events, of_conditions = density(x, c)
    assert np.isfinite(of_events).all()
    assert np.isfinite(of_conditions).all()
    assert (np.asarray(of_events)[[0, 2, 3]] == 0).all()
    assert (np.asarray(of_events)[1] != 0).all()


def _torch(made):
    def of(method):
        return lambda *arrays: method(*tensors(*arrays, dtype=made.conditions.mean_K.dtype)).numpy()

    return of(made.log_prob), of(made.from_noise)


def _arrays(made):
    return in_arrays(made).log_density, in_arrays(made).from_noise


@pytest.mark.parametrize("of", [_arrays, _torch])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 0.0, -1.0])
@pytest.mark.parametrize("column", [0, 1])
def test_conditions_that_cannot_be_have_no_density(wrong, column, of):
    """Not the one of Z = 1, and nothing that a sum over rows could pass over."""
    one = a_flow().requires_grad_(False)
    log_density, from_noise = of(one)
    c_NC = np.array([[0.001, 1.0], [0.002, 2.0]])
    c_NC[0, column] = wrong

    log_density_N = log_density(np.array([[9.0, 8.0], [9.0, 8.0]]), c_NC)
    events_NF = from_noise(np.array([[0.1, 0.2], [0.1, 0.2]]), c_NC)

    for found in (log_density_N, events_NF.sum(1)):
        assert np.isnan(found[0])
        assert np.isfinite(found[1])


@pytest.mark.parametrize("form", ["ensemble", "atoms"])
def test_nor_do_they_in_an_ensemble_or_beside_atoms(form):
    made = a_mixed_flow() if form == "atoms" else Ensemble([a_flow(seed=1), a_flow(seed=2)])
    log_prob, from_noise = _torch(made.requires_grad_(False))
    c_NC = np.tile([0.0, 1.0][: len(made.condition_columns)], (3, 1))

    outside = np.full((3, len(made.event_columns)), -1.0)
    assert np.isnan(log_prob(outside, c_NC)).all()
    noise = np.random.default_rng(0).standard_normal((3, made.noise_columns))
    assert np.isnan(from_noise(noise, c_NC[:1])).all()


@pytest.mark.parametrize("place", [-1.0, 0.5, 3.0])
def test_a_place_that_no_text_has_is_no_condition(place):
    of_texts = in_arrays(flow(conditions=(GRID[0], CHANNEL)))

    found = of_texts.log_density(np.array([[9.0, 8.0]]), np.array([[0.001, place], [0.001, 2.0]]))

    np.testing.assert_array_equal(np.isnan(found), [True, False])
