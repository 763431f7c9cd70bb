"""Tables of `benchmarks/coverage.py`: how often regions hold the truth, and its ranks.

Of every method and size of catalogue: the share of regions that hold the truth; the squared
distance of the truth from the posterior's mean, 1 if the posterior is right and 2 where the
emulator's error is as large as its width; the Kolmogorov-Smirnov distances to uniform of the
truths' levels and of the ranks of each condition, beside the one that 95 % of perfect posteriors
stay below. Catalogues of one cell share the emulator's error there, so errors are those of a
bootstrap over cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.stats import kstest
from tabulate import tabulate

from models.evaluation.catalogs.coverage import error
from models.evaluation.catalogs.posterior import Found

LEVELS = (0.5, 0.68, 0.9)
AIM, AIMED = (0.86, 0.94), (100, 200)
"""For the 90 % region, and the sizes of catalogues that it is for."""


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
    measures = {f"{level:.0%} region": partial(_covered, level=level) for level in LEVELS}
    measures |= {"squared distance": _squared, "KS: levels, ranks": _distances}
    for name, some in groups(results):
        sizes = sorted({one.size for one in some})
        methods = dict.fromkeys(each for one in some for each in one.found)
        counts = ", ".join(f"{sum(one.size == size for one in some)} of {size}" for size in sizes)
        print(f"\n{name}, {len({one.cell for one in some})} cells or points; catalogues: {counts}")
        for title, told in measures.items():
            rows = [
                [method, *(told(_of(some, method, size)) for size in sizes)] for method in methods
            ]
            print(tabulate(rows, [title, *sizes], "plain", disable_numparse=True))
    print()
    for name, some in groups(results):
        for size in AIMED:
            inside = [one.level < 0.9 for _, one in _of(some, wanted, size)]
            if inside:
                share = float(np.mean(inside))
                print(
                    f"{'met   ' if AIM[0] <= share <= AIM[1] else 'MISSED'} {wanted}, {name}, "
                    f"{size} events: {share:.3f} (aim {AIM[0]:g} to {AIM[1]:g})"
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


def _of(results: Sequence[Result], method: str, size: int) -> list[tuple[int, Found]]:
    """The cell of each catalogue of this size, and what the method finds."""
    return [
        (one.cell, one.found[method]) for one in results if one.size == size and method in one.found
    ]


def _covered(some: Sequence[tuple[int, Found]], level: float) -> str:
    return _mean([cell for cell, _ in some], [one.level < level for _, one in some])


def _squared(some: Sequence[tuple[int, Found]]) -> str:
    return _mean([cell for cell, _ in some], [one.square for _, one in some])


def _mean(cells: Sequence[int], values: Sequence[float]) -> str:
    if not len(values):
        return "-"
    return f"{np.mean(values):.3f} +- {error(np.array(cells), np.array(values, float)):.3f}"


def _distances(some: Sequence[tuple[int, Found]]) -> str:
    """Of the truths' levels and of each condition's ranks to uniform; of 95 % of perfect ones."""
    if not some:
        return "-"
    columns = np.array([[one.level, *one.ranks_C] for _, one in some]).T
    distances = " ".join(f"{kstest(each, 'uniform').statistic:.3f}" for each in columns)
    return f"{distances} ({1.36 / np.sqrt(len(some)):.3f})"
