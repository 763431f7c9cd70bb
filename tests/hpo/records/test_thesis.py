"""Runs of the thesis, read as records."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hpo.records import thesis
from hpo.records.folder import read, read_all
from hpo.records.record import RecordError

THESIS = Path(__file__).parents[4] / "shared" / "data" / "thesis_runs"

needs_thesis = pytest.mark.skipif(not THESIS.is_dir(), reason="the thesis's runs are not here")


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
