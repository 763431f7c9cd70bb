"""The data sets of `benchmarks/flow.py`, and the true log density where it is known.

Array names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import known_density
import numpy as np
import power_law_peak
from known_density import Floats

from data_prep.dataset import SAMPLE
from data_prep.stream import read_split

COSMIC, KNOWN, PEAK = "cosmic", "known", "peak"
SECONDS = {COSMIC: 60.0, KNOWN: 150.0, PEAK: 150.0}
"""Processor time of each training."""
TITLES = {
    COSMIC: "COSMIC",
    KNOWN: "known density with edges",
    PEAK: "power law and peak",
}
LAWS: dict[str, ModuleType] = {KNOWN: known_density, PEAK: power_law_peak}

BETWEEN_POINTS, BETWEEN_EVENTS = 20, 5_000


class Truth(NamedTuple):
    """The true log density of the test rows, and events between the cells with theirs."""

    test_N: Floats
    events_NF: Floats
    conditions_NC: Floats
    between_N: Floats


def folder_of(data: str, beside: Path, rows: int) -> Path:
    """The prepared dataset of this name; one of known density is made once, in `beside`."""
    if data == COSMIC:
        return SAMPLE
    folder = beside / f"{data}-{rows}"
    if not folder.exists():
        LAWS[data].write(folder, rows)
    return folder


def truth_of(data: str, folder: Path) -> Truth | None:
    """The truth about this dataset, computed once and kept beside it; None if nobody knows it."""
    if data not in LAWS:
        return None
    path = folder.with_name(f"{folder.name}-truth.npz")
    if not path.exists():
        np.savez_compressed(path, **_truth(LAWS[data], folder)._asdict())
    with np.load(path) as stored:
        return Truth(**stored)


def _truth(law: ModuleType, folder: Path) -> Truth:
    test, rng = read_split(folder, "test"), np.random.default_rng(20)
    points = known_density.off_grid(BETWEEN_POINTS, rng)
    z_N, alpha_N = (np.repeat(values, BETWEEN_EVENTS) for values in points)
    events_NF = law.sample(z_N, alpha_N, rng)
    return Truth(
        test_N=law.log_prob(test.events, *test.conditions.T.astype(float)),
        events_NF=events_NF.astype(np.float32),
        conditions_NC=np.stack([z_N, alpha_N], 1).astype(np.float32),
        between_N=law.log_prob(events_NF, z_N, alpha_N),
    )
