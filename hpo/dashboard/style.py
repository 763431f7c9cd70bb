"""The style of every figure of the dashboard: colours of both themes, type, axes, and safe text.

Backgrounds are transparent, so that the page's own background shows. Text from a run's files goes
through `plain`, since Plotly takes `<a href=...>` in a label for a link.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from data_prep.words.numbers import counted

ThemeName = Literal["light", "dark"]

FONT = "Inter, system-ui, sans-serif"
NOTHING = "rgba(0,0,0,0)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Theme:
    """Colours of a theme."""

    ink: str
    soft: str
    grid: str
    accent: str
    faded: str
    """Of marks in the background."""
    label: str
    """Behind the text of a hover label."""
    palette: tuple[str, ...]
    """Okabe & Ito (2008) without their yellow, which is lost on white; lightened for dark."""
    ramp: tuple[str, ...]
    """For numbers, low to high: viridis without the end that is lost on this background."""
    blank: str
    """Of a place without a number."""

    @property
    def emulator(self) -> str:
        return self.palette[0]

    @property
    def data(self) -> str:
        return self.palette[1]


THEMES: Mapping[ThemeName, Theme] = {
    "light": Theme(
        ink="#1b2330",
        soft="#5b6675",
        grid="#e9ecf0",
        accent="#0072B2",
        faded="#c3cad3",
        label="#ffffff",
        palette=("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
        ramp=("#440154", "#31688e", "#35b779", "#c9bd1f"),
        blank="#dfe3e8",
    ),
    "dark": Theme(
        ink="#e4e8ee",
        soft="#9aa5b4",
        grid="#262c34",
        accent="#56B4E9",
        faded="#4a5462",
        label="#20262e",
        palette=("#FF7A33", "#4F9DEB", "#1FC79A", "#E79AC4", "#F0B440", "#8ADCF7", "#F2F4F7"),
        ramp=("#8f76d6", "#4f9dc4", "#43c98a", "#fde725"),
        blank="#2b323b",
    ),
}


def scale(colours: Theme) -> dict[str, Any]:
    """The style of an axis."""
    return {
        "gridcolor": colours.grid,
        "linecolor": colours.grid,
        "tickcolor": colours.grid,
        "tickfont": {"color": colours.soft, "size": 12},
        "title": {"font": {"color": colours.ink, "size": 13}, "standoff": 10},
        "zeroline": False,
        "automargin": True,
    }


def empty(theme: ThemeName) -> go.Figure:
    """A figure in our style with nothing in it yet."""
    colours = THEMES[theme]
    return go.Figure(
        layout={
            "template": "none",
            "font": {"family": FONT, "size": 13, "color": colours.ink},
            "paper_bgcolor": NOTHING,
            "plot_bgcolor": NOTHING,
            "margin": {"l": 64, "r": 20, "t": 36, "b": 48},
            "separators": ".,",
            "modebar": {"bgcolor": NOTHING, "color": colours.faded, "activecolor": colours.ink},
            "uirevision": "keep",
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": colours.label,
                "bordercolor": colours.grid,
                "font": {"family": FONT, "size": 12, "color": colours.ink},
            },
            "legend": {
                "orientation": "h",
                "xref": "container",
                "yref": "container",
                "x": 0.01,
                "y": 0,
                "xanchor": "left",
                "yanchor": "bottom",
                "maxheight": 0.34,
                "itemwidth": 36,
                "tracegroupgap": 0,
                "font": {"size": 12},
                "bgcolor": NOTHING,
            },
            "xaxis": scale(colours),
            "yaxis": scale(colours),
        }
    )


def axis(
    figure: go.Figure,
    side: str,
    title: str,
    *,
    keep: str,
    log: bool = False,
    kind: Literal["number", "text", "time"] = "number",
) -> None:
    """Title and scale of an axis; a zoom stays as long as `keep` and the scale do."""
    scale = {"number": "log" if log else "linear", "text": "category", "time": "date"}[kind]
    figure.layout[f"{side}axis"].update(
        title_text=title,
        type=scale,
        uirevision=plain(f"{keep} {scale}"),
        exponentformat="power",
        separatethousands=True,
    )


def note(figure: go.Figure, theme: ThemeName, text: str, **place: Any) -> None:
    """A remark above the figure's upper left corner, or where `place` puts its annotation."""
    if text:
        usual: dict[str, Any] = {
            "x": 0,
            "y": 1,
            "xref": "paper",
            "yref": "paper",
            "xanchor": "left",
            "yanchor": "bottom",
            "yshift": 8,
            "align": "left",
            "showarrow": False,
            "font": {"size": 11, "color": THEMES[theme].soft},
        }
        figure.add_annotation({**usual, "text": text, **place})


def colours_of(keys: Iterable[str], theme: ThemeName) -> dict[str, str]:
    """The colour of each run in all pictures of a page; a run's place decides."""
    palette = THEMES[theme].palette
    return {key: palette[index % len(palette)] for index, key in enumerate(keys)}


def sentence(text: str, theme: ThemeName = "light") -> go.Figure:
    """A figure that says one sentence instead of showing axes."""
    figure = empty(theme).update_xaxes(visible=False).update_yaxes(visible=False)
    lines = textwrap.wrap(text[:1].upper() + text[1:], 44, break_long_words=True) or [""]
    middle = {"x": 0.5, "y": 0.5, "xanchor": "center", "yanchor": "middle", "yshift": 0}
    font = {"size": 14, "color": THEMES[theme].soft}
    note(figure, theme, "<br>".join(map(plain, lines)), **middle, align="center", font=font)
    return figure


def faint(colour: str, opacity: float) -> str:
    """A colour of a theme, seen through."""
    return f"rgba{(*hex_to_rgb(colour), opacity)}"


def plain(text: object, most: int = 60) -> str:
    """Text as Plotly shows it letter by letter: no tags, no templates, no control characters."""
    line = "".join(each if each.isprintable() else " " for each in str(text))
    cut = line if len(line) <= most else line[: most - 1] + "…"
    # Plotly knows &lt; and numbers, but not &quot;.
    return html.escape(cut, quote=False).replace("%{", "&#37;{")


def left_out(count: int, why: str) -> str:
    """A note on runs that a figure does not show; empty if there are none."""
    return f"{counted(count, 'run')} not shown: {why}." if count else ""
