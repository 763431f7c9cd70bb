"""Known densities on all that a column can be, and how far a fitted flow stays from each.

    python benchmarks/known_supports.py [--parts bounds] [--rows 100000] [--seconds 120]
                                        [--base mixture] [--seeds 1] [--results FILE]

A part is one kind of column. It gives arms: tables of one law, told to the flow in different ways,
or made equally hard without what the part is about. Every arm gets the same seconds of processor
time. Of each is told:

    excess    true minus fitted log density of the test rows, nats, and its standard error
    pit       largest distance of a column's ranks from uniform, over that of a perfect flow
    level     likewise of the contents of regions of highest density
    c2st      AUC of boosted trees that tell draws from test rows: 0.5 is an exact emulator
    between   excess at conditions that no row of the table has, where the part has such
    outside   fraction of a million draws that lie where the density is zero

Array names end in their axes:
    N rows    F event columns    C conditions
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, ndtr, ndtri

from data_prep.dataset import Dataset
from data_prep.preparation.prepare import prepare
from data_prep.stream import Batch, read_split
from models.bundle import batched
from models.config import FlowConfig, TrainConfig
from models.evaluation import report
from models.training.train import train

Floats = NDArray[np.float64]

ALPHA_GRID = np.array([0.5, 1.0, 2.0, 4.0])
DRAWS = 1_000_000
EVALUATED = 20_000
"""Test rows at most: enough for the floors, few enough for minutes."""
HALF_STEP = 2.0**-25
"""Half of what separates the numbers of single precision just below 1."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A table whose density is known, and how it is told to the flow."""

    name: str
    columns: Mapping[str, ArrayLike]
    """Of the table, whatever their role."""
    events: tuple[str, ...]
    log_prob: Callable[[Batch], Floats]
    """True log density of rows, per unit of the event columns."""
    conditions: tuple[str, ...] = ("alpha",)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `prepare`."""
    outside: Callable[[Floats], NDArray[np.bool_]] = lambda events_NF: (
        ~np.isfinite(events_NF).all(axis=1)
    )
    """Which draws lie where the density is zero."""
    between: Batch | None = None
    """Rows at conditions anywhere in the range, of no simulation."""


# ---- bounds: a ratio that piles up below 1, a spin that ends at -1 and 1, a redshift above 0 ----


def bounds(rows: int, rng: np.random.Generator) -> Iterator[Arm]:
    """Bounds told, the same rows on the real line, and the same rows with no bound told."""
    share_N, columns = shares(rows, rng)
    alpha, bounded = columns["alpha"], ("q", "chi_eff", "e")
    names = ("redshift", *bounded)
    yield Arm(
        name="bounds",
        columns=columns,
        events=names,
        log_prob=lambda rows: bounded_log_prob(rows.events, rows.conditions[:, 0]),
        outside=beyond,
    )
    line = {name: _on_line(*share_N[name]) for name in bounded}
    yield Arm(
        name="no bounds, equally hard",
        columns={"alpha": alpha, "redshift": columns["redshift"], **line},
        events=names,
        log_prob=lambda rows: line_log_prob(rows.events, rows.conditions[:, 0]),
        options={"support": dict.fromkeys(bounded, "real")},
    )
    yield Arm(
        name="bounds not told",
        columns=columns,
        events=names,
        log_prob=lambda rows: bounded_log_prob(rows.events, rows.conditions[:, 0]),
        options={"support": dict.fromkeys(bounded, "real")},
        outside=beyond,
    )


def shares(
    rows: int, rng: np.random.Generator
) -> tuple[dict[str, tuple[Floats, Floats]], dict[str, Floats]]:
    """Rows of the law of bounds.

    Of each bounded column the share of the way from its low bound and from its high one, which
    keeps its digits; and the table.
    """
    alpha_N = rng.choice(ALPHA_GRID, rows)
    s_N, (u_N, v_N, w_N) = _slope(alpha_N), rng.random((3, rows))
    power_N = u_N ** (1 / (2 + 2 * s_N))
    from_one_N = np.where(v_N < _piled(s_N), u_N**2, 1 - power_N)
    q = (1 - from_one_N, from_one_N)
    level_N, beta_N = rng.random(rows), rng.beta(3 + 3 * s_N + 2 * q[0], 3)
    spin_N = np.where(w_N < LEVEL, level_N, beta_N)
    e_N = rng.random(rows) ** 2
    redshift_N = np.exp(rng.normal(0.3 * s_N - 0.2, 0.6))
    columns = {
        "alpha": alpha_N,
        "redshift": redshift_N,
        "q": q[0],
        "chi_eff": 2 * spin_N - 1,
        "e": e_N,
    }
    return {"q": q, "chi_eff": (spin_N, 1 - spin_N), "e": (e_N, 1 - e_N)}, columns


LEVEL = 0.3
"""Share of the spins that are level up to both bounds."""


def bounded_log_prob(events_NF: ArrayLike, alpha_N: ArrayLike) -> Floats:
    """True log density of (redshift, q, chi_eff, e), `(N,)`; -inf beyond a bound."""
    redshift_N, q_N, chi_N, e_N = np.asarray(events_NF, float).T
    inside_N = ~beyond(np.asarray(events_NF, float))
    redshift_N, q_N, chi_N, e_N = (
        np.where(inside_N, each, 0.5) for each in (redshift_N, q_N, chi_N, e_N)
    )
    low_N, high_N = np.clip(1 - q_N - HALF_STEP, 0, None), 1 - q_N + HALF_STEP
    # Averaged over what rounds to one number, since it has a pole at 1.
    pile_N = (np.sqrt(high_N) - np.sqrt(low_N)) / (high_N - low_N)
    ln_N = _ln_shares(redshift_N, q_N, pile_N, 0.5 * (1 + chi_N), e_N, alpha_N) - np.log(2)
    return np.where(inside_N, ln_N, -np.inf)


def line_log_prob(events_NF: ArrayLike, alpha_N: ArrayLike) -> Floats:
    """The same law with the normal quantile of each bounded column's share in its place."""
    redshift_N, *line = np.asarray(events_NF, float).T
    q_N, spin_N, e_N = (ndtr(y_N) for y_N in line)
    pile_N = 0.5 / np.sqrt(ndtr(-line[0]))
    ln_N = _ln_shares(redshift_N, q_N, pile_N, spin_N, e_N, alpha_N)
    return ln_N - sum(0.5 * y_N**2 + 0.5 * np.log(2 * np.pi) for y_N in line)


