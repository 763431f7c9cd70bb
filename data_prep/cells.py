"""Cells named by their conditions: found in a dataset, held out of it.

A cell is named by a value of every condition column. Values compare as float32, since batches hold
no more: `Z = 0.0004` names the cell whether a source wrote 0.0004 or the float32 nearest to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.dataset import Cell, Dataset, key, rows_of, shown
from data_prep.errors import DataError

Named = Sequence[Mapping[str, float]]
"""Cells, each as a value of every condition column."""

NEAREST = 3
"""Cells that are told of where the one that was named is not there."""


def find(dataset: Dataset, named: Named, folder: Path) -> tuple[Cell, ...]:
    """The named cells, in the dataset's order; `folder` is what an error calls the dataset.

    Raises:
        DataError: If a name is no cell of the dataset, or two name one cell. Lists all faults.
    """
    _refuse(folder, _unknown(dataset, named))
    return _found(dataset, named)


def without(dataset: Dataset, named: Named, folder: Path) -> Dataset:
    """The dataset without the named cells; ranges of events stay, as only their rows could tell.

    Raises:
        DataError: As `faults` has it.
    """
    _refuse(folder, faults(dataset, named))
    if not named:
        return dataset
    out = {cell.conditions for cell in _found(dataset, named)}
    cells = tuple(cell for cell in dataset.cells if cell.conditions not in out)
    values = zip(*(cell.conditions for cell in cells), strict=True)
    seen = zip(dataset.condition_columns, values, strict=True)
    ranges = dataset.ranges | {column.name: (min(found), max(found)) for column, found in seen}
    return replace(dataset, cells=cells, rows=rows_of(cells), ranges=ranges)


def faults(dataset: Dataset, named: Named) -> list[str]:
    """A sentence for each reason why these cells cannot be held out of the dataset."""
    return _unknown(dataset, named) or _nothing_left(dataset, named)


def name_of(dataset: Dataset, cell: Cell) -> dict[str, float]:
    """The value of each condition column, as the source wrote it."""
    columns = (column.name for column in dataset.condition_columns)
    return dict(zip(columns, cell.conditions, strict=True))


def nearest(dataset: Dataset, one: Mapping[str, float], most: int) -> list[Cell]:
    """At most so many cells, nearest first, to these values of all condition columns.

    Each column counts in units of its range, logarithmic where it is positive.
    """

    def gap(cell: Cell) -> float:
        total = 0.0
        for name, there in name_of(dataset, cell).items():
            wanted, (low, high) = one[name], dataset.ranges[name]
            if min(there, wanted, low) > 0:
                there, wanted, low, high = map(math.log, (there, wanted, low, high))
            total += abs(there - wanted) / ((high - low) or 1.0)
        return total

    return sorted(dataset.cells, key=gap)[:most]


def _refuse(folder: Path, found: Sequence[str]) -> None:
    if found:
        raise DataError(f"cells of {folder}: {'; '.join(found)}")


def _found(dataset: Dataset, named: Named) -> tuple[Cell, ...]:
    wanted = {key(_values(dataset, one)) for one in named}
    return tuple(cell for cell in dataset.cells if key(cell.conditions) in wanted)


def _unknown(dataset: Dataset, named: Named) -> list[str]:
    columns = [column.name for column in dataset.condition_columns]
    there = {key(cell.conditions) for cell in dataset.cells}
    seen: set[tuple[float, ...]] = set()
    found = []
    for one in named:
        text = shown(one.keys(), one.values())
        missing = [name for name in columns if name not in one]
        unknown = [name for name in one if name not in columns]
        if missing or unknown:
            found.append(
                f"{text or 'a cell without a condition'} must name {' and '.join(columns)}: "
                f"missing {', '.join(missing) or 'none'}, unknown {', '.join(unknown) or 'none'}"
            )
            continue
        cell = key(_values(dataset, one))
        if cell not in there:
            near = (shown(columns, each.conditions) for each in nearest(dataset, one, NEAREST))
            found.append(f"{text} is no cell of it: the nearest are {'; '.join(near)}")
        elif cell in seen:
            found.append(f"{text} is named twice: name it once")
        seen.add(cell)
    return found


def _nothing_left(dataset: Dataset, named: Named) -> list[str]:
    """The parts that would lack rows to train on, rows to judge by, or rows held out."""
    if not named:
        return []
    out = _found(dataset, named)
    if len(out) == len(dataset.cells):
        return [f"all {len(out)} cells are held out, so none is left to train on: name fewer"]
    found = []
    for split, held in rows_of(out).items():
        rows = dataset.rows[split]
        if rows and rows == held:
            found.append(f"the cells that are left have no row in the {split} part: name fewer")
        if rows and not held and split != "train":
            found.append(f"the held-out cells have no row in the {split} part: name larger ones")
    return found


def _values(dataset: Dataset, one: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(one[column.name] for column in dataset.condition_columns)
