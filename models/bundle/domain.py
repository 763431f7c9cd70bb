"""Conditions as a caller gives them, checked: which, how many, and inside the range of the data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_prep.columns import Column
from models.bundle.files import EmulatorError

ROUNDING = 1e-6
"""Relative distance beyond the domain that is still inside: conditions are stored as float32."""
Extrapolation = Literal["warn", "raise", "ignore"]
Floats = NDArray[np.float64]
Domain = Mapping[str, tuple[float, float]]
"""Range of each condition in the data."""


class ExtrapolationWarning(UserWarning):
    """A condition lies outside the range that the emulator was trained on."""


def conditions(
    columns: Sequence[Column],
    domain: Domain,
    given: Mapping[str, ArrayLike],
    rows: int,
    on_extrapolation: Extrapolation,
) -> Floats:
    """Conditions in the order of the columns: `(rows, C)`, or `(1, C)` if all are numbers.

    A warning points at who called the caller.

    Raises:
        EmulatorError: If one is missing, unknown, not finite, not positive where it has to be, of
            a wrong length, or outside the domain under "raise".
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
    return c_NC


def check_shape(columns: Sequence[str], x_NF: NDArray[Any]) -> None:
    """Raises EmulatorError if these are not events `(N, F)` of the columns."""
    if x_NF.ndim != 2 or x_NF.shape[1] != len(columns):
        raise EmulatorError(
            f"events must have shape (N, {len(columns)}), one column for each of "
            f"{', '.join(columns)}, got {x_NF.shape}"
        )


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


def common(domains: Sequence[Domain]) -> dict[str, tuple[float, float]]:
    """The ranges of conditions that all of several flows have seen."""
    return {
        name: (max(each[name][0] for each in domains), min(each[name][1] for each in domains))
        for name in domains[0]
    }


def _condition(
    column: Column, given: ArrayLike, rows: int, limits: tuple[float, float], action: Extrapolation
) -> Floats:
    name, value = column.name, numbers(given, column.name)
    if value.shape not in ((), (1,), (rows,)):
        raise EmulatorError(
            f"{name} must be a number or one value for each of the {rows} events, "
            f"got shape {value.shape}"
        )
    if column.positive and (value <= 0).any():
        raise EmulatorError(f"{name} must be above 0, got {value.min():g}")
    outside = value[~inside(value, limits)]
    if action != "ignore" and outside.size:
        message = beyond(name, float(outside.flat[0]), limits)
        if action == "raise":
            raise EmulatorError(message)
        warnings.warn(message, ExtrapolationWarning, stacklevel=4)
    return value
