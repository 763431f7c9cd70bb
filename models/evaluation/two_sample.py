"""The classifier two-sample test: can boosted trees tell drawn events from the data's?

The classifier sees all columns, their ratios and the conditions at once, so it also finds what no
distance of one column shows. What it found is told by the area under its curve (AUC): how often it
takes a drawn event for likelier drawn than an event of the data. An exact emulator has 0.5, and so
have two halves of the data, of which the same is asked: that is what the test gives where there
is nothing to find.

It learns from another part of the data than it is asked about. With folds of one part, each
classifier learns from the rows that the others are asked about, and the AUC of like events varies
more than its error says: 1.6 +- 0.2 times in 15 samples of 600 rows.

Axes:
    N events    F event columns    C conditions    I inputs    K an event, then the drawn ones
    M rows

Lopez-Paz & Oquab (2017), https://arxiv.org/abs/1610.06545
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.stream import Batch
from models.evaluation.cells import CellRows
from models.evaluation.nll import mean_of
from models.evaluation.weighted import Weights, effective, of, shares

PAIRS = 20_000
"""Events of either part of the data at most."""
DRAWS = 3
"""Events drawn at the conditions of each: the more, the smaller the error by the draws."""
FOLDS = 3
TREES = {"learning_rate": 0.1, "max_iter": 60, "max_leaf_nodes": 6, "min_samples_leaf": 50}
"""Which tell drawn events: few small ones, since what is left to find is faint."""
OWN_TREES = {"learning_rate": 0.15, "max_iter": 80}
"""Which tell how well an event suits its conditions."""


@dataclass(frozen=True, slots=True)
class TwoSample:
    """Outcome of the test."""

    auc: float
    """0.5 if nothing tells drawn events from the data's, 1 if all does."""
    error: float
    """Standard error; not a number of one event."""
    rows: int
    """Events of the data and drawn ones together."""
    effective_rows: float
    """Rows of equal weight that would tell as much: all, where the events have no weights."""


class Beside(NamedTuple):
    """Events of the data, and those that are held against each."""

    inputs_KNI: NDArray[np.float64]
    """The last are the conditions."""
    conditions: int
    weights_KN: Weights
    rows_N: NDArray[np.intp]
    """The place of each event in its part of the data."""

    @property
    def share_KN(self) -> NDArray[np.float64]:
        """What each counts: either kind as much as the other, and all events as many as they are.

        The first kind is the data's.
        """
        kinds, rows = self.inputs_KNI.shape[:2]
        weights_KN = np.ones((kinds, rows)) if self.weights_KN is None else self.weights_KN
        of_draws = shares(weights_KN[1:])
        return np.concatenate([shares(weights_KN[0])[None], of_draws]) * float(rows)


class Answers(NamedTuple):
    """How much a classifier takes each event for a drawn one."""

    scores_KN: NDArray[np.float64]
    """Of an event of the data, and of those drawn at its conditions."""
    share_KN: NDArray[np.float64]
    """What they count, as of `Beside`."""
    rows_N: NDArray[np.intp]
    """The place of each event in the data."""

    def among(self, chosen_N: NDArray[np.bool_]) -> Answers:
        """Those of chosen events."""
        scores_KN, share_KN = self.scores_KN[:, chosen_N], self.share_KN[:, chosen_N]
        return Answers(scores_KN, share_KN, self.rows_N[chosen_N])


def outcome(answers: Answers) -> TwoSample:
    """The AUC; there is an answer at least."""
    found = mean_of(parts(answers))
    rows = sum(effective(each, len(each)) for each in answers.share_KN)
    return TwoSample(found.mean, found.error, answers.scores_KN.size, rows)


