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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.evaluation.weighted import Weights, effective, shares

PAIRS = 10_000
"""Events of the data at most, with as many drawn: 20,000 rows."""
FOLDS = 5


@dataclass(frozen=True, slots=True)
class TwoSample:
    """Outcome of the test."""

    accuracy: float
    """On rows outside the classifier's training: 0.5 if nothing tells them apart, 1 if all."""
    error: float
    """Standard error, binomial, of the effective rows."""
    rows: int
    """Events of the data and drawn ones together."""
    effective_rows: float
    """Rows of equal weight that would tell as much: all, where the events have no weights."""


class Answers(NamedTuple):
    """A classifier's answers about events of the data and those drawn at their conditions."""

    right_2N: NDArray[np.bool_]
    """Whether each is right: about the events of the data, and about the drawn ones."""
    weights_N: Weights
    """Of the events, if they have some; the one drawn there weighs the same."""


def outcome(answers: Answers) -> TwoSample:
    """The fraction of answers that are right."""
    # The error of a coin, since the accuracy is compared with a coin's: an accuracy of 1 has no
    # spread of its own.
    right_2N, weights_N = answers
    rows = 2 * effective(weights_N, right_2N.shape[1])
    accuracy = float(np.average(right_2N.mean(axis=0), weights=weights_N))
    return TwoSample(accuracy, math.sqrt(0.25 / rows), right_2N.size, rows)


def right(
    events_NF: NDArray[Any],
    drawn_NF: NDArray[Any],
    conditions_NC: NDArray[Any],
    *,
    weights_N: Weights = None,
    most: int = PAIRS,
    seed: int = 0,
) -> Answers:
    """Train a classifier without one fold of the rows and ask it about that fold, for each fold.

    An event and the one drawn at its conditions are in one fold: else a classifier that knows the
    conditions of one by heart would be wrong about the other.

    There are at least two events of the data, each column in its own unit, and one drawn event for
    each; `most` events are chosen at random. The training is repeatable: it uses one thread. In it,
    an event and the one drawn at its conditions have the event's weight.

    Returns:
        The answers about the chosen events, `(2, N)`. Which are chosen depends on seed and number
        of events alone.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    chosen = np.random.default_rng(seed).permutation(len(events_NF))[:most]
    inputs_2NI = np.stack(
        [np.concatenate([each, conditions_NC], axis=1)[chosen] for each in (events_NF, drawn_NF)]
    )
    weights_N = None if weights_N is None else len(chosen) * shares(weights_N[chosen])
    inputs_2NI[~np.isfinite(inputs_2NI)] = np.nan  # trees take it for a value of its own
    right_2N = np.empty((2, len(chosen)), bool)
    with threadpool_limits(1):
        for fold in np.array_split(np.arange(len(chosen)), min(FOLDS, len(chosen))):
            classifier = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
            others_2NI, inputs = np.delete(inputs_2NI, fold, axis=1), inputs_2NI.shape[-1]
            # Rows of both kinds one below the other, and 1 for the drawn ones.
            label_N = np.repeat([0, 1], others_2NI.shape[1])
            weights = None if weights_N is None else np.tile(np.delete(weights_N, fold), 2)
            classifier.fit(others_2NI.reshape(-1, inputs), label_N, weights)
            answer_N = classifier.predict(inputs_2NI[:, fold].reshape(-1, inputs))
            right_2N[:, fold] = answer_N.reshape(2, -1) == [[0], [1]]
    return Answers(right_2N, weights_N)
