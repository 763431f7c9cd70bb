"""Weighted rows: how many equal ones would tell as much, and what their means are.

A row of weight w counts as w equal rows in every mean, fraction and distribution function; it tells
no more than one. So the errors and floors of statistics go by effective rows. None in the place of
weights means that all rows count alike, and gives the plain statistic to the last bit.

Axes:
    N rows

Kish (1965), Survey Sampling, section 11.7: effective rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[Any] | None


def effective(weights_N: Weights, rows: int) -> float:
    """Equal rows whose mean has as large an error, (sum w)^2 / sum w^2."""
    if weights_N is None or not rows:
        return float(rows)
    # Shares of the whole first: squares of very large or small weights have no double.
    share_N = shares(weights_N)
    return 1 / float(share_N @ share_N)


def shares(weights_N: NDArray[Any]) -> NDArray[np.float64]:
    """The weights as parts of their sum."""
    share_N: NDArray[np.float64] = weights_N / np.sum(weights_N, dtype=np.float64)
    return share_N


def ratios(weights_N: Weights) -> NDArray[np.float64] | None:
    """The weight of each row over the mean of all."""
    return None if weights_N is None else len(weights_N) * shares(weights_N)


def of(weights_N: Weights, chosen: Any) -> Weights:
    """The weights of chosen rows."""
    return None if weights_N is None else weights_N[chosen]


def joined(weights: Sequence[Weights]) -> Weights:
    """The weights of several sets of rows, one after the other; all have some or none has."""
    some = [each for each in weights if each is not None]
    return np.concatenate(some) if some else None


def error_of_mean(values_N: NDArray[Any], weights_N: Weights) -> float:
    """Standard error of the mean, from the spread over rows.

    Of weighted rows sqrt(sum w^2 (x - mean)^2) / sum w, that of a ratio of two sums.

    Source:
        Cochran (1977), Sampling Techniques, equation 6.4 (with the residuals of the ratio).
    """
    if weights_N is None:
        return float(values_N.std()) / math.sqrt(len(values_N))
    share_N = shares(weights_N)
    return float(np.sqrt(((share_N * (values_N - share_N @ values_N)) ** 2).sum()))


def mean_and_spread(values_N: NDArray[Any], weights_N: Weights) -> tuple[float, float]:
    """The mean, and the standard deviation around it."""
    mean = np.average(values_N, weights=weights_N)
    return float(mean), math.sqrt(np.average((values_N - mean) ** 2, weights=weights_N))


def quantile(values_N: NDArray[Any], fractions: Any, weights_N: Weights = None) -> NDArray[Any]:
    """The values below which these fractions of the rows lie; weighted, they are rows' values."""
    if weights_N is None:
        return np.asarray(np.quantile(values_N, fractions))
    found = np.quantile(values_N, fractions, weights=weights_N, method="inverted_cdf")
    return np.asarray(found)
