"""The density that a flow draws at given conditions, beside the density of the data there.

Draws and data share bins and smoothing. The noise is seeded, so that a picture changes only where
the flow does while a slider moves.

Letters of the arrays:
    N rows    F event columns    K of them shown    C condition columns
    X, Y bins along the two axes
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import Column, Value
from data_prep.stream import Batch
from hpo.dashboard.density.sources import DensityError
from hpo.pictures import density
from hpo.pictures.density import Array
from models.evaluation.weighted import Weights, effective

if TYPE_CHECKING:
    from models.flow.atoms import OneFlow

DRAWS = 200_000
"""Events drawn for a plot: enough that its contours show the flow and not the draw."""

ROUGH = 20_000
"""Events of a first sketch, which the eye has at once."""

FEW = 3000
"""Up to so many rows of data are shown as points."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleDensity:
    """The density of one sample: what the flow draws, or the data."""

    rows: int
    """Events drawn, or rows of the data."""
    effective: float | None = None
    """As many of equal weight would tell as much; None where all count alike."""
    density_XY: Array | None
    """Smoothed density in each bin, per unit of both columns; None where there is one column."""
    heights: dict[float, float]
    """`density_XY` at the edge of the smallest region with that fraction of all events; only
    fractions that the picture holds and that so many rows can tell."""
    marginals: tuple[Array, ...]
    """Density in each bin of `DensityPlot.joined`, per unit of that column."""
    points_N2: Array | None = None
    """The rows themselves, where there are few enough of them."""
    shade_XY: Array | None = None
    """Counts as a shade in [0, 1], NaN where there are none; where there are more rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DensityPlot:
    """The density of one or two event columns at given conditions."""

    columns: tuple[Column, ...]
    """Across and up; the second is missing where the flow draws one column."""
    conditions: dict[str, Value]
    units: dict[str, str]
    """Unit of each condition."""
    edges: tuple[Array, ...]
    """Edges of the bins along each axis, in the column's unit."""
    joined: tuple[Array, ...]
    """Edges of the bins of each marginal, in the column's unit."""
    emulator: SampleDensity
    near: SampleDensity | None = None
    """The data of the nearest cell, where the conditions are no simulated one."""
    data: SampleDensity | None
    """None where the conditions are no simulated cell, or one without test rows."""
    nll: float | None
    """NLL of the rows, nats per event in the data's own units; None without rows."""
    error: float | None
    """Its standard error; NaN for a single row, or where a row has no density."""
    notes: tuple[str, ...]
    """Sentences on this picture."""


