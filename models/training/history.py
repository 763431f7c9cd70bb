"""The history of a training, a row for each evaluation, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass

from models.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One row of history: the training since the last row, and one evaluation."""

    epoch: int
    """From 1. Counts evaluations, which are epochs unless `eval_every` is set."""
    train_nll: float
    """Mean over the rows trained on since the last evaluation, in nats, as they were met."""
    val_nll: float
    """Over the whole validation split but the held-out cells, in evaluation mode, in nats."""
    learning_rate: float
    """Of the last step."""
    seconds: float
    """Wall-clock time since the last row, evaluation included, checkpoint not."""
    samples_per_second: float
    """Rows trained on per second, without the evaluation."""
    loss_rate: float | None
    """Fall of the smoothed objective in nats per `rate_per`; None in the first row."""
    held_out_nll: float | None = None
    """Over the validation split's rows of the held-out cells; None if none are held out, or if it
    is not finite."""

    def objective(self, config: TrainConfig) -> float:
        """The NLL by which this training is judged."""
        nll = self.held_out_nll if config.objective == "held_out_nll" else self.val_nll
        assert nll is not None
        return nll


@dataclass(frozen=True, slots=True)
class Fit:
    """The outcome of a training."""

    history: list[Epoch]
    best: Epoch
    """The row with the lowest objective, whose weights the flow has."""
    stopped: str | None
    """Why it ended early, as a sentence; None when all epochs ran."""
