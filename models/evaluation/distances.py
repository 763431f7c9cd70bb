"""How far the drawn events of one cell are from the data's: three distances and their floors.

Kolmogorov-Smirnov and Wasserstein-1 of each event column, Jensen-Shannon of the first two together.
A distance between two samples is never 0, so each stands beside its floor: the mean distance
between two halves of the data, scaled to the numbers of events that the distance itself is of.
Events may be weighted; then these numbers are effective ones.

Axes:
    N events of the data    M drawn events    F event columns    C conditions    B bins
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import Value, values_of
from data_prep.dataset import SPLITS, Dataset
from data_prep.stream import Batch
from models.bundle import batched
from models.bundle.ensemble import Density
from models.evaluation.calibration import KOLMOGOROV_MEAN
from models.evaluation.cells import CELL_ROWS, CellRows
from models.evaluation.weighted import Weights, effective, of, quantile

BINS = 10
"""Bins along one column: 100 in the plane of two, so that half a cell's events still fill them."""
HALVINGS = 16
"""Times that a cell's events are halved for the floor of a distance: the mean is told."""
LEAST_DRAWS_OF_CELL = 20_000
"""Draws in a cell at least, and five for each row: they add little to a distance."""
FALSE_ALARMS = 0.02
"""Evaluations of an exact emulator that would name a cell, were floors exact: as means of
`HALVINGS` they scatter, by which it is up to twice as many."""


@dataclass(frozen=True, slots=True)
class CellDistance:
    """Kolmogorov-Smirnov distances in one cell between drawn events and the data's."""

    conditions: dict[str, Value]
    rows: int
    effective_rows: float
    """Rows of equal weight that would tell as much: all, where rows have no weights."""
    ks: dict[str, float]
    """By event column."""
    floor: dict[str, float]
    """The distance that a perfect flow would have on average."""


@dataclass(frozen=True, slots=True)
class Distances:
    """Of one cell; floors are what a perfect emulator would reach on average."""

    wasserstein: dict[str, float]
    """By event column, in the unit of that column."""
    wasserstein_floor: dict[str, float]
    jensen_shannon: float
    """In nats, over the bins of the first two event columns, between as many events as half the
    cell has: with few events it is large even between like densities, as its floor shows."""
    jensen_shannon_floor: float


@dataclass(frozen=True, slots=True)
class BeyondData:
    """How many drawn events are like no row of the data."""

    outside_range: dict[str, float]
    """By event column, the fraction outside the range of all the data."""
    outside_range_floor: dict[str, float]
    """The fraction that is expected of fresh rows of the data's own distribution."""
    not_finite: float
    """The fraction with a value that is not finite."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins in the first one or two event columns, for every cell and every emulator."""

    edges: tuple[NDArray[np.float64], ...]
    """Inner edges along each column, in its unit; the outermost bins are open."""

    @classmethod
    def of(cls, events_NF: NDArray[Any], weights_N: Weights = None, bins: int = BINS) -> Bins:
        """With equally many of these events along each column, by weight if they have some."""
        inner = np.arange(1, bins) / bins
        edges = (quantile(x_N, inner, weights_N) for x_N in events_NF.T[:2])
        return cls(tuple(map(np.unique, edges)))

    def counts(self, events_NF: NDArray[Any], weights_N: Weights = None) -> NDArray[Any]:
        """Events in each bin, or their weights, shape `(B,)`."""
        shape = tuple(len(edges) + 1 for edges in self.edges)
        columns = zip(self.edges, events_NF.T, strict=False)  # columns beyond the second have none
        where = tuple(np.searchsorted(edges, x_N, "right") for edges, x_N in columns)
        flat_N = np.ravel_multi_index(where, shape)
        return np.bincount(flat_N, weights_N, minlength=math.prod(shape))


