"""A flow with atoms as an emulator: saved, as graphs, in plain arrays, in an ensemble."""

import copy
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from models import ArrayFlow, Emulator, Table
from models.arrays.table import TableError
from models.bundle import batched, onnx
from models.bundle.ensemble import Ensemble, EnsembleError
from tests.random_flows import (
    MASSES,
    MIXTURES,
    PATTERNS,
    RATIO,
    SPIN,
    a_flow,
    a_mixed_flow,
    in_arrays,
)

DATA = Path(__file__).resolve().parents[2] / "data"
HERE = {"Z": 0.001, "alpha": 1.0}


SMALL = {"blocks": 1, "hidden": 8, "bins": 4}
"""Every pattern has a flow of its own, and a graph grows with all of them."""


def single():
    return a_mixed_flow(**SMALL)


def ensemble():
    return Ensemble([a_mixed_flow(seed=seed, **SMALL) for seed in range(2)]).eval()


def of_mixtures():
    """As many numbers choose a component, a pattern and a member."""
    return Ensemble([a_mixed_flow(seed=seed, **MIXTURES["mixture"]) for seed in range(2)]).eval()


@pytest.fixture(
    scope="module",
    params=[single, ensemble, of_mixtures],
    ids=["flow", "ensemble", "of-mixtures"],
)
def flow(request):
    return request.param().requires_grad_(False)


@pytest.fixture(scope="module")
def saved(flow, tmp_path_factory):
    """Folder of the saved emulator of the flow. Do not write into it."""
    return Emulator(flow).save(tmp_path_factory.mktemp("saved") / "emulator")


