import dataclasses

import pytest

from hpo.dashboard.runs import differences
from tests.made_runs import BASE, run


def test_the_difference_holds_what_differs_and_nothing_else():
    other = run(
        1,
        params={"learning_rate": 1e-2},
        flow={"blocks": 4, "hidden": 48},
        training=BASE.training | {"learning_rate": 1e-2},
        pruner={"kind": "asha"},
        data=dataclasses.replace(BASE.data, rows={"train": 60, "val": 21}),
        environment=dataclasses.replace(BASE.environment, host="node08", device="cuda"),
    )

    assert differences.difference({"a": run(), "b": other}) == {
        "blocks": {"a": 2, "b": 4},
        "learning_rate": {"a": 1e-3, "b": 1e-2},
        "pruner: kind": {"a": None, "b": "asha"},
        "val rows": {"a": 20, "b": 21},
        "device": {"a": "cpu", "b": "cuda"},
    }


def test_where_a_run_was_made_and_its_seeds_are_no_difference():
    elsewhere = {"host": "node08", "threads": 9, "slurm_job_id": "7"}
    other = run(
        1,
        training=BASE.training | {"seed": 2},
        seeds={"trial": 2},
        data=dataclasses.replace(BASE.data, path="elsewhere"),
        environment=dataclasses.replace(BASE.environment, **elsewhere),
    )

    assert differences.difference({"a": run(), "b": other}) == {}


def test_nothing_differs_from_itself():
    assert differences.difference({"a": run(), "b": run(1)}) == {}
    assert differences.difference({"a": run()}) == differences.difference({}) == {}


def test_one_and_true_are_different_settings():
    pair = {"a": run(flow={"residual": 1}), "b": run(flow={"residual": True})}

    assert list(differences.difference(pair)) == ["residual"]


DATA = BASE.data


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        pytest.param(
            {"data": dataclasses.replace(DATA, hold_out_cells=({"Z": 0.1},))},
            "Different cells were held out",
            id="cells",
        ),
        pytest.param(
            {"data": dataclasses.replace(DATA, report_cells=({"Z": 0.1},))},
            "Different cells were held out",
            id="report-cells",
        ),
        pytest.param(
            {"training": BASE.training | {"objective": "held_out_nll"}},
            "judged by different things: held-out NLL and validation NLL",
            id="objective",
        ),
        pytest.param({"state": "running"}, "Still training: bbh 1", id="running"),
        pytest.param({"state": "pruned"}, "Pruned: bbh 1", id="pruned"),
        pytest.param({"state": "failed"}, "Failed: bbh 1", id="failed"),
        pytest.param(
            {"environment": dataclasses.replace(BASE.environment, device="cuda")},
            "different devices (cpu, cuda): their wall-clock times do not compare",
            id="device",
        ),
        pytest.param(
            {"training": BASE.training | {"rate_per": "second"}}, "loss rates are", id="rates"
        ),
    ],
)
def test_a_caution_says_what_does_not_compare(other, sentence):
    told = differences.cautions([run(), run(1, **other)])

    assert len(told) == 1
    assert sentence in told[0]


def test_runs_that_compare_need_no_caution():
    assert differences.cautions([run(), run(1), run(2)]) == []
    assert differences.cautions([]) == []


def test_the_same_cells_in_another_order_are_the_same():
    cells = ({"Z": 0.1, "alpha": 1.0}, {"Z": 0.2, "alpha": 1.0})
    turned = tuple(dict(reversed(cell.items())) for cell in reversed(cells))
    pair = [run(data=dataclasses.replace(DATA, hold_out_cells=each)) for each in (cells, turned)]

    assert differences.cautions(pair) == []
