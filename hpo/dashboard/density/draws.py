"""The densities on a run's page: what its flow draws at any conditions, beside the test data.

Draws come from the run's best weights; data are shown where the conditions are those of a
simulated cell. Plots and maps are kept until the checkpoint changes.

Letters of the arrays:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import functools
import importlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep import cells as naming
from data_prep.columns import Column, Value, values_of
from data_prep.dataset import Cell, Dataset
from data_prep.errors import DataError
from data_prep.regions import numbers
from data_prep.stream import Batch
from data_prep.words import numbers as words
from hpo.dashboard.cache import Cache
from hpo.dashboard.density.cells import CellMap, cell_map
from hpo.dashboard.density.contours import DensityPlot, density_plot
from hpo.dashboard.density.sources import Datasets, DensityError, Stamp, TestRows, stamp_of
from models.bundle import domain
from models.evaluation.weighted import effective, ratios

if TYPE_CHECKING:
    from hpo.dashboard.catalog import Catalog
    from hpo.records.record import RunRecord
    from models.flow.atoms import OneFlow

SAME = 1e-5
"""Relative distance within which conditions are those of a simulated cell: rows are float32."""

FEWEST = 200
"""Rows that a picture without data is at least as fine as: the nearest cell may have hardly any."""

UNKNOWN = (
    "the data of this run are not among those that this page knows: name their folder with "
    "`hpo dashboard --data FOLDER` to see them beside the draws"
)


EPOCH = "after epoch"
"""The slider of the weights that were kept on the way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slider:
    """One condition, and where it can be set."""

    name: str
    unit: str
    low: float
    """Lowest value in the data that the flow was trained on, in `unit`."""
    high: float
    """Highest value in these data, in `unit`."""
    grid: tuple[float, ...]
    """The simulated values in between, ascending; none where the data are not known. Of a category
    the numbers of its texts.
    """
    log: bool
    """Whether the slider is logarithmic: its range spans more than a decade."""
    texts: tuple[str, ...] = ()
    """Of a category: there is nothing between them."""
    said: tuple[str, ...] = ()
    """Each of the texts, as it is told in full."""
    start: float
    """The first value; the sliders of a run start in a cell with many rows."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A run's flow, and its data."""

    flow: OneFlow
    stamp: Stamp
    record: RunRecord
    dataset: Dataset | None
    """None where it is not known."""
    held_out: frozenset[Cell]


