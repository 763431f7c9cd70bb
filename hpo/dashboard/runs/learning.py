"""Learning curves as Plotly figures: NLLs and loss rates along epochs, time or rows.

A curve of more than `MOST_POINTS` epochs is thinned: it keeps the first, the last and the best
epoch, and of each stretch between them the lowest and the highest validation NLL and a gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from data_prep.words import numbers
from hpo.dashboard import style
from hpo.dashboard.runs import history, tables
from hpo.dashboard.runs.history import Array, Curve
from hpo.dashboard.style import ThemeName
from hpo.records.record import FINISHED, RunRecord

Along = Literal["epoch", "minutes", "rows"]

MOST_POINTS = 2000
"""Points of one curve."""

MOST_SVG = 20_000
"""Points of a figure that are still drawn one by one; more are left to the graphics card."""

DASHES = ("solid", "dashdot", "dot", "longdash", "longdashdot", "dash")
"""Dashes of validation curves: the next one each time that the colours are used up."""

FAINT = 0.65
"""Opacity of runs that were pruned or failed."""

_ALONG = {"epoch": "Epoch", "minutes": "Wall-clock time [min]", "rows": "Training rows seen"}
_HOVER = {"epoch": "epoch %{x:,}", "minutes": "%{x:,.1f} min", "rows": "%{x:,.0f} rows"}


def curves(
    records: Mapping[str, RunRecord],
    *,
    along: Along = "epoch",
    log_x: bool = False,
    excess: bool = False,
    smoothing: float = 0.0,
    theme: ThemeName = "light",
) -> go.Figure:
    """Training and validation NLL of every run.

    Args:
        records: By key. A run's place decides its colour and dash.
        along: Epochs, minutes of wall-clock time, or rows of the training split.
        log_x: Draws these on a logarithmic axis.
        excess: Draws the NLL above the lowest validation NLL of all runs, on a logarithmic axis
            that has a gap for the lowest value itself.
        smoothing: Weight of the past, in [0, 1); see `history.smoothed`. The best epoch stays where
            it was measured.
        theme: Of the page.

    Raises:
        TablesError: If the smoothing is out of its range.
    """
    drawn = _lines(records, theme)
    if not any(np.isfinite(each.curve.val_nll).any() for each in drawn):
        return style.sentence("No run has an epoch with a validation NLL yet.", theme)

    floor = min(_lowest(each.curve.val_nll) for each in drawn) if excess else 0.0
    figure = style.empty(theme)
    for line in drawn:
        figure.add_traces(_learning(line, along, smoothing, floor, excess))
    told = f"NLL − {numbers.nll(floor)}" if excess else "NLL"
    style.axis(figure, "x", _ALONG[along], log=log_x, keep=along)
    style.axis(figure, "y", f"{told} [{tables.NLL}]", log=excess, keep=str(excess))
    if not excess:
        figure.update_yaxes(range=_span(drawn))
    thinned = any(len(each.at) < _told(each.curve) for each in drawn)
    points = f"   (about {MOST_POINTS:,} points a run)" if thinned else ""
    style.note(figure, theme, "— validation   - - training   ● best epoch" + points)
    return figure


def rates(
    records: Mapping[str, RunRecord],
    *,
    along: Along = "epoch",
    log_x: bool = False,
    theme: ThemeName = "light",
) -> go.Figure:
    """Loss rate of every run where it is positive, and the rates below which runs stop early."""
    drawn = _lines(records, theme)
    positive = {each.key: _positive(each.curve.loss_rate) for each in drawn}
    if not any(np.isfinite(each).any() for each in positive.values()):
        return style.sentence("No run has a positive loss rate yet.", theme)

    figure = style.empty(theme)
    for line in drawn:
        rate, told = positive[line.key], f"%{{y:.3g}} {history.rate_unit(line.record)}"
        name = line.name if np.isfinite(rate[line.at]).any() else f"{line.name}: no positive rate"
        figure.add_trace(line.curve_of(rate, along, told, name=name, width=1.6))
    units = sorted({history.rate_unit(each) for each in records.values()})
    style.axis(figure, "x", _ALONG[along], log=log_x, keep=along)
    style.axis(figure, "y", f"Loss rate [{' or '.join(units)}]", log=True, keep="rate")
    _draw_thresholds(figure, drawn, theme)
    rose = any((each.curve.loss_rate <= 0).any() for each in drawn)
    style.note(
        figure, theme, "Gaps are epochs in which the smoothed objective rose." if rose else ""
    )
    return figure


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """A run in a figure of curves."""

    key: str
    name: str
    """Escaped."""
    record: RunRecord
    curve: Curve
    at: NDArray[np.intp]
    """The epochs that are drawn."""
    colour: str
    dash: str
    ring: str
    """Colour around the marker of the best epoch."""
    tracer: Any
    """The kind of trace that the figure's number of points needs."""

    @property
    def faint(self) -> bool:
        """Whether the run came to no end of its own."""
        return self.record.state in ("pruned", "failed")

    def along(self, along: Along) -> Array:
        """The quantity across the figure."""
        curve = self.curve
        return {"epoch": curve.epoch, "minutes": curve.minutes, "rows": curve.rows_seen}[along]

    def trace(self, along: Along, told: str, **more: Any) -> Any:
        """A trace of this run; `told` ends the text at the mouse."""
        return self.tracer(
            **{
                "opacity": FAINT if self.faint else 1.0,
                "legendgroup": style.plain(self.key, 1000),
                "name": self.name,
                "meta": self.key,
                "hovertemplate": f"<b>{self.name}</b><br>{_HOVER[along]}<br>{told}<extra></extra>",
                **more,
            }
        )

    def curve_of(
        self, y: Array, along: Along, told: str, *, width: float, dash: str = "", **more: Any
    ) -> Any:
        """The trace of one value an epoch."""
        # Plotly leaves a trace without any point out of the legend.
        point: Any = {"x": [None], "y": [None]}
        if len(self.at):
            point = {"x": self.along(along)[self.at], "y": y[self.at]}
        line = {"color": self.colour, "width": width, "dash": dash or self.dash}
        return self.trace(along, told, mode="lines", line=line, **point, **more)


