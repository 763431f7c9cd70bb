"""Workers that train several trials at a time, against workers that train one, on a processor.

    python benchmarks/workers.py [DATASET] [--together 1 4 16 64] [--batches 512 1024 2048 4096]
                                 [--workers 2] [--rounds 5] [--rows 200000]

A worker is a process with one thread, as `hpo launch` starts it, and has K trainings of the default
flow that differ by seed. In a round the workers take the same steps in three ways:

    alone       one training after another, as with one trial at a time
    together    all K of a worker as one, as with `trials_per_worker = K`
    threads     those of all workers in a single process that has as many threads

Each begins when all are ready and ends with the last, and its work is that of the others, about
`--rows` rows of a worker. Told are rows per second of all trainings by the wall clock, so let
nothing else run; then ratios to the first way, by the wall clock and by the seconds that the
processor worked, with the standard error of either over rounds. Evaluations are in none.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stack import cut, take, trainings_of

from data_prep.dataset import SAMPLE
from models.config import TrainConfig
from models.training.arithmetic import arithmetic
from models.training.stack.meeting import _settings_of_thread
from models.training.stack.rows import Held

WAYS = "alone", "together", "threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--together", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--batches", nargs="+", type=int, default=[512, 1024, 2048, 4096])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=200_000)
    options = parser.parse_args()
    print(f"{'batch':>6} {'K':>3}  {'alone':>15}" + "".join(f"{way:>17}" for way in WAYS[1:]))
    for batch in options.batches:
        for count in options.together:
            told(batch, count, options.workers, *rounds(options, batch, count))


def rounds(options: argparse.Namespace, batch: int, count: int) -> tuple[NDArray[np.float64], int]:
    """Seconds by the wall clock and by the processor's, `(2, rounds, ways)`, and rows of a way."""
    context, pipes, processes = multiprocessing.get_context("spawn"), [], []
    whole = range(count * options.workers)
    shares = [(whole[at : at + count], 1) for at in whole[::count]]
    for seeds, threads in [*shares, (whole, options.workers)]:
        mine, theirs = context.Pipe()
        given = theirs, options.dataset, batch, seeds, threads
        process = context.Process(target=serve, args=given)
        process.start()
        pipes.append(mine)
        processes.append(process)
    workers, single = pipes[:-1], pipes[-1:]
    steps = max(1, round(options.rows / (batch * count)))
    spent = []
    for _ in range(options.rounds + 1):
        ways = [(workers, False), (workers, True), (single, True)]
        spent.append([turn(some, steps, together) for some, together in ways])
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join()
    return np.moveaxis(np.array(spent[1:]), 2, 0), steps * batch * count * options.workers


def turn(pipes: Sequence[Connection], steps: int, together: bool) -> tuple[float, float]:
    """Have the processes take their steps; seconds of the wall clock and of processors."""
    for pipe in pipes:
        pipe.recv()
    start_s = time.perf_counter()
    for pipe in pipes:
        pipe.send((steps, together))
    worked_s = sum(pipe.recv() for pipe in pipes)
    return time.perf_counter() - start_s, worked_s


def serve(pipe: Connection, dataset: Path, batch: int, seeds: Sequence[int], threads: int) -> None:
    """Be a worker: take steps as often as it is told."""
    torch.set_num_threads(1)
    config = TrainConfig(batch_size=batch, device="cpu")
    with arithmetic(config), ThreadPoolExecutor(threads, "taking", _settings_of_thread) as pool:
        trainings = trainings_of(dataset, config, seeds)
        held = Held([training._member(1) for training in trainings])
        while True:
            pipe.send("ready")
            told: Any = pipe.recv()
            if told is None:
                return
            steps, together = told
            start_s = time.process_time()
            taken = [
                pool.submit(take, [stack], held if together else None, steps)
                for stack in cut(trainings)
            ]
            for one in taken:
                one.result()
            pipe.send(time.process_time() - start_s)


def told(batch: int, count: int, workers: int, spent_2RW: NDArray[np.float64], rows: int) -> None:
    """Print a line."""
    rate_W = rows / spent_2RW[0].mean(0)
    line = f"{batch:6} {count:3}  {rate_W[0]:9,.0f} rows/s"
    ratio_2RW = spent_2RW[:, :, :1] / spent_2RW
    mean_2W = ratio_2RW.mean(1)
    error_2W = ratio_2RW.std(1, ddof=1) / ratio_2RW.shape[1] ** 0.5
    for way in (1, 2):
        clocks = (f"{mean_2W[c, way]:.2f} +- {error_2W[c, way]:.2f}" for c in (0, 1))
        line += f"  {rate_W[way]:9,.0f} ({', '.join(clocks)})"
    print(line, flush=True)


if __name__ == "__main__":
    main()
