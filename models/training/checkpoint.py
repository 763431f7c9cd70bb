"""`checkpoint.safetensors`: where a training stands, saved whole and restored exactly.

The one file is the commit point: tensors (weights, best weights, optimizer, RNG) and, as JSON in
its metadata, everything else. It is replaced in one step. `checkpoint.json` is the same JSON beside
it for people and tools, and is never read back. No pickle anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from data_prep.atomic import draft_of
from data_prep.errors import InputError
from data_prep.untrusted import opened, parse
from models.config import FREE_TO_CHANGE, FlowConfig, TrainConfig
from models.flow.atoms import OneFlow, from_description
from models.layout import below
from models.training import snapshots
from models.training.history import Epoch

SCHEMA = 1
FILE, NOTE = "checkpoint.safetensors", "checkpoint.json"
LARGEST = 8 * 2**30
"""Bytes of the largest checkpoint that is read."""
BEST = "best."
"""Prefix of the best weights among the tensors."""


class CheckpointError(InputError):
    """A checkpoint that cannot be used. The message names the file, what is wrong, the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The contents of the file."""

    tensors: dict[str, Tensor]
    """`flow.*`, `best.*`, `optimizer.*`; after `trim` only `best.*`."""
    state: dict[str, Any]
    """JSON-ready: flow description, training options, dataset, step, history, stopping."""
    snapshot: dict[str, Tensor] | None = None
    """The weights of the last row of history, where they are to be kept beside; not in the file."""


Save = Callable[[Path, Checkpoint], None]
"""How a checkpoint is put into a folder: `save`, or what does more beside it."""


def save(folder: Path, checkpoint: Checkpoint, *, within: Path | None = None) -> None:
    """Put the checkpoint into `folder` in one step: a reader finds the old one or the new one.

    The drafts lie `within` another folder, if one is given: see `draft_of`.

    Raises FileNotFoundError without the folder: a new one in the place of one that was taken away
    would lack the rest of its contents.
    """
    if checkpoint.snapshot is not None:
        row = checkpoint.state["history"][-1]
        snapshots.save(folder, row, checkpoint.snapshot, within=within)
    text = json.dumps({"schema": SCHEMA, **checkpoint.state}, allow_nan=False, indent=1)
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    content = to_bytes(tensors, metadata={"checkpoint": text})
    for name, written in ((FILE, content), (NOTE, (text + "\n").encode())):
        with draft_of(folder / name, parents=False, within=within) as draft:
            draft.write_bytes(written)


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in the host's memory, of which a GPU brings all of one type at once."""
    found: dict[str, Tensor] = {}
    for kind in {tensor.dtype for tensor in tensors.values()}:
        some = {name: tensor for name, tensor in tensors.items() if tensor.dtype == kind}
        whole = torch.cat([tensor.flatten() for tensor in some.values()]).cpu()
        parts = torch.split(whole, [tensor.numel() for tensor in some.values()])
        each = zip(some.items(), parts, strict=True)
        found |= {name: part.view(tensor.shape).clone() for (name, tensor), part in each}
    return found


def load(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where there is none.

    Raises:
        CheckpointError: If the file is truncated, foreign or of a newer schema.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        # As arrays: each tensor that safetensors makes for torch leaves two integers in memory.
        with opened(path, LARGEST), safe_open(path, framework="np") as file:
            state = parse(file.metadata()["checkpoint"])
            tensors = {name: torch.from_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        schema = state.pop("schema")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a whole checkpoint ({error}): delete it to start anew"
        ) from error
    if schema != SCHEMA:
        raise CheckpointError(
            f"{path} has schema {schema}, this version reads {SCHEMA}: "
            "go on with the version of hpo-flows that wrote it"
        )
    return Checkpoint(tensors=tensors, state=state)


def best_flow(folder: Path) -> OneFlow:
    """The flow with the best weights so far, in evaluation mode on the CPU.

    Raises:
        CheckpointError: If `folder` holds no usable checkpoint.
    """
    checkpoint = load(folder)
    if checkpoint is None:
        raise CheckpointError(f"{folder} holds no {FILE}: nothing was trained there")
    return flow_of(folder, checkpoint)


def flow_of(folder: Path, checkpoint: Checkpoint) -> OneFlow:
    """The flow with the best weights of a checkpoint that was read from `folder`."""
    try:
        return from_description(checkpoint.state["flow"], below(checkpoint.tensors, BEST))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / FILE} does not describe a flow ({error}): delete it to start anew"
        ) from error


def history_of(checkpoint: Checkpoint) -> list[Epoch]:
    """The rows of history that a checkpoint holds."""
    return [Epoch(**row) for row in checkpoint.state["history"]]


def refuse_another(folder: Path, state: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Go on with nothing but the same training, as its options, data and cells tell.

    Raises:
        CheckpointError: If they differ. Names the first that does.
    """
    # An option that a checkpoint lacks was added after it.
    theirs = asdict(TrainConfig.from_dict(state["training"]))
    theirs |= asdict(FlowConfig.from_dict(state["flow"]["config"]))
    theirs |= {"data": state["dataset"]}
    for name in sorted(ours):
        found = theirs.get(name, state.get(name, []))
        if name not in FREE_TO_CHANGE and ours[name] != found:
            raise CheckpointError(
                f"the checkpoint in {folder} is of another training: it has {name} = "
                f"{found!r}, this one {ours[name]!r}: use another folder"
            )


def trim(folder: Path, *, save: Save = save) -> None:
    """After the end of a run: keep only what `best_flow` and the history need."""
    if checkpoint := load(folder):
        best = {k: v for k, v in checkpoint.tensors.items() if k.startswith(BEST)}
        save(folder, Checkpoint(tensors=best, state={**checkpoint.state, "trimmed": True}))


def digest(checkpoint: Checkpoint) -> str:
    """sha256 of the flow that the best weights make, as hexadecimal digits.

    It is of the best weights and the flow's description alone, so that it stays the same when the
    checkpoint is trimmed, and while the training goes on without a better epoch.
    """
    found = sha256(json.dumps(checkpoint.state["flow"], sort_keys=True).encode())
    for name, tensor in sorted(below(checkpoint.tensors, BEST).items()):
        found.update(f"\n{name} {tensor.dtype} {[*tensor.shape]}\n".encode())
        found.update(tensor.contiguous().cpu().numpy().tobytes())
    return found.hexdigest()
