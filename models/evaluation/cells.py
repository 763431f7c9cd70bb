"""Which events of a split share a cell, and which cells an emulator was trained without.

Axes:
    N events    C conditions    K cells
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.cells import Named
from data_prep.dataset import Dataset, key
from data_prep.stream import Batch
from data_prep.untrusted import is_finite
from models.bundle.files import EmulatorError

Key = tuple[float, ...]
"""The conditions of a cell, as `data_prep.dataset.key` makes them comparable."""


@dataclass(frozen=True, slots=True)
class CellRows:
    """The rows of a batch, by cell."""

    values_KC: NDArray[Any]
    rows: list[NDArray[np.intp]]
    """Of each cell, in file order."""
    keys: list[Key]

    @classmethod
    def of(cls, batch: Batch) -> CellRows:
        """Cells in the order of their conditions."""
        values_KC, cell_N = np.unique(batch.conditions, axis=0, return_inverse=True)
        counts_K = np.bincount(cell_N.ravel(), minlength=len(values_KC))
        order_N = np.argsort(cell_N.ravel(), kind="stable")
        rows = np.split(order_N, np.cumsum(counts_K)[:-1])
        return cls(values_KC, rows, [key(values) for values in values_KC.tolist()])


def keys(dataset: Dataset, named: Named) -> frozenset[Key]:
    """The keys of named cells; a name with other conditions is no cell of this dataset."""
    names = [column.name for column in dataset.condition_columns]
    return frozenset(
        key([each[name] for name in names]) for each in named if set(each) == set(names)
    )


def held_out_of(card: Mapping[str, Any]) -> list[dict[str, float]]:
    """The cells that the training of an emulator was kept from, as its card names them.

    Raises:
        EmulatorError: If what the card names is no cell.
    """
    metrics = card.get("metrics", {})
    members = metrics.get("members", ())  # an older ensemble names them in its members alone
    for told in (metrics, *(members if isinstance(members, list) else ())):
        if not (isinstance(told, Mapping) and "held_out_cells" in told):
            continue
        listed, cells = told["held_out_cells"], []
        for each in listed if isinstance(listed, list) else [None]:
            cell = each.get("conditions") if isinstance(each, Mapping) else None
            if not (isinstance(cell, Mapping) and all(map(is_finite, cell.values()))):
                raise EmulatorError(
                    "the emulator's card names held-out cells that are none (held_out_cells of "
                    f"its metrics holds {reprlib.repr(cell)}): export the emulator again"
                )
            cells.append(dict(cell))
        return cells
    return []