class Densities:
    """Density plots and maps of cells of the runs' flows, for several threads at once.

    Every method raises InputError if the run has no flow to draw from, or if its data cannot be
    read any more, and KeyError if there is no such run.
    """

    def __init__(
        self, catalog: Catalog, data: Sequence[Path], of_studies: Sequence[Path] = ()
    ) -> None:
        """Takes the runs, and folders of prepared datasets beside the shipped sample.

        Raises:
            DataError: If a folder of `data` holds no prepared dataset. One of `of_studies` may be
                gone: a study outlives its data.
        """
        self._catalog = catalog
        self._datasets = Datasets(data, of_studies)
        self._flows: Cache[object, OneFlow] = Cache(4)
        self._ways: Cache[object, dict[int, Callable[[], OneFlow]]] = Cache(4)
        # Each makes one at a time: at most one plot and one map are in work at once.
        self._plots: Cache[object, DensityPlot] = Cache(64)
        self._maps: Cache[tuple[Stamp, str], CellMap] = Cache(64)
        self._sketches: Cache[tuple[Stamp, str], CellMap] = Cache(64)

    def warm_up(self) -> None:
        """Load torch and SciPy beside other work, before the first look at a flow waits for it."""
        threading.Thread(target=_load, daemon=True).start()

    def conditions(self, key: str) -> list[Slider]:
        """The conditions that the flow can be drawn at."""
        source = self._source(key)
        return [_slider(source, k, start) for k, start in enumerate(_start(source))]

    def stages(self, key: str) -> Slider | None:
        """The epochs after which the flow can be drawn as it was; None where none were kept.

        Those whose weights were kept on the way, and the best, whose weights the run has.
        """
        source = self._source(key)
        record, kept = source.record, list(self._kept(source.record, source.stamp))
        if len(kept) < 2 or EPOCH in source.flow.domain:
            return None
        rows = {row.epoch: row.val_nll for row in record.epochs}
        best = len(kept) - 1 if record.best_epoch is None else kept.index(record.best_epoch)
        texts = tuple(f"{epoch}" for epoch in kept)
        return Slider(
            name=EPOCH,
            unit="",
            low=0.0,
            high=len(kept) - 1.0,
            grid=tuple(map(float, range(len(kept)))),
            log=False,
            texts=texts,
            said=tuple(
                f"{epoch}, NLL {words.nll(nll)}" if (nll := rows[epoch]) is not None else f"{epoch}"
                for epoch in kept
            ),
            start=float(best),
        )

    def event_columns(self, key: str) -> tuple[Column, ...]:
        """The event columns: two of them are shown."""
        return self._source(key).flow.event_columns

    def plot(
        self,
        key: str,
        conditions: Mapping[str, Value],
        columns: tuple[str, str] | None = None,
        *,
        draws: int | None = None,
        epoch: int | None = None,
    ) -> DensityPlot:
        """The density that the flow draws at these conditions, beside their test rows.

        Args:
            key: Of the run.
            conditions: A value for every condition column.
            columns: The two event columns, across and up; by default the first two.
            draws: Events drawn; by default as many as show the flow and not the draw.
            epoch: One of `stages`, to see the flow as it was after it; None is the best.

        Raises:
            InputError: If a name or a value is none of the flow's.
        """
        source = self._source(key, epoch)
        flow = source.flow
        c_C = domain.conditions(flow.condition_columns, flow.domain, conditions, 1, "ignore")[0]
        named = values_of(flow.condition_columns, c_C.tolist())
        at = _places(flow, columns)
        data = source.dataset and source.dataset.fingerprint
        which = (source.stamp, data, source.record.state, tuple(named.values()), at, draws, epoch)
        return self._plots.get(which, lambda: self._plot(source, named, at, draws))

    def cells(self, key: str, *, rough: bool = False) -> CellMap:
        """The distance between draws and test rows in every cell; takes seconds at first.

        A `rough` one, of few draws, takes a fraction of one.

        Raises:
            DensityError: If the run's data are not known, or the flow has no conditions.
        """
        source = self._source(key)
        flow, dataset = source.flow, source.dataset
        if dataset is None:
            raise DensityError(UNKNOWN)
        if not flow.condition_columns:
            raise DensityError("the flow has no conditions, so that there are no cells to compare")

        def make() -> CellMap:
            test = self._datasets.test_rows(dataset.fingerprint)
            return cell_map(flow, dataset, test, source.held_out, rough=rough)

        kept = self._sketches if rough else self._maps
        return kept.get((source.stamp, dataset.fingerprint), make)

    def _source(self, key: str, epoch: int | None = None) -> _Source:
        folder = self._catalog.trial_folder(key)
        if folder is None:
            raise DensityError(
                "no flow is kept with this run: it is of another program, or its folder is a link "
                "out of the runs that are shown"
            )
        # Before the checkpoint, which is complete when the record is.
        record = self._catalog.record(key)
        stamp = stamp_of(folder)
        _load()
        from hpo.records.weights import flow_of
        from models.evaluation.nll import check_columns

        # If the checkpoint was replaced meanwhile, the newer one is read, and this stamp is never
        # asked for again.
        which = (stamp, record.state, record.weights, record.best_epoch, record.best_val_nll, epoch)

        def read() -> OneFlow:
            folder = stamp[0].parent
            if epoch is None:
                return flow_of(record, folder)
            if (found := self._kept(record, stamp).get(epoch)) is None:
                raise DensityError(f"no weights of epoch {epoch} are kept with this run")
            return found()

        flow = self._flows.get(which, read)
        found = self._datasets.find(record.data.fingerprint)
        if found is None:
            return _Source(flow, stamp, record, None, frozenset())
        check_columns(flow, *found)
        return _Source(flow, stamp, record, found[0], _held_out(found[0], record))

    def _kept(self, record: RunRecord, stamp: Stamp) -> dict[int, Callable[[], OneFlow]]:
        """How the flow of each epoch whose weights are there is read."""
        from hpo.records.weights import on_the_way
        from models.training.snapshots import FOLDER

        folder = stamp[0].parent
        if not (folder / FOLDER).is_dir():
            return {}
        which = (stamp, record.state, record.weights, len(record.epochs))
        return self._ways.get(which, lambda: on_the_way(record, folder))

    def _plot(
        self, source: _Source, named: Mapping[str, Value], at: tuple[int, ...], draws: int | None
    ) -> DensityPlot:
        flow, dataset = source.flow, source.dataset
        notes = [
            f"{domain.beyond(name, value, flow.domain[name], 'flow')}."
            for name, value in named.items()
            if not (isinstance(value, str) or domain.inside(value, flow.domain[name]))
        ]
        near = domain.Regions.common([flow.regions], flow.condition_columns)
        c_1C = np.array([[one.number(named[one.name]) for one in flow.condition_columns]])
        if not notes and near is not None and not near.near(np, c_1C).all():
            notes.append(f"{domain.lonely(named, 'flow')}.")
        if source.record.state == "running":
            notes.insert(0, "The run is still going on: these are its best weights so far.")
        if dataset is None:
            notes.append(UNKNOWN[0].upper() + UNKNOWN[1:] + ".")
            return density_plot(flow, named, None, at, notes, draws=draws)
        test = self._datasets.test_rows(dataset.fingerprint)
        rows, there, told = _rows_at(dataset, test, named, source.held_out)
        rows_NF, weights_N = rows.events.astype(np.float64), ratios(rows.weights)
        like, notes = max(round(effective(weights_N, len(rows_NF))), FEWEST), [*notes, *told]
        if not (there and len(rows_NF)):
            near_NF = rows_NF if len(rows_NF) and weights_N is None else None
            more: Any = {"like": like, "near_NF": near_NF}
            return density_plot(flow, named, None, at, notes, draws=draws, **more)
        more = {"weights_N": weights_N, "own_NC": rows.conditions if dataset.scattered else None}
        return density_plot(flow, named, rows_NF, at, notes, draws=draws, **more)


