"""How often the posterior of a catalogue holds the truth, on catalogues of a dataset's own rows.

The rows of a cell are dealt into catalogues that share none, and the conditions of each are
inferred as `CatalogLikelihood` does: the likelihood is the mean of the members' likelihoods of the
whole catalogue, the prior flat over the domain in the logarithm of what is positive. Events are
observed without noise and without selection, so that a posterior is as narrow as it can be.
Posteriors are exact: see `posterior`.

Only a truth inside the domain is surrounded by prior, so cells at its edge are left out. Weighted
rows are thinned by their weights, so that those that are left are mergers of equal weight.

Array names end in their axes:
    N events    F event columns    C conditions    U points of a grid    K cells
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from data_prep.cells import name_of
from data_prep.columns import Column
from data_prep.dataset import Dataset, key
from data_prep.stream import Batch, Stream
from data_prep.words.numbers import counted
from models.bundle.emulator import Emulator
from models.bundle.ensemble import Density
from models.bundle.reliability import (
    CELLS,
    HELD_OUT,
    LEAST_CATALOGS,
    Catalogs,
    Reliability,
    power_of,
)
from models.evaluation.catalogs.posterior import (
    Floats,
    Found,
    LogLikelihood,
    NoGridError,
    found,
    log_likelihood_of,
    surface,
)
from models.evaluation.cells import CellRows, Key, held_out_of, keys

SIZES, KINDS = (200, 100, 50, 25), 2
"""Events of catalogues, and how many of these are taken: the largest that the rows suffice for."""
LEAST_CELLS = 4
"""With which something is measured."""
GRIDS = {1: 20, 2: 14, 3: 8}
"""Points along each of so many conditions; their number to that power is what it costs."""
ROWS = 200_000
"""Rows at most that are read."""
BOOTSTRAPS = 1_000
LEVEL = 0.9
"""Content of the regions that are counted."""

Step = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Catalog:
    """Mergers of one truth."""

    cell: int
    """Its number in the dataset."""
    truth_C: Floats
    events_NF: Floats


@dataclass(frozen=True, slots=True)
class _Place:
    """Cells of one kind."""

    name: str
    cells: int
    """Inside of the domain."""
    dealt: dict[int, list[_Catalog]]
    """Catalogues by their number of events."""


def measure(
    density: Density,
    folder: Path,
    *,
    catalogs: int,
    split: str = "val",
    held_out: Sequence[tuple[Density, frozenset[Key]]] = (),
    worth: float = math.inf,
    sizes: Sequence[int] | None = None,
    kinds: int = KINDS,
    seed: int = 0,
    step: Step = lambda done, total: None,
) -> Reliability:
    """Where truths are in the posteriors of catalogues.

    Args:
        density: A flow, or an ensemble.
        folder: A prepared dataset of its columns.
        catalogs: Of each size and kind of cells, at most.
        split: Whose rows are taken; of held-out cells those of the training part as well.
        held_out: Cells of the dataset, no two the same, and what was trained without them: the
            density itself, or others that were trained as it was.
        worth: Events that the density is worth, as `CatalogLikelihood` takes them.
        sizes: Events of the catalogues, from large to small; None has those of `SIZES`.
        kinds: Of how many of these sizes catalogues are made.
        seed: By which rows are dealt.
        step: Called with the number of posteriors that are done, and of all.
    """
    dataset = Dataset.read(folder)
    if why := _refusal(dataset):
        return Reliability(measured=(), missing={CELLS: why, HELD_OUT: why})
    axes, rng = _Axes.of(density), np.random.default_rng(seed)
    sizes = sizes or SIZES
    places, missing = list[_Place](), dict[str, str]()
    unseen = {at: flow for flow, out in held_out for at in out}
    for name, batch in _rows(dataset, folder, split, density, unseen):
        place = _dealt(name, batch, dataset, axes, catalogs, sizes, kinds, rng)
        if place.dealt:
            places.append(place)
        else:
            missing[name] = _too_few(place, split, sizes[-1])
    if not held_out:
        missing[HELD_OUT] = "no cell was held out of training"
    total = sum(len(some) for place in places for some in place.dealt.values())
    measured, done = list[Catalogs](), 0
    for place in places:
        try:
            for events, some in place.dealt.items():
                each = []
                for one in some:
                    at = key(dataset.cells[one.cell].conditions)
                    flow = unseen[at] if place.name == HELD_OUT else density
                    each.append(_where_truth_is(flow, one, axes, worth))
                    step(done := done + 1, total)
                measured.append(_told(place, events, some, each, dataset))
        except NoGridError as error:
            measured = [one for one in measured if one.place != place.name]
            missing[place.name] = str(error)
    return Reliability(measured=tuple(measured), missing=missing)


def of_catalogs(
    emulator: Emulator | Density, dataset: Dataset, folder: Path, split: str, catalogs: int
) -> dict[str, Any]:
    """What an evaluation tells of up to so many catalogues: at the cells, and at held-out ones.

    Their posteriors are those of `CatalogLikelihood`, by what the emulator's export measured.
    """
    if not catalogs:
        return {}
    flow, card = (
        (emulator, {}) if isinstance(emulator, Density) else (emulator.module, emulator.card)
    )
    out = keys(dataset, held_out_of(card))
    exported = Reliability.from_card(card)
    found = measure(
        flow,
        folder,
        catalogs=catalogs,
        split=split,
        held_out=[(flow, out)] if out else [],
        worth=exported.worth if exported else math.inf,
        sizes=SIZES[1:],
        kinds=1,
    )
    places = {"trained_cells": found.at(CELLS), "held_out_cells": found.at(HELD_OUT)}
    told = {name: _coverage(one) for name, one in places.items()}
    return {"catalogs": {**told, "missing": found.missing}}


def _coverage(found: Catalogs | None) -> dict[str, Any] | None:
    """How many regions hold the truth, with an interval, and how far off that is.

    Source:
        Wilson (1927), Journal of the American Statistical Association 22, 209: the interval of 90 %
        of a binomial fraction, and half of that of 68 % as its error.
    """
    if found is None:
        return None
    count = binomtest(found.covered, found.catalogs)
    ninety, error = (count.proportion_ci(level, "wilson") for level in (0.9, 0.6827))
    return {
        "events": found.events,
        "catalogs": found.catalogs,
        "of_cells": found.cells,
        "covered": found.covered,
        "fraction": found.covered / found.catalogs,
        "error": float(error.high - error.low) / 2,
        "interval": [float(ninety.low), float(ninety.high)],
        "nominal": LEVEL,
        "square": {"mean": found.square, "error": found.error},
    }


def error(cells: NDArray[np.int_], values: Floats) -> float:
    """Standard error of a mean by a bootstrap over cells."""
    _, cell = np.unique(cells, return_inverse=True)
    sums, counts = np.bincount(cell, values), np.bincount(cell)
    drawn = np.random.default_rng(0).integers(len(sums), size=(BOOTSTRAPS, len(sums)))
    return float((sums[drawn].sum(1) / counts[drawn].sum(1)).std())


@dataclass(frozen=True, slots=True)
class _Axes:
    """Conditions in the coordinates in which the prior is flat, and its ends."""

    positive_C: NDArray[np.bool_]
    ends_C2: Floats

    @classmethod
    def of(cls, density: Density) -> _Axes:
        columns: Sequence[Column] = density.condition_columns
        positive_C = np.array([column.positive for column in columns])
        ends_C2 = np.array([density.domain[column.name] for column in columns], float)
        return cls(positive_C, cls(positive_C, ends_C2).to(ends_C2.T).T)

    def to(self, values_UC: Floats) -> Floats:
        logs_UC = np.log(np.where(self.positive_C, values_UC, 1.0))
        return np.where(self.positive_C, logs_UC, values_UC)

    def back(self, points_UC: Floats) -> Floats:
        powers_UC = np.exp(np.where(self.positive_C, points_UC, 0.0))
        return np.where(self.positive_C, powers_UC, points_UC)

    def hold(self, truth_C: Floats) -> bool:
        """Whether prior is all around; not at the edge, but for rounding to float32."""
        at_C, (low_C, high_C) = self.to(truth_C), self.ends_C2.T
        margin_C = 1e-6 * np.maximum(high_C - low_C, abs(self.ends_C2).max(1))
        return bool(((at_C > low_C + margin_C) & (at_C < high_C - margin_C)).all())


def _refusal(dataset: Dataset) -> str | None:
    """Why no catalogue can be made of its rows."""
    columns = dataset.condition_columns
    if not columns:
        return "there are no conditions to infer"
    if dataset.scattered:
        return "its conditions are scattered, so that no events share theirs"
    if texts := [column.name for column in columns if column.categories]:
        return f"the condition {texts[0]} is a category"
    if len(columns) > max(GRIDS):
        return f"it has {len(columns)} conditions, and posteriors are worked out of {max(GRIDS)}"
    return None


def _rows(
    dataset: Dataset,
    folder: Path,
    split: str,
    density: Density,
    unseen: Mapping[Key, Density],
) -> Iterator[tuple[str, Batch]]:
    """Rows that no training of the density saw, and those that no training without them saw."""
    named = {key(cell.conditions): name_of(dataset, cell) for cell in dataset.cells}
    own = [named[at] for at, flow in unseen.items() if flow is density]
    yield CELLS, _read(Stream(folder, split, batch_size=ROWS, shuffle=False, without=own))
    if out := [named[at] for at in unseen]:
        parts = dict.fromkeys((split, "train"))
        streams = [Stream(folder, p, batch_size=ROWS, shuffle=False, only=out) for p in parts]
        yield HELD_OUT, _joined([_read(one) for one in streams])


def _read(stream: Stream) -> Batch:
    """The first rows of a part: they are shuffled at rest, so that any are a fair choice."""
    columns = stream.dataset.event_columns, stream.dataset.condition_columns
    none = Batch(*(np.empty((0, len(each)), np.float32) for each in columns))
    return next(iter(stream.epoch(0)), none)


def _joined(batches: Sequence[Batch]) -> Batch:
    some = [one for one in batches if len(one.events)] or [*batches][:1]
    return Batch(*map(np.concatenate, zip(*(one.arrays for one in some), strict=True)))


def _dealt(
    name: str,
    batch: Batch,
    dataset: Dataset,
    axes: _Axes,
    catalogs: int,
    sizes: Sequence[int],
    kinds: int,
    rng: np.random.Generator,
) -> _Place:
    """Catalogues of the largest sizes that rows suffice for, a round of all cells at a time."""
    number_of = {key(cell.conditions): number for number, cell in enumerate(dataset.cells)}
    found = CellRows.of(batch)
    rows_K = {
        number_of[at]: rng.permutation(_of_equal_weight(batch, rows, rng))
        for at, rows in zip(found.keys, found.rows, strict=True)
        if axes.hold(np.array(dataset.cells[number_of[at]].conditions))
    }
    order = rng.permutation([*rows_K]).tolist()
    dealt: dict[int, list[_Catalog]] = {}
    for events in sizes:
        rounds = [
            _Catalog(
                number,
                np.array(dataset.cells[number].conditions),
                batch.events[rows_K[number][at : at + events]].astype(float),
            )
            for at in range(0, max(map(len, rows_K.values()), default=0), events)
            for number in order
            if len(rows_K[number]) >= at + events
        ]
        some = rounds[:catalogs]
        if len(some) >= LEAST_CATALOGS and len({one.cell for one in some}) >= LEAST_CELLS:
            dealt[events] = some
        if len(dealt) == kinds:
            break
    return _Place(name, len(rows_K), dealt)


def _of_equal_weight(
    batch: Batch, rows: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Rows that are kept with a probability in proportion to their weights (von Neumann 1951)."""
    if batch.weights is None:
        return rows
    weights_N = batch.weights[rows]
    kept: NDArray[np.intp] = rows[rng.random(len(rows)) * weights_N.max() < weights_N]
    return kept


