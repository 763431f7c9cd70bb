"""Values that many rows share, where a density has none: told with the way out, or smoothed.

A rounded column, a clipped one or a spike at zero trains without a fault, and its NLL falls for as
long as the flow narrows the spike. So `prepare` counts, in bounded memory, which values are held by
many rows, and says what to do about them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import Column
from data_prep.errors import DataError, quoted
from data_prep.preparation.request import Request
from data_prep.regions import hashes
from data_prep.tables.chunk import Chunk
from data_prep.tables.source import Source

MANY = 0.01
"""Share of the rows from which on a value is told of."""
FEWEST = 3
"""Rows that have to share a value, in a table so small that one row is above `MANY`."""
COUNTERS = 4096
"""Values of a column that are counted at once: a share is too small by 1/4096 at most."""
LATTICE = 1000
"""Distinct values up to which a lattice matters: a flow does not see finer steps."""
ROWS_EACH = 5
"""Rows of a value of a lattice, on average, from which on values have been rounded."""
SAMPLE = 20_000
"""Rows in which single precision is compared with double."""
FEW = 20
"""Values of a column that may be all that it can have."""
COARSE = 1e-5
"""Steps of single precision, in the spread of a column, from which on two merged values matter."""
LISTED = 5
"""Values of a column that are named."""

Floats = NDArray[np.float64]
_WHY = "no density has a value there, and NLLs are not comparable"


@dataclass(slots=True)
class _Tally:
    """How many rows hold each value of a column, of the most frequent ones.

    Source:
        Agarwal et al. (2013), ACM TODS 38, 26: mergeable summaries by Misra & Gries's counters.
    """

    rows: int = 0
    apart: int = 0
    """Rows of which none is a copy of another."""
    values: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    """Shape `(values, 2)`: rows, and how many there are without copies."""
    complete: bool = True
    """Whether every value that was met is still counted."""
    sample: list[Floats] = field(default_factory=list)
    """The first rows, in double precision."""
    atoms: dict[float, int] = field(default_factory=dict)
    """Rows of each atom."""

    def add(self, doubles_N: Floats, original_N: NDArray[np.bool_]) -> None:
        if self.rows < SAMPLE:
            self.sample.append(doubles_N[: SAMPLE - self.rows].copy())
        self.rows += len(doubles_N)
        self.apart += int(original_N.sum())
        singles_N = doubles_N.astype(np.float32)
        for atom in self.atoms:
            self.atoms[atom] += int((singles_N == np.float32(atom)).sum())
        found, place_N = np.unique(singles_N, return_inverse=True)
        new = [np.bincount(place_N, one, len(found)) for one in (np.ones(len(place_N)), original_N)]
        self.values, place = np.unique(np.concatenate([self.values, found]), return_inverse=True)
        counts = np.zeros((len(self.values), 2), np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, np.stack(new, 1).astype(np.int64)]))
        if len(self.values) > COUNTERS:
            self.complete = False
            counts -= np.partition(counts[:, 0], -COUNTERS - 1)[-COUNTERS - 1]
            self.values, counts = self.values[counts[:, 0] > 0], counts[counts[:, 0] > 0]
        self.counts = np.maximum(counts, 0)

    def many(self, *, copies: bool) -> list[tuple[float, float]]:
        """Each value that many rows hold, and their share, the largest first.

        Unless copies of whole rows count, the rows without them must be many, too.
        """
        most = self.counts[:, 0] >= max(MANY * self.rows, FEWEST)
        most &= copies | (self.counts[:, 1] >= max(MANY * self.apart, FEWEST))
        found = np.flatnonzero(most)
        found = found[np.argsort(-self.counts[found, 0], kind="stable")]
        return [(_short(self.values[at]), self.counts[at, 0] / self.rows) for at in found]

    def step(self) -> float | None:
        """The step of the lattice that all values lie on; None where they lie on none."""
        few = self.complete and FEWEST <= len(self.values) <= LATTICE
        if not few or self.rows < ROWS_EACH * len(self.values):
            return None
        values = np.array([_short(value) for value in self.values])
        smallest = float(np.diff(values).min())
        steps = (float(f"{smallest / part:.6g}") for part in (1, 2, 5))
        # Every set of few values lies on a lattice that is fine enough.
        coarse = (step for step in steps if np.ptp(values) < 20 * len(values) * step)
        return next((step for step in coarse if off_lattice(values, step) is None), None)


class Ties:
    """What rows share, counted as they pass."""

    def __init__(self, columns: Sequence[Column], conditions: Sequence[str]) -> None:
        """Args: the event columns, then the conditions' names."""
        self._names = [*(column.name for column in columns), *conditions]
        self._tallies = [(one, _Tally(atoms=dict.fromkeys(one.atoms, 0))) for one in columns]

    def add(self, numbers: Mapping[str, Floats]) -> None:
        """Count rows that are kept: a value of each column, in double precision."""
        columns = [numbers[name] for name in self._names if name in numbers]
        hash_N = hashes(np.stack(columns, axis=1).astype(np.float32))
        original_N = np.zeros(len(hash_N), bool)
        original_N[np.unique(hash_N, return_index=True)[1]] = True
        for column, tally in self._tallies:
            tally.add(numbers[column.name], original_N)

    def check(self) -> None:
        """Refuse atoms, by a DataError, that no row has or that every row is one of."""
        for column, tally in self._tallies:
            for atom, rows in tally.atoms.items():
                if not rows:
                    near = tally.values[np.abs(tally.values - atom).argmin()]
                    raise DataError(
                        f"--atom {column.name}={atom:g}: no row has {column.name} = {atom:g}, the "
                        f"nearest is {_short(near):.9g}: name a value that many rows have exactly"
                    )
            if tally.atoms and sum(tally.atoms.values()) == tally.rows:
                raise DataError(
                    f"every row has one of the atoms of {column.name!r}, which leaves no density "
                    "to learn: name it among --conditions, or leave it out"
                )

    def notes(self) -> Iterator[str]:
        """A sentence for each column of which a user has to know something."""
        for column, tally in self._tallies:
            atoms = [np.float32(atom) for atom in column.atoms]
            many = tally.many(copies=len(self._tallies) == 1)
            rest = [each for each in many if np.float32(each[0]) not in atoms]
            if said := _merged(column.name, tally):
                yield said
            elif step := tally.step():
                also = ", or name it among --conditions, if it has no others"
                yield (
                    f"{column.name} has {len(tally.values)} distinct values, whole steps of "
                    f"{step:g} apart, so it was rounded: {_WHY}: pass --lattice "
                    f"{quoted(column.name)}={step:g}, which spreads each value evenly over its step"
                    f"{also if len(tally.values) <= FEW else ''}"
                )
            elif rest:
                yield _shared(column, rest)


