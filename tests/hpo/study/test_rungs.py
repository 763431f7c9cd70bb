"""What `benchmarks/rungs.py` says of rungs: the arithmetic, and which trainings it compares."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from benchmarks import rungs
from data_prep.dataset import SAMPLE
from hpo.study.spec import PrunerTable, load


def test_ranks_share_the_mean_of_equal_values():
    assert rungs.ranks(np.array([30.0, 10.0, 20.0, 20.0, math.inf])).tolist() == [4, 1, 2.5, 2.5, 5]


@pytest.mark.parametrize(
    ("ends", "correlation"),
    [
        pytest.param([10.0, 20.0, 30.0, 40.0, 50.0], 1, id="same order"),
        pytest.param([5.0, 4.0, 3.0, 2.0, 1.0], -1, id="opposite order"),
        pytest.param([1.0, 8.0, 27.0, math.inf, 125.0], 0.9, id="a failure"),  # 1 - 6 * 2 / 120
        pytest.param([2.0, 1.0, 4.0, 3.0, 5.0], 0.8, id="two swaps"),  # 1 - 6 * 4 / 120
    ],
)
def test_spearman_is_that_of_the_formula_for_ranks_without_ties(ends, correlation):
    at_rung = np.array([1.0, 2.0, 3.0, 4.0, 5.0])

    assert rungs.spearman(at_rung, np.array(ends)) == pytest.approx(correlation)


def test_regret_is_what_the_promoted_third_lacks_of_the_best():
    at_rung = np.array([4.6, 4.5, 4.9, 4.8, 4.7, 5.0])  # trials 1 and 0 go on
    ends = np.array([4.30, 4.25, 4.21, math.inf, 4.4, 4.5])

    assert rungs.regret(at_rung, ends, 3) == pytest.approx(0.04)
    assert rungs.regret(at_rung, ends, 2) == pytest.approx(0.04)
    assert rungs.regret(at_rung, ends, 1) == 0
    assert rungs.regret(at_rung, ends, 100) == pytest.approx(0.04)  # at least one goes on


def test_rungs_are_those_at_which_the_pruner_decides():
    pruner = load("bbh").pruner

    assert rungs.rungs_of(pruner, 50) == [4, 16]
    assert rungs.rungs_of(dataclasses.replace(pruner, min_epochs=25), 50) == [25]
    assert rungs.rungs_of(PrunerTable(min_epochs=1, reduction_factor=2), 8) == [1, 2, 4]


def test_schedules_meet_the_same_trials_and_more_trials_begin_with_the_fewer():
    few, more = (rungs.jobs_of(load("bbh"), SAMPLE, trials, 50, 1) for trials in (2, 4))

    assert [job.digest for job in more[:4]] == [job.digest for job in few]
    assert len({job.digest for job in more}) == len(more) == 4 * len(rungs.SCHEDULES)
    for job in more:
        twin = more[len(rungs.SCHEDULES) * job.trial]
        assert job.flow == twin.flow
        assert dataclasses.replace(job.training, schedule=twin.schedule) == twin.training
        assert (job.training.patience, job.training.epochs) == (0, 50)


def test_a_training_that_broke_off_is_the_worst_from_there_on_and_in_the_end():
    jobs = rungs.jobs_of(load("bbh"), SAMPLE, 2, 3, 1)
    lines = {
        job.digest: {"val_nll": [5.0, 4.9, 4.8], "seconds": 1.0, "reason": None} for job in jobs
    }
    lines[jobs[0].digest] = {"val_nll": [4.7], "seconds": 1.0, "reason": "the loss is nan"}

    ran = rungs.ran_under("cosine", jobs, lines, 3)

    assert ran.nll_TE.tolist() == [[4.7, math.inf, math.inf], [5.0, 4.9, 4.8]]
    assert ran.end_T.tolist() == [math.inf, 4.8]


def test_what_was_cut_off_while_written_is_trained_again_and_nothing_else(tmp_path):
    results = tmp_path / "rungs.jsonl"
    rungs.add(results, {"digest": "a"})
    with results.open("a") as file:
        file.write('{"digest": "b", "val')
    rungs.add(results, {"digest": "c"})

    assert sorted(rungs.read(results)) == ["a", "c"]
