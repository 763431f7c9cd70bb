"""The picture of `benchmarks/flow.py`: how fast each flow learns, and one density.

Above, validation NLL over seconds of training (on a known density its excess over the true NLL),
a line for each seed. Below, p(M0, M1) between the cells of the known density's grid: the truth,
ours, and zuko's spline flow.

Array names end in their axes:
    0, 1 masses of the picture's grid
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import known_density
import matplotlib
import numpy as np
import rivals
from flow_results import Results
from flow_runs import FLOWS, GRID_0, GRID_1, HALF, OURS, POINT, Job
from numpy.typing import NDArray

from data_prep.stream import read_split

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

COLOURS = dict(zip(FLOWS, ["C3", "C0", "C9", "C2", "C1", "0.5"], strict=True))
DECADES = 3.5
"""Range of the densities shown, below the highest of the truth's."""


def draw(path: Path, jobs: Sequence[Job], results: Results) -> None:
    """Write the picture."""
    figure = plt.figure(figsize=(11, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    data = list(results.folders)
    for name, axes in zip(data, above.subplots(1, len(data), squeeze=False)[0], strict=True):
        curves(axes, name, [job for job in jobs if job.data == name], results)
    if "known" in data:
        densities(below, [job for job in jobs if job.data == "known"], results)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(path)


def curves(axes: Any, data: str, jobs: Sequence[Job], results: Results) -> None:
    """Validation NLL over time."""
    floor, seen = 0.0, set()
    if data == "known":
        val = read_split(results.folders[data], "val")
        floor = -float(known_density.log_prob(val.events, *val.conditions.T).mean())
    lines = results.of(job for job in jobs if not (job.held_out or job.speed) and job.flow != HALF)
    for line in lines:
        seconds, nll = np.array(line["curve"]).T
        label = line["flow"] if line["flow"] not in seen else None
        seen.add(line["flow"])
        best = np.minimum.accumulate(nll) - floor
        axes.plot(seconds, best, color=COLOURS[line["flow"]], label=label, lw=1.3, alpha=0.8)
    if data == "known":
        axes.set(title="known density", ylabel="excess NLL [nats per event]", yscale="log")
    else:
        finals = [line["val_nll"] for line in lines]
        low = min(finals, default=4.0)
        axes.set(title="COSMIC", ylabel="NLL [nats per event]", ylim=(low - 0.01, low + 0.4))
    axes.set_xlabel("training [s]")
    axes.grid(alpha=0.3)
    if seen:
        axes.legend(fontsize=8)


def densities(figure: Any, jobs: Sequence[Job], results: Results) -> None:
    """Panels of the truth and of two flows that were trained."""
    mass_0, mass_1 = np.meshgrid(GRID_0, GRID_1, indexing="ij")
    points = np.stack([mass_0.ravel(), mass_1.ravel()], axis=1)
    truth_01 = known_density.log_prob(points, *POINT.values()).reshape(mass_0.shape)
    panels = {"truth": truth_01} | {
        flow: grid_01
        for flow in (OURS, rivals.NSF)
        if (grid_01 := stored(flow, jobs, results)) is not None
    }
    # Not the highest value: the ridge has a pole at equal masses.
    top = np.quantile(truth_01[np.isfinite(truth_01)], 0.98) / np.log(10)
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (name, log_prob_01) in zip(all_axes, panels.items(), strict=True):
        image = axes.pcolormesh(
            GRID_0,
            GRID_1,
            log_prob_01.T / np.log(10),
            vmin=top - DECADES,
            vmax=top,
            cmap="viridis",
            rasterized=True,
        )
        axes.set_facecolor(plt.get_cmap("viridis")(0.0))  # where the density is zero
        axes.set(title=f"{name}, Z = {POINT['Z']:g}, alpha = {POINT['alpha']:g}")
        axes.set(xlabel="$M_0$ [Msun]", aspect="equal")
    all_axes[0].set_ylabel("$M_1$ [Msun]")
    figure.colorbar(image, ax=all_axes, label=r"$\log_{10}$ density [Msun$^{-2}$]", shrink=0.8)


def stored(flow: str, jobs: Sequence[Job], results: Results) -> NDArray[np.floating] | None:
    """The density of a flow's first seed on the grid, if it is done."""
    lines = results.of(job for job in jobs if job.flow == flow and job.seed == 0 and not job.speed)
    if not lines:
        return None
    with np.load(results.arrays(lines[0]["digest"])) as arrays:
        grid_01: NDArray[np.floating] = arrays["grid_01"]
    return grid_01
