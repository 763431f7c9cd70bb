"""A study file, read strictly: what to search, on which data, how to train, prune and sample.

The only reader of study TOML. Every fault of a file is listed at once. The resolved study travels
as JSON inside the Optuna study, so that a worker needs no file.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from data_prep.errors import InputError
from data_prep.untrusted import UntrustedError, contents
from hpo.study import space
from hpo.study.space import Dimension, Range, Scalar
from models.config import FlowConfig, TrainConfig

TABLES = ("study", "data", "space", "training", "pruner", "sampler", "slurm")


_OWN_OPTIONS = frozenset(
    "partition account qos constraint exclude time mem cpus_per_task gpus_per_node ntasks_per_node "
    "nodes array job_name output error open_mode signal wckey requeue".split()
)
"""Options of `sbatch` that other keys of `[slurm]`, or submitit, set."""
_SBATCH_TEXTS = ("partition", "account", "qos", "constraint", "exclude")
"""Keys of `[slurm]` that become options of that name."""
LARGEST = 2**20
"""Bytes of the largest study file that is read."""
_OPTION = re.compile(r"-{0,2}[A-Za-z][A-Za-z0-9_-]*")
"""Long name of an option of `sbatch`."""


class SpecError(InputError):
    """A study that cannot be run. The message lists every fault, not just the first."""

    def __init__(self, source: str, faults: Iterable[str]) -> None:
        super().__init__("\n  - ".join([f"{source} cannot be run:", *faults]))


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyTable:
    """`[study]`: what the study is called and how large it gets."""

    name: str
    """Name in the database and of the folder of its runs: letters, digits, `.`, `_` and `-`."""

    trials: int = 30
    """Trials in total, when `--trials` does not say."""

    workers: int = 0
    """Worker processes or jobs. 0: one for each core, at most 8."""

    seed: int = 0
    """With a trial's number, seeds the sampler, the weights and the order of the rows."""

    max_restarts: int = 3
    """How often a trial goes on after its worker died, before it counts as failed."""

    stop_after_no_improvement: int = 0
    """No new trial starts once so many ended in a row without a better one. 0: never."""

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(
                f"name must be letters, digits, '.', '_' or '-' and start with a letter or digit, "
                f"got {self.name!r}"
            )
        _at_least(self, trials=1, workers=0, seed=0, max_restarts=0, stop_after_no_improvement=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataTable:
    """`[data]`: the prepared dataset."""

    path: str = "sample"
    """Folder that `hpo prepare` wrote, seen from where `hpo` runs; `sample` is the shipped one."""

    hold_out_cells: list[dict[str, float]] = field(default_factory=list)
    """Cells that no trial is trained on, a table of every condition's value each. Their NLL is told
    separately: it says how well a flow does between the cells that it knows."""

    def __post_init__(self) -> None:
        for cell in self.hold_out_cells:
            for name, value in cell.items():
                if not math.isfinite(value):
                    raise ValueError(f"hold_out_cells has a cell with {name} = {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunerTable:
    """`[pruner]`: when a trial that does badly is ended. Resources are epochs."""

    kind: Literal["asha", "hyperband", "median", "none"] = "asha"
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), Hyperband (Li et al.
    2018, arXiv:1603.06560), the median rule, or no pruning."""

    min_epochs: int = 5
    """Epochs that every trial may train before it can be pruned; the first rung."""

    reduction_factor: int = 3
    """One trial in so many goes on from each rung to the next."""

    def __post_init__(self) -> None:
        _at_least(self, min_epochs=1, reduction_factor=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerTable:
    """`[sampler]`: how the next configuration is chosen."""

    kind: Literal["tpe", "random", "grid"] = "tpe"
    """Tree-structured Parzen estimator, independent draws, or every combination once."""

    startup_trials: int = 10
    """Random trials before the Parzen estimator begins."""

    def __post_init__(self) -> None:
        _at_least(self, startup_trials=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmTable:
    """`[slurm]`: what each worker's job asks of the cluster."""

    partition: str | None = None
    """As `sbatch --partition`; the cluster's own default where absent."""

    account: str | None = None
    """As `sbatch --account`."""

    qos: str | None = None
    """As `sbatch --qos`."""

    constraint: str | None = None
    """As `sbatch --constraint`."""

    gpus: int = 1
    """GPUs of each job."""

    cpus: int = 4
    """CPU cores of each job."""

    memory_gb: int = 16
    """Memory of each job."""

    timeout_min: int = 240
    """Time limit of each job. Trials that it cuts off are gone on with."""

    setup: list[str] = field(default_factory=list)
    """Shell lines that run before the worker, such as `module load cuda`."""

    exclude: str | None = None
    """Nodes not to be used, as `sbatch --exclude`."""

    extra: dict[str, str | int | bool] = field(default_factory=dict)
    """Any other option of `sbatch` by its long name, such as `reservation = "ligo"`."""

    workers_per_gpu: int = 1
    """Workers that share each GPU of a job, and its cores and memory evenly: small flows do not
    fill one. Without GPUs, workers of a job."""

    def __post_init__(self) -> None:
        _at_least(self, gpus=0, cpus=1, memory_gb=1, timeout_min=1, workers_per_gpu=1)
        asked = {each: getattr(self, each) for each in _SBATCH_TEXTS} | self.extra
        for key, value in asked.items():
            # A line break would end the comment that sbatch reads, and what follows would be run.
            if isinstance(value, str) and not value.isprintable():
                raise ValueError(f"{key} must be one line of printable text, got {value!r}")
        for key in self.extra:
            if not _OPTION.fullmatch(key):
                raise ValueError(f"extra has {key!r}, which is no long name of an option of sbatch")
            if key.lstrip("-").replace("-", "_") in _OWN_OPTIONS:
                raise ValueError(f"extra has {key!r}, which is set otherwise: see the other keys")

    @property
    def tasks(self) -> int:
        """Workers of each job."""
        return max(1, self.gpus) * self.workers_per_gpu


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
    """Defaults of what `[space]` does not name. No table of the file, but stored with the study, so
    that a later version with other defaults goes on with these."""

    def to_json(self) -> str:
        """The resolved study as one line of JSON, which `from_json` takes back."""
        tables = dataclasses.asdict(self)
        for key in self.space:  # decided there: the others hold only defaults
            tables["training"].pop(key, None)
            tables["flow"].pop(key, None)
        return json.dumps(tables)

    @staticmethod
    def from_json(text: str) -> StudySpec:
        """The study that `to_json` wrote."""
        return parse(json.loads(text), source="the stored study", known=(*TABLES, "flow"))


def shipped() -> list[str]:
    """Names of the studies that come with the package."""
    folder = resources.files("studies")
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml"))


def load(reference: str, *, settings: Sequence[str] = (), name: str | None = None) -> StudySpec:
    """Read a study file, with the command line's changes laid over it.

    Args:
        reference: Path of a TOML file, or the name of a shipped study such as `bbh`.
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
        _lay_over(tables, setting)
    if name is not None:
        tables.setdefault("study", {})["name"] = name
    return parse(tables, source=source)


def parse(tables: Mapping[str, Any], *, source: str, known: Sequence[str] = TABLES) -> StudySpec:
    """The study that the tables describe; `source` is what an error calls it.

    Raises:
        SpecError: With every fault of the tables.
    """
    faults = unknown_keys(tables, known, where=None)
    parts: dict[str, Any] = {}
    for part in fields(StudySpec):
        table = tables.get(part.name, {})
        if not isinstance(table, Mapping):
            faults.append(f"{part.name} must be a table, [{part.name}], not {table!r}")
        elif part.name == "space":
            parts["space"], found = _space(table)
            faults += found
        else:
            parts[part.name], found = _table(_TYPES[part.name], table, where=part.name)
            faults += found
    if all(parts.get(name) is not None for name in ("space", "training", "pruner", "sampler")):
        faults += space.faults_of(
            parts["space"], parts["training"], grid=parts["sampler"].kind == "grid"
        )
        faults += _clashes(parts, tables.get("training", {}))
    if parts.get("data") is not None and parts.get("training") is not None:
        faults += _without_purpose(parts["data"], parts["training"])
    if faults:
        raise SpecError(source, faults)
    return StudySpec(**parts)


def unknown_keys(table: Iterable[str], known: Iterable[str], *, where: str | None) -> list[str]:
    """A sentence for every key that nothing reads, so that a typo cannot pass for a default."""
    allowed = sorted(known)
    holder = f"[{where}]" if where else "a study file"
    what = "key" if where else "table"
    faults = []
    for key in sorted(set(table) - set(allowed)):
        near = difflib.get_close_matches(key, allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(allowed)}"
        faults.append(f"{holder} has no {what} {key!r}: {hint}")
    return faults


def is_name(text: str) -> bool:
    """Whether `text` can name a study: it becomes a folder and part of a job's name."""
    plain = text.replace(".", "").replace("_", "").replace("-", "")
    return text[:1].isalnum() and plain.isalnum() and text.isascii() and len(text) <= 80


_TYPES: dict[str, type] = {
    "study": StudyTable,
    "data": DataTable,
    "training": TrainConfig,
    "pruner": PrunerTable,
    "sampler": SamplerTable,
    "slurm": SlurmTable,
    "flow": FlowConfig,
}


def _read(reference: str) -> tuple[str, str]:
    path = Path(reference)
    if path.is_file():
        try:
            return reference, contents(path, LARGEST).decode("utf-8")
        except (OSError, UnicodeDecodeError, UntrustedError) as error:
            raise SpecError(reference, [f"it cannot be read: {error}"]) from error
    if reference in shipped():
        return reference, (resources.files("studies") / f"{reference}.toml").read_text("utf-8")
    raise SpecError(
        reference, [f"there is no such file; the shipped studies are {', '.join(shipped())}"]
    )


def _toml(text: str) -> dict[str, Any]:
    """What the text says. Raises ValueError if it is not TOML, whose integers have 64 bits."""
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


def _lay_over(tables: dict[str, Any], setting: str) -> None:
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
    for other in {"space": ("training",), "training": ("space",)}.get(table, ()):
        tables.get(other, {}).pop(key, None)  # what was set last holds


def _table(kind: type, table: Mapping[str, Any], *, where: str) -> tuple[Any, list[str]]:
    known = {one.name for one in fields(kind)}
    faults = unknown_keys(table, known, where=where)
    given = {key: value for key, value in table.items() if key in known}
    value, found = _validated(kind, given, where=f"[{where}]")
    return value, faults + found


def _space(table: Mapping[str, Any]) -> tuple[dict[str, Dimension], list[str]]:
    lines: dict[str, Dimension] = {}
    faults = unknown_keys(table, space.FLOW | space.TRAINING, where="space")
    for key, line in table.items():
        kind = Range if isinstance(line, Mapping) else list[Scalar]
        choices = isinstance(line, list)
        value, found = _validated(
            kind, line if choices or kind is Range else [line], where=f"[space] {key}"
        )
        faults += found
        if not found:
            lines[key] = value if choices or kind is Range else value[0]
        if choices and not line:
            faults.append(f"[space] {key} lists no choice")
        if choices and len({repr(choice) for choice in line}) < len(line):
            faults.append(f"[space] {key} lists a choice twice: {line}")
    return lines, faults


def _validated(kind: Any, value: Any, *, where: str) -> tuple[Any, list[str]]:
    """The value in its type, or a sentence for each thing that is wrong with it."""
    try:
        # JSON's strictness is TOML's: a text is no number, and a list may stand for a tuple.
        return TypeAdapter(kind).validate_json(json.dumps(value, default=str), strict=True), []
    except ValidationError as error:
        return None, [_sentence(one, where) for one in error.errors()]


def _sentence(error: Any, where: str) -> str:
    place = " ".join([where, *(str(part) for part in error["loc"])])
    if error["type"] == "value_error":
        return f"{place}: {error['ctx']['error']}"
    if error["type"] == "missing":
        return f"{place} is missing"
    return f"{place}: {error['msg'].lower()}, got {error['input']!r}"


def _clashes(parts: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    """What each table allows but not all of them together."""
    faults = [
        f"{key} stands in both [space] and [training]: keep one"
        for key in sorted(set(parts["space"]) & set(training))
    ]
    least, epochs = parts["pruner"].min_epochs, parts["training"].epochs
    if parts["pruner"].kind != "none" and least > epochs:
        faults.append(
            f"[pruner] min_epochs ({least}) is above [training] epochs ({epochs}), so nothing "
            "could ever be pruned"
        )
    if parts["training"].eval_every:
        faults.append(
            "[training] eval_every must be 0 in a study: pruning compares trials epoch by epoch"
        )
    return faults


def _without_purpose(data: DataTable, training: TrainConfig) -> list[str]:
    if training.objective != "held_out_nll" or data.hold_out_cells:
        return []
    return [
        "[training] objective = 'held_out_nll' needs cells that are held out: name some in [data] "
        "hold_out_cells, or choose 'val_nll'"
    ]


def _at_least(table: Any, **bounds: int) -> None:
    for key, bound in bounds.items():
        if getattr(table, key) < bound:
            raise ValueError(f"{key} must be at least {bound}, got {getattr(table, key)}")
