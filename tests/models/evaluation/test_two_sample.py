"""The two-sample test on samples that are, or are not, of one density."""

import math

import numpy as np
import pytest
import torch

from data_prep.columns import Column
from data_prep.stream import Batch
from models.evaluation.nll import mean_of
from models.evaluation.two_sample import Answers, ask, beside_draws, beside_halves, outcome, parts


def two_sample(events, drawn, conditions, **options):
    """Learn from one half of the rows and ask about the other."""
    drawn, middle = drawn if isinstance(drawn, list) else [drawn], len(events) // 2
    halves = (slice(middle), slice(middle, None))
    learnt, asked = (
        beside_draws(Batch(events[k], conditions[k]), [each[k] for each in drawn], **options)
        for k in halves
    )
    return outcome(ask(learnt, asked, seed=options.get("seed", 0)))


def sample(rows, seed):
    rng = np.random.default_rng(seed)
    conditions = rng.choice([0.0001, 0.01], size=(rows, 1))
    return rng.lognormal(np.log10(conditions), 0.4, size=(rows, 2)), conditions


@pytest.mark.parametrize("continuous", [False, True])
def test_nothing_tells_like_events_apart(continuous):
    """Two draws at the same conditions; also where every event has conditions of its own."""
    rng = np.random.default_rng(0)
    conditions = rng.uniform(size=(1600, 3)) if continuous else rng.choice(2, (1600, 1))
    events, *drawn = rng.normal(conditions.sum(axis=1)[:, None], 1, size=(3, 1600, 2))

    found = two_sample(events, drawn, conditions)

    assert found.rows == 2400
    # Mann & Whitney (1947): of independent rows.
    assert found.error == pytest.approx(math.sqrt((1 / 800 + 1 / 1600) / 12), rel=0.1)
    assert abs(found.auc - 0.5) < 4 * found.error


def test_two_halves_of_the_data_have_as_many_rows_of_each_cell():
    rng = np.random.default_rng(0)
    conditions = np.repeat([[-1.0], [0.0], [1.0], [9.0]], [900, 599, 500, 1], axis=0)
    weights = rng.uniform(0.5, 2, 2000)
    cells = [np.flatnonzero(conditions == at) for at in (-1, 0, 1, 9, 5)]
    events = 2 * conditions + rng.normal(size=(2000, 2))

    part = Batch(events, conditions, weights)

    asked = beside_halves(part, cells)

    np.testing.assert_array_equal(*asked.inputs_KNI[..., -1])  # the conditions
    found = outcome(ask(beside_halves(part, cells, seed=1, most=500), asked))
    assert found.rows == 2 * (450 + 299 + 250)
    assert found.effective_rows < found.rows


def test_too_few_rows_tell_nothing():
    part = Batch(np.zeros((3, 1)), np.zeros((3, 1)))
    enough, few = (beside_halves(part, [np.arange(rows)]) for rows in (3, 1))

    assert ask(few, few) is None
    assert ask(enough, enough) is None


