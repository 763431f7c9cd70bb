"""The search space: lines of `[space]` -> Optuna's suggestions -> the configs of a trial.

A line names a field of `FlowConfig` or `TrainConfig`. Other fields keep the value of `[training]`
or the default.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
from pydantic import PlainValidator

from data_prep.errors import suggestion
from data_prep.untrusted import is_finite
from models.config import ConfigError, FlowConfig, TrainConfig, checked

if TYPE_CHECKING:
    from optuna import Trial

FLOW = frozenset(one.name for one in dataclasses.fields(FlowConfig))
TRAINING = frozenset(one.name for one in dataclasses.fields(TrainConfig)) - {
    # Equal in all trials of a study: pruning compares epochs, seeds follow from the number, and a
    # bag is for members of an ensemble.
    "epochs",
    "objective",
    "seed",
    "bag",
    "device",
    "memory_mb",
    "max_minutes",
    "eval_every",
}


def _number(value: object) -> object:
    if not is_finite(value):
        raise ValueError(f"must be a finite number, got {value!r}")
    return value


Number = Annotated[int | float, PlainValidator(_number)]


@checked
class Range:
    """A searched interval: integers when both ends are, else floats."""

    low: Number
    """Smallest value."""
    high: Number
    """Largest value, which can be chosen too."""
    log: bool = False
    """Whether the logarithm is searched evenly."""
    step: Number | None = None
    """Distance between values, counted from `low`."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got low = {self.low}, high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must lie above 0, got low = {self.low}")
        if self.step is None:
            return
        if self.log:
            raise ValueError("a logarithmic range takes no step")
        if self.step <= 0:
            raise ValueError(f"step must be above 0, got {self.step}")
        if isinstance(self.low, int) and isinstance(self.high, int) and self.step != int(self.step):
            raise ValueError(f"a range of integers takes a whole step, got {self.step}")


Scalar = bool | int | float | str
Dimension = Scalar | list[Scalar] | Range
"""One line of `[space]`: a fixed value, a list of choices, or a range."""


def suggest(
    trial: Trial,
    space: Mapping[str, Dimension],
    flow: FlowConfig,
    training: TrainConfig,
    *,
    seed: int,
) -> tuple[FlowConfig, TrainConfig]:
    """The configs of a trial, its parameters suggested by the study's sampler.

    Fields that the space does not name keep the values of `flow` and `training`. A continued trial
    gets its earlier parameters again.
    """
    chosen = {key: _suggest_one(trial, key, line) for key, line in space.items()}
    return resolve(chosen, flow, dataclasses.replace(training, seed=seed))


def resolve(
    chosen: Mapping[str, Any], flow: FlowConfig, training: TrainConfig
) -> tuple[FlowConfig, TrainConfig]:
    """The configurations with the chosen values laid over their defaults.

    Raises:
        ValueError: From the configurations' own checks.
    """
    shape = {key: value for key, value in chosen.items() if key in FLOW}
    train = {key: value for key, value in chosen.items() if key in TRAINING}
    return dataclasses.replace(flow, **shape), dataclasses.replace(training, **train)


def grid(space: Mapping[str, Dimension]) -> list[dict[str, Scalar]]:
    """Every combination of the listed choices, the last line of the space varying fastest."""
    lists = {key: line for key, line in space.items() if isinstance(line, list)}
    return [dict(zip(lists, point, strict=True)) for point in itertools.product(*lists.values())]


def largest(
    space: Mapping[str, Dimension], flow: FlowConfig, training: TrainConfig
) -> list[tuple[FlowConfig, TrainConfig]]:
    """The configs of the space with the highest numbers, for each choice of what is no number that
    is possible.
    """
    tops = {key: line.high if isinstance(line, Range) else line for key, line in space.items()}
    texts = {k: v for k, v in tops.items() if isinstance(v, list) and isinstance(v[0], bool | str)}
    most = {k: max(v) if isinstance(v, list) else v for k, v in tops.items() if k not in texts}
    found = []
    for point in grid(texts):
        with contextlib.suppress(ConfigError):  # a trial that has it tells so
            found.append(resolve(most | point, flow, training))
    return found