def parts(answers: Answers) -> NDArray[np.float64]:
    """The part of each event, and of those drawn with it, in the AUC: their mean is the AUC.

    They count as one, since they share their conditions: the standard error of the mean is that of
    the AUC.

    Source:
        DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44, 837; Obuchowski (1997), Biometrics
        53, 567: rows that belong together.
    """
    (own_N, *drawn), rows = answers.scores_KN, len(answers.rows_N)
    share_N, shares_KN = shares(answers.share_KN[0]), shares(answers.share_KN[1:])
    above_N = 1 - _below(own_N, np.concatenate(drawn), shares_KN.ravel())
    below_KN = np.stack([_below(each, own_N, share_N) for each in drawn])
    auc = float(share_N @ above_N)
    part_N = share_N * (above_N - auc) + (shares_KN * (below_KN - auc)).sum(axis=0)
    return np.asarray(auc + rows * part_N)


def beside_draws(
    part: Batch,
    drawn: Sequence[NDArray[Any]],
    columns: Sequence[Column] = (),
    *,
    most: int = PAIRS,
    seed: int = 0,
) -> Beside:
    """Events of the data, and those drawn at their conditions, which have their weight.

    In each of `drawn` there is one for each event; `most` events are chosen at random, which
    depends on seed and number of events alone. `columns` are those whose ratios are inputs, too.
    """
    chosen_N = np.random.default_rng(seed).permutation(len(part.events))[:most]
    c_NC = part.conditions[chosen_N]
    inputs = [_inputs(each[chosen_N], c_NC, columns) for each in (part.events, *drawn)]
    own_N = of(part.weights, chosen_N)
    weights_KN = None if own_N is None else np.stack([own_N] * len(inputs))
    return Beside(np.stack(inputs), c_NC.shape[1], weights_KN, chosen_N)


