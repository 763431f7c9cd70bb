import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpo import runs
from hpo.dashboard import tables
from hpo.record import Cost, DataUsed, Environment, EpochRow, Reported, RunRecord, read

THESIS = Path(__file__).parents[2] / "shared" / "data" / "thesis_runs"

BASE = RunRecord(
    study="bbh",
    trial=0,
    state="complete",
    params={"blocks": 2, "learning_rate": 1e-3},
    flow={"blocks": 2, "hidden": 48},
    training={"epochs": 3, "learning_rate": 1e-3, "batch_size": 10, "rate_per": "epoch"},
    data=DataUsed(path="prepared", fingerprint="ab", rows={"train": 60, "val": 20}),
    environment=Environment(versions={"torch": "2.7"}, device="cpu", host="node07", threads=2),
    cost=Cost(parameters=1000, flops_per_event=2000, seconds=6.0),
    started="2026-05-01T12:00:00+00:00",
    updated="2026-05-01T12:00:05+00:00",
)


def epoch(number, val=5.0, **more):
    values = {
        "train_nll": 4.9,
        "val_nll": val,
        "learning_rate": 1e-3,
        "seconds": 30.0,
        "samples_per_second": 4.0,
        "loss_rate": 0.1,
    }
    return EpochRow(epoch=number, **values | more)


def run(trial=0, **changes):
    return dataclasses.replace(BASE, trial=trial, **changes)


def trained(*vals, trial=0, **changes):
    told = [each for each in vals if each is not None]
    best = min(told, default=None)
    return run(
        trial,
        epochs=tuple(epoch(index, val) for index, val in enumerate(vals, start=1)),
        best_epoch=vals.index(best) + 1 if told else None,
        best_val_nll=best,
        **changes,
    )


def row(key, record):
    return {"run": key, **runs.row(record)}


def searched(*pairs, **more):
    """Rows of finished runs from (parameters, NLL)."""
    return [
        row(f"bbh/trial-{trial:05d}", run(trial, params=params, best_val_nll=nll, **more))
        for trial, (params, nll) in enumerate(pairs)
    ]


def test_every_column_but_the_key_is_described_in_the_rows_own_order():
    rows = [row("bbh/trial-00000", trained(5.0))]

    found = tables.columns(rows)

    assert ["run", *(each.name for each in found)] == list(rows[0])
    groups = {each.name: each.group for each in found}
    assert (groups["study"], groups["blocks"], groups["hidden"]) == ("run", "parameters", "options")
    assert (groups["best_val_nll"], groups["fingerprint"]) == ("results", "data")
    assert (groups["version_torch"], groups["device"]) == ("environment", "environment")


@pytest.mark.parametrize(
    ("name", "title", "kind"),
    [
        pytest.param("best_val_nll", "best validation NLL [nats/event]", "number", id="nll"),
        pytest.param("seconds", "wall-clock time [s]", "number", id="time"),
        pytest.param("flops_per_event", "cost of a log-density [FLOP/event]", "number", id="flops"),
        pytest.param("loss_rate", "last loss rate [nats/epoch]", "number", id="rate"),
        pytest.param("train_rows", "train split [rows]", "number", id="rows"),
        pytest.param("version_torch", "torch version", "text", id="version"),
        pytest.param("test_nll", "test NLL [nats/event]", "number", id="no-value-yet"),
        pytest.param("started", "started", "time", id="date"),
        pytest.param("reason", "reason", "text", id="text"),
    ],
)
def test_a_column_has_a_label_a_unit_and_a_kind(name, title, kind):
    found = {each.name: each for each in tables.columns([row("a", trained(5.0))])}

    assert (found[name].title, found[name].kind) == (title, kind)


