"""Flows: their shape, training, measuring and shipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.bundle.emulator import Emulator

__all__ = ["Emulator"]


def __getattr__(name: str) -> object:
    """Import `Emulator` when it is first asked for, so that `models.config` loads without torch."""
    if name == "Emulator":
        from models.bundle.emulator import Emulator

        return Emulator
    raise AttributeError(f"module 'models' has no attribute {name!r}")
