"""A table of the binaries simulated in each cell -> `Dataset.totals`, for merger rates.

A table of mergers tells nothing of the binaries that did not merge. The table of totals does: the
condition columns and `simulated_binaries` (a count) or `simulated_mass` (Msun) of each cell. A
cell that it names and the data lacks had no merger, which is a measurement, too.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.columns import Column, Value, values_of
from data_prep.dataset import TOTALS, Cell, Total, Unit, key, rows_by_key, shown
from data_prep.errors import DataError
from data_prep.preparation import rows
from data_prep.preparation.request import Request
from data_prep.tables.source import Source

_REMEDY = "correct the table of totals"


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """A table of totals, read and checked."""

    path: Path
    names: tuple[str, ...]
    """Of the conditions: all but texts, of which each is of all that was simulated elsewhere alike,
    if the table does not tell them apart."""
    unit: Unit
    """binaries or Msun."""
    simulated: dict[tuple[Value, ...], float]
    """By the conditions as written."""

    @classmethod
    def read(cls, path: Path, request: Request, columns: Mapping[str, str]) -> Totals:
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
        names = tuple(
            name for name in request.conditions if name in source.names or name not in request.texts
        )
        known: dict[str, dict[str, int]] = {name: {} for name in request.texts if name in names}
        numbers = [one for one in request.condition_columns if one.name not in request.texts]
        simulated: dict[tuple[Value, ...], float] = {}
        seen: dict[tuple[float, ...], int] = {}
        for chunk in source.chunks([*(one.name for one in numbers), total], known):
            rows.whole(chunk, source, _REMEDY, Counter())
            chunk = chunk.coded(known)
            for name in known:
                absent = rows.Fault(name, "no text", np.isnan(chunk.numbers[name]))
                rows.without(chunk, [absent], source, _REMEDY, Counter())
            for column in (*numbers, Column(total, "", positive=True)):
                values = chunk.numbers[column.name]
                found = [*rows.faults(column, values)]
                if TOTALS.get(column.name) == "binaries":
                    broken = values != np.round(values)
                    found.append(rows.Fault(total, "not a whole number", broken))
                rows.without(chunk, found, source, _REMEDY, Counter())
            for at, row in enumerate(chunk.rows.tolist()):
                cell = tuple(float(chunk.numbers[name][at]) for name in names)
                written = {
                    name: [*known[name]][int(value)] if name in known else value
                    for name, value in zip(names, cell, strict=True)
                }
                before = seen.setdefault(key(cell), row)
                if before != row:
                    raise DataError(
                        f"{path}, row {row}: {shown(written)} was in row {before} already: "
                        "name each cell once, with the sum of what was simulated"
                    )
                simulated[tuple(written.values())] = float(chunk.numbers[total][at])
        if not simulated:
            raise DataError(f"{path} has no row: give one for each cell that was simulated")
        return cls(path=path, names=names, unit=TOTALS[total], simulated=simulated)

    def of(self, cells: Sequence[Cell], columns: Sequence[Column]) -> tuple[Total, ...]:
        """The totals beside the rows of the cells, in ascending order of the conditions.

        Raises:
            DataError: If a cell with rows has no total, or more rows than binaries; or if a text
                has no rows.
        """
        told = {key(cell): (cell, total) for cell, total in self._told(columns)}
        mergers = rows_by_key(cells)
        written = {key(cell.conditions): cell.conditions for cell in cells}
        missing = [there for where, there in written.items() if where not in told]
        if missing:
            more = f" and {len(missing) - 1} other cells" if len(missing) > 1 else ""
            lacking = shown(values_of(columns, missing[0]))
            raise DataError(
                f"{self.path} has no row for {lacking}{more}, which the data has mergers of: add "
                "what was simulated there, or filter it out with --where"
            )
        out = []
        for where, (conditions, simulated) in told.items():
            count = mergers[where]
            if self.unit == "binaries" and count > simulated:
                raise DataError(
                    f"{self.path}: {shown(values_of(columns, conditions))} has {simulated:g} "
                    f"simulated binaries, fewer than the {count} mergers of the data: correct the "
                    "total, or is one simulation in the data twice?"
                )
            out.append(Total(written.get(where, conditions), simulated, count))
        return tuple(sorted(out, key=lambda total: total.conditions))

    def _told(self, columns: Sequence[Column]) -> Iterator[tuple[tuple[float, ...], float]]:
        """The conditions of each cell as the data has them, and what was simulated there."""
        for written, total in self.simulated.items():
            given = dict(zip(self.names, written, strict=True))
            try:
                each = [
                    [column.number(given[column.name])]
                    if column.name in given
                    else map(float, range(len(column.categories)))
                    for column in columns
                ]
            except DataError as error:
                raise DataError(
                    f"{self.path}: {error}: no row of the data has it, so leave it out"
                ) from None
            yield from ((cell, total) for cell in itertools.product(*each))
