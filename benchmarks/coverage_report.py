"""Tables of `benchmarks/coverage.py`: how often regions hold the truth, and its ranks.

Catalogues of one cell share the emulator's error there, so errors are those of a bootstrap over
cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from coverage_posterior import Floats, Found
from numpy.typing import NDArray
from scipy.stats import kstest

LEVELS = (0.5, 0.68, 0.9)
AIM, AIMED = (0.86, 0.94), (100, 200)
"""For the 90 % region, and the sizes of catalogues that it is for."""
BOOTSTRAPS = 1_000


class Result(NamedTuple):
    """What every method makes of one catalogue."""

    place: str
    cell: int
    rows: int
    """Training rows of the cell; 0 between the cells."""
    size: int
    found: Mapping[str, Found]


def show(results: Sequence[Result], wanted: str) -> None:
    """Print all tables, and whether the method `wanted` reaches the aim."""
    for name, some in groups(results):
        sizes = sorted({one.size for one in some})
        methods = dict.fromkeys(each for one in some for each in one.found)
        counts = "  ".join(f"{sum(one.size == size for one in some)} of {size}" for size in sizes)
        print(f"\n{name}, {len({one.cell for one in some})} cells or points: catalogues {counts}")
        width = max(map(len, methods))
        for level in LEVELS:
            print(f"{f'{level:.0%} region':<{width}}" + "".join(f"{size:>15,}" for size in sizes))
            for method in methods:
                cells = [_covered(some, method, size, level) for size in sizes]
                print(f"{method:<{width}}" + "".join(f"{text:>15}" for text in cells))
        print(
            "KS distance of levels and of each condition's ranks to uniform (95 % of perfect ones)"
        )
        for method in methods:
            cells = [_distances(some, method, size) for size in sizes]
            print(f"{method:<{width}}" + "".join(f"{text:>27}" for text in cells))
    print()
    for name, some in groups(results):
        for size in AIMED:
            inside = _inside(some, wanted, size, 0.9)[1]
            if len(inside):
                met = AIM[0] <= inside.mean() <= AIM[1]
                print(
                    f"{'met   ' if met else 'MISSED'} {wanted}, {name}, {size} events: "
                    f"{inside.mean():.3f} (aim {AIM[0]:g} to {AIM[1]:g})"
                )


def groups(results: Sequence[Result]) -> Iterator[tuple[str, list[Result]]]:
    """All of each place, and of the cells the third with fewest training rows."""
    for place in dict.fromkeys(one.place for one in results):
        here = [one for one in results if one.place == place]
        yield place, here
        rows = {one.cell: one.rows for one in here}
        smallest = set(sorted(rows, key=lambda cell: rows[cell])[: len(rows) // 3])
        if max(rows.values()) and smallest:
            most = max(rows[cell] for cell in smallest)
            few = [one for one in here if one.cell in smallest]
            yield f"{place}, smallest third (to {most:,} training rows)", few


def _of(results: Sequence[Result], method: str, size: int) -> list[Result]:
    return [one for one in results if one.size == size and method in one.found]


def _inside(
    results: Sequence[Result], method: str, size: int, level: float
) -> tuple[NDArray[np.int_], Floats]:
    """The cell of each catalogue, and whether its region holds the truth."""
    some = _of(results, method, size)
    inside = np.array([one.found[method].level < level for one in some], float)
    return np.array([one.cell for one in some]), inside


def _covered(results: Sequence[Result], method: str, size: int, level: float) -> str:
    cells, inside = _inside(results, method, size, level)
    if not len(inside):
        return "-"
    return f"{inside.mean():.3f} +- {error(cells, inside):.3f}"


def error(cells: NDArray[np.int_], values: Floats) -> float:
    """Standard error of a mean by a bootstrap over cells."""
    _, cell = np.unique(cells, return_inverse=True)
    sums, counts = np.bincount(cell, values), np.bincount(cell)
    drawn = np.random.default_rng(0).integers(len(sums), size=(BOOTSTRAPS, len(sums)))
    return float((sums[drawn].sum(1) / counts[drawn].sum(1)).std())


def _distances(results: Sequence[Result], method: str, size: int) -> str:
    some = [one.found[method] for one in _of(results, method, size)]
    if not some:
        return "-"
    columns = np.column_stack([[one.level for one in some], [one.ranks_C for one in some]]).T
    distances = " ".join(f"{kstest(each, 'uniform').statistic:.3f}" for each in columns)
    return f"{distances} ({1.36 / np.sqrt(len(some)):.3f})"
