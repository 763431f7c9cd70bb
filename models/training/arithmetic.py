"""Where and how a training computes: its device, and the settings of thread and process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from models.config import TrainConfig

FUSED_ON = frozenset({"cpu"})
"""Devices on which steps have a derivative by hand, in parts that fit a cache and whose sizes rows
decide. Others are told nothing but arrays of constant shape, so that nobody waits for them."""


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


def fused(device: torch.device) -> bool:
    """Whether steps have a derivative by hand there."""
    return device.type in FUSED_ON


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host where a GPU reads it while the host goes on; elsewhere the same."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
