"""Source tables -> a prepared dataset: checked, split, shuffled, dictionary-encoded Parquet.

Three passes, none of which holds the data: read and check the sources, spooling what is kept to
disk; deal the rows to the parts and to random buckets; shuffle each bucket in memory, write it.
A random bucket for every row and a random order in every bucket are a random order of the whole.

All is written beside the output folder and renamed at the end: there whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.atomic import folder_draft_of
from data_prep.columns import NOT_CONDITIONS, Column
from data_prep.dataset import SPLITS, Cell, Dataset
from data_prep.errors import REMEDIES, DataError
from data_prep.preparation import split as splitting
from data_prep.preparation.totals import Totals
from data_prep.tables import cosmic
from data_prep.tables.source import Chunk, Source
from data_prep.where import Filter, FilterError

MAX_CELLS = 65_536
"""Distinct condition combinations above which the table is no grid."""
BLOCK_ROWS = 262_144
"""Rows dealt to the parts at once. Part of what a seed means: changing it changes the split."""
BUCKET_ROWS = 1_000_000
"""Rows shuffled in memory at once, about."""
GROUP_ROWS = 65_536
"""Rows of a row group: what a stream decodes at once."""
PART_ROWS = 64 * GROUP_ROWS
"""Rows of a part file, about 30 MB."""


def prepare(
    sources: Sequence[Path],
    out: Path,
    *,
    event_columns: Sequence[str] = ("Mass_0", "Mass_1"),
    condition_columns: Sequence[str] = ("Z", "alpha"),
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    split: Sequence[float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    drop_invalid: bool = False,
    totals: Path | None = None,
    command: str = "",
    on_progress: Callable[[int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Dataset:
    """Write the dataset folder `out` from simulation tables.

    Args:
        sources: SEVN merger tables, COSMIC bpp tables or any other (CSV, whitespace, Parquet).
        out: Folder to write; it must not exist, or be empty.
        event_columns: What a flow is to generate.
        condition_columns: What it is conditioned on; their combinations are the cells.
        columns: New name by name in the files.
        where: Row filter over all columns of the files, by their new names.
        split: Fractions of train, val and test.
        seed: Of split and order.
        drop_invalid: Leave out and count rows with faults, rather than refuse the file.
        totals: Table of what was simulated in each cell, for merger rates: see `totals`.
        command: Kept in `dataset.json`: how the user asked for this.
        on_progress: Called with the rows read so far (of the sources, kept or not).
        on_note: Called with a sentence for each cell whose mergers the totals tell otherwise,
            where no row was left out.

    Returns:
        The dataset as written to `out/dataset.json`.

    Raises:
        DataError: If a source, an option or `out` cannot be used. Names file, column, row, remedy.
        FilterError: If `where` is no filter.
    """
    wish = _Wish(
        events=tuple(event_columns),
        conditions=tuple(condition_columns),
        where=where,
        split=_fractions(split),
        drop_invalid=drop_invalid,
    )
    _check_out(Path(out))
    opened = [Source.open(Path(path), columns or {}) for path in sources]
    if not opened:
        raise DataError("there is no source table: name at least one file")
    _check_renames(opened, columns or {})
    simulated = totals and Totals.read(Path(totals), wish.condition_columns, columns or {})
    with _folder_that_appears(Path(out)) as folder:
        with tempfile.TemporaryDirectory(dir=folder, prefix="spool-") as spool:
            kept = _read(opened, wish, Path(spool), on_progress)
            _check_kept(kept, wish)
            written = _deal_and_write(kept, wish, folder, Path(spool), seed)
            _check_parts(written.rows, kept)
        told = simulated.of(written.cells) if simulated else ()
        dataset = Dataset(
            event_columns=wish.event_columns,
            condition_columns=wish.condition_columns,
            rows=written.rows,
            cells=written.cells,
            ranges=kept.ranges,
            fingerprint=written.fingerprint,
            sources=tuple(kept.sources),
            command=command,
            seed=seed,
            split=wish.split,
            where=where,
            dropped={reason: count for reason, count in kept.dropped.items() if count},
            bytes_before=sum(source["bytes"] for source in kept.sources),
            bytes_after=sum(path.stat().st_size for path in folder.glob("*/part-*.parquet")),
            totals=told,
            totals_unit=simulated.unit if simulated else None,
        )
        dataset.write(folder)
    if simulated and on_note and not dataset.dropped:
        for note in simulated.differing(told):
            on_note(note)
    return dataset


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    """What was asked for, checked."""

    events: tuple[str, ...]
    conditions: tuple[str, ...]
    where: str | None
    split: tuple[float, float, float]
    drop_invalid: bool

    def __post_init__(self) -> None:
        names = self.events + self.conditions
        if not self.events or not self.conditions:
            raise DataError("a dataset needs at least one event column and one condition column")
        for name in names:
            if names.count(name) > 1:
                raise DataError(f"column {name!r} is asked for twice: name each column once")
        for name in self.conditions:
            if name in NOT_CONDITIONS:
                raise DataError(
                    f"no condition can be called {name!r}, which an emulator's methods take for "
                    f"something else: rename it with --columns {name}=NEW"
                )

    @property
    def event_columns(self) -> tuple[Column, ...]:
        return tuple(Column.named(name) for name in self.events)

    @property
    def condition_columns(self) -> tuple[Column, ...]:
        return tuple(Column.named(name) for name in self.conditions)

    @property
    def record(self) -> np.dtype[Any]:
        """One spooled row: events, and the number of its cell."""
        return np.dtype([("events", "<f4", (len(self.events),)), ("cell", "<u2")])


# ---- first pass: read, check, spool


@dataclass(slots=True)
class _Kept:
    """What the first pass found."""

    spool: Path
    cells: dict[tuple[float, ...], int] = field(default_factory=dict)
    """Number of each cell, in order of appearance."""
    rows: int = 0
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    sources: list[dict[str, Any]] = field(default_factory=list)


def _read(
    sources: Sequence[Source],
    wish: _Wish,
    spool: Path,
    on_progress: Callable[[int], None] | None,
) -> _Kept:
    kept = _Kept(spool / "kept")
    done = 0
    with kept.spool.open("wb") as file:
        for source in sources:
            rows = 0
            for chunk in _wanted(source, wish, kept.dropped):
                rows = chunk.end
                _spool(chunk, source, wish, kept, file)
                if on_progress:
                    on_progress(done + rows)
            done += rows
            kept.sources.append(_provenance(source, rows))
    if not kept.rows:
        raise DataError(_nothing_left(sources, wish, kept.dropped))
    return kept


def _wanted(source: Source, wish: _Wish, dropped: Counter[str]) -> Iterator[Chunk]:
    """The source's rows under the wished names: whole, matching `where`, checked."""
    numbers = wish.events + wish.conditions
    bpp = cosmic.is_bpp(source)
    if bpp:
        cosmic.require_conditions(source, numbers)
        source = cosmic.with_own_names(source)
    alias = cosmic.named_as_sevn(source) if bpp else {}
    rule = _rule(source, wish, {*source.names, *alias})
    others = sorted(rule.names - set(numbers)) if rule else []

    names = {name: alias.get(name, name) for name in (*numbers, *others)}
    needed = [*(cosmic.NUMBERS if bpp else ()), *(names[name] for name in numbers)]
    read = source.chunks(list(dict.fromkeys(needed)), [names[name] for name in others])
    whole = (_whole(chunk, source, wish, dropped) for chunk in read)
    for chunk in cosmic.mergers(whole, names) if bpp else whole:
        yield _checked(_matching(chunk, rule, source, dropped), source, wish, dropped)


