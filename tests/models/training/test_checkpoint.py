"""The checkpoint file: whole or not there, and never a pickle."""

import gc
import json
import os
import tracemalloc

import pytest
import torch
from safetensors.torch import save_file

from models.config import FlowConfig, TrainConfig
from models.training import checkpoint as files
from models.training.checkpoint import Checkpoint, CheckpointError, best_flow, load, save, trim
from models.training.train import train

SMALL = Checkpoint(
    tensors={
        "flow.a": torch.arange(6.0).reshape(2, 3).t(),
        "best.a": torch.ones(2),
        "optimizer.step": torch.tensor(3.0),
        "rng.cpu": torch.arange(5, dtype=torch.uint8),
    },
    state={"step": 3, "history": [{"val_nll": 0.1 + 0.2}]},
)


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """A folder with the checkpoint of a short training. Do not write into it."""
    folder = tmp_path_factory.mktemp("trial")
    train(prepared, FlowConfig(blocks=1, hidden=8), TrainConfig(epochs=1), checkpoint=folder)
    return folder


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    save(tmp_path, SMALL)

    found = load(tmp_path)

    assert found.state == SMALL.state
    assert found.tensors.keys() == SMALL.tensors.keys()
    for name, tensor in SMALL.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_a_checkpoint_that_was_loaded_and_let_go_leaves_nothing_in_memory(tmp_path):
    save(tmp_path, Checkpoint(tensors={str(n): torch.ones(n) for n in range(100)}, state={}))
    load(tmp_path)

    grown = []
    tracemalloc.start()
    try:
        for _ in range(3):  # whatever else this process does, it does not in each
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(50):
                load(tmp_path)
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()

    assert min(grown) < 50_000


def test_no_folder_is_made_in_the_place_of_one_that_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint.safetensors"):
        save(tmp_path / "unmounted", SMALL)

    assert list(tmp_path.iterdir()) == []


def test_the_note_beside_it_says_the_same_to_people(tmp_path):
    save(tmp_path, SMALL)

    assert json.loads((tmp_path / "checkpoint.json").read_text()) == {"schema": 1, **SMALL.state}


def test_the_note_is_never_read_back(tmp_path):
    save(tmp_path, SMALL)
    (tmp_path / "checkpoint.json").write_text('{"schema": 1, "step": 99}')

    assert load(tmp_path).state["step"] == 3


def test_no_checkpoint_is_no_error(tmp_path):
    assert load(tmp_path) is None


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, SMALL)

    def crash(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="no space left"):
        save(tmp_path, Checkpoint(tensors=SMALL.tensors, state={"step": 4}))

    assert load(tmp_path).state["step"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.json",
        "checkpoint.safetensors",
    ]


def test_a_number_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(tmp_path, Checkpoint(tensors={}, state={"val_nll": float("nan")}))


@pytest.mark.parametrize("left", [0, 7, 100, 2000])
def test_a_truncated_checkpoint_is_refused(trained, tmp_path, left):
    whole = (trained / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(whole[:left])

    with pytest.raises(CheckpointError, match="not a whole checkpoint .* delete it to start anew"):
        load(tmp_path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "checkpoint.safetensors")

    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load(tmp_path)


def test_a_newer_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SCHEMA", 2)
    save(tmp_path, SMALL)
    monkeypatch.undo()

    with pytest.raises(CheckpointError, match="has schema 2, this version reads 1"):
        load(tmp_path)


def test_a_trimmed_checkpoint_still_gives_its_best_flow(trained, tmp_path):
    copy = tmp_path / "checkpoint.safetensors"
    copy.write_bytes((trained / "checkpoint.safetensors").read_bytes())
    before = copy.stat().st_size

    trim(tmp_path)

    assert copy.stat().st_size < before / 2
    for a, b in zip(
        best_flow(tmp_path).state_dict().values(),
        best_flow(trained).state_dict().values(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_where_nothing_was_trained_there_is_no_best_flow(tmp_path):
    with pytest.raises(CheckpointError, match="nothing was trained there"):
        best_flow(tmp_path)
