"""A run done again from its `run.json`, and how close the second came to the first.

On the same processor, with the same versions and number of threads, training repeats bit for bit
(restarts included). Elsewhere sums are taken in another order, and small differences grow with
every epoch: what is told here is how large they are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from data_prep.dataset import Dataset
from data_prep.errors import InputError
from hpo.records import environment, weights
from hpo.records.folder import data_found, read
from hpo.records.record import EpochRow, RunRecord, now
from hpo.records.scores import scored, with_cost, with_history
from models.config import FlowConfig, TrainConfig
from models.training import checkpoint
from models.training.history import Epoch
from models.training.train import train

Weights = Mapping[str, torch.Tensor]


class RerunError(InputError):
    """A record that cannot be repeated. The message says what is missing and the way out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rerun:
    """The result of a repetition."""

    record: RunRecord
    """Of the new run."""
    comparisons: tuple[dict[str, object], ...]
    """Rows of `measure`, `then`, `now` and `difference`, which is now minus then; NLLs in nats."""
    verdict: str
    """A sentence: whether it is the same, else how far off and what is not as it was."""


class _AllRepeated(Exception):
    """The first run had no more epochs than this."""


def rerun(path: Path, out: Path, *, data: Path | None = None) -> Rerun:
    """Train again what a run trained, as far as it came, and compare.

    Args:
        path: A `run.json`. Where its checkpoint lies beside it, the weights are compared, too.
        out: A new or empty folder for the new `run.json` and checkpoint.
        data: The prepared dataset, where it is not in the folder that the record names.

    Raises:
        RecordError: If `path` is no record.
        RerunError: If the record is of another program or has no epochs, its data is not there or
            is not the same any more, or `out` holds something.
        WeightsError: If the checkpoint beside it is of another run.
        DataError: If there is no prepared dataset.
    """
    then = read(path)
    first = _weights(then, path.parent)
    folder = _data(path, then, data)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RerunError(f"{out} holds something: choose a new folder for --out")
    out.mkdir(parents=True, exist_ok=True)
    # Without limits of time: a second run does not meet them after the same epoch.
    config = dataclasses.replace(TrainConfig.from_dict(then.training), max_minutes=None)
    rows: list[Epoch] = []

    def on_epoch(epoch: Epoch) -> None:
        rows.append(epoch)
        if len(rows) == len(then.epochs):
            raise _AllRepeated

    threads = torch.get_num_threads()
    try:
        # Sums over threads depend on their number.
        torch.set_num_threads(then.environment.threads or threads)
        with suppress(_AllRepeated):
            train(
                folder,
                FlowConfig.from_dict(then.flow),
                config,
                hold_out=then.data.hold_out_cells,
                report=then.data.report_cells,
                checkpoint=out,
                on_epoch=on_epoch,
            )
        now = _record(then, folder, out, rows)
    finally:
        torch.set_num_threads(threads)
    now.write(out)
    return Rerun(
        record=now,
        comparisons=tuple(_comparisons(then, now)),
        verdict=_verdict(then, now, _same(first, _weights(now, out))),
    )


def _data(path: Path, record: RunRecord, data: Path | None) -> Path:
    if record.reported is not None or record.data.fingerprint is None:
        raise RerunError(f"{path} is a run of another program: only runs of hpo can be repeated")
    if not record.epochs:
        raise RerunError(f"{path} has no epoch (it is {record.state}): there is nothing to repeat")
    folder = data or Path(data_found(record, path.parent).data.path)
    if data is None and not folder.is_dir():
        raise RerunError(f"{folder}, on which {path} was trained, is not here: give --data")
    if Dataset.read(folder).fingerprint != record.data.fingerprint:
        raise RerunError(
            f"{folder} does not hold the data that {path} was trained on (the fingerprints "
            "differ): give --data"
        )
    return folder


def _record(then: RunRecord, folder: Path, out: Path, rows: list[Epoch]) -> RunRecord:
    stored = checkpoint.load(out)
    assert stored is not None  # it has just been saved
    flow = checkpoint.flow_of(out, stored)
    record = dataclasses.replace(
        then,
        weights=checkpoint.digest(stored),
        data=dataclasses.replace(then.data, path=str(folder)),
        environment=environment.describe(TrainConfig.from_dict(then.training).device, None),
        restarts=0,
        started=now(),
    )
    record = with_cost(with_history(record, rows), flow)
    return scored(record, flow, folder) if then.test else record


def _comparisons(then: RunRecord, now: RunRecord) -> Iterator[dict[str, object]]:
    measures: dict[str, Callable[[RunRecord], float | None]] = {
        "epochs": lambda run: len(run.epochs),
        "best epoch": lambda run: run.best_epoch,
        "best val NLL": lambda run: run.best_val_nll,
        "last val NLL": lambda run: run.epochs[-1].val_nll,
        "test NLL": lambda run: run.test.nll if run.test else None,
        "seconds": lambda run: run.cost.seconds,
    }
    for name, measure in measures.items():
        was, here = measure(then), measure(now)
        gap = None if was is None or here is None else here - was
        if name != "test NLL" or gap is not None:
            yield {"measure": name, "then": was, "now": here, "difference": gap}


def _verdict(then: RunRecord, now: RunRecord, same_weights: bool | None) -> str:
    gaps = [_gap(*pair) for pair in zip(then.epochs, now.epochs, strict=False)]
    first = next((k for k, gap in enumerate(gaps, start=1) if gap), None)
    if first is not None:
        changed = "; ".join(_changed(then, now))
        text = f"differs from epoch {first} on, by up to {max(gaps):.2g} nats per event"
        return f"{text}; not as it was: {changed}" if changed else text
    if len(then.epochs) != len(now.epochs):
        text = f"the NLLs are the same, bit for bit, until it stopped after epoch {len(now.epochs)}"
        return f"{text}: its rule goes by the clock"
    if same_weights is None:
        return "the same: the NLLs of every epoch, bit for bit (no checkpoint to compare weights)"
    if same_weights:
        return "the same: every NLL and every weight, bit for bit"
    return "every NLL is the same, bit for bit, and the weights are not"


def _gap(then: EpochRow, now: EpochRow) -> float:
    pairs = ((then.train_nll, now.train_nll), (then.val_nll, now.val_nll))
    return max(abs(a - b) if a is not None and b is not None else 0.0 for a, b in pairs)


def _changed(then: RunRecord, now: RunRecord) -> Iterator[str]:
    if then.training.get("max_minutes") is not None:
        yield "max_minutes, which is left out here"
    was, here = (dataclasses.asdict(one.environment) for one in (then, now))
    was |= was.pop("versions")
    here |= here.pop("versions")
    for name in ("device", "host", "threads", "stack", "git_commit", *then.environment.versions):
        if was.get(name) != here.get(name):
            yield f"{name} {json.dumps(was.get(name))} -> {json.dumps(here.get(name))}"


def _weights(record: RunRecord, folder: Path) -> Weights | None:
    """The best weights that lie beside the record; None where none do, or later ones."""
    stored = checkpoint.load(folder)
    if stored is None:
        return None
    flow = weights.flow_of(record, folder)
    return flow.state_dict() if weights.belongs(record, stored) else None


def _same(first: Weights | None, second: Weights | None) -> bool | None:
    if first is None or second is None:
        return None
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