def _rule(source: Source, wish: _Wish, known: set[str]) -> Filter | None:
    if wish.where is None:
        return None
    try:
        return Filter.parse(wish.where, known)
    except FilterError as error:
        raise FilterError(f"--where for {source.path}: {error}") from None


def _whole(chunk: Chunk, source: Source, wish: _Wish, dropped: Counter[str]) -> Chunk:
    """Without the rows that could not be read as one value per column, numbers where due."""
    if chunk.ragged and not wish.drop_invalid:
        row, what = chunk.ragged[0]
        raise DataError(
            f"{source.path}, row {row}: {what}: correct the row (or is the file cut off?), "
            "or pass --drop-invalid to leave such rows out"
        )
    dropped["not one value per column"] += len(chunk.ragged)
    if not chunk.texts:
        return chunk
    column, cells = min(chunk.texts.items(), key=lambda item: min(item[1], default=math.inf))
    if cells and not wish.drop_invalid:
        at = min(cells)
        raise _fault(source, column, int(chunk.rows[at]), f"{cells[at]!r} is not a number", "")
    bad = {at for cells in chunk.texts.values() for at in cells}
    dropped["text in a number column"] += len(bad)
    return chunk.take(np.delete(np.arange(len(chunk.rows)), sorted(bad)))


def _matching(chunk: Chunk, rule: Filter | None, source: Source, dropped: Counter[str]) -> Chunk:
    if rule is None:
        return chunk
    try:
        kept = rule.mask(chunk.columns)
    except FilterError as error:
        raise FilterError(f"--where for {source.path}: {error}") from None
    dropped["where"] += int((~kept).sum())
    return chunk.take(kept)


