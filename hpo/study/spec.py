"""A study file: the search space, the data, training, pruner, sampler and jobs, checked strictly.

The only reader of study TOML. Every fault of a file is listed at once. The resolved study travels
as JSON inside the Optuna study, so that a worker needs no file.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tomli_w
from annotated_types import Ge
from pydantic import AfterValidator, NonNegativeInt, PlainValidator, PositiveInt

from data_prep.errors import InputError, suggestion
from data_prep.untrusted import UntrustedError, contents
from hpo.cluster.request import MEMORY, SlurmTable, plain
from hpo.study import space
from hpo.study.space import Dimension
from models.config import ConfigError, FlowConfig, TrainConfig, Value, checked

TABLES = ("study", "data", "space", "training", "pruner", "sampler", "slurm")
LARGEST = 2**20
"""Bytes of the largest study file that is read."""


class SpecError(InputError):
    """A study that cannot be run. The message lists every fault, not just the first."""

    def __init__(self, source: str, faults: Iterable[str]) -> None:
        super().__init__("\n  - ".join([f"{source} cannot be run:", *faults]))


def _name(text: str) -> str:
    """A name of a study becomes a folder and part of a job's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", text):
        rule = "must be letters, digits, '.', '_' or '-' and start with a letter or digit"
        raise ValueError(f"{rule}, got {text!r}")
    return text


def at_a_time(value: object) -> int | Literal["auto"]:
    """`auto`, or a number from 1 on; else ValueError."""
    if value == "auto":
        return "auto"
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"must be auto or a number from 1 on, got {value!r}")
    return value


AtATime = Annotated[int | Literal["auto"], PlainValidator(at_a_time)]


@checked
class StudyTable:
    """`[study]`: what the study is called and how large it gets."""

    name: Annotated[str, AfterValidator(_name)]
    """Name in the database and of the folder of its runs: letters, digits, `.`, `_` and `-`."""
    trials: PositiveInt = 30
    """Trials in total, when `--trials` does not say."""
    workers: NonNegativeInt = 0
    """Worker processes or jobs. 0: one for each GPU; without one, for each core, at most 8."""
    trials_per_worker: AtATime = "auto"
    """Trials that a worker trains at a time, those of one shape together. auto: up to 4 on a
    processor and 64 on a GPU, fewer in a study of few trials: `docs/guides/studies.md`."""
    seed: NonNegativeInt = 0
    """With a trial's number, seeds the sampler, the weights and the order of the rows."""
    max_restarts: NonNegativeInt = 3
    """How often in a row a trial goes on after its worker died, or its job's time ended, without a
    further epoch, before it counts as failed. With each new epoch the count begins anew."""
    stop_after_no_improvement: NonNegativeInt = 0
    """No new trial starts once so many ended in a row without a better one. 0: never."""


@checked
class DataTable:
    """`[data]`: the prepared dataset."""

    path: str = "sample"
    """Folder that `hpo prepare` wrote, seen from where `hpo` runs; `sample` is the shipped one."""
    hold_out_cells: list[dict[str, Value]] = field(default_factory=list)
    """Cells that no trial is trained on, a table of every condition's value each. Their NLL is told
    separately: it says how well a flow does between the cells that it knows. The objective
    `held_out_nll` judges by it."""
    report_cells: list[dict[str, Value]] = field(default_factory=list)
    """Further cells that no trial is trained on, likewise. Nothing is judged by their NLL, the
    `report_nll`: it says how well the flow does that the others have chosen."""
    hold_out: Literal["interior"] | None = None
    """`interior` chooses both: the cells (or regions) with neighbours on both sides in every
    condition, but one of two values, are dealt into folds, neighbours into different ones."""
    hold_out_folds: Annotated[int, Ge(3)] = 4
    """How many. Two are held out, the others are trained on."""
    hold_out_fold: NonNegativeInt = 0
    """The one that is `hold_out_cells`, counted from 0. The next, after the last the first, is
    `report_cells`."""

    def __post_init__(self) -> None:
        if self.hold_out_fold >= self.hold_out_folds:
            raise ValueError(
                f"hold_out_fold must be below hold_out_folds = {self.hold_out_folds}, got "
                f"{self.hold_out_fold}"
            )
        if self.hold_out and self.kept_out:
            raise ValueError(
                f"hold_out = {self.hold_out!r} chooses the cells itself: leave out either it, or "
                "hold_out_cells and report_cells"
            )

    @property
    def kept_out(self) -> list[dict[str, Value]]:
        """All cells that no trial is trained on."""
        return [*self.hold_out_cells, *self.report_cells]


