"""kill -9 before every change of a file: there is the old or the new, and the next run goes on.

A file that is opened to be written anew, or synced, is cut in half first: killed in mid-write.
"""

import json
import shutil

import optuna
import pytest
import torch

from data_prep.dataset import Dataset
from hpo.records.folder import read
from hpo.records.record import NAME
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from models.bundle.emulator import Emulator
from models.training import checkpoint
from tests.forks import content_of, spread

pytestmark = pytest.mark.slow

KILLED = -9


def test_a_dataset_is_there_whole_or_not_at_all(forks, source, tmp_path):
    words = ("prepare", source, "--out", "out")
    whole = forks.hpo(*words, cwd=tmp_path)
    assert whole.code == 0, whole.said
    wanted = content_of(tmp_path / "out")
    moments = []

    for number in range(len(whole.events)):
        shutil.rmtree(tmp_path / "out")
        assert forks.hpo(*words, cwd=tmp_path, kill_before=number).code == KILLED
        moments.append((tmp_path / "out").exists())
        if moments[-1]:
            assert content_of(tmp_path / "out") == wanted
            Dataset.read(tmp_path / "out")
            continue
        again = forks.hpo(*words, cwd=tmp_path)
        assert again.code == 0, again.said
        assert content_of(tmp_path / "out") == wanted
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    assert len(moments) > 20
    assert moments.index(True) == sum(not there for there in moments)


def test_a_new_emulator_takes_the_place_of_the_old_one_whole(forks, ran, tmp_path):
    def export(trial, **options):
        words = ("export", "s", "--out", "emulator", "--runs", ran, "--trial", trial, "--overwrite")
        return forks.hpo(*words, cwd=tmp_path, **options)

    assert export(0).code == 0
    bundles = [content_of(tmp_path / "emulator")]
    events = export(1).events
    bundles.append(content_of(tmp_path / "emulator"))
    assert bundles[0] != bundles[1]
    kinds = [kind for kind, _ in events]
    swap = kinds.index("exchange")
    old, replaced = 1, []

    # From one kill to the next nothing is tidied up: each is the run after the last.
    for number in sorted({*spread(swap, 2), swap, swap + 1, swap + 2, len(events) - 1}):
        new = 1 - old
        assert export(new, kill_before=number).code == KILLED
        found = content_of(tmp_path / "emulator")
        assert found in bundles
        assert Emulator.load(tmp_path / "emulator").card["provenance"]["trial"] in (0, 1)
        if found == bundles[new]:
            old = new
            replaced.append(number)

    assert min(replaced) == swap + 1
    assert export(1 - old).code == 0
    assert content_of(tmp_path / "emulator") == bundles[1 - old]
    assert [path.name for path in tmp_path.iterdir()] == ["emulator"]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("plot likelihood EMULATOR --Z 0.001 --alpha 1 --out OUT.png", id="picture"),
        pytest.param("sample EMULATOR -n 9 --seed 1 --Z 0.001 --alpha 1 --out OUT.csv", id="csv"),
        pytest.param(
            "sample EMULATOR -n 9 --seed 1 --Z 0.001 --alpha 1 --out OUT.parquet", id="parquet"
        ),
    ],
)
def test_a_file_is_the_old_or_the_new(forks, emulator, tmp_path, words):
    words = words.replace("EMULATOR", str(emulator)).replace("OUT", "out").split()
    out = tmp_path / words[-1]
    done = forks.hpo(*words, cwd=tmp_path)
    assert done.code == 0, done.said
    new = out.read_bytes()
    seen = set()

    for number in range(len(done.events)):
        out.write_bytes(b"old")
        assert forks.hpo(*words, cwd=tmp_path, kill_before=number).code == KILLED
        seen.add(out.read_bytes())

    assert seen == {b"old", new}
    assert forks.hpo(*words, cwd=tmp_path).code == 0
    assert out.read_bytes() == new
    assert list(tmp_path.iterdir()) == [out]


FILES = ["checkpoint.json", "checkpoint.safetensors", "log.txt", "run.json"]


def losses(rows):
    return [(row.train_nll, row.val_nll) for row in rows]


def test_a_trial_goes_on_from_every_moment_as_if_nothing_had_been(forks, make, tmp_path):
    runs, fresh = tmp_path / "runs", tmp_path / "fresh"
    folder = make(runs, trials=1).folder / "trial-00000"
    shutil.copytree(runs, fresh)
    whole = forks.work("s", runs, cwd=tmp_path, watch=folder)
    assert whole.code == 0, whole.said
    record, best = read(folder / NAME), checkpoint.best_flow(folder).state_dict()
    stands = set()

    for number in spread(len(whole.events), 16):
        shutil.rmtree(runs)
        shutil.copytree(fresh, runs)
        killed = forks.work("s", runs, cwd=tmp_path, watch=folder, kill_before=number)
        assert killed.code == KILLED
        stands.add(stand_of(folder, record))

        again = forks.work("s", runs, cwd=tmp_path)
        assert again.code == 0, again.said
        assert sorted(path.name for path in folder.iterdir()) == FILES
        done = read(folder / NAME)
        assert done.state == "complete"
        assert losses(done.epochs) == losses(record.epochs)
        assert (done.best_val_nll, done.test) == (record.best_val_nll, record.test)
        weights = checkpoint.best_flow(folder).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in best.items())
        storage = open_storage(url_of(None, runs), reading=True)
        (trial,) = optuna.load_study(study_name="s", storage=storage).trials
        storage.engine.dispose()
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert trial.value == record.best_val_nll
        assert checkpoint.load(folder).state["trimmed"]

    assert {epochs for epochs, _ in stands} == {0, 1, 2}
    assert {state for _, state in stands} == {None, "running", "complete"}


def test_a_run_that_was_killed_while_it_streamed_is_repeated_bit_for_bit(forks, make, tmp_path):
    """From files alone, which it is repeated from memory with."""
    runs = tmp_path / "runs"
    folder = make(runs, trials=1, epochs=3, memory_mb=0).folder / "trial-00000"
    events = forks.work("s", runs, cwd=tmp_path, watch=folder).events
    shutil.rmtree(runs)
    make(runs, trials=1, epochs=3, memory_mb=0)
    killed = forks.work("s", runs, cwd=tmp_path, watch=folder, kill_before=len(events) // 2)
    assert killed.code == KILLED
    assert forks.work("s", runs, cwd=tmp_path).code == 0
    stored = json.loads((folder / NAME).read_text())
    assert (stored["state"], stored["restarts"]) == ("complete", 1)
    assert stored["training"]["memory_mb"] == 0
    stored["training"]["memory_mb"] = 512
    (folder / NAME).write_text(json.dumps(stored))

    again = forks.hpo("rerun", folder / NAME, "--out", "again", cwd=tmp_path)

    assert again.code == 0, again.said
    assert "the same: every NLL and every weight, bit for bit" in again.said


def stand_of(folder, whole):
    """Epochs in the checkpoint and state of the record that a kill left, each whole."""
    saved = checkpoint.load(folder)
    rows = saved.state["history"] if saved else []
    assert [(row["train_nll"], row["val_nll"]) for row in rows] == losses(whole.epochs[: len(rows)])
    if not (folder / NAME).exists():
        return len(rows), None
    record = read(folder / NAME)
    assert losses(record.epochs) == losses(whole.epochs[: len(record.epochs)])
    assert 0 <= len(rows) - len(record.epochs) <= 1
    return len(rows), record.state
