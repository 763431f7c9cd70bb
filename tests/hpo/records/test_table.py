import dataclasses
import json
from pathlib import Path

import pytest

from data_prep.where import Filter
from hpo.records import listing
from hpo.records import table as runs
from hpo.records.record import TestNll
from tests.made_runs import run, trained

THESIS = Path(__file__).parents[4] / "shared" / "data" / "thesis_runs"

needs_thesis = pytest.mark.skipif(not THESIS.is_dir(), reason="the thesis's runs are not here")

BASE = trained(
    5.0,
    params={"blocks": 4, "learning_rate": 1e-3},
    flow={"kind": "affine", "blocks": 4, "hidden": 64},
    training={"epochs": 40, "learning_rate": 1e-3, "batch_size": 1024},
    environment=dataclasses.replace(run().environment, slurm_job_id="47"),
    test=TestNll(nll=5.01, error=0.02, rows=20),
)


def study(folder, *changes):
    for trial, change in enumerate(changes):
        made = dataclasses.replace(BASE, trial=trial, **change)
        made.write(folder / made.study / f"trial-{trial:05d}")
    return folder


def searched(blocks, val_nll, state="complete", **more):
    params = {"blocks": blocks, "learning_rate": 1e-3}
    return {"params": params, "best_val_nll": val_nll, "state": state, **more}


@pytest.fixture
def four(tmp_path):
    return runs.rows(
        study(
            tmp_path,
            searched(4, 5.0),
            searched(8, 4.5),
            searched(16, 4.1, "pruned", test=None),
            searched(8, 4.7, "stopped_early"),
        )
    )


def trials(rows):
    return [each["trial"] for each in rows]


def test_a_row_holds_everything_that_the_record_tells():
    row = runs.row(BASE)

    assert list(row)[:5] == ["study", "trial", "state", "blocks", "learning_rate"]
    assert (row["epochs"], row["training_epochs"]) == (1, 40)
    assert (row["test_nll"], row["loss_rate"], row["seconds"]) == (5.01, 0.1, 6.0)
    assert (row["hidden"], row["batch_size"], row["version_torch"]) == (64, 1024, "2.7")
    assert (row["train_rows"], row["host"], row["slurm_job_id"]) == (60, "node07", "47")
    assert all(each is None or isinstance(each, str | int | float) for each in row.values())


def test_all_rows_have_the_same_columns_and_parameters_of_all_studies_stand_together(tmp_path):
    study(tmp_path, {}, {"study": "other", "params": {"bins": 8}, "flow": {"bins": 8}})

    rows = runs.rows(tmp_path)

    assert list(rows[0]) == list(rows[1])
    assert list(rows[0])[:7] == [
        "study",
        "trial",
        "state",
        "blocks",
        "learning_rate",
        "bins",
        "epochs",
    ]
    assert [each["bins"] for each in rows] == [None, 8]


def test_a_broken_run_has_a_row_that_says_why(tmp_path):
    study(tmp_path, {}, {})
    (tmp_path / "bbh" / "trial-00000" / "run.json").write_text("{")

    broken, whole = runs.rows(tmp_path)

    assert (broken["study"], broken["trial"], broken["state"]) == ("bbh", 0, "unreadable")
    assert "is not JSON" in broken["reason"]
    assert list(broken) == list(whole)
    assert trials(runs.select([broken, whole], best=1)) == [1]


def test_only_broken_runs_can_be_listed_too(tmp_path):
    (tmp_path / "run.json").write_text("{")

    (row,) = runs.rows(tmp_path)

    assert runs.usual([row]) == ["study", "state", "reason"]


def test_a_filter_keeps_what_matches_and_nothing_missing(four):
    where = Filter.parse("blocks >= 8 and test_nll > 0", four[0])

    assert trials(runs.select(four, where=where)) == [1, 3]


def test_the_best_run_is_one_that_came_to_its_own_end(four):
    assert trials(runs.select(four, best=1)) == [1]


def test_the_k_best_come_lowest_first(four):
    assert trials(runs.select(four, best=3)) == [1, 3, 0]


def test_runs_without_a_result_are_not_ranked(tmp_path):
    rows = runs.rows(study(tmp_path, searched(4, None), searched(8, 4.5)))

    assert trials(runs.select(rows, best=5)) == [1]


def test_sorting_goes_by_the_first_column_and_then_the_next(four):
    assert trials(runs.select(four, sort=["blocks", "best_val_nll"])) == [0, 1, 3, 2]


@pytest.mark.parametrize("column", ["test_nll", "-test_nll"])
def test_missing_values_come_last_either_way(four, column):
    assert trials(runs.select(four, sort=[column]))[-1] == 2


def test_numbers_sort_as_numbers_beside_text(tmp_path):
    rows = runs.rows(study(tmp_path, *({"params": {"x": each}} for each in [10, "a", 9, True])))

    assert [each["x"] for each in runs.select(rows, sort=["x"])] == [True, 9, 10, "a"]