def given(flow, rows=300):
    """Noise, conditions, and the events made of them, of every pattern."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((rows, flow.noise_columns)).astype("f4")
    c_NC = np.stack([10 ** rng.uniform(-4, -2, rows), rng.uniform(0.5, 5, rows)], 1).astype("f4")
    return noise, c_NC, batched.from_noise(flow, noise, c_NC)


def test_a_saved_emulator_draws_and_tells_the_same(flow, saved):
    emulator = Emulator(flow)

    loaded = Emulator.load(saved)

    assert loaded.card["format"] == (4 if flow.noise_columns == 6 else 3)
    text = " ".join((saved / "README.md").read_text().split())
    assert "`chi_eff` is exactly 0 with a probability of its own." in text
    assert "`q` is exactly 1 or 0.3 with" in text
    assert f"`noise`, {flow.noise_columns} standard normal numbers for each event" in text
    drawn = emulator.sample(4_000, seed=1, **HERE)
    at_one = (drawn[:, 2] == 1.0).mean()
    assert 0.01 < at_one < 0.99
    np.testing.assert_array_equal(loaded.sample(4_000, seed=1, **HERE), drawn)
    log_prob = emulator.log_prob(drawn, **HERE)
    assert np.isfinite(log_prob).all()
    np.testing.assert_array_equal(loaded.log_prob(drawn, **HERE), log_prob)
    np.testing.assert_allclose(ArrayFlow.load(saved).log_prob(drawn, **HERE), log_prob, atol=2e-3)


def test_an_atom_is_found_as_it_was_said_and_as_it_is_drawn():
    flow = a_mixed_flow()

    for density in (Emulator(flow), in_arrays(flow)):
        said, drawn, beside = density.log_prob(
            [[0.1, 9.0, 0.3], [0.1, 9.0, float(np.float32(0.3))], [0.1, 9.0, 0.3001]], **HERE
        )
        assert said == drawn
        assert abs(said - beside) > 1e-3


def test_the_graphs_agree_with_it_for_any_number_of_rows(flow, saved):
    graphs = [ReferenceEvaluator(str(saved / name)) for name in (onnx.LOG_PROB, onnx.SAMPLE)]

    for rows in (1, 3, 250):
        noise, c_NC, drawn = given(flow, rows)
        events = drawn.astype("f4")
        events[::7, 0] = 0.0  # with others at an atom or not, of known patterns or not
        expected = batched.log_prob(flow, events, c_NC)
        (found,) = graphs[0].run(None, {"events": events, "conditions": c_NC})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
        (found,) = graphs[1].run(None, {"noise": noise, "conditions": c_NC})
        np.testing.assert_allclose(found, drawn, rtol=2e-3, atol=1e-5)
        assert ((found == 1.0) == (drawn == 1.0)).all()


def test_in_plain_arrays_it_is_the_torch_flow(flow):
    noise, c_NC, events = given(flow)
    events[::7, 0] = 0.0
    plain = in_arrays(flow)
    double = copy.deepcopy(flow).double()

    with torch.no_grad():
        tensors = [torch.from_numpy(each).double() for each in (events, noise, c_NC)]
        log_prob = double.log_prob(tensors[0], tensors[2]).numpy()
        drawn = double.from_noise(tensors[1], tensors[2]).numpy()

    assert plain.noise_columns == flow.noise_columns
    assert np.isneginf(log_prob).any()
    np.testing.assert_allclose(plain.log_density(events, c_NC), log_prob, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(plain.from_noise(noise, c_NC), drawn, rtol=1e-9, atol=1e-12)
    shared = plain.log_density(events[None], c_NC[:4, None])
    np.testing.assert_allclose(shared[2], plain.log_density(events, c_NC[2]), rtol=1e-12)


@pytest.mark.slow
def test_jax_compiles_it_to_the_same_numbers_and_gradients():
    jax = importlib.import_module("jax")
    flow = a_mixed_flow(kind="affine", blocks=1, hidden=8)
    noise, c_NC, events = given(flow, 40)
    events[::7, 0] = 0.0
    plain = in_arrays(flow)
    x, c = (torch.from_numpy(each).double().requires_grad_() for each in (events, c_NC))
    gradients = torch.autograd.grad(flow.double().log_prob(x, c).exp().sum(), (x, c))

    with jax.enable_x64(True):
        x_J, c_J = jax.numpy.asarray(events), jax.numpy.asarray(c_NC, float)

        def summed(x, c):
            log_prob = plain.log_density(x, c)
            return jax.numpy.exp(log_prob).sum(), log_prob

        both = jax.jit(jax.value_and_grad(summed, (0, 1), has_aux=True))
        (_, log_prob), found = both(x_J, c_J)
        drawn = jax.jit(plain.from_noise)(jax.numpy.asarray(noise, float), c_J)

    np.testing.assert_allclose(log_prob, plain.log_density(events, c_NC), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(drawn, plain.from_noise(noise, c_NC), rtol=1e-9, atol=1e-12)
    for ours, torchs in zip(found, gradients, strict=True):
        np.testing.assert_allclose(ours, torchs, rtol=1e-6, atol=1e-9)


def test_a_table_of_it_is_refused():
    with pytest.raises(TableError, match="chi_eff, q has: use the ArrayFlow itself"):
        Table.of(in_arrays(a_mixed_flow()))


def test_flows_of_other_atoms_make_no_ensemble():
    without = a_flow(features=1)
    one = a_mixed_flow((SPIN, MASSES[0]), ((0.0, None), (None, None)))
    other = a_mixed_flow((RATIO, MASSES[0]), ((1.0, None), (None, None)))
    assert without.noise_columns < one.noise_columns

    with pytest.raises(
        EnsembleError, match=r"got chi_eff \(atoms 0\), Mass_0 and q \(atoms 1, 0.3\)"
    ):
        Ensemble([one, other])


def test_the_spread_of_an_ensemble_is_told_at_an_atom():
    events = [[0.0, 9.0, 1.0], [0.2, 9.0, 0.5], [0.2, 9.0, 1.0]]

    log_prob, std = Emulator(ensemble()).log_prob(events, return_std=True, **HERE)

    assert (std[:2] > 0).all()
    assert log_prob[2] == -np.inf
    assert std[2] == 0
    assert len(PATTERNS) == 4
