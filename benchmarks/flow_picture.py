"""The picture of `benchmarks/flow.py`: p(M0, M1) between the cells, where the truth is known.

A row for each known density: the truth, ours, and zuko's spline flow after as much training.

Array names end in their axes:
    0, 1 masses of the picture's grid
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import rivals
from flow_data import LAWS, TITLES
from flow_jobs import OURS, POINT, Job
from flow_results import Results
from flow_runs import GRID_0, GRID_1, grid
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

SHOWN = (OURS, rivals.NSF)
DECADES = 3.5
"""Range of the densities shown, below the highest of the truth's."""


def draw(path: Path, jobs: Sequence[Job], results: Results) -> None:
    """Write the picture of what is done."""
    rows = {data: panels(data, jobs, results) for data in LAWS}
    size = (4 * (1 + len(SHOWN)), 4 * len(rows))
    figure, axes = plt.subplots(
        len(rows), 1 + len(SHOWN), figsize=size, squeeze=False, layout="constrained"
    )
    for row, (data, shown) in zip(axes, rows.items(), strict=True):
        # Not the highest value: the ridge has a pole at equal masses.
        truth_01 = shown["truth"]
        top = np.quantile(truth_01[np.isfinite(truth_01)], 0.98) / np.log(10)
        for one, (name, log_prob_01) in zip(row, shown.items(), strict=False):
            panel(one, log_prob_01, top)
            one.set_title(f"{TITLES[data]}: {name}")
    here = ", ".join(f"{name} = {value:g}" for name, value in POINT.items())
    figure.suptitle(f"density [Msun⁻²] at {here}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(path)


def panels(data: str, jobs: Sequence[Job], results: Results) -> Mapping[str, NDArray[np.floating]]:
    """Log densities over the grid of masses: the truth, and of the first seeds that are done."""
    events_N2, conditions_N2 = grid()
    found = {"truth": LAWS[data].log_prob(events_N2, *conditions_N2.T.astype(float))}
    for flow in SHOWN:
        for job in jobs:
            if job.flow == flow and job.data == data and job.plain and not job.seed:
                stored = results.arrays(job.digest(results.fingerprint(data)))
                if stored.exists() and flow not in found:
                    with np.load(stored) as arrays:
                        found[flow] = arrays["grid_N"]
    return {name: values.reshape(len(GRID_0), -1) for name, values in found.items()}


def panel(axes: Axes, log_prob_01: NDArray[np.floating], top: float) -> None:
    """One density."""
    with np.errstate(divide="ignore"):
        shown_01 = log_prob_01.T / np.log(10)
    axes.pcolormesh(GRID_0, GRID_1, shown_01, vmin=top - DECADES, vmax=top, rasterized=True)
    axes.set_facecolor(plt.get_cmap("viridis")(0.0))  # where the density is zero
    axes.set(xlabel="$M_0$ [Msun]", ylabel="$M_1$ [Msun]", aspect="equal")
