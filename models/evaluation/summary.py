"""The quality in each cell, as a model card says it: cheaper than a whole evaluation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.cells import Named, name_of
from data_prep.dataset import SPLITS, Dataset, key
from data_prep.stream import Stream
from data_prep.untrusted import finite
from models.bundle import batched
from models.bundle.ensemble import Density
from models.evaluation.cells import CellRows, key_of, keys
from models.evaluation.distances import beyond_chance, beyond_data, cell_distances
from models.evaluation.nll import check_columns, mean_of, nll_of
from models.evaluation.weighted import of

ROWS = 200_000
"""Rows at most that the numbers of a model card are of: seconds, however large the data."""
DRAWS = 600_000
"""Draws at most for them."""
CELLS = 5_000
"""Cells at most that a model card tells of: 3 MB of JSON."""


@np.errstate(invalid="ignore")
def summary(flow: Density, folder: Path, *, held_out: Named = (), seed: int = 0) -> dict[str, Any]:
    """The quality in each cell for a model card; a number that is not finite is None.

    `held_out` are cells that were kept out of its training.

    Returns:
        `cells`, in the dataset's order: conditions, rows of each part, whether it was held out,
        NLL with its standard error, and, with enough rows, Kolmogorov-Smirnov distances and their
        floors by event column; of very many cells those with the most rows. Where rows have
        weights, `effective_rows` of each part stand beside the rows; of a region, `box` has the
        range of each condition. `cells_rows`: of how many test rows that is, the first of the part.
        `beyond_chance`: how many cells are further from the data than
        chance, of those with distances. `BeyondData` of as many draws.

    Raises:
        DataError: If the dataset has other columns than the flow.
    """
    dataset = Dataset.read(folder)
    check_columns(flow, dataset, folder)
    stream = Stream(folder, "test", batch_size=ROWS, shuffle=False, memory_mb=0)
    test = next(iter(stream.epoch(0)), None)  # rows are shuffled at rest: any are a fair choice
    if test is None or not len(test.events):
        return {}
    cells, out = CellRows.of(test, dataset), keys(dataset, held_out)
    rows, nll_N = dict(zip(cells.keys, cells.rows, strict=True)), nll_of(flow, test)
    far = {
        key_of(flow.condition_columns, each.conditions): each
        for each in cell_distances(flow, test, dataset, seed=seed, most=DRAWS)
    }
    told = []
    all_cells = dataset.cells
    by_rows = sorted(range(len(all_cells)), key=lambda k: -all_cells[k].effective("train", "test"))
    for cell in (all_cells[k] for k in sorted(by_rows[:CELLS])):
        at = key(cell.conditions)
        one: dict[str, Any] = {
            "conditions": name_of(dataset, cell),
            "rows": {split: getattr(cell, split) for split in SPLITS},
            "held_out": at in out,
        }
        if cell.box:
            ends = zip(dataset.condition_columns, cell.box, strict=True)
            one["box"] = {named.name: list(each) for named, each in ends if not named.categories}
        if dataset.weight_column:
            one["effective_rows"] = {split: cell.effective(split) for split in SPLITS}
        if at in rows:
            score = mean_of(nll_N[rows[at]], of(test.weights, rows[at]))
            one |= {"nll": score.mean, "nll_error": score.error}
        if at in far:
            one |= {"ks": far[at].ks, "ks_floor": far[at].floor}
        told.append(one)
    drawn_NF = batched.draw(flow, test.conditions, np.random.default_rng(seed))
    measured = [{"ks": one["ks"], "floor": one["ks_floor"], **one} for one in told if "ks" in one]
    found = {
        "cells": told,
        "beyond_chance": {"cells": sum(beyond_chance(measured)), "of": len(measured)},
        "cells_rows": len(test.events),
        **asdict(beyond_data(flow, drawn_NF, dataset, test.weights)),
    }
    return finite(found)  # type: ignore[no-any-return]
