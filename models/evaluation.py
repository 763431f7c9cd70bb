"""Everything that is said about an emulator on a dataset, and about two of them side by side.

Puts together what the others measure, JSON-ready: NLL (`measure`), distances in each cell
(`measure`, `distances`), the two-sample test (`two_sample`), coverage (`calibration`), unphysical
events, cost and speed. For one look at the end; training asks `measure` alone.

Axes:
    N events    F event columns    C conditions    K cells    M draws
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import DataError, Dataset
from data_prep.stream import Batch, read_split
from models import measure
from models.calibration import calibration, levels
from models.distances import Bins, Distances, distances
from models.mixture import Density
from models.two_sample import two_sample

if TYPE_CHECKING:
    from models.emulator import Emulator

DRAWS = 200_000
"""Draws at most for levels and distances: where more are needed, fewer events get a level."""
DRAWS_PER_EVENT = 10
LEAST_DRAWS = 50
"""Draws of a cell at least: of each event, where conditions are continuous."""
SPEED_ROWS = 50_000
LEFT_OUT = ("rows", "error", "nominal", "conditions")
"""Of the numbers of an evaluation, those whose difference would mean nothing."""


@np.errstate(invalid="ignore")  # an NLL may be infinite, and so its spread not a number
def evaluate(
    emulator: Emulator | Density, folder: Path, split: str = "test", *, seed: int = 0
) -> dict[str, Any]:
    """Everything that is said about a density; a number that is not finite is None.

    Returns:
        `{split}_nll` and `cell_averaged_nll`, in which cells count alike: mean and standard error
        in nats per event. `cells`: the distances of `measure.CellDistance` and of `Distances`, and
        the NLL, of each cell with enough rows; `median_*_over_floor` over those. `two_sample` and
        `calibration`: as in the modules of that name; None and without coverage if there are too
        few rows. `unphysical_fraction` of draws at the split's conditions, `cost`, `speed`.

    Raises:
        DataError: If the dataset has other columns than the flow, or the split has no rows.
    """
    flow = _density(emulator)
    measure.check_columns(flow, Dataset.read(folder), folder)
    test = _rows(folder, split)
    found = _evaluated(flow, test, _Cells.of(test), _nll_of(flow, test), seed=seed)
    found = {"split": split, f"{split}_nll": found.pop("nll"), **found}
    return _finite(found)  # type: ignore[no-any-return]


@np.errstate(invalid="ignore")
def compare(
    emulator: Emulator | Density,
    against: Emulator | Density,
    folder: Path,
    split: str = "test",
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Two evaluations with the same random numbers, and the first less the second.

    Returns:
        `emulator` and `against`: each as from `evaluate`. `difference`: of every number in both,
        but for the NLLs, whose difference is taken event by event: what both find hard cancels, and
        the standard error is far below those of the two. Negative means that the first is better.

    Raises:
        DataError: If the dataset has other columns than one of the two, or the split has no rows.
    """
    both = [evaluate(each, folder, split, seed=seed) for each in (emulator, against)]
    test = _rows(folder, split)
    first_N, second_N = (_nll_of(_density(each), test) for each in (emulator, against))
    gap_N = first_N - second_N
    score, averaged = _scores(gap_N, _Cells.of(test))
    difference = _difference(*both)
    difference |= {f"{split}_nll": asdict(score), "cell_averaged_nll": averaged}
    for cell in difference["cells"]:
        values_C = np.array(list(cell["conditions"].values()), test.conditions.dtype)
        cell["nll"] = asdict(_mean(gap_N[(test.conditions == values_C).all(axis=1)]))
    return {"emulator": both[0], "against": both[1], "difference": _finite(difference)}


