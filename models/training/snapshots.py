"""`snapshots/`: weights of a training on its way, a small file for each of a few rows of history.

A file holds the weights that its row was evaluated with, averaged if the training averages, and as
JSON in its metadata which row that is, with its NLLs. It is written before the checkpoint that
holds the row: what a kill leaves ahead of the checkpoint is written again when the row is, with the
same weights to the last bit. A file counts where the history beside it has its row, so that what
another training left does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, from_numpy

from data_prep.atomic import draft_of
from data_prep.errors import InputError
from data_prep.untrusted import opened, parse
from models.flow.atoms import OneFlow, from_description

SCHEMA = 1
TOLD = ("epoch", "train_nll", "val_nll")
"""Of the row, what tells it from one of another training."""
FOLDER, SUFFIX = "snapshots", ".safetensors"
LARGEST = 2**30
"""Bytes of the largest file that is read."""


class SnapshotError(InputError):
    """A file of weights that cannot be used. The message names it and the remedy."""


class Row(Protocol):
    """A row of history, of a checkpoint or of a record."""

    @property
    def epoch(self) -> int: ...
    @property
    def train_nll(self) -> float | None: ...
    @property
    def val_nll(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Weights that were kept."""

    row: Row
    """Of the history, which they were evaluated in."""
    path: Path


def due(count: int, rows: int) -> frozenset[int]:
    """At which of so many planned rows of history weights are kept, from 1; the last is one.

    Each is later than the one before by the same factor, and by one at least: the density changes
    most at the beginning.
    """
    kept: list[int] = []
    for k in range(min(count, rows)):
        wanted = round(rows ** (k / (count - 1))) if count > 1 else rows
        kept.append(max(wanted, kept[-1] + 1 if kept else 1))
    return frozenset(kept)


def save(
    folder: Path, row: Mapping[str, Any], weights: Mapping[str, Tensor], within: Path | None
) -> None:
    """Keep weights in the run's folder with their row of history; `within` as of `draft_of`."""
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    told = {"schema": SCHEMA, **{name: row[name] for name in TOLD}}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    content = to_bytes(tensors, metadata={"snapshot": json.dumps(told, allow_nan=False)})
    path = place / f"{row['epoch']:07d}{SUFFIX}"
    with draft_of(path, parents=False, within=within) as draft:
        draft.write_bytes(content)


def kept(folder: Path, history: Iterable[Row]) -> list[Snapshot]:
    """What is kept in the run's folder of the rows of this history, in their order.

    Links are not followed: who looks at runs of others sees nothing beside them.

    Raises:
        SnapshotError: If a file is damaged, foreign or of a newer schema.
    """
    rows = {tuple(getattr(row, name) for name in TOLD): row for row in history}
    place = folder / FOLDER
    found = [] if place.is_symlink() else sorted(place.glob(f"*{SUFFIX}"))
    told = {_told(path): path for path in found if not path.is_symlink()}
    return [Snapshot(row, told[key]) for key, row in rows.items() if key in told]


def flow_of(snapshot: Snapshot, description: Mapping[str, Any]) -> OneFlow:
    """The flow with these weights, in evaluation mode on the CPU.

    Args:
        snapshot: One of those that are kept.
        description: Of the flow, as the checkpoint beside has it.

    Raises:
        SnapshotError: If the file does not hold the weights of such a flow.
    """
    with _reading(snapshot.path) as file:
        state = {name: from_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    try:
        return from_description(description, state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise SnapshotError(f"{snapshot.path} does not describe a flow ({error})") from error


def _told(path: Path) -> tuple[Any, ...]:
    """Which row the file says it is of."""
    with _reading(path) as file:
        told = parse(file.metadata()["snapshot"])
        if told["schema"] != SCHEMA:
            raise SnapshotError(
                f"{path} has schema {told['schema']}, this version reads {SCHEMA}: "
                "draw it with the version of hpo-flows that wrote it"
            )
        return tuple(told[name] for name in TOLD)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The open file; raises SnapshotError for what goes wrong with it."""
    try:
        # As arrays: each tensor that safetensors makes for torch leaves two integers in memory.
        with opened(path, LARGEST), safe_open(path, framework="np") as file:
            yield file
    except SnapshotError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise SnapshotError(
            f"{path} is not a whole snapshot ({error}): delete it to draw the others"
        ) from error
