"""The look of every picture: colours, labels and notes, and how a figure becomes a file.

The suffix of the file decides between PNG, PDF and SVG, and between GIF, HTML and MP4 for a film. A
file appears whole or not at all, no window is opened, and no setting of matplotlib outlives a
picture.
"""

from __future__ import annotations

import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.animation import FFMpegWriter, FuncAnimation, HTMLWriter, PillowWriter
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from data_prep.atomic import draft_of
from data_prep.columns import Column, Value
from data_prep.errors import InputError

SUFFIXES = (".png", ".pdf", ".svg")
MOVING = (".gif", ".html", ".mp4")
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito (2008): distinct with any colour vision. Their yellow is left out, lost on white."""
EMULATOR, DATA, *_ = PALETTE
MAP = "cividis"
"""Made for all colour vision: Nunez, Anderton & Renslow (2018), PLoS ONE 13, e0199239."""
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
_UNITS = {"Msun": r"$M_\odot$", "Rsun": r"$R_\odot$", "Lsun": r"$L_\odot$", "": "dimensionless"}


class PlotError(InputError):
    """A picture that cannot be made. The message is one sentence."""


def suffix_of(out: Path, known: Sequence[str] = SUFFIXES, kind: str = "a picture") -> str:
    """The suffix of the file in lower case; raises PlotError if it is none of the known ones."""
    suffix = out.suffix.lower()
    if suffix not in known:
        raise PlotError(
            f"{out} ends in {out.suffix or 'nothing'!r}: {kind} is one of {', '.join(known)}"
        )
    return suffix


@contextmanager
def figure_of(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of that size in inches, in the style of this module."""
    # A figure without pyplot, which would choose a screen and keep it.
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def write(figure: Figure, out: Path) -> None:
    """The figure as `out`, in one step."""
    with draft_of(out) as draft:
        figure.savefig(draft, format=suffix_of(out).removeprefix("."))


def moving(out: Path) -> str:
    """The suffix of a film; raises PlotError if it is none, or needs a program that is missing."""
    suffix = suffix_of(out, MOVING, "an animation")
    if suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise PlotError(f"{out} needs ffmpeg, which is not installed: write a .gif or .html file")
    return suffix


def film(
    figure: Figure,
    show: Callable[[int], Iterable[Artist]],
    frames: int,
    out: Path,
    *,
    per_second: int,
    step: Callable[[int, int], None] | None = None,
) -> None:
    """The figure as it moves, as `out`, in one step.

    Args:
        figure: As `show` changes it.
        show: Draws the frame of a number from 0; returns what it changed.
        frames: How many there are.
        out: A .gif, .html or .mp4 file.
        per_second: Of the frames.
        step: Called after each frame with the frames done and all frames.
    """
    suffix = moving(out)
    FigureCanvasAgg(figure)
    made = FuncAnimation(figure, show, frames=frames, blit=False)
    writers: dict[str, Any] = {
        ".gif": PillowWriter(per_second),
        ".html": HTMLWriter(per_second, embed_frames=True),
        ".mp4": FFMpegWriter(per_second),
    }
    # Writers look at the suffix, which a draft has not.
    with tempfile.TemporaryDirectory() as folder, draft_of(out) as draft:
        place = Path(folder) / f"film{suffix}"
        # `number` counts from 0, when a frame is written.
        report = (lambda number, total: step(number + 1, total)) if step else None
        made.save(str(place), writer=writers[suffix], dpi=100, progress_callback=report)
        shutil.copyfile(place, draft)


def literal(name: str) -> str:
    """The name for matplotlib, which takes text between dollars for a formula."""
    return name.replace("$", r"\$")


def label_of(column: Column) -> str:
    """The label of an axis: the name of the column and its unit."""
    return f"{literal(column.name)} [{_unit(column)}]"


def density_label_of(column: Column) -> str:
    """The label of a density in that column."""
    return f"density [1/{_unit(column)}]" if column.unit else "density"


def text_of(conditions: Mapping[str, Value]) -> str:
    """Values of conditions as text: `Z = 0.001, channel = CE`."""
    texts = (literal(v) if isinstance(v, str) else f"{v:.4g}" for v in conditions.values())
    pairs = zip(conditions, texts, strict=True)
    return ", ".join(f"{literal(name)} = {text}" for name, text in pairs)


def heading(figure: Figure, text: str) -> None:
    """A text above all axes, from the left, in lines that the figure is wide enough for."""
    wide = int(13 * figure.get_size_inches()[0])
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, wide)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)


def colour_bar(figure: Figure, shown: ScalarMappable, label: str, beside: Sequence[Axes]) -> None:
    """The scale of a map's colours, on the right of the axes."""
    bar = figure.colorbar(shown, ax=beside, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label)


def _unit(column: Column) -> str:
    return _UNITS.get(column.unit, literal(column.unit))