def density_plot(
    flow: OneFlow,
    conditions: Mapping[str, Value],
    rows_NF: Array | None,
    at: tuple[int, ...],
    notes: Sequence[str],
    *,
    weights_N: Weights = None,
    own_NC: NDArray[np.float32] | None = None,
    like: int = DRAWS,
    near_NF: Array | None = None,
    draws: int | None = None,
) -> DensityPlot:
    """The density that the flow draws at these conditions, beside the density of the rows.

    Args:
        flow: In evaluation mode.
        conditions: Every condition.
        rows_NF: Rows of the data at these conditions, if there are any.
        at: One or two event columns, by their places.
        notes: Sentences that come first.
        weights_N: Of the rows, if they have some, over their mean.
        own_NC: The rows' own conditions, where they are those of a region: draws are made there.
        like: Without rows, the picture is smoothed as if there were so many: contours then do not
            jump where a slider leaves a cell.
        near_NF: Without rows, those of the nearest cell.
        draws: Events drawn; `DRAWS` where it is None.

    Raises:
        DensityError: If nothing that the flow draws is finite.
    """
    from models.bundle import batched
    from models.evaluation.nll import mean_of

    values = [one.number(conditions[one.name]) for one in flow.condition_columns]
    rows_at = np.array([values])
    draws = draws or DRAWS
    drawn_at = np.repeat(rows_at, draws, axis=0)
    if rows_NF is not None and own_NC is not None:
        drawn_at, rows_at = own_NC[Batch(own_NC, own_NC, weights_N).evenly(draws)], own_NC
    drawn_NF = batched.draw(flow, drawn_at, np.random.default_rng(0))
    drawn_NK = drawn_NF[np.isfinite(drawn_NF).all(axis=1)][:, at]
    if not len(drawn_NK):
        raise DensityError("no event that the flow draws here is finite: there is no density")
    if lost := 1 - len(drawn_NK) / len(drawn_NF):
        notes = [*notes, f"{lost:.2%} of the draws are not finite."]
    data_NK = None if rows_NF is None else rows_NF[:, at]
    score = None
    if rows_NF is not None:
        with np.errstate(invalid="ignore"):  # a row may have no density
            score = mean_of(-batched.log_prob(flow, rows_NF, rows_at), weights_N)
    columns = tuple(flow.event_columns[k] for k in at)
    like_NK = drawn_NK[:like] if data_NK is None else data_NK
    frame = _Frame.around(columns, drawn_NK, like_NK, weights_N)
    return DensityPlot(
        columns=columns,
        conditions=dict(conditions),
        units={column.name: column.unit for column in flow.condition_columns},
        edges=frame.edges,
        joined=frame.joined,
        emulator=frame.sample(drawn_NK, density.LEVELS, whole=draws),
        near=None if near_NF is None else frame.of_data(near_NF[:, at], None),
        data=None if data_NK is None else frame.of_data(data_NK, weights_N),
        nll=score.mean if score else None,
        error=score.error if score else None,
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """The bins and the smoothing that both sides share."""

    edges: tuple[Array, ...]
    joined: tuple[Array, ...]
    spreads: tuple[float, float] | None
    """In bins; None where there is one column."""

    @classmethod
    def around(
        cls, columns: Sequence[Column], drawn_NK: Array, like_NK: Array, weights_N: Weights
    ) -> _Frame:
        """For all that is drawn, as fine as so many rows as `like_NK` has can be shown."""
        edges = tuple(
            density.edges(like_N, drawn_N, weights_N, column.limits)
            for column, like_N, drawn_N in zip(columns, like_NK.T, drawn_NK.T, strict=True)
        )
        rows, spreads = effective(weights_N, len(like_NK)), None
        if len(edges) == 2:
            spreads = density.spreads(like_NK, (edges[0], edges[1]), weights_N)
        joined = tuple(density.joined(each, rows) for each in edges)
        return cls(edges=edges, joined=joined, spreads=spreads)

    def sample(
        self,
        events_NK: Array,
        fractions: Sequence[float],
        *,
        whole: int,
        weights_N: Weights = None,
    ) -> SampleDensity:
        """The densities of finite events; all events, others included, are `whole`."""
        share = len(events_NK) / whole
        columns = zip(events_NK.T, self.joined, strict=True)
        marginals = tuple(share * density.marginal(*each, weights_N) for each in columns)
        size = None if weights_N is None else effective(weights_N, whole)
        if self.spreads is None:
            return SampleDensity(
                rows=whole, density_XY=None, heights={}, marginals=marginals, effective=size
            )
        across, up = self.edges
        unit = whole * float((across[1] - across[0]) * (up[1] - up[0]))
        counts_XY = density.counts(events_NK, (across, up), weights_N)
        smoothed_XY = density.smooth(counts_XY, self.spreads)
        heights = density.enclosing(smoothed_XY, fractions, whole)
        return SampleDensity(
            rows=whole,
            effective=size,
            density_XY=smoothed_XY / unit,
            # Shorter than the fractions where the picture does not hold the last ones.
            heights={name: each / unit for name, each in zip(fractions, heights, strict=False)},
            marginals=marginals,
        )

    def of_data(self, data_NK: Array, weights_N: Weights) -> SampleDensity:
        """The densities of the data, with the rows themselves or a shade of them."""
        sure = density.sure(effective(weights_N, len(data_NK)))
        shown = self.sample(data_NK, sure, whole=len(data_NK), weights_N=weights_N)
        if self.spreads is None:
            return shown
        if len(data_NK) <= FEW and weights_N is None:  # a point cannot show how much it weighs
            return replace(shown, points_N2=data_NK)
        counts_XY = density.counts(data_NK, (self.edges[0], self.edges[1]), weights_N)
        shade = density.fading(counts_XY)
        return replace(shown, shade_XY=np.ma.filled(shade, math.nan))
