"""An emulator in use, in torch, ONNX and JAX, beside a stock nflows flow: drawing, evaluating.

    pip install '.[benchmark]'
    python benchmarks/emulator.py [--seconds 60] [--repeats 7] [--threads 2]

Ours and a spline flow of nflows are trained on the shipped sample, processor time for time. Then
20,000 events are drawn (which took the thesis 1.31 s), and 1,000,000 log densities worked out,
under one (Z, alpha) that all share and under one of their own: medians of repeats that take turns.
What can go in smaller parts, or with fewer threads, goes as was quickest in a first trial;
compiling is not timed.

Array names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset import SAMPLE
from data_prep.stream import Batch, read_split
from models import ArrayFlow, Emulator
from models.config import FlowConfig, TrainConfig

Floats = NDArray[np.floating]
Way = Callable[[], Any]

SAMPLES, EVALUATIONS = 20_000, 1_000_000
THESIS_S = 1.31
"""That the thesis took for 20,000 samples, on its own machine."""
POINT = {"Z": 0.0014, "alpha": 2.2}
"""Between cells."""
PARTS = (5_000, 20_000)
"""Rows that go through a flow together, of which the quickest counts. They divide what is asked."""
DRAW, SHARED, OWN = "20,000 samples", "1M log_prob, shared", "1M log_prob, own"
"""What is timed: densities under one (Z, alpha) that all events share, or under one for each."""
TASKS = (DRAW, SHARED, OWN)
STOCK_SHAPE = {"layers": 3, "hidden": 64, "depth": 2, "bins": 8}
"""Of the spline flow of nflows."""
TORCH, ONNX, JAX, STOCK = "ours, torch", "ours, ONNX", "ours, JAX", "nflows spline MAF"
MODULES = {"onnxruntime": "onnxruntime", "jax": "jax", "zuko": "zuko"}
"""Module and distribution of what the package itself does not need."""


class Contender(Protocol):
    """One way to use one flow. What it can do differently is a list; the quickest is taken."""

    def draw(self) -> Sequence[Way]:
        """Ways to draw `SAMPLES` events at `POINT`."""

    def evaluate(self, x_NF: Floats, c_NC: Floats) -> Sequence[Way]:
        """Ways to work out log densities; conditions are one row for each event, or one for all."""


class InParts(Contender, Protocol):
    """One that takes all the threads, and parts of any size."""

    def draw(self) -> Sequence[Way]:
        return [partial(self._draw, part) for part in PARTS]

    def evaluate(self, x_NF: Floats, c_NC: Floats) -> Sequence[Way]:
        return [partial(self._evaluate, x_NF, c_NC, part) for part in PARTS]

    def _draw(self, part: int) -> Floats: ...

    def _evaluate(self, x_NF: Floats, c_NC: Floats, part: int) -> Floats: ...


class InTorch(Contender):
    """`Emulator`, as anybody calls it."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator

    def draw(self) -> Sequence[Way]:
        return [partial(self.emulator.sample, SAMPLES, **POINT)]

    def evaluate(self, x_NF: Floats, c_NC: Floats) -> Sequence[Way]:
        given = dict(zip(self.emulator.condition_columns, c_NC.T, strict=True))
        if len(c_NC) == 1:
            given = {name: float(value[0]) for name, value in given.items()}
        # Rounding to float32 puts conditions at the edge of the domain outside it.
        return [partial(self.emulator.log_prob, x_NF, on_extrapolation="ignore", **given)]


