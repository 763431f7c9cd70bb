"""Fitting a flow to a prepared dataset, epoch after epoch. Knows no Optuna.

A row of history is one evaluation of the whole validation split in evaluation mode: at the end of
each epoch, or after every `eval_every` steps. Rows of cells that are kept out are in none of it:
those of the held-out cells have an NLL of their own. Losses and the first non-finite step are kept
on the device, and looked at once per row.

Where rows have weights, each counts as its weight over the mean weight of the training rows: in the
loss of a batch, in every NLL, and in what coordinates are standardised by.

Tensor names end in their axes:
    N rows    F event columns    C condition columns
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from data_prep import cells
from data_prep.cells import Named
from data_prep.dataset import Dataset
from data_prep.stream import Stream
from models.config import ConfigError, FlowConfig, TrainConfig
from models.flow.atoms import OneFlow, build
from models.flow.density import normalise
from models.layout import below
from models.training.arithmetic import arithmetic, device_of, fused
from models.training.checkpoint import (
    BEST,
    Checkpoint,
    CheckpointError,
    Save,
    flow_of,
    history_of,
    load,
    on_host,
    refuse_another,
    save,
)
from models.training.history import Epoch, Fit
from models.training.interpolation import ConditionJitter, Points
from models.training.loss import BatchLoss, tensors_of
from models.training.optimizer import Optimizer
from models.training.snapshots import due
from models.training.stack.alone import Alone
from models.training.stack.meeting import Meeting
from models.training.stack.member import Member, Trained
from models.training.stack.rows import Held
from models.training.stack.stack import Stack
from models.training.stopping import Stopping

EVALUATION_ROWS = 65_536
"""Rows of the validation split that are read at once."""


class NonFiniteLoss(RuntimeError):
    """A loss or gradient became inf or NaN. The message names it, the epoch and the step.

    The first such step ends the training: by then the flow has left the region where its
    numbers mean anything, and the best weights before it are in the checkpoint.
    """


def train(
    folder: Path,
    flow_config: FlowConfig,
    train_config: TrainConfig,
    *,
    hold_out: Named = (),
    report: Named = (),
    checkpoint: Path | None = None,
    save: Save = save,
    on_epoch: Callable[[Epoch], None] | None = None,
    meeting: Meeting | None = None,
) -> tuple[OneFlow, Fit]:
    """Fit a flow to the dataset prepared in `folder`.

    Args:
        folder: A prepared dataset.
        flow_config: The shape of the flow.
        train_config: How it is fitted.
        hold_out: Cells that the flow never sees, neither to be fitted nor standardised, each as a
            value of every condition column.
        report: Further cells that it never sees, of which no NLL is taken here, either.
        checkpoint: A folder. If it holds a checkpoint, training goes on exactly from there; it
            is saved after each evaluation, before `on_epoch`.
        save: Puts a checkpoint into that folder; its exceptions pass through.
        on_epoch: Called with each new row of history; its exceptions pass through.
        meeting: Where other trainings are that it takes its steps with.

    Returns:
        The flow with its best weights in evaluation mode, and its history, old rows included.

    Raises:
        NonFiniteLoss: If a loss or a gradient is not finite.
        CheckpointError: If the checkpoint is damaged or of another training.
        DataError: If `folder` is no prepared dataset, or these cells cannot be held out of it.
        ConfigError: If the objective is that of held-out cells and there are none.
    """
    if train_config.objective == "held_out_nll" and not hold_out:
        raise ConfigError(
            "objective = 'held_out_nll' needs cells that are held out: name some, or choose "
            "'val_nll'"
        )
    stored = load(checkpoint) if checkpoint is not None else None
    with arithmetic(train_config):
        training = _Training(Path(folder), flow_config, train_config, hold_out, report, meeting)
        if checkpoint is not None and stored is not None:
            training.restore(checkpoint, stored)
        training.run(checkpoint, save, on_epoch)
        return training.result()


class _Training:
    """A training under way: everything that a checkpoint holds, and the loop."""

    def __init__(
        self,
        folder: Path,
        flow_config: FlowConfig,
        config: TrainConfig,
        hold_out: Named = (),
        report: Named = (),
        meeting: Meeting | None = None,
    ) -> None:
        self.config, self.device, self.meeting = config, device_of(config), meeting
        whole = Dataset.read(folder)
        # Its ranges are the flow's domain: beyond them, in a held-out cell too, the flow guesses.
        kept_out = [*hold_out, *report]
        self.dataset = cells.without(whole, kept_out, folder)
        self.kept_out = {
            which: [cells.name_of(whole, cell) for cell in cells.find(whole, named, folder)]
            for which, named in (("hold_out", hold_out), ("report", report))
        }
        read = partial(Stream, folder, memory_mb=config.memory_mb)
        fitted = partial(
            read, "train", batch_size=config.batch_size, seed=config.seed, without=kept_out
        )
        # Coordinates are of all rows: a bag may lack every row of a rare pattern of atoms.
        whole_stream = self.stream = fitted()
        if config.bag:
            self.stream = fitted(bag=config.seed)
        evaluated = partial(read, "val", batch_size=EVALUATION_ROWS, shuffle=False)
        self.validation = evaluated(without=kept_out)
        self.held_out = evaluated(only=hold_out) if hold_out else None
        self.mean_weight = self.dataset.mean_weight("train")
        rows = whole_stream.epoch(0)
        self.flow = build(flow_config, self.dataset, rows, seed=config.seed)
        self.flow.to(self.device)
        if flow_config.normalise:
            first = next(iter(whole_stream.epoch(0)))
            if first.weights is not None:  # the layers take none
                first = first.take(first.evenly(len(first.events)))
            x_NF, c_NC, _ = tensors_of(first, self.mean_weight)
            normalise(self.flow, x_NF.to(self.device), c_NC.to(self.device))
        self.optimizer = Optimizer(self.flow, config, rows=self.stream.rows)
        self.loss = BatchLoss(self.flow, self.optimizer.gradients, batch_size=config.batch_size)
        points = Points.of(whole_stream.epoch(0)) if self.dataset.scattered else None
        self.jitter = ConditionJitter(
            self.dataset,
            jitter=config.jitter,
            seed=config.seed,
            blend=config.blend,
            points=points,
        )
        self.total_steps = config.epochs * self.stream.batches
        self.stopping = Stopping()
        self.history: list[Epoch] = []
        self.best = self.latest = _copy(self.flow)
        planned = math.ceil(self.total_steps / (config.eval_every or self.stream.batches))
        self.kept = due(config.snapshots, planned)
        self.by_itself = Alone(self.stream, self.loss)
        self.stack: Stack | None = None
        self.step, self.elapsed_s = 0, 0.0
        self.start_s = time.perf_counter()
        self.stopped: str | None = None

    def run(
        self, checkpoint: Path | None, save: Save, on_epoch: Callable[[Epoch], None] | None
    ) -> None:
        """Train from where we are to the end."""
        self.start_s = time.perf_counter() - self.elapsed_s
        if checkpoint is not None:
            checkpoint.mkdir(parents=True, exist_ok=True)
        with self.loss.threads(), self._joined():
            while self.step < self.total_steps and self.stopped is None:
                epoch = self._epoch()
                self.elapsed_s = time.perf_counter() - self.start_s
                self.stopped = self.stopping.reason(self.config, self.elapsed_s)
                if checkpoint is not None:
                    save(checkpoint, self._checkpoint())
                if on_epoch is not None:
                    on_epoch(epoch)

    @contextmanager
    def _joined(self) -> Iterator[None]:
        """Among others, if there are any of its shape to take steps with.

        Where nothing is fused a training alone is a stack of one, whose rows stay on the device.
        """
        apart = self.meeting is None or self.meeting.apart
        stacked = not (apart and fused(self.device))
        self.shape = self._member(0).shape() if stacked else None
        try:
            with self.meeting.joined(self.shape) if self.meeting else nullcontext():
                yield
        finally:
            self.by_itself.close()

    def _epoch(self) -> Epoch:
        """Train until the next evaluation is due, evaluate, add a row of history."""
        start_s = time.perf_counter()
        steps = min(self.config.eval_every or self.stream.batches, self.total_steps - self.step)
        trained = self._take(steps)
        trained_s = time.perf_counter() - start_s
        with self.optimizer.averaged():
            val_nll, held_out_nll = self._evaluate()
            self.latest = _copy(self.flow)
        seconds = time.perf_counter() - start_s

        epoch = Epoch(
            epoch=len(self.history) + 1,
            train_nll=trained.nll,
            val_nll=val_nll,
            learning_rate=trained.rate,
            seconds=seconds,
            samples_per_second=trained.rows / trained_s,
            loss_rate=None,
            held_out_nll=held_out_nll,
        )
        units = seconds if self.config.rate_per == "second" else steps / self.stream.batches
        nll = epoch.objective(self.config)
        if self.stopping.add(nll, units=units, smoothing=self.config.rate_smoothing):
            self.best = self.latest
        self.history.append(replace(epoch, loss_rate=self.stopping.rate))
        return self.history[-1]

    def _take(self, steps: int) -> Trained:
        """Take so many steps, with the others if there are some.

        Raises:
            NonFiniteLoss: If a loss or a gradient is not finite.
        """
        member = self._member(steps)
        if self.meeting is not None:
            trained = self.meeting.train(self.shape, member)
        elif self.shape is None:
            trained = member.alone()
        else:
            if self.stack is None:
                self.stack = Stack([member], Held([member]))
            self.stack.go_on([member])
            [trained] = self.stack.train()
        self.step += trained.steps
        if trained.bad is not None:
            raise NonFiniteLoss(
                f"the training loss or its gradient is not finite at step {trained.bad + 1} (epoch "
                f"{trained.bad // self.stream.batches + 1}): try a lower learning_rate or clip_norm"
            )
        return trained

    def _member(self, steps: int) -> Member:
        """This training, as others see it that take so many steps with it."""
        return Member(
            flow=self.flow,
            optimizer=self.optimizer,
            stream=self.stream,
            jitter=self.jitter,
            config=self.config,
            mean_weight=self.mean_weight,
            device=self.device,
            step=self.step,
            steps=steps,
            total_steps=self.total_steps,
            alone=partial(self._alone, steps),
        )

    def _alone(self, steps: int) -> Trained:
        """Take so many steps by itself."""
        check = self.meeting.check if self.meeting else lambda: None
        return self.by_itself.take(self._member(steps), self._progress, check)

    def _progress(self, step: int) -> float:
        """Share of the steps that is done, or of the time if that is more.

        Without a time limit it depends on the step alone, so a checkpoint need not hold it.
        """
        share = step / self.total_steps
        if self.config.max_minutes is None:
            return share
        spent = (time.perf_counter() - self.start_s) / (60 * self.config.max_minutes)
        return min(1.0, max(share, spent))

    def _evaluate(self) -> tuple[float, float | None]:
        """NLL of the validation split without the held-out cells, and of the held-out cells.

        In cells that it has not seen a good flow can have an NLL that is not finite. Such an NLL is
        None and does not end the training, unless the training is judged by it.
        """
        val_nll = self.loss.mean_nll(self.validation, self.mean_weight)
        self._refuse_non_finite("validation", val_nll)
        if self.held_out is None:
            return val_nll, None
        held_out_nll = self.loss.mean_nll(self.held_out, self.mean_weight)
        if self.config.objective == "held_out_nll":
            self._refuse_non_finite("held-out", held_out_nll)
        return val_nll, held_out_nll if math.isfinite(held_out_nll) else None

    def _refuse_non_finite(self, what: str, nll: float) -> None:
        if not math.isfinite(nll):
            epoch = -(-self.step // self.stream.batches)
            raise NonFiniteLoss(f"the {what} NLL is {nll} after step {self.step} (epoch {epoch})")

    def result(self) -> tuple[OneFlow, Fit]:
        """The flow with its best weights, and the history."""
        self.flow.load_state_dict(self.best)
        best = self.history[self.stopping.best_evaluation - 1]
        return self.flow.eval(), Fit(self.history, best, self.stopped)

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"flow.{k}": v for k, v in self.flow.state_dict().items()}
        tensors |= {f"{BEST}{k}": v for k, v in self.best.items()}
        tensors |= {f"optimizer.{k}": v for k, v in self.optimizer.tensors().items()}
        state = {
            "flow": self.flow.describe(),
            "training": asdict(self.config),
            "dataset": self.dataset.fingerprint,
            **self.kept_out,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "stopped": self.stopped,
            "stopping": self.stopping.state(),
            "history": [asdict(epoch) for epoch in self.history],
        }
        return Checkpoint(
            tensors=on_host(tensors),
            state=state,
            snapshot=self.latest if len(self.history) in self.kept else None,
        )

    def restore(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Go back to where the checkpoint was saved.

        Raises:
            CheckpointError: If options or data differ. Names the first difference.
        """
        state, tensors = checkpoint.state, checkpoint.tensors
        ours = {**asdict(self.config), **asdict(self.flow.config)}
        refuse_another(folder, state, ours | {"data": self.dataset.fingerprint, **self.kept_out})
        optimizer = below(tensors, "optimizer.")
        if not state.get("trimmed") and not self.optimizer.is_of(optimizer):
            raise CheckpointError(
                f"the checkpoint in {folder} is of an older version, in which other weights decay: "
                "use another folder to start anew, or end the training with that version"
            )
        self.history = history_of(checkpoint)
        self.stopping = Stopping(**state["stopping"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.stopped = state["stopped"]
        self.best = flow_of(folder, checkpoint).to(self.device).state_dict()
        if state.get("trimmed"):
            return
        self.flow.load_state_dict(below(tensors, "flow."))
        self.optimizer.restore(optimizer)


def _copy(flow: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in flow.state_dict().items()}
