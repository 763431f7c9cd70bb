"""How many trials a study has, on a real database."""

import itertools
import threading
from datetime import datetime

import optuna
import pytest
import sqlalchemy as sql
from optuna.trial import TrialState

from hpo.queue.leases import Owner
from hpo.queue.tables import OF_TRIALS, TRIALS
from hpo.queue.total import NewTotal
from tests import claimers
from tests.claimers import slots_of

GRID = [{"hidden": h, "flow": f} for h, f in itertools.product([4, 8, 16], ["a", "b"])]


@pytest.fixture
def made(url):
    return slots_of(url)


def end_all(slots):
    """Claim and finish what waits; the numbers."""
    us, numbers = Owner.this_process(), []
    while claim := slots.claim(us):
        numbers.append(claim.number)
        slots.finish(claim, TrialState.COMPLETE, 4.5)
    return numbers


def trials_of(study):
    # A study keeps a trial that was removed in its memory, as one that waits.
    storage = study._storage._backend
    study._storage.remove_session()  # of a server the session would go on to see what it has read
    return optuna.load_study(study_name=study.study_name, storage=storage).trials


def points_of(study):
    return [trial.system_attrs.get("fixed_params") for trial in trials_of(study)]


def test_the_study_comes_to_the_trials_that_were_asked_for_last(made):
    slots, study = made

    assert slots.set_total(3) == NewTotal(before=0, now=3, begun=0, removed=0)
    assert slots.set_total(3).added == 0
    assert slots.set_total(5).added == 2
    assert slots.set_total(2) == NewTotal(before=5, now=2, begun=0, removed=0)
    assert slots.look().counts[TrialState.WAITING] == 2
    assert end_all(slots) == [0, 1]
    assert [trial.number for trial in trials_of(study)] == [0, 1]


def test_a_continued_study_keeps_its_trials_unless_fewer_are_asked_for(made):
    slots, _ = made
    slots.set_total(5)

    assert slots.set_total(3, lower=False) == NewTotal(before=5, now=5, begun=0, removed=0)
    assert slots.set_total(6, lower=False).added == 1


def test_what_has_begun_stays_and_the_workers_stop_there(made):
    slots, _ = made
    slots.set_total(9)
    us = Owner.this_process()
    first, second = slots.claim(us), slots.claim(us)
    slots.release(first)

    assert slots.set_total(1) == NewTotal(before=9, now=2, begun=2, removed=0)

    assert end_all(slots) == [0]
    slots.finish(second, TrialState.COMPLETE, 4.5)
    assert slots.look().total == 2


def test_no_number_is_left_out_where_a_later_trial_began_before_an_earlier_one(made):
    slots, _ = made
    slots.enqueue(GRID[:4])
    slots.set_total(9)
    with slots.engine.begin() as connection:  # as where another worker was just taking the others
        values = {"state": TrialState.RUNNING, "datetime_start": datetime(2026, 1, 1)}
        connection.execute(sql.update(TRIALS).where(TRIALS.c.number == 2).values(values))

    assert slots.set_total(1) == NewTotal(before=9, now=3, begun=3, removed=1)
    assert [one.number for one in slots.look().trials] == [0, 1, 2]


def test_waiting_points_beyond_the_total_leave_nothing_behind(made):
    slots, study = made
    slots.set_total(6, points=GRID)
    study.enqueue_trial({"hidden": 5}, user_attrs={"from": "elsewhere"})
    slots.claim(Owner.this_process())

    assert slots.set_total(3, points=GRID) == NewTotal(before=7, now=3, begun=1, removed=4)

    assert points_of(study) == GRID[:3]
    left = {trial._trial_id for trial in trials_of(study)}
    with slots.engine.connect() as connection:
        for table in OF_TRIALS:
            ids = set(connection.scalars(sql.select(table.c.trial_id)))
            assert ids <= left, table.name
    slots.set_total(6, points=GRID)
    assert points_of(study) == GRID
    assert end_all(slots) == [1, 2, 3, 4, 5]


