"""The classifier two-sample test: can a network tell drawn events from the data's?

It sees all columns and the conditions at once, so also what no distance of one column shows. An
accuracy of 0.5 on events that it was not trained on is a coin's: nothing was found to tell by.

Axes:
    N rows    F event columns    C conditions    I inputs

Lopez-Paz & Oquab (2017), https://arxiv.org/abs/1610.06545
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PAIRS = 10_000
"""Events of the data at most, with as many drawn: 20,000 rows."""
FOLDS = 2
HIDDEN = 64
EPOCHS = 30
BATCH = 256
LEARNING_RATE = 5e-3
WEIGHT_DECAY = 1e-4
FAR = 10.0
"""Standard deviations at which an input is cut off; where one goes that is not finite."""


@dataclass(frozen=True, slots=True)
class TwoSample:
    """Outcome of the test."""

    accuracy: float
    """On rows that the classifier was not trained on: 0.5 if nothing tells them apart, 1 if all."""
    error: float
    """Standard error, binomial."""
    rows: int
    """Events of the data and drawn ones together."""


def two_sample(
    events_NF: NDArray[Any],
    drawn_NF: NDArray[Any],
    conditions_NC: NDArray[Any],
    *,
    most: int = PAIRS,
    seed: int = 0,
) -> TwoSample:
    """How often a classifier is right: see `right`."""
    return outcome(right(events_NF, drawn_NF, conditions_NC, most=most, seed=seed))


def outcome(right_2N: NDArray[np.bool_]) -> TwoSample:
    """The fraction of answers that are right."""
    # As of a coin, which is what it is held against: an accuracy of 1 has no spread of its own.
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
    """Train a classifier on one half of the rows and ask it about the other, both ways.

    An event and the one drawn at its conditions are in the same half: else a network that knows
    the conditions of one by heart would be wrong about the other.

    Args:
        events_NF: Of the data, each column in its own unit; at least `FOLDS` rows.
        drawn_NF: One for each, at the same conditions.
        conditions_NC: Of both.
        most: Events at most, chosen at random.
        seed: Of the choice and the training. On one thread of the CPU, so repeatable.

    Returns:
        Whether each answer is right, `(2, N)`: about the chosen events of the data and about those
        drawn at their conditions. Which are chosen depends on seed and number of events alone.
    """
    chosen = np.random.default_rng(seed).permutation(len(events_NF))[:most]
    inputs_2NI = _inputs(events_NF[chosen], drawn_NF[chosen], conditions_NC[chosen])
    folds = np.array_split(np.arange(len(chosen)), FOLDS)
    right_2N = np.empty((2, len(chosen)), bool)
    with _alone(seed):
        for fold in folds:
            rest = np.setdiff1d(np.arange(len(chosen)), fold)
            classifier = _trained(*_labelled(inputs_2NI[:, rest]))
            x_NI, label_N = _labelled(inputs_2NI[:, fold])
            with torch.no_grad():
                answer_N = (classifier(x_NI)[:, 0] > 0) == (label_N > 0)
            right_2N[:, fold] = answer_N.reshape(2, -1).numpy()
    return right_2N


def _inputs(events_NF: NDArray[Any], drawn_NF: NDArray[Any], conditions_NC: NDArray[Any]) -> Tensor:
    """What the network sees, `(2, N, I)`: the data's, then the drawn; standardised together."""
    both_2NI = np.stack(
        [
            np.concatenate([each, conditions_NC], axis=1).astype(np.float64)
            for each in (events_NF, drawn_NF)
        ]
    )
    # A log where the data allows: masses and metallicities span decades.
    positive_I = (both_2NI[0] > 0).all(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        both_2NI = np.where(positive_I, np.log(both_2NI), both_2NI)
    # By the data alone: a drawn event far out must not squeeze all others together.
    spread_I = both_2NI[0].std(axis=0)
    y_2NI = (both_2NI - both_2NI[0].mean(axis=0)) / np.where(spread_I > 0, spread_I, 1.0)
    y_2NI = np.nan_to_num(y_2NI, nan=FAR, posinf=FAR, neginf=-FAR).clip(-FAR, FAR)
    return torch.from_numpy(y_2NI.astype(np.float32))


def _labelled(inputs_2NI: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of both kinds, and 1 for the drawn ones."""
    rows = inputs_2NI.shape[1]
    return inputs_2NI.flatten(0, 1), torch.cat([torch.zeros(rows), torch.ones(rows)])


def _trained(x_NI: Tensor, label_N: Tensor) -> nn.Module:
    classifier = nn.Sequential(
        nn.Linear(x_NI.shape[1], HIDDEN),
        nn.SiLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.SiLU(),
        nn.Linear(HIDDEN, 1),
    )
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    steps = EPOCHS * math.ceil(len(x_NI) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x_NI)), BATCH):
            logit_N = classifier(x_NI[rows])[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logit_N, label_N[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return classifier


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread and a seed of its own; both as they were afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
