import multiprocessing
import os
import signal
from dataclasses import replace

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from hpo.slots import LeaseLost, Owner, Slots
from hpo.storage import open_storage, url_of


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    return tmp_path


def slots_of(runs, *, max_restarts=3):
    storage = open_storage(url_of(None, runs))
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    return Slots(study, max_restarts=max_restarts), study


def dead_owner():
    """A process that has just ended."""
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    owner = Owner(
        host=Owner.this_process().host,
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
    )
    process.join()
    return owner


def test_topping_up_makes_what_is_missing_and_no_more(runs):
    slots, study = slots_of(runs)

    assert slots.top_up(3) == 3
    assert slots.top_up(3) == 0
    assert slots.top_up(2) == 0
    assert slots.top_up(5) == 2
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3, 4]


def test_a_grid_point_reaches_the_trial_of_its_number(runs):
    slots, study = slots_of(runs)
    points = [{"hidden": 128}, {"hidden": 200}]
    slots.top_up(2, points=points)

    for point in points:
        trial = slots.trial_of(slots.claim(Owner.this_process()))
        assert trial.suggest_categorical("hidden", [128, 200]) == point["hidden"]


def drain(runs, journal):
    """A worker that claims and finishes until nothing waits, and says what it claimed."""
    slots, _ = slots_of(runs)
    owner = Owner.this_process()
    while claim := slots.claim(owner):
        journal.put(claim.number)
        slots.finish(claim, TrialState.COMPLETE, 0.0)


@pytest.mark.slow
def test_four_processes_claim_each_of_forty_trials_once(runs):
    slots, study = slots_of(runs)
    slots.top_up(40)
    context = multiprocessing.get_context("spawn")
    journal = context.Queue()

    workers = [context.Process(target=drain, args=(runs, journal)) for _ in range(4)]
    for worker in workers:
        worker.start()
    claimed = sorted(journal.get(timeout=120) for _ in range(40))
    for worker in workers:
        worker.join()

    assert claimed == list(range(40))
    assert journal.empty()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 40


def test_a_dead_owners_trial_is_the_next_one_claimed_with_all_it_had(runs):
    slots, study = slots_of(runs)
    slots.top_up(2)
    lost = slots.trial_of(slots.claim(dead_owner()))
    value = lost.suggest_float("learning_rate", 1e-5, 1e-2, log=True)
    lost.report(4.5, 1)

    assert slots.reap().released == (0,)
    claim = slots.claim(Owner.this_process())
    found = slots.trial_of(claim)

    assert (claim.number, claim.restarts) == (0, 1)
    assert found.suggest_float("learning_rate", 1e-5, 1e-2, log=True) == value
    assert study.trials[0].intermediate_values == {1: 4.5}


def test_a_live_owners_trial_is_left_alone(runs):
    slots, _ = slots_of(runs)
    slots.top_up(1)
    slots.claim(Owner.this_process())

    assert slots.reap() == type(slots.reap())()
    assert slots.counts()[TrialState.RUNNING] == 1


def test_an_owner_on_another_host_lives_as_long_as_it_renews(runs):
    elsewhere = replace(Owner.this_process(), host="elsewhere")

    assert elsewhere.lives(silent_s=10)
    assert not elsewhere.lives(silent_s=1000)


def test_a_reused_process_id_is_not_the_owner():
    us = Owner.this_process()

    assert us.lives(0)
    assert not replace(us, started=us.started - 100).lives(0)


def test_a_worker_that_lost_its_trial_can_tell_nothing(runs):
    slots, study = slots_of(runs)
    slots.top_up(1)
    old = slots.claim(dead_owner())
    slots.reap()
    new = slots.claim(Owner.this_process())

    with pytest.raises(LeaseLost, match="trial 0"):
        slots.renew(old)
    with pytest.raises(LeaseLost):
        slots.finish(old, TrialState.COMPLETE, 1.0)
    slots.finish(new, TrialState.COMPLETE, 2.0)

    assert study.trials[0].value == 2.0
    assert slots.leases() == []


def test_a_trial_that_keeps_killing_its_workers_fails_at_last(runs):
    slots, study = slots_of(runs, max_restarts=2)
    slots.top_up(1)
    outcomes = []
    for _ in range(3):
        slots.claim(dead_owner())
        outcomes.append(slots.reap())

    assert [one.released for one in outcomes] == [(0,), (0,), ()]
    assert outcomes[-1].failed == (0,)
    assert study.trials[0].state == TrialState.FAIL
    assert slots.claim(Owner.this_process()) is None


def test_a_released_trial_does_not_count_as_restarted(runs):
    slots, _ = slots_of(runs)
    slots.top_up(1)
    slots.release(slots.claim(Owner.this_process()))

    assert slots.claim(Owner.this_process()).restarts == 0


def claim_and_hang(runs, claimed):
    slots, _ = slots_of(runs)
    claimed.put(slots.claim(Owner.this_process()).number)
    signal.pause()


@pytest.mark.slow
def test_a_killed_process_is_seen_as_dead_at_once(runs):
    slots, _ = slots_of(runs)
    slots.top_up(1)
    context = multiprocessing.get_context("spawn")
    claimed = context.Queue()
    worker = context.Process(target=claim_and_hang, args=(runs, claimed))
    worker.start()
    assert claimed.get(timeout=60) == 0
    assert slots.reap().released == ()

    os.kill(worker.pid, signal.SIGKILL)
    worker.join()

    assert slots.reap().released == (0,)


def launch(runs, start, made):
    """What a launch does first, begun at the same moment as another one."""
    start.wait()
    slots, _ = slots_of(runs)
    made.put(slots.top_up(50))


@pytest.mark.slow
def test_launches_at_once_in_a_new_folder_make_each_trial_once(runs):
    context = multiprocessing.get_context("spawn")
    start, made = context.Barrier(4), context.Queue()
    launches = [context.Process(target=launch, args=(runs, start, made)) for _ in range(4)]
    for one in launches:
        one.start()

    assert sum(made.get(timeout=120) for _ in launches) == 50
    for one in launches:
        one.join()
    _, study = slots_of(runs)
    assert [trial.number for trial in study.trials] == list(range(50))
