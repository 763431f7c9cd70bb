"""The layout of a flow's weights, as its description implies it, and its formulas' fixed numbers.

A program that makes a flow of a file asks here first: the description is checked, and the weights
must have the names and shapes that it implies, so that a stranger's file takes no more memory than
it has bytes. Needs no torch.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import NOT_CONDITIONS, Column
from data_prep.untrusted import is_finite
from models import boxes, patterns
from models.config import ConfigError, FlowConfig
from models.patterns import Pattern, rest_of

Value = TypeVar("Value")
Shapes = Iterator[tuple[str, tuple[int, ...]]]
NET = "net._transform._transforms"
"""Prefix of the layers' weights; the number of the layer comes next."""
BASE = "net._distribution.network"
"""Prefix of the weights of a mixture's network."""
FLOATS = ("float32", "float64")
_DTYPES = {"positive_K": ("bool",), "initialized": ("bool",), "_permutation": ("int64",)}
"""Types of arrays that are not made of floats, by the end of their name."""
MEMBERS = "members"
"""Key of an ensemble's description that lists its flows'; prefix of their weights."""
CHOOSER, FLOWS = "chooser", "parts"
"""Prefixes of the weights of a flow with atoms: of what chooses a pattern, of their flows."""

SMALLEST_BIN = 3e-3
"""Least width and height of a spline's bin, relative to the sum of all before it was added."""
SMALLEST_SLOPE = 3e-2
"""Least derivative at an edge between two bins."""
LARGEST_RAW = 20.0
"""Raw widths and heights beyond this change nothing: all other bins are at their least by then."""
UNIT_SLOPE = math.log(math.expm1(1 - SMALLEST_SLOPE))
"""The raw derivative that makes a slope of 1, which the curve has at both ends."""
LOG_SCALE_LAYER, LOG_SCALE_TOTAL = 3.0, 30.0
"""Largest |log-scale| of one affine layer and of all: e^30, squared, is still a float32."""
TINY, HUGE = 1.2e-38, 3.4e38
"""Smallest and largest float32 that a positive column can take when drawn: never 0, never inf."""


def members_of(
    description: Mapping[str, Any], state: Mapping[str, Any]
) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Description and state dict of each flow of an ensemble, or of the single flow.

    Raises:
        KeyError, TypeError, ValueError: If the two do not belong together.
    """
    if MEMBERS not in description:
        return [(description, dict(state))]
    own: dict[str, dict[str, Any]] = {}
    for name, value in state.items():
        head, _, rest = name.partition(".")
        number, _, rest = rest.partition(".")
        own.setdefault(number if head == MEMBERS else name, {})[rest] = value
    names = [str(k) for k in range(len(description[MEMBERS]))]
    if not names or set(names) != set(own):
        raise ValueError(f"there are weights of other than {len(names)} members")
    return list(zip(description[MEMBERS], (own[name] for name in names), strict=True))


def below(state: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """The entries whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A flow's description, read and checked."""

    config: FlowConfig
    event_columns: tuple[Column, ...]
    condition_columns: tuple[Column, ...]
    domain: dict[str, tuple[float, float]]
    patterns: tuple[Pattern, ...] = ()
    """Of a flow of columns with atoms."""
    regions: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Of scattered conditions: lowest and highest value of each in each region of the data."""

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Layout:
        """The layout that `ConditionalFlow.describe()` implies.

        Raises:
            KeyError, TypeError, ValueError: If it describes no flow.
        """
        events, conditions = (
            tuple(Column(**column) for column in description[f"{what}_columns"])
            for what in ("event", "condition")
        )
        names = [column.name for column in (*events, *conditions)]
        if not events or len(set(names)) < len(names):
            raise ValueError("a flow has at least one event column, and no column twice")
        for column in conditions:
            if column.name in NOT_CONDITIONS:
                raise ValueError(f"no condition can be called {column.name!r}: rename it")
        return cls(
            config=FlowConfig.from_dict(description["config"]),
            event_columns=events,
            condition_columns=conditions,
            domain=_domain(description["domain"], conditions),
            patterns=patterns.check(description.get("patterns", ()), events),
            regions=_regions(description.get("regions", ()), conditions),
        )

    def parts(self) -> dict[int, Layout]:
        """Of each pattern that leaves columns to a density, the layout of their flow."""
        rest = [rest_of(pattern, self.event_columns) for pattern in self.patterns]
        return {
            k: replace(self, event_columns=columns, patterns=())
            for k, columns in enumerate(rest)
            if columns
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse weights of another flow; the state dict holds arrays of any library.

        Raises:
            ValueError: If one is missing, too many, or of another shape. Names it.
        """
        count = 0
        for name, shape in self.shapes():
            if name not in state:
                raise ValueError(f"there is no {name}")
            if tuple(state[name].shape) != shape:
                raise ValueError(f"{name} is of shape {tuple(state[name].shape)}, not {shape}")
            count += 1
        if count < len(state):
            raise ValueError(f"it has {len(state)} arrays, where the flow has {count}")
        for what, columns in self._columns.items():
            if state[f"{what}.positive_K"].tolist() != [column.positive for column in columns]:
                raise ValueError(f"{what}.positive_K is not what its columns say")

    def shapes(self) -> Shapes:
        """Name and shape of every entry of the state dict, one by one."""
        for what, columns in self._columns.items():
            for part in ("positive", "mean", "spread"):
                yield f"{what}.{part}_K", (len(columns),)
        yield from self._layers()

    def _layers(self) -> Shapes:
        if self.patterns:
            inputs = len(inputs_of(self.condition_columns))
            yield from self._network(CHOOSER, inputs, len(self.patterns), self.config)
            for k, part in self.parts().items():
                yield from ((f"{FLOWS}.{k}.{name}", shape) for name, shape in part._layers())
            return
        features, place = len(self.event_columns), 0
        for block in range(self.config.blocks):
            if block:
                yield f"{NET}.{place}._permutation", (features,)
                place += 1
            if self.config.normalise:
                yield f"{NET}.{place}.initialized", ()
                yield f"{NET}.{place}.log_scale", (features,)
                yield f"{NET}.{place}.shift", (features,)
                place += 1
            yield from self._conditioner(f"{NET}.{place}.autoregressive_net")
            place += 1
        if self.config.base == "mixture":
            inputs = len(inputs_of(self.condition_columns))
            outputs = boxes.parameters_of(features) * self.config.components
            yield from self._network(BASE, inputs, outputs, self.config.of_base)

    @property
    def _columns(self) -> dict[str, tuple[Column, ...]]:
        """By the names of what standardises them."""
        if not self.patterns:
            return {"events": self.event_columns, "conditions": inputs_of(self.condition_columns)}
        of_parts = {
            f"{FLOWS}.{k}.{name}": columns
            for k, part in self.parts().items()
            for name, columns in part._columns.items()
        }
        return {"conditions": inputs_of(self.condition_columns), **of_parts}

    def _network(self, name: str, inputs: int, outputs: int, config: FlowConfig) -> Shapes:
        sizes = [inputs, *[config.hidden] * config.depth, outputs]
        for number, (columns, rows) in enumerate(pairwise(sizes)):
            yield f"{name}.weight.{number}", (rows, columns)
            yield f"{name}.bias.{number}", (rows, 1)

    def _conditioner(self, name: str) -> Shapes:
        config, outputs = self.config, parameters_of(self.config)
        features, conditions = len(self.event_columns), len(inputs_of(self.condition_columns))
        if config.conditioner == "separate":
            for f in range(features):
                yield from self._network(f"{name}.networks.{f}", conditions + f, outputs, config)
            return
        groups = masked_groups(config, features, conditions, outputs)
        for number, (inputs, units) in enumerate(pairwise(groups)):
            layer, columns = f"{name}.layers.{number}", 0
            for group, rows in enumerate(units):
                yield f"{layer}.first.{group}", (rows, inputs[0])
                yield f"{layer}.bias.{group}", (rows, 1)
                if group:
                    columns += inputs[group]
                    yield f"{layer}.weight.{group - 1}", (rows, columns)


