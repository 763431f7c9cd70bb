import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.dashboard.runs import tables
from tests.made_runs import BASE, epoch, row, run, searched, trained


def test_every_column_but_the_key_is_described_in_the_rows_own_order():
    rows = [row("bbh/trial-00000", trained(5.0))]

    found = tables.columns(rows)

    assert ["run", *(each.name for each in found)] == list(rows[0])
    assert tables.parameters(list(rows[0])) == ["blocks", "learning_rate"]


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


def test_axes_are_the_numbers_that_some_run_has():
    names = {each.name for each in tables.axes([row("a", trained(5.0))])}

    assert {"blocks", "best_val_nll", "seconds", "train_rows"} <= names
    assert not names & {"study", "state", "test_nll", "started", "version_torch"}


def test_differing_columns_are_those_of_the_command_line():
    rows = searched(({"blocks": 2}, 5.0), ({"blocks": 4}, 4.0))

    assert tables.differing(rows) == ["study", "trial", "blocks", "best_val_nll"]


def test_no_rows_have_no_columns():
    assert tables.columns([]) == tables.axes([]) == []
    assert tables.differing([]) == []


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


@given(pairs=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=15))
def test_runs_of_different_data_are_never_ranked_together(pairs):
    rows = [
        row(
            f"bbh/{trial}",
            run(
                trial,
                best_val_nll=float(nll),
                data=dataclasses.replace(BASE.data, fingerprint=data),
            ),
        )
        for trial, (data, nll) in enumerate(pairs)
    ]

    ranks = tables.ranks(rows)

    for data in {data for data, _ in pairs}:
        own = {f"bbh/{trial}": nll for trial, (its, nll) in enumerate(pairs) if its == data}
        by_rank = sorted(own, key=lambda key: ranks[key])
        assert [ranks[key] for key in by_rank] == list(range(1, len(own) + 1))
        assert [own[key] for key in by_rank] == sorted(own.values())
    assert len(set(tables.data_names(rows).values())) == len({data for data, _ in pairs})
