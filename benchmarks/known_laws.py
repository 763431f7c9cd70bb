"""Known densities on columns with bounds and with atoms, and tables of their rows.

Array names end in their axes:
    N rows    F event columns    C conditions
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, ndtr, ndtri

from data_prep.dataset import Dataset
from data_prep.preparation.prepare import prepare
from data_prep.stream import Batch

Floats = NDArray[np.float64]

ALPHA_GRID = np.array([0.5, 1.0, 2.0, 4.0])
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
    s_N, (u_N, v_N, w_N) = slope(alpha_N), rng.random((3, rows))
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
    s_N = slope(np.asarray(alpha, float))
    log_N = np.log(redshift_N)
    ln_N = -0.5 * ((log_N - 0.3 * s_N + 0.2) / 0.6) ** 2 - log_N - np.log(0.6 * (2 * np.pi) ** 0.5)
    power_N = (2 + 2 * s_N) * q_N ** (1 + 2 * s_N)
    ln_N += np.log(_piled(s_N) * pile_N + (1 - _piled(s_N)) * power_N)
    a_N = 3 + 3 * s_N + 2 * q_N
    with np.errstate(divide="ignore"):
        ln_beta_N = (a_N - 1) * np.log(spin_N) + 2 * np.log1p(-spin_N) - betaln(a_N, 3)
    ln_N += np.log(LEVEL + (1 - LEVEL) * np.exp(ln_beta_N))
    return ln_N - np.log(2) - 0.5 * np.log(np.maximum(e_N, 1e-45))


def slope(alpha_N: Floats) -> Floats:
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
    s_N, (u_N, v_N) = slope(alpha_N), rng.random((2, rows))
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
    s_N, equal_N, none_N = slope(np.asarray(alpha_N, float)), q_N == 1, chi_N == 0
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
