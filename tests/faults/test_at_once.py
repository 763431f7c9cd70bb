"""Two of a kind at once, and a clock that is set while they run."""

import shutil

import numpy as np
import pytest
from optuna.trial import TrialState

from hpo.queue.leases import Owner
from hpo.queue.reaper import reap
from hpo.records.folder import read
from hpo.records.record import NAME
from models.arrays.flow import ArrayFlow
from models.bundle import files
from models.bundle.emulator import Emulator
from tests.forks import content_of

pytestmark = pytest.mark.slow

HOURS = [0, 3 * 3600, -5 * 3600, 26 * 3600]
"""By which the time of day is set."""


def test_of_two_that_prepare_the_same_folder_one_wins_and_the_other_is_told(
    forks, source, data, tmp_path
):
    both = [("hpo", "prepare", source, "--out", tmp_path / "out")] * 2

    won, lost = sorted(forks.at_once(both, cwd=tmp_path), key=lambda done: done.code)

    assert (won.code, lost.code) == (0, 2), won.said + lost.said
    assert lost.said == (
        f"Error: {tmp_path / 'out'} already holds a prepared dataset: remove it or choose another "
        "--out\n"
    )
    found = content_of(tmp_path / "out")
    assert {**found, "dataset.json": ""} == {**content_of(data), "dataset.json": ""}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture(scope="module")
def bundles(forks, ran, tmp_path_factory):
    """Emulators of both trials. Do not write into them."""
    place = tmp_path_factory.mktemp("bundles")
    words = ("export", "s", "--runs", ran, "--trial")
    done = [forks.hpo(*words, trial, "--out", f"of-{trial}", cwd=place) for trial in (0, 1)]
    assert [each.code for each in done] == [0, 0], done
    return [place / "of-0", place / "of-1"]


def test_of_two_exports_to_the_same_folder_one_wins_whole(forks, ran, bundles, tmp_path):
    words = ("hpo", "export", "s", "--runs", ran, "--out", "out", "--trial")

    done = forks.at_once([(*words, 0), (*words, 1)], cwd=tmp_path)

    assert [each.code for each in done] == [0, 0], done
    assert content_of(tmp_path / "out") in [content_of(each) for each in bundles]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("load", [Emulator.load, ArrayFlow.load])
def test_who_reads_an_emulator_that_is_just_replaced_gets_one_of_them(
    bundles, tmp_path, monkeypatch, load
):
    old, new = (shutil.copytree(each, tmp_path / each.name) for each in bundles)
    read_card = files.read_card

    def replaced_meanwhile(folder):
        card = read_card(folder)
        if new.exists():
            shutil.rmtree(old)
            new.rename(old)
        return card

    monkeypatch.setattr(files, "read_card", replaced_meanwhile)
    loaded, wanted = load(old), load(bundles[1])

    at = {"Z": 0.001, "alpha": 1.0}
    np.testing.assert_array_equal(
        loaded.log_prob([[9.0, 8.0]], **at), wanted.log_prob([[9.0, 8.0]], **at)
    )


def test_a_clock_that_is_set_takes_no_trial_from_a_worker_that_runs(forks, make, tmp_path):
    runs = tmp_path / "runs"
    made = make(runs, trials=6, epochs=6)

    done = forks.at_once([("work", "s", runs, 1)] * 3, cwd=tmp_path, clock=HOURS)

    assert [each.code for each in done] == [0, 0, 0], done
    assert [trial.state for trial in made.study.get_trials()] == [TrialState.COMPLETE] * 6
    records = [read(made.folder / f"trial-{number:05d}" / NAME) for number in range(6)]
    assert [(one.state, one.restarts, len(one.epochs)) for one in records] == [
        ("complete", 0, 6)
    ] * 6
    assert sum(each.said.count(" complete: ") for each in done) == 6
    assert made.slots.leases() == []


def test_a_renewal_from_before_the_clock_was_set_back_does_not_keep_the_dead_alive(make, tmp_path):
    made = make(tmp_path / "runs", trials=1)
    made.slots.claim(Owner(host="elsewhere", pid=1, started=0.0))
    with made.slots.engine.begin() as connection:
        connection.exec_driver_sql("update hpo_leases set renewed = renewed + 7200")
    assert made.slots.leases()[0].silent_s < -7000

    assert reap(made.slots).released == ()

    (lease,) = made.slots.leases()
    assert 0 <= lease.silent_s < 60
