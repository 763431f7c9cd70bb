"""One trial in this process: what it records and tells, and how it goes on after a death."""

import dataclasses
import json
import re
import shutil

import jsonschema
import numpy as np
import optuna
import pytest
import sqlalchemy
from click.testing import CliRunner
from optuna.trial import TrialState

from data_prep.dataset import Dataset
from data_prep.words.numbers import with_error
from hpo.cli import main
from hpo.emulator import choice, export
from hpo.emulator.outcome import scored
from hpo.execution import trial
from hpo.queue.leases import LeaseLost, Owner
from hpo.queue.slots import Slots
from hpo.records import scores
from hpo.records import table as runs
from hpo.records.folder import read
from hpo.records.record import NAME, json_schema
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.spec import parse
from hpo.study.status import Records, status_of
from hpo.study.study import create_study, trial_folder
from models.bundle.emulator import Emulator
from models.bundle.readme.card import Terms
from models.evaluation import nll
from models.evaluation.cells import held_out_of
from models.training import checkpoint, snapshots
from models.training.train import _Training

pytestmark = pytest.mark.slow


class Death(BaseException):
    """What a kill looks like from inside: nothing is told any more."""


HELD_OUT = [{"Z": 0.001, "alpha": 5.0}, {"Z": 0.01, "alpha": 0.5}]
REPORT = [{"Z": 0.001, "alpha": 1.0}]
KEPT_OUT = [*HELD_OUT, *REPORT]


@pytest.fixture
def setting(tmp_path, prepared):
    """A study of small flows on `prepared`, with a way to claim and run its trials."""
    return Setting(tmp_path, prepared)


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    """A study whose only trial ended, as `record`. Do not write into it."""
    return Setting(tmp_path_factory.mktemp("finished"), prepared).study(snapshots=3).run()


@pytest.fixture(scope="module")
def held_out(prepared, tmp_path_factory):
    """A study of two trials with cells of both kinds held out. Do not write into it."""
    setting = Setting(tmp_path_factory.mktemp("held-out"), prepared).study(HELD_OUT, REPORT)
    setting.slots.set_total(2)
    return setting.run()


class Setting:
    def __init__(self, runs, data):
        self.runs, self.data = runs, data

    def study(self, hold_out=(), report=(), **training):
        tables = {
            "study": {"name": "s"},
            "data": {
                "path": str(self.data),
                "hold_out_cells": list(hold_out),
                "report_cells": list(report),
            },
            "space": {"hidden": [8], "blocks": 2},
            "training": {"epochs": 4, "batch_size": 512} | training,
            "pruner": {"min_epochs": 1},
        }
        self.spec = parse(tables, source="test")
        storage = open_storage(url_of(f"sqlite:///{self.runs}/hpo.db", self.runs))
        self.optuna = create_study(storage, self.spec, runs=self.runs, fingerprint="f")
        self.optuna.pruner = optuna.pruners.NopPruner()
        self.slots = Slots(self.optuna, max_restarts=3)
        self.slots.set_total(1)
        return self

    def claim(self):
        claim = self.slots.claim(Owner.this_process())
        folder = trial_folder(self.runs, "s", claim.number)
        return trial.ClaimedTrial(
            study=self.optuna, spec=self.spec, claim=claim, slots=self.slots, folder=folder
        )

    def run(self):
        """Run all trials, and keep what is known of them."""
        self.records = []
        while self.slots.look().counts[TrialState.WAITING]:
            self.job = self.claim()
            self.records.append(trial.run(self.job))
        self.record = self.records[-1]
        return self

    def lose(self, job):
        """Make the trial claimable again; the old claim is void from then on."""
        self.slots.release(job.claim)


def test_a_trial_tells_what_it_records(finished):
    job, record = finished.job, finished.record

    told = finished.optuna.trials[0]
    assert record.state == "complete"
    assert told.state == TrialState.COMPLETE
    assert told.value == record.best_val_nll
    assert read(job.folder / NAME) == record
    assert record.cost.parameters > 0
    assert sum(record.data.rows.values()) == 6000
    assert record.training["seed"] == record.seeds["trial"]


