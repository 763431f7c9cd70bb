"""Where and how a training computes: its device, and the settings of thread and process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.config import TrainConfig


@contextmanager
def arithmetic(config: TrainConfig) -> Iterator[None]:
    """Settings of the thread (numpy included) and of the process, put back at the end.

    Denormals, in the optimizer's averages above all, make a CPU 25 times slower.
    """
    flushed = bool(torch.tensor(1e-310, dtype=torch.float64).mul(0.5) == 0)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_flush_denormal(True)
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_float32_matmul_precision(precision)


def device_of(config: TrainConfig) -> torch.device:
    """The device that the options name, or the one that is there."""
    if config.device != "auto":
        return torch.device(config.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
