"""Whether the spread between an ensemble's members tells how wrong its density is.

    python benchmarks/spread.py [--members 5] [--seconds 60] [--rows 200000] [--threads 2]
                                [--picture FILE]

`log_prob(..., return_std=True)` gives, with the log density of an ensemble, the standard deviation
of its members' log densities. Here the true density is known (`known_density`), so the error of
each log density is known, too: at test events of the grid's cells, at events between the cells,
and beyond the metallicities of the grid, where the same formula goes on. The members are the
default flow with other seeds.

What is told of each place: the mean excess NLL of one member and of the ensemble, the typical (root
mean square) error and spread, their ratio, how often the truth is within one and two spreads, and
the rank correlation of the size of the error with the spread. The picture has the typical error
over the spread, for events sorted by spread into twenty parts: on the diagonal, a spread is an
error bar.

Array names end in their axes:
    K members    N events
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import known_density
import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.stream import read_split
from models import Emulator
from models.bundle.ensemble import Ensemble
from models.config import FlowConfig, TrainConfig
from models.flow.density import ConditionalFlow
from models.training.train import train

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

Floats = NDArray[np.floating]

POINTS, EVENTS = 40, 2_000
"""Between and beyond the cells: conditions, and events at each."""
BEYOND = (0.035, 0.06)
"""Metallicities past the largest of the grid, 0.03."""
PARTS = 20
COLOURS = {"at the cells": "#0072B2", "between them": "#E69F00", "beyond the grid": "#D55E00"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What the ensemble says of the events of one place, and what is true."""

    place: str
    excess_one: float
    """Nats per event over the truth, mean of the members."""
    error_N: Floats
    """Log density of the ensemble less the true one."""
    spread_N: Floats

    @property
    def typical(self) -> tuple[float, float]:
        """Error and spread, root mean square."""
        return _rms(self.error_N), _rms(self.spread_N)

    @property
    def rank(self) -> float:
        """Spearman's correlation of the size of the error with the spread."""
        ranks = [np.argsort(np.argsort(each)) for each in (np.abs(self.error_N), self.spread_N)]
        return float(np.corrcoef(*ranks)[0, 1])

    def within(self, spreads: float) -> float:
        """Fraction of events whose error is at most so many spreads."""
        return float((np.abs(self.error_N) <= spreads * self.spread_N).mean())

    def parts(self) -> tuple[Floats, Floats]:
        """Typical spread and error of events sorted by their spread into parts."""
        order = np.array_split(np.argsort(self.spread_N), PARTS)
        return tuple(
            np.array([_rms(each[part]) for part in order]) for each in (self.spread_N, self.error_N)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="of training, each")
    parser.add_argument("--rows", type=int, default=200_000, help="of the table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="spread-") as place:
        folder = Path(place) / "data"
        known_density.write(folder, options.rows)
        flows = [fitted(folder, seed, options.seconds) for seed in range(options.members)]
        told = [of_place(flows, *each) for each in places(folder)]
    report(told, options)
    if options.picture:
        draw(told, options.picture)


def fitted(folder: Path, seed: int, seconds: float) -> ConditionalFlow:
    """A member."""
    config = TrainConfig(max_minutes=seconds / 60, seed=seed, device="cpu")
    return train(folder, FlowConfig(), config)[0]


def places(folder: Path) -> Iterator[tuple[str, Floats, Floats, Floats]]:
    """Name, events and conditions (Z, alpha) of each place."""
    test = read_split(folder, "test")
    yield "at the cells", test.events, *test.conditions.T
    rng = np.random.default_rng(7)
    between = known_density.off_grid(POINTS, rng)
    beyond = np.exp(rng.uniform(*np.log(BEYOND), POINTS)), between[1]
    for name, points in (("between them", between), ("beyond the grid", beyond)):
        z_N, alpha_N = (np.repeat(values, EVENTS) for values in points)
        yield name, known_density.sample(z_N, alpha_N, rng), z_N, alpha_N


def of_place(
    flows: list[ConditionalFlow], place: str, events_NF: Floats, z_N: Floats, alpha_N: Floats
) -> Told:
    """What members and ensemble say there."""
    at = {"Z": z_N, "alpha": alpha_N, "on_extrapolation": "ignore"}
    truth_N = known_density.log_prob(events_NF, z_N, alpha_N)
    each_K = [Emulator(flow).log_prob(events_NF, **at) for flow in flows]
    mixed_N, spread_N = Emulator(Ensemble(flows)).log_prob(events_NF, return_std=True, **at)
    return Told(
        place=place,
        excess_one=float(np.mean([(truth_N - one_N).mean() for one_N in each_K])),
        error_N=mixed_N - truth_N,
        spread_N=spread_N,
    )


def report(told: list[Told], options: argparse.Namespace) -> None:
    print(
        f"{options.members} members, {options.seconds:g} s of training each, "
        f"{options.rows:,} rows, {options.threads} threads"
    )
    print(f"{'':16} {'excess NLL':>17}   {'root mean square':>23}   {'truth within':>15}   rank")
    print(
        f"{'':16} {'of one':>8} {'mixed':>8}   {'error':>7} {'spread':>7} {'ratio':>7}   "
        f"{'1':>7} {'2':>7}   correlation"
    )
    for one in told:
        error, spread = one.typical
        print(
            f"{one.place:16} {one.excess_one:8.4f} {-one.error_N.mean():8.4f}   "
            f"{error:7.3f} {spread:7.3f} {error / spread:7.2f}   "
            f"{one.within(1):7.1%} {one.within(2):7.1%}   {one.rank:.2f}"
        )


def draw(told: list[Told], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
    for one, marker in zip(told, "osD", strict=True):
        axes.plot(*one.parts(), marker, ms=5, color=COLOURS[one.place], label=one.place)
    ends = np.array([min(one.parts()[0].min() for one in told), axes.get_xlim()[1]])
    axes.set(xscale="log", yscale="log")
    axes.plot(ends, ends, ":", color="0.5", label="an error bar")
    axes.plot(ends, 2 * ends, "--", color="0.7", label="twice as far off")
    axes.set(xlabel="spread of the members' ln p [nats]", ylabel="error of ln p [nats]")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(path)


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


if __name__ == "__main__":
    main()
