"""`FlowConfig` and `TrainConfig`: everything that decides what a flow is and how it is fitted.

Plain frozen data, checked by pydantic where it is made. Imports no torch, so that reading a study
is quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, dataclass_transform

import pydantic
from annotated_types import Interval
from pydantic_core import ArgsKwargs

from data_prep.errors import InputError, suggestion

Base = Literal["normal", "mixture"]
Kind = Literal["spline", "affine"]
Coordinates = Literal["log_ratio", "log_total", "log"]
Conditioner = Literal["separate", "masked"]
ActivationName = Literal["relu", "tanh", "silu", "gelu"]
Blend = Literal["distance", "rows"]
Objective = Literal["val_nll", "held_out_nll"]
OBJECTIVES: Mapping[str, str] = {"val_nll": "validation NLL", "held_out_nll": "held-out NLL"}
"""The NLLs that can decide between epochs and between trials, as a sentence calls them."""
FREE_TO_CHANGE = ("device", "memory_mb", "max_minutes")
"""Options with which a training may go on differently: they decide where and how long it runs."""

Positive = Annotated[float, Interval(gt=0)]
T = TypeVar("T")

NUMBER, TEXT = "[number]", "[text]"
"""How pydantic's errors call the choices of `Value`."""
Value = Annotated[
    Annotated[float, pydantic.Tag(NUMBER)] | Annotated[str, pydantic.Tag(TEXT)],
    pydantic.Discriminator(lambda value: TEXT if isinstance(value, str) else NUMBER),
]
"""Of a condition, checked: a number, or a text of a category."""


class ConfigError(InputError):
    """Options that cannot be used.

    Args:
        faults: A sentence each, which opens with the option.
        of: The owner of the options; it opens the message.
    """

    def __init__(self, *faults: str, of: str = "") -> None:
        super().__init__(f"{of} {'; '.join(faults)}".strip())
        self.faults = faults


@dataclass_transform(frozen_default=True, kw_only_default=True)
def checked(cls: type[T]) -> type[T]:
    """A frozen dataclass whose options are checked strictly: a text is no number, no key unknown.

    Raises:
        ConfigError: When one is made of options that cannot be used. Lists every fault.
    """
    rules = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    made = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, slots=True, config=rules)(cls)
    known = [one.name for one in fields(made)]
    check = made.__pydantic_validator__.validate_python

    def __init__(self: T, /, **options: Any) -> None:
        try:
            check(ArgsKwargs((), options), self_instance=self)
        except pydantic.ValidationError as error:
            faults = (_sentence(one, known) for one in error.errors(include_url=False))
            raise ConfigError(*faults, of=cls.__name__) from None

    made.__init__ = __init__  # type: ignore[assignment, method-assign]
    return made  # type: ignore[return-value]


def _sentence(error: Any, known: Iterable[str]) -> str:
    """A fault that pydantic found: the option, the rule, the value."""
    place = ".".join(str(part) for part in error["loc"] if part not in ("[key]", NUMBER, TEXT))
    if error["type"] == "unexpected_keyword_argument":
        return f"has no key {place!r}: {suggestion(place, known, otherwise='it takes')}"
    if error["type"] == "missing":
        return f"{place} is missing"
    if error["type"] == "value_error":  # raised by a check of ours
        return f"{place} {error['ctx']['error']}".strip()
    rule = (
        error["msg"].replace("Input should", "must").replace("greater than or equal to", "at least")
    )
    return f"{place} {rule.replace('less than or equal to', 'at most')}, got {error['input']!r}"


class _Stored:
    """Reads back a config that was stored, by an older version, too."""

    __slots__ = ()
    added: ClassVar[Mapping[str, Any]] = {}
    """Values of options for configs that were stored before the option was added."""

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The stored config; an option that it lacks gets the value from before it was added.

        Raises:
            ConfigError: If an option is unknown or out of its range.
        """
        return cls(**{**cls.added, **stored})


@checked
class FlowConfig(_Stored):
    """The shape of a flow."""

    kind: Kind = "spline"
    """The autoregressive layers bend a feature by a spline, or shift and scale it (affine)."""
    coordinates: Coordinates = "log_ratio"
    """Of the first two positive event columns of one unit, such as two masses: log x0 and
    log(x1 / x0), log(x0 + x1) and log(x1 / x0), or the logarithm of each."""
    blocks: Annotated[int, Interval(ge=0, le=100)] = 0
    """Autoregressive layers; the order of the features is reversed between two of them. 0 leaves a
    mixture as it is."""
    bins: Annotated[int, Interval(ge=1, le=1024)] = 16
    """Pieces of each spline."""
    bound: Annotated[float, Interval(ge=1, le=100)] = 5.0
    """Splines reach to this many standard deviations; beyond, the tails are those of a normal."""
    conditioner: Conditioner = "separate"
    """A network for each feature, or a masked one for all of a layer."""
    hidden: Annotated[int, Interval(ge=1, le=8192)] = 48
    """Units in each hidden layer of a network."""
    depth: Annotated[int, Interval(ge=1, le=10)] = 2
    """Hidden layers in a network."""
    residual: bool = False
    """Whether every hidden layer after the first adds to the one before (separate networks)."""
    activation: ActivationName = "silu"
    """Of the hidden units."""
    base: Base = "mixture"
    """Density of the noise below the layers: a standard normal, or a mixture of smooth boxes whose
    parameters follow the conditions."""
    components: Annotated[int, Interval(ge=1, le=1024)] = 32
    """Of the mixture."""
    base_hidden: Annotated[int, Interval(ge=1, le=8192)] = 64
    """Units in each hidden layer of the mixture's network."""
    base_depth: Annotated[int, Interval(ge=1, le=10)] = 2
    """Hidden layers of the mixture's network."""
    smallest_width: Annotated[float, Interval(gt=1e-6, le=1)] = 3e-4
    """Least width of a box, in standard deviations of its column."""
    normalise: bool = False
    """Whether each layer's features are scaled and shifted to the spread that the first batch has
    there. Constants, learned further on: what a row gets does not depend on its batch."""

    added: ClassVar[Mapping[str, Any]] = {
        "coordinates": "log",
        "bins": 32,
        "bound": 5.0,
        "conditioner": "masked",
        "residual": False,
        "normalise": False,
        "base": "normal",
    }

    def __post_init__(self) -> None:
        if not self.blocks and self.base == "normal":
            raise ValueError("blocks = 0 needs base = 'mixture', got 'normal'")
        if self.residual and self.conditioner == "masked":
            raise ValueError("residual = true needs conditioner = 'separate', got 'masked'")

    @property
    def of_base(self) -> FlowConfig:
        """The same with the mixture's network in place of those of the layers."""
        return replace(self, hidden=self.base_hidden, depth=self.base_depth, residual=False)