def test_an_interrupted_trial_goes_on_as_if_nothing_had_been(finished, setting, monkeypatch):
    whole, other = finished.record, setting.study(snapshots=3)
    job = other.claim()
    die_after_epoch(monkeypatch, other, 2)
    with pytest.raises(Death):
        trial.run(job)
    monkeypatch.undo()
    before = read(job.folder / NAME).epochs
    assert [row.epoch for row in before] == [1, 2]
    other.lose(job)

    resumed = trial.run(other.claim())

    assert resumed.epochs[:2] == before  # with their seconds: they were not trained again
    assert [row.val_nll for row in resumed.epochs] == [row.val_nll for row in whole.epochs]
    assert resumed.test == whole.test
    assert resumed.started == read(job.folder / NAME).started
    assert kept(job.folder) == kept(finished.job.folder) == ["0000001", "0000002", "0000004"]
    values = {row.epoch: row.val_nll for row in whole.epochs}
    assert other.optuna.trials[0].intermediate_values == values


def kept(folder):
    """The rows whose weights the trial keeps on its way."""
    history = checkpoint.history_of(checkpoint.load(folder))
    return [one.path.stem for one in snapshots.kept(folder, history)]


def die_after_epoch(monkeypatch, setting, number):
    """The report of this epoch never arrives: its checkpoint and record are there already."""
    report = optuna.Trial.report

    def dying(self, value, step):
        if step == number:
            raise Death
        report(self, value, step)

    monkeypatch.setattr(optuna.Trial, "report", dying)


def test_a_trial_whose_end_was_recorded_but_not_told_is_told_without_training(setting, monkeypatch):
    job = setting.study().claim()

    def dying(*_args):
        raise Death

    monkeypatch.setattr(Slots, "finish", dying)
    with pytest.raises(Death):
        trial.run(job)
    monkeypatch.undo()
    setting.lose(job)
    monkeypatch.setattr(trial, "train", dying)

    record = trial.run(setting.claim())

    assert record.state == "complete"
    assert setting.optuna.trials[0].value == record.best_val_nll


def test_a_worker_that_lost_its_trial_writes_neither_its_record_nor_the_study(setting, monkeypatch):
    """It comes back to life, in the same folder, when another worker has finished the trial."""
    setting.study(snapshots=4)
    old, ended = setting.claim(), []
    report = optuna.Trial.report

    def overtaken(self, value, step):
        monkeypatch.setattr(optuna.Trial, "report", report)
        report(self, value, step)
        setting.lose(old)
        new = setting.claim()
        assert new.folder == old.folder
        ended.append(trial.run(new))

    monkeypatch.setattr(optuna.Trial, "report", overtaken)
    with pytest.raises(LeaseLost):
        trial.run(old)

    (record,) = ended
    assert (record.state, len(record.epochs)) == ("complete", 4)
    assert read(old.folder / NAME) == record
    told = setting.optuna.trials[0]
    assert (told.state, told.value) == (TrialState.COMPLETE, record.best_val_nll)
    assert told.intermediate_values == {row.epoch: row.val_nll for row in record.epochs}
    assert len(kept(old.folder)) == 4


def test_weights_that_come_too_late_take_no_place(setting, monkeypatch):
    """A worker is suspended within its second epoch, and another one completes the trial."""
    setting.study()
    old, ended = setting.claim(), []
    evaluate = _Training._evaluate

    def overtaken(training):
        if training.history:
            monkeypatch.setattr(_Training, "_evaluate", evaluate)
            setting.lose(old)
            ended.append(trial.run(setting.claim()))
        return evaluate(training)

    monkeypatch.setattr(_Training, "_evaluate", overtaken)
    with pytest.raises(LeaseLost):
        trial.run(old)

    (record,) = ended
    assert record.best_epoch > 2
    assert read(old.folder / NAME) == record
    assert setting.optuna.trials[0].value == record.best_val_nll
    flow = checkpoint.best_flow(old.folder)
    assert nll.nll(flow, setting.data, "val").mean == pytest.approx(record.best_val_nll, rel=1e-6)
    assert {path.name for path in old.folder.iterdir()} == {
        "run.json",
        "checkpoint.safetensors",
        "checkpoint.json",
        "log.txt",
    }


def test_a_pruned_trial_says_when_and_keeps_its_last_value(setting, monkeypatch):
    setting.study(snapshots=4)
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda self: True)
    job = setting.claim()

    record = trial.run(job)

    told = setting.optuna.trials[0]
    assert (record.state, len(record.epochs)) == ("pruned", 1)
    assert record.reason.startswith("at epoch 1: ")
    assert told.state == TrialState.PRUNED
    assert told.value == record.epochs[0].val_nll
    assert record.test is None
    assert kept(job.folder) == ["0000001"]


def test_a_trial_that_goes_wrong_fails_with_its_reason(setting, monkeypatch):
    setting.study()

    def broken(*_args, **_kwargs):
        raise RuntimeError("the disk is full\nand more")

    monkeypatch.setattr(trial, "train", broken)
    job = setting.claim()

    record = trial.run(job)

    assert (record.state, record.reason) == ("failed", "RuntimeError: the disk is full")
    assert setting.optuna.trials[0].state == TrialState.FAIL
    assert "Traceback" in (job.folder / "log.txt").read_text()