@checked
class PrunerTable:
    """`[pruner]`: when a trial that does badly is ended. Resources are epochs."""

    kind: Literal["asha", "hyperband", "median", "none"] = "asha"
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), Hyperband (Li et al.
    2018, arXiv:1603.06560), the median rule, or no pruning."""
    min_epochs: PositiveInt = 5
    """Epochs that every trial may train before it can be pruned; the first rung."""
    reduction_factor: Annotated[int, Ge(2)] = 3
    """One trial in so many goes on from each rung to the next."""


@checked
class SamplerTable:
    """`[sampler]`: how the next configuration is chosen."""

    kind: Literal["tpe", "random", "grid"] = "tpe"
    """Tree-structured Parzen estimator, independent draws, or every combination once."""
    startup_trials: PositiveInt = 10
    """Random trials before the Parzen estimator begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySpec:
    """A whole study, checked and with every default filled in."""

    study: StudyTable
    data: DataTable = field(default_factory=DataTable)
    space: dict[str, Dimension] = field(default_factory=dict)
    training: TrainConfig = field(default_factory=TrainConfig)
    pruner: PrunerTable = field(default_factory=PrunerTable)
    sampler: SamplerTable = field(default_factory=SamplerTable)
    slurm: SlurmTable = field(default_factory=SlurmTable)
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Options that `[space]` does not name. No table of the file, but stored with the study, so
    that a later version with other defaults keeps these."""

    def to_json(self) -> str:
        """The resolved study as one line of JSON, which `from_json` takes back."""
        tables = dataclasses.asdict(self)
        for key in self.space:  # decided there: the others hold only defaults
            tables["training"].pop(key, None)
            tables["flow"].pop(key, None)
        return json.dumps(tables)

    def to_toml(self) -> str:
        """The study as a file that `load` reads, with every default filled in."""
        tables = json.loads(self.to_json())
        flow, usual = tables.pop("flow"), dataclasses.asdict(FlowConfig())
        # Of a study that was stored by a version with other defaults.
        tables["space"] |= {key: value for key, value in flow.items() if value != usual[key]}
        given = {
            name: {key: value for key, value in table.items() if value is not None}
            for name, table in tables.items()
        }
        for key, line in given["space"].items():
            if isinstance(line, dict):
                given["space"][key] = {k: v for k, v in line.items() if v is not None}
        return tomli_w.dumps(given)

    @staticmethod
    def from_json(text: str, settings: Sequence[str] = ()) -> StudySpec:
        """The study that `to_json` wrote, with a command line's changes laid over it."""
        tables = json.loads(text)
        tables.get("study", {}).setdefault("trials_per_worker", 1)  # as before it was an option
        slurm = tables.get("slurm", {})
        if MEMORY & {*map(plain, slurm.get("extra", {}))}:  # in 0.1 it outranked memory_gb
            slurm["memory_gb"] = 0
        # An option that it lacks was added after it, and has the value from before it was added.
        for key, config in (("training", TrainConfig), ("flow", FlowConfig)):
            before = {k: v for k, v in config.added.items() if k not in tables.get("space", {})}
            tables[key] = before | tables.get(key, {})
        if tables["flow"].get("base") == "normal":  # needs layers, also where they are searched
            tables["flow"].setdefault("blocks", 1)
        for setting in settings:
            lay_over(tables, setting)
        return parse(tables, source="the stored study", known=(*TABLES, "flow"))


def shipped() -> list[str]:
    """Names of the studies that come with the package."""
    folder = resources.files("studies")
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml"))


def load(reference: str, *, settings: Sequence[str] = (), name: str | None = None) -> StudySpec:
    """Read a study file, with the command line's changes laid over it.

    Args:
        reference: Path of a TOML file, with or without its ending, or the name of a shipped study
            such as `bbh`.
        settings: `TABLE.KEY=VALUE` each, the value in TOML's own writing; a bare word is text.
        name: Takes the place of `[study] name`.

    Raises:
        SpecError: If the file is missing, is not TOML, or has any fault. Lists them all.
    """
    source, text = _read(reference)
    try:
        tables = _toml(text)
    except ValueError as error:
        raise SpecError(source, [f"it is not TOML: {error}"]) from error
    for setting in settings:
        lay_over(tables, setting)
    if name is not None:
        tables.setdefault("study", {})["name"] = name
    return parse(tables, source=source)


