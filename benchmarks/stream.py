"""Rows per second of `data_prep.stream`, beside a DataLoader and beside a tensor in memory.

    python benchmarks/stream.py [--rows ROWS] [--rounds ROUNDS] [--threads THREADS]

The benchmark needs no data: it draws a table, prepares it, and reads it back as
  streaming   ours, decoding every epoch from Parquet (memory_mb=0)
  cached      ours, from the second epoch on
  DataLoader  torch's, over a map-style dataset: batches of 40,000 rows collated one by one by
              two worker processes
  limit       the same shuffled epoch from a tensor in memory: randperm, then x[order] a batch;
              with one torch thread or several, whichever is faster
  select      the same with torch.index_select, torch's fastest way to gather rows
  slices      contiguous slices of that tensor, copied: no shuffling at all
Every batch is taken as tensors of events and conditions. Rates are medians over rounds that take
turns, so that a busy moment of the machine hits all alike.

Then the peak memory of two streamed epochs, each in a fresh process, on 1x and 20x the data.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from verdict import verdict

from data_prep.preparation.prepare import prepare
from data_prep.stream import Stream, read_split

BATCH = 40_000
LOADER_ROWS = 200_000
"""The DataLoader gets fewer: its rate does not depend on the number, and it is slow."""
SMALL, GROWTH = 300_000, 20
Z_GRID = (0.0001, 0.0002, 0.0004, 0.0006, 0.0008, 0.001, 0.002, 0.004, 0.006)
ALPHA_GRID = (0.5, 1.0, 3.0, 5.0)
ALL_FOR_TRAINING = (0.999998, 1e-6, 1e-6)


def main() -> None:
    """Measure, and print rates, ratios and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak_mb(options.peak))
        return
    with tempfile.TemporaryDirectory(prefix="stream-benchmark-") as folder:
        compare_rates(Path(folder), options.rows, options.rounds, options.threads)
        compare_memory(Path(folder))


def make(folder: Path, rows: int) -> Path:
    """A prepared dataset: masses of realistic digits, a grid of 36 cells, all for training."""
    source = write_table(folder / f"{rows}.parquet", rows)
    prepare([source], folder / str(rows), split=ALL_FOR_TRAINING)
    source.unlink()
    return folder / str(rows)


def write_table(path: Path, rows: int) -> Path:
    """The table that is prepared.

    It is drawn in blocks, so that a benchmark of memory does not need much of it.
    """
    rng = np.random.default_rng(0)
    names = ["Mass_0", "Mass_1", "Z", "alpha"]
    schema = pa.schema([(name, pa.float64()) for name in names])
    with pq.ParquetWriter(path, schema) as file:
        for start in range(0, rows, 500_000):
            count = min(500_000, rows - start)
            masses = 5.7 + rng.gamma(2.0, 5.0, (2, count))
            grid = [rng.choice(Z_GRID, count), rng.choice(ALPHA_GRID, count)]
            file.write_table(pa.table([*masses, *grid], names=names))
    return path


def compare_rates(folder: Path, rows: int, rounds: int, threads: int) -> None:
    """Rates of all ways to read one shuffled epoch."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    data = make(folder, rows)
    whole = read_split(data, "train")
    rows_NK = torch.from_numpy(np.concatenate(whole.arrays, axis=1))
    events = whole.events.shape[1]

    streaming = Stream(data, "train", batch_size=BATCH, memory_mb=0)
    cached = Stream(data, "train", batch_size=BATCH, memory_mb=1e6)
    few = TensorDataset(*(torch.from_numpy(part[:LOADER_ROWS]) for part in whole.arrays))
    loader = DataLoader(few, batch_size=BATCH, num_workers=2)

    def ours(stream: Stream, epoch: int) -> Iterator[object]:
        for batch in stream.epoch(epoch):
            yield torch.from_numpy(batch.events), torch.from_numpy(batch.conditions)

    def gathered(take: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[object]:
        order = torch.randperm(len(rows_NK))
        for start in range(0, len(order), BATCH):
            batch = take(order[start : start + BATCH])
            yield batch[:, :events], batch[:, events:]

    def slices() -> Iterator[object]:
        for start in range(0, len(rows_NK), BATCH):
            batch = rows_NK[start : start + BATCH].clone()
            yield batch[:, :events], batch[:, events:]

    ways: dict[str, tuple[int, Callable[[int], Iterator[object]]]] = {
        "streaming": (rows, lambda epoch: ours(streaming, epoch)),
        "cached": (rows, lambda epoch: ours(cached, epoch)),
        "DataLoader": (len(few), lambda epoch: iter(loader)),
        "limit": (rows, lambda epoch: gathered(lambda order: rows_NK[order])),
        f"limit, {threads}": (rows, lambda epoch: gathered(lambda order: rows_NK[order])),
        "select": (rows, lambda epoch: gathered(lambda order: rows_NK.index_select(0, order))),
        "slices": (rows, lambda epoch: slices()),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for epoch in range(rounds + 1):
        for name, (count, way) in ways.items():
            if name == "DataLoader" and epoch > 3:
                continue
            torch.set_num_threads(threads if name.startswith("limit,") else 1)
            rate = count / seconds(way(epoch))
            if epoch:  # the first round warms up, and fills the cache
                rates[name].append(rate)

    median = {name: statistics.median(found) for name, found in rates.items()}
    median["limit"] = max(median["limit"], median.pop(f"limit, {threads}"))
    print(f"{rows:,} rows, batches of {BATCH:,}, one torch thread (limit: 1 or {threads})")
    print(f"{'':12} {'rows/s':>14} {'/ DataLoader':>13} {'/ limit':>9} {'/ select':>9}")
    for name, rate in median.items():
        ratios = [rate / median[other] for other in ("DataLoader", "limit", "select")]
        print(f"{name:12} {rate:14,.0f} {ratios[0]:13.1f} {ratios[1]:9.2f} {ratios[2]:9.2f}")
    verdict("streaming / DataLoader", median["streaming"] / median["DataLoader"], ">=", 50)
    verdict("streaming / limit", median["streaming"] / median["limit"], ">=", 0.3)


def seconds(batches: Iterator[object]) -> float:
    """Time to receive them all."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def compare_memory(folder: Path) -> None:
    """Growth of the peak memory of streaming when the data grows."""
    peaks = {}
    for times in (1, GROWTH):
        data = make(folder, SMALL * times)
        command = [sys.executable, __file__, "--peak", str(data)]
        peaks[times] = float(subprocess.run(command, check=True, capture_output=True).stdout)
        print(f"{SMALL * times:>10,} rows streamed twice: peak memory {peaks[times]:.0f} MB")
    verdict(f"growth from 1x to {GROWTH}x, MB", peaks[GROWTH] - peaks[1], "<", 50)


def peak_mb(folder: Path) -> float:
    """Peak resident memory of this process after two streamed epochs, in MB."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    stream = Stream(folder, "train", batch_size=BATCH, memory_mb=0)
    for epoch in range(2):
        for _ in stream.epoch(epoch):
            pass
    return own_peak_mb()


def own_peak_mb() -> float:
    """Peak resident memory of this process since it was started, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux a child begins with the peak of the process that started it.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