def _checked(chunk: Chunk, source: Source, wish: _Wish, dropped: Counter[str]) -> Chunk:
    """Only rows that a flow can be fitted to; the first other row is refused by name."""
    bad = np.zeros(len(chunk.rows), bool)
    for column in (*wish.event_columns, *wish.condition_columns):
        values = chunk.columns[column.name]
        for reason, wrong in _faults(column, values, column.name in wish.events):
            if wrong.any() and not wish.drop_invalid:
                at = int(wrong.argmax())
                found = "no value" if np.isnan(values[at]) else f"{values[at]:g}"
                raise _fault(source, column.name, int(chunk.rows[at]), f"{found} is {reason}")
            dropped[reason] += int((wrong & ~bad).sum())
            bad |= wrong
    return chunk.take(~bad) if bad.any() else chunk


def _faults(
    column: Column, values: NDArray[np.float64], event: bool
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "not a finite number", ~np.isfinite(values)
    if column.positive:
        yield "not above zero", values <= 0
    if event:
        with np.errstate(all="ignore"):
            single = values.astype(np.float32)
        lost = np.isfinite(values) & (~np.isfinite(single) | ((single == 0) & (values != 0)))
        yield "beyond single precision (1e-45 to 3e38)", lost


def _fault(
    source: Source, column: str, row: int, found: str, filtering: str = "filter it out with --where"
) -> DataError:
    return DataError(
        f"{source.path}, column {source.renamed.get(column, column)!r}, row {row}: {found}: "
        f"correct the row, {filtering and filtering + ', '}or pass --drop-invalid to leave such "
        "rows out and count them"
    )


def _spool(chunk: Chunk, source: Source, wish: _Wish, kept: _Kept, file: Any) -> None:
    if not len(chunk.rows):
        return
    records = np.empty(len(chunk.rows), wish.record)
    for number, name in enumerate(wish.events):
        records["events"][:, number] = chunk.columns[name]
        _widen(kept.ranges, name, records["events"][:, number])
    for name in wish.conditions:
        _widen(kept.ranges, name, chunk.columns[name])
    records["cell"] = _cells(chunk, source, wish, kept.cells)
    file.write(records.tobytes())
    kept.rows += len(records)


def _widen(ranges: dict[str, tuple[float, float]], name: str, values: NDArray[Any]) -> None:
    low, high = ranges.get(name, (math.inf, -math.inf))
    ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))


def _cells(
    chunk: Chunk, source: Source, wish: _Wish, cells: dict[tuple[float, ...], int]
) -> NDArray[np.int64]:
    """Number of each row's cell; cells not met before get the next numbers."""
    values = np.stack([chunk.columns[name] for name in wish.conditions], axis=1)
    found, place = np.unique(values, axis=0, return_inverse=True)
    for cell in found.tolist():
        cells.setdefault(tuple(cell), len(cells))
    if len(cells) > MAX_CELLS:
        raise DataError(
            f"{source.path} has over {MAX_CELLS:,} combinations of {', '.join(wish.conditions)}: "
            "conditions must be a grid of few values, so name other condition columns"
        )
    numbers = np.array([cells[tuple(cell)] for cell in found.tolist()])
    coded: NDArray[np.int64] = numbers[place.reshape(-1)]
    return coded


def _provenance(source: Source, rows: int) -> dict[str, Any]:
    return {
        "file": source.path.name,
        "layout": "cosmic bpp" if cosmic.is_bpp(source) else "table",
        "format": source.layout,
        "rows": rows,
        "bytes": source.path.stat().st_size,
        "sha256": source.sha256(),
    }


