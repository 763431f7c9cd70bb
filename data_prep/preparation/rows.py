"""Rows of a source that a flow can be fitted to; any other is refused by name, or counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import Column
from data_prep.errors import DataError
from data_prep.preparation.request import Request
from data_prep.tables import cosmic
from data_prep.tables.chunk import Chunk
from data_prep.tables.source import Source
from data_prep.where import Filter, FilterError

_DROP = "pass --drop-invalid to leave such rows out and count them"


def wanted(source: Source, request: Request, dropped: Counter[str]) -> Iterator[Chunk]:
    """The source's rows under the names of the request: whole, matching `where`, checked.

    Args:
        source: The table.
        request: The columns, the filter, and whether rows with faults are left out.
        dropped: Counts rows that are left out, by reason.

    Raises:
        DataError: For the first row with a fault, unless such rows are to be left out.
        FilterError: If the filter does not fit the source's columns.
    """
    alias: dict[str, str] = {}
    if bpp := cosmic.is_bpp(source):
        source, alias = cosmic.named(source, request.names)
    rule = _rule(source, request, {*source.names, *alias})
    others = sorted(rule.names - set(request.names)) if rule else []

    names = {name: alias.get(name, name) for name in (*request.names, *others)}
    needed = [*(cosmic.NUMBERS if bpp else ()), *(names[name] for name in request.names)]
    read = source.chunks(list(dict.fromkeys(needed)), [names[name] for name in others])
    whole = (_whole(chunk, source, request, dropped) for chunk in read)
    for chunk in cosmic.mergers(whole, names) if bpp else whole:
        matching = chunk.take(_mask(rule, chunk, source)) if rule else chunk
        dropped["where"] += len(chunk.rows) - len(matching.rows)
        yield _checked(matching, source, request, dropped)


def faults(column: Column, values: NDArray[np.float64]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each rule for values of the column: the fault, and the values that have it."""
    yield "not a finite number", ~np.isfinite(values)
    if column.positive:
        yield "not above zero", values <= 0


def refuse(
    source: Source, chunk: Chunk, name: str, reason: str, wrong: NDArray[np.bool_], remedy: str
) -> None:
    """Raise DataError for the first wrong value of a column, if there is one."""
    if wrong.any():
        at = int(wrong.argmax())
        value = chunk.numbers[name][at]
        found = chunk.wrong.get(name, {}).get(at)
        found = repr(found) if found else "no value" if np.isnan(value) else f"{value:g}"
        raise DataError(
            f"{source.path}, column {source.renamed.get(name, name)!r}, row {chunk.rows[at]}: "
            f"{found} is {reason}: {remedy}"
        )


def refuse_unread(source: Source, chunk: Chunk, remedy: str) -> None:
    """Raise DataError if a row has not one value per column, or text where a number belongs."""
    for row, what in chunk.ragged:
        raise DataError(f"{source.path}, row {row}: {what} (or is the file cut off?): {remedy}")
    first = min(((min(texts), name) for name, texts in chunk.wrong.items()), default=None)
    if first:
        at, name = first
        refuse(source, chunk, name, "not a number", np.arange(len(chunk.rows)) == at, remedy)


def _rule(source: Source, request: Request, known: set[str]) -> Filter | None:
    if request.where is None:
        return None
    try:
        return Filter.parse(request.where, known)
    except FilterError as error:
        raise FilterError(f"--where for {source.path}: {error}") from None


def _mask(rule: Filter, chunk: Chunk, source: Source) -> NDArray[np.bool_]:
    try:
        return rule.mask({**chunk.numbers, **chunk.texts})
    except FilterError as error:
        raise FilterError(f"--where for {source.path}: {error}") from None


def _whole(chunk: Chunk, source: Source, request: Request, dropped: Counter[str]) -> Chunk:
    """Without the rows that could not be read as one value per column, numbers where due."""
    if not request.drop_invalid:
        refuse_unread(source, chunk, f"correct the row, or {_DROP}")
    dropped["not one value per column"] += len(chunk.ragged)
    if not chunk.wrong:
        return chunk
    good = np.ones(len(chunk.rows), bool)
    good[[at for texts in chunk.wrong.values() for at in texts]] = False
    dropped["text in a number column"] += int((~good).sum())
    return chunk.take(good)


def _checked(chunk: Chunk, source: Source, request: Request, dropped: Counter[str]) -> Chunk:
    bad = np.zeros(len(chunk.rows), bool)
    for column in (*request.event_columns, *request.condition_columns):
        values = chunk.numbers[column.name]
        found = list(faults(column, values))
        if column.name in request.events:
            found.append(("beyond single precision (1e-45 to 3e38)", _lost(values)))
        for reason, wrong in found:
            if not request.drop_invalid:
                remedy = f"correct the row, filter it out with --where, or {_DROP}"
                refuse(source, chunk, column.name, reason, wrong, remedy)
            dropped[reason] += int((wrong & ~bad).sum())
            bad |= wrong
    return chunk.take(~bad) if bad.any() else chunk


def _lost(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which finite values are infinite or zero in single precision."""
    with np.errstate(all="ignore"):
        single = values.astype(np.float32)
    lost: NDArray[np.bool_] = ~np.isfinite(single) | ((single == 0) & (values != 0))
    return lost & np.isfinite(values)
