"""A run repeated from its record: the same bit for bit, and what is said where it is not."""

import dataclasses
import json
import re
import shutil

import pytest
from click.testing import CliRunner

from hpo.cli import main
from hpo.execution import trial
from hpo.queue.leases import Owner
from hpo.queue.slots import Slots
from hpo.records import rerun as again
from hpo.records import weights
from hpo.records.folder import read
from hpo.records.record import NAME
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.spec import parse
from hpo.study.study import create_study, trial_folder
from models.training import checkpoint

pytestmark = pytest.mark.slow

HELD_OUT, REPORT = ({"Z": 0.001, "alpha": alpha} for alpha in (5.0, 1.0))


@pytest.fixture(scope="module", autouse=True)
def no_storage():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HPO_STORAGE", raising=False)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, prepared, no_storage):
    return run_trial(tmp_path_factory.mktemp("rerun") / "runs", prepared)


@pytest.fixture
def finished(trained, tmp_path):
    """Folder of a trial that was trained to its end."""
    return shutil.copytree(trained, tmp_path / "runs" / "s" / trained.name)


def run_trial(runs, data, prune_at=None):
    tables = {
        "study": {"name": "s"},
        "data": {"path": str(data), "hold_out_cells": [HELD_OUT], "report_cells": [REPORT]},
        "space": {"hidden": [8], "blocks": 1},
        "training": {"epochs": 4, "batch_size": 512, "max_minutes": 30.0},
        "pruner": {"min_epochs": 1},
    }
    spec = parse(tables, source="test")
    runs.mkdir()
    study = create_study(open_storage(url_of(None, runs)), spec, runs=runs, fingerprint="f")
    study.pruner = PruneAt(prune_at)
    slots = Slots(study, max_restarts=3)
    slots.set_total(1)
    claim = slots.claim(Owner.this_process())
    folder = trial_folder(runs, "s", claim.number)
    trial.run(trial.ClaimedTrial(study=study, spec=spec, claim=claim, slots=slots, folder=folder))
    return folder


class PruneAt:
    def __init__(self, epoch):
        self.epoch = epoch

    def prune(self, study, frozen):
        return frozen.last_step == self.epoch


def test_a_run_is_repeated_bit_for_bit(finished, tmp_path):
    done = again.rerun(finished / NAME, tmp_path / "again")

    then, now = read(finished / NAME), read(tmp_path / "again" / NAME)
    assert done.verdict == "the same: every NLL and every weight, bit for bit"
    assert [row.val_nll for row in now.epochs] == [row.val_nll for row in then.epochs]
    assert (now.test, now.params, now.flow) == (then.test, then.params, then.flow)
    assert (now.held_out, now.report) == (then.held_out, then.report)
    assert now.report is not None


def test_a_pruned_run_is_repeated_as_far_as_it_came(tmp_path, prepared):
    folder = run_trial(tmp_path / "runs", prepared, prune_at=2)

    done = again.rerun(folder / NAME, tmp_path / "again")

    assert read(folder / NAME).state == "pruned"
    assert len(done.record.epochs) == 2
    assert done.verdict.startswith("the same: every NLL and every weight")


def test_a_run_of_another_seed_is_told_apart(finished, tmp_path):
    changed(finished, lambda stored: stored["training"].update(seed=12345))

    done = again.rerun(finished / NAME, tmp_path / "again")

    assert done.verdict.startswith("differs from epoch 1 on, by up to ")


@pytest.mark.parametrize("digest", [True, False], ids=["digest", "older"])
def test_weights_of_another_run_are_refused_before_any_training(finished, tmp_path, digest):
    path = finished / checkpoint.FILE
    stored = checkpoint.load(finished)
    if not digest:
        changed(finished, lambda stored: stored.pop("weights"))
        assert weights.flow_of(read(finished / NAME), finished)
        stored.state["history"] = stored.state["history"][:2]
    moved = {name: tensor + 1 for name, tensor in stored.tensors.items()}
    checkpoint.save(finished, dataclasses.replace(stored, tensors=moved))

    with pytest.raises(weights.WeightsError) as refused:
        again.rerun(finished / NAME, tmp_path / "again")

    assert not (tmp_path / "again").exists()
    remedy = re.search(r"`hpo (rerun .*) --out FOLDER`", str(refused.value))[1].split()
    path.rename(tmp_path / "away")
    found = CliRunner().invoke(main, [*remedy, "--out", str(tmp_path / "again")])
    assert (found.exit_code, "the same: the NLLs" in found.output) == (0, True)


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_checkpoint_may_be_ahead_of_a_record_that_a_worker_left(finished, tmp_path, state):
    def edit(stored):
        stored.update(state=state, epochs=stored["epochs"][:2], weights="0" * 64)

    changed(finished, edit)

    done = again.rerun(finished / NAME, tmp_path / "again")

    assert "no checkpoint to compare weights" in done.verdict
    assert done.record.weights == checkpoint.digest(checkpoint.load(tmp_path / "again"))


def test_what_differs_of_the_surroundings_is_named(finished, tmp_path):
    def edit(stored):
        stored["epochs"][2]["val_nll"] += 0.25
        stored["environment"]["versions"]["torch"] = "2.5.0"

    changed(finished, edit)

    done = again.rerun(finished / NAME, tmp_path / "again")

    assert done.verdict.startswith("differs from epoch 3 on, by up to 0.25 nats per event")
    assert 'torch "2.5.0" -> ' in done.verdict


def test_other_data_is_refused(finished, tmp_path, prepared):
    changed(finished, lambda stored: stored["data"].update(fingerprint="0" * 64))

    found = CliRunner().invoke(main, ["rerun", str(finished / NAME)])

    assert found.exit_code == 2
    assert "the fingerprints differ): give --data" in found.output.replace("\n", " ")


def test_data_that_is_gone_is_asked_for(finished, tmp_path):
    changed(finished, lambda stored: stored["data"].update(path=str(tmp_path / "gone")))

    with pytest.raises(again.RerunError, match="is not here: give --data"):
        again.rerun(finished / NAME, tmp_path / "again")


def test_a_run_without_epochs_is_refused(finished, tmp_path):
    changed(finished, lambda stored: stored.update(epochs=[], state="running"))

    with pytest.raises(again.RerunError, match="has no epoch .it is running."):
        again.rerun(finished / NAME, tmp_path / "again")


def test_a_folder_that_holds_something_is_kept(finished, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.tex").write_text("x")

    with pytest.raises(again.RerunError, match="holds something"):
        again.rerun(finished / NAME, tmp_path / "kept")

    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["thesis.tex"]


def test_the_command_prints_both_runs_and_the_verdict(finished):
    found = CliRunner().invoke(main, ["rerun", str(finished / NAME), "--format", "json"])

    assert found.exit_code == 0, found.output
    rows = {row["measure"]: row for row in json.loads(found.stdout)}
    assert rows["test NLL"]["difference"] == 0
    assert rows["epochs"]["then"] == rows["epochs"]["now"] == 4
    assert "bit for bit" in found.stderr


def changed(folder, edit):
    """Change the record on disk."""
    stored = json.loads((folder / NAME).read_text())
    edit(stored)
    (folder / NAME).write_text(json.dumps(stored))
