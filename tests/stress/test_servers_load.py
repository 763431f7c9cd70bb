"""Sixty-four workers on one server, and its restart while they work."""

import collections
import time

import pytest
from optuna.trial import TrialState

from tests import claimers

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def check(url, place, workers, trials):
    """Every worker ended well, and every trial was run, once."""
    for worker in workers:
        worker.join(timeout=200)
    slots, study = claimers.slots_of(url)

    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    assert [trial.number for trial in study.trials] == list(range(trials))
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert slots.leases() == []
    written = claimers.records(place)
    for trial in study.trials:
        assert trial.value == written[trial.number]["value"] == trial.params["x"]
        assert trial.intermediate_values == {1: trial.value}
    for what in ("claimed", "finished"):
        times = collections.Counter(line["trial"] for line in claimers.journal(place, what))
        assert times == dict.fromkeys(range(trials), 1), what


def test_sixty_four_workers_share_a_server_of_a_hundred_connections(database, tmp_path):
    slots, _ = claimers.slots_of(database)
    slots.set_total(192)

    with claimers.ended(claimers.start(64, database, tmp_path, together=64)) as workers:
        check(database, tmp_path, workers, 192)
    assert len({line["pid"] for line in claimers.journal(tmp_path, "claimed")}) > 32


def test_a_restart_of_the_server_loses_nothing(server, database, tmp_path):
    slots, _ = claimers.slots_of(database)
    slots.set_total(192)

    workers = claimers.start(64, database, tmp_path, together=64, pause_s=0.1)
    with claimers.ended(workers):
        deadline = time.monotonic() + 120
        while len(claimers.journal(tmp_path, "finished")) < 40:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.stop()
        done = len(claimers.journal(tmp_path, "finished"))
        time.sleep(3)
        server.start()

        assert done < 192, "the restart came too late to prove anything"
        check(database, tmp_path, workers, 192)