class InOnnx(InParts):
    """The graphs, by onnxruntime."""

    def __init__(self, folder: Path, noise_columns: int, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.noise_columns = noise_columns
        self.log_prob, self.sample = (
            onnxruntime.InferenceSession(
                str(folder / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for graph in ("log_prob", "sample")
        )

    def _draw(self, part: int) -> Floats:
        noise_NF = noise(self.noise_columns)
        c_NC = np.repeat(point(), part, axis=0)
        parts = []
        for rows in slices(SAMPLES, part):
            parts += self.sample.run(None, {"noise": noise_NF[rows], "conditions": c_NC})
        return np.concatenate(parts)

    def _evaluate(self, x_NF: Floats, c_NC: Floats, part: int) -> Floats:
        parts = []
        for rows in slices(len(x_NF), part):
            x = x_NF[rows]
            # The graph wants a row of conditions for each event.
            c = np.repeat(c_NC, len(x), axis=0) if len(c_NC) == 1 else c_NC[rows]
            parts += self.log_prob.run(None, {"events": x, "conditions": c})
        return np.concatenate(parts)


class InJax(InParts):
    """`ArrayFlow` in float32 under `jax.jit`."""

    def __init__(self, folder: Path) -> None:
        import jax

        flow = ArrayFlow.load(folder, dtype="float32")
        self.noise_columns = flow.noise_columns
        self.log_density, self.from_noise = jax.jit(flow.log_density), jax.jit(flow.from_noise)

    def _draw(self, part: int) -> Floats:
        noise_NF = noise(self.noise_columns)
        c_C = point()[0]
        parts = [self.from_noise(noise_NF[rows], c_C) for rows in slices(SAMPLES, part)]
        return np.concatenate(parts)

    def _evaluate(self, x_NF: Floats, c_NC: Floats, part: int) -> Floats:
        parts = [
            self.log_density(x_NF[rows], c_NC[0] if len(c_NC) == 1 else c_NC[rows])
            for rows in slices(len(x_NF), part)
        ]
        return np.concatenate(parts)


class Stock(Contender):
    """A flow of `rivals`, with all or with one of the threads."""

    def __init__(self, flow: Any, threads: int) -> None:
        self.flow, self.threads = flow, threads

    def draw(self) -> Sequence[Way]:
        return [
            partial(self._draw, part, threads) for part in PARTS for threads in {1, self.threads}
        ]

    def evaluate(self, x_NF: Floats, c_NC: Floats) -> Sequence[Way]:
        return [
            partial(self._evaluate, x_NF, c_NC, part, threads)
            for part in PARTS
            for threads in {1, self.threads}
        ]

    def _draw(self, part: int, threads: int) -> Floats:
        import rivals
        import torch

        torch.set_num_threads(threads)
        point_NC = torch.tensor([list(POINT.values())]).expand(SAMPLES, -1)
        try:
            return rivals.sample(self.flow, point_NC, part).numpy()
        finally:
            torch.set_num_threads(self.threads)

    def _evaluate(self, x_NF: Floats, c_NC: Floats, part: int, threads: int) -> Floats:
        import rivals
        import torch

        torch.set_num_threads(threads)
        rows = [torch.from_numpy(values) for values in (x_NF, c_NC)]
        rows[1] = rows[1].expand(len(x_NF), -1)
        try:
            return rivals.log_prob(self.flow, (rows[0], rows[1]), part).numpy()
        finally:
            torch.set_num_threads(self.threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of each training")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    missing = [name for module, name in MODULES.items() if not importlib.util.find_spec(module)]
    if missing:
        sys.exit(f"needs {', '.join(missing)}: run `pip install {' '.join(missing)}`")
    # XLA takes as many threads as there are processors.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])

    with tempfile.TemporaryDirectory() as folder:
        contenders = trained(Path(folder) / "emulator", options.seconds, options.threads)
        test = read_split(SAMPLE, "test")
        nlls = {name: nll(contender, test) for name, contender in contenders.items()}
        seconds = measured(contenders, test, options.repeats)
    print(
        f"{options.seconds:g} s of training each, {options.threads} threads, "
        f"medians of {options.repeats} repeats in turn"
    )
    report(nlls, seconds)


def trained(folder: Path, seconds: float, threads: int) -> dict[str, Contender]:
    """Ours, saved in `folder` and loaded in every way, and the other."""
    import rivals
    import torch
    from flow_runs import tensors
    from processor_time import counted
    from rival_training import Recipe, fit

    from models.training.train import train

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    config = TrainConfig(max_minutes=seconds / 60, seed=0, device="cpu")
    with counted():
        flow, _ = train(SAMPLE, FlowConfig(), config)
    Emulator(flow).save(folder)

    torch.manual_seed(0)
    train_rows, val_rows = (tensors(read_split(SAMPLE, split)) for split in ("train", "val"))
    stock = rivals.build(rivals.SPLINE, STOCK_SHAPE, train_rows)
    fit(stock, Recipe(batch=512, learning_rate=1e-3), train_rows, val_rows, seconds=seconds)
    torch.set_num_threads(threads)
    return {
        TORCH: InTorch(Emulator.load(folder)),
        ONNX: InOnnx(folder, flow.noise_columns, threads),
        JAX: InJax(folder),
        STOCK: Stock(stock, threads),
    }


def nll(contender: Contender, test: Batch) -> float:
    """Mean NLL of the test rows, by the contender's own log densities."""
    x_NF, c_NC = (np.ascontiguousarray(part, np.float32) for part in test)
    log_prob_N = np.asarray(contender.evaluate(x_NF, c_NC)[0](), np.float64)
    return -float(log_prob_N.mean())


def measured(
    contenders: Mapping[str, Contender], test: Batch, repeats: int
) -> dict[tuple[str, str], float]:
    """Median seconds by task and contender."""
    x_NF = np.ascontiguousarray(np.resize(test.events, (EVALUATIONS, 2)), np.float32)
    rng = np.random.default_rng(0)
    low_C, high_C = test.conditions.min(0), test.conditions.max(0)
    each_NC = low_C * (high_C / low_C) ** rng.random((EVALUATIONS, 2))
    given = {SHARED: point(), OWN: each_NC.astype(np.float32)}
    medians = {}
    for task in TASKS:
        ways = {}
        for name, contender in contenders.items():
            able = contender.draw() if task == DRAW else contender.evaluate(x_NF, given[task])
            ways[name] = quickest(able)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                times[name].append(timed(way))
        medians |= {(task, name): statistics.median(times[name]) for name in ways}
    return medians


def quickest(ways: Sequence[Way]) -> Way:
    """That of the least time in its second call; the first may compile."""
    times = []
    for way in ways:
        way_s = [timed(way) for _ in range(2)]
        times.append(way_s[1])
    return ways[times.index(min(times))]


def timed(way: Way) -> float:
    """Seconds of a call that succeeds.

    nflows' spline refuses, by an assertion, some noise that rounding pushes out of its bins.
    """
    while True:
        start_s = time.perf_counter()
        try:
            way()
        except AssertionError:
            continue
        return time.perf_counter() - start_s


def report(nlls: Mapping[str, float], seconds: Mapping[tuple[str, str], float]) -> None:
    print(f"{'':18}{'test NLL':>9}" + "".join(f"{task:>22}" for task in TASKS))
    for name, value in nlls.items():
        cells = (
            f"{seconds[task, name]:12.4f} s {seconds[task, STOCK] / seconds[task, name]:6.1f}x"
            for task in TASKS
        )
        print(f"{name:18}{value:9.4f}" + "".join(cells))
    print(f"x: times as fast as {STOCK}")
    ratio = THESIS_S / seconds[DRAW, TORCH]
    print(f"the thesis, {DRAW} on its own machine: {THESIS_S} s, {ratio:.0f} times ours in torch")


# ---- what all of them get


def point() -> Floats:
    return np.array([list(POINT.values())], np.float32)


def noise(columns: int) -> Floats:
    """Of new numbers every time, as a flow that draws its own has them."""
    return np.random.default_rng().standard_normal((SAMPLES, columns), np.float32)


def slices(rows: int, part: int) -> Iterator[slice]:
    return (slice(at, at + part) for at in range(0, rows, part))


if __name__ == "__main__":
    main()
