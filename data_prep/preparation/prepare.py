"""Source tables -> a prepared dataset: checked, split, shuffled, dictionary-encoded Parquet.

No pass holds the data: the sources are read and what is kept is spooled to disk (`rows`),
then it is dealt to the parts, shuffled and written (`parts`). The folder is made beside its
place and renamed at the end, so it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from data_prep.atomic import folder_draft_of
from data_prep.dataset import Dataset
from data_prep.errors import REMEDIES, DataError
from data_prep.preparation import parts
from data_prep.preparation.request import Request
from data_prep.preparation.rows import wanted
from data_prep.preparation.totals import Totals
from data_prep.tables import cosmic
from data_prep.tables.source import Source


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

    Returns:
        The dataset as written to `out/dataset.json`.

    Raises:
        DataError: If a source, an option or `out` cannot be used. Names file, column, row, remedy.
        FilterError: If `where` is no filter.
    """
    request = Request(
        events=tuple(event_columns),
        conditions=tuple(condition_columns),
        where=where,
        split=cast(tuple[float, float, float], tuple(map(float, split))),
        drop_invalid=drop_invalid,
    )
    _check_out(Path(out))
    opened = [Source.open(Path(path), columns or {}) for path in sources]
    if not opened:
        raise DataError("there is no source table: name at least one file")
    _check_renames(opened, columns or {})
    simulated = totals and Totals.read(Path(totals), request.condition_columns, columns or {})
    dropped: Counter[str] = Counter()
    with _folder_that_appears(Path(out)) as folder:
        with tempfile.TemporaryDirectory(dir=folder, prefix="spool-") as temporary:
            spool = parts.Spool(Path(temporary), request)
            told = _read(opened, spool, dropped, on_progress)
            written = parts.write(spool, folder, seed)
            if empty := [part for part, rows in written.rows.items() if not rows]:
                raise DataError(
                    f"{spool.counts.sum()} rows in {len(spool.cells)} cells leave none for "
                    f"{' and '.join(empty)}: cells need 5 rows each to be in all parts, so use "
                    "more rows or fewer conditions"
                )
        dataset = Dataset(
            event_columns=request.event_columns,
            condition_columns=request.condition_columns,
            rows=written.rows,
            cells=written.cells,
            ranges=spool.ranges,
            fingerprint=written.fingerprint,
            sources=told,
            command=command,
            seed=seed,
            split=request.split,
            where=where,
            dropped={reason: count for reason, count in dropped.items() if count},
            bytes_before=sum(source["bytes"] for source in told),
            bytes_after=sum(path.stat().st_size for path in folder.glob("*/part-*.parquet")),
            totals=simulated.of(written.cells) if simulated else (),
            totals_unit=simulated.unit if simulated else None,
        )
        dataset.write(folder)
    return dataset


def _read(
    sources: Sequence[Source],
    spool: parts.Spool,
    dropped: Counter[str],
    on_progress: Callable[[int], None] | None,
) -> tuple[dict[str, Any], ...]:
    """Spool the wanted rows of all sources; returns what `dataset.json` says of each source."""
    told = []
    done = 0
    for source in sources:
        rows = 0
        for chunk in wanted(source, spool.request, dropped):
            rows = chunk.end
            spool.add(chunk, source)
            if on_progress:
                on_progress(done + rows)
        done += rows
        told.append(
            {
                "file": source.path.name,
                "layout": "cosmic bpp" if cosmic.is_bpp(source) else "table",
                "format": source.layout,
                "rows": rows,
                "bytes": source.path.stat().st_size,
                "sha256": source.sha256(),
            }
        )
    if not spool.cells:
        raise DataError(_nothing_left(sources, dropped))
    for name in spool.request.events:
        low, high = spool.ranges[name]
        if low == high:
            raise DataError(
                f"event column {name!r} is {low:g} in every row: nothing to learn, "
                "name other event columns"
            )
    return tuple(told)


def _nothing_left(sources: Sequence[Source], dropped: Counter[str]) -> str:
    files = ", ".join(str(source.path) for source in sources)
    out = {reason: count for reason, count in dropped.items() if count}
    if out:
        why = ", ".join(f"{count} left out: {reason}" for reason, count in out.items())
        remedy = "loosen --where" if "where" in out else "check the table"
        return f"no row of {files} is left ({why}): {remedy}"
    if any(cosmic.is_bpp(source) for source in sources):
        return f"{files} holds no pair of black holes that merges: check the simulation"
    return f"{files} holds no row: check that the simulation wrote its table"


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
            remedy = REMEDIES.get(error.errno or 0, "correct that")
            raise DataError(
                f"{out} cannot be written ({error.strerror or error}): {remedy} or choose another "
                "--out"
            ) from error
        raise
