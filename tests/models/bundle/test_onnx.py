"""The ONNX graphs say what the flow says, for any number of rows."""

import importlib
import importlib.util
from itertools import cycle
from typing import get_args

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from models.bundle import onnx
from models.bundle.emulator import Emulator
from models.config import ActivationName, Coordinates
from tests.random_flows import GRID, MASSES, MIXTURES, every_flow, flow

SMALL = {"bins": 4, "blocks": 1, "hidden": 8}


def run(path, **inputs):
    if importlib.util.find_spec("onnxruntime") is None:
        return ReferenceEvaluator(str(path)).run(None, inputs)[0]
    runtime = importlib.import_module("onnxruntime")
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
        None, inputs
    )[0]


def agree(made, folder, rows):
    """Both graphs in `folder` give what the flow gives, for this many rows."""
    rng = np.random.default_rng(rows)
    events, conditions = (rng.uniform(0.5, 20, (rows, 2)).astype("f4") for _ in range(2))
    noise = rng.standard_normal((rows, made.noise_columns)).astype("f4")
    with torch.no_grad():
        log_prob, drawn = (
            f(torch.from_numpy(a), torch.from_numpy(conditions)).numpy()
            for f, a in ((made.log_prob, events), (made.from_noise, noise))
        )

    found = run(folder / "log_prob.onnx", events=events, conditions=conditions)
    np.testing.assert_allclose(found, log_prob, rtol=1e-5, atol=1e-5)
    found = run(folder / "sample.onnx", noise=noise, conditions=conditions)
    np.testing.assert_allclose(found, drawn, rtol=2e-5)


@every_flow
def test_the_graphs_agree_with_the_flow_for_any_number_of_rows(tmp_path, layers):
    made = flow(**{"shake": 0.1, "bins": 8, "blocks": 2, **layers}).float()
    onnx.write(made, tmp_path)

    for rows in (1, 3, 250):
        agree(made, tmp_path, rows)


@pytest.mark.parametrize(
    ("activation", "coordinates"),
    list(zip(get_args(ActivationName), cycle(get_args(Coordinates)), strict=False)),
)
def test_the_graphs_agree_with_the_flow_for_all_activations_and_coordinates(
    tmp_path, activation, coordinates
):
    made = flow(activation=activation, coordinates=coordinates, shake=0.1, **SMALL).float()
    onnx.write(made, tmp_path)

    agree(made, tmp_path, 20)


def test_the_graph_knows_the_support(bundle):
    events = np.array([[-1.0, 5.0], [9.0, 8.0]], "f4")

    found = run(bundle / "log_prob.onnx", events=events, conditions=np.ones((2, 2), "f4"))

    assert found[0] == -np.inf
    assert np.isfinite(found[1])


def test_the_graphs_give_nan_where_conditions_cannot_be(bundle):
    """Not the numbers of Z = 1."""
    conditions = np.array([[0.001, 1.0], *([z, 1.0] for z in (np.nan, np.inf, 0, -1))], "f4")
    cannot = [False, True, True, True, True]

    log_prob = run(
        bundle / "log_prob.onnx", events=np.full((5, 2), 9.0, "f4"), conditions=conditions
    )
    noise = np.zeros((5, Emulator.load(bundle).module.noise_columns), "f4")
    events = run(bundle / "sample.onnx", noise=noise, conditions=conditions)

    np.testing.assert_array_equal(np.isnan(log_prob), cannot)
    np.testing.assert_array_equal(np.isnan(events).all(1), cannot)


@pytest.mark.parametrize(
    ("events", "conditions", "layers"),
    [
        pytest.param(MASSES[:1], GRID[:1], SMALL, id="one column"),
        pytest.param(MASSES, (), SMALL, id="no condition"),
        pytest.param(MASSES, (), {**MIXTURES["mixture"], "components": 4}, id="mixture"),
    ],
)
def test_other_numbers_of_columns_are_exported_as_well(tmp_path, events, conditions, layers):
    made = flow(events, conditions, **layers).requires_grad_(False).float()
    onnx.write(made, tmp_path)
    c = np.ones((4, len(conditions)), "f4")
    given = {"conditions": c} if conditions else {}

    for name, first, width, method in (
        ("log_prob", "events", len(events), made.log_prob),
        ("sample", "noise", made.noise_columns, made.from_noise),
    ):
        x = np.full((4, width), 0.7, "f4")
        found = run(tmp_path / f"{name}.onnx", **{first: x}, **given)
        expected = method(torch.from_numpy(x), torch.from_numpy(c)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
