"""What a run's flow draws, beside the test data: the numbers of the pictures on a run's page.

Draws come from the run's best weights, at any conditions; data are shown where the conditions are
those of a simulated cell. What was worked out is kept until the checkpoint changes.

Letters of the arrays:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep import cells as naming
from data_prep.columns import Column
from data_prep.dataset import Cell, Dataset
from data_prep.errors import DataError, InputError
from hpo.dashboard.density import cells, contours
from hpo.dashboard.density.cells import CellMap
from hpo.dashboard.density.contours import DensityPlot
from hpo.dashboard.density.sources import (
    Cache,
    Datasets,
    DensityError,
    Stamp,
    TestRows,
    Weights,
    stamp_of,
)
from hpo.pictures.density import Array
from models.bundle.domain import beyond, inside

if TYPE_CHECKING:
    from hpo.dashboard.catalog import Catalog
    from hpo.records.record import RunRecord
    from models.flow.density import ConditionalFlow

__all__ = ["CellMap", "Densities", "DensityError", "DensityPlot", "Slider"]

SAME = 1e-5
"""Relative distance within which conditions are those of a simulated cell: rows are float32."""

FEWEST = 200
"""Rows that a picture without data is at least as fine as: the nearest cell may have hardly any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slider:
    """One condition, and where it can be set."""

    name: str
    unit: str
    low: float
    """Lowest value in the data that the flow was trained on, in `unit`."""
    high: float
    """Highest, likewise."""
    grid: tuple[float, ...]
    """The simulated values in between, ascending; none where the data are not known."""
    log: bool
    """Whether it runs over more than a decade and is to be set by its logarithm."""
    start: float
    """A value to begin with: of all conditions together, those of a cell with many rows."""


class Densities:
    """What the runs' flows draw. Safe to be asked from several threads."""

    def __init__(self, catalog: Catalog, data: Sequence[Path]) -> None:
        """Args: the runs; folders of prepared datasets, beside the shipped sample.

        Raises:
            DataError: If one of the folders holds no prepared dataset.
        """
        self._catalog = catalog
        self._datasets = Datasets(data)
        self._weights = Weights()
        # Each makes one at a time: at most one plot and one map are in work at once.
        self._plots: Cache[object, DensityPlot] = Cache(64)
        self._maps: Cache[tuple[Stamp, str], CellMap] = Cache(64)

    def available(self, key: str) -> str | None:
        """Why the run has no flow to draw from; None if it has.

        Raises:
            KeyError: If there is no such run.
        """
        try:
            flow, _ = self._flow(key)
            self._data(self._catalog.record(key), flow)
        except InputError as error:
            return str(error)
        return None

    def conditions(self, key: str) -> list[Slider]:
        """The conditions that the flow can be drawn at.

        Raises:
            DensityError: As `available` has it.
            KeyError: If there is no such run.
        """
        flow, _ = self._flow(key)
        record = self._catalog.record(key)
        found = self._data(record, flow)
        dataset = found[0] if found else None
        start = _start(flow, dataset, record)
        return [_slider(flow, k, dataset, start[k]) for k in range(len(start))]

    def pairs(self, key: str) -> list[tuple[str, str]]:
        """Name and unit of each event column: two of them can be chosen.

        Raises:
            DensityError: As `available` has it.
            KeyError: If there is no such run.
        """
        return [(column.name, column.unit) for column in self._flow(key)[0].event_columns]

    def plot(
        self,
        key: str,
        conditions: Mapping[str, float],
        columns: tuple[str, str] | None = None,
    ) -> DensityPlot:
        """What the flow draws at these conditions, beside the test rows that have them.

        Args:
            key: Of the run.
            conditions: A value for every condition column.
            columns: The two event columns, across and up; by default the first two.

        Raises:
            DensityError: As `available` has it, or if a name or a value is none of the flow's.
            DataError: If the data cannot be read any more.
            KeyError: If there is no such run.
        """
        flow, stamp = self._flow(key)
        c_C, at = _checked(flow, conditions), _columns(flow, columns)
        record = self._catalog.record(key)
        found = self._data(record, flow)
        which = (stamp, found and found[0].fingerprint, record.state, tuple(c_C), at)
        return self._plots.get(which, lambda: self._plot(flow, record, found, c_C, at))

    def cells(self, key: str) -> CellMap:
        """How far the draws are from the test rows in every cell; takes seconds at first.

        Raises:
            DensityError: As `available` has it, or if the run's data are not known.
            DataError: If the data cannot be read any more.
            KeyError: If there is no such run.
        """
        flow, stamp = self._flow(key)
        record = self._catalog.record(key)
        found = self._data(record, flow)
        if found is None:
            raise DensityError(_UNKNOWN)
        if not flow.condition_columns:
            raise DensityError("the flow has no conditions, so that there are no cells to compare")
        dataset = found[0]
        held_out = _held_out(dataset, record)
        return self._maps.get(
            (stamp, dataset.fingerprint),
            lambda: cells.cell_map(
                flow, dataset, self._datasets.test_rows(dataset.fingerprint), held_out
            ),
        )

    def _flow(self, key: str) -> tuple[ConditionalFlow, Stamp]:
        folder = self._catalog.trial_folder(key)
        if folder is None:
            raise DensityError(
                "no flow is kept with this run: it is of another program, or its folder is a link "
                "out of the runs that are shown"
            )
        stamp = stamp_of(folder)
        from models.training.checkpoint import CheckpointError

        try:
            return self._weights.flow(stamp), stamp
        except CheckpointError as error:
            raise DensityError(str(error)) from error

    def _data(self, record: RunRecord, flow: ConditionalFlow) -> tuple[Dataset, Path] | None:
        """The dataset of the run and its folder, if it is known."""
        found = self._datasets.find(record.data.fingerprint)
        if found is not None:
            from models.evaluation.nll import check_columns

            check_columns(flow, *found)
        return found

    def _plot(
        self,
        flow: ConditionalFlow,
        record: RunRecord,
        found: tuple[Dataset, Path] | None,
        c_C: Sequence[float],
        at: tuple[int, ...],
    ) -> DensityPlot:
        named = dict(zip(_names(flow.condition_columns), c_C, strict=True))
        notes = [*_state(record), *_beyond(flow, named)]
        if found is None:
            notes.append(_UNKNOWN[0].upper() + _UNKNOWN[1:] + ".")
            return contours.density_plot(flow, named, None, at, notes)
        test = self._datasets.test_rows(found[0].fingerprint)
        rows_NF, there, told = _rows_at(found[0], test, named, _held_out(found[0], record))
        like = max(len(rows_NF), FEWEST)
        shown_NF = rows_NF if there and len(rows_NF) else None
        return contours.density_plot(flow, named, shown_NF, at, [*notes, *told], like=like)


