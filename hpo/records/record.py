"""`run.json`: what one trial was and what came of it.

The only module that writes or parses the file. The worker that holds the trial replaces it whole
after every epoch, so that another process may read it at any moment. `hpo/records/folder.py` finds
the files and reads them from the disk.

A key that this version does not know is passed over, so that a record written by a later 0.x still
reads; what cannot be understood any more gets a new `schema` number.

`python -m hpo.records.record` prints the JSON Schema that is published as `run.schema.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, dataclass_transform

from data_prep import untrusted
from data_prep.atomic import draft_of
from data_prep.columns import Value
from data_prep.errors import InputError
from data_prep.untrusted import LARGEST_JSON, adapter, fault_of, finite

SCHEMA = 1
"""Number of the layout written here; goes up when an older reader could no longer follow."""

NAME = "run.json"
"""The file's name inside the trial's folder."""

State = Literal["running", "complete", "pruned", "stopped_early", "failed"]

FINISHED: frozenset[State] = frozenset({"complete", "stopped_early"})
"""The states of a run that came to its own end: only these are ranked."""

Scalar = str | int | float | bool | None

T = TypeVar("T")


class RecordError(InputError):
    """A record that cannot be read or written. The message is one sentence naming the file."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _stored(cls: type[T]) -> type[T]:
    """A frozen dataclass whose field docstrings describe it in the published JSON Schema."""
    rules = {"use_attribute_docstrings": True, "allow_inf_nan": False}
    cls.__pydantic_config__ = rules  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True, slots=True)(cls)


@_stored
class EpochRow:
    """One pass over the training split. A value that was not measured, or not finite, is null."""

    epoch: int
    """Counted from 1."""
    train_nll: float | None
    """Mean training NLL over the epoch, nats per event in the data's units."""
    val_nll: float | None
    """NLL of the whole validation split after the epoch, nats per event in the data's units; the
    held-out cells are no part of it."""
    learning_rate: float | None
    """Step size at the end of the epoch."""
    seconds: float | None
    """Wall-clock time of this epoch, its evaluation included."""
    samples_per_second: float | None
    """Training rows per second."""
    loss_rate: float | None
    """Fall of the smoothed objective, nats per epoch or second (see `training.rate_per`)."""
    held_out_nll: float | None = None
    """NLL of the validation split's rows of the held-out cells, likewise; null where none are."""

    def objective(self, training: Mapping[str, Any]) -> float | None:
        """The NLL by which a training with these options is judged."""
        by_held_out = training.get("objective") == "held_out_nll"
        return self.held_out_nll if by_held_out else self.val_nll

    @classmethod
    def of(cls, epoch: object) -> Self:
        """The row of a `models.training.history.Epoch`, or of anything with these attributes."""
        return cls(**{each.name: finite(getattr(epoch, each.name)) for each in fields(cls)})


@_stored
class DataUsed:
    """The prepared data set that was trained on."""

    path: str
    """Its folder when the run began."""
    fingerprint: str | None
    """sha256 over content and split, from its dataset.json; null where none was taken."""
    rows: dict[str, int]
    """Rows of each split: train, val, test; those of cells kept out of training are among them."""
    hold_out_cells: tuple[dict[str, Value], ...] = ()
    """Cells that were kept out of training, each as the value of every condition column."""
    report_cells: tuple[dict[str, Value], ...] = ()
    """Further ones, by which nothing was judged."""
    weights: str | None = None
    """The column that says how much a row counts; null where all count alike."""
    effective_rows: dict[str, float] | None = None
    """Rows of equal weight that would tell as much as each split's; null where all count alike."""

    @property
    def kept_out(self) -> tuple[dict[str, Value], ...]:
        """All cells that were kept out of training."""
        return (*self.hold_out_cells, *self.report_cells)


