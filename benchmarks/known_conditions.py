"""Known densities at conditions that are scattered or texts, and tables of their rows.

Array names end in their axes:
    N rows    F event columns    C conditions
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from known_laws import ALPHA_GRID, EVALUATED, HALF_STEP, Arm, Floats, slope
from numpy.typing import ArrayLike
from scipy.special import betaln

from data_prep.stream import Batch

# ---- scattered conditions: one law on a grid, at a point for each row, at a cloud of points ----


SIMULATIONS = 300
"""Of a cloud."""
GRIDS = {1: 20, 2: 8, 3: 5, 5: 3}
"""Values of each condition of a grid, by the number of conditions."""


def scattered(rows: int, rng: np.random.Generator) -> Iterator[Arm]:
    """In 1 to 5 conditions a grid, a value in every row, 300 simulations, and a mixed table."""
    for count, values in GRIDS.items():
        grid_NC = rng.integers(values, size=(rows, count)) / (values - 1)
        cloud_NC = rng.random((SIMULATIONS, count))[rng.integers(SIMULATIONS, size=rows)]
        arms = {"grid": grid_NC, "every row": rng.random((rows, count)), "cloud": cloud_NC}
        if count > 1:
            mixed_NC = rng.random((rows, count))
            mixed_NC[:, -1] = grid_NC[:, -1]
            arms["mixed"] = mixed_NC
        between_NC = rng.random((EVALUATED, count))
        between = Batch(_drawn(between_NC, rng), between_NC)
        for name, c_NC in arms.items():
            names = [f"c{k}" for k in range(count)]
            yield Arm(
                name=f"{count}: {name}",
                columns=dict(zip(["x", "y", *names], [*_drawn(c_NC, rng).T, *c_NC.T], strict=True)),
                events=("x", "y"),
                conditions=tuple(names),
                log_prob=lambda rows: smooth_log_prob(rows.events, rows.conditions),
                between=between,
            )


def smooth_log_prob(events_NF: ArrayLike, conditions_NC: ArrayLike) -> Floats:
    """True log density of (x, y): two normal bumps that move, widen and change places, `(N,)`."""
    x_NF, terms = np.asarray(events_NF, float), []
    share_N, mean_2NF, spread_2N = _bumps(np.asarray(conditions_NC, float))
    for ln_N, mean_NF, spread_N in zip(
        (np.log(share_N), np.log1p(-share_N)), mean_2NF, spread_2N, strict=True
    ):
        far_N = (((x_NF - mean_NF) / spread_N[:, None]) ** 2).sum(axis=1)
        terms.append(ln_N - 0.5 * far_N - 2 * np.log(spread_N) - np.log(2 * np.pi))
    return np.logaddexp(*terms)


def _drawn(c_NC: Floats, rng: np.random.Generator) -> Floats:
    share_N, mean_2NF, spread_2N = _bumps(c_NC)
    which_N, rows_N = (rng.random(len(c_NC)) > share_N).astype(int), np.arange(len(c_NC))
    noise_NF = rng.normal(size=(len(c_NC), 2))
    return mean_2NF[which_N, rows_N] + spread_2N[which_N, rows_N][:, None] * noise_NF


def _bumps(c_NC: Floats) -> tuple[Floats, Floats, Floats]:
    """Share of the first bump, means `(2, N, 2)` and spreads `(2, N)` of both."""
    # Every condition matters, the first one most.
    s_N = c_NC @ (0.6 ** np.arange(c_NC.shape[1]))
    share_N = 1 / (1 + np.exp(2 - 3 * s_N))
    first_NF = np.stack([np.sin(2.5 * s_N), 0.5 * s_N], axis=1)
    second_NF = np.stack([2.5 - s_N, np.cos(2.5 * s_N)], axis=1)
    spreads = np.stack([0.3 + 0.15 * s_N, 0.5 * np.exp(-0.4 * s_N)])
    return share_N, np.stack([first_NF, second_NF]), spreads


# ---- categories: formation channels of other laws, one of them rare, beside a grid ----


CHANNELS = {"CE": 0.6, "RLO": 0.35, "SMT": 0.05}
"""Share of each channel in the rows."""


def categories(rows: int, rng: np.random.Generator) -> Iterator[Arm]:
    """Channels as texts, the same rows with channels numbered, and one channel with as many rows.

    `between` is at conditions of the rare channel that no row has.
    """
    place_N = rng.choice(len(CHANNELS), rows, p=[*CHANNELS.values()])
    alpha_N = rng.choice(ALPHA_GRID, rows)
    rare_NC = np.stack([rng.uniform(0.5, 4, EVALUATED), np.full(EVALUATED, 2.0)], axis=1)
    between = Batch(_of_channel(*rare_NC.T, rng), rare_NC)
    for name, place, told in (
        ("texts", place_N, np.array([*CHANNELS])),
        ("numbers", place_N, np.arange(float(len(CHANNELS)))),
        ("one text", np.zeros(rows, int), np.array([*CHANNELS])),
    ):
        events_NF = _of_channel(alpha_N, place, rng)
        yield Arm(
            name=name,
            columns={
                "m": events_NF[:, 0],
                "q": events_NF[:, 1],
                "alpha": alpha_N,
                "channel": told[place],
            },
            events=("m", "q"),
            conditions=("alpha", "channel"),
            log_prob=lambda rows: channel_log_prob(rows.events, *rows.conditions.T),
            options={"support": {"m": "positive"}},
            outside=lambda events_NF: (events_NF[:, 0] <= 0) | (abs(events_NF[:, 1] - 0.5) > 0.5),
            between=between if place is place_N else None,
        )


def channel_log_prob(events_NF: ArrayLike, alpha_N: ArrayLike, place_N: ArrayLike) -> Floats:
    """True log density of (m, q) in the channels of these places, `(N,)`."""
    mass_N, q_N = np.asarray(events_NF, float).T
    mean_N, spread_N, a_N, b_N, slope_N = _channel(alpha_N, place_N)
    z_N = (np.log(mass_N) - mean_N - slope_N * q_N) / spread_N
    ln_N = -0.5 * z_N**2 - np.log(mass_N * spread_N * (2 * np.pi) ** 0.5)
    # A draw of 1 is the float32 next to a share that is a little less.
    rest_N = np.maximum(1 - q_N, 0.5 * HALF_STEP)
    return ln_N + (a_N - 1) * np.log(q_N) + (b_N - 1) * np.log(rest_N) - betaln(a_N, b_N)


def _of_channel(alpha_N: Floats, place_N: ArrayLike, rng: np.random.Generator) -> Floats:
    mean_N, spread_N, a_N, b_N, slope_N = _channel(alpha_N, place_N)
    q_N = rng.beta(a_N, b_N)
    ln_N = mean_N + slope_N * q_N + spread_N * rng.normal(size=len(q_N))
    return np.stack([np.exp(ln_N), q_N], axis=1)


def _channel(alpha: ArrayLike, place: ArrayLike) -> tuple[Floats, ...]:
    """Of ln m mean, spread and slope in q, in this order around the powers of the law of q.

    The order of the channels says nothing about them: the middle one is the farthest.
    """
    s_N, place_N = slope(np.asarray(alpha, float)), np.asarray(place).astype(int)
    mean_N = np.array([2.2, 3.4, 2.5])[place_N] + np.array([0.4, -0.2, 0.1])[place_N] * s_N
    spread_N = np.array([0.35, 0.15, 0.25])[place_N]
    a_N = np.array([6.0, 2.5, 3.0])[place_N] - 1.5 * s_N
    b_N = np.array([1.5, 2.0, 4.0])[place_N]
    return mean_N, spread_N, a_N, b_N, np.array([0.3, -0.4, 0.0])[place_N]
