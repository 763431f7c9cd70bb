"""Everything that is said about an emulator on a dataset.

Puts together what the other modules measure, JSON-ready: NLL (`nll`), distances in each cell
(`distances`), draws beyond the data, the two-sample test (`two_sample`), coverage (`calibration`),
cost and speed. Cells that were kept out of training are told from the others. Cells with too few
rows for distances are told of together.

Axes:
    N events    F event columns    C conditions    K cells    M draws
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.stream import Batch, read_split
from data_prep.untrusted import finite
from models.bundle import batched
from models.bundle.emulator import Emulator
from models.bundle.ensemble import Density
from models.evaluation.calibration import Levels, levels, ranks
from models.evaluation.catalogs.coverage import of_catalogs
from models.evaluation.cells import CELL_ROWS, REPORT, CellRows, Key, held_out_of, key_of, keys
from models.evaluation.distances import (
    Bins,
    Distances,
    beyond_chance,
    beyond_data,
    cell_distances,
    distances,
    median_ratio,
    worst,
)
from models.evaluation.nll import check_columns, mean_of, nll_of
from models.evaluation.two_sample import DRAWS as SETS
from models.evaluation.two_sample import (
    Answers,
    TwoSample,
    ask,
    beside_draws,
    outcome,
    real_against_real,
)
from models.evaluation.weighted import Weights, effective, error_of_mean, of

DRAWS = 200_000
"""Draws at most for levels and distances: where more are needed, fewer events get a level."""
DRAWS_PER_EVENT = 10
LEAST_DRAWS_OF_LEVELS = 50
"""Draws of a cell at least: of each event, where conditions are continuous."""
SPEED_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation, and the values of single events that a difference is taken of."""

    found: dict[str, Any]
    """See `evaluate`."""
    nll_N: NDArray[np.float64]
    answers: Answers | None
    """None of fewer than two events."""
    levels: Levels
    small_N: NDArray[np.bool_]
    """Whether the event's cell has too few rows for distances."""
    held_out: frozenset[Key]
    """Cells of the dataset."""
    report: frozenset[Key]
    """Those of them by which nothing was chosen."""


