import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import optuna
import pytest
import sqlalchemy as sql
from optuna.trial import TrialState

from hpo.cluster.jobs import JobState
from hpo.queue.leases import Lease, LeaseLost, Owner, began
from hpo.queue.reaper import reap
from tests import claimers
from tests.claimers import slots_of
from tests.cluster.daemons import lack


def lose_an_answer(monkeypatch, engine):
    """Let the next transaction be committed, but its answer not arrive."""
    begin, lost = engine.begin, []

    @contextlib.contextmanager
    def deaf_once():
        with begin() as connection:
            yield connection
        if not lost:
            lost.append(connection)
            raise sql.exc.OperationalError("commit", {}, Exception("server closed the connection"))

    monkeypatch.setattr(engine, "begin", deaf_once)
    return lost


def dead_owner():
    """A process that has just ended."""
    process = claimers.PROCESSES.Process(target=time.sleep, args=(60,))
    process.start()
    owner = replace(Owner.this_process(), pid=process.pid, started=began(process.pid))
    process.kill()
    process.join()
    return owner


def test_a_dead_owners_trial_is_the_next_one_claimed_with_all_it_had(url):
    slots, study = slots_of(url)
    slots.set_total(2)
    lost = slots.trial_of(slots.claim(dead_owner()))
    value = lost.suggest_float("learning_rate", 1e-5, 1e-2, log=True)
    lost.report(4.5, 1)

    assert reap(slots).released == (0,)
    claim = slots.claim(Owner.this_process())
    found = slots.trial_of(claim)

    assert (claim.number, claim.restarts) == (0, 1)
    assert found.suggest_float("learning_rate", 1e-5, 1e-2, log=True) == value
    assert study.trials[0].intermediate_values == {1: 4.5}


def test_a_live_owners_trial_is_left_alone(url):
    slots, _ = slots_of(url)
    slots.set_total(1)
    slots.claim(Owner.this_process())

    assert reap(slots) == type(reap(slots))()
    assert slots.look().counts[TrialState.RUNNING] == 1


def lease_of(owner, silent_s):
    return Lease(number=0, trial_id=1, token="t", owner=owner, silent_s=silent_s, restarts=0)


ELSEWHERE = Owner(host="elsewhere", pid=1, started=0.0, job="12_3")


@pytest.mark.parametrize(
    ("silent_s", "jobs", "lives"),
    [
        pytest.param(10, {}, True, id="renewed lately, whatever SLURM says"),
        pytest.param(300, {}, False, id="silent, and its job is gone"),
        pytest.param(300, {"12_3": JobState("12_3", "RUNNING", "None")}, True, id="job runs"),
        pytest.param(
            300, {"12_3": JobState("12_3", "PENDING", "BeginTime")}, False, id="job waits again"
        ),
        pytest.param(90_000, {"12_3": JobState("12_3", "SUSPENDED", "None")}, True, id="suspended"),
        pytest.param(90_000, {"12_3": JobState("12_3", "RUNNING", "None")}, True, id="hung"),
        pytest.param(90_000, {}, False, id="silent for long, and its job is gone"),
        pytest.param(300, None, True, id="SLURM does not answer"),
        pytest.param(2000, None, False, id="silent for too long to wait for an answer"),
    ],
)
def test_slurm_is_believed_about_a_silent_owner_elsewhere(silent_s, jobs, lives):
    assert lease_of(ELSEWHERE, silent_s).lives(jobs) is lives


def test_a_silent_owner_elsewhere_without_a_job_is_dead():
    owner = replace(ELSEWHERE, job=None)

    assert lease_of(owner, 10).lives({})
    assert not lease_of(owner, 300).lives({})


def test_the_process_table_of_another_machine_is_not_asked():
    us = Owner.this_process()
    namesake = replace(us, machine=f"another boot:1:{us.host}", pid=2**22 + 1)

    assert not namesake.here
    assert lease_of(namesake, 0.1).lives({})
    assert not lease_of(replace(namesake, machine=us.machine), 0.1).lives({})
    assert not replace(us, machine=None).here  # of a row that an older version wrote


