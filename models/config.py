"""`FlowConfig` and `TrainConfig`: everything that decides what a flow is and how it is fitted.

Plain frozen data, checked where it is made. Imports no torch, so that reading a study is quick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from data_prep.errors import InputError

KINDS = ("spline", "affine")
"""Autoregressive layers that a flow can be made of."""
COORDINATES = ("log_ratio", "log_total", "log")
CONDITIONERS = ("separate", "masked")
ACTIVATIONS = ("relu", "tanh", "silu", "gelu")
SCHEDULES = ("cosine", "plateau", "constant")
RATE_UNITS = ("epoch", "second")
DEVICES = ("auto", "cpu", "cuda")
OBJECTIVES = {"val_nll": "validation NLL", "held_out_nll": "held-out NLL"}
"""What can decide between epochs and between trials, and what a sentence calls it."""
FREE_TO_CHANGE = ("device", "memory_mb", "max_minutes")
"""Options with which a training may go on differently: they decide where and how long it runs."""


class ConfigError(InputError):
    """An option that cannot be used. The message lists every fault of the config."""


class _Checked:
    """What both configs share: strict types, ranges, and reading back what was stored."""

    __slots__ = ()
    _added: ClassVar[Mapping[str, Any]] = {}
    """What a config stored before an option was there had in its place."""

    def _faults(self) -> list[str]:
        raise NotImplementedError

    def __post_init__(self) -> None:
        faults = _type_faults(self) or self._faults()
        if faults:
            raise ConfigError("; ".join(faults))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The config that was stored; an option it does not have is as it was before it was added.

        Raises:
            ConfigError: If an option is unknown or out of its range.
        """
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(stored) - known):
            raise ConfigError(
                f"{cls.__name__} has no option {', '.join(map(repr, unknown))}: "
                f"it takes {', '.join(sorted(known))}"
            )
        return cls(**{**cls._added, **stored})


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowConfig(_Checked):
    """The shape of a flow."""

    kind: str = "spline"
    """What the autoregressive layers do to a feature: bend it by a spline, or shift and scale."""
    coordinates: str = "log_ratio"
    """Of the first two positive event columns of one unit, such as two masses: log x0 and
    log(x1 / x0), log(x0 + x1) and log(x1 / x0), or the logarithm of each."""
    blocks: int = 2
    """Autoregressive layers; the order of the features is reversed between two of them."""
    bins: int = 16
    """Pieces of each spline."""
    bound: float = 5.0
    """Splines reach to this many standard deviations; beyond, the tails are those of a normal."""
    conditioner: str = "separate"
    """A network for each feature, or a masked one for all of a layer."""
    hidden: int = 48
    """Units in each hidden layer of a network."""
    depth: int = 2
    """Hidden layers in a network."""
    residual: bool = False
    """Whether every hidden layer after the first adds to the one before (separate networks)."""
    activation: str = "silu"
    """Of the hidden units."""
    normalise: bool = False
    """Whether each layer's features are scaled and shifted to the spread that the first batch has
    there. Constants, learned further on: what a row gets does not depend on its batch."""

    _added: ClassVar[Mapping[str, Any]] = {
        "coordinates": "log",
        "bins": 32,
        "bound": 5.0,
        "conditioner": "masked",
        "residual": False,
        "normalise": False,
    }

    def _faults(self) -> list[str]:
        masked = "residual = true needs conditioner = 'separate', got 'masked'"
        return [
            *_choice("kind", self.kind, KINDS),
            *_choice("coordinates", self.coordinates, COORDINATES),
            *_within("blocks", self.blocks, 1, 100),
            *_within("bins", self.bins, 1, 1024),
            *_within("bound", self.bound, 1, 100),
            *_choice("conditioner", self.conditioner, CONDITIONERS),
            *_within("hidden", self.hidden, 1, 8192),
            *_within("depth", self.depth, 1, 10),
            *([masked] if self.residual and self.conditioner == "masked" else []),
            *_choice("activation", self.activation, ACTIVATIONS),
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(_Checked):
    """How one flow is fitted to the training split."""

    epochs: int = 120
    """Passes over the training split, unless something below ends it before."""
    batch_size: int = 1024
    """Rows per gradient step."""
    learning_rate: float = 1e-2
    """Highest step size of AdamW."""
    weight_decay: float = 0.0
    """Of weight matrices, not of biases."""
    schedule: str = "cosine"
    """cosine falls to 0 at the last planned step, plateau only over the last 30 %; constant stays.
    With `max_minutes`, at the end of that time if it comes first."""
    warmup: float = 0.02
    """Fraction of the planned steps over which the learning rate rises to its highest."""
    clip_norm: float = 5.0
    """Longest gradient that is not shortened, in nats per unit of the weights."""
    ema: float = 0.999
    """Weight of the past in the averaged weights, which are those that are evaluated and kept;
    0 = no averaging."""
    jitter: float = 0.7
    """How far conditions are moved towards the neighbouring values of the grid while training, so
    that the flow interpolates: 0 = not at all, 1 = up to those values; less where there are more
    than 1,500 rows in a cell on average."""
    eval_every: int = 0
    """Steps between two evaluations of the validation split; 0 = at the end of each epoch."""
    objective: str = "val_nll"
    """val_nll, or held_out_nll, which needs held-out cells: the NLL that decides which weights are
    the best and when to stop, and by which trials are ranked and pruned."""
    patience: int = 15
    """Evaluations without a better objective before stopping; 0 = never."""
    min_rate: float = 0.0
    """Stop when the smoothed objective falls by less nats per unit; 0 = never."""
    rate_per: str = "epoch"
    """Unit of `min_rate`: epoch or second. Only the first is the same on every machine."""
    rate_smoothing: float = 0.8
    """Weight of the past in the smoothed objective, 0 = no smoothing."""
    max_minutes: float | None = None
    """Time budget of the training, over all restarts."""
    seed: int = 0
    """Of the weights and the order of the rows. Same seed, same machine: same flow."""
    memory_mb: float = 512.0
    """Decoded rows are kept in memory after the first pass if they fit in this."""
    device: str = "auto"
    """auto = CUDA where there is one."""
    tf32: bool = False
    """Whether a GPU that can may multiply matrices with 10 bits of mantissa: faster, less exact."""

    _added: ClassVar[Mapping[str, Any]] = {
        "objective": "val_nll",
        "ema": 0.0,
        "jitter": 0.0,
        "tf32": False,
    }

    def _faults(self) -> list[str]:
        minutes = self.max_minutes
        return [
            *_within("epochs", self.epochs, 1, 1_000_000),
            *_within("batch_size", self.batch_size, 1, 10_000_000),
            *_between("learning_rate", self.learning_rate, 0, 1),
            *_within("weight_decay", self.weight_decay, 0, 10),
            *_choice("schedule", self.schedule, SCHEDULES),
            *_within("warmup", self.warmup, 0, 0.5),
            *_between("clip_norm", self.clip_norm, 0, math.inf),
            *_within("ema", self.ema, 0, 0.999999),
            *_within("jitter", self.jitter, 0, 1),
            *_within("eval_every", self.eval_every, 0, 1_000_000_000),
            *_choice("objective", self.objective, tuple(OBJECTIVES)),
            *_within("patience", self.patience, 0, 1_000_000),
            *_within("min_rate", self.min_rate, 0, 1e6),
            *_choice("rate_per", self.rate_per, RATE_UNITS),
            *_within("rate_smoothing", self.rate_smoothing, 0, 0.999),
            *([] if minutes is None else _between("max_minutes", minutes, 0, math.inf)),
            *_within("seed", self.seed, 0, 2**63 - 1),
            *_within("memory_mb", self.memory_mb, 0, 1e9),
            *_choice("device", self.device, DEVICES),
        ]


def _type_faults(config: Any) -> list[str]:
    """A sentence for every option of another type than it is declared with."""
    faults = []
    for field in fields(config):
        value, declared = getattr(config, field.name), str(field.type)
        allowed = {
            "int": (int,),
            "float": (int, float),
            "float | None": (int, float, type(None)),
            "str": (str,),
            "bool": (bool,),
        }[declared]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            faults.append(f"{field.name} must be of type {declared}, got {value!r}")
    return faults


def _choice(name: str, value: str, choices: tuple[str, ...]) -> list[str]:
    if value in choices:
        return []
    return [f"{name} must be one of {', '.join(choices)}, got {value!r}"]


def _within(name: str, value: float, low: float, high: float) -> list[str]:
    if low <= value <= high:
        return []
    return [f"{name} must lie in [{low:g}, {high:g}], got {value}"]


def _between(name: str, value: float, low: float, high: float) -> list[str]:
    if low < value < high:
        return []
    return [f"{name} must lie in ({low:g}, {high:g}), got {value}"]
