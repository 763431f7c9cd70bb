"""The look of every picture: size, type, colours, labels, and how a figure becomes a file.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.animation import FFMpegWriter, FuncAnimation, HTMLWriter, PillowWriter
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import is_math_text
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser

from data_prep.atomic import draft_of
from data_prep.columns import Column, Value
from data_prep.errors import InputError
from hpo.pictures.density import LEVELS

SUFFIXES = (".png", ".pdf", ".svg")
MOVING = (".gif", ".html", ".mp4")
FILM_DPI = 160
"""Dots per inch of a film, each frame of which is a picture."""
WIDTHS = {"one": 3.4, "two": 7.0}
"""Inches of one and two columns of a journal, about those of A&A, ApJ, MNRAS and PRD."""
NARROW = 5.0
"""Inches below which a picture has smaller type and less beside it."""
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito (2008): distinct with any colour vision. Their yellow is left out, lost on white."""
EMULATOR, DATA, *_ = PALETTE
MAP = "cividis"
"""Made for all colour vision: Nunez, Anderton & Renslow (2018), PLoS ONE 13, e0199239."""
SHADES = LinearSegmentedColormap.from_list(
    "shades", ["white", *colormaps["magma_r"](np.linspace(0.1, 0.95, 12))]
)
"""Of a density: from white, so that it has no edge, to dark; distinct with any colour vision."""
_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
_UNITS = {"Msun": r"$M_\odot$", "Rsun": r"$R_\odot$", "Lsun": r"$L_\odot$", "": "dimensionless"}


class PlotError(InputError):
    """A picture that cannot be made. The message is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a reader chooses of a picture's look."""

    width: float | None = None
    """In inches; None is what suits the picture. Its height goes along."""
    title: bool = True
    """Whether there is a text above the axes."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Names of columns as axes and titles show them; the unit is added."""
    xlim: tuple[float, float] | None = None
    ylim: tuple[float, float] | None = None
    """Ends of the axes, in the unit of the column; None shows nearly all events."""
    levels: tuple[float, ...] = LEVELS
    """Fractions of all events that contours enclose."""

    def __post_init__(self) -> None:
        """Raises PlotError for a label with a formula that matplotlib cannot read."""
        for name, text in self.labels.items():
            if is_math_text(text):
                try:
                    MathTextParser("path").parse(text)
                except ValueError:
                    raise PlotError(
                        f"{text!r} for {name} is no formula that matplotlib reads: see its page on "
                        "mathtext, or write the dollars as \\$"
                    ) from None

    def name_of(self, column: str) -> str:
        """What a column is called."""
        return self.labels.get(column, literal(column))

    def label_of(self, column: Column) -> str:
        """The label of an axis: the name of the column and its unit."""
        return f"{self.name_of(column.name)} [{_unit(column)}]"

    def text_of(self, conditions: Mapping[str, Value]) -> str:
        """Values of conditions as text: `Z = 0.001, channel = CE`."""
        texts = (literal(v) if isinstance(v, str) else f"{v:.4g}" for v in conditions.values())
        pairs = zip(conditions, texts, strict=True)
        return ", ".join(f"{self.name_of(name)} = {text}" for name, text in pairs)

    @contextmanager
    def figure(self, width: float, height: float, *, rows: bool = False) -> Iterator[Figure]:
        """An empty figure, of that size in inches or as wide as is chosen, in this style.

        Its height goes along, but less so where `rows` of text have to stay legible.
        """
        scale = 1.0 if self.width is None else self.width / width
        size = (scale * width, (scale**0.5 if rows else scale) * height)
        type_size = 8.0 if size[0] < NARROW else 9.0
        # A figure without pyplot, which would choose a screen and keep it.
        with matplotlib.rc_context({**_STYLE, "font.size": type_size}):
            yield Figure(figsize=size, layout="constrained")


PLAIN = Look()


def suffix_of(out: Path, known: Sequence[str] = SUFFIXES, kind: str = "a picture") -> str:
    """The suffix of the file in lower case; raises PlotError if it is none of the known ones."""
    suffix = out.suffix.lower()
    if suffix not in known:
        raise PlotError(
            f"{out} ends in {out.suffix or 'nothing'!r}: {kind} is one of {', '.join(known)}"
        )
    return suffix


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
    # What stands where is settled once: else it would be for each frame, and could move.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
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
        made.save(str(place), writer=writers[suffix], dpi=FILM_DPI, progress_callback=report)
        shutil.copyfile(place, draft)


def literal(name: str) -> str:
    """The name for matplotlib, which takes text between dollars for a formula."""
    return name.replace("$", r"\$")


def percents(fractions: Sequence[float]) -> str:
    """`50, 90 and 99 %`."""
    *most, last = [f"{100 * each:.4g}" for each in fractions] or ["nothing"]
    return f"{', '.join(most)}{' and ' if most else ''}{last}{' %' if fractions else ''}"


def density_label_of(column: Column) -> str:
    """The label of a density in that column."""
    return f"density [1/{_unit(column)}]" if column.unit else "density"


def wrapped(figure: Figure, text: str) -> str:
    """The text in lines that the figure is wide enough for."""
    size = matplotlib.rcParams["font.size"]
    wide = int(126 / size * figure.get_size_inches()[0])
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, wide))


def heading(figure: Figure, text: str, look: Look) -> None:
    """A text above all axes, from the left."""
    if look.title:
        size = matplotlib.rcParams["font.size"]
        figure.suptitle(wrapped(figure, text), x=0.01, ha="left", fontsize=size)


def ink_on(shown: ScalarMappable, value: float) -> str:
    """Black or white, whichever contrasts more with the colour of the value (WCAG 2.1)."""
    colour = shown.to_rgba(np.array([value]))[0].tolist()
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def colour_bar(
    figure: Figure, shown: ScalarMappable, label: str, beside: Sequence[Axes], **look: Any
) -> None:
    """The scale of a map's colours, on the right of the axes."""
    bar = figure.colorbar(shown, ax=beside, pad=0.02, **look)
    bar.outline.set_visible(False)
    bar.set_label(label)


def _unit(column: Column) -> str:
    return _UNITS.get(column.unit, literal(column.unit))