@pytest.mark.parametrize(
    "fault",
    [
        sqlalchemy.exc.OperationalError("UPDATE", {}, Exception("server closed the connection")),
        optuna.exceptions.StorageInternalError("away"),
        OSError(28, "No space left on device"),
    ],
    ids=["database", "storage", "disk"],
)
def test_a_fault_of_the_surroundings_is_not_the_trials(setting, monkeypatch, fault):
    job = setting.study().claim()
    report = optuna.Trial.report

    def broken(self, value, step):
        if step == 2:
            raise fault
        report(self, value, step)

    monkeypatch.setattr(optuna.Trial, "report", broken)
    with pytest.raises(type(fault)):
        trial.run(job)
    monkeypatch.undo()
    assert setting.optuna.trials[0].state == TrialState.RUNNING
    setting.lose(job)

    assert trial.run(setting.claim()).state == "complete"


def test_a_trial_that_cannot_even_begin_fails_with_its_reason(tmp_path, prepared):
    setting = Setting(tmp_path, shutil.copytree(prepared, tmp_path / "data"))
    job = setting.study().claim()
    (tmp_path / "data" / "dataset.json").unlink()

    record = trial.run(job)

    assert record.state == "failed"
    assert "DataError" in record.reason
    assert read(job.folder / NAME) == record


def test_a_trial_stopped_early_is_a_result_and_says_why(setting):
    job = setting.study(epochs=30, min_rate=0.5).claim()

    record = trial.run(job)

    assert record.state == "stopped_early"
    assert len(record.epochs) < 30
    assert record.reason
    assert setting.optuna.trials[0].state == TrialState.COMPLETE


def test_a_damaged_record_does_not_stop_the_trial(setting):
    job = setting.study().claim()
    job.folder.mkdir(parents=True)
    (job.folder / NAME).write_text('{"schema": 1, "stu')

    assert trial.run(job).state == "complete"


# ---- held-out cells


def test_a_trial_tells_how_well_it_does_in_the_cells_held_out(held_out):
    setting, job, record = held_out, held_out.job, held_out.record

    flow = checkpoint.best_flow(job.folder)
    others = nll.nll(flow, setting.data, "test", without=KEPT_OUT)
    assert (record.test.nll, record.test.rows) == (others.mean, others.rows)
    val = nll.nll(flow, setting.data, "val", without=KEPT_OUT)
    assert record.best_val_nll == pytest.approx(val.mean, rel=1e-6)
    assert record.best_val_error == val.error > 0
    for found, cells in ((record.held_out, HELD_OUT), (record.report, REPORT)):
        there = nll.nll(flow, setting.data, "test", only=cells)
        assert (found.nll, found.error) == (there.mean, there.error)
        assert [cell.conditions for cell in found.cells] == cells
        assert sum(cell.rows for cell in found.cells) == found.rows
        assert found.worst == max(found.cells, key=lambda cell: cell.nll)
    unseen = record.held_out.rows + record.report.rows
    assert record.test.rows + unseen == record.data.rows["test"]
    assert list(record.data.hold_out_cells) == HELD_OUT
    assert list(record.data.report_cells) == REPORT
    stored = checkpoint.load(job.folder).state
    assert (stored["hold_out"], stored["report"]) == (HELD_OUT, REPORT)
    assert all(row.held_out_nll is not None for row in record.epochs)
    assert read(job.folder / NAME) == record
    jsonschema.validate(json.loads((job.folder / NAME).read_text()), json_schema())


def test_the_worst_cell_is_the_one_with_the_highest_nll_of_those_with_rows(held_out, monkeypatch):
    nlls = {0.1: None, 0.2: nll.Nll(5.0, 0.1, 9, 9.0), 0.3: nll.Nll(np.inf, np.nan, 9, 9.0)}
    record, flow = held_out.record, checkpoint.best_flow(held_out.job.folder)

    def worst(*cells):
        told = [nll.CellNll({"Z": Z}, nlls[Z]) for Z in cells]
        monkeypatch.setattr(scores, "cell_nlls", lambda *_: told)
        found = scores.scored(record, flow, held_out.data).report.worst
        return found and found.conditions["Z"]

    assert worst(0.1) is None
    assert worst(0.1, 0.2) == 0.2
    assert worst(0.2, 0.3) == worst(0.3, 0.2) == 0.3


