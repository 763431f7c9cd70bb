"""What was simulated in each cell -> `Dataset.totals`, so that mergers become merger rates.

A table of mergers tells nothing of the binaries that did not merge. The table of totals does: the
condition columns, and `simulated_binaries` (a count) or `simulated_mass` (Msun) of each cell. A
cell that it names and the data lacks had no merger, which is a measurement, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.columns import Column
from data_prep.dataset import TOTALS, Cell, Total, key
from data_prep.errors import DataError
from data_prep.preparation.rows import fault, faults
from data_prep.tables.chunk import Chunk
from data_prep.tables.source import Source

GIVEN = "mergers"
"""Column that may be there, too: compared with the rows, never used instead of them."""
_REMEDY = "correct the table of totals"


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """A table of totals, read and checked."""

    path: Path
    names: tuple[str, ...]
    """Of the conditions."""
    unit: str
    """binaries or Msun."""
    simulated: dict[tuple[float, ...], tuple[tuple[float, ...], float]]
    """Conditions as written and total, by `key` of the conditions."""
    given: dict[tuple[float, ...], float]
    """The column `mergers`, likewise; empty where there is none."""

    @classmethod
    def read(cls, path: Path, conditions: Sequence[Column], columns: Mapping[str, str]) -> Totals:
        """The totals of a file.

        Args:
            path: CSV, whitespace table or Parquet.
            conditions: The condition columns, of which every row is one combination.
            columns: New name by name in the file, as for the sources.

        Raises:
            DataError: If a column is missing, a value cannot be, or a cell is there twice. Names
                file, column, row, what was found and the remedy.
        """
        source = Source.open(path, columns)
        found = [name for name in TOTALS if name in source.names]
        if len(found) != 1:
            raise DataError(_no_total(source, found))
        names = [column.name for column in conditions]
        kinds = [*conditions, Column(found[0], "", positive=True)]
        others = [GIVEN] if GIVEN in source.names else []
        source.require(names)
        simulated: dict[tuple[float, ...], tuple[tuple[float, ...], float]] = {}
        given: dict[tuple[float, ...], float] = {}
        rows: dict[tuple[float, ...], int] = {}
        for chunk in source.chunks([*names, *found, *others]):
            _check(source, chunk, kinds)
            for at, row in enumerate(chunk.rows.tolist()):
                cell = tuple(float(chunk.numbers[name][at]) for name in names)
                if key(cell) in rows:
                    raise DataError(
                        f"{path}, row {row}: {_shown(names, cell)} was in row {rows[key(cell)]} "
                        "already: name each cell once, with the sum of what was simulated"
                    )
                rows[key(cell)] = row
                simulated[key(cell)] = (cell, float(chunk.numbers[found[0]][at]))
                if others:
                    given[key(cell)] = float(chunk.numbers[GIVEN][at])
        if not rows:
            raise DataError(f"{path} has no row: give one for each cell that was simulated")
        return cls(
            path=path,
            names=tuple(names),
            unit=TOTALS[found[0]],
            simulated=simulated,
            given=given,
        )

    def of(self, cells: Sequence[Cell]) -> tuple[Total, ...]:
        """The totals beside the rows of the cells, in ascending order of the conditions.

        Raises:
            DataError: If a cell with rows has no total, or more rows than binaries.
        """
        mergers = Counter[tuple[float, ...]]()
        for cell in cells:
            mergers[key(cell.conditions)] += cell.train + cell.val + cell.test
        written = {key(cell.conditions): cell.conditions for cell in cells}
        missing = [there for where, there in written.items() if where not in self.simulated]
        if missing:
            more = f" and {len(missing) - 1} other cells" if len(missing) > 1 else ""
            raise DataError(
                f"{self.path} has no row for {_shown(self.names, missing[0])}{more}, which the "
                "data has mergers of: add what was simulated there, or filter it out with --where"
            )
        out = []
        for where, (conditions, simulated) in self.simulated.items():
            count = mergers[where]
            if self.unit == "binaries" and count > simulated:
                raise DataError(
                    f"{self.path}: {_shown(self.names, conditions)} has {simulated:g} simulated "
                    f"binaries, fewer than the {count} mergers of the data: correct the total, "
                    "or is one simulation in the data twice?"
                )
            out.append(Total(written.get(where, conditions), simulated, count))
        return tuple(sorted(out, key=lambda total: total.conditions))

    def differing(self, totals: Sequence[Total]) -> list[str]:
        """A sentence for each cell whose `mergers` in the file are not the rows of the data."""
        return [
            f"{self.path}: {_shown(self.names, one.conditions)} has mergers = {given:g}, the data "
            f"has {one.mergers} rows, which are what counts"
            for one in totals
            if (given := self.given.get(key(one.conditions), one.mergers)) != one.mergers
        ]


def _no_total(source: Source, found: Sequence[str]) -> str:
    names = " or ".join(TOTALS)
    if found:
        return f"{source.path} has both {' and '.join(found)}: leave one of them out"
    return (
        f"{source.path} has no column {names}, it has {', '.join(source.names)}: "
        "name the right one with --columns OLD=simulated_binaries"
    )


def _check(source: Source, chunk: Chunk, columns: Sequence[Column]) -> None:
    if chunk.ragged:
        row, what = chunk.ragged[0]
        raise DataError(f"{source.path}, row {row}: {what}: correct the row")
    for column in columns:
        name = column.name
        for at, text in chunk.wrong.get(name, {}).items():
            raise fault(source, name, int(chunk.rows[at]), repr(text), f"not a number: {_REMEDY}")
        values = chunk.numbers[name]
        found = [*faults(column, values)]
        if TOTALS.get(name) == "binaries":
            found.append(("not a whole number", values != np.round(values)))
        for reason, wrong in found:
            if wrong.any():
                at = int(wrong.argmax())
                row = int(chunk.rows[at])
                raise fault(source, name, row, values[at], f"{reason}: {_REMEDY}")


def _shown(names: Sequence[str], conditions: Sequence[float]) -> str:
    pairs = zip(names, conditions, strict=True)
    return ", ".join(f"{name} = {value:.7g}" for name, value in pairs)