@dataclass(frozen=True, slots=True)
class _Cells:
    """Which rows have the same conditions."""

    values_KC: NDArray[Any]
    rows: list[NDArray[np.intp]]
    """Of each cell, in file order."""

    @classmethod
    def of(cls, test: Batch) -> _Cells:
        values_KC, cell_N = np.unique(test.conditions, axis=0, return_inverse=True)
        counts_K = np.bincount(cell_N.ravel(), minlength=len(values_KC))
        order_N = np.argsort(cell_N.ravel(), kind="stable")
        return cls(values_KC, np.split(order_N, np.cumsum(counts_K)[:-1]))


def _evaluated(
    flow: Density, test: Batch, cells: _Cells, nll_N: NDArray[np.float64], *, seed: int
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    drawn_NF = measure.draw(flow, test.conditions, rng)
    score, averaged = _scores(nll_N, cells)
    near, calibrated = _near_and_calibrated(flow, test, cells, nll_N, rng, seed)
    columns = measure.cell_distances(flow, test, seed=seed)
    by_values = {tuple(cells.values_KC[k]): k for k in near}
    told = []
    for column in columns:
        k = by_values[tuple(np.array(list(column.conditions.values()), cells.values_KC.dtype))]
        nll = asdict(_mean(nll_N[cells.rows[k]]))
        told.append({**asdict(column), "nll": nll, **asdict(near[k])})
    return {
        "nll": asdict(score),
        "cell_averaged_nll": averaged,
        "cells": told,
        "median_ks_over_floor": _median_ratio(told, "ks", "floor"),
        "median_wasserstein_over_floor": _median_ratio(told, "wasserstein", "wasserstein_floor"),
        "median_jensen_shannon_over_floor": _median_ratio(
            told, "jensen_shannon", "jensen_shannon_floor"
        ),
        "two_sample": asdict(two_sample(test.events, drawn_NF, test.conditions, seed=seed))
        if len(test.events) > 1
        else None,
        "calibration": calibrated,
        "unphysical_fraction": measure.unphysical_fraction(flow, drawn_NF),
        "cost": asdict(measure.cost(flow)),
        "speed": _speed(flow, test, rng),
    }


def _near_and_calibrated(
    flow: Density,
    test: Batch,
    cells: _Cells,
    nll_N: NDArray[np.float64],
    rng: np.random.Generator,
    seed: int,
) -> tuple[dict[int, Distances], dict[str, Any]]:
    """Distances of the cells with enough rows, by cell, and the calibration; of the same draws."""
    kept, draws = _kept(cells, len(test.events), rng)
    some = [k for k, rows in enumerate(kept) if len(rows)]
    drawn_c = np.repeat(cells.values_KC[some], [draws[k] for k in some], axis=0)
    all_MF = measure.draw(flow, drawn_c, rng)
    all_log_prob_M = measure.log_prob(flow, all_MF, drawn_c)
    ends = np.cumsum([draws[k] for k in some])[:-1]
    drawn = dict(zip(some, np.split(all_MF, ends), strict=True))
    log_prob = dict(zip(some, np.split(all_log_prob_M, ends), strict=True))

    level = [levels(-nll_N[kept[k]], log_prob[k], rng) for k in some]
    names, bins = [column.name for column in flow.event_columns], Bins.of(test.events)
    split_rng = np.random.default_rng(seed)  # so that the floors of two emulators are the same
    near = {
        k: distances(test.events[cells.rows[k]], drawn[k], names, bins, split_rng)
        for k in some
        if len(cells.rows[k]) >= measure.CELL_ROWS
    }
    return near, asdict(calibration(level, [draws[k] for k in some]))


def _kept(
    cells: _Cells, rows: int, rng: np.random.Generator
) -> tuple[list[NDArray[np.intp]], list[int]]:
    """Which rows of each cell get a level, and how many draws the cell gets."""
    wanted = sum(_draws(len(each)) for each in cells.rows)
    if wanted <= DRAWS:
        return cells.rows, [_draws(len(each)) for each in cells.rows]
    chosen_N = np.zeros(rows, bool)
    chosen_N[rng.permutation(rows)[: max(1, rows * DRAWS // wanted)]] = True
    # A cell whose distances are told needs draws, however few of its rows are chosen.
    kept = [
        each[chosen_N[each]] if chosen_N[each].any() or len(each) < measure.CELL_ROWS else each[:1]
        for each in cells.rows
    ]
    return kept, [_draws(len(each)) for each in kept]


def _draws(rows: int) -> int:
    return max(LEAST_DRAWS, DRAWS_PER_EVENT * rows)


def _scores(nll_N: NDArray[np.float64], cells: _Cells) -> tuple[measure.Nll, dict[str, Any]]:
    """The mean over events, and that over cells of their means."""
    of_cells = [nll_N[rows] for rows in cells.rows]
    within = sum(float(((each - each.mean()) ** 2).sum()) for each in of_cells)
    # A cell of one row shows no spread: it is given that within all cells.
    pooled = within / max(1, len(nll_N) - len(of_cells))
    variances = [
        (float(each.var(ddof=1)) if len(each) > 1 else pooled) / len(each) for each in of_cells
    ]
    averaged = {
        "mean": float(np.mean([each.mean() for each in of_cells])),
        "error": math.sqrt(sum(variances)) / len(of_cells),
        "cells": len(of_cells),
    }
    return _mean(nll_N), averaged


def _mean(nll_N: NDArray[np.float64]) -> measure.Nll:
    return measure.Nll(float(nll_N.mean()), float(nll_N.std()) / math.sqrt(len(nll_N)), len(nll_N))


def _median_ratio(cells: Sequence[Mapping[str, Any]], what: str, floor: str) -> float | None:
    """Median over cells, and columns if there are some, of the distance divided by its floor."""
    ratios = []
    for cell in cells:
        values, floors = cell[what], cell[floor]
        if not isinstance(values, Mapping):
            values, floors = {"": values}, {"": floors}
        ratios += [values[name] / floors[name] for name in values if floors[name] > 0]
    return float(np.median(ratios)) if ratios else None


def _speed(flow: Density, test: Batch, rng: np.random.Generator) -> dict[str, float]:
    """Events per second of drawing and of evaluating, on this machine."""
    c_NC = np.resize(test.conditions, (SPEED_ROWS, test.conditions.shape[1]))
    x_NF = np.resize(test.events, (SPEED_ROWS, test.events.shape[1]))
    # The first call pays for starting threads.
    measure.log_prob(flow, x_NF[: measure.ROWS], c_NC[: measure.ROWS])
    start_s = time.perf_counter()
    measure.draw(flow, c_NC, rng)
    middle_s = time.perf_counter()
    measure.log_prob(flow, x_NF, c_NC)
    return {
        "samples_per_second": SPEED_ROWS / (middle_s - start_s),
        "log_prob_per_second": SPEED_ROWS / (time.perf_counter() - middle_s),
    }


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """First less second of all numbers that both have; a cell keeps its conditions and rows."""
    told: dict[str, Any] = {}
    for name, value in first.items():
        other = second.get(name)
        if isinstance(value, list):
            told[name] = [
                {
                    "conditions": ours["conditions"],
                    "rows": ours["rows"],
                    **_difference(ours, theirs),
                }
                for ours, theirs in zip(value, second[name], strict=True)
            ]
        elif isinstance(value, Mapping) and isinstance(other, Mapping) and name not in LEFT_OUT:
            told[name] = _difference(value, other)
        elif _is_number(value) and _is_number(other) and name not in LEFT_OUT:
            told[name] = value - second[name]
    return {name: each for name, each in told.items() if "floor" not in name or "over" in name}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _density(emulator: Emulator | Density) -> Density:
    return emulator if isinstance(emulator, Density) else emulator.module


def _nll_of(flow: Density, test: Batch) -> NDArray[np.float64]:
    return -measure.log_prob(flow, test.events, test.conditions)


def _rows(folder: Path, split: str) -> Batch:
    test = read_split(Path(folder), split)
    if not len(test.events):
        raise DataError(f"the {split} part of {folder} has no rows")
    return test


def _finite(value: Any) -> Any:
    """The value with None for every number in it that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