def inputs_of(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns that a flow sees of these: of a category one for each of its texts, 0 or 1."""
    return tuple(
        one
        for column in columns
        for one in ([Column(text, "") for text in column.categories] or [column])
    )


def parameters_of(config: FlowConfig) -> int:
    """Parameters of one feature: scale and shift, or widths, heights and slopes between bins."""
    return 2 if config.kind == "affine" else 3 * config.bins - 1


def masked_groups(
    config: FlowConfig, features: int, conditions: int, outputs: int
) -> list[list[int]]:
    """Sizes of the groups of units of a masked network: of its inputs, and of every layer.

    Raises:
        ConfigError: If a feature is left without a hidden unit of its own.
    """
    if config.hidden < features:
        raise ConfigError(
            f"hidden must be at least the number of event columns ({features}), "
            f"got {config.hidden}: each needs a hidden unit of its own"
        )
    units = [config.hidden // features] * features
    units[-1] += config.hidden % features
    return [[conditions] + [1] * (features - 1), *[units] * config.depth, [outputs] * features]


def _domain(
    stored: Mapping[str, Any], conditions: Sequence[Column]
) -> dict[str, tuple[float, float]]:
    if set(stored) != {column.name for column in conditions}:
        raise ValueError("its domain is not that of its conditions")
    domain = {}
    for column in conditions:
        for value in stored[column.name]:
            if not is_finite(value):
                raise ValueError(f"a domain is made of finite numbers, got {reprlib.repr(value)}")
        low, high = limits = tuple(map(float, stored[column.name]))
        if not (low <= high and column.holds(low) and column.holds(high)):
            raise ValueError(f"the range of {column.name} cannot be {limits}")
        domain[column.name] = (low, high)
    return domain


def _regions(
    stored: Sequence[Any], conditions: Sequence[Column]
) -> tuple[tuple[tuple[float, float], ...], ...]:
    regions = []
    for box in stored:
        if len(box) != len(conditions):
            raise ValueError("a region has two sides for each condition")
        limits = dict(zip((column.name for column in conditions), box, strict=True))
        regions.append(tuple(_domain(limits, conditions).values()))
    return tuple(regions)


def check_values(state: Mapping[str, NDArray[Any]]) -> None:
    """Raises ValueError for weights that cannot be computed with. Names the array."""
    for name, values in state.items():
        if str(values.dtype) not in _DTYPES.get(name.rpartition(".")[2], FLOATS):
            raise ValueError(f"{name} is of type {values.dtype}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds numbers that are not finite")
        if name.endswith(".spread_K") and not (values > 0).all():
            raise ValueError(f"{name} holds a spread that is not above 0")