def test_the_unit_of_loss_rates_is_that_of_the_runs():
    per_second = run(epochs=(epoch(1),), training={"rate_per": "second"})
    rows = [row("a", trained(5.0)), row("b", per_second)]

    units = [
        next(each.unit for each in tables.columns(chosen) if each.name == "loss_rate")
        for chosen in (rows, rows[:1], rows[1:])
    ]

    assert units == ["nats/epoch or nats/s", "nats/epoch", "nats/s"]


def test_an_option_of_the_training_is_not_taken_for_the_device_it_ran_on():
    record = run(training={"device": "auto"})

    groups = {each.name: each.group for each in tables.columns([row("a", record)])}

    assert (groups["device"], groups["environment_device"]) == ("options", "environment")


def test_axes_are_the_numbers_that_some_run_has():
    names = {each.name for each in tables.axes([row("a", trained(5.0))])}

    assert {"blocks", "best_val_nll", "seconds", "train_rows"} <= names
    assert not names & {"study", "state", "test_nll", "started", "version_torch"}


def test_usual_and_differing_columns_are_those_of_the_command_line():
    rows = searched(({"blocks": 2}, 5.0), ({"blocks": 4}, 4.0))

    assert tables.usual(rows)[:4] == ["study", "trial", "state", "blocks"]
    assert tables.differing(rows) == ["study", "trial", "blocks", "best_val_nll"]


def test_no_rows_have_no_columns():
    assert tables.columns([]) == tables.axes([]) == []
    assert tables.usual([]) == tables.differing([]) == []


def test_a_curve_adds_up_time_and_rows():
    curve = tables.curve(trained(5.0, 4.0, 4.5))

    np.testing.assert_allclose(curve.minutes, [0.5, 1.0, 1.5])
    np.testing.assert_allclose(curve.rows_seen, [60, 120, 180])
    assert (len(curve), curve.best) == (3, 1)


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        pytest.param({}, [60, 120], id="the-split"),
        pytest.param({"training": {"eval_every": 4, "batch_size": 10}}, [40, 80], id="batches"),
        pytest.param(
            {"data": DataUsed(path="p", fingerprint=None, rows={})}, [120, 240], id="speed"
        ),
        pytest.param(
            {
                "data": DataUsed(path="p", fingerprint=None, rows={}),
                "epochs": (epoch(1, samples_per_second=None), epoch(2)),
            },
            [math.nan, math.nan],
            id="unknown",
        ),
    ],
)
def test_rows_seen_come_from_what_the_record_tells(changes, rows):
    record = dataclasses.replace(trained(5.0, 4.0), **changes)

    np.testing.assert_array_equal(tables.curve(record).rows_seen, rows)


def test_what_is_not_finite_is_a_gap():
    rows = (epoch(1, val=math.inf), epoch(2, val=None), epoch(3, val=4.0))

    curve = tables.curve(run(epochs=rows))

    np.testing.assert_array_equal(curve.val_nll, [math.nan, math.nan, 4.0])


@pytest.mark.parametrize(
    ("rate", "threshold"), [pytest.param(0.0, None, id="never"), pytest.param(0.01, 0.01, id="set")]
)
def test_a_threshold_of_zero_is_none(rate, threshold):
    assert tables.curve(run(training={"min_rate": rate})).threshold == threshold


def test_a_run_without_epochs_has_an_empty_curve():
    curve = tables.curve(run(best_epoch=None))

    assert (len(curve), curve.best, curve.minutes.shape) == (0, None, (0,))


values = arrays(np.float64, st.integers(0, 30), elements=st.floats(-1e6, 1e6))
weights = st.floats(0, 0.999)


@given(values_E=values, weight=weights)
def test_a_smoothed_curve_stays_between_its_lowest_and_highest_value(values_E, weight):
    result = tables.smoothed(values_E, weight)

    air = 1e-9 * (1 + np.abs(values_E).max(initial=0.0))
    for index, each in enumerate(result):
        assert values_E[: index + 1].min() - air <= each <= values_E[: index + 1].max() + air


