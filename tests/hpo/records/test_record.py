import dataclasses
import json
import math
import os
import shutil
import threading
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from hpo.records import record, thesis
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

OLD = Path(__file__).parents[2] / "data" / "run-schema-1.json"
THESIS = Path(__file__).parents[4] / "shared" / "data" / "thesis_runs"
PUBLISHED = Path(record.__file__).with_name("run.schema.json")

needs_thesis = pytest.mark.skipif(not THESIS.is_dir(), reason="the thesis's runs are not here")


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


def thesis_run(folder, label="blocks_10_A_tanh", running=(6.0, 5.5, 5.0), **changes):
    """A small imitation of what the thesis's code saved."""
    saved = {
        "epochs": len(running) - 1,
        "training_file": "/home/someone/data/BHBHm_train.pq",
        "A": "tanh",
        "blocks": 10,
        "hidden": 128,
        "device": "cuda",
        "label": label,
        "early_stop": True,
        "batch_size": 40000,
        "d_score_rate": np.diff(running).tolist(),
        "epoch_time": [2.0 * (i + 1) for i in range(len(running))],
        "best_loss": np.nanmin(running).item(),
        "stopped_early": True,
        "runtime": 2.0 * len(running) + 0.1,
        **changes,
    }
    path = folder / f"{label}.json"
    path.write_text(json.dumps({name: each for name, each in saved.items() if each is not None}))
    np.savez(
        folder / f"{label}_loss.npz",
        train_loss=np.asarray(running, np.float32) - 0.25,
        valid_loss=np.asarray(running),
        config=np.array({"a": "pickle"}, dtype=object),
    )
    return path


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


def test_un_averaging_undoes_the_running_mean():
    own = np.random.default_rng(0).normal(5, 0.1, 50)
    running = np.cumsum(own) / np.arange(1, 51)

    np.testing.assert_allclose(thesis.each_epoch(running), own, rtol=1e-12)


def test_nothing_is_recovered_once_the_running_mean_is_lost():
    each = thesis.each_epoch(np.array([6.0, 5.0, np.inf, np.nan, 5.0, 5.0]))

    np.testing.assert_allclose(each[:2], [6.0, 4.0])
    # The sixth comes out: both of its running means are finite.
    assert np.isnan(each[2:5]).all()


def test_a_run_of_the_thesis_becomes_a_record_that_can_be_written(tmp_path):
    found = read(thesis_run(tmp_path, running=(6.0, 5.5, 5.0)))

    assert (found.study, found.state, found.best_epoch) == ("thesis", "stopped_early", 3)
    assert found.params == {"blocks": 10, "hidden": 128, "activation": "tanh"}
    assert [each.val_nll for each in found.epochs] == [6.0, 5.0, 4.0]
    assert [each.train_nll for each in found.epochs] == [5.75, 5.25, 4.75]
    assert [each.seconds for each in found.epochs] == [2.0, 2.0, 2.0]
    assert [each.loss_rate for each in found.epochs] == [None, 0.5, 0.5]
    assert (found.best_val_nll, found.reported.val_nll, found.reported.epochs) == (4.0, 5.0, 2)
    assert "someone" not in str(found)
    assert read(found.write(tmp_path / "as-ours")) == found


def test_a_run_of_the_thesis_that_lost_its_loss_has_failed_and_holds_none(tmp_path):
    path = thesis_run(tmp_path, running=(6.0, 5.5, np.inf, np.nan), stopped_early=None)
    assert "NaN" in path.read_text()

    found = read(path)

    assert found.state == "failed"
    assert found.reason == "its validation loss is not finite from epoch 3 on"
    assert [each.val_nll for each in found.epochs] == [6.0, 5.0, None, None]
    found.write(tmp_path / "as-ours")  # refuses NaN


def test_runs_of_the_thesis_are_numbered_by_label(tmp_path):
    for label in ["b", "c", "a"]:
        thesis_run(tmp_path, label=label)

    assert [(each.reported.label, each.trial) for _, each in read_all(tmp_path)] == [
        ("a", 0),
        ("b", 1),
        ("c", 2),
    ]


def test_a_run_of_the_thesis_without_curves_says_so(tmp_path):
    path = thesis_run(tmp_path, d_score_rate=[-0.5, float("inf")])
    path.with_name(f"{path.stem}_loss.npz").unlink()

    found = read(path)

    assert found.best_val_nll is None
    assert found.reported.val_nll == 5.0
    assert found.reason == (
        "its validation loss is not finite from epoch 3 on; "
        "no loss curves: blocks_10_A_tanh_loss.npz is not there"
    )


