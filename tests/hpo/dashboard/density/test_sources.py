"""Which weights and which data a picture is made of, and when none are."""

import dataclasses
import math
import os
import shutil
import time

import numpy as np
import pytest

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.errors import DataError, InputError
from hpo.dashboard.density import sources
from hpo.dashboard.density.draws import Densities, DensityError
from hpo.records.weights import WeightsError
from models.training import checkpoint
from tests.hpo.dashboard.density.made import (
    KEY,
    LARGEST,
    catalog_of,
    put,
    record_of,
    untrained,
)


def test_a_run_s_own_data_path_is_never_followed(trained):
    blind = Densities(catalog_of(trained), [])
    p = blind.plot(KEY, LARGEST)

    assert p.data is None
    assert "name their folder with `hpo dashboard --data FOLDER`" in p.notes[0]
    assert [slider.grid for slider in blind.conditions(KEY)] == [(), ()]
    with pytest.raises(DensityError, match="the data of this run are not among those"):
        blind.cells(KEY)


def test_a_folder_without_data_is_refused_at_once(trained, tmp_path):
    with pytest.raises(DataError, match="is not a prepared dataset"):
        Densities(catalog_of(trained), [tmp_path])


def test_a_study_whose_data_are_gone_is_shown_without(trained, prepared, tmp_path):
    densities = Densities(catalog_of(trained), [], [tmp_path / "gone", prepared])

    assert densities.plot(KEY, LARGEST).data is not None


def test_data_that_were_prepared_anew_are_not_taken_for_the_old(trained, prepared, tmp_path):
    copy = shutil.copytree(prepared, tmp_path / "prepared")
    densities = Densities(catalog_of(trained), [copy])
    dataclasses.replace(Dataset.read(copy), fingerprint="other").write(copy)

    with pytest.raises(DensityError, match="was prepared anew since the dashboard was started"):
        densities.plot(KEY, LARGEST)


def linked(folder):
    elsewhere = folder.parents[2] / "elsewhere.safetensors"
    (folder / checkpoint.FILE).rename(elsewhere)
    (folder / checkpoint.FILE).symlink_to(elsewhere)


def looped(folder):
    (folder / checkpoint.FILE).unlink()
    (folder / checkpoint.FILE).symlink_to(folder / checkpoint.FILE)


def piped(folder):
    (folder / checkpoint.FILE).unlink()
    os.mkfifo(folder / checkpoint.FILE)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(linked, "is a link to another place", id="link"),
        pytest.param(looped, "cannot be read", id="loop"),
        pytest.param(piped, "is no file", id="pipe"),
        pytest.param(
            lambda folder: (folder / checkpoint.FILE).unlink(), "has no checkpoint yet", id="none"
        ),
        pytest.param(
            lambda folder: (folder / checkpoint.FILE).write_bytes(b"half"),
            "is not a whole checkpoint",
            id="damaged",
        ),
    ],
)
def test_weights_that_cannot_be_read_are_a_sentence(runs, prepared, spoil, message):
    spoil(runs / KEY)
    densities = Densities(catalog_of(runs), [prepared])

    with pytest.raises(InputError, match=message):
        densities.conditions(KEY)
    with pytest.raises(InputError, match=message):
        densities.plot(KEY, LARGEST)


def test_a_checkpoint_over_the_limit_is_not_read(runs, prepared, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST", 1000)

    with pytest.raises(DensityError, match="more than the 1.00 kB that this page reads"):
        Densities(catalog_of(runs), [prepared]).conditions(KEY)


def test_a_run_of_another_program_has_no_flow(trained, prepared, monkeypatch):
    catalog = catalog_of(trained)
    monkeypatch.setattr(catalog, "trial_folder", lambda key: None)

    with pytest.raises(DensityError, match="of another program"):
        Densities(catalog, [prepared]).conditions(KEY)


def test_an_unknown_run_is_a_key_error(shown):
    with pytest.raises(KeyError):
        shown.conditions("bbh/trial-00007")


def test_a_new_checkpoint_gives_a_new_plot(runs, prepared):
    densities = Densities(catalog_of(runs), [prepared])
    before = densities.plot(KEY, LARGEST)
    assert densities.plot(KEY, LARGEST) is before

    stored = checkpoint.load(runs / KEY)
    moved = {k: v * 1.05 if k == "best.events.mean_K" else v for k, v in stored.tensors.items()}
    time.sleep(0.01)
    checkpoint.save(runs / KEY, dataclasses.replace(stored, tensors=moved))
    put(record_of(Dataset.read(prepared), prepared), runs / KEY)
    densities._catalog._looked_s = -math.inf
    densities._catalog.refresh()

    assert densities.plot(KEY, LARGEST).nll > before.nll


def test_weights_of_another_run_are_not_shown(runs, prepared):
    """A plot was made of the right ones before."""
    densities = Densities(catalog_of(runs), [prepared])
    densities.plot(KEY, LARGEST)
    untrained(Dataset.read(prepared), runs / KEY)

    with pytest.raises(WeightsError, match="the weights of another run than"):
        densities.plot(KEY, LARGEST)


def test_of_very_many_rows_some_are_drawn_the_same_each_time(trained, prepared, monkeypatch):
    monkeypatch.setattr(sources, "MOST_ROWS", 300)
    monkeypatch.setattr(sources, "PART", 100)
    of = Dataset.read(prepared).rows["test"]

    first, second = (Densities(catalog_of(trained), [prepared]) for _ in range(2))
    p = first.plot(KEY, LARGEST)

    assert 20 < p.data.rows < 200
    assert f"Of the {of:,} test rows" in p.notes[0]
    np.testing.assert_array_equal(second.plot(KEY, LARGEST).data.points_N2, p.data.points_N2)


def test_a_record_that_names_other_data_than_the_flow_s_is_a_sentence(runs, prepared):
    dataset = Dataset.read(prepared)
    untrained(dataclasses.replace(dataset, event_columns=(Column.named("Mass_0"),)), runs / KEY)
    put(record_of(dataset, prepared), runs / KEY)

    with pytest.raises(DataError, match="prepare the data with those columns"):
        Densities(catalog_of(runs), [prepared]).conditions(KEY)