def _lines(records: Mapping[str, RunRecord], theme: ThemeName) -> list[_Line]:
    colours, names = style.colours_of(records, theme), tables.names(records)
    curves = {key: history.curve(record) for key, record in records.items()}
    drawn = {key: _thin(curve) for key, curve in curves.items()}
    many = 2 * sum(map(len, drawn.values())) > MOST_SVG
    return [
        _Line(
            key=key,
            name=style.plain(names[key], 40),
            record=records[key],
            curve=curve,
            at=drawn[key],
            colour=colours[key],
            dash=DASHES[index // len(style.THEMES[theme].palette) % len(DASHES)],
            ring=style.THEMES[theme].label,
            tracer=go.Scattergl if many else go.Scatter,
        )
        for index, (key, curve) in enumerate(curves.items())
    ]


def _thin(curve: Curve) -> NDArray[np.intp]:
    """The epochs to draw: up to the last that was measured, and at most `MOST_POINTS`."""
    told = _told(curve)
    if told <= MOST_POINTS:
        return np.arange(told, dtype=np.intp)
    kept = {0, told - 1} | ({curve.best} if curve.best is not None else set())
    for part in np.array_split(np.arange(told), (MOST_POINTS - 3) // 3):
        values = curve.val_nll[part]
        lost = np.flatnonzero(np.isnan(values))[:1]
        kept |= set(part[lost].tolist())
        if len(lost) < len(part) and np.isfinite(values).any():
            kept |= {int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])}
    return np.array(sorted(kept), dtype=np.intp)


def _told(curve: Curve) -> int:
    """Epochs until the last with a validation NLL: what failed may have gone on unseen."""
    for values in (curve.val_nll, curve.train_nll):
        finite = np.flatnonzero(np.isfinite(values))
        if len(finite):
            return int(finite[-1]) + 1
    return 0