def test_differing_keeps_what_differs_and_who_it_is(four):
    kept = runs.select(four, differing=True)

    assert list(kept[0]) == ["study", "trial", "state", "blocks", "best_val_nll"] + [
        "test_nll",
        "test_error",
    ]


def test_differing_is_judged_among_the_rows_that_are_left(four):
    kept = runs.select(four, where=Filter.parse("blocks == 8", four[0]), differing=True)

    assert list(kept[0]) == ["study", "trial", "state", "best_val_nll"]


def test_an_unknown_column_names_the_nearest(four):
    with pytest.raises(runs.RunsError, match="'best_val_nl': did you mean 'best_val_nll'"):
        runs.select(four, sort=["-best_val_nl"])


def test_selecting_changes_no_row(four):
    before = json.dumps(four)

    runs.select(four, sort=["-trial"], best=2, differing=True)

    assert json.dumps(four) == before


def test_nothing_to_select_from_is_no_fault():
    assert runs.select([], sort=["trial"], best=1, differing=True) == []
    assert runs.usual([]) == []


def test_the_usual_columns_are_who_what_and_how_it_went(four):
    assert runs.usual(four) == [
        "study",
        "trial",
        "state",
        "blocks",
        "learning_rate",
        "epochs",
        "best_epoch",
        "best_val_nll",
        "test_nll",
        "test_error",
        "loss_rate",
        "seconds",
        "restarts",
    ]


@needs_thesis
def test_the_thesis_s_table_comes_out_as_its_files_say():
    rows = runs.rows(THESIS)

    table = runs.select(rows, sort=["reported_val_nll"])
    columns = ["reported_epochs", "activation", "blocks", "hidden"]

    assert len(table) == 12
    first = table[0]
    assert [first[name] for name in columns] == [276, "relu", 10, 128]
    assert first["reported_val_nll"] == pytest.approx(5.093, abs=5e-4)
    assert first["loss_rate"] == pytest.approx(1.048e-4, rel=1e-3)
    assert first["seconds"] == pytest.approx(1200.2, abs=0.05)
    assert listing.render(table, "latex", columns=columns).count(r"\\") == 13


@needs_thesis
def test_the_best_of_the_thesis_s_grid_is_not_one_that_blew_up():
    rows = runs.rows(THESIS)

    (best,) = runs.select(rows, best=1)

    assert (best["activation"], best["blocks"], best["hidden"]) == ("relu", 10, 128)
    assert best["best_val_nll"] < 4.970 < best["reported_val_nll"]


def test_a_run_of_weighted_rows_says_so():
    effective = {"train": 12.5, "val": 4.0, "test": 4.0}
    data = dataclasses.replace(BASE.data, weights="mixture_weight", effective_rows=effective)

    weighed = runs.row(dataclasses.replace(BASE, data=data))

    assert weighed["weights"] == "mixture_weight"
    assert weighed["train_effective_rows"] == 12.5
    assert "weights" not in runs.row(BASE)


def test_for_people_the_rank_state_and_nll_stand_first_and_then_what_differs(four):
    found = runs.short(four)

    assert list(found[0])[:6] == ["trial", "rank", "state", "val NLL", "test NLL", "blocks"]
    assert [each["rank"] for each in found] == [3, 1, None, 2]
    assert found[0]["test NLL"] == "5.010 +- 0.020"
    assert "learning rate" in found[0]


def test_what_differs_for_people_is_never_a_seed_a_time_or_a_place(tmp_path):
    environment = dataclasses.replace(BASE.environment, host="other", slurm_job_id="9")
    some = [searched(4, 5.0), searched(4, 4.5)]
    some[1] |= {"environment": environment, "started": "2027-01-01T00:00:00+00:00"}
    some[1] |= {"seeds": {"weights": 7}, "cost": dataclasses.replace(BASE.cost, seconds=99.0)}
    some[1] |= {"training": BASE.training | {"batch_size": 64}}
    rows = runs.rows(study(tmp_path, *some))

    assert list(runs.short(rows, differing=True)[0]) == [
        "trial",
        "rank",
        "state",
        "val NLL",
        "test NLL",
        "batch size",
        "epochs",
        "time",
    ]
    differing = runs.select(rows, differing=True)
    assert not {"host", "slurm_job_id", "started", "seed_weights"} & set(differing[0])
    assert "batch_size" in differing[0]


def test_runs_on_other_data_are_ranked_apart(tmp_path):
    other = dataclasses.replace(BASE.data, fingerprint="cd")
    rows = runs.rows(study(tmp_path, searched(4, 5.0), searched(4, 9.0, data=other)))

    assert [each["rank"] for each in runs.short(rows)] == [1, 1]


def test_a_run_that_failed_says_why_in_a_sentence(tmp_path):
    rows = runs.rows(study(tmp_path, {}, searched(4, None, "failed", reason="out of memory")))

    assert runs.reasons(rows) == ["bbh trial 1 failed: out of memory"]
