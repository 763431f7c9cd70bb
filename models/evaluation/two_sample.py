"""The classifier two-sample test: can boosted trees tell drawn events from the data's?

The classifier sees all columns and the conditions at once, so it also finds what no distance of one
column shows. An accuracy of 0.5 on events outside its training is that of a coin: it found nothing
to tell by.

Axes:
    N rows    F event columns    C conditions    I inputs

Lopez-Paz & Oquab (2017), https://arxiv.org/abs/1610.06545
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAIRS = 10_000
"""Events of the data at most, with as many drawn: 20,000 rows."""
FOLDS = 5


@dataclass(frozen=True, slots=True)
class TwoSample:
    """Outcome of the test."""

    accuracy: float
    """On rows outside the classifier's training: 0.5 if nothing tells them apart, 1 if all."""
    error: float
    """Standard error, binomial."""
    rows: int
    """Events of the data and drawn ones together."""


def outcome(right_2N: NDArray[np.bool_]) -> TwoSample:
    """The fraction of answers that are right."""
    # The error of a coin, since the accuracy is compared with a coin's: an accuracy of 1 has no
    # spread of its own.
    rows = right_2N.size
    return TwoSample(float(right_2N.mean()), math.sqrt(0.25 / rows), rows)


def right(
    events_NF: NDArray[Any],
    drawn_NF: NDArray[Any],
    conditions_NC: NDArray[Any],
    *,
    most: int = PAIRS,
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Train a classifier without one fold of the rows and ask it about that fold, for each fold.

    An event and the one drawn at its conditions are in one fold: else a classifier that knows the
    conditions of one by heart would be wrong about the other.

    There are at least two events of the data, each column in its own unit, and one drawn event for
    each; `most` events are chosen at random. The training is repeatable: it uses one thread.

    Returns:
        Whether each answer is right, `(2, N)`: about the chosen events of the data and about those
        drawn at their conditions. Which are chosen depends on seed and number of events alone.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    chosen = np.random.default_rng(seed).permutation(len(events_NF))[:most]
    inputs_2NI = np.stack(
        [np.concatenate([each, conditions_NC], axis=1)[chosen] for each in (events_NF, drawn_NF)]
    )
    inputs_2NI[~np.isfinite(inputs_2NI)] = np.nan  # trees take it for a value of its own
    right_2N = np.empty((2, len(chosen)), bool)
    with threadpool_limits(1):
        for fold in np.array_split(np.arange(len(chosen)), min(FOLDS, len(chosen))):
            classifier = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
            others_2NI, inputs = np.delete(inputs_2NI, fold, axis=1), inputs_2NI.shape[-1]
            # Rows of both kinds one below the other, and 1 for the drawn ones.
            label_N = np.repeat([0, 1], others_2NI.shape[1])
            classifier.fit(others_2NI.reshape(-1, inputs), label_N)
            answer_N = classifier.predict(inputs_2NI[:, fold].reshape(-1, inputs))
            right_2N[:, fold] = answer_N.reshape(2, -1) == [[0], [1]]
    return right_2N
