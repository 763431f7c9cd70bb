"""What the rows of a dataset cost: `hpo prepare`, and an epoch streamed from what it wrote.

Each figure is of a fresh process, which this file is when it is run:

    python benchmarks/scale_rows.py prepare TABLE FOLDER
    python benchmarks/scale_rows.py stream FOLDER
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import stream

from data_prep.preparation.prepare import prepare
from data_prep.stream import Stream

EPOCHS = 3
"""Epochs that are timed, after one that is not."""
REPEATED_ROWS = 1_000_000
"""Tables of more rows are prepared once."""
Figures = dict[str, Any]


def measured(folder: Path | None, sizes: Sequence[int], repeats: int) -> Iterator[Figures]:
    """A line for each number of rows."""
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="scale-", dir=folder) as place:
            yield {"rows": rows} | _of_table(Path(place), rows, repeats)
        print(f"       {rows:,} rows done", flush=True)


def _of_table(place: Path, rows: int, repeats: int) -> Figures:
    table = stream.write_table(place / "mergers.parquet", rows)
    times = repeats if rows <= REPEATED_ROWS else 1
    prepared = [_child("prepare", table, place / str(time)) for time in range(times)]
    table.unlink()
    streamed = [_child("stream", place / "0") for _ in range(times)]
    parts = (place / "0").glob("*/part-*.parquet")
    return _medians(prepared) | _medians(streamed) | {"bytes": sum(p.stat().st_size for p in parts)}


def _child(*words: object) -> Figures:
    command = [sys.executable, __file__, *map(str, words)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: Figures = json.loads(said)
    return figures


def _medians(lines: list[Figures]) -> Figures:
    return {name: statistics.median(line[name] for line in lines) for name in lines[0]}


def of_prepare(table: Path, out: Path) -> Figures:
    start = time.perf_counter()
    prepare([table], out, split=stream.ALL_FOR_TRAINING)
    return {"prepare_s": time.perf_counter() - start, "prepare_mb": stream.own_peak_mb()}


def of_stream(folder: Path) -> Figures:
    """Nothing is kept in memory from one epoch to the next."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    start = time.perf_counter()
    opened = Stream(folder, "train", batch_size=stream.BATCH, memory_mb=0)
    open_s = time.perf_counter() - start
    took_s = [stream.seconds(opened.epoch(number)) for number in range(EPOCHS + 1)][1:]
    return {
        "open_s": open_s,
        "epoch_s": statistics.median(took_s),
        "stream_mb": stream.own_peak_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("prepare", "stream"))
    parser.add_argument("paths", nargs="+", type=Path)
    options = parser.parse_args()
    print(json.dumps((of_prepare if options.what == "prepare" else of_stream)(*options.paths)))


if __name__ == "__main__":
    main()