def _nothing_left(sources: Sequence[Source], wish: _Wish, dropped: Counter[str]) -> str:
    files = ", ".join(str(source.path) for source in sources)
    out = {reason: count for reason, count in dropped.items() if count}
    if out:
        why = ", ".join(f"{count} left out: {reason}" for reason, count in out.items())
        remedy = "loosen --where" if "where" in out else "check the table"
        return f"no row of {files} is left ({why}): {remedy}"
    if any(cosmic.is_bpp(source) for source in sources):
        return f"{files} holds no pair of black holes that merges: check the simulation"
    return f"{files} holds no row: check that the simulation wrote its table"


# ---- second and third pass: deal, shuffle, write


@dataclass(frozen=True, slots=True)
class _Written:
    rows: dict[str, int]
    cells: tuple[Cell, ...]
    fingerprint: str


def _deal_and_write(kept: _Kept, wish: _Wish, folder: Path, spool: Path, seed: int) -> _Written:
    """Split and order drawn from `seed`; the spooled rows are read once and deleted."""
    for_split, for_order = np.random.SeedSequence(seed).spawn(2)
    order = sorted(range(len(kept.cells)), key=list(kept.cells).__getitem__)
    values = np.array([list(kept.cells)[cell] for cell in order])
    rank = np.argsort(order)  # number of a cell in ascending order of its conditions
    counts = _counts(kept, wish, rank)
    shares = splitting.shares(counts, wish.split)

    buckets = _deal(kept, wish, rank, shares, spool, np.random.default_rng(for_split))
    kept.spool.unlink()

    digest = hashlib.sha256(_signature(wish, values).encode())
    rng = np.random.default_rng(for_order)
    for part, name in enumerate(SPLITS):
        digest.update(name.encode())
        with _PartWriter(folder / name, wish, values) as writer:
            for bucket in buckets[part]:
                records = np.fromfile(bucket, wish.record)
                bucket.unlink()
                records = records[rng.permutation(len(records))]
                digest.update(records.tobytes())
                writer.write(records)
    cells = tuple(
        Cell(tuple(map(float, value)), *map(int, share))
        for value, share in zip(values, shares, strict=True)
    )
    rows = {name: int(shares[:, part].sum()) for part, name in enumerate(SPLITS)}
    return _Written(rows, cells, digest.hexdigest())


def _signature(wish: _Wish, values: NDArray[np.float64]) -> str:
    """What the rows mean: columns and the conditions of each cell."""
    return repr((wish.event_columns, wish.condition_columns, values.tolist()))


