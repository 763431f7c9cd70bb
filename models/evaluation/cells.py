"""Which events of a split share a cell, and which cells an emulator was trained without.

Where conditions are scattered, the cells are regions. The conditions differ within one, so that its
events are compared with draws at the conditions of its own rows.

Axes:
    N events    M draws    C conditions    K cells
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.cells import Named
from data_prep.columns import Column, Value
from data_prep.dataset import Dataset, key
from data_prep.errors import DataError
from data_prep.regions import numbers
from data_prep.stream import Batch
from data_prep.untrusted import is_finite
from models.bundle.files import EmulatorError
from models.evaluation import weighted

CELL_ROWS = 200
"""Cells with fewer effective test rows are left out of the distances: their floor hides all."""

REPORT = "report_cells"
"""The metric of a card that names the cells by which nothing was chosen."""

Key = tuple[float, ...]
"""The conditions of a cell, as `data_prep.dataset.key` makes them comparable."""


@dataclass(frozen=True, slots=True)
class CellRows:
    """The rows of a batch, by cell."""

    batch: Batch
    values_KC: NDArray[Any]
    """Conditions of each cell; of a region, the medians."""
    rows: list[NDArray[np.intp]]
    """Of each cell, in file order."""
    keys: list[Key]
    boxes: list[dict[str, tuple[float, float]]]
    """Of each region, the ranges of the conditions that are numbers; none of cells."""

    @classmethod
    def of(cls, batch: Batch, dataset: Dataset | None = None) -> CellRows:
        """Cells or regions of the dataset, as far as they have rows, in ascending order.

        Without a dataset rows of equal conditions are a cell.
        """
        if dataset is None or not dataset.scattered:
            values_KC, cell_N = np.unique(batch.conditions, axis=0, return_inverse=True)
            keys = [key(values) for values in values_KC.tolist()]
            return cls(batch, values_KC, _by_cell(cell_N.ravel(), len(keys)), keys, [])
        found, cell_N = np.unique(numbers(dataset, batch.conditions), return_inverse=True)
        cells = [dataset.cells[k] for k in found]
        values_KC = np.array([cell.conditions for cell in cells])
        numbered = [k for k, one in enumerate(dataset.condition_columns) if not one.categories]
        names = [column.name for column in dataset.condition_columns]
        boxes = [{names[k]: cell.box[k] for k in numbered} for cell in cells]
        keys = [key(cell.conditions) for cell in cells]
        return cls(batch, values_KC, _by_cell(cell_N, len(cells)), keys, boxes)

    def small(self, least: float) -> NDArray[np.bool_]:
        """Whether each row is of a cell with fewer effective rows than these."""
        small_N = np.zeros(len(self.batch.events), bool)
        for rows in self.rows:
            weights_N = weighted.of(self.batch.weights, rows)
            small_N[rows] = weighted.effective(weights_N, len(rows)) < least
        return small_N

    @property
    def points(self) -> CellRows:
        """Rows of exactly equal conditions."""
        return CellRows.of(self.batch) if self.boxes else self

    def conditions(self, k: int, draws: int, rng: np.random.Generator) -> NDArray[Any]:
        """Where to draw that many events of a cell, `(M, C)`: at its own conditions.

        Of a region at the rows' conditions, each as often as its weight has it.

        Source:
            Kitagawa (1996), Journal of Computational and Graphical Statistics 5, 1, appendix:
            stratified resampling with one random number.
        """
        if not self.boxes:
            return np.repeat(self.values_KC[k][None], draws, axis=0)
        rows = rng.permutation(self.rows[k])
        weights_N = weighted.of(self.batch.weights, rows)
        each = np.ones(len(rows)) if weights_N is None else weights_N.astype(np.float64)
        ends = np.cumsum(each) / each.sum()
        place = np.searchsorted(ends, (np.arange(draws) + rng.random()) / draws)
        drawn_MC: NDArray[Any] = self.batch.conditions[rows[np.minimum(place, len(rows) - 1)]]
        return drawn_MC


def _by_cell(cell_N: NDArray[np.intp], cells: int) -> list[NDArray[np.intp]]:
    counts_K = np.bincount(cell_N, minlength=cells)
    return np.split(np.argsort(cell_N, kind="stable"), np.cumsum(counts_K)[:-1])


def keys(dataset: Dataset, named: Named) -> frozenset[Key]:
    """The keys of named cells; a name that is no cell of this dataset has none."""
    columns, values = dataset.condition_columns, []
    for each in named:
        # A text that it does not know is none of its cells, either.
        with suppress(DataError, KeyError):
            if len(each) == len(columns):
                values.append([column.number(each[column.name]) for column in columns])
    found = numbers(dataset, np.array(values, np.float64).reshape(-1, len(columns)))
    return frozenset(key(dataset.cells[k].conditions) for k in found if k >= 0)


def key_of(columns: Sequence[Column], cell: Mapping[str, Value]) -> Key:
    """The key of a cell that is named by a value of each of these columns."""
    return key([column.number(cell[column.name]) for column in columns])


def held_out_of(
    card: Mapping[str, Any], of: Sequence[str] = ("held_out_cells", REPORT)
) -> list[dict[str, Value]]:
    """The cells that the training of an emulator was kept from, as its card names them.

    `of` are the lists that are read: with `REPORT` alone, the cells by which nothing was chosen.

    Raises:
        EmulatorError: If what the card names is no cell.
    """
    metrics = card.get("metrics", {})
    members = metrics.get("members", ())  # an older ensemble names them in its members alone
    for told in (metrics, *(members if isinstance(members, list) else ())):
        if isinstance(told, Mapping) and any(which in told for which in of):
            return [cell for which in of for cell in _named(told.get(which, []), which)]
    return []


def _named(listed: object, which: str) -> Iterator[dict[str, Value]]:
    """The conditions of the cells in a card's list."""
    for each in listed if isinstance(listed, list) else [None]:
        cell = each.get("conditions") if isinstance(each, Mapping) else None
        if not (isinstance(cell, Mapping) and all(map(_is_value, cell.values()))):
            raise EmulatorError(
                f"the emulator's card names held-out cells that are none ({which} of its metrics "
                f"holds {reprlib.repr(cell)}): export the emulator again"
            )
        yield dict(cell)


def _is_value(value: object) -> bool:
    return isinstance(value, str) or is_finite(value)