def test_a_run_of_the_thesis_that_saved_no_epoch_has_no_row(tmp_path):
    (tmp_path / "x.json").write_text('{"blocks": 10}')

    assert read(tmp_path / "x.json").epochs == ()


def test_keys_that_the_thesis_left_out_are_left_out(tmp_path):
    found = read(
        thesis_run(tmp_path, A=None, label="x", best_loss=None, runtime=None, batch_size=None)
    )

    assert found.params == {"blocks": 10, "hidden": 128}
    assert found.cost.seconds is None
    assert found.reported.val_nll is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda path, npz: path.write_text("{"), "is not JSON", id="truncated"),
        pytest.param(lambda path, npz: path.write_text("{}"), "neither a run.json nor", id="other"),
        pytest.param(
            lambda path, npz: path.write_text('{"blocks": "ten"}'), "blocks: .*integer", id="text"
        ),
        pytest.param(lambda path, npz: npz.write_bytes(b"PK\3\4junk"), "as loss curves", id="npz"),
        pytest.param(
            lambda path, npz: np.savez(npz, train_loss=np.zeros(3)), "valid_loss", id="no curve"
        ),
        pytest.param(
            lambda path, npz: np.savez(npz, train_loss=np.zeros(3), valid_loss=np.array([{}])),
            "Object arrays cannot be loaded",
            id="a pickle",
        ),
        pytest.param(
            lambda path, npz: np.savez(npz, train_loss=np.zeros((2, 2)), valid_loss=np.zeros(2)),
            r"shape \(2, 2\), not a row",
            id="a matrix",
        ),
    ],
)
def test_a_broken_run_of_the_thesis_is_one_sentence(tmp_path, spoil, message):
    path = thesis_run(tmp_path)
    spoil(path, path.with_name(f"{path.stem}_loss.npz"))

    with pytest.raises(RecordError, match=message) as caught:
        read(path)

    assert "\n" not in str(caught.value)


def test_curves_that_unpack_to_too_much_are_not_unpacked(tmp_path, monkeypatch):
    path = thesis_run(tmp_path)
    np.savez_compressed(
        path.with_name(f"{path.stem}_loss.npz"),
        train_loss=np.zeros(10**6),
        valid_loss=np.zeros(10**6),
    )
    monkeypatch.setattr(thesis, "LARGEST_JSON", 10**6)

    with pytest.raises(RecordError, match="train_loss unpacks to 8000128 bytes"):
        read(path)


@needs_thesis
@pytest.mark.parametrize(
    ("label", "at_20_minutes"),
    [
        ("10_hidden_128_A_relu", 4.970),
        ("10_hidden_128_A_tanh", 5.081),
        ("10_hidden_200_A_tanh", 5.078),
        ("20_hidden_128_A_tanh", 5.133),
        ("20_hidden_200_A_tanh", 5.156),
        ("30_hidden_128_A_relu", 5.110),
        ("30_hidden_128_A_tanh", 5.278),
        ("30_hidden_200_A_tanh", 5.250),
    ],
)
def test_the_thesis_s_runs_stand_where_a_recomputation_by_hand_put_them(label, at_20_minutes):
    found = read(THESIS / f"blocks_{label}_N_1000_V2_20min.json")
    passed = np.cumsum([each.seconds for each in found.epochs])

    last = [each.val_nll for each in found.epochs][: np.searchsorted(passed, 1200)][-10:]

    assert np.mean(last) == pytest.approx(at_20_minutes, abs=5e-4)


@needs_thesis
@pytest.mark.parametrize(
    ("label", "first"),
    [
        ("10_hidden_200_A_relu", 9),
        ("20_hidden_128_A_relu", 7),
        ("20_hidden_200_A_relu", 107),
        ("30_hidden_200_A_relu", 2),
    ],
)
def test_the_thesis_s_lost_runs_read_and_are_marked_failed(tmp_path, label, first):
    found = read(THESIS / f"blocks_{label}_N_1000_V2_20min.json")

    assert found.state == "failed"
    assert found.reason.endswith(f"not finite from epoch {first} on")
    assert all(math.isfinite(each.val_nll) for each in found.epochs[: first - 1])
    assert all(each.val_nll is None for each in found.epochs[first - 1 :])
    assert read(found.write(tmp_path)) == found
