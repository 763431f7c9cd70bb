"""A flow's density under one condition as lines: where their knots lie, and what they hold.

`y` are events in the coordinates of a table's axes. Array names end in their axes:
    N rows    F event columns    C conditions
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.arrays import lines
from models.arrays.flow import ArrayFlow, in_parts
from models.arrays.layers import Standardise
from models.arrays.lines import Lines
from models.bundle.domain import Floats

DRAWS, NEAR = 4_000, 16
"""Events drawn under each condition to see where they lie; one in so many is near a knot."""
MARGIN = 0.5
"""How much farther than the draws the first knots reach, in units of the draws' range."""
ROUNDS = 3
"""Times that knots are moved to where the density bends."""


def tabulated(
    flow: ArrayFlow, axes: Standardise, c_C: Floats, points: int
) -> tuple[list[Lines], float]:
    """Lines of every column, and the part of the density that lies between their ends.

    The axes of a column's lines are the knots of those before it, then its own.
    """
    columns = len(flow.event_columns)
    noise = np.random.default_rng(0).standard_normal((DRAWS, flow.noise_columns))
    y_FN = np.stack(axes.forward(np, [*flow.from_noise(noise, c_C[None]).T])[0])
    nodes = _start(y_FN, points)
    for _ in range(ROUNDS):
        nodes = _moved(nodes, _ln_density(flow, axes, c_C, nodes))
    # With a point in the middle of every bin, for Simpson's rule.
    for axis in range(columns):
        middles = np.broadcast_to(
            np.arange(2 * points - 1) / 2, (*nodes[axis].shape[:-1], 2 * points - 1)
        )
        nodes[axis:] = [lines.resampled(each, axis, middles) for each in nodes[axis:]]
    ln = _ln_density(flow, axes, c_C, nodes)
    found: list[Lines] = []
    for axis in reversed(range(columns)):
        own, ln = lines.halved(nodes[axis], ln)
        at_knots = (slice(None, None, 2),) * axis
        found.insert(0, Lines(*(array[at_knots] for array in own)))
    return found, float(np.exp(ln))


def _start(y_FN: Floats, points: int) -> list[Floats]:
    """Knots among draws: some as all of them lie, some as those near the line, and both ends.

    The noise of the draws is the same under all conditions.
    """
    nodes: list[Floats] = []
    near_LN = np.arange(y_FN.shape[1])[None]
    for y_N in y_FN:
        low, high = y_N.min(), y_N.max()
        beyond = MARGIN * (high - low)
        own_LN, common = y_N[near_LN], points // 3
        shares = np.linspace(0, 1, points - 2 - common)
        parts = [
            np.quantile(own_LN, shares, axis=1).T,
            np.tile(np.quantile(y_N, np.linspace(0, 1, common)), (len(own_LN), 1)),
            np.tile([low - beyond, high + beyond], (len(own_LN), 1)),
        ]
        nodes_LK = np.sort(np.hstack(parts), axis=1)
        nodes.append(nodes_LK.reshape((points,) * (len(nodes) + 1)))
        if len(nodes) == len(y_FN):
            break
        # Of the draws near a line, those that are near a knot are near that knot's lines.
        count = min(max(points, near_LN.shape[1] // NEAR), near_LN.shape[1])
        distance_LKN = np.abs(own_LN[:, None] - nodes_LK[:, :, None])
        number_LKN = np.argpartition(distance_LKN, count - 1, axis=2)[..., :count]
        near_LN = np.take_along_axis(near_LN[:, None], number_LKN, 2).reshape(-1, count)
    return nodes


def _ln_density(flow: ArrayFlow, axes: Standardise, c_C: Floats, nodes: Sequence[Floats]) -> Floats:
    """Per unit of the axes, of all combinations of knots."""
    shape = nodes[-1].shape
    y = [
        np.broadcast_to(each.reshape(each.shape + (1,) * (len(shape) - each.ndim)), shape).ravel()
        for each in nodes
    ]
    x_NF = np.stack(axes.inverse(np, y), -1)
    log_jacobian_N = axes.forward(np, [*x_NF.T])[1]
    ln_N: Floats = in_parts(flow.log_density, x_NF, c_C[None]) - log_jacobian_N
    return ln_N.reshape(shape)


def _moved(nodes: list[Floats], ln: Floats) -> list[Floats]:
    """Knots nearer to where the density bends, along all axes."""
    each = [ln]
    for places in nodes[:0:-1]:
        each.insert(0, lines.integral(places, each[0]))
    nodes = list(nodes)
    # From the last axis, so that those before are still where `each` was taken.
    for axis in reversed(range(len(nodes))):
        shape = nodes[axis].shape
        flat = (array.reshape(-1, shape[-1]) for array in (nodes[axis], each[axis]))
        numbers = lines.moved(*flat).reshape(shape)
        nodes[axis:] = [lines.resampled(array, axis, numbers) for array in nodes[axis:]]
    return nodes
