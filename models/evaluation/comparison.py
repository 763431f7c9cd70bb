"""Two evaluations side by side, and their difference event by event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset import Dataset
from data_prep.untrusted import finite
from models.bundle.emulator import Emulator
from models.bundle.ensemble import Density
from models.evaluation.calibration import gap_error
from models.evaluation.catalogs.coverage import of_catalogs
from models.evaluation.cells import CellRows, key_of
from models.evaluation.nll import mean_of
from models.evaluation.report import Evaluation, evaluation, read, scores
from models.evaluation.two_sample import Answers, parts, real_against_real
from models.evaluation.weighted import of

LEFT_OUT = (
    *("box", "rows", "effective_rows", "error", "nominal", "ideal", "conditions", "held_out"),
    *("cells", "real_against_real", "beyond_chance"),
)
"""Of the numbers of an evaluation, those whose difference would mean nothing."""


@np.errstate(invalid="ignore")  # an NLL may be infinite, and so its spread not a number
def compare(
    emulator: Emulator | Density,
    against: Emulator | Density,
    folder: Path,
    split: str = "test",
    *,
    catalogs: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Two evaluations with the same random numbers, and the first less the second.

    Returns:
        `emulator` and `against`: each as from `evaluate`. `difference`: of every number in both.
        NLLs, coverages and the two-sample test are subtracted event by event: the events that both
        find hard cancel, and the standard error is far below those of the two. NLLs of trained
        and of held-out cells are subtracted where both held out equal cells. A negative
        difference of NLLs means that the first is better.

    Raises:
        DataError: If the dataset has other columns than one of the two, or the split has no rows.
        EmulatorError: If a card's held-out cells are none.
    """
    dataset, test, other = read(folder, split, emulator, against)
    real = real_against_real(dataset, test, other, seed=seed)
    first, second = (
        evaluation(each, dataset, test, split, seed=seed, other=other, real=real)
        for each in (emulator, against)
    )
    difference = _difference(first.found, second.found) | _paired(
        first, second, dataset, CellRows.of(test, dataset), split
    )
    sides = {
        name: of_emulator.found | of_catalogs(each, dataset, folder, split, catalogs)
        for name, each, of_emulator in (("emulator", emulator, first), ("against", against, second))
    }
    return {**sides, "difference": finite(difference)}


def _paired(
    first: Evaluation, second: Evaluation, dataset: Dataset, cells: CellRows, split: str
) -> dict[str, Any]:
    """The differences that are taken event by event, with their standard errors."""
    test, gap_N = cells.batch, first.nll_N - second.nll_N
    both_held_out = first.held_out if first.held_out == second.held_out else None
    report = first.report if first.report == second.report else frozenset()
    told: dict[str, Any] = scores(gap_N, cells, split, both_held_out, test.weights, report=report)
    told["cells"] = []
    rows = dict(zip(cells.keys, cells.rows, strict=True))
    for one, other in zip(first.found["cells"], second.found["cells"], strict=True):
        own_N = rows[key_of(dataset.condition_columns, one["conditions"])]
        both = {
            name: one[name]
            for name in ("conditions", "box", "rows", "effective_rows")
            if name in one
        }
        nll = {"nll": asdict(mean_of(gap_N[own_N], of(test.weights, own_N)))}
        told["cells"].append({**both, **_difference(one, other), **nll})
    told["calibration"] = _difference(first.found["calibration"], second.found["calibration"])
    for percent, coverage in told["calibration"]["coverage"].items():
        coverage["error"] = gap_error(
            first.levels.cells,
            second.levels.cells,
            first.levels.draws,
            float(percent) / 100,
            first.levels.weights,
        )
    if first.answers and second.answers:
        told["two_sample"] = _gap(first.answers, second.answers)
        small = _difference(first.found, second.found).get("small_cells")
        among_N = first.small_N[first.answers.rows_N]
        if small and among_N.any():
            gap = _gap(*(each.among(among_N) for each in (first.answers, second.answers)))
            told["small_cells"] = {**small, "two_sample": gap}
    return told


def _gap(first: Answers, second: Answers) -> dict[str, float]:
    """The difference of two AUCs of the same events."""
    gap = mean_of(parts(first) - parts(second))
    return {"auc": gap.mean, "error": gap.error}


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """First less second of all numbers that both have; of a floor there is none."""
    told: dict[str, Any] = {}
    for name, value in first.items():
        other = second.get(name)
        if name in LEFT_OUT:
            continue
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            told[name] = _difference(value, other)
        elif isinstance(value, int | float) and isinstance(other, int | float):
            told[name] = value - other
    return {name: each for name, each in told.items() if "floor" not in name or "over" in name}
