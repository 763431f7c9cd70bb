"""Cells named by their conditions: found in a dataset, held out of it, dealt into folds.

A cell is named by a value of every condition column. Values compare as float32, since batches hold
no more: `Z = 0.0004` names the cell whether a source wrote 0.0004 or the float32 nearest to it.
Where conditions are scattered, any values inside a region name it. A category is named by its text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from data_prep.columns import Value, values_of
from data_prep.dataset import Cell, Dataset, rows_of, shown
from data_prep.errors import DataError
from data_prep.regions import numbers

Named = Sequence[Mapping[str, Value]]
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
    out = _found(dataset, named)
    cells = tuple(cell for cell in dataset.cells if cell not in out)
    ends = zip(*(cell.ends for cell in cells), strict=True)
    seen = zip(dataset.condition_columns, map(chain.from_iterable, ends), strict=True)
    of_conditions = {column.name: (min(each), max(each)) for column, (*each,) in seen}
    ranges = dataset.ranges | of_conditions
    return replace(dataset, cells=cells, rows=rows_of(cells), ranges=ranges)


def faults(dataset: Dataset, *named: Named) -> list[str]:
    """A sentence for each reason why these sets of cells cannot be held out of the dataset."""
    together = list(chain(*named))
    return _unknown(dataset, together) or [
        *_nothing_left(dataset, together),
        *dict.fromkeys(fault for some in named for fault in _nothing_to_tell(dataset, some)),
    ]


def folds(dataset: Dataset, count: int) -> list[list[dict[str, Value]]]:
    """The interior cells, named, dealt into so many folds: neighbours into different ones.

    A neighbour is the next cell with the same other conditions; of regions, the next one whose
    ranges of the other conditions overlap. Interior is what has neighbours on both sides in every
    condition in which there is such a cell: of two values both are edges, and texts have no sides.

    In the dataset's order, each goes where fewest of its neighbours are; of those, where fewest
    cells are; of those, where fewest neighbours are in the folds before and after, as two that
    follow each other are held out together; of those, into the first. So nothing counts but which
    cells there are.

    Raises:
        DataError: If fewer are interior than there are folds.
    """
    what = "regions" if dataset.scattered else "cells"
    beside = _beside(dataset)
    between = [{k for k, sides in each.items() if all(sides)} for each in beside]
    asked = set().union(*between)
    interior = [at for at, within in enumerate(between) if asked and within == asked]
    if len(interior) < count:
        raise DataError(
            f"{len(interior)} of its {len(dataset.cells)} {what} are interior, with neighbours on "
            f"both sides in every condition but those of two values, too few for {count} folds: "
            "choose fewer (hold_out_folds, at least 3; --folds), or name some (hold_out_cells, "
            "report_cells)"
        )
    dealt: list[list[int]] = [[] for _ in range(count)]
    for at in interior:
        near = {other for sides in beside[at].values() for side in sides for other in side}
        here = [len(near.intersection(fold)) for fold in dealt]
        around = [here[j - 1] + here[(j + 1) % count] for j in range(count)]
        dealt[min(range(count), key=lambda j: (here[j], len(dealt[j]), around[j]))].append(at)
    return [[name_of(dataset, dataset.cells[at]) for at in fold] for fold in dealt]


def name_of(dataset: Dataset, cell: Cell) -> dict[str, Value]:
    """The value of each condition column, as the source wrote it; of a region, the medians."""
    return values_of(dataset.condition_columns, cell.conditions)


def text_of(dataset: Dataset, cell: Cell) -> str:
    """A cell or region as people read it: `Z = 0.001, alpha = 1`, `Z = 0.001 to 0.002`."""
    if not cell.box:
        return shown(name_of(dataset, cell))
    return ", ".join(
        shown({column.name: column.value(low)}) + (f" to {high:.7g}" if high > low else "")
        for column, (low, high) in zip(dataset.condition_columns, cell.box, strict=True)
    )


def nearest(dataset: Dataset, one: Mapping[str, Value], most: int) -> list[Cell]:
    """At most so many cells, nearest first, to these values of all condition columns.

    Cells of other texts come last. Each column of numbers counts in units of its range,
    logarithmic where it is positive.
    """
    columns = dataset.condition_columns
    (numbers_C,) = _conditions(dataset, [one])

    def gap(cell: Cell) -> tuple[int, float]:
        others, total = 0, 0.0
        for k, (column, there) in enumerate(zip(columns, cell.conditions, strict=True)):
            wanted, (low, high) = numbers_C[k], dataset.ranges[column.name]
            if column.categories:
                others += there != wanted
                continue
            if cell.box:
                there = min(max(wanted, cell.box[k][0]), cell.box[k][1])
            if min(there, wanted, low) > 0:
                there, wanted, low, high = map(math.log, (there, wanted, low, high))
            total += abs(there - wanted) / ((high - low) or 1.0)
        return others, total

    return sorted(dataset.cells, key=gap)[:most]


def _refuse(folder: Path, found: Sequence[str]) -> None:
    if found:
        raise DataError(f"cells of {folder}: {'; '.join(found)}")


def _found(dataset: Dataset, named: Named) -> tuple[Cell, ...]:
    wanted = set(_numbers(dataset, named))
    return tuple(cell for number, cell in enumerate(dataset.cells) if number in wanted)


def _numbers(dataset: Dataset, named: Named) -> list[int]:
    """The place of each named cell among all; -1 where there is none."""
    values = np.array(_conditions(dataset, named)).reshape(-1, len(dataset.condition_columns))
    found: list[int] = numbers(dataset, values).tolist()
    return found


def _conditions(dataset: Dataset, named: Named) -> list[list[float]]:
    """What the rows of the named cells hold; DataError for a text that is no category."""
    columns = dataset.condition_columns
    return [[column.number(one[column.name]) for column in columns] for one in named]


def _unknown(dataset: Dataset, named: Named) -> list[str]:
    columns = [column.name for column in dataset.condition_columns]
    no_cell = "in no region" if dataset.scattered else "no cell"
    seen: set[int] = set()
    found = []
    for one in named:
        text = shown(one)
        missing = [name for name in columns if name not in one]
        unknown = [name for name in one if name not in columns]
        if missing or unknown:
            found.append(
                f"{text or 'a cell without a condition'} must name {' and '.join(columns)}: "
                f"missing {', '.join(missing) or 'none'}, unknown {', '.join(unknown) or 'none'}"
            )
            continue
        try:
            (number,) = _numbers(dataset, [one])
        except DataError as error:
            found.append(f"{text} is {no_cell} of it: {error}")
            continue
        if number < 0:
            near = (text_of(dataset, each) for each in nearest(dataset, one, NEAREST))
            found.append(f"{text} is {no_cell} of it: the nearest are {'; '.join(near)}")
        elif number in seen:
            where = f" (the region {text_of(dataset, dataset.cells[number])})"
            found.append(f"{text}{where if dataset.scattered else ''} is named twice: name it once")
        seen.add(number)
    return found


def _beside(dataset: Dataset) -> list[dict[int, list[list[int]]]]:
    """Of each cell, for each condition of numbers, the places of its neighbours on either side."""
    ends_KC2 = np.array([cell.ends for cell in dataset.cells], np.float32)
    low_KC, high_KC = ends_KC2[..., 0], ends_KC2[..., 1]
    sided = [k for k, column in enumerate(dataset.condition_columns) if not column.categories]
    found: list[dict[int, list[list[int]]]] = []
    for at in range(len(dataset.cells)):
        meets_KC = (low_KC <= high_KC[at]) & (high_KC >= low_KC[at])
        found.append({})
        for k in sided:
            others_K = np.delete(meets_KC, k, axis=1).all(axis=1)
            found[at][k] = []
            for near_K, far_K in ((low_KC[:, k], high_KC[:, k]), (-high_KC[:, k], -low_KC[:, k])):
                beyond_K = others_K & (near_K > far_K[at])
                # Whatever begins where the first of them has not ended yet: none is between.
                next_K = beyond_K & (near_K <= far_K[beyond_K].min(initial=np.inf))
                found[at][k].append(np.flatnonzero(next_K).tolist())
    return found


def _nothing_left(dataset: Dataset, named: Named) -> list[str]:
    """The parts that would lack rows to train on or to judge by."""
    if not named:
        return []
    out = _found(dataset, named)
    if len(out) == len(dataset.cells):
        what = "regions" if dataset.scattered else "cells"
        return [f"all {len(out)} {what} are held out, so none is left to train on: name fewer"]
    found = []
    for split, held in rows_of(out).items():
        rows = dataset.rows[split]
        if rows and rows == held:
            found.append(f"the cells that are left have no row in the {split} part: name fewer")
    for k, column in enumerate(dataset.condition_columns):
        left = {column.value(cell.conditions[k]) for cell in dataset.cells if cell not in out}
        for text in column.categories:
            if text not in left:
                found.append(
                    f"no cell of {column.name} = {text} is left to train on, and nothing tells of "
                    "one text by others: name fewer"
                )
    return found


def _nothing_to_tell(dataset: Dataset, named: Named) -> list[str]:
    """The parts in which cells that are held out have no rows."""
    held = rows_of(_found(dataset, named)) if named else {}
    return [
        f"the held-out cells {'; '.join(map(shown, named))} have no row in the {split} part: hold "
        "out larger ones"
        for split in ("val", "test")
        if held and dataset.rows[split] and not held[split]
    ]
