"""Everything that is said about an emulator on a dataset, and about two of them side by side.

Puts together what the others measure, JSON-ready: NLL (`nll`), distances in each cell
(`distances`), the two-sample test (`two_sample`), coverage (`calibration`), unphysical
events, cost and speed; cells that were kept out of training told from the others. For one look at
the end; training asks `nll` alone. What the model card says of each cell is measured here, too.

Axes:
    N events    F event columns    C conditions    K cells    M draws
"""

from __future__ import annotations

import math
import reprlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.cells import Named, name_of
from data_prep.dataset import SPLITS, Cell, Dataset, key
from data_prep.errors import DataError
from data_prep.stream import Batch, Stream, read_split
from data_prep.untrusted import is_finite
from models.bundle.ensemble import Density
from models.bundle.files import EmulatorError
from models.evaluation.calibration import calibration, gap_error, levels, ranks
from models.evaluation.distances import (
    CELL_ROWS,
    Bins,
    CellDistance,
    Distances,
    cell_distances,
    distances,
    unphysical_fraction,
)
from models.evaluation.nll import Nll, check_columns
from models.evaluation.two_sample import outcome, right
from models.flow import batched

if TYPE_CHECKING:
    from models.bundle.emulator import Emulator

DRAWS = 200_000
"""Draws at most for levels and distances: where more are needed, fewer events get a level."""
DRAWS_PER_EVENT = 10
LEAST_DRAWS_OF_LEVELS = 50
"""Draws of a cell at least: of each event, where conditions are continuous."""
SPEED_ROWS = 50_000
LEFT_OUT = ("rows", "error", "nominal", "conditions", "held_out", "cells")
"""Of the numbers of an evaluation, those whose difference would mean nothing."""
CARD_ROWS = 200_000
"""Rows at most that the numbers of a model card are of: seconds, however large the data."""
CARD_DRAWS = 600_000
"""Draws at most for them."""
CARD_CELLS = 5_000
"""Cells at most that a model card tells of: 3 MB of JSON."""