def test_a_trial_without_held_out_cells_says_nothing_of_them(finished):
    record = finished.record

    (row,) = runs.rows(finished.runs)
    assert record.held_out is record.best_held_out_nll is record.report is None
    assert not [name for name in row if re.search("held_out|hold_out|report", name)]


@pytest.mark.parametrize("objective", ["val_nll", "held_out_nll"])
def test_the_objective_is_what_optuna_is_told_and_what_ranks(setting, objective):
    job = setting.study(HELD_OUT, objective=objective).claim()

    record = trial.run(job)

    told = setting.optuna.trials[0]
    values = {row.epoch: getattr(row, objective) for row in record.epochs}
    assert told.intermediate_values == values
    assert told.value == record.best_objective == min(values.values())
    best = record.epochs[record.best_epoch - 1]
    assert getattr(best, objective) == told.value
    assert (record.best_val_nll, record.best_held_out_nll) == (best.val_nll, best.held_out_nll)

    records = Records(setting.runs / "s")
    seen = status_of(setting.optuna, setting.spec, setting.slots.look(), records)
    assert seen.best_objective == told.value
    assert seen.best_val_nll == record.best_val_nll


def test_the_held_out_nll_reaches_the_listing_and_the_emulator(held_out, tmp_path):
    record, row = held_out.record, runs.rows(held_out.runs)[-1]
    assert (row["held_out_nll"], row["test_nll"]) == (record.held_out.nll, record.test.nll)
    assert row["hold_out_cells"] == "Z = 0.001, alpha = 5; Z = 0.01, alpha = 0.5"
    assert row["report_cells"] == "Z = 0.001, alpha = 1"
    assert (row["report_nll"], row["report_error"]) == (record.report.nll, record.report.error)
    assert row["held_out_worst"] == max(cell.nll for cell in record.held_out.cells)
    assert row["report_worst"] == record.report.worst.nll
    assert {"held_out_nll", "report_nll", "report_worst"} <= {*runs.usual([row])}

    words = ["export", "s", "--out", tmp_path / "emulator", "--trial", record.trial]
    done = CliRunner().invoke(main, [*map(str, words), "--runs", str(held_out.runs)])
    number = with_error(record.report.nll, record.report.error)
    said = f", NLL in cells that neither trained nor chose it {number} "
    assert said in done.stdout
    assert "held-out NLL" not in done.stdout
    emulator = Emulator.load(tmp_path / "emulator")
    assert emulator.card["metrics"]["held_out_nll"] == record.held_out.nll
    assert len(emulator.card["metrics"]["held_out_cells"]) == 2
    assert emulator.card["metrics"]["report_nll"] == record.report.nll
    assert held_out_of(emulator.card) == KEPT_OUT
    readme = (tmp_path / "emulator" / "README.md").read_text()
    score = f"{record.held_out.nll:.3f}"[:4]
    assert f"| NLL, test, in cells that it was not trained on | {score}" in readme
    score = f"{record.report.nll:.3f}"[:4]
    assert f"| NLL, test, in cells that neither trained nor chose it | {score}" in readme
    assert f"| NLL, the worst of these: Z = 0.001, alpha = 1 | {score}" in readme
    assert "quote that of the cells that neither trained nor chose it" in readme
    marked = r"^\| (?:0.001 \| 5|0.01 \| 0.5|0.001 \| 1) \| [\d,]+ \* \|"
    assert len(re.findall(marked, readme, re.M)) == 3
    assert readme.count(" * |") == 3


def test_an_export_says_where_it_comes_from_and_the_same_each_time(finished, tmp_path):
    setting, record = finished, finished.record
    terms = Terms(license="CC-BY-4.0", citation=("Maker 2026",))

    for name in ("one", "two"):
        export.write(choice.best(setting.optuna, setting.runs / "s"), tmp_path / name, terms)

    one, two = ((tmp_path / n / "emulator.json").read_text() for n in ("one", "two"))
    assert one == two
    card = json.loads(one)
    dataset = Dataset.read(setting.data)
    assert card["license"] == "CC-BY-4.0"
    assert "authors" not in card
    data = card["provenance"]["data"]
    assert (data["cells"], data["command"]) == (len(dataset.cells), dataset.command)
    assert data["sources"][0]["sha256"] == dataset.sources[0]["sha256"]
    assert data["grid"]["alpha"] == [0.5, 1.0, 5.0]
    training = card["provenance"]["training"]
    assert training["epochs_run"] == len(record.epochs)
    assert training["learning_rate"] == record.training["learning_rate"]
    assert len(card["metrics"]["cells"]) == 9


