"""Size, write and decode speed of prepared rows under each encoding and codec of Parquet.

    python benchmarks/parquet.py [PREPARED_FOLDER] [--rows ROWS]

Takes the rows of a prepared dataset (the shipped sample unless named), and writes them as
`hpo prepare` does but for encoding, codec and rows of a row group. One thread throughout.
The choice in `prepare` is the smallest that decodes at nearly the speed of the fastest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dataset import SAMPLE, SPLITS, Dataset
from data_prep.stream import read_split

ENCODINGS = ("PLAIN", "BYTE_STREAM_SPLIT")
CODECS: tuple[tuple[str, int | None], ...] = (
    ("none", None),
    ("snappy", None),
    ("lz4", None),
    ("gzip", 6),
    ("zstd", 1),
    ("zstd", 9),
    ("zstd", 15),
    ("zstd", 19),
    ("brotli", 5),
    ("brotli", 9),
)
ROUNDS = 15


def main() -> None:
    """Print one line for each way of writing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--rows", type=int, default=65_536, help="of a row group")
    options = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)

    table, conditions = rows_of(options.folder)
    print(f"{table.num_rows:,} rows, row groups of {options.rows:,}, pyarrow {pa.__version__}")
    print(
        f"{'encoding':18} {'codec':10} {'bytes/row':>9} {'decode ns/row':>14} {'write ns/row':>13}"
    )
    for encoding in ENCODINGS:
        for codec, level in CODECS:
            size, decode, write = measure(table, conditions, encoding, codec, level, options.rows)
            name = codec if level is None else f"{codec} {level}"
            print(f"{encoding:18} {name:10} {size:9.3f} {decode:14.1f} {write:13.0f}")


def rows_of(folder: Path) -> tuple[pa.Table, list[str]]:
    """All rows of a prepared dataset in one table, and the names of its conditions."""
    dataset = Dataset.read(folder)
    parts = [read_split(folder, split) for split in SPLITS]
    columns = {}
    for number, column in enumerate(dataset.event_columns):
        columns[column.name] = np.concatenate([part.events[:, number] for part in parts])
    for number, column in enumerate(dataset.condition_columns):
        values = np.concatenate([part.conditions[:, number] for part in parts])
        columns[column.name] = values.astype(np.float64)
    return pa.table(columns), [column.name for column in dataset.condition_columns]


def measure(
    table: pa.Table, conditions: list[str], encoding: str, codec: str, level: int | None, rows: int
) -> tuple[float, float, float]:
    """Bytes, median decode and write time in ns, each per row."""
    masses = [name for name in table.column_names if name not in conditions]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        start = time.perf_counter()
        pq.write_table(
            table,
            path,
            row_group_size=rows,
            use_dictionary=conditions,
            column_encoding=dict.fromkeys(masses, encoding),
            compression=codec,
            compression_level=level,
            write_statistics=False,
            store_schema=False,
        )
        written = time.perf_counter() - start
        decode = statistics.median(seconds_to_read(path) for _ in range(ROUNDS))
        size = path.stat().st_size
    return size / len(table), decode / len(table) * 1e9, written / len(table) * 1e9


def seconds_to_read(path: Path) -> float:
    """Of one pass, a row group at a time."""
    start = time.perf_counter()
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group, use_threads=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