def cell_distances(
    flow: Density,
    test: Batch,
    dataset: Dataset | None = None,
    *,
    least: int = CELL_ROWS,
    seed: int = 0,
    most: int | None = None,
) -> list[CellDistance]:
    """Kolmogorov-Smirnov distances in each cell of `least` effective rows, those with most first.

    The cells are those of `CellRows.of(test, dataset)`.
    At most `most` events are drawn over all cells, but for one in each. The halves of the data have
    random numbers of their own, so that two flows have one floor.
    """
    rng, split_rng = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    cells = CellRows.of(test, dataset)
    sizes_K = np.array([effective(of(test.weights, rows), len(rows)) for rows in cells.rows])
    chosen = [k for k in np.argsort(-sizes_K) if sizes_K[k] >= least]
    names = [column.name for column in flow.event_columns]
    draws_K = np.maximum(LEAST_DRAWS_OF_CELL, 5 * np.ceil(sizes_K).astype(int))
    if most is not None and draws_K[chosen].sum() > most:
        draws_K = np.maximum(1, draws_K * most // draws_K[chosen].sum())
    told = []
    for k in chosen:
        at_C, rows = cells.values_KC[k], cells.rows[k]
        data = _Sample(test.events[rows], of(test.weights, rows))
        drawn_MF = batched.draw(flow, cells.conditions(k, draws_K[k], rng), rng)
        ks, floor = _of_columns(ks_distance, data, drawn_MF, data.halves(split_rng), names)
        # By way of text, which gives the 0.0001 that was written and not its nearest float32.
        conditions = values_of(flow.condition_columns, (float(str(value)) for value in at_C))
        size = float(sizes_K[k])
        told.append(CellDistance(conditions, len(rows), size, ks, floor))
    return told


def distances(
    events_NF: NDArray[Any],
    drawn_MF: NDArray[Any],
    names: Sequence[str],
    bins: Bins,
    rng: np.random.Generator,
    weights_N: Weights = None,
) -> Distances:
    """Wasserstein and Jensen-Shannon distances of one cell's events and those drawn there.

    At least two events and one drawn, each column in its own unit; drawn ones with a value that is
    not finite are left out. `bins` are those of the divergence, `weights_N` of the events.

    Source:
        Vallender (1974), Theory of Probability and its Applications 18, 784: Wasserstein-1.
        Lin (1991), IEEE Transactions on Information Theory 37, 145: equal weights.
    """
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import wasserstein_distance

    drawn_MF = drawn_MF[np.isfinite(drawn_MF).all(axis=1)]
    if not len(drawn_MF):
        nowhere = dict.fromkeys(names, math.inf)
        return Distances(nowhere, dict.fromkeys(names, 0.0), math.log(2), 0.0)
    data, drawn = _Sample(events_NF, weights_N), _Sample(drawn_MF)
    half = min(len(events_NF) // 2, len(drawn_MF))
    pairs = data.halves(rng, half)
    # Draws with the weights of the other half: few heavy ones leave as many bins empty.
    against_draws = [
        (a, drawn.part(rng.permutation(len(drawn_MF))[:half])._replace(weights_N=b.weights_N))
        for a, b in pairs
    ]
    wasserstein, floor = _of_columns(wasserstein_distance, data, drawn_MF, pairs, names)
    # Half against half both times: the bias by empty bins scales with nothing simple.
    divergence, floor_of_it = (
        # SciPy gives the root of the divergence.
        float(
            np.mean([jensenshannon(*(bins.counts(*half) for half in pair)) ** 2 for pair in each])
        )
        for each in (against_draws, pairs)
    )
    return Distances(wasserstein, floor, divergence, floor_of_it)


def ks_distance(
    a: NDArray[Any], b: NDArray[Any], a_weights: Weights = None, b_weights: Weights = None
) -> float:
    """Largest gap between the empirical distribution functions of two samples.

    Source:
        Smirnov (1948), Annals of Mathematical Statistics 19, 279 (two-sample form).
    """
    at = np.concatenate([a, b])
    return float(np.abs(_below(a, a_weights, at) - _below(b, b_weights, at)).max())


def _below(values_N: NDArray[Any], weights_N: Weights, at: NDArray[Any]) -> NDArray[np.float64]:
    """Of a sample, the fraction at or below each point."""
    if weights_N is None:
        return np.searchsorted(np.sort(values_N), at, "right") / len(values_N)
    order_N = np.argsort(values_N)
    sums = np.concatenate([[0.0], np.cumsum(weights_N[order_N], dtype=np.float64)])
    fractions: NDArray[np.float64] = sums / sums[-1]
    return fractions[np.searchsorted(values_N[order_N], at, "right")]


def median_ratio(cells: Sequence[Mapping[str, Any]], what: str, floor: str) -> float | None:
    """Median over cells, and columns if there are some, of the distance divided by its floor."""
    ratios = [ratio for ratio, *_ in _ratios(cells, what, floor)]
    return float(np.median(ratios)) if ratios else None


def worst(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The largest Kolmogorov-Smirnov distance over its floor, and where that is.

    The largest of many is above 1 with an exact emulator, too: its distance over the mean follows
    Kolmogorov's distribution.
    """
    from scipy.stats import kstwobign

    ratios = _ratios(cells, "ks", "floor")
    if not ratios:
        return None
    largest, column, conditions = max(ratios, key=lambda one: one[0])
    ideal = float(kstwobign.ppf(0.5 ** (1 / len(ratios)))) / KOLMOGOROV_MEAN
    return {"over_floor": largest, "ideal": ideal, "column": column, "conditions": conditions}


def beyond_chance(cells: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Of each cell, whether it is further from the data than chance would put any of them.

    Of an exact emulator a cell is named in one evaluation of 20 at most. A cell's distance is the
    largest over its floor of all columns, whose dependence makes it rarer still.

    Source:
        Kolmogorov's distribution, as in `worst`; Bonferroni's bound over cells and columns.
    """
    from scipy.stats import kstwobign

    ratios = [[one for one, *_ in _ratios([cell], "ks", "floor")] for cell in cells]
    tests = sum(map(len, ratios))
    limit = kstwobign.isf(FALSE_ALARMS / tests) / KOLMOGOROV_MEAN if tests else math.inf
    return [any(ratio > limit for ratio in own) for own in ratios]


def beyond_data(
    flow: Density, drawn_NF: NDArray[Any], dataset: Dataset, weights_N: Weights = None
) -> BeyondData:
    """Fractions of events, drawn at the conditions of the data's rows, that are like no row.

    A side on which the data reach the flow's bound tells nothing, since no draw can be beyond it,
    and a column with two such sides is left out. `weights_N` are those of the rows.

    Source:
        David & Nagaraja (2003), Order Statistics, section 2.5: of n + 1 values of one distribution
        each is as often the greatest.
    """
    drawn_NF, kept = drawn_NF.astype(np.float32), {}
    rows = sum(dataset.effective(split) for split in SPLITS)
    for drawn_N, column in zip(drawn_NF.T, flow.event_columns, strict=True):
        ends = np.array(dataset.ranges[column.name], np.float32)
        free = (ends[0] > np.float32(column.limits[0]), ends[1] < np.float32(column.limits[1]))
        beyond_N = (drawn_N < ends[0]) | (drawn_N > ends[1])
        if any(free):
            kept[column.name] = _fraction(beyond_N, weights_N), sum(free) / (rows + 1)
    not_finite_N = ~np.isfinite(drawn_NF).all(axis=1)
    return BeyondData(
        outside_range={name: fraction for name, (fraction, _) in kept.items()},
        outside_range_floor={name: float(floor) for name, (_, floor) in kept.items()},
        not_finite=_fraction(not_finite_N, weights_N),
    )


def _fraction(chosen_N: NDArray[np.bool_], weights_N: Weights) -> float:
    return float(np.average(chosen_N, weights=weights_N))


def _ratios(
    cells: Sequence[Mapping[str, Any]], what: str, floor: str
) -> list[tuple[float, str, Mapping[str, Any]]]:
    """Distance over floor, with column, if there are some, and cell."""
    told = []
    for cell in cells:
        values, floors = cell[what], cell[floor]
        if not isinstance(values, Mapping):
            values, floors = {"": values}, {"": floors}
        told += [(values[n] / floors[n], n, cell["conditions"]) for n in values if floors[n] > 0]
    return told


class _Sample(NamedTuple):
    """Events of one cell, with their weights if they have some."""

    events_NF: NDArray[Any]
    weights_N: Weights = None

    def part(self, rows: NDArray[np.intp]) -> _Sample:
        return _Sample(self.events_NF[rows], of(self.weights_N, rows))

    def halves(
        self, rng: np.random.Generator, half: int | None = None
    ) -> list[tuple[_Sample, _Sample]]:
        """`HALVINGS` times two halves, or as many events in either as `half` says."""
        rows = len(self.events_NF)
        first, second = (rows - rows // 2, rows // 2) if half is None else (half, half)
        mixed = [rng.permutation(rows) for _ in range(HALVINGS)]
        return [(self.part(each[:first]), self.part(each[rows - second :])) for each in mixed]

    @property
    def effective(self) -> float:
        return effective(self.weights_N, len(self.events_NF))


def _of_columns(
    distance: Callable[..., float],
    data: _Sample,
    drawn_MF: NDArray[Any],
    pairs: Sequence[tuple[_Sample, _Sample]],
    names: Sequence[str],
) -> tuple[dict[str, float], dict[str, float]]:
    """A distance of each column, and its floor from pairs of halves of the events."""
    # A distance of n from m events goes as sqrt(1/n + 1/m) where the densities are alike.
    of_halves = float(np.mean([1 / a.effective + 1 / b.effective for a, b in pairs]))
    scale = math.sqrt((1 / data.effective + 1 / len(drawn_MF)) / of_halves)
    found, floor = {}, {}
    for f, name in enumerate(names):
        found[name] = float(distance(drawn_MF[:, f], data.events_NF[:, f], None, data.weights_N))
        apart = [
            distance(a.events_NF[:, f], b.events_NF[:, f], a.weights_N, b.weights_N)
            for a, b in pairs
        ]
        floor[name] = scale * float(np.mean(apart))
    return found, floor
