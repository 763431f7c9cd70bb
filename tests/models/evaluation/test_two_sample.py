"""The two-sample test on samples that are, or are not, of one density."""

import math

import numpy as np
import pytest
import torch

from models.evaluation.two_sample import outcome, right


def two_sample(events, drawn, conditions, **options):
    return outcome(right(events, drawn, conditions, **options))


def sample(rows, seed):
    rng = np.random.default_rng(seed)
    conditions = rng.choice([0.0001, 0.01], size=(rows, 1))
    return rng.lognormal(np.log10(conditions), 0.4, size=(rows, 2)), conditions


@pytest.mark.parametrize("continuous", [False, True])
def test_nothing_tells_like_events_apart(continuous):
    """Two draws at the same conditions; also where every event has conditions of its own."""
    rng = np.random.default_rng(0)
    conditions = rng.uniform(size=(3000, 3)) if continuous else rng.choice(2, (3000, 1))
    events, drawn = rng.normal(conditions.sum(axis=1)[:, None], 1, size=(2, 3000, 2))

    found = two_sample(events, drawn, conditions)

    assert found.rows == 6000
    assert found.error == pytest.approx(0.5 / math.sqrt(6000))
    assert abs(found.accuracy - 0.5) < 4 * found.error


def test_events_far_apart_are_told_apart():
    events, conditions = sample(500, 0)

    assert two_sample(events, events * 100, conditions).accuracy > 0.99


def test_one_draw_in_ten_from_the_other_cell_is_seen_as_well_as_the_best_rule_sees_it():
    rng = np.random.default_rng(0)
    conditions = rng.choice([-1.0, 1.0], (4000, 1))
    events, drawn = 4 * conditions + rng.normal(size=(2, 4000, 1))
    drawn[:400] -= 8 * conditions[:400]

    found = two_sample(events, drawn, conditions)

    # An event in the other cell's place was drawn; any other is as likely drawn as not.
    assert found.accuracy == pytest.approx(0.55, abs=3 * found.error)


def test_a_shift_is_seen_as_well_as_the_best_rule_sees_it():
    rng = np.random.default_rng(0)
    events, drawn = rng.normal(size=(2, 3000, 1)) + [[[0.0]], [[1.0]]]

    found = two_sample(events, drawn, np.ones((3000, 1)))

    best = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))  # cut in the middle of the two Gaussians
    assert found.accuracy == pytest.approx(best, abs=4 * found.error)


def test_conditions_that_are_mixed_up_are_seen():
    """Column by column all is alike; only with the condition it is not."""
    rng = np.random.default_rng(0)
    conditions = rng.choice([-1.0, 1.0], (1500, 1))
    events, noise = rng.normal(size=(2, 1500, 1))

    assert two_sample(events + 2 * conditions, noise - 2 * conditions, conditions).accuracy > 0.9


@pytest.mark.parametrize(
    "columns",
    [pytest.param(10, id="events-of-both-halves"), pytest.param(2, id="conditions-of-a-pair")],
)
def test_knowing_rows_by_heart_neither_helps_nor_harms(columns):
    """Few rows and many inputs: of many conditions, each of which two rows share."""
    rng = np.random.default_rng(0)
    events, drawn = rng.normal(size=(2, 300, columns))

    found = two_sample(events, drawn, rng.normal(size=(300, 10)))

    assert abs(found.accuracy - 0.5) < 3 * found.error


def test_values_that_are_not_finite_give_a_draw_away():
    events, conditions = sample(500, 0)
    drawn = np.full_like(events, np.nan)
    drawn[::2] = -1.0

    assert two_sample(events, drawn, conditions).accuracy > 0.99


def test_the_same_seed_gives_the_same_and_leaves_torch_its_threads():
    events, conditions = sample(300, 0)
    drawn, _ = sample(300, 1)
    threads = torch.get_num_threads()

    found = [two_sample(events, drawn, conditions, most=200, seed=3) for _ in range(2)]

    assert found[0] == found[1]
    assert found[0].rows == 400
    assert torch.get_num_threads() == threads
