"""A training as a stack sees it: what is fitted to what, from where on, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass

import torch

from data_prep.stream import Stream
from models.config import OF_STACK, TrainConfig
from models.flow.atoms import OneFlow
from models.flow.density import ConditionalFlow
from models.training.interpolation import ConditionJitter
from models.training.optimizer import Optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a training came to in some steps."""

    nll: float
    """Mean over the rows of these steps, as they were met, in nats."""
    rows: int
    steps: int
    rate: float
    """Learning rate of the last step."""
    bad: int | None
    """Number of the first step whose loss or gradient is not finite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A training that may take its steps with others."""

    flow: OneFlow
    optimizer: Optimizer
    stream: Stream
    jitter: ConditionJitter
    config: TrainConfig
    mean_weight: float
    device: torch.device
    step: int
    """Steps before the next one."""
    steps: int
    """To be taken now."""
    total_steps: int
    """Of the whole training."""
    alone: Callable[[], Trained]
    """Takes the steps by itself."""

    @property
    def bag(self) -> int | None:
        """Seed of the bootstrap of the rows, if there is one."""
        return self.config.seed if self.config.bag else None

    def shape(self) -> Hashable | None:
        """What members of one stack have in common; None for a training that is in no stack."""
        flow, config = self.flow, self.config
        apart = (
            not isinstance(flow, ConditionalFlow)
            or flow.config.conditioner == "masked"
            or flow.config.normalise
            or config.max_minutes is not None
            or self.stream.dataset.scattered
            or self.stream.in_memory(0) is None
        )
        if apart:
            return None
        buffers = (buffer.cpu().numpy().tobytes() for buffer in flow.buffers())
        options = asdict(flow.config) | asdict(config)
        return (
            tuple(options[name] for name in OF_STACK),
            tuple(buffers),
            self.stream.dataset.fingerprint,
            None if config.bag else self.stream.rows,
            str(self.device),
        )
