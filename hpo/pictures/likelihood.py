"""Maps of an emulator's density over the plane of two event columns, still or moving.

What the thesis drew as a likelihood map, at any conditions and for one of them from end to end of
its domain. Nothing is drawn by chance: the density is evaluated in every pixel.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.atomic import draft_of
from hpo.pictures.contours import PlotError, figure_of, label_of, suffix_of, write
from hpo.pictures.density import Array
from hpo.pictures.losses import literal
from hpo.pictures.steps import Step, silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

    from models import Emulator

MOVING = (".gif", ".html", ".mp4")

PIXELS = 240
"""Along each axis."""

DECADES = 4.0
"""Below the highest density by more than that, nothing is drawn."""

FRAMES = 48
"""Of an animation, there and not back."""

PER_SECOND = 12

DRAWS = 20_000
"""Events that tell where the density is."""


def likelihood(emulator: Emulator, *, conditions: Mapping[str, float], out: Path) -> Path:
    """The density over the plane of the two event columns, at a value of every condition.

    Args:
        emulator: Of two event columns.
        conditions: A value for every condition, e.g. `{"Z": 0.001, "alpha": 1.0}`.
        out: A .png, .pdf or .svg file.

    Raises:
        PlotError: If there are not two event columns, or `out` has another suffix.
        EmulatorError: If a condition is missing or unknown.
    """
    suffix_of(out)
    _two(emulator)
    edges = _edges(emulator, [dict(conditions)])
    with figure_of(6.6, 5.6) as figure:
        _drawn(figure, emulator, edges, conditions)
        write(figure, out)
    return out


def animation(
    emulator: Emulator, *, conditions: Mapping[str, float], step: Step = silent, out: Path
) -> Path:
    """The same while one condition goes through its domain, evenly in its logarithm if positive.

    Args:
        emulator: Of two event columns.
        conditions: A value for every condition but the one that moves.
        step: Called after each frame.
        out: A .gif or .html file, or .mp4 where ffmpeg is installed.

    Raises:
        PlotError: If not exactly one condition is left open, if there are not two event columns,
            if `out` has another suffix, or ffmpeg is missing for .mp4.
    """
    _check_film(out)
    _two(emulator)
    name = _open(emulator, conditions)
    frames = [{**conditions, name: float(value)} for value in _steps(emulator, name)]
    edges = _edges(emulator, frames[:: max(1, len(frames) // 6)])
    with figure_of(6.6, 5.6) as figure:
        mesh, axes = _drawn(figure, emulator, edges, frames[len(frames) // 2])

        def show(number: int) -> list[Any]:
            mesh.set_array(_shade(emulator, edges, frames[number]))
            axes.set_title(_title(frames[number]), loc="left")
            return [mesh]

        _film(figure, show, len(frames), step, out)
    return out


def _drawn(
    figure: Figure, emulator: Emulator, edges: Array, conditions: Mapping[str, float]
) -> tuple[QuadMesh, Axes]:
    axes = figure.add_subplot()
    shade = _shade(emulator, edges, conditions)
    mesh = axes.pcolormesh(*edges, shade, cmap="cividis", vmin=-DECADES, vmax=0, rasterized=True)
    columns = emulator.module.event_columns
    axes.set(xlabel=label_of(columns[0]), ylabel=label_of(columns[1]))
    axes.set_title(_title(conditions), loc="left")
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label("log$_{10}$ of the density over its highest [dimensionless]")
    return mesh, axes


def _shade(emulator: Emulator, edges: Array, conditions: Mapping[str, float]) -> Any:
    """log10 of the density over its highest, `(PIXELS, PIXELS)`, up along the first axis."""
    centres = (edges[:, 1:] + edges[:, :-1]) / 2
    across, up = np.meshgrid(*centres)
    events_N2 = np.stack([across.ravel(), up.ravel()], axis=1)
    log_N = emulator.log_prob(
        events_N2, return_std=False, on_extrapolation="ignore", **conditions
    ) / math.log(10)
    shade = (log_N - log_N.max()).reshape(across.shape)
    return np.ma.masked_less(shade, -DECADES)


def _edges(emulator: Emulator, frames: Sequence[Mapping[str, float]]) -> Array:
    """Of the pixels along both axes, `(2, PIXELS + 1)`: where nearly all events are."""
    drawn = np.concatenate(
        [emulator.sample(DRAWS, seed=0, on_extrapolation="ignore", **each) for each in frames]
    )
    low, high = np.quantile(drawn, (0.0005, 0.9995), axis=0)
    air = 0.06 * (high - low)
    positive = [column.positive for column in emulator.module.event_columns]
    low = np.where(positive, np.maximum(low - air, 1e-6 * high), low - air)
    return np.linspace(low, high + air, PIXELS + 1, axis=1)


def _steps(emulator: Emulator, name: str) -> Array:
    low, high = emulator.domain[name]
    values: Array = np.geomspace(low, high, FRAMES) if low > 0 else np.linspace(low, high, FRAMES)
    return values


def _title(conditions: Mapping[str, float]) -> str:
    return ", ".join(f"{literal(name)} = {value:.3g}" for name, value in conditions.items())


def _two(emulator: Emulator) -> None:
    if len(emulator.event_columns) != 2:
        raise PlotError(
            f"a map shows two event columns, the emulator has {len(emulator.event_columns)} "
            f"({', '.join(emulator.event_columns)})"
        )


def _open(emulator: Emulator, conditions: Mapping[str, float]) -> str:
    """The one condition that is not given."""
    left = [name for name in emulator.condition_columns if name not in conditions]
    if len(left) != 1:
        given = ", ".join(f"--{name}" for name in conditions) or "none"
        raise PlotError(
            "an animation moves one condition: give a value of every other of "
            f"{', '.join(emulator.condition_columns)} (given: {given})"
        )
    return left[0]


def _check_film(out: Path) -> None:
    if out.suffix.lower() not in MOVING:
        raise PlotError(
            f"{out} ends in {out.suffix or 'nothing'!r}: an animation is one of {', '.join(MOVING)}"
        )
    if out.suffix.lower() == ".mp4" and shutil.which("ffmpeg") is None:
        raise PlotError(f"{out} needs ffmpeg, which is not installed: write a .gif or .html file")


def _film(figure: Figure, show: Any, frames: int, step: Step, out: Path) -> None:
    """All frames as `out`, in one step."""
    from matplotlib import animation as movies
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    film = movies.FuncAnimation(figure, show, frames=frames, blit=False)
    writers: dict[str, Any] = {
        ".gif": lambda: movies.PillowWriter(fps=PER_SECOND),
        ".html": lambda: movies.HTMLWriter(fps=PER_SECOND, embed_frames=True),
        ".mp4": lambda: movies.FFMpegWriter(fps=PER_SECOND),
    }
    with tempfile.TemporaryDirectory() as folder:  # writers look at the suffix
        made = Path(folder) / f"film{out.suffix.lower()}"
        film.save(
            str(made),
            writer=writers[out.suffix.lower()](),
            dpi=100,
            # Counts from 0, and is called when a frame is written.
            progress_callback=lambda number, total: step(number + 1, total),
        )
        with draft_of(out) as draft:
            draft.write_bytes(made.read_bytes())