@np.errstate(invalid="ignore")  # an NLL may be infinite, and so its spread not a number
def evaluate(
    emulator: Emulator | Density,
    folder: Path,
    split: str = "test",
    *,
    catalogs: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that is said about a density; a number that is not finite is None.

    Args:
        emulator: Whose card names the cells that its training was kept from; a name that is no cell
            of the dataset is passed over.
        folder: A prepared dataset.
        split: train, val or test.
        catalogs: Whose posteriors are worked out, at most, of each kind of cells.
        seed: Of the draws.

    Returns:
        `{split}_nll` and `cell_averaged_nll`, in which cells count alike: mean and standard error
        in nats per event. `trained_cells_nll` and `held_out_nll`: of the rows of either kind of
        cells, None where there are none; `report_nll`: of the held-out cells that chose nothing.
        `cells`: `CellDistance`, `Distances`, the NLL, whether it was `held_out` and whether it is
        `beyond_chance`, of each cell with enough rows, and the `box` of each region;
        `median_*_over_floor` over those, and `worst_ks`, the largest such ratio of a cell's column,
        its place, and its `ideal`, the median of the largest ratio of as many independent ones of
        an exact emulator.
        `two_sample` and `calibration`: see the modules of that name; None if the rows are too few.
        `real_against_real`: the same test of two halves of the data. `small_cells`: test and
        calibration of all cells with fewer rows, together; None if there are none. `catalogs`, if
        they are asked for: see `catalogs.coverage`.
        `BeyondData` of draws at the split's conditions, `cost`, `speed`. Where rows have
        weights, every mean, distance and test is weighted, and `weights` names their column;
        `effective_rows` are given beside all rows.

    Raises:
        DataError: If the dataset has other columns than the flow, or the split has no rows.
        EmulatorError: If the card's held-out cells are none.
    """
    dataset, test, other = read(folder, split, emulator)
    real = real_against_real(dataset, test, other, seed=seed)
    found = evaluation(emulator, dataset, test, split, seed=seed, other=other, real=real).found
    return found | of_catalogs(emulator, dataset, folder, split, catalogs)


def evaluation(
    emulator: Emulator | Density,
    dataset: Dataset,
    test: Batch,
    split: str,
    *,
    seed: int,
    other: Batch | None = None,
    real: TwoSample | None = None,
) -> Evaluation:
    """The evaluation of rows that have been read, with the values of single events.

    The two-sample test learns from `other` rows, and `real` is what it says of the data alone.
    """
    flow, cells = density_of(emulator), CellRows.of(test, dataset)
    card = {} if isinstance(emulator, Density) else emulator.card
    out, report = keys(dataset, held_out_of(card)), keys(dataset, held_out_of(card, (REPORT,)))
    rng = np.random.default_rng(seed)
    nll_N = nll_of(flow, test)
    drawn_NF = batched.draw(flow, test.conditions, rng)
    near, levels_of = _near_and_levels(flow, cells, nll_N, rng, seed)
    told, rows = [], dict(zip(cells.keys, cells.rows, strict=True))
    boxes = [{"box": {name: list(ends) for name, ends in box.items()}} for box in cells.boxes]
    regions = dict(zip(cells.keys, boxes, strict=False))
    for ks in cell_distances(flow, test, dataset, seed=seed):
        at = key_of(flow.condition_columns, ks.conditions)
        score = mean_of(nll_N[rows[at]], of(test.weights, rows[at]))
        nll = {"held_out": at in out, "nll": asdict(score)}
        told.append({**asdict(ks), **regions.get(at, {}), **nll, **asdict(near[at])})
    for cell, beyond in zip(told, beyond_chance(told), strict=True):
        cell["beyond_chance"] = beyond
    answers = _answers(flow, test, drawn_NF, other, rng, seed) if other else None
    small_N = cells.small(CELL_ROWS)
    found = {
        "split": split,
        **({"weights": dataset.weight_column.name} if dataset.weight_column else {}),
        **scores(nll_N, cells, split, out, test.weights, report=report),
        "cells": told,
        "median_ks_over_floor": median_ratio(told, "ks", "floor"),
        "median_wasserstein_over_floor": median_ratio(told, "wasserstein", "wasserstein_floor"),
        "median_jensen_shannon_over_floor": median_ratio(
            told, "jensen_shannon", "jensen_shannon_floor"
        ),
        "worst_ks": worst(told),
        "two_sample": asdict(outcome(answers)) if answers else None,
        "real_against_real": asdict(real) if real else None,
        "calibration": asdict(levels_of.calibration()),
        "small_cells": _of_small_cells(cells, small_N, answers, levels_of),
        **asdict(beyond_data(flow, drawn_NF, dataset, test.weights)),
        "cost": asdict(batched.cost(flow)),
        "speed": _speed(flow, test, rng),
    }
    return Evaluation(finite(found), nll_N, answers, levels_of, small_N, out, report)


def _answers(
    flow: Density,
    test: Batch,
    drawn_NF: NDArray[Any],
    other: Batch,
    rng: np.random.Generator,
    seed: int,
) -> Answers | None:
    """Those of the two-sample test; one event is drawn at each row of the test already."""
    more = [batched.draw(flow, test.conditions, rng) for _ in range(SETS - 1)]
    learnt = [batched.draw(flow, other.conditions, rng) for _ in range(SETS)]
    asked, learnt_from = (
        beside_draws(part, drawn, flow.event_columns, seed=seed)
        for part, drawn in ((test, [drawn_NF, *more]), (other, learnt))
    )
    return ask(learnt_from, asked, seed=seed)


def read(folder: Path, split: str, *emulators: Emulator | Density) -> tuple[Dataset, Batch, Batch]:
    """A dataset with the columns of these emulators, a part of it, which has rows, and another."""
    dataset = Dataset.read(folder)
    for each in emulators:
        check_columns(density_of(each), dataset, folder)
    test = read_split(Path(folder), split)
    if not len(test.events):
        raise DataError(f"the {split} part of {folder} has no rows")
    # Not the training rows, which a flow knows better than any others.
    return dataset, test, read_split(Path(folder), "test" if split == "val" else "val")


def scores(
    nll_N: NDArray[np.float64],
    cells: CellRows,
    split: str,
    out: frozenset[Key] | None,
    weights_N: Weights = None,
    *,
    report: frozenset[Key] = frozenset(),
) -> dict[str, dict[str, Any] | None]:
    """The mean NLL over events, over the means of cells, and over either kind of cells.

    `nll_N` may be differences of two; `out` are the held-out cells, None to tell of no kind, and
    `report` those of them by which nothing was chosen.
    """
    told: dict[str, dict[str, Any] | None] = {
        f"{split}_nll": asdict(mean_of(nll_N, weights_N)),
        "cell_averaged_nll": _cell_averaged(nll_N, cells, weights_N),
    }
    trained = frozenset(cells.keys) - (out or frozenset())
    kinds = {"trained_cells_nll": trained, "held_out_nll": out, "report_nll": report}
    for name, kind in kinds.items():
        some = [
            rows
            for at, rows in zip(cells.keys, cells.rows, strict=True)
            if out is not None and kind and at in kind
        ]
        told[name] = None
        if some:
            rows = np.concatenate(some)
            told[name] = {**asdict(mean_of(nll_N[rows], of(weights_N, rows))), "cells": len(some)}
    return told


def _cell_averaged(
    nll_N: NDArray[np.float64], cells: CellRows, weights_N: Weights
) -> dict[str, Any]:
    """The mean of the cells' means, and its standard error."""
    of_cells = [(nll_N[rows], of(weights_N, rows)) for rows in cells.rows]
    means = [float(np.average(each_N, weights=w_N)) for each_N, w_N in of_cells]
    sizes = [effective(w_N, len(each_N)) for each_N, w_N in of_cells]
    squares = [
        float(((each_N - mean) ** 2).sum())
        if w_N is None
        else size * float(np.average((each_N - mean) ** 2, weights=w_N))
        for (each_N, w_N), mean, size in zip(of_cells, means, sizes, strict=True)
    ]
    # A cell of one row shows no spread: it is given that within all cells.
    pooled = sum(squares) / max(1, sum(sizes) - len(sizes))
    variances = [
        (pooled if size < 2 else float(each_N.var(ddof=1))) / size
        if w_N is None or size < 2
        else error_of_mean(each_N, w_N) ** 2 * size / (size - 1)
        for (each_N, w_N), size in zip(of_cells, sizes, strict=True)
    ]
    error = math.sqrt(sum(variances)) / len(of_cells)
    return {"mean": float(np.mean(means)), "error": error, "cells": len(of_cells)}


def density_of(emulator: Emulator | Density) -> Density:
    """The flows of the emulator."""
    return emulator if isinstance(emulator, Density) else emulator.module


def _of_small_cells(
    cells: CellRows, small_N: NDArray[np.bool_], answers: Answers | None, levels_of: Levels
) -> dict[str, Any] | None:
    """What can be said of them together: the test's answers and the calibration."""
    if not small_N.any():
        return None
    among_N = small_N[answers.rows_N] if answers else np.zeros(0, bool)
    return {
        "cells": sum(bool(small_N[rows[0]]) for rows in cells.rows),
        "rows": int(small_N.sum()),
        "effective_rows": effective(of(cells.batch.weights, small_N), int(small_N.sum())),
        "two_sample": asdict(outcome(answers.among(among_N)))
        if answers and among_N.any()
        else None,
        "calibration": asdict(levels_of.of_small().calibration()) if any(levels_of.small) else None,
    }


def _near_and_levels(
    flow: Density,
    cells: CellRows,
    nll_N: NDArray[np.float64],
    rng: np.random.Generator,
    seed: int,
) -> tuple[dict[Key, Distances], Levels]:
    """Distances of the cells with enough rows and the levels of events, by one set of draws.

    Levels are those at each event's own conditions, in regions too.
    """
    test, points = cells.batch, cells.points
    sizes = [effective(of(test.weights, rows), len(rows)) for rows in points.rows]
    # With numbers of its own: two emulators are asked about the same events.
    kept = _with_levels(points, sizes, len(test.events), np.random.default_rng(seed))
    draws = [_draws(len(rows)) for rows in kept.values()]
    drawn_c = np.repeat(points.values_KC[list(kept)], draws, axis=0)
    all_MF = batched.draw(flow, drawn_c, rng)
    drawn, log_prob = (
        np.split(each, np.cumsum(draws)[:-1])
        for each in (all_MF, batched.log_prob(flow, all_MF, drawn_c))
    )
    level = [
        levels(-nll_N[rows], drawn_m, rng)
        for rows, drawn_m in zip(kept.values(), log_prob, strict=True)
    ]
    rank = {
        column.name: [
            ranks(test.events[k, f], each[:, f], rng)
            for k, each in zip(kept.values(), drawn, strict=True)
        ]
        for f, column in enumerate(flow.event_columns)
    }
    weights = None if test.weights is None else [test.weights[rows] for rows in kept.values()]
    small_N = cells.small(CELL_ROWS)
    small = [bool(small_N[rows[0]]) for rows in kept.values()]
    of_cells = dict(zip(kept, drawn, strict=True)) if points is cells else {}
    near = _near(flow, cells, of_cells, rng, seed)
    return near, Levels(level, draws, weights, rank, small)


def _near(
    flow: Density,
    cells: CellRows,
    drawn: Mapping[int, NDArray[Any]],
    rng: np.random.Generator,
    seed: int,
) -> dict[Key, Distances]:
    """Distances of the cells with enough rows; of regions, by draws that are made here."""
    test, names = cells.batch, [column.name for column in flow.event_columns]
    bins = Bins.of(test.events, test.weights)
    split_rng = np.random.default_rng(seed)  # so that two emulators have the same floors
    near = {}
    for k, rows in enumerate(cells.rows):
        weights_N = of(test.weights, rows)
        if effective(weights_N, len(rows)) < CELL_ROWS:
            continue
        drawn_MF = drawn.get(k)
        if drawn_MF is None:
            drawn_MF = batched.draw(flow, cells.conditions(k, _draws(len(rows)), rng), rng)
        near[cells.keys[k]] = distances(
            test.events[rows], drawn_MF, names, bins, split_rng, weights_N
        )
    return near


def _with_levels(
    cells: CellRows, sizes: Sequence[float], rows: int, rng: np.random.Generator
) -> dict[int, NDArray[np.intp]]:
    """The rows that get a level, by cell; `sizes` are the effective rows of the cells."""
    wanted = sum(_draws(len(each)) for each in cells.rows)
    chosen_N = np.ones(rows, bool)
    if wanted > DRAWS:
        chosen_N[rng.permutation(rows)[max(1, rows * DRAWS // wanted) :]] = False
    kept = {}
    for k, own in enumerate(cells.rows):
        some = own[chosen_N[own]]
        if not len(some) and sizes[k] >= CELL_ROWS:
            some = own[:1]  # a cell whose distances are told needs draws
        if len(some):
            kept[k] = some
    return kept


def _draws(rows: int) -> int:
    return max(LEAST_DRAWS_OF_LEVELS, DRAWS_PER_EVENT * rows)


def _speed(flow: Density, test: Batch, rng: np.random.Generator) -> dict[str, float]:
    """Events per second of drawing and of evaluating, on this machine."""
    c_NC = np.resize(test.conditions, (SPEED_ROWS, test.conditions.shape[1]))
    x_NF = np.resize(test.events, (SPEED_ROWS, test.events.shape[1]))
    # The first call pays for starting threads.
    batched.log_prob(flow, x_NF[: batched.ROWS], c_NC[: batched.ROWS])
    start_s = time.perf_counter()
    batched.draw(flow, c_NC, rng)
    middle_s = time.perf_counter()
    batched.log_prob(flow, x_NF, c_NC)
    return {
        "samples_per_second": SPEED_ROWS / (middle_s - start_s),
        "log_prob_per_second": SPEED_ROWS / (time.perf_counter() - middle_s),
    }
