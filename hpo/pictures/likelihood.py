"""Maps of an emulator's density over the plane of two event columns, still or moving.

The density is evaluated in every pixel: nothing depends on a draw but the limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from hpo.pictures import style
from hpo.pictures.cells import At, evenly
from hpo.pictures.density import Array
from hpo.pictures.style import PlotError
from models import Emulator
from models.bundle.domain import texts_of

PIXELS = 240
"""Along each axis."""
DECADES = 4.0
"""Below the highest density by more than that, nothing is drawn."""
FRAMES = 48
"""Of an animation, there and not back."""
PER_SECOND = 12
DRAWS = 20_000
"""Events that tell where the density is."""


def likelihood(emulator: Emulator, *, conditions: At, out: Path) -> Path:
    """The density over the plane of the two event columns, at a value of every condition.

    Raises:
        PlotError: If there are not two event columns.
        EmulatorError: If a condition is missing or unknown.
    """
    style.suffix_of(out)
    with style.figure_of(6.6, 5.6) as figure:
        _draw(figure, emulator, _edges(emulator, [conditions]), conditions)
        style.write(figure, out)
    return out


def animation(
    emulator: Emulator, *, conditions: At, step: Callable[[int, int], None] | None = None, out: Path
) -> Path:
    """The map while one condition runs through its domain, evenly in its logarithm if positive.

    Args:
        conditions: A value for every condition but the one that moves.
        step: Called after each frame with the frames done and all frames.
        out: A .gif or .html file, or .mp4 where ffmpeg is installed.

    Raises:
        PlotError: If not exactly one condition is left open, if there are not two event columns,
            or ffmpeg is missing for .mp4.
    """
    style.moving(out)
    left = [name for name in emulator.condition_columns if name not in conditions]
    if len(left) != 1:
        raise PlotError(
            "an animation moves one condition: give a value of every other of "
            f"{', '.join(emulator.condition_columns)} "
            f"(given: {', '.join(f'--{name}' for name in conditions) or 'none'})"
        )
    values = evenly(emulator.domain[left[0]], FRAMES)
    if texts := texts_of(emulator.domain[left[0]]):  # each for a second
        values = [text for text in texts for _ in range(PER_SECOND)]
    frames = [{**conditions, left[0]: value} for value in values]
    edges = _edges(emulator, frames[:: max(1, len(frames) // 6)])
    with style.figure_of(6.6, 5.6) as figure:
        mesh, axes = _draw(figure, emulator, edges, frames[len(frames) // 2])

        def show(number: int) -> list[Any]:
            mesh.set_array(_shade(emulator, edges, frames[number]))
            axes.set_title(style.text_of(frames[number]), loc="left")
            return [mesh]

        style.film(figure, show, len(frames), out, per_second=PER_SECOND, step=step)
    return out


def _draw(
    figure: Figure, emulator: Emulator, edges: Array, conditions: At
) -> tuple[QuadMesh, Axes]:
    axes = figure.add_subplot()
    shade = _shade(emulator, edges, conditions)
    mesh = axes.pcolormesh(*edges, shade, cmap=style.MAP, vmin=-DECADES, vmax=0, rasterized=True)
    across, up = emulator.module.event_columns
    axes.set(xlabel=style.label_of(across), ylabel=style.label_of(up))
    axes.set_title(style.text_of(conditions), loc="left")
    atoms = [{each.name: atom} for each in (across, up) for atom in each.atoms]
    off = f" off {' and '.join(map(style.text_of, atoms))}," if atoms else ""
    label = f"log$_{{10}}$ of the density{off} over its highest [dimensionless]"
    style.colour_bar(figure, mesh, label, [axes])
    return mesh, axes


def _shade(emulator: Emulator, edges: Array, conditions: At) -> Any:
    """log10 of the density over its highest, `(PIXELS, PIXELS)`, up along the first axis."""
    across, up = np.meshgrid(*(edges[:, 1:] + edges[:, :-1]) / 2)
    events_N2 = np.stack([across.ravel(), up.ravel()], axis=1)
    log_N = emulator.log_prob(
        events_N2, return_std=False, on_extrapolation="ignore", **conditions
    ) / math.log(10)
    return np.ma.masked_less((log_N - log_N.max()).reshape(across.shape), -DECADES)


def _edges(emulator: Emulator, frames: Sequence[At]) -> Array:
    """Of the pixels along both axes, `(2, PIXELS + 1)`: where nearly all events are."""
    if len(emulator.event_columns) != 2:
        raise PlotError(
            f"a map shows two event columns, the emulator has {len(emulator.event_columns)} "
            f"({', '.join(emulator.event_columns)})"
        )
    drawn = np.concatenate(
        [emulator.sample(DRAWS, seed=0, on_extrapolation="ignore", **each) for each in frames]
    )
    low, high = np.quantile(drawn, (0.0005, 0.9995), axis=0)
    air = 0.06 * (high - low)
    columns = emulator.module.event_columns
    least, most = np.transpose([column.limits for column in columns])
    least = np.where([column.positive for column in columns], 1e-6 * high, least)
    low, high = np.maximum(low - air, least), np.minimum(high + air, most)
    return np.linspace(low, high, PIXELS + 1, axis=1)