def beyond(events_NF: Floats) -> NDArray[np.bool_]:
    """Which events (redshift, q, chi_eff, e) lie where the law of bounds has no density."""
    redshift_N, q_N, chi_N, e_N = events_NF.T
    inside_N = (redshift_N > 0) & (np.abs(chi_N) <= 1)
    for share_N in (q_N, e_N):
        inside_N &= (share_N >= 0) & (share_N <= 1)
    return ~inside_N


def _ln_shares(
    redshift_N: Floats, q_N: Floats, pile_N: Floats, spin_N: Floats, e_N: Floats, alpha: ArrayLike
) -> Floats:
    s_N = _slope(np.asarray(alpha, float))
    log_N = np.log(redshift_N)
    ln_N = -0.5 * ((log_N - 0.3 * s_N + 0.2) / 0.6) ** 2 - log_N - np.log(0.6 * (2 * np.pi) ** 0.5)
    power_N = (2 + 2 * s_N) * q_N ** (1 + 2 * s_N)
    ln_N += np.log(_piled(s_N) * pile_N + (1 - _piled(s_N)) * power_N)
    a_N = 3 + 3 * s_N + 2 * q_N
    with np.errstate(divide="ignore"):
        ln_beta_N = (a_N - 1) * np.log(spin_N) + 2 * np.log1p(-spin_N) - betaln(a_N, 3)
    ln_N += np.log(LEVEL + (1 - LEVEL) * np.exp(ln_beta_N))
    return ln_N - np.log(2) - 0.5 * np.log(np.maximum(e_N, 1e-45))


def _slope(alpha_N: Floats) -> Floats:
    """0 at the lowest alpha of the grid, 1 at the highest."""
    return np.log2(alpha_N / ALPHA_GRID[0]) / 3


def _piled(s_N: Floats) -> Floats:
    """Share of the ratios that pile up below 1."""
    return 0.2 + 0.3 * s_N


def _on_line(from_low_N: Floats, from_high_N: Floats) -> Floats:
    return np.where(from_low_N < 0.5, ndtri(from_low_N), -ndtri(from_high_N))


# ---- atoms: a ratio of exactly 1 and a spin of exactly 0, each with a probability of its own ----


def atoms(rows: int, rng: np.random.Generator) -> Iterator[Arm]:
    """Atoms told, the rest of the law alone with as many rows, and the same rows with none told.

    Where atoms are not told there is no true density to compare with.
    """
    names = ("m", "q", "chi_eff")
    columns = atomic(rows, rng)
    yield Arm(
        name="atoms",
        columns=columns,
        events=names,
        log_prob=lambda rows: atomic_log_prob(rows.events, rows.conditions[:, 0]),
        options={"support": {"m": "positive"}, "atoms": {"q": [1.0], "chi_eff": [0.0]}},
        outside=lambda events_NF: ~_possible(events_NF),
    )
    yield Arm(
        name="no atoms, equally hard",
        columns=atomic(rows, rng, probable=0.0),
        events=names,
        log_prob=lambda rows: atomic_log_prob(rows.events, rows.conditions[:, 0], probable=0.0),
        options={"support": {"m": "positive"}},
        outside=lambda events_NF: ~_possible(events_NF),
    )
    yield Arm(
        name="atoms not told",
        columns=columns,
        events=names,
        log_prob=lambda rows: np.full(len(rows.events), np.nan),
        options={"support": {"m": "positive"}},
        outside=lambda events_NF: ~_possible(events_NF),
    )