_UNKNOWN = (
    "the data of this run are not among those that this page knows: name their folder with "
    "`hpo dashboard --data FOLDER` to see them beside the draws"
)


def _names(columns: Sequence[Column]) -> list[str]:
    return [column.name for column in columns]


def _state(record: RunRecord) -> list[str]:
    if record.state != "running":
        return []
    return ["The run is still going on: these are its best weights so far."]


def _beyond(flow: ConditionalFlow, named: Mapping[str, float]) -> list[str]:
    """A sentence for each condition outside the range that the flow was trained on."""
    limits = flow.domain
    return [
        f"{beyond(name, value, limits[name], 'flow')}."
        for name, value in named.items()
        if not inside(value, limits[name])
    ]


def _checked(flow: ConditionalFlow, conditions: Mapping[str, float]) -> tuple[float, ...]:
    """The conditions in the flow's order."""
    names = _names(flow.condition_columns)
    if set(conditions) != set(names):
        raise DensityError(
            f"the conditions are {', '.join(names) or 'none'}, "
            f"not {', '.join(conditions) or 'none'}: give each of them"
        )
    for column in flow.condition_columns:
        value = conditions[column.name]
        if not math.isfinite(value) or (column.positive and value <= 0):
            rule = "above 0" if column.positive else "finite"
            raise DensityError(f"{column.name} must be {rule}, got {value:g}")
    return tuple(float(conditions[name]) for name in names)


def _columns(flow: ConditionalFlow, columns: tuple[str, str] | None) -> tuple[int, ...]:
    """Which event columns are shown, as their places."""
    names = _names(flow.event_columns)
    if columns is None or len(names) < 2:
        return tuple(range(min(2, len(names))))
    if len(set(columns)) != 2 or not set(columns) <= set(names):
        raise DensityError(
            f"a density plot shows two different event columns of {', '.join(names)}, "
            f"not {' and '.join(columns)}"
        )
    return tuple(names.index(name) for name in columns)


def _start(flow: ConditionalFlow, dataset: Dataset | None, record: RunRecord) -> tuple[float, ...]:
    """Conditions to begin with: the cell with most rows that the flow was trained on."""
    middle = tuple(_middle(*flow.domain[name]) for name in _names(flow.condition_columns))
    if dataset is None:
        return middle
    out = _held_out(dataset, record)
    seen = [cell for cell in dataset.cells if cell not in out]
    return max(seen, key=lambda cell: cell.test).conditions if seen else middle


def _middle(low: float, high: float) -> float:
    return math.sqrt(low * high) if _logarithmic(low, high) else (low + high) / 2


def _logarithmic(low: float, high: float) -> bool:
    return low > 0 and high / low > 10


def _slider(flow: ConditionalFlow, k: int, dataset: Dataset | None, start: float) -> Slider:
    column = flow.condition_columns[k]
    low, high = flow.domain[column.name]
    values = sorted({cell.conditions[k] for cell in dataset.cells}) if dataset else []
    return Slider(
        name=column.name,
        unit=column.unit,
        low=low,
        high=high,
        grid=tuple(value for value in values if low <= value <= high),
        log=column.positive and _logarithmic(low, high),
        start=min(max(start, low), high),
    )


def _held_out(dataset: Dataset, record: RunRecord) -> frozenset[Cell]:
    """The cells that the flow was not trained on; those that this dataset has not are passed."""
    try:
        return frozenset(naming.find(dataset, record.data.hold_out_cells, Path("the data")))
    except DataError:  # a run.json that names no cell of these data says nothing about them
        return frozenset()


def _rows_at(
    dataset: Dataset, test: TestRows, named: Mapping[str, float], held_out: frozenset[Cell]
) -> tuple[Array, bool, list[str]]:
    """The test rows of the nearest cell, whether it is the one asked for, what is to be said."""
    (cell,) = naming.nearest(dataset, named, 1)
    where = ", ".join(f"{k} = {v:g}" for k, v in naming.name_of(dataset, cell).items())
    mask_N = (test.rows.conditions == np.asarray(cell.conditions, np.float32)).all(axis=1)
    rows_NF = test.rows.events[mask_N].astype(np.float64)
    if not np.allclose(cell.conditions, list(named.values()), rtol=SAME, atol=0):
        return rows_NF, False, [f"Nothing was simulated here: the nearest cell is {where}."]
    notes = [f"The flow was trained without this cell ({where})."] if cell in held_out else []
    if test.note is not None:
        notes.append(test.note)
    if not len(rows_NF):
        notes.append(f"The cell {where} has no test rows.")
    return rows_NF, True, notes
