"""Fitting a flow to a prepared dataset. Knows no Optuna.

One row of history is one evaluation of the whole validation split in evaluation mode: at the end
of each epoch, or after every `eval_every` steps (then `Epoch.epoch` counts evaluations).

The loop synchronises with the device once per row: losses and the first non-finite step are
kept there. On the CPU a large batch goes through in parts that fit the cache, whose gradients add
up to that of the batch, and equal conditions are worked out once. Threads take whole parts, each
with gradients of its own that are added in a fixed order: threads that meet inside every small
operation lose more than they win, above all where another process has a core for a moment.

Tensor names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.columns import Dataset
from data_prep.stream import Batch, Stream
from models.checkpoint import BEST, Checkpoint, CheckpointError, flow_of, load, part, save
from models.config import FREE_TO_CHANGE, FlowConfig, TrainConfig
from models.flow import ConditionalFlow, build_flow
from models.parts import PartedLoss, weights_and_biases
from models.preprocess import constants
from models.stopping import Stopping

EVALUATION_ROWS = 65_536
"""Rows of the validation split that are read at once."""


class NonFiniteLoss(RuntimeError):
    """A loss or gradient became inf or NaN. The message says what, in which epoch and step.

    The first such step ends the training: by then the flow has left the region where its
    numbers mean anything, and the best weights before it are in the checkpoint.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One row of history: the training since the last row, and one evaluation."""

    epoch: int
    """From 1. Counts evaluations, which are epochs unless `eval_every` is set."""
    train_nll: float
    """Mean over the rows trained on since the last evaluation, in nats, as they were met."""
    val_nll: float
    """Over the whole validation split in evaluation mode, in nats."""
    learning_rate: float
    """Of the last step."""
    seconds: float
    """Wall-clock time since the last row, evaluation included, checkpoint not."""
    samples_per_second: float
    """Rows trained on per second, without the evaluation."""
    loss_rate: float | None
    """Fall of the smoothed validation NLL in nats per `rate_per`; None in the first row."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of a training."""

    history: list[Epoch]
    best_epoch: int
    best_val_nll: float
    stopped: str | None
    """Why it ended early, as a sentence; None when all epochs ran."""