def atomic(rows: int, rng: np.random.Generator, probable: float = 1.0) -> dict[str, Floats]:
    """Rows of the law of atoms, their probabilities multiplied by `probable`."""
    alpha_N = rng.choice(ALPHA_GRID, rows)
    s_N, (u_N, v_N) = _slope(alpha_N), rng.random((2, rows))
    q_N = np.where(u_N < probable * _equal(s_N), 1.0, rng.beta(3, 1.5, rows))
    none_N = v_N < probable * _spinless(s_N, q_N == 1)
    chi_N = np.where(none_N, 0.0, 2 * rng.beta(2 + 2 * s_N, 3) - 1)
    mass_N = np.exp(_ln_mass(s_N, q_N, chi_N) + SPREAD * rng.normal(size=rows))
    return {"alpha": alpha_N, "m": mass_N, "q": q_N, "chi_eff": chi_N}


SPREAD = 0.3
"""Of the logarithm of the mass."""


def atomic_log_prob(events_NF: ArrayLike, alpha_N: ArrayLike, probable: float = 1.0) -> Floats:
    """True log density of (m, q, chi_eff), `(N,)`: per unit of those that are at no atom."""
    mass_N, q_N, chi_N = np.asarray(events_NF, float).T
    s_N, equal_N, none_N = _slope(np.asarray(alpha_N, float)), q_N == 1, chi_N == 0
    of_equal_N = probable * _equal(s_N)
    of_none_N = probable * _spinless(s_N, equal_N)
    z_N = (np.log(mass_N) - _ln_mass(s_N, q_N, chi_N)) / SPREAD
    ln_N = -0.5 * z_N**2 - np.log(mass_N * SPREAD * (2 * np.pi) ** 0.5)
    with np.errstate(divide="ignore"):
        ln_q_N = 2 * np.log(q_N) + 0.5 * np.log(1 - q_N) - betaln(3, 1.5)
        ln_chi_N = (1 + 2 * s_N) * np.log(0.5 * (1 + chi_N)) + 2 * np.log(0.5 * (1 - chi_N))
        ln_chi_N -= betaln(2 + 2 * s_N, 3) + np.log(2)
        ln_N += np.where(equal_N, np.log(of_equal_N), np.log1p(-of_equal_N) + ln_q_N)
        return ln_N + np.where(none_N, np.log(of_none_N), np.log1p(-of_none_N) + ln_chi_N)


def _equal(s_N: Floats) -> Floats:
    """Probability of a ratio of 1."""
    return 0.1 + 0.3 * s_N


def _spinless(s_N: Floats, equal_N: NDArray[np.bool_]) -> Floats:
    """Probability of a spin of 0, where the ratio is 1 or not."""
    return np.where(equal_N, 0.3 + 0.4 * s_N, 0.7 - 0.4 * s_N)


def _ln_mass(s_N: Floats, q_N: Floats, chi_N: Floats) -> Floats:
    return 2.5 + 0.5 * s_N + 0.3 * q_N + np.where(chi_N == 0, 0.4, 0.2 * chi_N)


def _possible(events_NF: Floats) -> NDArray[np.bool_]:
    mass_N, q_N, chi_N = events_NF.T
    return (mass_N > 0) & (q_N >= 0) & (q_N <= 1) & (np.abs(chi_N) <= 1)


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
    s_N, place_N = _slope(np.asarray(alpha, float)), np.asarray(place).astype(int)
    mean_N = np.array([2.2, 3.4, 2.5])[place_N] + np.array([0.4, -0.2, 0.1])[place_N] * s_N
    spread_N = np.array([0.35, 0.15, 0.25])[place_N]
    a_N = np.array([6.0, 2.5, 3.0])[place_N] - 1.5 * s_N
    b_N = np.array([1.5, 2.0, 4.0])[place_N]
    return mean_N, spread_N, a_N, b_N, np.array([0.3, -0.4, 0.0])[place_N]


# ---- what is done with every part ----

PARTS: Mapping[str, Callable[[int, np.random.Generator], Iterator[Arm]]] = {
    "bounds": bounds,
    "atoms": atoms,
    "scattered": scattered,
    "categories": categories,
}
"""A function a part, which gives arms of so many rows."""