@pytest.mark.parametrize("drawn", [1, 3])
def test_the_error_is_the_spread_of_repeated_samples(drawn):
    """Of answers that are known: a part of each is the pair's own, as of a common condition."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        scores = rng.normal(size=(1 + drawn, 150)) + rng.normal(size=150)
        scores[1:] += 0.5
        weights = np.stack([rng.exponential(size=150)] * (1 + drawn))
        found.append(outcome(Answers(scores, weights, np.arange(150))))

    aucs = [each.auc for each in found]
    assert np.mean(aucs) == pytest.approx(0.5 * (1 + math.erf(0.25 / math.sqrt(2))), abs=0.005)
    assert np.std(aucs) == pytest.approx(np.mean([each.error for each in found]), rel=0.1)


def test_ties_count_half_and_the_parts_have_the_auc_as_their_mean():
    scores = np.array([[0.0, 0.0, 5.0, 5.0], [0.0, 1.0, 6.0, 4.0]])
    answers = Answers(scores, np.ones((2, 4)), np.arange(4))

    assert outcome(answers).auc == pytest.approx(9 / 16)
    assert mean_of(parts(answers)).mean == outcome(answers).auc
    assert outcome(answers.among(np.array([True, True, False, False]))).auc == pytest.approx(0.75)


def test_events_far_apart_are_told_apart():
    events, conditions = sample(500, 0)

    assert two_sample(events, events * 100, conditions).auc > 0.99


def test_a_tenth_of_the_draws_exchanged_between_cells_is_found():
    """All columns and all conditions are alike: only which belongs to which is not."""
    rng = np.random.default_rng(0)
    conditions = rng.choice(np.linspace(-1.4, 1.4, 7), (6000, 2))
    events, *drawn = conditions + rng.normal(size=(3, 6000, 2))
    wrong = [rng.permutation(6000)[:600] for _ in drawn]
    for each, rows in zip(drawn, wrong, strict=True):
        each[rows] = each[rng.permutation(rows)]

    found = two_sample(events, drawn, conditions)

    assert found.auc > 0.5 + 5 * found.error


def test_the_ratio_of_two_masses_is_an_input():
    """A bound of it shows in neither mass, and trees cut along one input at a time."""
    rng = np.random.default_rng(0)
    heavier, ratio = rng.lognormal(3, 1, size=(2, 3000)), rng.uniform(0.5, 1, (2, 3000))
    ratio[1] *= 1.03
    events, drawn = np.stack([heavier, heavier * ratio], axis=-1)
    columns = [Column(name, "Msun", positive=True) for name in ("Mass_0", "Mass_1")]

    without, found = (
        two_sample(events, drawn, np.ones((3000, 1)), columns=some) for some in ([], columns)
    )

    assert found.auc > 0.5 + 4 * found.error
    assert without.auc < found.auc - 2 * found.error


def test_one_draw_in_ten_from_the_other_cell_is_seen_as_well_as_the_best_rule_sees_it():
    rng = np.random.default_rng(0)
    conditions = rng.choice([-1.0, 1.0], (4000, 1))
    events, drawn = 4 * conditions + rng.normal(size=(2, 4000, 1))
    drawn[::10] -= 8 * conditions[::10]

    found = two_sample(events, drawn, conditions)

    # An event in the other cell's place was drawn; any other is as likely drawn as not.
    assert found.auc == pytest.approx(0.55, abs=3 * found.error)


def test_a_shift_is_seen_as_well_as_the_best_rule_sees_it():
    rng = np.random.default_rng(0)
    events, drawn = rng.normal(size=(2, 3000, 1)) + [[[0.0]], [[1.0]]]

    found = two_sample(events, drawn, np.ones((3000, 1)))

    best = 0.5 * (1 + math.erf(0.5))  # P(X < Y) of two Gaussians, one deviation apart
    assert found.auc == pytest.approx(best, abs=4 * found.error)


def test_conditions_that_are_mixed_up_are_seen():
    """Column by column all is alike; only with the condition it is not."""
    rng = np.random.default_rng(0)
    conditions = rng.choice([-1.0, 1.0], (1500, 1))
    events, noise = rng.normal(size=(2, 1500, 1))

    assert two_sample(events + 2 * conditions, noise - 2 * conditions, conditions).auc > 0.9


@pytest.mark.parametrize(
    "columns",
    [pytest.param(10, id="events-of-both-halves"), pytest.param(2, id="conditions-of-a-pair")],
)
def test_knowing_rows_by_heart_neither_helps_nor_harms(columns):
    """Few rows and many inputs: of many conditions, each of which two rows share."""
    rng = np.random.default_rng(0)
    events, drawn = rng.normal(size=(2, 300, columns))

    found = two_sample(events, drawn, rng.normal(size=(300, 10)))

    assert abs(found.auc - 0.5) < 3 * found.error


def test_values_that_are_not_finite_give_a_draw_away():
    events, conditions = sample(500, 0)
    drawn = np.full_like(events, np.nan)
    drawn[::2] = -1.0

    assert two_sample(events, drawn, conditions).auc > 0.99


def test_the_same_seed_gives_the_same_and_leaves_torch_its_threads():
    events, conditions = sample(300, 0)
    drawn, _ = sample(300, 1)
    threads = torch.get_num_threads()

    found = [two_sample(events, drawn, conditions, most=100, seed=3) for _ in range(2)]

    assert found[0] == found[1]
    assert found[0].rows == 2 * 100
    assert torch.get_num_threads() == threads
