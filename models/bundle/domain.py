"""Conditions as a caller gives them, checked: which, how many, and inside the range of the data.

Where the conditions of the data were scattered, the range is not all: a point inside it may be far
from every row. Then the domain is also the data's regions, each box made twice as wide.

Array names end in their axes:
    N rows    C conditions    K regions
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_prep import columns as named
from data_prep.columns import Column, Value
from data_prep.dataset import shown
from data_prep.errors import DataError
from data_prep.regions import coordinates
from models.bundle.files import EmulatorError
from models.namespaces import Array, Namespace

ROUNDING = 1e-6
"""Relative distance beyond the domain that is still inside: conditions are stored as float32."""
Extrapolation = Literal["warn", "raise", "ignore"]
Floats = NDArray[np.float64]
Limits = tuple[float, float]
Domain = Mapping[str, Limits]
"""Range of each condition in the data; of a category that of the numbers of its texts."""
Known = Limits | tuple[str, ...]
"""What people see of a condition's domain: its range, or the texts of a category."""


Box = tuple[tuple[float, float], ...]
"""Lowest and highest value of each condition in a region of the data."""


class ExtrapolationWarning(UserWarning):
    """Conditions lie outside the range, or far from the rows, that the emulator was trained on."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Where a row of the training data is near."""

    low_KC: Floats
    high_KC: Floats

    @classmethod
    def common(cls, members: Iterable[Sequence[Box]], columns: Sequence[Column]) -> Self | None:
        """Where rows of all flows are near; None if none of them tells of regions."""
        return cls.met(
            [cls.of(boxes, columns) for boxes in members if boxes] if len(columns) else []
        )

    @classmethod
    def met(cls, each: Iterable[Self | None]) -> Self | None:
        """What all of these have in common; those that are None leave all open."""
        known = {
            (one.low_KC.tobytes(), one.high_KC.tobytes()): one for one in each if one is not None
        }
        return reduce(cls._and, known.values()) if known else None

    @classmethod
    def of(cls, boxes: Sequence[Box], columns: Sequence[Column]) -> Self:
        """Boxes of the data, wider by half of their size on each side.

        The width is that of the logarithm where a column is positive. A box of a single value, as
        where a condition has a grid, reaches to the next value that a box has.
        """
        box_KC2 = np.array(boxes, np.float64)
        low_KC, high_KC = (coordinates(box_KC2[..., side], columns) for side in (0, 1))
        for k, column in enumerate(columns):
            low_K, high_K = low_KC[:, k].copy(), high_KC[:, k].copy()
            below_K = above_K = (high_K - low_K) / 2
            if not column.categories:
                edges = np.unique([low_K, high_K])
                before_K = edges[np.maximum(np.searchsorted(edges, low_K) - 1, 0)]
                after_K = edges[np.minimum(np.searchsorted(edges, high_K, "right"), len(edges) - 1)]
                below_K = np.where(below_K > 0, below_K, low_K - before_K)
                above_K = np.where(above_K > 0, above_K, after_K - high_K)
            low_KC[:, k], high_KC[:, k] = low_K - below_K, high_K + above_K
            if column.positive:
                low_KC[:, k], high_KC[:, k] = np.exp(low_KC[:, k]), np.exp(high_KC[:, k])
        margin_KC = ROUNDING * np.maximum(abs(low_KC), abs(high_KC))
        return cls(low_KC - margin_KC, high_KC + margin_KC)

    def near(self, xp: Namespace, c: Array) -> Array:
        """Whether conditions `(*S, C)` are near some row, shape `S`."""
        inside_K = (
            ((c >= xp.asarray(low_C)) & (c <= xp.asarray(high_C))).all(-1)
            for low_C, high_C in zip(self.low_KC, self.high_KC, strict=True)
        )
        return reduce(lambda one, other: one | other, inside_K)

    def _and(self, other: Self) -> Self:
        columns = self.low_KC.shape[1]
        low_KC = np.maximum(self.low_KC[:, None], other.low_KC).reshape(-1, columns)
        high_KC = np.minimum(self.high_KC[:, None], other.high_KC).reshape(-1, columns)
        some_K = np.array((low_KC <= high_KC).all(axis=1))
        some_K[0] = True  # one box at least, even if nothing is in it
        return type(self)(low_KC[some_K], high_KC[some_K])


def conditions(
    columns: Sequence[Column],
    domain: Domain,
    given: Mapping[str, ArrayLike],
    rows: int,
    on_extrapolation: Extrapolation,
    regions: Regions | None = None,
) -> Floats:
    """Conditions in the order of the columns: `(rows, C)`, or `(1, C)` if all are single values.

    A category is given as text and becomes the text's number. `regions` are those of scattered
    conditions. A warning points at who called the caller.

    Raises:
        EmulatorError: If one is missing, unknown, not finite, not in its support, of
            a wrong length, none of its categories, or outside the domain under "raise".
    """
    names = [column.name for column in columns]
    if set(given) != set(names):
        missing, unknown = sorted(set(names) - set(given)), sorted(set(given) - set(names))
        raise EmulatorError(
            f"conditions are {', '.join(names) or 'none'}: "
            f"missing {', '.join(missing) or 'none'}, unknown {', '.join(unknown) or 'none'}"
        )
    if on_extrapolation not in ("warn", "raise", "ignore"):
        raise EmulatorError(
            f"on_extrapolation must be warn, raise or ignore, got {on_extrapolation!r}"
        )
    one_for_all = all(np.ndim(value) == 0 for value in given.values())
    c_NC = np.empty((min(rows, 1) if one_for_all else rows, len(columns)))
    for k, column in enumerate(columns):
        limits = domain[column.name]
        c_NC[:, k] = _condition(column, given[column.name], rows, limits, on_extrapolation)
    if on_extrapolation != "ignore" and regions is not None:
        _check_near(columns, domain, c_NC, regions, on_extrapolation)
    return c_NC