def parse(tables: Mapping[str, Any], *, source: str, known: Sequence[str] = TABLES) -> StudySpec:
    """The study that the tables describe; `source` is what an error calls it.

    Raises:
        SpecError: With every fault of the tables.
    """
    faults = [
        f"a study file has no table {name!r}: {suggestion(name, known, otherwise='it takes')}"
        for name in sorted({*tables} - {*known})
    ]
    parts: dict[str, Any] = {}
    for name, kind in get_type_hints(StudySpec).items():
        table = tables.get(name, {})
        if not isinstance(table, Mapping):
            faults.append(f"{name} must be a table, [{name}], not {table!r}")
            continue
        try:
            parts[name] = space.lines_of(table) if name == "space" else kind(**table)
        except ConfigError as error:
            faults += [f"[{name}] {fault}" for fault in error.faults]
    faults += _clashes(parts, tables.get("training", {}))
    if faults:
        raise SpecError(source, faults)
    return StudySpec(**parts)


def lay_over(tables: dict[str, Any], setting: str) -> None:
    """Change a line of the tables as `TABLE.KEY=VALUE` says; raises SpecError if it says none."""
    where, equals, text = setting.partition("=")
    table, dot, key = where.strip().partition(".")
    if not (equals and dot and key and table):
        raise SpecError(f"--set {setting}", ["it must read TABLE.KEY=VALUE"])
    try:
        value = _toml(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    target = tables.setdefault(table, {})
    if not isinstance(target, dict):
        raise SpecError(f"--set {setting}", [f"{table} is not a table"])
    target[key] = value
    if (table, key) == ("data", "hold_out"):  # a stored study has the cells that it stood for
        target |= {"hold_out_cells": [], "report_cells": []}
    for other in {"space": ("training",), "training": ("space",)}.get(table, ()):
        tables.get(other, {}).pop(key, None)  # what was set last holds


def _read(reference: str) -> tuple[str, str]:
    beside = Path(f"{reference}.toml")
    path = beside if beside.is_file() and not Path(reference).is_file() else Path(reference)
    if path.is_file():
        try:
            return str(path), contents(path, LARGEST).decode("utf-8")
        except (OSError, UnicodeDecodeError, UntrustedError) as error:
            raise SpecError(reference, [f"it cannot be read: {error}"]) from error
    if reference in shipped():
        return reference, (resources.files("studies") / f"{reference}.toml").read_text("utf-8")
    raise SpecError(
        reference,
        [
            "there is no such file, nor a study of that name in the database; the shipped studies "
            f"are {', '.join(shipped())}"
        ],
    )


def _toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text; ValueError if it is none, or has integers above 64 bits."""
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    rest: list[Any] = [tables]
    while rest:
        value = rest.pop()
        if isinstance(value, (dict, list)):
            rest += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("it has an integer of more than 64 bits")
    return tables


def _clashes(parts: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """A sentence for each clash between tables; a table with faults of its own is left out."""
    faults = []
    lines, training, pruner = (parts.get(name) for name in ("space", "training", "pruner"))
    if lines is not None and training is not None:
        faults += [
            f"{key} stands in both [space] and [training]: keep one"
            for key in sorted(set(lines) & set(given))
        ]
    if lines is not None and "sampler" in parts and parts["sampler"].kind == "grid":
        faults += [
            f"[space] {key} is a range: a grid needs a list of choices"
            for key, line in lines.items()
            if isinstance(line, space.Range)
        ]
    if training and pruner and pruner.kind != "none" and pruner.min_epochs > training.epochs:
        faults.append(
            f"[pruner] min_epochs ({pruner.min_epochs}) is above [training] epochs "
            f"({training.epochs}), so nothing could ever be pruned: lower it, too, or set "
            "[pruner] kind to none"
        )
    if "slurm" in parts and parts["slurm"].memory_gb:
        faults += [
            f"[slurm] memory_gb and extra {key.replace('_', '-')} exclude each other: "
            "memory_gb = 0 leaves the first out"
            for key in sorted(MEMORY & {*parts["slurm"].extra_options})
        ]
    if training and training.eval_every:
        faults.append(
            "[training] eval_every must be 0 in a study: pruning compares trials epoch by epoch"
        )
    if training and training.objective == "held_out_nll" and "data" in parts:
        if not (parts["data"].hold_out_cells or parts["data"].hold_out):
            faults.append(
                "[training] objective = 'held_out_nll' needs cells that are held out: name some in "
                "[data] hold_out_cells, have [data] hold_out = 'interior', or choose 'val_nll'"
            )
    return faults
