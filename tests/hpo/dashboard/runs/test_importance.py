import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.dashboard.runs import importance
from hpo.dashboard.runs.tables import TablesError
from tests.made_runs import BASE, row, run, searched


def test_the_parameter_that_decides_is_the_most_important():
    rng = np.random.default_rng(3)
    pairs = [
        ({"learning_rate": rate, "activation": str(rng.choice(["relu", "silu"]))}, abs(rate - 0.5))
        for rate in rng.uniform(0.01, 1, 40)
    ]

    found = importance.importance(searched(*pairs))

    assert [name for name, _ in found] == ["learning_rate", "activation"]
    assert sum(share for _, share in found) == pytest.approx(1)
    assert found[0][1] > 0.8


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param([1, 2, 4, 8, 64, 128], id="whole-log"),
        pytest.param([1e-5, 1e-3, 1e-1], id="log"),
        pytest.param([0.1, 1], id="mixed-numbers"),
        pytest.param([True, False], id="switch"),
        pytest.param([1, "auto"], id="number-or-word"),
        pytest.param([-3, 0, 7], id="negative"),
    ],
)
def test_importance_takes_any_parameter(choices, capsys):
    pairs = [({"it": choices[i % len(choices)], "seed": i}, float(i % 5)) for i in range(12)]

    found = dict(importance.importance(searched(*pairs)))

    assert set(found) == {"it", "seed"}
    assert all(math.isfinite(each) for each in found.values())
    assert capsys.readouterr() == ("", "")


def test_a_parameter_that_only_some_runs_have_is_left_out():
    pairs = [({"a": i} | ({"b": i} if i else {}), float(i)) for i in range(10)]

    assert [name for name, _ in importance.importance(searched(*pairs))] == ["a"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        pytest.param([({"a": 1}, 1.0)], "from 2 runs on .* there are 1", id="few"),
        pytest.param([({"a": 1}, float(i)) for i in range(9)], "no parameter in common", id="same"),
        pytest.param([({"a": i}, 5.0) for i in range(9)], "no run is better", id="level"),
        pytest.param([], "there are 0", id="none"),
    ],
)
def test_importance_says_why_it_cannot_tell(pairs, message):
    with pytest.raises(TablesError, match=message):
        importance.importance(searched(*pairs))


def test_pruned_runs_say_nothing_of_importance():
    pairs = [({"a": i}, float(i)) for i in range(20)]

    with pytest.raises(TablesError, match="there are 0"):
        importance.importance(searched(*pairs, state="pruned"))


def test_two_runs_tell_of_importance_as_optuna_does():
    found = importance.importance(searched(({"a": 1, "b": 5}, 1.0), ({"a": 2, "b": 5}, 2.0)))

    assert [name for name, _ in found] == ["a"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        pytest.param([1, 2, 3, 4], "better when low", id="low"),
        pytest.param([4, 3, 2, 1], "better when high", id="high"),
        pytest.param([1, 3, 3, 1], "no clear direction", id="none"),
        pytest.param(["x", "y", "y", "y"], "best: x", id="text"),
        pytest.param([1, 1, 1, 1], "", id="same"),
    ],
)
def test_a_parameter_has_the_direction_of_the_better_runs(values, told):
    rows = searched(*(({"a": each}, float(nll)) for nll, each in enumerate(values)))

    assert importance.direction(rows, "a") == told


costs = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=12)


def priced(pairs):
    return [
        row(
            f"bbh/trial-{trial:05d}",
            run(
                trial,
                best_val_nll=float(nll),
                cost=dataclasses.replace(BASE.cost, flops_per_event=cost),
            ),
        )
        for trial, (cost, nll) in enumerate(pairs)
    ]


@given(pairs=costs)
def test_the_front_is_what_no_other_run_beats(pairs):
    def beaten(one):
        return any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in pairs)

    found = [each["run"] for each in importance.front(priced(pairs), "flops_per_event")]

    wanted = {f"bbh/trial-{i:05d}" for i, pair in enumerate(pairs) if not beaten(pair)}
    assert set(found) == wanted
    assert len(found) == len(wanted)
    prices = [pairs[int(key[-5:])][0] for key in found]
    assert prices == sorted(prices)


def test_runs_that_did_not_end_well_or_cost_unknown_are_not_on_the_front():
    rows = priced([(1, 1), (2, 2)])
    rows[0]["state"] = "pruned"
    rows[1]["flops_per_event"] = None

    assert importance.front(rows, "flops_per_event") == []