def test_the_same_launch_again_tries_what_was_enqueued_since_the_last(made):
    slots, study = made
    slots.set_total(2)
    end_all(slots)
    assert slots.enqueue([{"hidden": 7}]) == [2]

    assert slots.set_total(2) == NewTotal(before=3, now=3, begun=2, removed=0)
    assert end_all(slots) == [2]
    assert points_of(study)[2] == {"hidden": 7}


@pytest.mark.parametrize(
    ("enqueued", "extra"),
    [
        pytest.param([GRID[4], GRID[0]], 0, id="points of the grid"),
        pytest.param([{"flow": "b", "hidden": 8.0}], 0, id="a point of it, spelled otherwise"),
        pytest.param([{"hidden": 4}], 1, id="half a point"),
        pytest.param([{**GRID[2], "rate": 0.1}], 0, id="a point of it, and more"),
    ],
)
def test_a_grid_loses_no_point_to_what_was_enqueued(made, enqueued, extra):
    slots, study = made
    slots.enqueue(enqueued)

    assert slots.set_total(6, points=GRID).now == 6 + extra
    assert slots.set_total(6, points=GRID).added == 0

    names = GRID[0].keys()
    tried = [{name: one[name] for name in names & one.keys()} for one in points_of(study)]
    assert len(tried) == 6 + extra
    assert all(tried.count(point) == 1 for point in GRID)


def test_a_point_that_a_trial_was_run_with_is_not_tried_again(made):
    slots, study = made
    trial = study.ask()
    trial.suggest_categorical("hidden", [4, 8, 16])
    trial.suggest_categorical("flow", ["a", "b"])
    study.tell(trial, 4.5)

    slots.set_total(6, points=GRID)

    assert trial.params not in points_of(study)
    assert len(trials_of(study)) == 6


def keep_claiming(url, journal, over):
    """A worker that claims and finishes, and says what it claimed."""
    slots, _ = slots_of(url)
    owner = Owner.this_process()
    while not over.is_set():
        if claim := slots.claim(owner):
            slots.finish(claim, TrialState.COMPLETE, 0.0)
            journal.put(claim.number)
    journal.put(None)


@pytest.mark.slow
def test_a_total_that_goes_up_and_down_under_workers_takes_no_trial_from_them(url, made):
    slots, study = made
    journal, over = claimers.PROCESSES.Queue(), claimers.PROCESSES.Event()
    arguments = (url, journal, over)
    workers = [claimers.PROCESSES.Process(target=keep_claiming, args=arguments) for _ in range(2)]
    with claimers.ended(workers):
        for worker in workers:
            worker.start()
        slots.set_total(1)
        claimed = [journal.get(timeout=60)]
        for total in [9, 3, 30, 12, 60, 20] * 3:
            slots.enqueue(GRID[:3])
            slots.set_total(total)
        over.set()
        gone = 0
        while gone < len(workers):
            number = journal.get(timeout=60)
            gone += number is None
            claimed += [] if number is None else [number]

    claimed += end_all(slots)
    trials = trials_of(study)
    assert [trial.number for trial in trials] == list(range(len(trials))) == sorted(claimed)
    assert all(trial.state is TrialState.COMPLETE for trial in trials)


def test_a_point_that_is_being_taken_meanwhile_is_kept_whole(made):
    slots, study = made
    slots.enqueue(GRID[:4])
    slots.set_total(9)
    slots.claim(Owner.this_process())
    lowered = []
    launch = threading.Thread(target=lambda: lowered.append(slots.set_total(1)))

    with slots.engine.begin() as connection:
        values = {"state": TrialState.RUNNING, "datetime_start": datetime(2026, 1, 1)}
        connection.execute(sql.update(TRIALS).where(TRIALS.c.number == 1).values(values))
        launch.start()
        launch.join(0.5)
    launch.join(60)

    assert lowered == [NewTotal(before=9, now=2, begun=2, removed=2)]
    assert points_of(study) == GRID[:2]