def _too_few(place: _Place, split: str, events: int) -> str:
    if not place.cells:
        return "no cell is inside of the domain, with prior all around"
    return (
        f"the {split} rows of {counted(place.cells, 'cell')} inside of the domain make fewer than "
        f"{LEAST_CATALOGS} catalogues of {events} events from {LEAST_CELLS} cells"
    )


def _where_truth_is(density: Density, catalog: _Catalog, axes: _Axes, worth: float) -> Found:
    flows = getattr(density, "flows", [density])
    truth_C = axes.to(catalog.truth_C)
    power = power_of(len(catalog.events_NF), worth)
    surfaces = []
    for log_likelihood in map(log_likelihood_of, flows):

        def at(events_NF: Floats, points_UC: Floats, of: LogLikelihood = log_likelihood) -> Floats:
            return power * of(events_NF, axes.back(points_UC))

        grid = GRIDS[len(truth_C)]
        surfaces.append(surface(at, catalog.events_NF, truth_C, axes.ends_C2, grid))
    return found(surfaces, truth_C)


def _told(
    place: _Place, events: int, some: Sequence[_Catalog], each: Sequence[Found], dataset: Dataset
) -> Catalogs:
    cell_N, square_N = np.array([one.cell for one in some]), np.array([one.square for one in each])
    cells = np.unique(cell_N)
    # A bootstrap of few cells finds too small a spread, and by luck none: of independent posteriors
    # that are right, each square is of as many standard normals as there are conditions.
    of_cells = error(cell_N, square_N) * math.sqrt(len(cells) / (len(cells) - 1))
    by_chance = math.sqrt(2 / len(dataset.condition_columns) / len(some))
    worst = max(cells, key=lambda cell: square_N[cell_N == cell].mean())
    return Catalogs(
        place=place.name,
        events=events,
        catalogs=len(some),
        cells=len(cells),
        cells_inside=place.cells,
        covered=sum(one.level < LEVEL for one in each),
        square=float(square_N.mean()),
        error=max(of_cells, by_chance),
        worst=name_of(dataset, dataset.cells[worst]),
    )
