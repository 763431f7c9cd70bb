"""The exact density of an emulator over the plane of its two event columns.

Letters of the arrays:
    N events    K conditions    X, Y pixels along the two axes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

from hpo.pictures import density
from hpo.pictures.cells import At
from hpo.pictures.density import Array, Edges, Plane
from models import Emulator

STRIDE = np.array([0.7548776662466927, 0.5698402909980532])
"""Between places in a pixel that fill it evenly: Roberts (2018), the R2 sequence."""
NEAR = 6
"""Pixels around a drawn event, within which the density is evaluated: what is beyond all of them
is less than what the contours leave out."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The density of an emulator, averaged over conditions."""

    emulator: Emulator
    at: Sequence[At]
    """Every condition, K times."""
    weights_K: Array
    """How much each counts, of one in all."""
    order: Sequence[int] = (0, 1)
    """The event columns across and up."""

    def on(self, edges: Edges, drawn_N2: Array | None = None, times: int = 1) -> Plane:
        """The share of all events in each pixel.

        Args:
            edges: Of the pixels along both axes.
            drawn_N2: Events drawn from it, away from which the density is taken to be 0.
            times: Evaluations in each pixel, at least; one is made in its middle.
        """
        across, up = np.meshgrid(*((e[1:] + e[:-1]) / 2 for e in edges), indexing="ij")
        here_XY, inside = np.ones(across.shape, bool), 1.0
        if drawn_N2 is not None:
            counts_XY = density.counts(drawn_N2, edges)
            inside = counts_XY.sum() / len(drawn_N2)
            here_XY = binary_dilation(counts_XY > 0, iterations=NEAR)
        size, places_N2 = [np.diff(each)[0] for each in edges], np.empty((int(here_XY.sum()), 2))
        often = -(-times // len(self.at))
        held_N = np.zeros(len(places_N2))
        for k in range(often * len(self.at)):
            # Of several, not always the middle: a steep edge would lie between the same two.
            shift = (0.5 + k * STRIDE) % 1 - 0.5
            where = [across[here_XY] + shift[0] * size[0], up[here_XY] + shift[1] * size[1]]
            places_N2[:, self.order] = np.stack(where, axis=1)
            log_N = self.emulator.log_prob(
                places_N2, return_std=False, on_extrapolation="ignore", **self.at[k // often]
            )
            held_N += self.weights_K[k // often] / often * np.exp(log_N)
        held_XY = np.zeros(across.shape)
        held_XY[here_XY] = held_N * size[0] * size[1]
        # What a sum over pixels misses at steep edges is not outside of them.
        return Plane(edges, held_XY, float(held_XY.sum()) / inside if inside else 1.0)
