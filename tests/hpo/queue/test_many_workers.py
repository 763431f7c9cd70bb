"""Many workers on one database, some of them killed: every trial ends, and ends once."""

import collections
import random
import time

import pytest
from optuna.trial import TrialState

from tests import claimers

pytestmark = pytest.mark.slow

TRIALS, WORKERS, KILLS = 100, 8, 3


def test_a_hundred_trials_end_once_each_though_workers_are_killed(url, tmp_path):
    slots, study = claimers.slots_of(url)
    slots.set_total(TRIALS)
    chance = random.Random(1)
    # Once so many trials were claimed, a worker is killed wherever it is.
    due = sorted(chance.sample(range(10, TRIALS - 50), KILLS))

    killed = []
    deadline = time.monotonic() + 300
    with claimers.ended(claimers.start(WORKERS, url, tmp_path, pause_s=0.02)) as workers:
        # The study is asked last: a look that waits for a busy server would come too late to kill.
        while (
            len(list(tmp_path.glob("trial-*.json"))) < TRIALS
            or slots.look().counts[TrialState.COMPLETE] < TRIALS
        ):
            assert time.monotonic() < deadline
            alive = [worker for worker in workers if worker.is_alive()]
            if due and alive and len(claimers.journal(tmp_path, "claimed")) >= due[0]:
                due.pop(0)
                killed.append(chance.choice(alive))
                killed[-1].kill()
                killed[-1].join()
            elif len(alive) < WORKERS:
                workers += claimers.start(WORKERS - len(alive), url, tmp_path, pause_s=0.02)
            time.sleep(0.05)
        for worker in workers:
            worker.join(timeout=60)

    assert len(killed) == KILLS
    assert all(worker.exitcode == 0 for worker in workers if worker not in killed)
    assert [trial.number for trial in study.trials] == list(range(TRIALS))
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert slots.leases() == []

    written = claimers.records(tmp_path)
    assert sorted(written) == list(range(TRIALS))
    for trial in study.trials:
        assert trial.value == written[trial.number]["value"] == trial.params["x"]

    claims = collections.Counter(line["trial"] for line in claimers.journal(tmp_path, "claimed"))
    ends = collections.Counter(line["trial"] for line in claimers.journal(tmp_path, "finished"))
    last = {line["trial"]: line for line in claimers.journal(tmp_path, "claimed")}
    lost = sum(last[number]["restarts"] for number in range(TRIALS))
    assert sum(claims.values()) - TRIALS <= lost <= KILLS
    assert max(ends.values()) == 1
    # A worker killed after it had told the study wrote no line of it.
    assert TRIALS - sum(ends.values()) <= KILLS