@np.errstate(invalid="ignore")  # an NLL may be infinite, and so its spread not a number
def evaluate(
    emulator: Emulator | Density,
    folder: Path,
    split: str = "test",
    *,
    seed: int = 0,
    held_out: Named | None = None,
) -> dict[str, Any]:
    """Everything that is said about a density; a number that is not finite is None.

    Args:
        emulator: Which is asked.
        folder: A prepared dataset.
        split: train, val or test.
        seed: Of the draws.
        held_out: Cells that were kept out of its training; by default those that its card names.
            One that the dataset lacks is passed over.

    Returns:
        `{split}_nll` and `cell_averaged_nll`, in which cells count alike: mean and standard error
        in nats per event; over the whole split. `trained_cells_nll` and `held_out_nll`: the same
        of the rows of either kind of cells, None where there are none. `cells`: the distances of
        `CellDistance` and of `Distances`, the NLL, and whether it was `held_out`, of each
        cell with enough rows; `median_*_over_floor` over those. `two_sample` and `calibration`: as
        in the modules of that name; None and without coverage if there are too few rows.
        `unphysical_fraction` of draws at the split's conditions, `cost`, `speed`.

    Raises:
        DataError: If the dataset has other columns than the flow, or the split has no rows.
        EmulatorError: If the card's held-out cells are none.
    """
    dataset, test = _data(_density(emulator), folder, split)
    return _evaluated(emulator, dataset, test, split, seed, held_out).found


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
        `emulator` and `against`: each as from `evaluate`. `difference`: of every number in both.
        Those of NLLs, of coverages and of the two-sample test are taken event by event: what both
        find hard cancels, and the standard error is far below those of the two. NLLs of trained
        and of held-out cells are subtracted where both held out the same. Of an NLL, negative
        means that the first is better.

    Raises:
        DataError: If the dataset has other columns than one of the two, or the split has no rows.
        EmulatorError: If a card's held-out cells are none.
    """
    dataset, test = _data(_density(emulator), folder, split)
    check_columns(_density(against), dataset, folder)
    first, second = (
        _evaluated(each, dataset, test, split, seed, None) for each in (emulator, against)
    )
    difference = _difference(first.found, second.found) | _paired(first, second, test, split)
    return {"emulator": first.found, "against": second.found, "difference": _finite(difference)}


def held_out_of(card: Mapping[str, Any]) -> list[dict[str, float]]:
    """The cells that the training of an emulator was kept from, as its card names them.

    Raises:
        EmulatorError: If what the card names is no cell.
    """
    metrics = card.get("metrics", {})
    members = metrics.get("members", ())  # an ensemble of before it told them of the whole
    for told in (metrics, *(members if isinstance(members, list) else ())):
        if isinstance(told, Mapping) and "held_out_cells" in told:
            return _named(told["held_out_cells"])
    return []


@np.errstate(invalid="ignore")
def summary(flow: Density, folder: Path, *, held_out: Named = (), seed: int = 0) -> dict[str, Any]:
    """What a model card says of the quality in each cell; a number that is not finite is None.

    Args:
        flow: Which is measured.
        folder: A prepared dataset.
        held_out: Cells that were kept out of its training.
        seed: Of the draws.

    Returns:
        `cells`, in the dataset's order: conditions, rows of each part, whether it was held out,
        NLL with its standard error, and, with enough rows, Kolmogorov-Smirnov distances and their
        floors by event column; of very many cells those with the most rows. `cells_rows`: of how
        many test rows that is, the first of the part. `unphysical_fraction` of as many draws.

    Raises:
        DataError: If the dataset has other columns than the flow.
    """
    dataset = Dataset.read(folder)
    check_columns(flow, dataset, folder)
    stream = Stream(folder, "test", batch_size=CARD_ROWS, shuffle=False, memory_mb=0)
    test = next(iter(stream.epoch(0)), None)  # rows are shuffled at rest: any are a fair choice
    if test is None or not len(test.events):
        return {}
    cells, out = _Cells.of(test), _keys(dataset, held_out)
    nll_N, where = _nll_of(flow, test), {values: k for k, values in enumerate(cells.keys)}
    far = {
        key(tuple(each.conditions.values())): each
        for each in cell_distances(flow, test, seed=seed, most=CARD_DRAWS)
    }
    told = []
    for cell in _largest(dataset.cells, CARD_CELLS):
        at = key(cell.conditions)
        rows_N = cells.rows[where[at]] if at in where else None
        told.append(_told(dataset, cell, at in out, rows_N, nll_N, far.get(at)))
    drawn_NF = batched.draw(flow, test.conditions, np.random.default_rng(seed))
    found = {
        "cells": told,
        "cells_rows": len(test.events),
        "unphysical_fraction": unphysical_fraction(flow, drawn_NF),
    }
    return _finite(found)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Cells:
    """Which rows have the same conditions."""

    values_KC: NDArray[Any]
    rows: list[NDArray[np.intp]]
    """Of each cell, in file order."""
    keys: list[tuple[float, ...]]
    """Of each cell, what tells it from others: see `data_prep.dataset.key`."""

    @classmethod
    def of(cls, test: Batch) -> _Cells:
        values_KC, cell_N = np.unique(test.conditions, axis=0, return_inverse=True)
        counts_K = np.bincount(cell_N.ravel(), minlength=len(values_KC))
        order_N = np.argsort(cell_N.ravel(), kind="stable")
        rows = np.split(order_N, np.cumsum(counts_K)[:-1])
        return cls(values_KC, rows, [key(values) for values in values_KC.tolist()])


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """An evaluation, and what a difference is taken of, event by event."""

    found: dict[str, Any]
    nll_N: NDArray[np.float64]
    right_2N: NDArray[np.bool_] | None
    levels: list[NDArray[np.float64]]
    """Of each cell's events that have one."""
    draws: list[int]
    """Of those cells."""
    held_out: frozenset[tuple[float, ...]]
    """Cells of the dataset."""


def _evaluated(
    emulator: Emulator | Density,
    dataset: Dataset,
    test: Batch,
    split: str,
    seed: int,
    held_out: Named | None,
) -> _Evaluated:
    flow, cells = _density(emulator), _Cells.of(test)
    if held_out is None:
        held_out = () if isinstance(emulator, Density) else held_out_of(emulator.card)
    out = frozenset(_keys(dataset, held_out))
    rng = np.random.default_rng(seed)
    nll_N = _nll_of(flow, test)
    drawn_NF = batched.draw(flow, test.conditions, rng)
    score, averaged = _scores(nll_N, cells)
    near, calibrated, level, draws = _near_and_calibrated(flow, test, cells, nll_N, rng, seed)
    columns = cell_distances(flow, test, seed=seed)
    by_values = {cells.keys[k]: k for k in near}
    told = []
    for column in columns:
        k = by_values[key(tuple(column.conditions.values()))]
        nll = asdict(_mean(nll_N[cells.rows[k]]))
        held = {"held_out": cells.keys[k] in out}
        told.append({**asdict(column), **held, "nll": nll, **asdict(near[k])})
    right_2N = None
    if len(test.events) > 1:
        right_2N = right(test.events, drawn_NF, test.conditions, seed=seed)
    found = {
        "split": split,
        f"{split}_nll": asdict(score),
        "cell_averaged_nll": averaged,
        **_of_kinds(nll_N, cells, out),
        "cells": told,
        "median_ks_over_floor": _median_ratio(told, "ks", "floor"),
        "median_wasserstein_over_floor": _median_ratio(told, "wasserstein", "wasserstein_floor"),
        "median_jensen_shannon_over_floor": _median_ratio(
            told, "jensen_shannon", "jensen_shannon_floor"
        ),
        "two_sample": None if right_2N is None else asdict(outcome(right_2N)),
        "calibration": calibrated,
        "unphysical_fraction": unphysical_fraction(flow, drawn_NF),
        "cost": asdict(batched.cost(flow)),
        "speed": _speed(flow, test, rng),
    }
    return _Evaluated(_finite(found), nll_N, right_2N, level, draws, out)


