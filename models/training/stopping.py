"""When to stop early: patience, the rate of loss, and the time budget.

The rate is the fall of the exponentially smoothed NLL, s <- a s + (1 - a) NLL, per epoch or second.
(The thesis took it of a running mean since the first step, per second: it shrank as 1/n whatever
the flow did, and never fired.) The training's `objective` says which NLL it is, of the validation
split or of the held-out cells.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from models.config import OBJECTIVES, TrainConfig


@dataclass(slots=True)
class Stopping:
    """The NLLs so far, summed up. JSON-ready through `state`."""

    evaluations: int = 0
    best: float | None = None
    best_evaluation: int = 0
    smoothed: float | None = None
    rate: float | None = None
    """Fall of the smoothed NLL in nats per unit; None before the second evaluation."""

    def add(self, nll: float, *, units: float, smoothing: float) -> bool:
        """Take in one evaluation, `units` (epochs or seconds) after the last: is it the best?"""
        self.evaluations += 1
        last, self.smoothed = self.smoothed, nll
        if last is not None:
            self.smoothed = smoothing * last + (1 - smoothing) * nll
            self.rate = (last - self.smoothed) / max(units, 1e-9)
        if self.best is not None and nll >= self.best:
            return False
        self.best, self.best_evaluation = nll, self.evaluations
        return True

    def reason(self, config: TrainConfig, elapsed_s: float) -> str | None:
        """Why training should end now, as a sentence; None to go on."""
        what = OBJECTIVES[config.objective]
        waited = self.evaluations - self.best_evaluation
        if config.patience and waited >= config.patience:
            return (
                f"no better {what} in {waited} evaluations "
                f"(best {self.best:.4f} nats at evaluation {self.best_evaluation})"
            )
        # The smoothed value needs a few evaluations before its rate says anything.
        settled = self.evaluations > 1 / (1 - config.rate_smoothing)
        if config.min_rate and settled and self.rate is not None and self.rate < config.min_rate:
            return (
                f"the smoothed {what} fell by {self.rate:.3g} nats per {config.rate_per}, "
                f"less than min_rate = {config.min_rate:g}"
            )
        if config.max_minutes is not None and elapsed_s >= config.max_minutes * 60:
            return f"the time budget of {config.max_minutes:g} minutes is spent"
        return None

    def state(self) -> dict[str, Any]:
        """All fields, for the checkpoint: `Stopping(**state)` goes on from there."""
        return asdict(self)
