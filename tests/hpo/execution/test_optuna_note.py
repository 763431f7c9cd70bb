"""The note and the charts of a study, read back through optuna-dashboard's own application."""

import json
from dataclasses import replace
from pathlib import Path

import optuna_dashboard
import pytest
from werkzeug.test import Client

from data_prep.dataset import SAMPLE, Dataset
from hpo.dashboard import optuna_page
from hpo.dashboard.runs import learning
from hpo.execution import launch, optuna_note
from hpo.execution.plan import make_plan
from hpo.records.record import EpochRow
from hpo.storage.address import url_of
from hpo.storage.open import open_storage, open_study
from hpo.study.spec import load
from hpo.study.study import blank_record, create_study


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    opened = open_storage(url_of(None, tmp_path))
    yield opened
    opened.engine.dispose()


@pytest.fixture
def study(storage, tmp_path):
    """A new study on the sample."""
    return create_study(storage, spec_of(), runs=tmp_path, fingerprint="f")


def spec_of(*settings):
    return load("quick", settings=[f"data.path={SAMPLE}", *settings])


def plan(command="hpo launch quick", *settings):
    return make_plan(
        spec_of(*settings),
        trials=None,
        workers=1,
        on="local",
        runs=Path("/runs"),
        url=url_of(None, Path("/runs")),
        command=command,
    )


def runs_of(study, count, epochs):
    """So many records of that study, each with a curve of its own."""
    blank = blank_record(study, 0)
    return [
        replace(
            blank,
            trial=number,
            state="complete",
            params={"blocks": number},
            epochs=tuple(
                EpochRow(
                    epoch=epoch,
                    train_nll=4 + 1 / (epoch + number / 7),
                    val_nll=4 + number / 100 + 1 / epoch,
                    learning_rate=1e-3,
                    seconds=1 / 3,
                    samples_per_second=1e5 / 3,
                    loss_rate=1 / 3 / epoch,
                )
                for epoch in range(1, epochs + 1)
            ),
            best_epoch=epochs,
            best_val_nll=4 + number / 100 + 1 / epochs,
            cost=replace(blank.cost, parameters=100, flops_per_event=1000 * (count - number)),
        )
        for number in range(count)
    ]


def test_a_study_says_what_it_searches_on_which_data_and_how_it_was_launched(study):
    optuna_note.describe(study, plan("hpo launch quick --set 'a|b'"))

    note, data = optuna_dashboard.get_note(study), Dataset.read(SAMPLE)
    assert "`blocks`, `hidden`, `learning_rate`" in note
    assert f"{sum(data.rows.values()):,} rows in {len(data.cells)} cells" in note
    assert data.fingerprint[:12] in note
    assert "`hpo launch quick --set 'a\\|b'`" in note
    assert "`/runs/quick`" in note
    assert "(/runs/)" in note
    assert study.metric_names == ["validation NLL [nats/event]"]


def test_a_study_of_held_out_cells_names_its_objective_so(study):
    settings = ["training.objective=held_out_nll", "data.hold_out_cells=[{Z=0.0001,alpha=1.0}]"]
    optuna_note.describe(study, plan("hpo launch", *settings))

    assert study.metric_names == ["held-out NLL [nats/event]"]


def test_a_description_of_ours_is_kept_up_to_date_and_written_only_when_it_changed(study):
    optuna_note.describe(study, plan("hpo launch one"))
    optuna_note.describe(study, plan("hpo launch another"))
    version = study._storage.get_study_system_attrs(study._study_id)["dashboard:note_ver"]
    optuna_note.describe(study, plan("hpo launch another"))

    assert "hpo launch another" in optuna_dashboard.get_note(study)
    attributes = study._storage.get_study_system_attrs(study._study_id)
    assert attributes["dashboard:note_ver"] == version


@pytest.mark.parametrize("before", [True, False], ids=["before ours", "after ours"])
def test_what_a_person_wrote_is_left(study, before):
    if not before:
        optuna_note.describe(study, plan())
    optuna_dashboard.save_note(study, "mine")

    optuna_note.describe(study, plan("hpo launch again"))

    assert optuna_dashboard.get_note(study) == "mine"


def seen(storage, number):
    """The study as optuna-dashboard's page is told it."""
    answer = Client(optuna_page.wsgi(storage)).get(f"/api/studies/{number}")
    assert answer.status_code == 200
    return json.loads(answer.text)


def test_the_page_shows_the_pictures_and_they_stay_small(storage, study):
    optuna_note._save_charts(study, runs_of(study, 40, 500))

    shown = seen(storage, study._study_id)["plotly_graph_objects"]
    assert sorted(one["id"] for one in shown) == ["hpo-cost", "hpo-learning"]
    for one in shown:
        assert len(one["graph_object"]) <= 30_000, one["id"]
        assert json.loads(one["graph_object"])["data"]


def test_the_pictures_are_replaced_and_not_added_to(storage, study):
    optuna_note._save_charts(study, runs_of(study, 10, 300))
    pieces = len(study._storage.get_study_system_attrs(study._study_id))
    optuna_note._save_charts(study, runs_of(study, 1, 2))

    assert len(study._storage.get_study_system_attrs(study._study_id)) == pieces
    [learning] = [
        one
        for one in seen(storage, study._study_id)["plotly_graph_objects"]
        if one["id"] == "hpo-learning"
    ]
    drawn = json.loads(learning["graph_object"])["data"]
    assert max(len(trace["x"]) for trace in drawn) == 2


def test_the_curves_keep_their_best_and_their_last_epoch(study):
    [record] = runs_of(study, 1, 1000)
    record = replace(record, best_epoch=777)

    kept = learning.curves({"a": record}, most=20).data[1].x

    assert {1, 777, 1000} <= set(kept)
    assert len(kept) <= 20


def test_a_study_without_a_result_has_no_picture(storage, study):
    optuna_note._save_charts(study, [blank_record(study, 0)])

    assert seen(storage, study._study_id)["plotly_graph_objects"] == []


def test_a_study_is_made_though_its_description_cannot_be_kept(tmp_path, monkeypatch):
    def fail(*_words):
        raise OSError("no room\nfor a note")

    monkeypatch.setattr(optuna_note, "_save_note", fail)
    url = url_of(f"sqlite:///{tmp_path}/hpo.db", tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text('[study]\nname = "mine"\n[space]\nhidden = [8, 16]\n')

    with pytest.warns(UserWarning, match="description .* could not be kept: OSError: no room$"):
        launch.open_or_make(str(file), runs=tmp_path, url=url)

    assert open_study(open_storage(url, reading=True), "mine").trials == []


def test_a_study_that_is_made_is_described_at_once(tmp_path):
    url = url_of(f"sqlite:///{tmp_path}/hpo.db", tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text('[study]\nname = "mine"\n[space]\nhidden = [8, 16]\n')

    launch.open_or_make(str(file), runs=tmp_path, url=url)

    study = open_study(open_storage(url, reading=True), "mine")
    assert f"`{tmp_path}/mine`" in optuna_dashboard.get_note(study)
