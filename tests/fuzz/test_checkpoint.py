"""Checkpoints that are damaged or hostile: loaded, or refused in a sentence, in bounded memory."""

import copy
import json
import os

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save

from models.training import checkpoint
from models.training.checkpoint import Checkpoint
from tests.fuzz.strategies import answer, broken, damaged, fuzz, memory
from tests.random_flows import a_flow

FLOW = a_flow(options={"hidden": 4, "depth": 1, "bins": 2})
TENSORS = {f"best.{name}": value.contiguous() for name, value in FLOW.state_dict().items()}
STATE = {"schema": 1, "flow": FLOW.describe(), "step": 3}


def with_config(**config):
    state = copy.deepcopy(STATE)
    state["flow"]["config"] |= config
    return state


def file_of(text):
    return save(TENSORS, metadata={"checkpoint": text})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoint")


def used(folder, content):
    (folder / checkpoint.FILE).write_bytes(content)
    with memory(256):
        answer(checkpoint.load, folder)
        flow = answer(checkpoint.best_flow, folder)
    assert flow is None or torch.is_tensor(flow.events.mean_K)


@fuzz(60)
@given(state=broken(STATE))
@example(with_config(hidden=8192, depth=10, blocks=100))
@example(with_config(blocks=10**400))
@example({**STATE, "schema": 10**400})
@example([])
def test_a_broken_state(folder, state):
    used(folder, file_of(json.dumps(state)))


@fuzz(60)
@given(content=damaged(file_of(json.dumps(STATE))) | st.binary(max_size=80))
@example(file_of("[" * 100_000))
@example(file_of('{"schema": NaN}'))
@example(save(TENSORS))
def test_a_damaged_file(folder, content):
    used(folder, content)


@pytest.mark.parametrize("trick", ["fifo", "device", "folder", "terabyte"])
def test_a_file_that_is_none_is_refused_at_once(tmp_path, trick):
    path = tmp_path / checkpoint.FILE
    {
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "terabyte": lambda: (path.touch(), os.truncate(path, 2**40)),
    }[trick]()
    with memory(256), pytest.raises(checkpoint.CheckpointError, match="not a whole checkpoint"):
        checkpoint.load(tmp_path)


def test_a_whole_one_is_used(folder):
    checkpoint.save(folder, Checkpoint(tensors=TENSORS, state={"flow": FLOW.describe()}))
    assert checkpoint.best_flow(folder).describe() == FLOW.describe()