def events(columns: Sequence[str], given: ArrayLike) -> Floats:
    """Events `(N, F)` of the columns as an array. Raises EmulatorError if they are none."""
    x_NF = numbers(given, "events")
    if x_NF.ndim != 2 or x_NF.shape[1] != len(columns):
        raise EmulatorError(
            f"events must have shape (N, {len(columns)}), one column for each of "
            f"{', '.join(columns)}, got {x_NF.shape}"
        )
    return x_NF


def told(columns: Sequence[Column], domain: Domain) -> dict[str, Known]:
    """The domain of these conditions as people see it."""
    return {one.name: one.categories or domain[one.name] for one in columns}


def limits_of(known: Known) -> Limits:
    """The range that a condition's numbers are in: those of a category's texts count from 0."""
    return (0.0, len(known) - 1.0) if texts_of(known) else cast(Limits, known)


def texts_of(known: Known) -> tuple[str, ...]:
    """The texts of a category; none of a condition of numbers."""
    return tuple(each for each in known if isinstance(each, str))


def values_of(column: Column, values: ArrayLike) -> NDArray[Any]:
    """The values of a condition as an array: finite numbers, of a category the texts' numbers.

    Raises:
        EmulatorError: If they are none. Lists the texts of a category.
    """
    if not column.categories:
        return numbers(values, column.name)
    texts = np.asarray(values, object)
    try:
        found = {text: column.number(text) for text in set(texts.flat)}
    except (DataError, TypeError) as error:
        raise EmulatorError(str(error)) from None
    return np.array([found[text] for text in texts.flat], np.float64).reshape(texts.shape)


def numbers(values: ArrayLike, name: str) -> Floats:
    """The values as an array of finite numbers. Raises EmulatorError if they are none."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise EmulatorError(f"{name} must be numbers, got {values!r}") from error
    if not np.isfinite(array).all():
        raise EmulatorError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
    return array


def inside(value: Any, limits: tuple[float, float]) -> Any:
    """Whether a value, or each of an array of any library, is in the range, but for rounding."""
    low, high = limits
    margin = ROUNDING * max(abs(low), abs(high))
    return (value >= low - margin) & (value <= high + margin)


def beyond(name: str, value: float, limits: tuple[float, float], what: str = "emulator") -> str:
    """The sentence about a condition outside the range."""
    return (
        f"{name} = {value:g} is outside the range [{limits[0]:g}, {limits[1]:g}] that the {what} "
        "was trained on: what it says there is a guess"
    )


def lonely(at: Mapping[str, Value], what: str = "emulator") -> str:
    """The sentence about conditions that are far from all rows."""
    return (
        f"{shown(at)} is far from all rows that the {what} was trained on: what it says "
        "there is a guess"
    )


def common(domains: Sequence[Domain]) -> dict[str, tuple[float, float]]:
    """The ranges of conditions that all of several flows have seen."""
    return {
        name: (max(each[name][0] for each in domains), min(each[name][1] for each in domains))
        for name in domains[0]
    }


def _condition(
    column: Column, given: ArrayLike, rows: int, limits: tuple[float, float], action: Extrapolation
) -> Floats:
    name, value = column.name, values_of(column, given)
    if value.shape not in ((), (1,), (rows,)):
        raise EmulatorError(
            f"{name} must be {'a text' if column.categories else 'a number'} or one value for "
            f"each of the {rows} events, got shape {value.shape}"
        )
    if (wrong := value[~column.holds(value)]).size:
        support = "above 0" if column.positive else f"in {column.support}"
        raise EmulatorError(f"{name} must be {support}, got {wrong.flat[0]:.10g}")
    outside = value[~inside(value, limits)]
    if action != "ignore" and outside.size:
        _tell(beyond(name, float(outside.flat[0]), limits), action)
    return value


def _check_near(
    columns: Sequence[Column],
    domain: Domain,
    c_NC: Floats,
    regions: Regions,
    action: Extrapolation,
) -> None:
    """Tell of the first row inside the ranges, of which enough is said, that is near no data."""
    told_N = [inside(c_N, domain[one.name]) for c_N, one in zip(c_NC.T, columns, strict=True)]
    lost_N = np.logical_and.reduce(told_N) & ~regions.near(np, c_NC)
    if lost_N.any():
        _tell(lonely(named.values_of(columns, c_NC[lost_N.argmax()].tolist())), action)


def _tell(message: str, action: Extrapolation) -> None:
    if action == "raise":
        raise EmulatorError(message)
    # Of whoever called the method that called `conditions`.
    warnings.warn(message, ExtrapolationWarning, stacklevel=5)
