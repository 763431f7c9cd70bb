"""The configs: defaults, refusals, and that reading them needs no torch."""

import subprocess
import sys
from dataclasses import asdict

import pytest

from models.config import ConfigError, FlowConfig, TrainConfig


@pytest.mark.parametrize("kind", [FlowConfig, TrainConfig])
def test_a_config_comes_back_from_its_dict(kind):
    assert kind.from_dict(asdict(kind())) == kind()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"blocks": 0}, r"blocks must lie in \[1, 100\], got 0", id="range"),
        pytest.param({"kind": "spine"}, "kind must be one of affine, got 'spine'", id="kind"),
        pytest.param({"hidden": 6.5}, "hidden must be of type int, got 6.5", id="type"),
        pytest.param({"depth": True}, "depth must be of type int, got True", id="bool"),
        pytest.param({"activation": "sin"}, "one of relu, tanh, silu, gelu", id="activation"),
    ],
)
def test_a_bad_flow_option_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FlowConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"learning_rate": 2.0}, r"learning_rate must lie in \(0, 1\)", id="rate"),
        pytest.param({"learning_rate": float("nan")}, "learning_rate must lie in", id="nan"),
        pytest.param({"batch_size": 0}, "batch_size must lie in", id="batch"),
        pytest.param(
            {"schedule": "step"}, "schedule must be one of cosine, constant", id="schedule"
        ),
        pytest.param({"warmup": 0.9}, "warmup must lie in", id="warmup"),
        pytest.param({"max_minutes": 0.0}, r"max_minutes must lie in \(0, inf\)", id="no-time"),
        pytest.param(
            {"max_minutes": -1.0}, r"max_minutes must lie in \(0, inf\)", id="negative-time"
        ),
        pytest.param({"rate_per": "step"}, "rate_per must be one of epoch, second", id="unit"),
        pytest.param({"patience": -1}, "patience must lie in", id="patience"),
    ],
)
def test_a_bad_training_option_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**options)


def test_all_faults_are_listed_at_once():
    with pytest.raises(ConfigError, match=r"blocks must .*; depth must"):
        FlowConfig(blocks=0, depth=0)


def test_an_unknown_stored_option_is_refused():
    with pytest.raises(ConfigError, match="FlowConfig has no option 'block': it takes activation"):
        FlowConfig.from_dict({"block": 3})


def test_reading_the_configs_does_not_load_torch():
    code = "import sys, models.config; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