@given(value=st.floats(-1e6, 1e6), weight=weights, length=st.integers(1, 30))
def test_smoothing_a_constant_changes_nothing(value, weight, length):
    result = tables.smoothed(np.full(length, value), weight)

    np.testing.assert_allclose(result, value, rtol=1e-9, atol=1e-9)


@given(values_E=values)
def test_a_weight_of_zero_changes_nothing(values_E):
    np.testing.assert_array_equal(tables.smoothed(values_E, 0.0), values_E)


@given(values_E=values, weight=weights, gap=st.integers(0, 30))
def test_a_gap_stays_and_the_rest_is_as_if_it_were_not_there(values_E, weight, gap):
    at = min(gap, len(values_E))

    result = tables.smoothed(np.insert(values_E, at, math.nan), weight)

    assert math.isnan(result[at])
    np.testing.assert_array_equal(np.delete(result, at), tables.smoothed(values_E, weight))


@pytest.mark.parametrize("weight", [-0.1, 1.0, math.nan])
def test_a_weight_outside_its_range_is_refused(weight):
    with pytest.raises(tables.TablesError, match=r"in \[0, 1\)"):
        tables.smoothed(np.ones(3), weight)


def test_the_difference_holds_what_differs_and_nothing_else():
    other = run(
        1,
        params={"learning_rate": 1e-2},
        flow={"blocks": 4, "hidden": 48},
        training=BASE.training | {"learning_rate": 1e-2},
        pruner={"kind": "asha"},
        data=dataclasses.replace(BASE.data, rows={"train": 60, "val": 21}),
        environment=dataclasses.replace(BASE.environment, host="node08"),
    )

    assert tables.difference({"a": run(), "b": other}) == [
        {"group": "configuration", "setting": "blocks", "a": 2, "b": 4},
        {"group": "configuration", "setting": "learning_rate", "a": 1e-3, "b": 1e-2},
        {"group": "configuration", "setting": "pruner: kind", "a": None, "b": "asha"},
        {"group": "data", "setting": "val rows", "a": 20, "b": 21},
        {"group": "environment", "setting": "host", "a": "node07", "b": "node08"},
    ]


def test_nothing_differs_from_itself():
    assert tables.difference({"a": run(), "b": run(1)}) == []
    assert tables.difference({"a": run()}) == tables.difference({}) == []


def test_one_and_true_are_different_settings():
    pair = {"a": run(flow={"residual": 1}), "b": run(flow={"residual": True})}

    assert [each["setting"] for each in tables.difference(pair)] == ["residual"]


DATA = BASE.data


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        pytest.param(
            {"data": dataclasses.replace(DATA, fingerprint="cd")},
            "2 different data sets: their NLLs do not compare",
            id="data",
        ),
        pytest.param(
            {"data": dataclasses.replace(DATA, hold_out_cells=({"Z": 0.1},))},
            "Different cells were held out",
            id="cells",
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
        pytest.param(
            {"reported": Reported(label="x", epochs=3, val_nll=5.1)},
            "From the thesis's program: bbh 1",
            id="thesis",
        ),
    ],
)
def test_a_caution_says_what_does_not_compare(other, sentence):
    told = tables.cautions([run(), run(1, **other)])

    assert len(told) == 1
    assert sentence in told[0]


def test_runs_that_compare_need_no_caution():
    assert tables.cautions([run(), run(1), run(2)]) == []
    assert tables.cautions({"a": run(), "b": run(1)}) == []
    assert tables.cautions([]) == []


def test_the_same_cells_in_another_order_are_the_same():
    cells = ({"Z": 0.1, "alpha": 1.0}, {"Z": 0.2, "alpha": 1.0})
    turned = tuple(dict(reversed(cell.items())) for cell in reversed(cells))
    pair = [run(data=dataclasses.replace(DATA, hold_out_cells=each)) for each in (cells, turned)]

    assert tables.cautions(pair) == []


