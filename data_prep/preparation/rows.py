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


def wanted(source: Source, request: Request, dropped: Counter[str]) -> Iterator[Chunk]:
    """The source's rows under the names of the request: whole, matching `where`, checked.

    Args:
        source: What is read.
        request: The columns, the filter, and whether rows with faults are left out.
        dropped: Counts rows that are left out, by reason.

    Raises:
        DataError: For the first row with a fault, unless such rows are to be left out.
        FilterError: If the filter does not fit the source's columns.
    """
    bpp = cosmic.is_bpp(source)
    if bpp:
        cosmic.require_conditions(source, request.names)
        source = cosmic.with_own_names(source)
    alias = cosmic.named_as_sevn(source) if bpp else {}
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
    """What values of the column must not be, and which are."""
    yield "not a finite number", ~np.isfinite(values)
    if column.positive:
        yield "not above zero", values <= 0


def fault(source: Source, column: str, row: int, found: float | str, why: str) -> DataError:
    """The error of a value; `why` closes the sentence with reason and remedy."""
    if not isinstance(found, str):
        found = "no value" if np.isnan(found) else f"{found:g}"
    name = source.renamed.get(column, column)
    return DataError(f"{source.path}, column {name!r}, row {row}: {found} is {why}")


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
    if chunk.ragged and not request.drop_invalid:
        row, what = chunk.ragged[0]
        raise DataError(
            f"{source.path}, row {row}: {what}: correct the row (or is the file cut off?), "
            "or pass --drop-invalid to leave such rows out"
        )
    dropped["not one value per column"] += len(chunk.ragged)
    if not chunk.wrong:
        return chunk
    at, column = min((min(texts), column) for column, texts in chunk.wrong.items())
    if not request.drop_invalid:
        text, row = chunk.wrong[column][at], int(chunk.rows[at])
        why = "not a number: correct the row, or pass --drop-invalid to leave such rows out and "
        raise fault(source, column, row, repr(text), f"{why}count them")
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
            if wrong.any() and not request.drop_invalid:
                at = int(wrong.argmax())
                why = f"{reason}: correct the row, filter it out with --where, or pass "
                why += "--drop-invalid to leave such rows out and count them"
                raise fault(source, column.name, int(chunk.rows[at]), values[at], why)
            dropped[reason] += int((wrong & ~bad).sum())
            bad |= wrong
    return chunk.take(~bad) if bad.any() else chunk


def _lost(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which finite values are infinite or zero in single precision."""
    with np.errstate(all="ignore"):
        single = values.astype(np.float32)
    lost: NDArray[np.bool_] = ~np.isfinite(single) | ((single == 0) & (values != 0))
    return lost & np.isfinite(values)
