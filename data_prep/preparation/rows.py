"""Rows of a source that a flow can be fitted to; any other is refused by name, or counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.codes import cosmic, pairs
from data_prep.columns import Column, check_categories
from data_prep.errors import DataError, quoted
from data_prep.preparation.request import Request
from data_prep.tables.chunk import Chunk
from data_prep.tables.source import Source
from data_prep.where import Filter, FilterError


class Fault(NamedTuple):
    """What is wrong with values of a column."""

    column: str
    what: str
    wrong: NDArray[np.bool_]
    """Of each row, whether it has the fault."""
    remedy: str = ""
    """A way out beside those of every fault."""


_BEYOND = "beyond single precision (1e-45 to 3e38)"


def wanted(
    source: Source, request: Request, dropped: Counter[str], census: pairs.Census
) -> Iterator[Chunk]:
    """The source's rows under the names of the request: whole, matching `where`, checked.

    Rows that are left out are counted in `dropped`, by reason, and in `census` if they can be no
    merger.

    Raises:
        DataError: For the first row with a fault, unless such rows are to be left out.
        FilterError: If the filter does not fit the source's columns.
    """
    alias: dict[str, str] = {}
    if bpp := cosmic.is_bpp(source):
        source, alias = cosmic.named(source, request.names)
    with _filtering(source):
        known = {*source.names, *alias}
        rule = Filter.parse(request.where, known) if request.where is not None else None
    others = sorted(rule.names - set(request.names)) if rule else []

    names = {name: alias.get(name, name) for name in (*request.names, *others)}
    numbers = [name for name in request.names if name not in request.texts]
    needed = [*(cosmic.NUMBERS if bpp else ()), *(names[name] for name in numbers)]
    held = () if bpp else pairs.rules(source.readable)
    besides = {names[name] for name in (*others, *request.texts)} | {*(cosmic.MARKS if bpp else ())}
    besides |= {column for rule in held for column in rule.columns}
    read = source.chunks(list(dict.fromkeys(needed)), sorted(besides.difference(needed)))
    drop = "pass --drop-invalid to leave such rows out and count them"
    unread = None if request.drop_invalid else f"correct the row, or {drop}"
    remedy = unread and f"correct the row, filter it out with --where, or {drop}"
    looked_at = besides.difference(needed, (names[name] for name in others))
    complete = (whole(chunk.without_wrong(looked_at), source, unread, dropped) for chunk in read)
    for chunk in cosmic.mergers(complete, names, source.path) if bpp else complete:
        with _filtering(source):
            matching = chunk.take(rule.mask(chunk.numbers | chunk.texts)) if rule else chunk
        dropped["where"] += len(chunk.rows) - len(matching.rows)
        mergers = _coded(census.mergers(matching, held), source, request)
        good = without(mergers, _faults(mergers, request), source, remedy, dropped)
        if request.weights:
            weighty = good.numbers[request.weights] > 0
            dropped["zero weight"] += int((~weighty).sum())
            good = good.take(weighty)
        yield good


def faults(column: Column, values: NDArray[np.float64]) -> Iterator[Fault]:
    """Each rule that holds for all columns, and the values that break it."""
    name = column.name
    remedy = f"say by --support {quoted(name)}=LOW:HIGH where its values lie"
    yield Fault(name, "not a finite number", ~np.isfinite(values))
    if column.positive:
        yield Fault(name, "not above zero", values <= 0, remedy)
    if column.bounds:
        low, high = column.limits
        # As it is stored: a ratio of 1 + 1e-16 is 1.
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        outside = (single < np.float32(low)) | (single > np.float32(high))
        yield Fault(name, f"outside {column.support}", outside, remedy)


def whole(chunk: Chunk, source: Source, remedy: str | None, dropped: Counter[str]) -> Chunk:
    """Without the rows that could not be read as one value per column, numbers where due.

    `remedy` ends the sentence that refuses such a row; None has all left out and counted.
    """
    if chunk.ragged and remedy:
        row, fault = chunk.ragged[0]
        raise DataError(f"{source.path}, row {row}: {fault} (or is the file cut off?): {remedy}")
    dropped["not one value per column"] += len(chunk.ragged)
    texts = sorted(chunk.wrong.items(), key=lambda item: min(item[1]))
    rows = np.arange(len(chunk.rows))
    found = [Fault(name, "not a number", np.isin(rows, list(places))) for name, places in texts]
    return without(chunk, found, source, remedy, dropped)


def without(
    chunk: Chunk, found: Iterable[Fault], source: Source, remedy: str | None, dropped: Counter[str]
) -> Chunk:
    """Without the rows that have a fault; the other arguments are those of `whole`."""
    bad = np.zeros(len(chunk.rows), bool)
    for name, fault, wrong, way in found:
        if remedy and wrong.any():
            at = int(wrong.argmax())
            value = chunk.numbers[name][at]
            text = chunk.wrong.get(name, {}).get(at)
            shown = repr(text) if text else "the empty value" if np.isnan(value) else f"{value:.9g}"
            column = source.renamed.get(name, name)
            raise DataError(
                f"{source.path}, column {column!r}, row {chunk.rows[at]}: {shown} is {fault}: "
                f"{remedy}{way and f', or {way}'}"
            )
        dropped[fault] += int((wrong & ~bad).sum())
        bad |= wrong
    return chunk.take(~bad) if bad.any() else chunk


def _coded(chunk: Chunk, source: Source, request: Request) -> Chunk:
    """The chunk with numbers for the texts of conditions."""
    for name in request.texts.keys() & chunk.numbers.keys():
        if np.isfinite(chunk.numbers[name]).any():
            raise DataError(
                f"{source.path}, column {name!r}: it holds numbers, and texts in the rows before: "
                "write all of them as texts, or all as numbers"
            )
    coded = chunk.coded(request.texts)
    for name, known in request.texts.items():
        try:
            check_categories(name, sorted(known))
        except DataError as error:
            raise DataError(f"{source.path}: {error}") from None
    return coded


@contextmanager
def _filtering(source: Source) -> Iterator[None]:
    try:
        yield
    except FilterError as error:
        raise FilterError(f"--where for {source.path}: {error}") from None


def _faults(chunk: Chunk, request: Request) -> Iterator[Fault]:
    for column in (*request.event_columns, *request.condition_columns):
        values = chunk.numbers[column.name]
        if column.name in request.texts:
            yield Fault(column.name, "no text", np.isnan(values))
            continue
        if column.positive and column.name in request.lattice:
            column = replace(column, positive=False, low=0.0)
        yield from faults(column, values)
        if column.name in request.events:
            yield Fault(column.name, _BEYOND, _lost(values))
    if request.weights:
        weights = chunk.numbers[request.weights]
        yield Fault(request.weights, "not a finite number", ~np.isfinite(weights))
        yield Fault(request.weights, "a negative weight", weights < 0)
        yield Fault(request.weights, _BEYOND, _lost(weights))


def _lost(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which finite values are infinite or zero in single precision."""
    with np.errstate(all="ignore"):
        single = values.astype(np.float32)
    lost: NDArray[np.bool_] = ~np.isfinite(single) | ((single == 0) & (values != 0))
    return lost & np.isfinite(values)