def beside_halves(
    part: Batch,
    cells: Sequence[NDArray[np.intp]],
    columns: Sequence[Column] = (),
    *,
    most: int = PAIRS,
    seed: int = 0,
) -> Beside:
    """One half of the data, and the other, with equally many rows of each cell.

    `cells` are the rows of each.
    """
    rng = np.random.default_rng(seed)
    halves = [rng.permutation(rows)[: len(rows) // 2 * 2].reshape(2, -1) for rows in cells]
    rows_2N = rng.permutation(np.concatenate(halves, axis=1), axis=1)[:, :most]
    inputs = [_inputs(part.events[rows], part.conditions[rows], columns) for rows in rows_2N]
    return Beside(np.stack(inputs), part.conditions.shape[1], of(part.weights, rows_2N), rows_2N[0])


def real_against_real(
    dataset: Dataset, test: Batch, other: Batch, *, seed: int = 0
) -> TwoSample | None:
    """The outcome for two halves of the data; None of too few rows."""
    learnt, asked = (
        beside_halves(part, CellRows.of(part, dataset).rows, dataset.event_columns, seed=seed)
        for part in (other, test)
    )
    answers = ask(learnt, asked, seed=seed)
    return outcome(answers) if answers else None


def ask(learnt: Beside, asked: Beside, *, seed: int = 0) -> Answers | None:
    """Train a classifier on one part of the data and ask it about another.

    It weighs two scores: that of trees which tell drawn events from the data's, and that of trees
    which tell how well an event suits its conditions. Events that lie in the place of another cell
    show in neither events nor conditions alone, of which both kinds have the same, and trees,
    which look at one input at a time, hardly find them. The weights are fitted to scores of events
    outside the trees' training: an event and those drawn with it are in one fold, since trees know
    conditions by heart.

    None where either part has fewer than two events. The training is repeatable: it uses one
    thread.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    if min(len(learnt.rows_N), len(asked.rows_N)) < 2:
        return None
    folds = min(FOLDS, len(learnt.rows_N))
    learnt_KN2, asked_KN2 = (np.zeros((*each.share_KN.shape, 2)) for each in (learnt, asked))
    drawn_KN = np.ones(learnt.share_KN.shape)
    drawn_KN[0] = 0
    with threadpool_limits(1):
        for fold_N in np.arange(len(learnt.rows_N)) % folds == np.arange(folds)[:, None]:
            taught = learnt.inputs_KNI[:, ~fold_N], learnt.share_KN[:, ~fold_N]
            both = _telling(*taught, seed), _suiting(*taught, learnt.conditions, seed)
            for k, trees in enumerate(both):
                learnt_KN2[:, fold_N, k] = _score(trees, learnt.inputs_KNI[:, fold_N])
                asked_KN2[..., k] += _score(trees, asked.inputs_KNI) / folds
        weighed = LogisticRegression().fit(
            learnt_KN2.reshape(-1, 2), drawn_KN.ravel(), learnt.share_KN.ravel()
        )
        scores_M = weighed.decision_function(asked_KN2.reshape(-1, 2))
    return Answers(scores_M.reshape(asked.share_KN.shape), asked.share_KN, asked.rows_N)


def _score(trees: Any, inputs_KNI: NDArray[np.float64]) -> NDArray[np.float64]:
    score_M = trees.decision_function(inputs_KNI.reshape(-1, inputs_KNI.shape[-1]))
    found: NDArray[np.float64] = score_M.reshape(inputs_KNI.shape[:-1])
    return found


def _telling(inputs_KNI: NDArray[Any], share_KN: NDArray[Any], seed: int) -> Any:
    """Trees that tell drawn events from the data's."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    drawn_KN = np.broadcast_to(np.arange(len(share_KN))[:, None] > 0, share_KN.shape)
    trees = HistGradientBoostingClassifier(**TREES, early_stopping=False, random_state=seed)
    rows_MI = inputs_KNI.reshape(-1, inputs_KNI.shape[-1])
    return trees.fit(rows_MI, drawn_KN.ravel(), share_KN.ravel())


def _suiting(inputs_KNI: NDArray[Any], share_KN: NDArray[Any], conditions: int, seed: int) -> Any:
    """Trees that tell rows from rows with the conditions of others."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows_MI = inputs_KNI.reshape(-1, inputs_KNI.shape[-1])
    # Drawn with replacement: of a permutation the trees' first split would gain exactly nothing.
    others_M = np.random.default_rng(seed).integers(len(rows_MI), size=len(rows_MI))
    mixed_MI, events = rows_MI.copy(), inputs_KNI.shape[-1] - conditions
    mixed_MI[:, events:] = rows_MI[others_M, events:]
    both_MI, own_M = np.concatenate([rows_MI, mixed_MI]), np.repeat([1, 0], len(rows_MI))
    trees = HistGradientBoostingClassifier(**OWN_TREES, early_stopping=False, random_state=seed)
    return trees.fit(both_MI, own_M, np.tile(share_KN.ravel(), 2))


def _inputs(
    events_NF: NDArray[Any], conditions_NC: NDArray[Any], columns: Sequence[Column]
) -> NDArray[np.float64]:
    """Events, the ratio of each two columns that are positive and of one unit, and conditions."""
    pairs = [
        (a, b)
        for a, b in itertools.combinations(range(len(columns)), 2)
        if columns[a].positive and columns[b].positive and columns[a].unit == columns[b].unit
    ]
    with np.errstate(all="ignore"):
        events_NF = events_NF.astype(np.float32)  # as the data are kept: no digit tells them apart
        ratios = [events_NF[:, b, None] / events_NF[:, a, None] for a, b in pairs]
    inputs_NI = np.concatenate([events_NF, *ratios, conditions_NC], axis=1, dtype=np.float64)
    inputs_NI[~np.isfinite(inputs_NI)] = np.nan  # trees take it for a value of its own
    return inputs_NI


def _below(
    values: NDArray[np.float64], others: NDArray[np.float64], share: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of each value, the share of others below it, and half of that of others equal to it."""
    order = np.argsort(others)
    sums = np.concatenate([[0.0], np.cumsum(share[order])])
    first, last = (np.searchsorted(others[order], values, side) for side in ("left", "right"))
    found: NDArray[np.float64] = (sums[first] + sums[last]) / 2
    return found