@_stored
class Environment:
    """Where the run took place."""

    versions: dict[str, str]
    """Of python, torch, optuna, hpo and the like."""
    device: str
    """The device of the training: `cpu`, `cuda (NVIDIA A100)`."""
    host: str | None
    """The machine's name."""
    threads: int | None
    """CPU threads that the worker gave to torch."""
    slurm_job_id: str | None = None
    """The job that held the trial last; null outside SLURM."""
    git_commit: str | None = None
    """Commit of the code; null when it was not run from a checkout."""
    stack: int = 1
    """Trials that the worker trained at a time, those of one shape together."""


@_stored
class TestNll:
    """The best weights on the test split."""

    __test__ = False  # else pytest takes it for a class of tests

    nll: float
    """Mean over the split without the held-out cells, nats per event in the data's units."""
    error: float
    """Standard error of that mean, nats."""
    rows: int
    """Events that it is the mean of."""
    effective_rows: float | None = None
    """Events of equal weight that would tell as much; null in older records."""


@_stored
class CellNll:
    """The best weights on one held-out cell's rows of the test split."""

    conditions: dict[str, Value]
    """The cell: the value of every condition column."""
    nll: float | None
    """Mean, nats per event in the data's units; null where it has no rows or is not finite."""
    error: float | None
    """Standard error of that mean, nats; null likewise."""
    rows: int
    """Events that it is the mean of."""
    effective_rows: float | None = None
    """Events of equal weight that would tell as much; null in older records."""


@_stored
class HeldOutNll:
    """The best weights on the test split's rows of cells that they never saw."""

    nll: float | None
    """Mean over these rows, nats per event in the data's units; null where it is not finite."""
    error: float | None
    """Standard error of that mean, nats; null likewise."""
    rows: int
    """Events that it is the mean of."""
    cells: tuple[CellNll, ...]
    """Each of the cells on its own."""
    worst: CellNll | None = None
    """The one with the highest NLL, one that is not finite above all; null where no cell has rows,
    and in older records."""
    effective_rows: float | None = None
    """Events of equal weight that would tell as much; null in older records."""


@_stored
class Cost:
    """The cost of running the flow and of making it. Null where it was not measured."""

    parameters: int | None
    """Numbers that training adjusts."""
    flops_per_event: int | None
    """Floating-point operations of one log-density."""
    seconds: float | None
    """Wall-clock time of the trial so far, over all restarts."""


@_stored
class Reported:
    """The words of another program about its own run, as they were."""

    label: str
    """Its name for the run."""
    epochs: int | None
    """Its count of epochs."""
    val_nll: float | None
    """Its best validation loss, by its own definition: not comparable with `best_val_nll`."""