def default_point(
    space: Mapping[str, Dimension], flow: FlowConfig, training: TrainConfig
) -> dict[str, Scalar]:
    """What a trial without a sampler would have, as far as it lies in the space."""
    given = dataclasses.asdict(flow) | dataclasses.asdict(training)
    searched = {key: line for key, line in space.items() if isinstance(line, list | Range)}
    return {key: given[key] for key, line in searched.items() if fits(given[key], line)}


def fits(value: Scalar, line: Dimension) -> bool:
    """Whether a line of the space can have this value."""
    if isinstance(line, list):
        return value in line
    if not isinstance(line, Range):
        return value == line
    if isinstance(value, bool | str) or not line.low <= value <= line.high:
        return False
    whole = isinstance(line.low, int) and isinstance(line.high, int)
    if line.step is not None or whole:
        steps = (value - line.low) / (line.step or 1)
        return abs(steps - round(steps)) < 1e-9
    return True


def seed_of(study_seed: int, number: int) -> int:
    """The seed of one trial: follows from study and number, unlike any neighbour's."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0])


def lines_of(table: Mapping[str, Any]) -> dict[str, Dimension]:
    """The lines of a `[space]`, each checked against the options that it names.

    Raises:
        ConfigError: If a line leads to an impossible configuration. Lists every fault.
    """
    lines: dict[str, Dimension] = {}
    faults: list[str] = []
    for key, line in table.items():
        try:
            lines[key] = Range(**line) if isinstance(line, Mapping) else line
            faults += _faults(key, lines[key])
        except ConfigError as error:
            faults += [f"{key}: {fault}" for fault in error.faults]
    if not faults:
        faults += _together(lines)
    if faults:
        raise ConfigError(*faults)
    return lines


def _together(lines: Mapping[str, Dimension]) -> list[str]:
    """The sentences for lines that exclude each other, whatever is chosen of the others."""
    most = {key: line.high if isinstance(line, Range) else line for key, line in lines.items()}
    layers = most.get("blocks", FlowConfig().blocks)
    most["blocks"] = max(layers) if isinstance(layers, list) else layers
    try:
        resolve(
            {k: v for k, v in most.items() if not isinstance(v, list)}, FlowConfig(), TrainConfig()
        )
    except ConfigError as error:
        return list(error.faults)
    return []


def _faults(key: str, line: Dimension) -> list[str]:
    """The sentences for a line: of its key, its form, and the configurations that it leads to."""
    if key not in FLOW | TRAINING:
        return [f"has no key {key!r}: {suggestion(key, FLOW | TRAINING, otherwise='it takes')}"]
    values = [line.low, line.high] if isinstance(line, Range) else line
    values = values if isinstance(values, list) else [values]
    if not values:
        return [f"{key} lists no choice"]
    if len({repr(choice) for choice in values}) < len(values):
        return [f"{key} lists a choice twice: {line}"]
    faults: dict[str, None] = {}
    for value in values:
        try:
            resolve({key: value}, FlowConfig(blocks=1), TrainConfig())
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
    return list(faults)


def _suggest_one(trial: Trial, key: str, line: Dimension) -> Scalar:
    if isinstance(line, list):
        return cast("Scalar", trial.suggest_categorical(key, line))
    if not isinstance(line, Range):
        return line
    if isinstance(line.low, int) and isinstance(line.high, int):
        step = 1 if line.step is None else int(line.step)
        return trial.suggest_int(key, line.low, line.high, step=step, log=line.log)
    step_size = None if line.step is None else float(line.step)
    return trial.suggest_float(key, line.low, line.high, step=step_size, log=line.log)
