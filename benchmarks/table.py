"""How far an emulator's table is from its flow: integral, posterior of a catalogue, detections.

    python benchmarks/table.py EMULATOR [--points 48] [--condition-points 24] [--catalogs 40]
                               [--events 100]

All conditions are random ones inside the domain, in the logarithm, between the table's points. The
integral is a sum over a grid that has nothing to do with the table's, a random point in each of its
cells. Catalogues are drawn from the flow; the posterior of the first condition is taken with a
prior flat in the logarithms of all, exactly, over a grid that is laid around the flow's. Its shift
is the table's mean minus the flow's, in standard deviations of the flow's. What is detected is the
part of the mergers above 25 Msun, by injections.

Array names end in their axes:
    N rows    F event columns    C conditions    K points of a grid of conditions
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import ArrayFlow, CatalogLikelihood, PopulationModel, Table
from models.arrays.flow import in_parts

Floats = NDArray[np.float64]
Density = ArrayFlow | Table
SIDE, WIDE = 1000, 0.2
"""Points of a mass and of a ratio, and how far they reach beyond a million draws, relatively."""
COARSE, FINE, REACH = 16, 24, 4.0
"""Points of each condition, in the domain and around the posterior, in standard deviations."""
INNER = 0.1
"""Part of the domain at either end where no catalogue is drawn."""
HEAVY = 25.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("emulator", type=Path)
    parser.add_argument("--points", type=int, default=48)
    parser.add_argument("--condition-points", type=int, default=24)
    parser.add_argument("--catalogs", type=int, default=40)
    parser.add_argument("--events", type=int, default=100, help="of each catalogue")
    parser.add_argument("--integrals", type=int, default=8)
    options = parser.parse_args()
    flow, rng = ArrayFlow.load(options.emulator), np.random.default_rng(0)
    start_s = time.process_time()
    points = {"points": options.points, "condition_points": options.condition_points}
    table = Table.of(flow, **points, largest_error=10)
    size = sum(array.nbytes for lines in table.lines for array in lines) / 1e6
    print(f"made in {time.process_time() - start_s:.0f} s of processor time, {size:.1f} MB")
    print(f"ln p to {table.rms_error:.3f} nats rms, captured {table.captured:.4f}")
    low_C, high_C = np.log([flow.domain[name] for name in flow.condition_columns]).T
    inside = [
        np.exp(low_C + (high_C - low_C) * rng.random(len(low_C))) for _ in range(options.integrals)
    ]
    found = [integral(flow, table, c_C, rng) for c_C in inside]
    print(f"integral {min(found):.4f} to {max(found):.4f} under {len(found)} conditions")
    shifts, ratios = [], []
    for _ in range(options.catalogs):
        c_C = np.exp(low_C + (high_C - low_C) * rng.uniform(INNER, 1 - INNER, len(low_C)))
        events_NF = drawn(flow, c_C, options.events, rng)
        shifts.append(shift(flow, table, events_NF, np.stack([low_C, high_C], 1)))
        ratios.append(detected(table, flow, c_C, rng))
    rms, mean = np.sqrt(np.mean(np.square(shifts))), np.mean(shifts)
    print(f"shift of log {flow.condition_columns[0]}: {rms:.3f} sigma rms, {mean:+.3f} mean")
    print(f"detected fraction, table / flow: {min(ratios):.4f} to {max(ratios):.4f}")


def drawn(flow: ArrayFlow, c_C: Floats, rows: int, rng: np.random.Generator) -> Floats:
    """Events, `(rows, F)`."""
    events: Floats = flow.from_noise(rng.standard_normal((rows, flow.noise_columns)), c_C[None])
    return events


def integral(flow: ArrayFlow, table: Table, c_C: Floats, rng: np.random.Generator) -> float:
    """Of the table's density of two masses."""
    m_NF = np.log(drawn(flow, c_C, 200_000, rng))
    sides, cell = [], 1.0
    for column in (m_NF[:, 0], m_NF[:, 1] - m_NF[:, 0]):
        reach = WIDE * np.ptp(column)
        edges = np.linspace(column.min() - reach, column.max() + reach, SIDE + 1)
        sides.append(edges[:-1])
        cell *= edges[1] - edges[0]
    first, ratio = (
        grid + (side[1] - side[0]) * rng.random(grid.shape)
        for grid, side in zip(np.meshgrid(*sides, indexing="ij"), sides, strict=True)
    )
    x_NF = np.exp(np.stack([first, first + ratio], -1).reshape(-1, 2))
    ln_N = in_parts(table.log_density, x_NF, c_C[None])
    return float((np.exp(ln_N) * x_NF.prod(1)).sum() * cell)


def shift(flow: ArrayFlow, table: Table, events_NF: Floats, ends_C2: Floats) -> float:
    """Of the posterior mean of the first condition's logarithm, in the flow's widths."""
    ln_KC = points(ends_C2, COARSE)
    mean_C, width_C = moments(ln_KC, posterior(flow, events_NF, ln_KC))
    step_C = np.ptp(ends_C2, axis=1) / (COARSE - 1)
    reach_C = REACH * np.hypot(width_C, step_C / 2)
    around_C2 = np.stack([mean_C - reach_C, mean_C + reach_C], 1)
    ln_KC = points(np.clip(around_C2, ends_C2[:, :1], ends_C2[:, 1:]), FINE)
    (of_flow, width_C), (of_table, _) = (
        moments(ln_KC, posterior(each, events_NF, ln_KC)) for each in (flow, table)
    )
    return float((of_table - of_flow)[0] / width_C[0])


def points(ends_C2: Floats, count: int) -> Floats:
    """A grid of the logarithms of conditions, `(K, C)`."""
    lines = [np.linspace(*ends, count) for ends in ends_C2]
    return np.stack([grid.ravel() for grid in np.meshgrid(*lines, indexing="ij")], -1)


def posterior(density: Density, events_NF: Floats, ln_KC: Floats) -> Floats:
    """Of the points of a grid, with a sum of 1."""
    ln_K = np.array(
        [in_parts(density.log_density, events_NF, np.exp(ln_C)[None]).sum() for ln_C in ln_KC]
    )
    weight_K = np.exp(ln_K - ln_K.max())
    return weight_K / weight_K.sum()


def moments(ln_KC: Floats, weight_K: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation."""
    mean_C = weight_K @ ln_KC
    return mean_C, np.sqrt(weight_K @ (ln_KC - mean_C) ** 2)


def detected(table: Table, flow: ArrayFlow, c_C: Floats, rng: np.random.Generator) -> float:
    """Detected fraction by the table over that by the flow, of the same injections."""
    pair = np.exp(rng.uniform(0, 5, (20_000, 2)))
    seen = pair.sum(1) > HEAVY
    injections = {"mass_1": pair.max(1), "mass_2": pair.min(1), "prior": 2 / pair.prod(1) / 25}
    injections = {name: values[seen] for name, values in injections.items()}
    event = {"mass_1": [30.0], "mass_2": [25.0], "prior": [1.0]}
    here = dict(zip(flow.condition_columns, c_C, strict=True))
    of_table, of_flow = (
        CatalogLikelihood(PopulationModel(density), [event], injections, drawn=len(pair))
        .estimate(**here)
        .detected_fraction
        for density in (table, flow)
    )
    return float(of_table / of_flow)


if __name__ == "__main__":
    main()
