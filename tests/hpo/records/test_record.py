"""Records of runs, as they are written and read."""

import dataclasses
import json
import math
import os
import shutil
import threading
from pathlib import Path

import jsonschema
import pytest

from hpo.records import record
from hpo.records.folder import read, read_all
from hpo.records.record import (
    Cost,
    DataUsed,
    Environment,
    EpochRow,
    RecordError,
    RunRecord,
    TestNll,
    json_schema,
)
from tests.hpo.records.test_thesis import thesis_run

OLD = Path(__file__).parents[2] / "data" / "run-schema-1.json"
PUBLISHED = Path(record.__file__).with_name("run.schema.json")


def epoch(number, val_nll=4.5):
    return EpochRow(
        epoch=number,
        train_nll=val_nll - 0.1,
        val_nll=val_nll,
        learning_rate=2e-3,
        seconds=1.5,
        samples_per_second=31_485.0,
        loss_rate=None if number == 1 else 0.01,
    )


def run(**changes):
    whole = RunRecord(
        study="bbh",
        trial=17,
        state="stopped_early",
        reason="no better validation NLL for 15 epochs",
        params={"blocks": 6, "activation": "relu", "learning_rate": 2e-3, "batch_norm": False},
        flow={"kind": "affine", "blocks": 6, "hidden": 64, "depth": 2, "activation": "relu"},
        training={"epochs": 40, "batch_size": 1024, "learning_rate": 2e-3, "max_minutes": None},
        pruner={"kind": "hyperband", "min_epochs": 2},
        data=DataUsed(
            path="prepared", fingerprint="ab" * 32, rows={"train": 60, "val": 20, "test": 20}
        ),
        seeds={"trial": 123456789},
        environment=Environment(
            versions={"python": "3.11.7", "torch": "2.7.0"},
            device="cpu",
            host="node07",
            threads=2,
            slurm_job_id="4711_3",
            git_commit="0" * 40,
        ),
        epochs=(epoch(1, 5.0), epoch(2, 4.5), epoch(3, 4.6)),
        best_epoch=2,
        best_val_nll=4.5,
        test=TestNll(nll=4.52, error=0.01, rows=20),
        restarts=1,
        cost=Cost(parameters=25_000, flops_per_event=48_000, seconds=4.5),
        started="2026-05-01T12:00:00+00:00",
        updated="2026-05-01T12:00:05+00:00",
    )
    return dataclasses.replace(whole, **changes)


