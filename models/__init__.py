"""Flows: their shape, training, measuring and shipping."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.arrays.flow import ArrayFlow
    from models.arrays.table import Table
    from models.bundle.emulator import Emulator
    from models.inference.catalog import CatalogLikelihood
    from models.inference.population import PopulationModel

__all__ = ["ArrayFlow", "CatalogLikelihood", "Emulator", "PopulationModel", "Table"]

_HOME = {
    "ArrayFlow": "models.arrays.flow",
    "CatalogLikelihood": "models.inference.catalog",
    "Emulator": "models.bundle.emulator",
    "PopulationModel": "models.inference.population",
    "Table": "models.arrays.table",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: `models.config` needs no torch."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'models' has no attribute {name!r}")
