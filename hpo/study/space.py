"""The search space: lines of `[space]` -> what Optuna suggests -> what a trial is built from.

A line names a field of `FlowConfig` or `TrainConfig`. What the space does not name keeps the value
of `[training]` or the default.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from pydantic import ConfigDict

from data_prep.untrusted import is_finite
from models.config import FlowConfig, TrainConfig

if TYPE_CHECKING:
    from optuna import Trial

FLOW = frozenset(one.name for one in dataclasses.fields(FlowConfig))
TRAINING = frozenset(one.name for one in dataclasses.fields(TrainConfig)) - {
    # The same for all trials of a study: pruning compares epochs, and seeds follow from the number.
    "epochs",
    "objective",
    "seed",
    "device",
    "memory_mb",
    "max_minutes",
    "eval_every",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A searched interval: integers when both ends are, else floats."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    low: int | float
    """Smallest value."""

    high: int | float
    """Largest value, which can be chosen too."""

    log: bool = False
    """Whether the logarithm is what is searched evenly."""

    step: int | float | None = None
    """Distance between values, counted from `low`."""

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if value is not None and not is_finite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got low = {self.low}, high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must lie above 0, got low = {self.low}")
        if self.log and self.step is not None:
            raise ValueError("a logarithmic range takes no step")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, got {self.step}")
        if isinstance(self.low, int) and isinstance(self.high, int) and self.step:
            if self.step != int(self.step):
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
    """What this trial trains, asked of the study's sampler.

    Args:
        trial: A running trial; what it was given before it is given again.
        space: The study's `[space]`.
        flow: Values of what the space does not name.
        training: The study's `[training]`.
        seed: Of the weights and the order of rows.
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


def seed_of(study_seed: int, number: int) -> int:
    """The seed of one trial: the same for the same study and number, unlike any neighbour's."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0])


def faults_of(space: Mapping[str, Dimension], training: TrainConfig, *, grid: bool) -> list[str]:
    """A sentence for every line of the space that can lead to an impossible configuration."""
    faults = []
    for key, line in space.items():
        if grid and isinstance(line, Range):
            faults.append(f"[space] {key} is a range: a grid needs a list of choices")
        faults += sorted({sentence for sentence in _impossible(key, line, training)})
    return faults


def _impossible(key: str, line: Dimension, training: TrainConfig) -> Iterator[str]:
    """The configurations' own objections to the values that a line can take."""
    for value in _values(line):
        try:
            resolve({key: value}, FlowConfig(), training)
        except (ValueError, TypeError) as error:
            yield f"[space] {error}"


def _values(line: Dimension) -> list[Scalar]:
    if isinstance(line, list):
        return line
    if isinstance(line, str | bool | int | float):
        return [line]
    return [line.low, line.high]


def _suggest_one(trial: Trial, key: str, line: Dimension) -> Scalar:
    if isinstance(line, list):
        return cast("Scalar", trial.suggest_categorical(key, line))
    if isinstance(line, str | bool | int | float):
        return line
    if isinstance(line.low, int) and isinstance(line.high, int):
        step = 1 if line.step is None else int(line.step)
        return trial.suggest_int(key, line.low, line.high, step=step, log=line.log)
    step_size = None if line.step is None else float(line.step)
    return trial.suggest_float(key, line.low, line.high, step=step_size, log=line.log)
