"""The weights of a run: those of the checkpoint beside its record, if the two belong together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from data_prep.errors import InputError
from hpo.records.record import NAME, RunRecord, State
from models.config import TrainConfig
from models.flow.atoms import OneFlow
from models.training import checkpoint, snapshots
from models.training.checkpoint import Checkpoint, CheckpointError

WHOLE: frozenset[State] = frozenset({"complete", "stopped_early", "pruned"})
"""States in which a record is the last word. Before that, and where a worker died, the checkpoint
may be an epoch ahead of it."""


class WeightsError(InputError):
    """A checkpoint beside a record to which it does not belong. The message names the remedy."""


def flow_of(record: RunRecord, folder: Path) -> OneFlow:
    """The flow of a record: the best weights of the checkpoint that lies in `folder` beside it.

    Raises:
        WeightsError: If the checkpoint is of another run.
        CheckpointError: If there is none, or it is damaged.
    """
    stored = checkpoint.load(folder)
    if stored is None:
        raise CheckpointError(
            f"{folder} holds no {checkpoint.FILE}: bring it back, or train again with `hpo rerun "
            f"{folder / NAME} --out FOLDER`"
        )
    if record.state in WHOLE and not belongs(record, stored):
        raise WeightsError(
            f"{folder / checkpoint.FILE} holds the weights of another run than "
            f"{folder / NAME} tells of: bring the right one back, or move this one away and train "
            f"again with `hpo rerun {folder / NAME} --out FOLDER`"
        )
    return checkpoint.flow_of(folder, stored)


def on_the_way(record: RunRecord, folder: Path) -> dict[int, Callable[[], OneFlow]]:
    """The flows of a record as they learned, by their epoch: those that were kept, and the best.

    Each is read when it is called for. The best weights stand at the epoch that they are of.

    Raises:
        WeightsError, CheckpointError: As `flow_of`.
        SnapshotError: If one that was kept is damaged.
    """
    best = flow_of(record, folder)
    description = best.describe()
    found: dict[int, Callable[[], OneFlow]] = {
        one.row.epoch: partial(snapshots.flow_of, one, description)
        for one in snapshots.kept(folder, record.epochs)
    }
    if record.best_epoch is not None:
        found[record.best_epoch] = lambda: best
    return dict(sorted(found.items()))


def belongs(record: RunRecord, stored: Checkpoint) -> bool:
    """Whether the checkpoint's best weights are those whose NLLs the record tells."""
    try:
        if record.weights is not None:
            return checkpoint.digest(stored) == record.weights
        # Of a version without digests: the checkpoint's own history tells what it holds.
        config = TrainConfig.from_dict(record.training)
        best = min(
            checkpoint.history_of(stored), key=lambda epoch: epoch.objective(config), default=None
        )
    except (AssertionError, KeyError, TypeError, ValueError):
        return False
    told = (record.best_epoch, record.best_val_nll, record.best_held_out_nll)
    return best is not None and told == (best.epoch, best.val_nll, best.held_out_nll)