def test_the_parameter_that_decides_is_the_most_important():
    rng = np.random.default_rng(3)
    pairs = [
        ({"learning_rate": rate, "activation": str(rng.choice(["relu", "silu"]))}, abs(rate - 0.5))
        for rate in rng.uniform(0.01, 1, 40)
    ]

    found = tables.importance(searched(*pairs))

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

    found = dict(tables.importance(searched(*pairs)))

    assert set(found) == {"it", "seed"}
    assert all(math.isfinite(each) for each in found.values())
    assert capsys.readouterr() == ("", "")


def test_a_parameter_that_only_some_runs_have_is_left_out():
    pairs = [({"a": i} | ({"b": i} if i else {}), float(i)) for i in range(10)]

    assert [name for name, _ in tables.importance(searched(*pairs))] == ["a"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        pytest.param([({"a": i}, float(i)) for i in range(7)], "from 8 runs on .* are 7", id="few"),
        pytest.param([({"a": 1}, float(i)) for i in range(9)], "no parameter in common", id="same"),
        pytest.param([({"a": i}, 5.0) for i in range(9)], "no run is better", id="level"),
        pytest.param([], "there are 0", id="none"),
    ],
)
def test_importance_says_why_it_cannot_tell(pairs, message):
    with pytest.raises(tables.TablesError, match=message):
        tables.importance(searched(*pairs))


def test_pruned_runs_say_nothing_of_importance():
    pairs = [({"a": i}, float(i)) for i in range(20)]

    with pytest.raises(tables.TablesError, match="there are 0"):
        tables.importance(searched(*pairs, state="pruned"))


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

    found = tables.front(priced(pairs), "flops_per_event")

    wanted = {f"bbh/trial-{i:05d}" for i, pair in enumerate(pairs) if not beaten(pair)}
    assert set(found) == wanted
    assert len(found) == len(wanted)
    prices = [pairs[int(key[-5:])][0] for key in found]
    assert prices == sorted(prices)


def test_runs_that_did_not_end_well_or_cost_unknown_are_not_on_the_front():
    rows = priced([(1, 1), (2, 2)])
    rows[0]["state"] = "pruned"
    rows[1]["flops_per_event"] = None

    assert tables.front(rows, "flops_per_event") == []


def test_a_run_is_judged_by_its_own_objective():
    held_out = {"objective": "held_out_nll", "best_held_out_nll": 3.0, "best_val_nll": 2.0}

    assert tables.objective(held_out) == 3.0
    assert tables.objective({"best_val_nll": 2.0}) == 2.0
    assert tables.objective_label([held_out]) == "best held-out NLL [nats/event]"
    assert tables.objective_label([held_out, {}]) == "best objective [nats/event]"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        pytest.param("bbh/trial-00017", "bbh 17", id="study"),
        pytest.param("bbh/trial-00000", "bbh 0", id="zero"),
        pytest.param("trial-00017", "trial 17", id="alone"),
        pytest.param("blocks_10_hidden_128_A_tanh_N_1.json", "thesis 10×128 tanh", id="thesis"),
        pytest.param("other.json", "other", id="file"),
        pytest.param("", "", id="empty"),
    ],
)
def test_a_short_name_is_one_that_people_use(key, name):
    assert tables.short(key) == name


def test_runs_of_one_short_name_keep_their_keys():
    two = ["blocks_1_hidden_2_A_relu_V1.json", "blocks_1_hidden_2_A_relu_V2.json"]

    found = tables.names([*two, "a/trial-00001"])

    assert found == {two[0]: two[0], two[1]: two[1], "a/trial-00001": "a 1"}


@pytest.mark.skipif(not THESIS.is_dir(), reason="the thesis's runs are not here")
def test_runs_of_the_thesis_have_curves_of_the_lengths_that_they_trained():
    for path in sorted(THESIS.glob("*.json")):
        record = read(path)

        curve = tables.curve(record)

        assert len(curve) == len(record.epochs)
        assert np.nanmin(curve.val_nll) == curve.val_nll[curve.best] == record.best_val_nll
