"""Means over test rows and seeds, with standard errors of both.

Every flow is measured on the same rows, so that what a hard row costs them all cancels in a
difference or a ratio.

Array names end in their axes:
    S seeds    N rows
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A figure, and how far it is off by chance of the seeds and of the rows."""

    value: float
    seeds: float
    """nan where there is but one seed."""
    rows: float

    @property
    def error(self) -> float:
        """Both together; of the rows alone where there is one seed."""
        return math.hypot(0.0 if math.isnan(self.seeds) else self.seeds, self.rows)

    @classmethod
    def of(cls, losses_SN: Floats) -> Self:
        """The mean of losses."""
        means_S, loss_N = losses_SN.mean(1), losses_SN.mean(0)
        return cls(float(loss_N.mean()), _of_seeds(means_S), _of_rows(loss_N))

    @classmethod
    def ratio(cls, ours_SN: Floats, others_SN: Floats) -> Self:
        """The mean of losses over the mean of others, to first order in their errors."""
        ours, others = ours_SN.mean(), others_SN.mean()
        value = float(ours / others)
        rest_N = (ours_SN.mean(0) - value * others_SN.mean(0)) / others
        seeds = [_of_seeds(ours_SN.mean(1) / others), _of_seeds(value * others_SN.mean(1) / others)]
        return cls(value, math.hypot(*seeds), _of_rows(rest_N))


def mixed(log_prob_SN: Floats) -> Floats:
    """Log of the mean of several densities, `(N,)`."""
    together_N: Floats = np.logaddexp.reduce(log_prob_SN) - math.log(len(log_prob_SN))
    return together_N


def _of_seeds(means_S: Floats) -> float:
    if len(means_S) < 2:
        return math.nan
    return float(means_S.std(ddof=1) / math.sqrt(len(means_S)))


def _of_rows(loss_N: Floats) -> float:
    return float(loss_N.std() / math.sqrt(len(loss_N)))