@functools.cache
def _load() -> None:
    """Load what draws: it takes seconds."""
    # Few events at once are drawn fastest by one thread: where other work fills the cores, two
    # wait for each other five times as long as the drawing takes.
    importlib.import_module("torch").set_num_threads(1)
    for name in ("hpo.records.weights", "models.evaluation.distances", "scipy.stats"):
        importlib.import_module(name)


def _names(columns: Sequence[Column]) -> list[str]:
    return [column.name for column in columns]


def _places(flow: OneFlow, columns: tuple[str, str] | None) -> tuple[int, ...]:
    """The places of the event columns that are shown."""
    names = _names(flow.event_columns)
    if columns is None or len(names) < 2:
        return tuple(range(min(2, len(names))))
    if len(set(columns)) != 2 or not set(columns) <= set(names):
        raise DensityError(
            f"a density plot shows two different event columns of {', '.join(names)}, "
            f"not {' and '.join(columns)}"
        )
    return tuple(names.index(name) for name in columns)


def _start(source: _Source) -> tuple[float, ...]:
    """The conditions of the cell with most test rows that the flow was trained on."""
    cells = source.dataset.cells if source.dataset else ()
    seen = [cell for cell in cells if cell not in source.held_out]
    if seen:
        return max(seen, key=lambda cell: cell.effective("test")).conditions
    limits = [source.flow.domain[name] for name in _names(source.flow.condition_columns)]
    return tuple(
        math.sqrt(low * high) if _logarithmic(low, high) else (low + high) / 2
        for low, high in limits
    )


def _logarithmic(low: float, high: float) -> bool:
    return low > 0 and high / low > 10


def _slider(source: _Source, k: int, start: float) -> Slider:
    column = source.flow.condition_columns[k]
    low, high = source.flow.domain[column.name]
    cells = source.dataset.cells if source.dataset else ()
    few = all(len(set(cell.box[k])) == 1 for cell in cells if cell.box)
    values = sorted({cell.conditions[k] for cell in cells}) if few else []
    return Slider(
        name=column.name,
        unit=column.unit,
        low=low,
        high=high,
        grid=tuple(map(float, range(len(column.categories))))
        or tuple(value for value in values if low <= value <= high),
        texts=column.categories,
        log=column.positive and _logarithmic(low, high),
        start=min(max(start, low), high),
    )


def _held_out(dataset: Dataset, record: RunRecord) -> frozenset[Cell]:
    """The cells that the flow was not trained on."""
    try:
        return frozenset(naming.find(dataset, record.data.kept_out, Path("the data")))
    except DataError:  # a run.json that names no cell of these data says nothing about them
        return frozenset()


def _rows_at(
    dataset: Dataset, test: TestRows, named: Mapping[str, Value], held_out: frozenset[Cell]
) -> tuple[Batch, bool, list[str]]:
    """The test rows of the nearest cell, whether it is the cell asked for, and notes on it."""
    (cell,) = naming.nearest(dataset, named, 1)
    where, kind = naming.text_of(dataset, cell), "region" if dataset.scattered else "cell"
    number_N = numbers(dataset, test.rows.conditions)
    rows = test.rows.take(number_N == dataset.cells.index(cell))
    asked = [column.number(named[column.name]) for column in dataset.condition_columns]
    ends = np.array(cell.ends)
    margin_C = SAME * np.abs(ends).max(axis=1)
    if (asked < ends[:, 0] - margin_C).any() or (asked > ends[:, 1] + margin_C).any():
        return rows, False, [f"Nothing was simulated here: the nearest {kind} is {where}."]
    notes = [f"The flow was trained without this {kind} ({where})."] if cell in held_out else []
    if dataset.scattered:
        notes.append(f"All of the region {where}: draws are at the conditions of its rows.")
    notes += test.notes
    if not len(rows.events):
        notes.append(f"The {kind} {where} has no test rows.")
    return rows, True, notes
