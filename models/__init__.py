"""Flows: their shape, training, measuring and shipping."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.arrays.flow import ArrayFlow
    from models.arrays.table import Table
    from models.bundle.emulator import Emulator
    from models.inference.catalog import CatalogLikelihood
    from models.inference.poisson import PoissonLikelihood
    from models.inference.population import PopulationModel
    from models.inference.published.injections import read_injections
    from models.inference.published.posteriors import SamplingPrior, read_posterior
    from models.inference.published.results import Curves, write_popsummary
    from models.inference.published.universe import Cosmology, Universe

__all__ = [
    "ArrayFlow",
    "CatalogLikelihood",
    "Cosmology",
    "Curves",
    "Emulator",
    "PoissonLikelihood",
    "PopulationModel",
    "SamplingPrior",
    "Table",
    "Universe",
    "read_injections",
    "read_posterior",
    "write_popsummary",
]

_HOME = {
    "ArrayFlow": "models.arrays.flow",
    "CatalogLikelihood": "models.inference.catalog",
    "Cosmology": "models.inference.published.universe",
    "Curves": "models.inference.published.results",
    "Emulator": "models.bundle.emulator",
    "PoissonLikelihood": "models.inference.poisson",
    "PopulationModel": "models.inference.population",
    "SamplingPrior": "models.inference.published.posteriors",
    "Table": "models.arrays.table",
    "Universe": "models.inference.published.universe",
    "read_injections": "models.inference.published.injections",
    "read_posterior": "models.inference.published.posteriors",
    "write_popsummary": "models.inference.published.results",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: `models.config` needs no torch."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'models' has no attribute {name!r}")