def strict(schema):
    """The schema with no key allowed that it does not name: what we write must pass this too."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(each) for name, each in schema.items()}
    return {**closed, "additionalProperties": False} if "properties" in schema else closed


def test_a_record_reads_back_as_it_was_written(tmp_path):
    assert read(run().write(tmp_path / "bbh" / "trial-00017")) == run()


def test_a_run_that_has_only_begun_reads_back_too(tmp_path):
    fresh = run(state="running", reason=None, epochs=(), best_epoch=None, best_val_nll=None)

    assert read(fresh.write(tmp_path)) == fresh


def test_a_record_of_schema_1_still_loads(tmp_path):
    path = shutil.copy(OLD, tmp_path / "run.json")

    old = read(path)

    assert (old.study, old.trial, old.state, len(old.epochs)) == ("bbh", 17, "stopped_early", 3)
    assert old.test == TestNll(nll=4.52, error=0.01, rows=20)


def test_the_published_schema_is_the_dataclasses_own():
    assert json.loads(PUBLISHED.read_text()) == json_schema(), (
        "run `python -m hpo.records.record > hpo/records/run.schema.json`"
    )


def test_what_we_write_passes_the_published_schema_with_no_key_to_spare(tmp_path):
    schema = json.loads(PUBLISHED.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)

    for each in [run(), run(test=None, epochs=(), best_epoch=None, best_val_nll=None)]:
        written = json.loads(each.write(tmp_path).read_text())
        jsonschema.validate(written, strict(schema))


def test_the_schema_refuses_a_state_that_does_not_exist(tmp_path):
    written = json.loads(run().write(tmp_path).read_text())

    with pytest.raises(jsonschema.ValidationError, match="stopped_early"):
        jsonschema.validate({**written, "state": "done"}, json_schema())


def test_the_schema_tells_what_each_field_means():
    described = json_schema()["$defs"]["EpochRow"]["properties"]["val_nll"]["description"]

    assert described.startswith("NLL of the whole validation split")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        pytest.param({"best_val_nll": math.nan}, "best_val_nll is nan", id="nan"),
        pytest.param({"params": {"lr": math.inf}}, "params.lr is inf", id="infinity in a dict"),
        pytest.param({"epochs": (epoch(1), epoch(2, -math.inf))}, r"epochs\[1\]", id="epoch"),
        pytest.param({"flow": {"mask": {1, 2}}}, "set is not JSON", id="not JSON"),
    ],
)
def test_what_is_not_json_is_refused_and_the_old_file_stays(tmp_path, changes, place):
    run().write(tmp_path)

    with pytest.raises(RecordError, match=place):
        run(**changes).write(tmp_path)

    assert read(tmp_path / "run.json") == run()
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_a_reader_never_meets_half_a_file(tmp_path):
    long = run(epochs=tuple(epoch(i + 1) for i in range(400)))
    path = run().write(tmp_path)
    done = threading.Event()
    met = set()

    def look():
        while not done.is_set():
            met.add(len(read(path).epochs))

    reader = threading.Thread(target=look)
    reader.start()
    for each in [long, run()] * 15:
        each.write(tmp_path)
    done.set()
    reader.join()

    assert met <= {3, 400}
    assert met


def test_a_write_that_fails_leaves_no_draft(tmp_path, monkeypatch):
    run().write(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        run(trial=18).write(tmp_path)

    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]
    assert read(tmp_path / "run.json").trial == 17


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(lambda text: text[:300], "is not JSON", id="truncated"),
        pytest.param(lambda text: "", "is not JSON", id="empty"),
        pytest.param(lambda text: "[1, 2]", "Input should be an object", id="a list"),
        pytest.param(lambda text: "[" * 100_000, "is not JSON", id="a deep nest"),
        pytest.param(
            lambda text: text.replace('"schema": 1', '"schema": 9'), "newer version", id="newer"
        ),
        pytest.param(
            lambda text: text.replace('"params"', '"parms"'), "params: Field required", id="typo"
        ),
        pytest.param(
            lambda text: text.replace('"trial": 17', '"trial": "17"'), "trial: ", id="a text"
        ),
        pytest.param(
            lambda text: text.replace("stopped_early", "done"), "state: .*'running'", id="state"
        ),
        pytest.param(
            lambda text: text.replace('"nll": 4.52', '"nll": NaN'), "finite number", id="NaN"
        ),
    ],
)
def test_a_broken_record_is_one_sentence_naming_the_file(tmp_path, edit, message):
    path = run().write(tmp_path)
    path.write_text(edit(path.read_text()))

    with pytest.raises(RecordError, match=message) as caught:
        read(path)

    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_key_of_a_later_version_is_passed_over(tmp_path):
    path = run().write(tmp_path)
    later = json.loads(path.read_text())
    later["gpu_hours"] = 3.5
    later["cost"]["joules"] = 1e6
    path.write_text(json.dumps(later))

    assert read(path) == run()


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    path = run().write(tmp_path)

    with pytest.raises(RecordError, match=r"bytes, over the limit of 10"):
        record.contents(path, largest=10)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.json")

    with pytest.raises(RecordError, match="not a plain file"):
        read(tmp_path / "run.json")


def test_an_epoch_row_takes_over_an_epoch_and_nulls_what_is_not_finite():
    class Epoch:
        epoch, train_nll, val_nll, learning_rate = 1, 5.0, 4.9, 1e-3
        seconds, samples_per_second, loss_rate, held_out_nll = 2.0, 1e4, math.nan, None

    row = EpochRow.of(Epoch())

    assert (row.val_nll, row.samples_per_second, row.loss_rate) == (4.9, 1e4, None)


def test_all_layouts_are_found_and_a_broken_one_hides_no_other(tmp_path):
    run(trial=0).write(tmp_path)
    run(trial=1).write(tmp_path / "trial-00001")
    run(trial=2).write(tmp_path / "bbh" / "trial-00002")
    broken = run(trial=3).write(tmp_path / "bbh" / "trial-00003")
    broken.write_text("{")
    thesis_run(tmp_path)
    run(trial=9).write(tmp_path / "bbh" / "archive" / "trial-00009")

    found = dict(read_all(tmp_path))

    numbers = [each.trial for each in found.values() if isinstance(each, RunRecord)]
    assert sorted(numbers) == [0, 0, 1, 2]
    assert isinstance(found[broken], RecordError)
    assert len(found) == 5


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    secret = run().write(tmp_path / "elsewhere")
    (tmp_path / "runs" / "trial-00001").mkdir(parents=True)
    (tmp_path / "runs" / "trial-00001" / "run.json").symlink_to(secret)
    (tmp_path / "runs" / "trial-00002").symlink_to(secret.parent)
    loop = tmp_path / "runs" / "loop.json"
    loop.symlink_to(loop)

    found = [each for _, each in read_all(tmp_path / "runs")]

    assert len(found) == 3
    assert all(isinstance(each, RecordError) for each in found)


def test_a_link_to_the_folder_itself_is_followed(tmp_path):
    run().write(tmp_path / "scratch" / "trial-00001")
    (tmp_path / "runs").symlink_to(tmp_path / "scratch")

    assert [each for _, each in read_all(tmp_path / "runs")] == [run()]


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(RecordError, match="is not a folder"):
        read_all(tmp_path / "nowhere")
