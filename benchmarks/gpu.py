"""Everything that a GPU has to show, in one run of at most eight minutes.

    python benchmarks/gpu.py [DATASET] [--device cuda] [--together 1 8 64 256] [--processes 1 4 8]
                             [--seconds 20] [--trials 200] [--epochs 20] [--stack 64]

Told are, for flows of the default's shape:

    numbers     how far the NLLs of a training on the device are from those on a processor, with
                rows that stay there, on batches that are streamed, and in a stack; and from those
                of a training that was broken off and went on
    rows/s      of all trainings together: K of them in a stack, and in as many processes that
                share the device, as `workers_per_gpu` does; each for `--seconds`, evaluations not
                counted; how busy the GPU was as nvidia-smi tells it
    a study     of `--trials` by one worker with `--stack`, from `hpo launch` to its end

With `--device cpu` the same is done on a processor, at small sizes; the figures then say nothing of
a GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from data_prep.dataset import SAMPLE
from models.config import FlowConfig, TrainConfig
from models.training.arithmetic import arithmetic
from models.training.history import Fit
from models.training.stack.meeting import Meeting
from models.training.stack.rows import Held
from models.training.stack.stack import Stack
from models.training.train import _Training, train

STUDY = """
[study]
name = "gpu"
[space]
components = {{ low = 16, high = 64, log = true }}
base_hidden = {{ low = 32, high = 128, step = 32 }}
learning_rate = {{ low = 5e-3, high = 5e-2, log = true }}
decay_rows = {{ low = 50, high = 50_000, log = true }}
ema = [0.99, 0.995, 0.999]
[data]
path = "{data}"
[training]
epochs = {epochs}
device = "{device}"
[pruner]
kind = "asha"
min_epochs = 4
"""
STEPS = 8
"""Taken at once where rows are counted."""


class _BrokenOff(Exception):
    """Stands for a kill."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--together", nargs="+", type=int, default=[1, 8, 64, 256])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--stack", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = TrainConfig(device=options.device)
    numbers(options.dataset, replace(config, epochs=2))
    for count in options.together:
        told(f"{count} in a stack", stacked(options.dataset, config, count, options.seconds))
    for count in options.processes:
        told(f"{count} processes", apart(options.dataset, config, count, options.seconds))
    study(options)


def numbers(dataset: Path, config: TrainConfig) -> None:
    """How far trainings on the device are from those on a processor."""
    here = [train(dataset, FlowConfig(), replace(config, device="cpu", seed=k))[1] for k in (0, 1)]
    alone = train(dataset, FlowConfig(), config)[1]
    print(f"alone, from the processor: {gap(alone, here[0]):.1e} nats")
    streamed = train(dataset, FlowConfig(), replace(config, memory_mb=0.0))[1]
    print(f"streamed, from the processor: {gap(streamed, here[0]):.1e} nats")
    meeting = Meeting(size=2)
    both = [partial(train, dataset, FlowConfig(), replace(config, seed=k)) for k in (0, 1)]
    pairs = zip(meeting.run([partial(one, meeting=meeting) for one in both]), here, strict=True)
    print(f"stack, from the processor: {max(gap(fit, same) for (_, fit), same in pairs):.1e} nats")
    with tempfile.TemporaryDirectory(prefix="gpu-") as place:

        def kill(_: object) -> None:
            raise _BrokenOff

        try:
            train(dataset, FlowConfig(), config, checkpoint=Path(place), on_epoch=kill)
        except _BrokenOff:
            gone_on = train(dataset, FlowConfig(), config, checkpoint=Path(place))[1]
    print(f"broken off and gone on, from the unbroken: {gap(gone_on, alone):.1e} nats", flush=True)


def gap(one: Fit, other: Fit) -> float:
    """The largest difference of two trainings' validation NLLs."""
    pairs = zip(one.history, other.history, strict=True)
    return max(abs(row.val_nll - same.val_nll) for row, same in pairs)


def stacked(dataset: Path, config: TrainConfig, count: int, seconds: float) -> tuple[float, float]:
    """Rows a second of so many trainings in one stack, and milliseconds of one of its steps."""
    with arithmetic(config):
        trainings = [
            _Training(dataset, FlowConfig(), replace(config, seed=seed)) for seed in range(count)
        ]
        members = [training._member(STEPS) for training in trainings]
        stack = Stack(members, Held(members))

        def take() -> None:
            stack.go_on([training._member(STEPS) for training in trainings])
            stack.train()
            for training in trainings:
                training.step += STEPS

        return rate(take, count * STEPS * config.batch_size, seconds)


def apart(dataset: Path, config: TrainConfig, count: int, seconds: float) -> tuple[float, float]:
    """Rows a second of so many processes with a training each, and milliseconds of a step."""
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        found = pool.starmap(by_itself, [(dataset, config, seed, seconds) for seed in range(count)])
    return sum(rows for rows, _ in found), max(step for _, step in found)


def by_itself(dataset: Path, config: TrainConfig, seed: int, seconds: float) -> tuple[float, float]:
    """Of one training, as a worker has it."""
    torch.set_num_threads(1)
    with arithmetic(config):
        training = _Training(dataset, FlowConfig(), replace(config, seed=seed))
        with training.loss.threads(), training._joined():
            return rate(lambda: training._take(STEPS), STEPS * config.batch_size, seconds)


def rate(take: Callable[[], object], rows: int, seconds: float) -> tuple[float, float]:
    """Rows a second, and milliseconds of one of the `STEPS` steps; the first are not counted."""
    take()
    _wait()
    start_s, taken = time.perf_counter(), 0
    while time.perf_counter() - start_s < seconds:
        take()
        _wait()
        taken += 1
    spent_s = time.perf_counter() - start_s
    return taken * rows / spent_s, 1e3 * spent_s / (taken * STEPS)


def told(what: str, found: tuple[float, float]) -> None:
    """Print a line."""
    rows, step_ms = found
    print(f"{what:>16}: {rows:12,.0f} rows/s, {step_ms:8.2f} ms a step{_busy()}", flush=True)


def study(options: argparse.Namespace) -> None:
    """Run a study by one worker and print how long it took."""
    with tempfile.TemporaryDirectory(prefix="gpu-") as place:
        data, device = options.dataset.absolute(), options.device
        text = STUDY.format(data=data, epochs=options.epochs, device=device)
        Path(place, "gpu.toml").write_text(text, encoding="utf-8")
        words = ["--trials", options.trials, "--stack", options.stack, "--workers", 1]
        start_s = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "hpo.cli", "launch", "gpu.toml", *map(str, words)],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        )
        spent_s = time.perf_counter() - start_s
    print(f"study: {options.trials} trials in {spent_s:.0f} s; {done.stdout.splitlines()[-2]}")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _busy() -> str:
    """What nvidia-smi tells of the last second."""
    if not torch.cuda.is_available():
        return ""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader"]
    return f", GPU busy {subprocess.check_output(query, text=True).strip()}"


if __name__ == "__main__":
    main()
