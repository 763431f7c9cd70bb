import re
from pathlib import Path

import optuna
import pytest
from optuna.trial import FixedTrial

from hpo.study.space import Range, default_point, grid, lines_of, resolve, seed_of, suggest
from hpo.study.spec import load
from models.config import ConfigError, FlowConfig, TrainConfig

DOCUMENT = Path(__file__).parents[3] / "docs" / "search-space.md"


def test_the_thesis_grid_is_its_twelve_configurations():
    points = grid(load("thesis").space)

    assert len(points) == len({tuple(point.items()) for point in points}) == 12
    assert points[0] == {"blocks": 10, "hidden": 128, "activation": "tanh"}
    assert points[-1] == {"blocks": 30, "hidden": 200, "activation": "relu"}


def test_a_suggestion_reaches_the_config_it_names():
    space = {
        "blocks": Range(low=2, high=8),
        "hidden": [16, 32],
        "activation": "tanh",
        "learning_rate": Range(low=1e-4, high=1e-2, log=True),
    }
    trial = FixedTrial({"blocks": 3, "hidden": 32, "learning_rate": 2e-3})

    flow, training = suggest(trial, space, FlowConfig(depth=1), TrainConfig(epochs=7), seed=11)

    assert flow == FlowConfig(blocks=3, hidden=32, activation="tanh", depth=1)
    assert training == TrainConfig(epochs=7, learning_rate=2e-3, seed=11)


def test_what_the_space_does_not_name_keeps_the_default():
    given = FlowConfig(depth=3), TrainConfig(epochs=3)

    assert resolve({}, *given) == given


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        pytest.param(Range(low=1, high=9), int, id="int"),
        pytest.param(Range(low=2, high=8, step=2), int, id="step"),
        pytest.param(Range(low=0.5, high=1.5), float, id="float"),
        pytest.param(Range(low=0.1, high=10.0, log=True), float, id="log"),
    ],
)
def test_a_range_gives_its_own_kind_of_number_within_its_ends(line, kind):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    key = "blocks" if kind is int else "clip_norm"

    for _ in range(20):
        flow, training = suggest(study.ask(), {key: line}, FlowConfig(), TrainConfig(), seed=0)
        value = flow.blocks if kind is int else training.clip_norm
        assert type(value) is kind
        assert line.low <= value <= line.high
        assert line.step is None or (value - line.low) % line.step == 0


def test_a_normal_base_needs_a_line_of_layers():
    with pytest.raises(ConfigError, match="blocks = 0 needs base = 'mixture', got 'normal'"):
        lines_of({"base": "normal", "bins": [8, 16]})

    for blocks in (2, [1, 2], {"low": 0, "high": 2}):
        assert lines_of({"base": "normal", "blocks": blocks})["base"] == "normal"


def test_the_default_is_a_point_of_the_shipped_space():
    spec = load("bbh")
    searched = {key for key, line in spec.space.items() if isinstance(line, Range | list)}

    point = default_point(spec.space, spec.flow, spec.training)

    assert point.keys() == searched
    assert resolve(point, FlowConfig(), TrainConfig()) == (FlowConfig(), TrainConfig())


def test_neighbouring_trials_and_studies_have_unlike_seeds():
    seeds = {seed_of(study, number) for study in range(20) for number in range(200)}

    assert len(seeds) == 4000
    assert seed_of(1, 2) == seed_of(1, 2)


def test_the_thesis_study_means_what_it_did_whatever_the_defaults_became():
    spec = load("thesis")

    flow, training = suggest(
        FixedTrial({"blocks": 10, "hidden": 128, "activation": "tanh"}),
        spec.space,
        spec.flow,
        spec.training,
        seed=0,
    )

    assert (flow.kind, flow.coordinates, flow.conditioner) == ("affine", "log", "masked")
    assert (flow.depth, flow.residual, flow.normalise) == (2, False, False)
    assert flow.base == "normal"
    assert (training.schedule, training.ema, training.jitter) == ("constant", 0, 0)
    assert (training.weight_decay, training.decay_rows) == (1e-4, 0)


def test_every_line_of_the_default_space_is_documented_with_its_range():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE))

    for key, line in load("bbh").space.items():
        said = re.findall(r"[a-z]\w+|\d[\d.e-]*", rows[key])
        given = [line.low, line.high] if isinstance(line, Range) else line
        for value in given if isinstance(given, list) else [given]:
            shown = said if isinstance(value, str) else [float(n) for n in said if n[0].isdigit()]
            assert value in shown, f"{key} = {value} is not in {rows[key]!r}"
