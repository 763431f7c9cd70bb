import json

import optuna
import pytest

from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.enqueue import PointsError, best_points, fitting_points, read_points
from hpo.study.space import Range

SPACE = {
    "blocks": Range(low=1, high=4),
    "hidden": Range(low=32, high=128, step=16),
    "learning_rate": Range(low=1e-3, high=1e-2, log=True),
    "activation": ["relu", "silu"],
    "kind": "spline",
}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('[{"blocks": 2}, {"blocks": 3}]', id="a list"),
        pytest.param('{"blocks": 2}\n{"blocks": 3}\n', id="lines"),
        pytest.param('[{"params": {"blocks": 2}, "trial": 7}, {"blocks": 3}]', id="run JSON"),
    ],
)
def test_points_are_read_in_every_usual_form(tmp_path, text):
    (tmp_path / "points.json").write_text(text)

    assert read_points(tmp_path / "points.json") == [{"blocks": 2}, {"blocks": 3}]


@pytest.mark.parametrize("text", ["blocks = 2", "[]", "[1, 2]", "{}"])
def test_a_file_without_points_is_refused(tmp_path, text):
    (tmp_path / "points.json").write_text(text)

    with pytest.raises(PointsError, match=r"points\.json"):
        read_points(tmp_path / "points.json")


def test_what_is_not_searched_is_left_out_of_a_point_that_agrees():
    point = {"blocks": 2, "hidden": 48, "learning_rate": 5e-3, "kind": "spline"}

    fitting = fitting_points([point], SPACE, source="it")

    assert fitting == [{"blocks": 2, "hidden": 48, "learning_rate": 5e-3}]


def test_every_value_outside_of_the_space_is_told():
    wrong = [
        {"blocks": 9, "activation": "gelu"},
        {"hidden": 50, "learning_rate": "high", "kind": "affine", "block": 2},
    ]

    with pytest.raises(PointsError) as caught:
        fitting_points(wrong, SPACE, source="it")

    said = str(caught.value)
    for fault in ("point 0: blocks = 9 is outside of 1 to 4", "activation = 'gelu'"):
        assert fault in said
    for fault in ("hidden = 50", "learning_rate = 'high'", "kind = 'affine'", "block is not"):
        assert f"point 1: {fault}" in said


def test_the_best_trials_of_a_study_come_the_best_first(with_database):
    storage = open_storage(url_of(None, with_database))
    study = optuna.create_study(storage=storage)
    for value in (2.0, 1.0, 3.0):
        trial = study.ask()
        trial.suggest_int("blocks", 1, 4)
        study.tell(trial, value)
    second, first, _ = (trial.params for trial in study.trials)

    assert best_points(study, 2) == [first, second]
    with pytest.raises(PointsError, match="no trial"):
        best_points(optuna.create_study(storage=storage), 1)


def test_a_run_json_of_ours_is_a_file_of_one_point(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "params": {"blocks": 3}}))

    assert read_points(tmp_path / "run.json") == [{"blocks": 3}]
