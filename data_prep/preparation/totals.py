"""A table of the binaries simulated in each cell -> `Dataset.totals`, for merger rates.

A table of mergers tells nothing of the binaries that did not merge. The table of totals does: the
condition columns and `simulated_binaries` (a count) or `simulated_mass` (Msun) of each cell. A
cell that it names and the data lacks had no merger, which is a measurement, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.columns import Column
from data_prep.dataset import TOTALS, Cell, Total, Unit, key, rows_by_key, shown
from data_prep.errors import DataError
from data_prep.preparation import rows
from data_prep.tables.source import Source

_REMEDY = "correct the table of totals"


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """A table of totals, read and checked."""

    path: Path
    names: tuple[str, ...]
    """Of the conditions."""
    unit: Unit
    """binaries or Msun."""
    simulated: dict[tuple[float, ...], tuple[tuple[float, ...], float]]
    """Conditions as written and total, by `key` of the conditions."""

    @classmethod
    def read(cls, path: Path, conditions: Sequence[Column], columns: Mapping[str, str]) -> Totals:
        """The totals of a file; `columns` renames its columns, as those of the sources.

        Raises:
            DataError: If a column is missing, a value cannot be, or a cell is there twice. Names
                file, column, row, what was found and the remedy.
        """
        source = Source.open(path, columns)
        there = [name for name in TOTALS if name in source.names]
        if not there:
            raise DataError(
                f"{path} has no column {' or '.join(TOTALS)}, it has {', '.join(source.names)}: "
                "name the right one with --columns OLD=simulated_binaries"
            )
        if len(there) > 1:
            raise DataError(f"{path} has both {' and '.join(there)}: leave one of them out")
        (total,) = there
        names = tuple(column.name for column in conditions)
        simulated: dict[tuple[float, ...], tuple[tuple[float, ...], float]] = {}
        seen: dict[tuple[float, ...], int] = {}
        for chunk in source.chunks([*names, total]):
            rows.whole(chunk, source, _REMEDY, Counter())
            for column in (*conditions, Column(total, "", positive=True)):
                values = chunk.numbers[column.name]
                found = [*rows.faults(column, values)]
                if TOTALS.get(column.name) == "binaries":
                    broken = values != np.round(values)
                    found.append(rows.Fault(total, "not a whole number", broken))
                rows.without(chunk, found, source, _REMEDY, Counter())
            for at, row in enumerate(chunk.rows.tolist()):
                cell = tuple(float(chunk.numbers[name][at]) for name in names)
                before = seen.setdefault(key(cell), row)
                if before != row:
                    raise DataError(
                        f"{path}, row {row}: {shown(names, cell)} was in row {before} already: "
                        "name each cell once, with the sum of what was simulated"
                    )
                simulated[key(cell)] = (cell, float(chunk.numbers[total][at]))
        if not simulated:
            raise DataError(f"{path} has no row: give one for each cell that was simulated")
        return cls(path=path, names=names, unit=TOTALS[total], simulated=simulated)

    def of(self, cells: Sequence[Cell]) -> tuple[Total, ...]:
        """The totals beside the rows of the cells, in ascending order of the conditions.

        Raises:
            DataError: If a cell with rows has no total, or more rows than binaries.
        """
        mergers = rows_by_key(cells)
        written = {key(cell.conditions): cell.conditions for cell in cells}
        missing = [there for where, there in written.items() if where not in self.simulated]
        if missing:
            more = f" and {len(missing) - 1} other cells" if len(missing) > 1 else ""
            raise DataError(
                f"{self.path} has no row for {shown(self.names, missing[0])}{more}, which the "
                "data has mergers of: add what was simulated there, or filter it out with --where"
            )
        out = []
        for where, (conditions, simulated) in self.simulated.items():
            count = mergers[where]
            if self.unit == "binaries" and count > simulated:
                raise DataError(
                    f"{self.path}: {shown(self.names, conditions)} has {simulated:g} simulated "
                    f"binaries, fewer than the {count} mergers of the data: correct the total, "
                    "or is one simulation in the data twice?"
                )
            out.append(Total(written.get(where, conditions), simulated, count))
        return tuple(sorted(out, key=lambda total: total.conditions))