def _near_and_calibrated(
    flow: Density,
    test: Batch,
    cells: _Cells,
    nll_N: NDArray[np.float64],
    rng: np.random.Generator,
    seed: int,
) -> tuple[dict[int, Distances], dict[str, Any], list[NDArray[np.float64]], list[int]]:
    """Distances of the cells with enough rows, by cell, and the calibration; of the same draws.

    With the levels that it is of, and the draws, of each cell that has some.
    """
    # With numbers of its own: two emulators are asked about the same events.
    kept, draws = _kept(cells, len(test.events), np.random.default_rng(seed))
    some = [k for k, rows in enumerate(kept) if len(rows)]
    drawn_c = np.repeat(cells.values_KC[some], [draws[k] for k in some], axis=0)
    all_MF = batched.draw(flow, drawn_c, rng)
    all_log_prob_M = batched.log_prob(flow, all_MF, drawn_c)
    ends = np.cumsum([draws[k] for k in some])[:-1]
    drawn = dict(zip(some, np.split(all_MF, ends), strict=True))
    log_prob = dict(zip(some, np.split(all_log_prob_M, ends), strict=True))

    level = [levels(-nll_N[kept[k]], log_prob[k], rng) for k in some]
    names, bins = [column.name for column in flow.event_columns], Bins.of(test.events)
    rank = {
        name: np.concatenate([ranks(test.events[kept[k], f], drawn[k][:, f], rng) for k in some])
        for f, name in enumerate(names)
    }
    split_rng = np.random.default_rng(seed)  # so that the floors of two emulators are the same
    near = {
        k: distances(test.events[cells.rows[k]], drawn[k], names, bins, split_rng)
        for k in some
        if len(cells.rows[k]) >= CELL_ROWS
    }
    of_some = [draws[k] for k in some]
    return near, asdict(calibration(level, of_some, rank)), level, of_some


def _of_kinds(
    nll_N: NDArray[np.float64], cells: _Cells, out: frozenset[tuple[float, ...]]
) -> dict[str, dict[str, Any] | None]:
    """The NLL of the cells that were trained on and of those that were not."""
    told: dict[str, dict[str, Any] | None] = {}
    for name, held in (("trained_cells_nll", False), ("held_out_nll", True)):
        rows = [own for at, own in zip(cells.keys, cells.rows, strict=True) if (at in out) == held]
        told[name] = None
        if rows:
            told[name] = {**asdict(_mean(nll_N[np.concatenate(rows)])), "cells": len(rows)}
    return told


def _paired(first: _Evaluated, second: _Evaluated, test: Batch, split: str) -> dict[str, Any]:
    """The differences that are taken event by event, with their standard errors."""
    cells, gap_N = _Cells.of(test), first.nll_N - second.nll_N
    score, averaged = _scores(gap_N, cells)
    told: dict[str, Any] = {f"{split}_nll": asdict(score), "cell_averaged_nll": averaged}
    told |= {"trained_cells_nll": None, "held_out_nll": None}
    if first.held_out == second.held_out:
        told |= _of_kinds(gap_N, cells, first.held_out)
    rows = dict(zip(cells.keys, cells.rows, strict=True))
    told["cells"] = []
    for one, other in zip(first.found["cells"], second.found["cells"], strict=True):
        own_N = rows[key(tuple(one["conditions"].values()))]
        both = {name: one[name] for name in ("conditions", "rows")}
        nll = {"nll": asdict(_mean(gap_N[own_N]))}
        told["cells"].append({**both, **_difference(one, other), **nll})
    told["calibration"] = _difference(first.found["calibration"], second.found["calibration"])
    for percent, coverage in told["calibration"]["coverage"].items():
        coverage["error"] = gap_error(
            first.levels, second.levels, first.draws, float(percent) / 100
        )
    if first.right_2N is not None and second.right_2N is not None:
        # An event and the one drawn at its conditions count as one: one classifier answered both.
        right_N = first.right_2N.mean(axis=0) - second.right_2N.mean(axis=0)
        gap = _mean(right_N)
        told["two_sample"] = {"accuracy": gap.mean, "error": gap.error}
    return told


