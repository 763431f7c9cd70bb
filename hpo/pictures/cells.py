"""Which cells and rows of a dataset a picture shows, by the values of their conditions.

Letters of the arrays:
    N rows    C conditions    K cells
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.cells import name_of, nearest, text_of
from data_prep.columns import Column, Value
from data_prep.dataset import Cell, Dataset, shown
from data_prep.errors import suggestion
from data_prep.regions import boxes, numbers
from hpo.pictures.style import PlotError
from models import Emulator
from models.bundle.domain import Known, limits_of, texts_of
from models.evaluation.nll import check_columns

At = Mapping[str, Value]
"""A value of every condition, or of some."""
EVENLY = 6
"""Values of each condition where there are no data to name cells."""


def at_conditions(
    conditions_NC: NDArray[Any],
    columns: Sequence[Column],
    wanted: At,
    rows: str,
    dataset: Dataset | None = None,
) -> NDArray[np.bool_]:
    """Which rows have the wanted conditions.

    Of a dataset with scattered conditions, which rows are in a region that holds them.

    Raises:
        PlotError: If none has. Names the `rows`.
        DataError: If a wanted text is none of its category.
    """
    mask = np.ones(len(conditions_NC), dtype=bool)
    names = [column.name for column in columns]
    check_names(wanted, names)
    if dataset is not None and dataset.scattered:
        return np.isin(numbers(dataset, conditions_NC), _holding(dataset, wanted, rows))
    for name, value in wanted.items():
        column = columns[names.index(name)]
        values_N = conditions_NC[:, names.index(name)]
        # The data are float32.
        mask &= np.isclose(values_N, column.number(value), rtol=1e-5, atol=0)
        if not mask.any():
            told = (column.value(float(f"{each:g}")) for each in np.unique(values_N))
            there = ", ".join(each if isinstance(each, str) else f"{each:g}" for each in told)
            raise PlotError(
                f"there are no {rows} at {shown(wanted)}: {name} is one of {there}, and not every "
                "combination of conditions is there"
            )
    return mask


def arguments_of(columns: Sequence[Column], conditions_NC: NDArray[Any]) -> dict[str, Any]:
    """The conditions of rows as arguments of an emulator's methods."""
    return {
        column.name: np.array(column.categories)[values_N.astype(int)]
        if column.categories
        else values_N.astype(float)
        for column, values_N in zip(columns, conditions_NC.T, strict=True)
    }


def check_names(wanted: Sequence[str] | At, names: Sequence[str], kind: str = "condition") -> None:
    """Raises PlotError for a name that is none of the known ones."""
    for name in wanted:
        if name not in names:
            raise PlotError(f"there is no {kind} {name!r}: {suggestion(name, names)}")


def cells_of(emulator: Emulator, folder: Path | None, fixed: At) -> list[At]:
    """Cells with the fixed values: of a prepared dataset, or evenly over the emulator's domain."""
    names = emulator.condition_columns
    if folder is None:
        steps = [
            [fixed[name]] if name in fixed else sorted(set(evenly(emulator.domain[name], EVENLY)))
            for name in names
        ]
        return [dict(zip(names, values, strict=True)) for values in product(*steps)]
    dataset = Dataset.read(folder)
    check_columns(emulator.module, dataset, folder)
    return [name_of(dataset, cell) for cell in fixed_cells(dataset, fixed, folder)]


def fixed_cells(dataset: Dataset, fixed: At, folder: Path) -> list[Cell]:
    """The cells, or regions, with the fixed values."""
    cells_KC = np.array([cell.conditions for cell in dataset.cells], np.float64)
    what = f"{'regions' if dataset.scattered else 'cells'} of {folder}"
    kept = at_conditions(cells_KC, dataset.condition_columns, fixed, what, dataset)
    return [dataset.cells[k] for k in np.flatnonzero(kept)]


def _holding(dataset: Dataset, wanted: At, rows: str) -> list[int]:
    """The regions whose boxes have these values."""
    low_KC, high_KC = boxes(dataset)
    kept_K = np.ones(len(dataset.cells), bool)
    for k, column in enumerate(dataset.condition_columns):
        if column.name in wanted:
            value = np.float32(column.number(wanted[column.name]))
            kept_K &= (low_KC[:, k] <= value) & (value <= high_KC[:, k])
    if not kept_K.any():
        near = nearest(dataset, {**name_of(dataset, dataset.cells[0]), **wanted}, 1)[0]
        raise PlotError(
            f"there are no {rows} at {shown(wanted)}: no "
            f"region holds them, the nearest is {text_of(dataset, near)}"
        )
    return np.flatnonzero(kept_K).tolist()


def evenly(known: Known, count: int) -> list[Any]:
    """So many values over a range, in its logarithm where it is positive; all texts of others."""
    low, high = limits_of(known)
    space = np.geomspace if low > 0 else np.linspace
    return [*texts_of(known)] or space(low, high, count).tolist()
