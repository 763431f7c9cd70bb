"""How far an emulator's densities lie apart at different conditions: Jensen-Shannon divergences.

With p and q the densities at two cells and m their mean, the divergence is the mean over m of

    ln 2 - H(r),    r = p / (p + q),    H(r) = -r ln r - (1 - r) ln (1 - r),

which equals 1/2 E_p[ln p/m] + 1/2 E_q[ln q/m]. It is estimated by Monte Carlo of the exact
densities, without bins or data: events are drawn from p and q in equal parts. No term is negative
or above ln 2, whatever is drawn: it is ln 2 where one density is zero, 0 where both agree.

Letters of the arrays:
    K cells    N events drawn in each cell    F event columns

Source:
    Lin (1991), IEEE Transactions on Information Theory 37, 145.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from data_prep.columns import Column
from hpo.pictures import cells, style
from hpo.pictures.cells import At
from hpo.pictures.density import Array
from hpo.pictures.maps import grid as maps
from hpo.pictures.style import PLAIN, Look, PlotError
from models import Emulator

DRAWS = 5000
"""Events drawn in each cell."""
LABEL = "Jensen-Shannon divergence [nats]"


def divergence(
    emulator: Emulator,
    folder: Path | None,
    *,
    conditions: At,
    columns: Sequence[str] | None = None,
    look: Look = PLAIN,
    step: Callable[[int, int], None] | None = None,
    out: Path,
) -> Path:
    """A map of the divergence from the density at one place to the density of each cell, in nats.

    Args:
        folder: A prepared dataset, whose cells are shown; None takes values over the domain.
        conditions: The reference: a value of every condition, of a cell or between cells.
        columns: The two conditions of the map, across and up; needed where there are more.
        step: Called after each cell with the cells done and all cells.

    Raises:
        PlotError: If no cell has the other conditions of the reference, or no plane is to show.
        EmulatorError: If the reference lacks a condition.
        DataError: If `folder` holds no prepared dataset.
    """
    style.suffix_of(out)
    found = _found(emulator, folder, conditions, columns, step)
    width, height = found.grid.size
    with look.figure(max(6.0, width), 1.4 + height, rows=True) as figure:
        axes = figure.add_subplot()
        style.colour_bar(figure, _draw(axes, found, look), LABEL, [axes])
        framed = " (framed)" if found.place else ""
        style.heading(
            figure,
            f"Divergence from {look.text_of(conditions)}{framed}\n"
            "0 for the same density, ln 2 = 0.69 for no overlap; "
            f"Monte Carlo error up to {found.error:.1g}",
            look,
        )
        style.write(figure, out)
    return out


def draw(
    axes: Axes,
    emulator: Emulator,
    folder: Path | None,
    *,
    conditions: At,
    columns: Sequence[str] | None = None,
    look: Look = PLAIN,
) -> ScalarMappable:
    """The divergence of each cell's density from that at one place, in axes of one's own.

    Args:
        folder: A prepared dataset, whose cells are shown; None takes values over the domain.
        conditions: The reference: a value of every condition, of a cell or between cells.
        columns: The two conditions of the map, across and up; needed where there are more.
        look: Of its choices the labels alone say something here.

    Returns:
        The colours, in nats, for a colour bar.

    Raises:
        PlotError: If no cell has the other conditions of the reference, or no plane is to show.
        DataError: If `folder` holds no prepared dataset.
    """
    return _draw(axes, _found(emulator, folder, conditions, columns), look)


@dataclass(frozen=True, slots=True)
class _Found:
    """The divergences of cells, and the fields in which they are shown."""

    grid: maps.Grid | maps.Boxes
    values_YX: Array
    error: float
    """The largest, by the draw."""
    place: tuple[int, int] | None
    """The field of the reference, if it has one."""


def _found(
    emulator: Emulator,
    folder: Path | None,
    conditions: At,
    columns: Sequence[str] | None,
    step: Callable[[int, int], None] | None = None,
) -> _Found:
    cells.check_names([*conditions, *(columns or ())], emulator.condition_columns)
    plane = _plane(emulator, columns)
    shown = [column.name for column in plane]
    fixed = {name: value for name, value in conditions.items() if name not in shown}
    them, grid = maps.map_of(emulator, folder, fixed, plane)
    values_K, errors_K = from_reference(emulator, conditions, them, step=step)
    values_YX, place = grid.filled(them, values_K), grid.place(conditions)
    if place is not None and math.isnan(values_YX[place]):
        place = None
    return _Found(grid, values_YX, float(errors_K.max()), place)


def _draw(axes: Axes, found: _Found, look: Look) -> ScalarMappable:
    span = (0.0, float(np.nanmax(found.values_YX)) or math.log(2))
    fields = maps.draw(axes, found.grid, found.values_YX, span, look=look)
    if found.place is not None:
        frame: Any = {"edgecolor": style.EMULATOR, "linewidth": 2.5, "clip_on": False}
        field = found.grid.outline(found.place)
        field.set(facecolor="none", zorder=3, **frame)
        axes.add_patch(field)
    return fields


def from_reference(
    emulator: Emulator,
    reference: At,
    others: Sequence[At],
    *,
    seed: int = 0,
    step: Callable[[int, int], None] | None = None,
) -> tuple[Array, Array]:
    """Divergences from the density at the reference to each of the others, and their standard
    errors by the draw, in nats, both of shape `(K,)`.
    """
    own_NF = _drawn(emulator, reference, seed)
    own_N = _log_prob(emulator, own_NF, reference)
    found = []
    for k, other in enumerate(others):
        theirs_NF = _drawn(emulator, other, seed + 1 + k)
        p_N = np.concatenate([own_N, _log_prob(emulator, theirs_NF, reference)])
        q_N = _log_prob(emulator, np.concatenate([own_NF, theirs_NF]), other)
        found.append(jensen_shannon(p_N, q_N))
        if step:
            step(k + 1, len(others))
    values_K, errors_K = np.array(found).reshape(-1, 2).T
    return values_K, errors_K


def jensen_shannon(log_p_N: Array, log_q_N: Array) -> tuple[float, float]:
    """The divergence of two densities and its standard error, in nats.

    Both log densities are of the events that were drawn from p and q in equal parts, in any order;
    -inf outside the support.

    Raises:
        PlotError: If no event has a density under either.
    """
    # An event drawn at the very edge of a support may round out of it.
    drawn = np.maximum(log_p_N, log_q_N) > -math.inf
    if not drawn.any():
        raise PlotError("no event that the emulator draws has a density under it")
    with np.errstate(over="ignore"):
        ratio_N = np.clip(log_q_N[drawn] - log_p_N[drawn], -700.0, 700.0)
    # With r = 1 / (1 + e^ratio): -ln r = softplus(ratio), -ln(1 - r) = softplus(-ratio).
    r_N = 1.0 / (1.0 + np.exp(ratio_N))
    entropy_N = r_N * np.logaddexp(0.0, ratio_N) + (1.0 - r_N) * np.logaddexp(0.0, -ratio_N)
    each_N = np.clip(math.log(2) - entropy_N, 0.0, math.log(2))
    return float(each_N.mean()), float(each_N.std()) / math.sqrt(len(each_N))


def _plane(emulator: Emulator, names: Sequence[str] | None) -> list[Column]:
    """The conditions of the map: the named ones, or all if there are not more than two."""
    known = list(emulator.module.condition_columns)
    if not known:
        raise PlotError("the emulator has no conditions: there are no cells to compare")
    if names is None:
        if len(known) <= 2:
            return known
        raise PlotError(
            f"a map shows two conditions, the emulator has {len(known)} "
            f"({', '.join(emulator.condition_columns)}): name two by --columns"
        )
    if len(set(names)) != 2 or len(names) != 2:
        raise PlotError(f"a map shows two different conditions, not {', '.join(names)}")
    return [known[emulator.condition_columns.index(name)] for name in names]


def _drawn(emulator: Emulator, at: At, seed: int) -> Array:
    return emulator.sample(DRAWS, seed=seed, on_extrapolation="ignore", **at)


def _log_prob(emulator: Emulator, events_NF: Array, at: At) -> Array:
    return emulator.log_prob(events_NF, return_std=False, on_extrapolation="ignore", **at)
