"""The configs: defaults, refusals, and that reading them needs no torch."""

import importlib
import subprocess
import sys
from dataclasses import asdict
from typing import get_args

import pytest

from models import config
from models.config import ConfigError, FlowConfig, TrainConfig


@pytest.mark.parametrize("kind", [FlowConfig, TrainConfig])
def test_a_config_comes_back_from_its_dict(kind):
    assert kind.from_dict(asdict(kind())) == kind()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"blocks": -1}, "FlowConfig blocks must be at least 0, got -1", id="range"),
        pytest.param(
            {"kind": "spine"}, "kind must be 'spline' or 'affine', got 'spine'", id="kind"
        ),
        pytest.param({"hidden": 6.5}, "hidden must be a valid integer, got 6.5", id="type"),
        pytest.param({"depth": True}, "depth must be a valid integer, got True", id="bool"),
        pytest.param(
            {"activation": "sin"}, "must be 'relu', 'tanh', 'silu' or 'gelu'", id="activation"
        ),
        pytest.param(
            {"base": "normal"}, "blocks = 0 needs base = 'mixture', got 'normal'", id="empty"
        ),
        pytest.param({"bins": 0}, "bins must be at least 1, got 0", id="bins"),
        pytest.param({"bound": 0.5}, "bound must be at least 1, got 0.5", id="bound"),
        pytest.param(
            {"coordinates": "raw"},
            "coordinates must be 'log_ratio', 'log_total' or 'log'",
            id="raw",
        ),
        pytest.param(
            {"conditioner": "made"}, "conditioner must be 'separate' or 'masked'", id="made"
        ),
        pytest.param({"residual": "yes"}, "residual must be a valid boolean, got 'yes'", id="yes"),
        pytest.param({"normalise": 1}, "normalise must be a valid boolean, got 1", id="one"),
        pytest.param(
            {"residual": True, "conditioner": "masked"},
            "residual = true needs conditioner = 'separate', got 'masked'",
            id="residual-masked",
        ),
    ],
)
def test_a_bad_flow_option_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FlowConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"learning_rate": 2.0}, "learning_rate must be less than 1, got 2.0", id="rate"
        ),
        pytest.param(
            {"learning_rate": float("nan")},
            "learning_rate must be a finite number, got nan",
            id="nan",
        ),
        pytest.param({"batch_size": 0}, "batch_size must be at least 1, got 0", id="batch"),
        pytest.param(
            {"schedule": "step"}, "schedule must be 'cosine', .*got 'step'", id="schedule"
        ),
        pytest.param({"warmup": 0.9}, "warmup must be at most 0.5, got 0.9", id="warmup"),
        pytest.param({"max_minutes": 0.0}, "max_minutes must be greater than 0", id="no-time"),
        pytest.param(
            {"max_minutes": -1.0}, "max_minutes must be greater than 0", id="negative-time"
        ),
        pytest.param({"rate_per": "step"}, "rate_per must be 'epoch' or 'second'", id="unit"),
        pytest.param({"patience": -1}, "patience must be at least 0, got -1", id="patience"),
    ],
)
def test_a_bad_training_option_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**options)


def test_all_faults_are_listed_at_once():
    with pytest.raises(ConfigError, match="blocks must .*; depth must"):
        FlowConfig(blocks=-1, depth=0)


def test_an_unknown_stored_option_is_refused():
    with pytest.raises(ConfigError, match="FlowConfig has no key 'block': did you mean 'blocks'"):
        FlowConfig.from_dict({"block": 3})


def test_a_flow_stored_before_an_option_was_there_means_what_it_meant():
    stored = {"kind": "affine", "blocks": 8, "hidden": 64, "depth": 2, "activation": "relu"}

    made = FlowConfig.from_dict(stored)

    assert {name: getattr(made, name) for name in stored} == stored
    assert (made.coordinates, made.conditioner) == ("log", "masked")
    assert (made.residual, made.normalise) == (False, False)


def test_every_choice_of_a_config_is_one_that_is_built():
    """The names are listed without torch, the classes with it."""
    activations, autoregressive = (
        importlib.import_module(f"models.flow.{name}") for name in ("fused", "layers")
    )

    assert set(get_args(config.ActivationName)) == set(activations.ACTIVATIONS)
    assert set(get_args(config.Kind)) == set(autoregressive.LAYERS)
    assert set(get_args(config.Conditioner)) == set(autoregressive.CONDITIONERS)


def test_reading_the_configs_does_not_load_torch():
    code = "import sys, models.config; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