def test_an_export_without_its_data_leaves_out_the_cells(tmp_path, prepared):
    copy = shutil.copytree(prepared, tmp_path / "data")
    setting = Setting(tmp_path, copy)
    record = trial.run(setting.study().claim())
    dataclasses.replace(Dataset.read(copy), fingerprint="other").write(copy)

    export.write(choice.best(setting.optuna, setting.runs / "s"), tmp_path / "emulator")

    emulator = Emulator.load(tmp_path / "emulator")
    card, readme = emulator.card, (tmp_path / "emulator" / "README.md").read_text()
    assert card["metrics"]["test_nll"] == record.test.nll
    assert "cells" not in card["metrics"]
    assert "data" not in card["provenance"]
    assert "not there any more" in readme
    assert emulator.reliability is None
    assert "nobody knows for how many events" in readme


def test_the_best_are_mixed_and_scored_together(held_out, tmp_path):
    setting, records = held_out, held_out.records

    exported = export.write(
        choice.best(setting.optuna, setting.runs / "s", count=2), tmp_path / "both"
    )

    assert [one.best_val_nll for one in exported] == sorted(one.best_val_nll for one in records)
    emulator = Emulator.load(tmp_path / "both")
    metrics = emulator.card["metrics"]
    told = nll.nll(emulator.module, setting.data, "test", without=KEPT_OUT)
    assert metrics["test_nll"] == pytest.approx(told.mean, rel=1e-9)
    # The mean of densities scores no worse than the mean of scores (Jensen).
    assert metrics["test_nll"] <= np.mean([one.test.nll for one in records])
    there = nll.nll(emulator.module, setting.data, "test", only=HELD_OUT)
    assert metrics["held_out_nll"] == pytest.approx(there.mean, rel=1e-9)
    there = nll.nll(emulator.module, setting.data, "test", only=REPORT)
    assert metrics["report_nll"] == pytest.approx(there.mean, rel=1e-9)
    number = with_error(metrics["report_nll"], metrics["report_nll_error"])
    said = f", NLL in cells that neither trained nor chose it {number} "
    assert said in scored(tmp_path / "both")
    assert metrics["held_out_cells"][0].keys() == {
        *("conditions", "nll", "error", "rows", "effective_rows")
    }
    marked = [each["conditions"] for each in metrics["cells"] if each["held_out"]]
    assert marked == sorted(held_out_of(emulator.card), key=lambda cell: tuple(cell.values()))
    assert emulator.card["provenance"]["trials"] == [one.trial for one in exported]
    with pytest.raises(choice.ExportError, match="2 trials that ended well, too few"):
        choice.best(setting.optuna, setting.runs / "s", count=3)


def test_a_trial_held_out_goes_on_as_if_nothing_had_been(setting, monkeypatch):
    whole = trial.run(setting.study(HELD_OUT, REPORT, objective="held_out_nll").claim())
    other = Setting(setting.runs / "other", setting.data)
    job = other.study(HELD_OUT, REPORT, objective="held_out_nll").claim()
    die_after_epoch(monkeypatch, other, 2)
    with pytest.raises(Death):
        trial.run(job)
    monkeypatch.undo()
    other.lose(job)

    resumed = trial.run(other.claim())

    assert [row.held_out_nll for row in resumed.epochs] == [r.held_out_nll for r in whole.epochs]
    for name in ("test", "held_out", "report"):
        assert getattr(resumed, name) == getattr(whole, name) is not None
    values = {row.epoch: row.held_out_nll for row in whole.epochs}
    assert other.optuna.trials[0].intermediate_values == values


def test_a_trial_on_weighted_rows_says_so_in_its_record_and_in_its_emulator(weighted, tmp_path):
    setting = Setting(tmp_path, weighted).study()
    record, dataset = setting.run().record, Dataset.read(weighted)

    assert record.data.weights == "weight"
    assert record.data.effective_rows == {part: dataset.effective(part) for part in dataset.rows}
    assert record.test.effective_rows == pytest.approx(dataset.effective("test"), rel=1e-5)
    written = trial_folder(tmp_path, "s", 0) / NAME
    jsonschema.validate(json.loads(written.read_text()), json_schema())
    export.write(choice.best(setting.optuna, tmp_path / "s"), tmp_path / "emulator")
    emulator = Emulator.load(tmp_path / "emulator")
    assert emulator.card["provenance"]["data_weights"] == "weight"
    cells = emulator.card["metrics"]["cells"]
    assert cells[0]["effective_rows"]["train"] < 0.7 * cells[0]["rows"]["train"]
    text = (tmp_path / "emulator" / "README.md").read_text()
    assert "rows are weighted by `weight`" in text