def write(arm: Arm, folder: Path) -> Dataset:
    """The arm's table as a prepared dataset in the new folder `folder`."""
    with tempfile.TemporaryDirectory(prefix="known-") as draft:
        source = Path(draft) / "known.parquet"
        pq.write_table(pa.table({name: np.asarray(v) for name, v in arm.columns.items()}), source)
        return prepare(
            [source],
            folder,
            event_columns=arm.events,
            condition_columns=arm.conditions,
            **arm.options,
        )


BASES: Mapping[str, tuple[FlowConfig, TrainConfig]] = {
    "normal": (
        FlowConfig(base="normal", blocks=2),
        TrainConfig(learning_rate=1e-2, jitter=0.7, patience=0, device="cpu"),
    ),
    "mixture": (
        FlowConfig(base="mixture", blocks=0),
        TrainConfig(learning_rate=2e-2, jitter=0.0, patience=0, device="cpu"),
    ),
}
"""What is fitted, and how."""


def fit(folder: Path, seconds: float, seed: int, base: str) -> tuple[Any, dict[str, float]]:
    """A flow by so many seconds of processor time, and what it took."""

    def timed(epochs: int) -> tuple[Any, float]:
        start_s = time.process_time()
        flow, _ = train(folder, BASES[base][0], replace(BASES[base][1], epochs=epochs, seed=seed))
        return flow, time.process_time() - start_s

    timed(1)  # the first call pays for what is loaded
    (_, one_s), (_, three_s) = timed(1), timed(3)
    epoch_s = (three_s - one_s) / 2
    epochs = max(2, round((seconds - one_s) / epoch_s))
    flow, took_s = timed(epochs)
    return flow, {"epochs": epochs, "took_s": took_s}


def measure(arm: Arm, folder: Path, flow: Any, seed: int) -> dict[str, float]:
    """What the head of this file lists."""
    dataset, test = Dataset.read(folder), read_split(folder, "test")
    found_N = batched.log_prob(flow, test.events, test.conditions)
    excess_N = arm.log_prob(test) - found_N
    told = report.evaluation(flow, dataset, test.take(slice(EVALUATED)), "test", seed=seed).found
    rng = np.random.default_rng(seed)
    conditions_NC = rng.choice(test.conditions, DRAWS)
    pit = {name: each["ks"] / each["ks_floor"] for name, each in told["calibration"]["pit"].items()}
    return {
        "excess": float(excess_N.mean()),
        "error": float(excess_N.std() / np.sqrt(len(excess_N))),
        "pit": max(pit.values()),
        "level": told["calibration"]["level_ks"] / told["calibration"]["level_ks_floor"],
        "c2st": told["two_sample"]["auc"],
        "c2st_error": told["two_sample"]["error"],
        "outside": float(arm.outside(batched.draw(flow, conditions_NC, rng)).mean()),
        "pit_of": pit,
        **({"between": _excess(arm, flow, arm.between)} if arm.between else {}),
    }


def _excess(arm: Arm, flow: Any, rows: Batch) -> float:
    found_N = batched.log_prob(flow, rows.events, rows.conditions)
    return float((arm.log_prob(rows) - found_N).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=120, help="processor time of a training")
    parser.add_argument("--base", choices=sorted(BASES), default=FlowConfig().base)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--results", type=Path, help="file that a JSON line an arm is added to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.parts.split(","):
        print(f"{name:28}{'excess':>18}{'pit':>6}{'level':>6}{'c2st':>16}{'outside':>9}{'s':>5}")
        for seed in range(options.seeds):
            for arm in PARTS[name](options.rows, np.random.default_rng(seed)):
                with tempfile.TemporaryDirectory(prefix="known-") as draft:
                    folder = Path(draft) / "data"
                    write(arm, folder)
                    flow, took = fit(folder, options.seconds, seed, options.base)
                    found = {**took, **measure(arm, folder, flow, seed)}
                show(arm.name, found)
                if options.results:
                    line = {"part": name, "arm": arm.name, "seed": seed, "rows": options.rows}
                    with options.results.open("a") as file:
                        file.write(json.dumps(line | found) + "\n")


def show(name: str, found: Mapping[str, float]) -> None:
    """One line."""
    print(
        f"{name:28}{found['excess']:9.4f} +-{found['error']:.4f}"
        f"{found['pit']:6.2f}{found['level']:6.2f}"
        f"{found['c2st']:8.4f} +-{found['c2st_error']:.4f}"
        f"{found['outside']:9.2g}{found['took_s']:5.0f}"
        + (f"  between {found['between']:.4f}" if "between" in found else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
