"""What one does without a flow: a smoothed histogram of each cell, interpolated between the cells.

In each cell of the grid the coordinates log M0 and log(M1/M0), standardised, are counted on a fine
grid and smoothed by normal kernels of several widths, reflected at the ends of the range (so that
an edge at equal masses stays one). A cell's density is a mixture over the widths, of which the
validation rows choose the weights, and of one broad normal for rows far from all others. Between
cells, densities are interpolated linearly in log Z and log alpha.

Arrays end in their axes:
    N rows    C condition columns    B components (widths, and the broad normal)    XY the fine grid
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

Floats = NDArray[np.floating]
Ints = NDArray[np.intp]

BINS = 1024
"""Of each coordinate."""
WIDTHS = np.geomspace(0.006, 0.6, 9)
"""Of kernels, in standard deviations of all rows."""
BROAD = 1.5
"""Standard deviation of the broad normal."""
PRIOR_ROWS = 20
"""Validation rows that the weights of all cells together count for in those of one."""
ITERATIONS = 100
"""Of expectation and maximisation for the weights."""


class SmoothedHistograms:
    """A density for each cell, and between them; physical units."""

    def __init__(self, train: tuple[Floats, Floats], val: tuple[Floats, Floats]) -> None:
        """Args: events, `(N, 2)`, and conditions, `(N, 2)`, of both splits."""
        y_N2 = _log_ratio(train[0])
        self.mean, self.std = y_N2.mean(0), y_N2.std(0)
        y_N2 = (y_N2 - self.mean) / self.std
        self.low, self.bin = y_N2.min(0), np.ptp(y_N2, axis=0) / BINS
        self.grid = [np.unique(column) for column in train[1].T]
        cells = list(product(*map(range, map(len, self.grid))))
        rows = {cell: self._coordinates(*_in_cell(train, self._values(cell))) for cell in cells}
        held = {cell: self._coordinates(*_in_cell(val, self._values(cell))) for cell in cells}
        at = {cell: self._of_widths(rows[cell], held[cell]) for cell in cells if len(rows[cell])}
        shared_B = _mixed(np.concatenate(list(at.values())), np.full(len(WIDTHS) + 1, 1.0))
        self.weights = {cell: _mixed(at[cell], shared_B * PRIOR_ROWS) for cell in at}
        self.densities = {
            cell: idctn(self._waves(rows[cell]) * self._kernel(self.weights[cell])) for cell in at
        }

    @property
    def parameters(self) -> int:
        """Numbers that it keeps."""
        return len(self.densities) * (BINS**2 + len(WIDTHS) + 1)

    def log_prob(self, events_N2: Floats, conditions_NC: Floats) -> Floats:
        """Log density of events, `(N,)`."""
        y_N2 = self._coordinates(np.asarray(events_N2, float))
        below_NC, share_NC = zip(
            *(_place(axis, c_N) for axis, c_N in zip(self.grid, conditions_NC.T, strict=True)),
            strict=True,
        )
        density_N = np.zeros(len(y_N2))
        for corner in product((0, 1), repeat=len(self.grid)):
            cells_NC = np.stack([b + up for b, up in zip(below_NC, corner, strict=True)], 1)
            weight_N = np.prod(
                [s if up else 1 - s for s, up in zip(share_NC, corner, strict=True)], axis=0
            )
            for cell in np.unique(cells_NC[weight_N > 0], axis=0):
                here = np.flatnonzero((cells_NC == cell).all(1) & (weight_N > 0))
                density_N[here] += weight_N[here] * self._density(tuple(cell), y_N2[here])
        jacobian_N = np.log(events_N2).sum(1) + np.log(self.std).sum()
        return np.log(density_N) - jacobian_N

    def sample(self, conditions_NC: Floats, rng: np.random.Generator) -> Floats:
        """One event under each condition, `(N, 2)`: from one cell of those around it."""
        places = [_place(axis, c_N) for axis, c_N in zip(self.grid, conditions_NC.T, strict=True)]
        cells_NC = np.stack([below_N + (rng.random(len(s_N)) < s_N) for below_N, s_N in places], 1)
        y_N2 = np.empty((len(cells_NC), 2))
        for cell in np.unique(cells_NC, axis=0):
            here = np.flatnonzero((cells_NC == cell).all(1))
            y_N2[here] = self._drawn(tuple(cell), len(here), rng)
        log_0, log_ratio = (y_N2 * self.std + self.mean).T
        return np.exp(np.stack([log_0, log_0 + log_ratio], 1))

    def _values(self, cell: tuple[int, ...]) -> Floats:
        return np.array([axis[i] for axis, i in zip(self.grid, cell, strict=True)])

    def _coordinates(self, events_N2: Floats) -> Floats:
        return (_log_ratio(events_N2) - self.mean) / self.std

    def _bins(self, y_N2: Floats) -> tuple[Ints, NDArray[np.bool_]]:
        """The bin of each event, and whether it is in the range."""
        at_N2 = (y_N2 - self.low) / self.bin
        inside_N = ((at_N2 >= 0) & (at_N2 <= BINS)).all(1)
        return np.clip(at_N2.astype(int), 0, BINS - 1), inside_N

    def _waves(self, y_N2: Floats) -> Floats:
        """The counts over the fine grid as cosines, which end at the range as mirrored rows do."""
        bins_N2, _ = self._bins(y_N2)
        count_XY = np.bincount(bins_N2 @ [BINS, 1], minlength=BINS**2).reshape(BINS, BINS)
        waves_XY: Floats = dctn((count_XY / (len(y_N2) * self.bin.prod())).astype(np.float32))
        return waves_XY

    def _kernel(self, weights_B: Floats) -> Floats:
        """By what kernels of these weights multiply each wave."""
        waves_X2 = np.pi * np.arange(BINS)[:, None] / (BINS * self.bin)
        kernel_XY = np.zeros((BINS, BINS), np.float32)
        for weight, width in zip(weights_B, WIDTHS, strict=False):
            along_X, along_Y = np.exp(-0.5 * (width * waves_X2.T) ** 2)
            kernel_XY += (weight * np.outer(along_X, along_Y)).astype(np.float32)
        return kernel_XY

    def _of_widths(self, y_N2: Floats, held_N2: Floats) -> Floats:
        """The density of other rows by each component, `(N, B)`."""
        bins_N2, inside_N = self._bins(held_N2)
        waves_XY, found = self._waves(y_N2), []
        for one_B in np.eye(len(WIDTHS)):
            smooth_XY = idctn(waves_XY * self._kernel(one_B))
            found.append(np.where(inside_N, _positive(smooth_XY[tuple(bins_N2.T)]), 0))
        return np.stack([*found, _broad(held_N2)], 1)

    def _density(self, cell: tuple[int, ...], y_N2: Floats) -> Floats:
        bins_N2, inside_N = self._bins(y_N2)
        kernels_N = np.where(inside_N, _positive(self.densities[cell][tuple(bins_N2.T)]), 0)
        density_N: Floats = kernels_N + self.weights[cell][-1] * _broad(y_N2)
        return density_N

    def _drawn(self, cell: tuple[int, ...], n: int, rng: np.random.Generator) -> Floats:
        broad = rng.binomial(n, self.weights[cell][-1])
        cumulated = np.cumsum(_positive(self.densities[cell]), dtype=float)
        flat = np.searchsorted(cumulated, rng.random(n - broad) * cumulated[-1])
        at_N2 = np.stack(np.divmod(np.minimum(flat, BINS**2 - 1), BINS), 1)
        kernels_N2 = self.low + (at_N2 + rng.random((n - broad, 2))) * self.bin
        broad_N2 = BROAD * rng.standard_normal((broad, 2))
        return rng.permutation(np.concatenate([kernels_N2, broad_N2]))


def _log_ratio(events_N2: Floats) -> Floats:
    return np.log(np.stack([events_N2[:, 0], events_N2[:, 1] / events_N2[:, 0]], 1, dtype=float))


def _in_cell(rows: tuple[Floats, Floats], values_C: Floats) -> tuple[Floats]:
    return (rows[0][(rows[1] == values_C).all(1)],)


def _positive(density: Floats) -> Floats:
    """Without what rounding leaves below zero."""
    return np.maximum(density, 0)


def _broad(y_N2: Floats) -> Floats:
    return np.exp(-0.5 * (y_N2**2).sum(1) / BROAD**2) / (2 * np.pi * BROAD**2)


def _mixed(density_NB: Floats, prior_B: Floats) -> Floats:
    """The most likely weights of a mixture under so many rows known beforehand."""
    weights_B = prior_B / prior_B.sum()
    for _ in range(ITERATIONS):
        share_NB = density_NB * weights_B
        share_NB /= share_NB.sum(1, keepdims=True)
        weights_B = share_NB.sum(0) + prior_B
        weights_B = weights_B / weights_B.sum()
    return weights_B


def _place(axis: Floats, c_N: Floats) -> tuple[Ints, Floats]:
    """Between which values of the grid, and how far along in the logarithm; ends beyond them."""
    below_N = np.clip(np.searchsorted(axis, c_N, side="right") - 1, 0, len(axis) - 2)
    low_N, high_N = axis[below_N].astype(float), axis[below_N + 1].astype(float)
    return below_N, np.clip(np.log(c_N / low_N) / np.log(high_N / low_N), 0, 1)
