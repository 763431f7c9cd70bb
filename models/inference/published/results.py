"""Results of a population inference as a file of popsummary, which the collaboration publishes.

popsummary 0.1: attributes of the file tell the parameters, events and models; the group `posterior`
holds `hyperparameter_samples` and, under `rates_on_grids`, curves for each of these samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from data_prep.tables import hdf5
from models.inference.mixture import PopulationError
from models.inference.published.universe import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """A density or a merger rate on a grid, for each sample of the parameters."""

    parameters: Sequence[str]
    """Names of the coordinates, such as mass_1."""
    positions: ArrayLike
    """Coordinates of the points, `(parameters, points)`, or `(points,)` of one."""
    values: ArrayLike
    """`(samples, points)`."""


def write_popsummary(
    path: str | Path,
    samples: Mapping[str, ArrayLike],
    *,
    models: Sequence[str],
    events: Sequence[str] = (),
    references: Sequence[str] = (),
    descriptions: Mapping[str, str] | None = None,
    curves: Mapping[str, Curves] | None = None,
) -> None:
    """Write posterior samples of the parameters of a population as popsummary reads them.

    Args:
        path: The file, which is written over.
        samples: Of each parameter, in the order of the file: arrays of one length.
        models: Names of the population's models, such as the emulator's with its version.
        events: Names of the events of the catalogue.
        references: To publications.
        descriptions: Of parameters; those of the others are empty.
        curves: Densities or rates by their name.

    Raises:
        PopulationError: If there is no parameter, arrays differ in length, or a description is of
            none of the parameters.
        DataError: If h5py is not installed.
        OSError: If the file cannot be written.
    """
    table = {name: np.asarray(values, float) for name, values in samples.items()}
    shapes = {values.shape for values in table.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise PopulationError(
            "samples are lists of one length, one for each parameter, got "
            f"{', '.join(f'{name} {values.shape}' for name, values in table.items()) or 'none'}"
        )
    told = dict(descriptions or {})
    if unknown := sorted(set(told) - set(table)):
        raise PopulationError(
            f"descriptions are of {', '.join(unknown)}, but the parameters are {', '.join(table)}"
        )
    count = len(next(iter(table.values())))
    grids = {name: _grid(name, each, count) for name, each in (curves or {}).items()}
    texts = {
        "hyperparameters": list(table),
        "hyperparameter_descriptions": [told.get(name, "") for name in table],
        "model_names": list(models),
        "events": list(events),
        "references": list(references),
    }
    with hdf5.created(Path(path)) as file:
        posterior, _ = (file.create_group(name) for name in ("posterior", "prior"))
        for name, told_of in texts.items():
            if told_of:
                file.attrs[name] = told_of
        posterior["hyperparameter_samples"] = np.stack(list(table.values()), axis=1)
        for name, (parameters, positions, values) in grids.items():
            grid = posterior.create_group(f"rates_on_grids/{name}")
            grid.attrs["parameters"] = parameters
            grid.attrs["hyperparameter_sample_idx_map"] = "None"
            grid["positions"], grid["rates"] = positions, values


def _grid(name: str, curves: Curves, count: int) -> tuple[list[str], Floats, Floats]:
    """Parameters, positions and values, checked."""
    positions = np.atleast_2d(np.asarray(curves.positions, float))
    values, parameters = np.asarray(curves.values, float), list(curves.parameters)
    if positions.ndim != 2 or values.shape != (count, positions.shape[-1]):
        raise PopulationError(
            f"curves {name} have values of shape {values.shape} at positions of shape "
            f"{positions.shape}, where {count} samples need one row each: (samples, points)"
        )
    if len(parameters) != len(positions):
        raise PopulationError(
            f"curves {name} have {len(positions)} coordinates and {len(parameters)} names of "
            "parameters: give one name each"
        )
    return parameters, positions, values