def train(
    folder: Path,
    flow_config: FlowConfig,
    train_config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[ConditionalFlow, Fit]:
    """Fit a flow to the dataset prepared in `folder`.

    Args:
        folder: A prepared dataset.
        flow_config: The shape of the flow.
        train_config: How it is fitted.
        checkpoint: A folder. If it holds a checkpoint, training goes on exactly from there; it
            is saved after each evaluation, before `on_epoch`.
        on_epoch: Called with each new row of history. What it raises passes through.

    Returns:
        The flow with its best weights in evaluation mode, and its history, old rows included.

    Raises:
        NonFiniteLoss: If a loss or a gradient is not finite.
        CheckpointError: If the checkpoint is damaged or of another training.
        DataError: If `folder` is no prepared dataset.
    """
    stored = load(checkpoint) if checkpoint is not None else None
    device = _device(train_config)
    cuda = [device] if device.type == "cuda" else []
    with _denormals_flushed(), torch.random.fork_rng(devices=cuda):
        training = _Training(Path(folder), flow_config, train_config, device)
        if checkpoint is not None and stored is not None:
            training.restore(checkpoint, stored)
        training.run(checkpoint, on_epoch)
        return training.result()


def history(checkpoint: Path) -> list[Epoch]:
    """The rows of history that the checkpoint in this folder holds; none where there is none.

    Raises:
        CheckpointError: If the checkpoint is damaged.
    """
    stored = load(checkpoint)
    return [] if stored is None else [Epoch(**row) for row in stored.state["history"]]


class _Training:
    """A training under way: everything that a checkpoint holds, and the loop."""

    def __init__(
        self, folder: Path, flow_config: FlowConfig, config: TrainConfig, device: torch.device
    ) -> None:
        self.config, self.device = config, device
        self.dataset = Dataset.read(folder)
        self.stream = Stream(
            folder,
            "train",
            batch_size=config.batch_size,
            seed=config.seed,
            memory_mb=config.memory_mb,
        )
        self.validation = Stream(
            folder,
            "val",
            batch_size=EVALUATION_ROWS,
            shuffle=False,
            memory_mb=config.memory_mb,
        )
        moments = constants(self.dataset, self.stream.epoch(0))
        torch.manual_seed(config.seed)
        self.flow = build_flow(flow_config, self.dataset, moments, seed=config.seed).to(device)
        self.optimizer, self.gradients = _optimizer(self.flow, config)
        self.loss = PartedLoss(self.flow, self.gradients, batch_size=config.batch_size)
        self.stopping = Stopping()
        self.history: list[Epoch] = []
        self.best = _copy(self.flow)
        self.step, self.elapsed_s = 0, 0.0
        self.stopped: str | None = None

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.stream.batches

    def run(self, checkpoint: Path | None, on_epoch: Callable[[Epoch], None] | None) -> None:
        """Train from where we are to the end."""
        before_s, start_s = self.elapsed_s, time.perf_counter()
        batches = _endless(self.stream, self.step)
        with self.loss.threads(), closing(batches):
            while self.step < self.total_steps and self.stopped is None:
                epoch = self._epoch(batches)
                self.elapsed_s = before_s + time.perf_counter() - start_s
                self.stopped = self.stopping.reason(self.config, self.elapsed_s)
                if checkpoint is not None:
                    save(checkpoint, self._checkpoint())
                if on_epoch is not None:
                    on_epoch(epoch)

    def _epoch(self, batches: Iterator[Batch]) -> Epoch:
        """Train until the next evaluation is due, evaluate, add a row of history."""
        start_s = time.perf_counter()
        steps = min(self.config.eval_every or self.stream.batches, self.total_steps - self.step)
        train_nll, rows = self._train(islice(batches, steps))
        trained_s = time.perf_counter() - start_s
        val_nll = self._validate()
        seconds = time.perf_counter() - start_s

        units = seconds if self.config.rate_per == "second" else steps / self.stream.batches
        if self.stopping.add(val_nll, units=units, smoothing=self.config.rate_smoothing):
            self.best = _copy(self.flow)
        self.history.append(
            Epoch(
                epoch=len(self.history) + 1,
                train_nll=train_nll,
                val_nll=val_nll,
                learning_rate=_learning_rate(self.config, self.step - 1, self.total_steps),
                seconds=seconds,
                samples_per_second=rows / trained_s,
                loss_rate=self.stopping.rate,
            )
        )
        return self.history[-1]

    def _train(self, batches: Iterator[Batch]) -> tuple[float, int]:
        """One gradient step per batch; mean NLL of the rows met, and their number."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        first_bad = torch.full((), -1, device=self.device)
        rows = 0
        for batch in batches:
            x_NF, c_NC = self._on_device(batch)
            loss = self.loss.backward(x_NF, c_NC)
            norm = _clip(self.gradients, self.config.clip_norm)
            for group in self.optimizer.param_groups:
                group["lr"] = _learning_rate(self.config, self.step, self.total_steps)
            self.optimizer.step()

            total += loss * len(x_NF)
            bad = ~(loss.isfinite() & norm.isfinite()) & (first_bad < 0)
            first_bad = torch.where(bad, self.step, first_bad)
            rows += len(x_NF)
            self.step += 1
        self._check(int(first_bad.item()))
        return float(total.item()) / rows, rows

    def _validate(self) -> float:
        """Mean NLL of the whole validation split in evaluation mode."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for batch in self.validation.epoch(0):
            total += self.loss.nll(*self._on_device(batch))
        nll = float(total.item()) / self.validation.rows
        if not math.isfinite(nll):
            raise NonFiniteLoss(
                f"the validation NLL is {nll} after step {self.step} (epoch {self._number()})"
            )
        return nll

    def _check(self, first_bad: int) -> None:
        if first_bad >= 0:
            raise NonFiniteLoss(
                "the training loss or its gradient is not finite at step "
                f"{first_bad + 1} (epoch {first_bad // self.stream.batches + 1}): "
                "try a lower learning_rate or clip_norm"
            )

    def _number(self) -> int:
        return -(-self.step // self.stream.batches)

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        x_NF, c_NC = torch.from_numpy(batch.events), torch.from_numpy(batch.conditions)
        if self.device.type == "cpu":
            return x_NF, c_NC
        x_NF, c_NC = x_NF.contiguous().pin_memory(), c_NC.contiguous().pin_memory()
        return x_NF.to(self.device, non_blocking=True), c_NC.to(self.device, non_blocking=True)

    def result(self) -> tuple[ConditionalFlow, Fit]:
        """The flow with its best weights, and the history."""
        assert self.stopping.best is not None
        self.flow.load_state_dict(self.best)
        fit = Fit(self.history, self.stopping.best_evaluation, self.stopping.best, self.stopped)
        return self.flow.eval(), fit

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"flow.{k}": v for k, v in self.flow.state_dict().items()}
        tensors |= {f"{BEST}{k}": v for k, v in self.best.items()}
        for number, state in enumerate(self.optimizer.state.values()):
            tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "flow": self.flow.describe(),
            "training": asdict(self.config),
            "dataset": self.dataset.fingerprint,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "stopped": self.stopped,
            "stopping": self.stopping.state(),
            "history": [asdict(epoch) for epoch in self.history],
        }
        return Checkpoint(tensors={k: v.cpu() for k, v in tensors.items()}, state=state)

    def restore(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Go back to where the checkpoint was saved.

        Raises:
            CheckpointError: If it is of other options or other data. Names the first difference.
        """
        state, tensors = checkpoint.state, checkpoint.tensors
        self._compare(folder, state)
        self.history = [Epoch(**row) for row in state["history"]]
        self.stopping = Stopping(**state["stopping"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.stopped = state["stopped"]
        self.best = flow_of(folder, checkpoint).to(self.device).state_dict()
        if state.get("trimmed"):
            return
        self.flow.load_state_dict(part(tensors, "flow."))
        for number, flat in enumerate(self.optimizer.param_groups):
            self.optimizer.state[flat["params"][0]] = {
                k: v.to(v.device if k == "step" else self.device)
                for k, v in part(tensors, f"optimizer.{number}.").items()
            }
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)

    def _compare(self, folder: Path, state: dict[str, Any]) -> None:
        ours = {**asdict(self.config), **asdict(self.flow.config), "data": self.dataset.fingerprint}
        theirs = {**state["training"], **state["flow"]["config"], "data": state["dataset"]}
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in FREE_TO_CHANGE and ours.get(name) != theirs.get(name):
                raise CheckpointError(
                    f"the checkpoint in {folder} is of another training: it has {name} = "
                    f"{theirs.get(name)!r}, this one {ours.get(name)!r}: use another folder"
                )


def _optimizer(flow: nn.Module, config: TrainConfig) -> tuple[torch.optim.AdamW, list[Tensor]]:
    """AdamW over all weights as one flat tensor and all biases as another, and their gradients.

    A flow has a hundred small tensors; with two large ones a step of the optimizer, clipping and
    zeroing cost next to nothing. The flow's own parameters become views of them. Biases (the
    tensors with one column) are not decayed.
    """
    flats = []
    for parameters in weights_and_biases(flow):
        flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
        flat.grad = torch.zeros_like(flat)
        sizes = [p.numel() for p in parameters]
        views = zip(torch.split(flat.detach(), sizes), torch.split(flat.grad, sizes), strict=True)
        for parameter, (values, gradient) in zip(parameters, views, strict=True):
            parameter.data = values.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)
        flats.append(flat)
    groups = [
        {"params": [flats[0]], "weight_decay": config.weight_decay},
        {"params": [flats[1]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    return optimizer, [flat.grad for flat in flats if flat.grad is not None]


def _clip(gradients: list[Tensor], longest: float) -> Tensor:
    """Shorten the gradient to `longest`; returns the length it had."""
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    factor = (longest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
    return norm


def _learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Learning rate of a step, from 0: a function of the step alone, so nothing is to be stored."""
    warm = round(config.warmup * total)
    if step < warm:
        return config.learning_rate * (step + 1) / (warm + 1)
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def _endless(stream: Stream, step: int) -> Generator[Batch, None, None]:
    """The batches of a training from its step `step` on, epoch after epoch."""
    epoch, start = divmod(step, stream.batches)
    while True:
        yield from stream.epoch(epoch, start=start)
        epoch, start = epoch + 1, 0


def _copy(flow: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in flow.state_dict().items()}


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Denormals, in the optimizer's averages above all, make a CPU 25 times slower.

    The mode is that of the whole thread, numpy included, so it is put back at the end.
    """
    before = bool(torch.tensor(1e-310, dtype=torch.float64).mul(0.5) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _device(config: TrainConfig) -> torch.device:
    if config.device != "auto":
        return torch.device(config.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