CLAIM = """
import signal, sys
from hpo.queue.leases import Owner
from tests.claimers import slots_of
print(slots_of(sys.argv[1])[0].claim(Owner.this_process()).number, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_worker_in_a_container_of_this_host_is_not_taken_for_dead(url):
    contained = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*contained, "true"], capture_output=True).returncode:
        lack("be allowed to make a PID namespace")
    slots, _ = slots_of(url)
    slots.set_total(1)

    command = [*contained, sys.executable, "-c", CLAIM, url]
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(worker.kill)
        assert worker.stdout.readline() == "0\n"
        [lease] = slots.leases()
        assert (lease.owner.host, lease.owner.here) == (Owner.this_process().host, False)
        assert not lease.owner.runs(), "by its number it is another process here"
        assert reap(slots).released == ()
    age(slots, 300)

    assert reap(slots).released == (0,)


def test_a_reused_process_id_is_not_the_owner():
    us = Owner.this_process()

    assert us.runs()
    assert not replace(us, started=us.started - 100).runs()


def test_slurm_is_asked_only_about_silent_owners_elsewhere(url):
    asked = []
    slots, _ = slots_of(url)

    def ask(jobs):
        asked.append(list(jobs))
        return {}

    slots.set_total(1)
    slots.claim(ELSEWHERE)

    assert reap(slots, ask=ask).released == ()
    assert asked == []
    age(slots, 300)
    assert reap(slots, ask=ask).released == (0,)
    assert asked == [["12_3"]]


def age(slots, seconds):
    """Have all leases been renewed that much earlier."""
    with slots.engine.begin() as connection:
        connection.execute(sql.text(f"UPDATE hpo_leases SET renewed = renewed - {seconds}"))


def test_a_job_that_was_started_anew_takes_back_what_it_held(url):
    slots, _ = slots_of(url)
    slots.set_total(2)
    slots.claim(ELSEWHERE)
    slots.claim(replace(ELSEWHERE, rank=1))

    again = replace(ELSEWHERE, host="another", pid=7)

    assert reap(slots, again).released == (0,)


def test_a_claim_whose_answer_was_lost_is_found_again(url, monkeypatch):
    slots, study = slots_of(url)
    slots.set_total(3)
    lost = lose_an_answer(monkeypatch, slots.engine)

    claim = slots.claim(Owner.this_process())

    assert len(lost) == 1
    assert [claim.token] == [lease.token for lease in slots.leases()]
    assert slots.look().counts[TrialState.RUNNING] == 1


def test_points_are_tried_before_new_trials_and_count_to_the_total(url):
    slots, study = slots_of(url)
    slots.set_total(4)
    begun = slots.claim(Owner.this_process())

    assert slots.enqueue([{"hidden": 10}, {"hidden": 20}]) == [1, 2]
    slots.release(begun)
    claims = [slots.claim(Owner.this_process()).number for _ in range(4)]

    assert claims == [0, 1, 2, 3]
    assert slots.claim(Owner.this_process()) is None
    fixed = [trial.system_attrs.get("fixed_params") for trial in study.trials]
    assert fixed == [None, {"hidden": 10}, {"hidden": 20}, None]


def test_points_beyond_the_total_raise_it(url):
    slots, _ = slots_of(url)
    slots.set_total(1)

    slots.enqueue([{"hidden": 10}, {"hidden": 20}])

    assert slots.look().counts[TrialState.WAITING] == 2


def test_jobs_are_remembered_once_each(url):
    slots, _ = slots_of(url)
    slots.add_jobs(["12_0", "12_1"])
    slots.add_jobs(["12_1", "13"])

    assert sorted(slots_of(url)[0].jobs()) == ["12_0", "12_1", "13"]


def test_a_report_and_an_end_are_progress_and_a_claim_is_none(url):
    slots, _ = slots_of(url)
    slots.set_total(1)
    claim = slots.claim(Owner.this_process())
    assert slots.progress() == 0

    slots.trial_of(claim).report(1.0, 1)
    assert slots.progress() == 1
    slots.finish(claim, TrialState.COMPLETE, 1.0)
    assert slots.progress() == 2


def test_what_was_handed_back_in_vain_counts_as_a_restart(url):
    slots, _ = slots_of(url)
    slots.set_total(1)
    slots.release(slots.claim(Owner.this_process()))
    assert (again := slots.claim(Owner.this_process())).restarts == 0

    slots.release(again, lost=True)
    assert slots.claim(Owner.this_process()).restarts == 1


def test_a_worker_that_lost_its_trial_can_tell_nothing(url):
    slots, study = slots_of(url)
    slots.set_total(1)
    old = slots.claim(dead_owner())
    reap(slots)
    new = slots.claim(Owner.this_process())

    with pytest.raises(LeaseLost, match="trial 0"):
        slots.renew(old)
    with pytest.raises(LeaseLost):
        slots.finish(old, TrialState.COMPLETE, 1.0)
    slots.finish(new, TrialState.COMPLETE, 2.0)

    assert study.trials[0].value == 2.0
    assert slots.leases() == []


def test_a_trial_that_keeps_killing_its_workers_fails_at_last(url):
    slots, study = slots_of(url, max_restarts=2)
    slots.set_total(1)
    outcomes = []
    for _ in range(3):
        slots.claim(dead_owner())
        outcomes.append(reap(slots))

    assert [one.released for one in outcomes] == [(0,), (0,), ()]
    assert outcomes[-1].failed == (0,)
    assert study.trials[0].state == TrialState.FAIL
    assert slots.claim(Owner.this_process()) is None


def report(slots, claim, step):
    slots.trial_of(claim).report(1.0, step)


def test_a_healthy_trial_may_lose_its_worker_as_often_as_you_like(url):
    slots, study = slots_of(url, max_restarts=1)
    slots.set_total(1)
    for epoch in range(4):
        report(slots, slots.claim(dead_owner()), epoch)
        assert reap(slots).released == (0,)

    claim = slots.claim(Owner.this_process())
    assert (claim.restarts, slots.futile(claim)) == (4, 1)


def test_progress_resets_the_count_of_futile_attempts(url):
    slots, study = slots_of(url, max_restarts=1)
    slots.set_total(1)
    outcomes = []
    for epochs in (1, 0, 1, 0, 0):
        claim = slots.claim(dead_owner())
        for _ in range(epochs):
            report(slots, claim, len(outcomes))
        outcomes.append(reap(slots))

    assert [one.released for one in outcomes] == [(0,), (0,), (0,), (0,), ()]
    assert outcomes[-1].failed == (0,)


@pytest.mark.filterwarnings("ignore:The reported value is ignored")
def test_an_epoch_that_is_run_again_is_no_progress(url):
    slots, study = slots_of(url, max_restarts=0)
    slots.set_total(1)
    for released in ((0,), ()):
        report(slots, slots.claim(dead_owner()), 1)
        assert reap(slots).released == released


def test_a_released_trial_does_not_count_as_restarted(url):
    slots, _ = slots_of(url)
    slots.set_total(1)
    slots.release(slots.claim(Owner.this_process()))

    assert slots.claim(Owner.this_process()).restarts == 0


def claim_and_hang(url, claimed):
    slots, _ = slots_of(url)
    claimed.put(slots.claim(Owner.this_process()).number)
    signal.pause()


@pytest.mark.slow
def test_a_killed_process_is_seen_as_dead_at_once(url):
    slots, _ = slots_of(url)
    slots.set_total(1)
    claimed = claimers.PROCESSES.Queue()
    worker = claimers.PROCESSES.Process(target=claim_and_hang, args=(url, claimed))
    worker.start()
    assert claimed.get(timeout=60) == 0
    assert reap(slots).released == ()

    os.kill(worker.pid, signal.SIGKILL)
    worker.join()

    assert reap(slots).released == (0,)


def launch(url, start, made):
    """What a launch does first, begun at the same moment as another one."""
    start.wait()
    slots, _ = slots_of(url)
    made.put(slots.set_total(50).added)


@pytest.mark.slow
def test_launches_at_once_in_a_new_folder_make_each_trial_once(tmp_path):
    url = f"sqlite:///{tmp_path}/new/hpo.db"
    start, made = claimers.PROCESSES.Barrier(4), claimers.PROCESSES.Queue()
    launches = [
        claimers.PROCESSES.Process(target=launch, args=(url, start, made)) for _ in range(4)
    ]
    for one in launches:
        one.start()

    assert sum(made.get(timeout=120) for _ in launches) == 50
    for one in launches:
        one.join()
    slots, _ = slots_of(url)
    assert slots.look().counts[TrialState.WAITING] == 50


def test_an_end_whose_answer_was_lost_is_not_told_twice(url, monkeypatch):
    slots, study = slots_of(url)
    slots.set_total(1)
    claim = slots.claim(Owner.this_process())
    lost = lose_an_answer(monkeypatch, slots.engine)

    slots.finish(claim, TrialState.COMPLETE, 1.5)

    assert len(lost) == 1
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.COMPLETE, 1.5)


def test_a_pruned_trial_has_the_value_that_it_reported_last(url):
    slots, study = slots_of(url)
    slots.set_total(2)
    first, second = (slots.claim(Owner.this_process()) for _ in range(2))
    trial = slots.trial_of(first)
    for step, value in enumerate([3.0, 2.5]):
        trial.report(value, step)

    slots.finish(first, TrialState.PRUNED)
    slots.finish(second, TrialState.FAIL)

    assert [trial.value for trial in study.trials] == [2.5, None]
    assert study.trials[0].datetime_complete >= study.trials[0].datetime_start


def test_the_sampler_learns_of_the_trials_that_ended_meanwhile(url):
    slots, study = slots_of(url)
    slots.set_total(3)
    known = []

    class Watching(optuna.samplers.TPESampler):
        def infer_relative_search_space(self, study, trial):
            states = (TrialState.COMPLETE,)
            known.append(len(study._get_trials(deepcopy=False, states=states, use_cache=True)))
            return {}

    study.sampler = Watching(n_startup_trials=0)
    for _ in range(3):
        claim = slots.claim(Owner.this_process())
        slots.trial_of(claim).suggest_float("x", 0, 1)
        slots.finish(claim, TrialState.COMPLETE, 1.0)

    assert known == [0, 1, 2]