def _learning(line: _Line, along: Along, smoothing: float, floor: float, excess: bool) -> list[Any]:
    """Training, validation and best epoch of one run; its name in the legend rules all three."""

    def height(values: Array) -> Array:
        return _positive(values - floor) if excess else values

    curve = line.curve
    train, val = (history.smoothed(each, smoothing) for each in (curve.train_nll, curve.val_nll))
    faint = {"opacity": 0.6 * (FAINT if line.faint else 1.0), "showlegend": False}
    traces = [
        line.curve_of(height(train), along, "training %{y:.4f}", width=1, dash="dash", **faint),
        line.curve_of(height(val), along, "validation %{y:.4f}", width=2, name=_legend(line)),
    ]
    best, measured = curve.best, height(curve.val_nll)
    if best is not None and math.isfinite(measured[best]):
        marker = {"color": line.colour, "size": 8, "line": {"width": 1.5, "color": line.ring}}
        place = {"x": [line.along(along)[best]], "y": [measured[best]], "mode": "markers"}
        shown: dict[str, Any] = {**place, "marker": marker, "showlegend": False}
        traces.append(line.trace(along, "best: %{y:.4f}", **shown))
    return traces


def _legend(line: _Line) -> str:
    """Name, best validation NLL, and the state if it is not a good one."""
    best, state = line.record.best_val_nll, line.record.state
    if not np.isfinite(line.curve.val_nll).any():
        return f"{line.name}: no validation NLL ({state.replace('_', ' ')})"
    told = line.name if best is None else f"{line.name}: {numbers.nll(best)}"
    return told if state in FINISHED else f"{told} ({state})"


def _positive(values: Array) -> Array:
    """The values with a gap for all that a logarithmic axis cannot show."""
    return np.where(values > 0, values, math.nan)


def _lowest(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.min()) if len(finite) else math.inf


def _able(lines: Sequence[_Line]) -> list[_Line]:
    """The runs that limits are made for: the finished ones, if there are any."""
    told = [each for each in lines if np.isfinite(each.curve.val_nll).any()]
    finished = [each for each in told if each.record.state in FINISHED]
    return finished or [each for each in told if not each.faint] or told


def _span(lines: Sequence[_Line]) -> list[float]:
    """Limits of the NLL that show where runs differ, not the fall of the first epochs."""
    able = _able(lines)
    low = min(
        [_lowest(each.curve.val_nll) for each in lines]
        + [_lowest(each.curve.train_nll[each.at]) for each in able]
    )
    best = np.array([_lowest(each.curve.val_nll) for each in able])
    early = np.array([np.nanquantile(each.curve.val_nll, 0.9) for each in able])
    # A run that went astray falls or rises further than most: its end is shown, not all of it.
    high = float(np.minimum(early, best + 2 * np.median(early - best)).max())
    others = [_lowest(each.curve.val_nll) for each in lines if each.record.state != "failed"]
    high = max([high, *(each for each in others if each <= low + 3 * (high - low))])
    air = 0.06 * max(high - low, 0.05)
    return [low - air, high + 2 * air]


def _draw_thresholds(figure: go.Figure, lines: Sequence[_Line], theme: ThemeName) -> None:
    """A line for each rate below which some run stops early."""
    found: dict[tuple[float, str], list[str]] = {}
    for line in lines:
        if line.curve.threshold is not None:
            place = (line.curve.threshold, history.rate_unit(line.record))
            found.setdefault(place, []).append(line.name)
    soft = style.THEMES[theme].soft
    for (rate, unit), named in found.items():
        whose = f": {named[0]}" if len(named) == 1 < len(lines) else ""
        label = {
            "text": f"stops below {numbers.setting(rate)} {unit}{whose}",
            "textposition": "start",
            "yanchor": "bottom",
            "font": {"color": soft, "size": 11},
        }
        figure.add_hline(rate, line={"color": soft, "width": 1, "dash": "dot"}, label=label)