def _blocks(kept: _Kept, wish: _Wish, rank: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    with kept.spool.open("rb") as file:
        while lump := file.read(BLOCK_ROWS * wish.record.itemsize):
            records = np.frombuffer(lump, wish.record).copy()
            records["cell"] = rank[records["cell"]]
            yield records


def _counts(kept: _Kept, wish: _Wish, rank: NDArray[np.int64]) -> NDArray[np.int64]:
    counts = np.zeros(len(kept.cells), np.int64)
    for records in _blocks(kept, wish, rank):
        counts += np.bincount(records["cell"], minlength=len(counts))
    return counts


def _deal(
    kept: _Kept,
    wish: _Wish,
    rank: NDArray[np.int64],
    shares: NDArray[np.int64],
    spool: Path,
    rng: np.random.Generator,
) -> list[list[Path]]:
    """The spooled rows as bucket files: of each part, a list."""
    dealer = splitting.Assigner(shares, rng)
    numbers = [max(1, -(-int(rows) // BUCKET_ROWS)) for rows in shares.sum(axis=0)]
    paths = [
        [spool / f"{name}-{bucket}" for bucket in range(number)]
        for name, number in zip(SPLITS, numbers, strict=True)
    ]
    for path in (path for part in paths for path in part):
        path.touch()
    for records in _blocks(kept, wish, rank):
        parts = dealer.parts(records["cell"])
        for part, number in enumerate(numbers):
            of_part = records[parts == part]
            bucket = rng.integers(number, size=len(of_part))
            for at in range(number):
                # Opened anew each time: a large table has more buckets than a process may open.
                with paths[part][at].open("ab") as file:
                    file.write(of_part[bucket == at].tobytes())
    return paths


class _PartWriter:
    """Rows of one part -> `part-00000.parquet`, `part-00001.parquet`, ... in full row groups."""

    def __init__(self, folder: Path, wish: _Wish, values: NDArray[np.float64]) -> None:
        folder.mkdir()
        self._folder = folder
        self._wish = wish
        self._values = values
        self._schema = pa.schema(
            [pa.field(name, pa.float32(), nullable=False) for name in wish.events]
            + [pa.field(name, pa.float64(), nullable=False) for name in wish.conditions]
        )
        self._waiting = np.empty(0, wish.record)
        self._file: pq.ParquetWriter | None = None
        self._files = 0
        self._rows = 0

    def __enter__(self) -> _PartWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and (len(self._waiting) or not self._files):
            self._put(self._waiting)
        self._close()

    def write(self, records: NDArray[Any]) -> None:
        """Add rows in their final order."""
        joined = np.concatenate([self._waiting, records])
        full = len(joined) - len(joined) % GROUP_ROWS
        for start in range(0, full, GROUP_ROWS):
            self._put(joined[start : start + GROUP_ROWS])
        self._waiting = joined[full:].copy()

    def _put(self, records: NDArray[Any]) -> None:
        if self._file is None:
            self._file = self._open()
        values = self._values[records["cell"]]
        arrays = [
            np.ascontiguousarray(records["events"][:, n]) for n in range(len(self._wish.events))
        ]
        arrays += [np.ascontiguousarray(values[:, n]) for n in range(values.shape[1])]
        self._file.write_table(
            pa.Table.from_arrays([pa.array(a) for a in arrays], schema=self._schema)
        )
        self._rows += len(records)
        if self._rows >= PART_ROWS:
            self._close()

    def _open(self) -> pq.ParquetWriter:
        path = self._folder / f"part-{self._files:05d}.parquet"
        self._files += 1
        return pq.ParquetWriter(
            path,
            self._schema,
            use_dictionary=list(self._wish.conditions),
            column_encoding=dict.fromkeys(self._wish.events, "BYTE_STREAM_SPLIT"),
            compression="zstd",
            compression_level=15,
            write_statistics=False,
            store_schema=False,
        )

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._rows = None, 0


# ---- options and the output folder


def _fractions(split: Sequence[float]) -> tuple[float, float, float]:
    if len(split) != 3 or not all(math.isfinite(part) and part >= 0 for part in split):
        raise DataError(f"split needs three fractions for train, val and test, got {tuple(split)}")
    if abs(sum(split) - 1) > 1e-6 or 0 in split:
        raise DataError(
            f"the fractions of split must be above 0 and add up to 1, got {tuple(split)}, "
            f"which add up to {sum(split):g}"
        )
    train, val, test = split
    return float(train), float(val), float(test)


def _check_kept(kept: _Kept, wish: _Wish) -> None:
    for name in wish.events:
        low, high = kept.ranges[name]
        if low == high:
            raise DataError(
                f"event column {name!r} is {low:g} in every row: nothing to learn, "
                "name other event columns"
            )


def _check_parts(rows: Mapping[str, int], kept: _Kept) -> None:
    empty = [part for part in SPLITS if not rows[part]]
    if empty:
        raise DataError(
            f"{kept.rows} rows in {len(kept.cells)} cells leave none for {' and '.join(empty)}: "
            "cells need 5 rows each to be in all parts, so use more rows or fewer conditions"
        )


def _check_renames(sources: Sequence[Source], columns: Mapping[str, str]) -> None:
    for old, new in columns.items():
        if not any(old in source.header for source in sources):
            raise DataError(
                f"--columns {old}={new}: {sources[0].path} has no column {old!r}; it has "
                f"{', '.join(sources[0].header)}"
            )


def _check_out(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.is_dir() and (out / "dataset.json").exists():
        raise DataError(
            f"{out} already holds a prepared dataset: remove it or choose another --out"
        )
    if out.exists() or out.is_symlink():
        raise DataError(f"{out} already exists and holds something else: choose another --out")


@contextlib.contextmanager
def _folder_that_appears(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` at the end, or is gone if anything goes wrong."""
    made = [parent for parent in out.absolute().parents if not parent.exists()]
    try:
        with folder_draft_of(out) as draft:
            yield draft
    except BaseException as error:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, FileExistsError):
            _check_out(out)
        if isinstance(error, OSError):
            raise _unwritable(out, error) from error
        raise


def _unwritable(out: Path, error: OSError) -> DataError:
    remedy = REMEDIES.get(error.errno or 0, "correct that")
    why = error.strerror or error
    return DataError(f"{out} cannot be written ({why}): {remedy} or choose another --out")
