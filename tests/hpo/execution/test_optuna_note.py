"""The note of a study, read back with optuna-dashboard's own functions."""

from pathlib import Path

import optuna_dashboard
import pytest

from data_prep.dataset import SAMPLE, Dataset
from hpo.execution import launch, optuna_note
from hpo.execution.plan import make_plan
from hpo.storage.address import url_of
from hpo.storage.open import open_storage, open_study
from hpo.study import register
from hpo.study.spec import load
from hpo.study.study import create_study


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


def test_a_study_says_what_it_searches_on_which_data_and_how_it_was_launched(study):
    optuna_note.describe(study, plan("hpo launch quick --set 'a|b'"))

    note, data = optuna_dashboard.get_note(study), Dataset.read(SAMPLE)
    assert "`blocks`, `components`, `learning_rate`" in note
    assert f"{sum(data.rows.values()):,} rows in {len(data.cells)} cells" in note
    assert data.fingerprint[:12] in note
    assert "`hpo launch quick --set 'a\\|b'`" in note
    assert "`/runs/quick`" in note
    assert "(/runs/)" in note
    assert study.metric_names == ["validation NLL [nats/event]"]


def test_the_note_of_a_renamed_study_has_its_new_name_unless_somebody_wrote_another(
    storage, study, tmp_path
):
    optuna_note.describe(study, plan())
    before = optuna_dashboard.get_note(study)
    renamed = open_study(storage, register.rename(storage, "quick", "slow", None).name)

    optuna_note.rename(renamed, "quick")

    note = optuna_dashboard.get_note(renamed)
    assert note == before.replace("## quick", "## slow").replace("runs/quick`", "runs/slow`")
    assert note != before
    optuna_dashboard.save_note(renamed, "## slow\nmine")
    optuna_note.rename(renamed, "slow")
    assert optuna_dashboard.get_note(renamed) == "## slow\nmine"


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


def test_notes_are_found_without_the_whole_page_which_takes_seconds_to_load():
    assert optuna_note._notes() is not optuna_dashboard
    assert optuna_note._notes().save_note.__code__ == optuna_dashboard.save_note.__code__