def _told(
    dataset: Dataset,
    cell: Cell,
    held_out: bool,
    rows_N: NDArray[np.intp] | None,
    nll_N: NDArray[np.float64],
    far: CellDistance | None,
) -> dict[str, Any]:
    """What a model card says of a cell."""
    told: dict[str, Any] = {
        "conditions": name_of(dataset, cell),
        "rows": {split: getattr(cell, split) for split in SPLITS},
        "held_out": held_out,
    }
    if rows_N is not None:
        score = _mean(nll_N[rows_N])
        told |= {"nll": score.mean, "nll_error": score.error if score.rows > 1 else None}
    return told | ({"ks": far.ks, "ks_floor": far.floor} if far else {})


def _largest(cells: Sequence[Cell], most: int) -> list[Cell]:
    """At most so many, in their order: those with the most rows."""
    by_rows = sorted(range(len(cells)), key=lambda k: -(cells[k].train + cells[k].test))
    return [cells[k] for k in sorted(by_rows[:most])]


def _keys(dataset: Dataset, named: Named) -> set[tuple[float, ...]]:
    """What tells the named cells from others; one that has other conditions is no cell here."""
    names = [column.name for column in dataset.condition_columns]
    return {key([each[name] for name in names]) for each in named if set(each) == set(names)}


def _named(told: object) -> list[dict[str, float]]:
    cells = [
        cell.get("conditions") if isinstance(cell, Mapping) else None
        for cell in (told if isinstance(told, list) else [None])
    ]
    for cell in cells:
        if not (isinstance(cell, Mapping) and all(map(is_finite, cell.values()))):
            raise EmulatorError(
                "the emulator's card names held-out cells that are none (held_out_cells of its "
                f"metrics holds {reprlib.repr(cell)}): export the emulator again"
            )
    return [dict(cell) for cell in cells]  # type: ignore[arg-type]


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
        each[chosen_N[each]] if chosen_N[each].any() or len(each) < CELL_ROWS else each[:1]
        for each in cells.rows
    ]
    return kept, [_draws(len(each)) for each in kept]


def _draws(rows: int) -> int:
    return max(LEAST_DRAWS_OF_LEVELS, DRAWS_PER_EVENT * rows)


def _scores(nll_N: NDArray[np.float64], cells: _Cells) -> tuple[Nll, dict[str, Any]]:
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


def _mean(nll_N: NDArray[np.float64]) -> Nll:
    """The mean; one row shows no spread, and the error is not a number."""
    error = float(nll_N.std()) / math.sqrt(len(nll_N)) if len(nll_N) > 1 else math.nan
    return Nll(float(nll_N.mean()), error, len(nll_N))


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
    batched.log_prob(flow, x_NF[: batched.ROWS], c_NC[: batched.ROWS])
    start_s = time.perf_counter()
    batched.draw(flow, c_NC, rng)
    middle_s = time.perf_counter()
    batched.log_prob(flow, x_NF, c_NC)
    return {
        "samples_per_second": SPEED_ROWS / (middle_s - start_s),
        "log_prob_per_second": SPEED_ROWS / (time.perf_counter() - middle_s),
    }


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """First less second of all numbers that both have; of a floor there is none."""
    told: dict[str, Any] = {}
    for name, value in first.items():
        other = second.get(name)
        if name in LEFT_OUT:
            continue
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            told[name] = _difference(value, other)
        elif _is_number(value) and _is_number(other):
            told[name] = value - other
    return {name: each for name, each in told.items() if "floor" not in name or "over" in name}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _density(emulator: Emulator | Density) -> Density:
    return emulator if isinstance(emulator, Density) else emulator.module


def _nll_of(flow: Density, test: Batch) -> NDArray[np.float64]:
    return -batched.log_prob(flow, test.events, test.conditions)


def _data(flow: Density, folder: Path, split: str) -> tuple[Dataset, Batch]:
    """The dataset, which has the flow's columns, and a part of it, which has rows."""
    dataset = Dataset.read(folder)
    check_columns(flow, dataset, folder)
    test = read_split(Path(folder), split)
    if not len(test.events):
        raise DataError(f"the {split} part of {folder} has no rows")
    return dataset, test


def _finite(value: Any) -> Any:
    """The value with None for every number in it that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