class Smoothing:
    """Spreads the values of lattices evenly over their steps, the same for the same seed."""

    def __init__(self, request: Request, seed: int) -> None:
        """Args: which columns have lattices, and the seed of the noise."""
        # Not the streams of split and order, which a lattice must leave as they are.
        seeds = np.random.SeedSequence((seed, len(request.lattice))).spawn(len(request.lattice))
        self._columns = {one.name: one for one in request.event_columns}
        self._noise = [
            (name, step, np.random.default_rng(one))
            for (name, step), one in zip(sorted(request.lattice.items()), seeds, strict=True)
        ]
        self._first: dict[str, float] = {}

    def of(self, chunk: Chunk, source: Source) -> Chunk:
        """The chunk with noise of half a step to either side, but within the support.

        Raises:
            DataError: If a value is no whole number of steps from the first one.
        """
        if not self._noise or not len(chunk.rows):
            return chunk
        numbers = dict(chunk.numbers)
        for name, step, rng in self._noise:
            column, values_N = self._columns[name], numbers[name]
            noise_N = step * (rng.random(len(values_N)) - 0.5)
            noise_N[np.isin(values_N.astype(np.float32), np.array(column.atoms, np.float32))] = 0
            self._check(name, step, values_N[noise_N != 0], chunk.rows[noise_N != 0], source)
            low, high = (0.0, None) if column.positive else (column.low, column.high)
            smooth_N = values_N + noise_N
            # Folded at a bound: a value that was rounded to it came from within.
            smooth_N = smooth_N if low is None else low + np.abs(smooth_N - low)
            smooth_N = smooth_N if high is None else high - np.abs(high - smooth_N)
            numbers[name] = smooth_N
        return replace(chunk, numbers=numbers)

    def _check(
        self, name: str, step: float, values_N: Floats, rows_N: NDArray[np.int64], source: Source
    ) -> None:
        if not len(values_N):
            return
        first = self._first.setdefault(name, float(values_N[0]))
        if (at := off_lattice(np.append(first, values_N), step)) is not None:
            raise DataError(
                f"{source.path}, row {rows_N[at - 1]}: --lattice {name}={step:g} does not fit, "
                f"since {values_N[at - 1]:.9g} is no whole number of steps from {first:.9g}: give "
                "the step that the values were rounded to, or name an exception by --atom"
            )


def _shared(column: Column, many: Sequence[tuple[float, float]]) -> str:
    ends = {column.low: " (its lowest)", column.high: " (its highest)"}
    each = [f"{value:.9g}{ends.get(value, '')} in {_percent(share)}" for value, share in many]
    named = ", ".join(each[:LISTED])
    if (others := len(each) - LISTED) > 0:
        named += f", {others} more in over {_percent(MANY)}"
        way = f"name {column.name} among --conditions, if it is a grid of the simulation"
    else:
        atoms = " ".join(f"--atom {quoted(column.name)}={value:.9g}" for value, _ in many)
        way = f"pass {atoms}, and the emulator draws just that with its probability"
    return f"{column.name} is {named} of the rows: {_WHY}: {way}"


def _merged(name: str, tally: _Tally) -> str | None:
    """That single precision makes one value of several, where it does."""
    doubles = np.concatenate(tally.sample or [np.empty(0)])
    there, left = len(np.unique(doubles)), len(np.unique(doubles.astype(np.float32)))
    largest = float(np.abs(doubles).max(initial=0))
    coarse = np.spacing(np.float32(largest)) > COARSE * doubles.std() if len(doubles) else False
    if there - left <= (0 if coarse else MANY * len(doubles)):
        return None
    return (
        f"{name} keeps {left:,} of {there:,} distinct values, since a dataset holds single "
        f"precision, in steps of {np.spacing(np.float32(largest)):.2g} near {largest:.6g}: "
        "subtract a constant from it, or give it in another unit"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.4g} %"


def _short(value: np.float32) -> float:
    """The short decimal that was meant by a value of single precision."""
    return float(str(value))


def off_lattice(values_N: Floats, step: float) -> int | None:
    """Where the first value stands that is no whole number of steps from the first one."""
    steps_N = (values_N - values_N[0]) / step
    # A decimal of a text is exact to 1e-16, one that had been in single precision to 1e-7.
    allowed_N = 0.02 + 1.2e-7 * np.abs(values_N) / step
    wrong_N = np.abs(steps_N - np.round(steps_N)) > allowed_N
    return int(wrong_N.argmax()) if wrong_N.any() else None
