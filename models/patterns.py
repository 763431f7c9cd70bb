"""Patterns of atoms: which event columns of an event lie at which of their atoms.

An atom is a value that a column takes with a probability of its own, where a density has none: a
spin of exactly 0. Values compare as float32, since batches hold no more. Needs no torch, and says
whether an event is of a pattern by comparisons alone, which every array library has.

Array names end in their axes:
    N rows    F event columns
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import Column, single
from models.namespaces import Array

Pattern = tuple[float | None, ...]
"""Of each event column the atom that it lies at; None where it lies at none."""


def left(pattern: Pattern) -> list[int]:
    """Numbers of the event columns that have a density under this pattern."""
    return [f for f, atom in enumerate(pattern) if atom is None]


def rest_of(pattern: Pattern, columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns that have a density under this pattern, as they are away from their atoms."""
    return tuple(replace(columns[f], atoms=()) for f in left(pattern))


def is_of(pattern: Pattern, columns: Sequence[Column], x: Sequence[Array]) -> Array:
    """Whether each event, given as float32 columns of any library, is of the pattern."""
    found: Array = None
    for atom, column, values in zip(pattern, columns, x, strict=True):
        for each in column.atoms:
            here = values == single(each)
            here = here if each == atom else ~here
            found = here if found is None else found & here
    return found


def of_events(
    columns: Sequence[Column], events_NF: NDArray[np.float32]
) -> dict[Pattern, NDArray[np.intp]]:
    """The rows of each pattern that some event is of."""
    which_NF = np.zeros(events_NF.shape, np.intp)
    for f, column in enumerate(columns):
        for number, atom in enumerate(column.atoms, start=1):
            which_NF[events_NF[:, f] == np.float32(atom), f] = number
    kinds_KF, kind_N = np.unique(which_NF, axis=0, return_inverse=True)
    found = {}
    for kind, which_F in enumerate(kinds_KF):
        pairs = zip(columns, which_F, strict=True)
        pattern = tuple(column.atoms[which - 1] if which else None for column, which in pairs)
        found[pattern] = np.flatnonzero(kind_N.reshape(-1) == kind)
    return found


def check(patterns: Any, columns: Sequence[Column]) -> tuple[Pattern, ...]:
    """The patterns of a flow's description, read and checked.

    Raises:
        TypeError, ValueError: If they are none of columns with these atoms.
    """
    read = tuple(tuple(pattern) for pattern in patterns)
    if bool(read) != any(column.atoms for column in columns):
        raise ValueError("a flow has patterns where a column has atoms, and only there")
    allowed = [{None, *column.atoms} for column in columns]
    for pattern in read:
        if not all(atom in atoms for atom, atoms in zip(pattern, allowed, strict=True)):
            raise ValueError("a pattern holds a value that is no atom of its column")
    if len(set(read)) < len(read):
        raise ValueError("a flow has no pattern twice")
    return read