@checked
class TrainConfig(_Stored):
    """How one flow is fitted to the training split."""

    epochs: Annotated[int, Interval(ge=1, le=1_000_000)] = 200
    """Passes over the training split, unless something below ends it before."""
    batch_size: Annotated[int, Interval(ge=1, le=10_000_000)] = 2048
    """Rows per gradient step."""
    learning_rate: Annotated[float, Interval(gt=0, lt=1)] = 2e-2
    """Highest step size of AdamW."""
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.0
    """Of weight matrices and of a mixture's boxes, not of biases."""
    decay_rows: Annotated[float, Interval(ge=0, le=1e9)] = 5000.0
    """Further decay, which falls with the number of training rows as a prior's part in what rows
    tell does: so many rows over their number, but at most 0.2."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """cosine falls to 0 at the last planned step, plateau only over the last 30 %; constant stays.
    With `max_minutes`, at the end of that time if it comes first."""
    warmup: Annotated[float, Interval(ge=0, le=0.5)] = 0.02
    """Fraction of the planned steps over which the learning rate rises to its highest."""
    clip_norm: Positive = 5.0
    """Longest gradient that is not shortened, in nats per unit of the weights."""
    ema: Annotated[float, Interval(ge=0, le=0.999999)] = 0.999
    """Weight of the past in the averaged weights, which are those that are evaluated and kept;
    0 = no averaging."""
    jitter: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of the steps in which the conditions of a cell are moved, up to the next values of the
    grid, so that the flow interpolates; where they are scattered, share of the way to the nearest
    point in every step. Less where there are more than 1,500 rows in a cell on average."""
    blend: Blend = "distance"
    """Half-way between two cells a flow has half of each (distance), or as much of each as it has
    rows (rows: as before this option, when `jitter` was a share of the way on a grid, too)."""
    eval_every: Annotated[int, Interval(ge=0, le=1_000_000_000)] = 0
    """Steps between two evaluations of the validation split; 0 = at the end of each epoch."""
    objective: Objective = "val_nll"
    """val_nll, or held_out_nll, which needs held-out cells: the NLL that decides which weights are
    the best and when to stop, and by which trials are ranked and pruned."""
    patience: Annotated[int, Interval(ge=0, le=1_000_000)] = 50
    """Evaluations without a better objective before stopping; 0 = never. Fewer end a training on
    few rows before its learning rate has fallen, where most of the last gain is."""
    min_rate: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    """Stop when the smoothed objective falls by less nats per unit; 0 = never."""
    rate_per: Literal["epoch", "second"] = "epoch"
    """Unit of `min_rate`: epoch or second. Only the first is the same on every machine."""
    rate_smoothing: Annotated[float, Interval(ge=0, le=0.999)] = 0.8
    """Weight of the past in the smoothed objective, 0 = no smoothing."""
    max_minutes: Positive | None = None
    """Time budget of the training, over all restarts."""
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 0
    """Of the weights and the order of the rows. Same seed, same machine: same flow."""
    bag: bool = False
    """Whether a bootstrap of the training rows takes their place, another one for each seed: for
    members of an ensemble."""
    snapshots: Annotated[int, Interval(ge=0, le=1000)] = 0
    """Weights that are kept on the way, for pictures of how the density is learned: after so many
    evaluations, more of them early. They lie in the run's folder."""
    memory_mb: Annotated[float, Interval(ge=0, le=1e9)] = 512.0
    """Decoded rows are kept in memory after the first pass if they fit in this."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = CUDA where there is one."""
    tf32: bool = False
    """Whether a GPU that can may multiply matrices with 10 bits of mantissa: faster, less exact."""

    added: ClassVar[Mapping[str, Any]] = {
        "objective": "val_nll",
        "ema": 0.0,
        "jitter": 0.0,
        "blend": "rows",
        "decay_rows": 0.0,
        "bag": False,
        "tf32": False,
    }


OF_EACH = ("hidden", "base_hidden", "components", "smallest_width", "bins")
"""Options of a flow that may differ between trainings which take their steps as one."""
OF_STACK = (
    *(option.name for option in fields(FlowConfig) if option.name not in OF_EACH),
    "batch_size",
    "tf32",
)
"""Options of a flow and of its training that such trainings have in common."""