@_stored
class RunRecord:
    """One trial: what it was given, where it ran, and what came of it so far."""

    schema: Literal[1] = 1
    """Number of this layout."""
    study: str
    """Name of the study."""
    trial: int
    """Number of the trial in the study, from 0."""
    state: State
    """`running` until the run ends; `stopped_early` and `complete` have a usable result."""
    reason: str | None = None
    """Why it was stopped, pruned or failed: a sentence, or the last line of a traceback."""
    params: dict[str, Scalar]
    """The parameters that the sampler chose."""
    flow: dict[str, Any]
    """Every option of the flow, resolved."""
    training: dict[str, Any]
    """Every option of the training, resolved."""
    pruner: dict[str, Any] = field(default_factory=dict)
    """The pruner and its options."""
    data: DataUsed
    """The data of the training."""
    seeds: dict[str, int] = field(default_factory=dict)
    """Seeds by what they seeded."""
    environment: Environment
    """Where it ran; of the last restart."""
    epochs: tuple[EpochRow, ...] = ()
    """One row per epoch, oldest first."""
    best_epoch: int | None = None
    """The epoch whose weights were kept."""
    best_val_nll: float | None = None
    """Validation NLL of that epoch, nats per event in the data's units: the lowest, unless
    `training.objective` is `held_out_nll`."""
    best_val_error: float | None = None
    """Standard error of that mean, nats; null before the run has ended well, and in
    older records."""
    best_held_out_nll: float | None = None
    """`held_out_nll` of that epoch; null where no cells are held out."""
    weights: str | None = None
    """sha256 of that epoch's weights and the flow's description, by which the checkpoint that
    belongs to this record is known; null before the first epoch, and in older records."""
    test: TestNll | None = None
    """The best weights on the test split, once the run has ended well."""
    held_out: HeldOutNll | None = None
    """The best weights in the held-out cells; null where there are none."""
    report: HeldOutNll | None = None
    """The best weights in the report cells, by which nothing was judged; null likewise."""
    restarts: int = 0
    """How often a worker took the trial up again."""
    cost: Cost
    """The cost of the flow."""
    started: str | None
    """When the trial first began, ISO 8601 with the offset from UTC."""
    updated: str | None
    """When this file was written, likewise."""
    reported: Reported | None = None
    """For runs of other programs: their own figures."""

    @property
    def best_objective(self) -> float | None:
        """The NLL by which the study ranks the run, lowest first: see `training.objective`."""
        if self.training.get("objective") == "held_out_nll":
            return self.best_held_out_nll
        return self.best_val_nll

    def write(self, folder: Path, *, parents: bool = True, within: Path | None = None) -> Path:
        """Put `run.json` in `folder` in one step: a reader sees the whole file, old or new.

        The folder is made, unless `parents` says that it has to be there. The draft lies `within`
        another folder, if one is given: see `draft_of`.

        Raises:
            RecordError: If a value is NaN, infinite or not JSON. Names the field; the file that
                was there stays.
        """
        path = folder / NAME
        text = self._text(path)
        with draft_of(path, parents=parents, within=within) as draft:
            draft.write_text(text, encoding="utf-8")
        return path

    def _text(self, path: Path) -> str:
        values = asdict(self)
        for place, value in _leaves(values):
            if isinstance(value, float) and not math.isfinite(value):
                raise RecordError(f"{path} not written: {place} is {value}, give None instead")
        try:
            return json.dumps(values, indent=2, allow_nan=False) + "\n"
        except TypeError as error:
            raise RecordError(f"{path} not written: {error}") from error


def parse(path: Path, text: bytes, *, last_epoch: bool = False) -> RunRecord:
    """The record in the `run.json` at `path`, whose bytes are `text`; `last_epoch` as in `read`.

    Raises:
        RecordError: If it is no record, or was written by a newer version.
    """
    from pydantic import ValidationError

    try:
        return adapter(RunRecord).validate_json(
            _shortened(text) if last_epoch else text, strict=True
        )
    except ValidationError as error:
        raise RecordError(f"{path} {fault_of(error, 'a record', SCHEMA)}") from error


def contents(path: Path, largest: int = LARGEST_JSON) -> bytes:
    """The bytes of a regular file.

    Raises:
        RecordError: If it is not there, not a plain file, or larger than `largest` bytes.
    """
    try:
        return untrusted.contents(path, largest)
    except untrusted.UntrustedError as error:
        raise RecordError(f"{path} {error}: not a record") from error
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error


def now() -> str:
    """The time as records tell it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `run.json`, as published in `run.schema.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **adapter(RunRecord).json_schema(mode="validation"),
        "title": "run.json",
    }


def _shortened(text: bytes) -> bytes:
    """The record with no epoch but the last; the text as it is where it is no record."""
    from pydantic_core import from_json, to_json

    try:
        values = from_json(text)
    except ValueError:
        return text
    if not isinstance(values, dict) or not isinstance(values.get("epochs"), list):
        return text
    # NaN stays what it is, for the reader to refuse.
    return to_json(values | {"epochs": values["epochs"][-1:]}, inf_nan_mode="constants")


def _leaves(value: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Every value that is not a container, with its place, e.g. `epochs[3].val_nll`."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _leaves(each, f"{place}[{index}]")
    else:
        yield place, value


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
