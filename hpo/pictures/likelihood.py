"""Maps of an emulator's density over the plane of two event columns, still or moving.

The density is evaluated in every pixel: nothing depends on a draw but the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from hpo.pictures import style
from hpo.pictures.cells import At, evenly
from hpo.pictures.density import Array, Edges, Plane
from hpo.pictures.exact import Mixture
from hpo.pictures.style import PLAIN, Look, PlotError
from models import Emulator
from models.bundle.domain import texts_of

PIXELS = 240
"""Along each axis."""
DECADES = 4.0
"""Below the highest density by more than that, all is white."""
FRAMES = 36
"""Of an animation, there and not back."""
PER_SECOND = 12
DRAWS = 20_000
"""Events that tell where the density is."""
SIZE = (5.4, 4.4)
"""Inches."""
_LINE: Any = {
    "color": "black",
    "linewidth": 0.9,
    "path_effects": [patheffects.withStroke(linewidth=2.2, foreground="white", alpha=0.8)],
}
"""Seen on any shade."""


def likelihood(emulator: Emulator, *, conditions: At, look: Look = PLAIN, out: Path) -> Path:
    """The density over the plane of the two event columns, at a value of every condition.

    Raises:
        PlotError: If there are not two event columns.
        EmulatorError: If a condition is missing or unknown.
    """
    style.suffix_of(out)
    edges = _edges(emulator, [conditions])
    with look.figure(*SIZE) as figure:
        axes = figure.add_subplot()
        image, _ = _draw(axes, emulator, edges, conditions, look)
        axes.set_title(_title(conditions, look), loc="left", fontsize="medium")
        _bar(figure, axes, image, emulator, look)
        style.write(figure, out)
    return out


def draw(axes: Axes, emulator: Emulator, *, conditions: At, look: Look = PLAIN) -> AxesImage:
    """The map of an emulator's density in axes of one's own.

    Args:
        conditions: A value of every condition.
        look: Of its choices the width and the title say nothing here.

    Returns:
        The shades, log10 of the density over its highest, for a colour bar.

    Raises:
        PlotError: If there are not two event columns.
        EmulatorError: If a condition is missing or unknown.
    """
    return _draw(axes, emulator, _edges(emulator, [conditions]), conditions, look)[0]


def animation(
    emulator: Emulator,
    *,
    conditions: At,
    look: Look = PLAIN,
    step: Callable[[int, int], None] | None = None,
    out: Path,
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
    with look.figure(*SIZE) as figure:
        axes = figure.add_subplot()
        image, lines = _draw(axes, emulator, edges, frames[len(frames) // 2], look)
        title = axes.set_title(_title(frames[0], look), loc="left", fontsize="medium")
        _bar(figure, axes, image, emulator, look)

        def show(number: int) -> list[Any]:
            _move(image, lines, emulator, edges, frames[number], look)
            title.set_text(_title(frames[number], look))
            return [image, *lines]

        style.film(figure, show, len(frames), out, per_second=PER_SECOND, step=step)
    return out


def _draw(
    axes: Axes, emulator: Emulator, edges: Edges, conditions: At, look: Look
) -> tuple[AxesImage, list[Line2D]]:
    """The shades, and a line for each level."""
    seen = _seen(edges, look)
    image = axes.imshow(
        np.zeros((PIXELS, PIXELS)),
        cmap=style.SHADES,
        vmin=-DECADES,
        vmax=0,
        extent=(seen[0][0], seen[0][-1], seen[1][0], seen[1][-1]),
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
    )
    lines = [axes.plot([], [], **_LINE)[0] for _ in look.levels]
    _move(image, lines, emulator, edges, conditions, look)
    across, up = emulator.module.event_columns
    axes.set(xlabel=look.label_of(across), ylabel=look.label_of(up))
    axes.set(xlim=look.xlim or seen[0][[0, -1]], ylim=look.ylim or seen[1][[0, -1]])
    return image, lines


def _move(
    image: AxesImage,
    lines: Sequence[Line2D],
    emulator: Emulator,
    edges: Edges,
    conditions: At,
    look: Look,
) -> None:
    """Shades and lines to these conditions; levels that the edges do not hold are nowhere."""
    plane = shown = _plane(emulator, edges, conditions)
    if look.xlim or look.ylim:
        shown = _plane(emulator, _seen(edges, look), conditions)
    image.set_data(_shade(shown, plane).T)
    found = plane.contours(look.levels, shown)
    for line, level in zip(lines, look.levels, strict=True):
        line.set_data(*found.get(level, np.empty((0, 2))).T)


def _title(conditions: At, look: Look) -> str:
    told = f"{look.text_of(conditions)}; lines enclose {style.percents(look.levels)}"
    return told.removeprefix("; ") if look.title else ""


def _bar(figure: Figure, axes: Axes, image: AxesImage, emulator: Emulator, look: Look) -> None:
    """The scale of the shades, which says what the lines enclose."""
    atoms = [{each.name: atom} for each in emulator.module.event_columns for atom in each.atoms]
    off = f" off {' and '.join(map(look.text_of, atoms))}" if atoms else ""
    label = f"log$_{{10}}$ of the density{off} over its highest"
    style.colour_bar(figure, image, label, [axes])


def _plane(emulator: Emulator, edges: Edges, conditions: At) -> Plane:
    """The share of all events in each pixel."""
    return Mixture(emulator, [conditions], np.ones(1)).on(edges)


def _shade(shown: Plane, plane: Plane) -> Array:
    """log10 of the density over its highest in all, shape `(X, Y)`, not below the lowest shade."""
    highest = plane.held_XY.max() * shown.area / plane.area
    with np.errstate(divide="ignore"):
        shade: Array = np.log10(shown.held_XY / highest).clip(-DECADES)
    return shade


def _seen(edges: Edges, look: Look) -> Edges:
    """The pixels that are shown: those of the density, or between chosen ends."""
    shown = []
    for each, chosen in zip(edges, (look.xlim, look.ylim), strict=True):
        low, high = chosen or (each[0], each[-1])
        # Lines that go on beyond a chosen end are closed out of sight.
        air = 0.02 * (high - low) if chosen else 0.0
        shown.append(np.linspace(low - air, high + air, PIXELS + 1))
    return shown[0], shown[1]


def _edges(emulator: Emulator, frames: Sequence[At]) -> Edges:
    """Of the pixels along both axes: where nearly all events are."""
    if len(emulator.event_columns) != 2:
        raise PlotError(
            f"a map shows two event columns, the emulator has {len(emulator.event_columns)} "
            f"({', '.join(emulator.event_columns)})"
        )
    drawn = np.concatenate(
        [emulator.sample(DRAWS, seed=0, on_extrapolation="ignore", **each) for each in frames]
    )
    low, high = np.quantile(drawn, (0.0005, 0.9995), axis=0)
    air = 0.12 * (high - low)
    columns = emulator.module.event_columns
    least, most = np.transpose([column.limits for column in columns])
    least = np.where([column.positive for column in columns], 1e-6 * high, least)
    low, high = np.maximum(low - air, least), np.minimum(high + air, most)
    across, up = np.linspace(low, high, PIXELS + 1).T
    return across, up
