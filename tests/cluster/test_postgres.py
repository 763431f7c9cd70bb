"""As many workers as PostgreSQL has connections for, races between launches, and a restart."""

import collections
import os
import random
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hpo.queue.slots import Slots
from hpo.storage.address import StorageError, url_of
from hpo.storage.open import open_storage, open_study
from tests import claimers

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def database(postgres):
    """URL of an empty database."""
    yield postgres.create(f"t{random.SystemRandom().randrange(10**12)}")
    claimers.close()


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


def test_sixty_four_workers_share_a_server_of_a_hundred_connections(postgres, database, tmp_path):
    assert postgres.ask("show max_connections") == "100"
    slots, _ = claimers.slots_of(database)
    slots.top_up(192)

    with claimers.ended(claimers.start(64, database, tmp_path, together=64)) as workers:
        check(database, tmp_path, workers, 192)
    assert len({line["pid"] for line in claimers.journal(tmp_path, "claimed")}) > 32


def test_a_restart_of_the_server_loses_nothing(postgres, database, tmp_path):
    slots, _ = claimers.slots_of(database)
    slots.top_up(192)

    workers = claimers.start(64, database, tmp_path, together=64, pause_s=0.1)
    with claimers.ended(workers):
        deadline = time.monotonic() + 120
        while len(claimers.journal(tmp_path, "finished")) < 40:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        postgres.stop()
        done = len(claimers.journal(tmp_path, "finished"))
        time.sleep(3)
        postgres.start()

        assert done < 192, "the restart came too late to prove anything"
        check(database, tmp_path, workers, 192)


def test_racing_launches_make_no_row_twice(database, tmp_path):
    context = claimers.PROCESSES
    arguments = (database, tmp_path, 100)
    launches = [context.Process(target=top_up, args=arguments) for _ in range(4)]
    with claimers.ended(launches):
        for launch in launches:
            launch.start()
        for launch in launches:
            launch.join(timeout=100)

        assert [launch.exitcode for launch in launches] == [0] * 4
    slots, _ = claimers.slots_of(database)
    made = [int(path.read_text()) for path in tmp_path.glob("made-*")]
    assert sorted(made) == [0, 0, 0, 100]
    assert slots.counts()[TrialState.WAITING] == 100


def test_who_only_looks_can_neither_write_nor_make_tables(postgres, database):
    url = url_of(database, Path())
    with pytest.raises(StorageError, match="holds no studies"):
        open_storage(url, reading=True)
    _, study = claimers.slots_of(database)
    study.add_trial(optuna.trial.create_trial(value=2.0))

    storage = open_storage(url, reading=True, retrying=False)
    seen = open_study(storage, claimers.STUDY)

    assert [trial.value for trial in seen.trials] == [2.0]
    with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
        seen.set_user_attr("changed", True)
    assert "read-only transaction" in str(caught.value.__cause__)
    storage.engine.dispose()


@pytest.mark.parametrize("reading", [False, True])
def test_a_connection_keeps_nothing_from_one_transaction_to_the_next(postgres, database, reading):
    # As a pooler needs it: the next transaction may get another connection of the server.
    slots, _ = claimers.slots_of(database)
    slots.top_up(1)
    storage = open_storage(url_of(database, Path()), reading=reading)
    seen = Slots(open_study(storage, claimers.STUDY), max_restarts=0)

    for _ in range(10):  # the driver would prepare what it has seen five times
        assert seen.counts()[TrialState.WAITING] == 1

    with storage.engine.connect() as connection:
        kept = "select count(*) from pg_prepared_statements"
        asked = "select count(*) from pg_settings where source = 'client' and name ~ 'read'"
        assert connection.exec_driver_sql(kept).scalar() == 0
        assert connection.exec_driver_sql(asked).scalar() == 0
    storage.engine.dispose()


def top_up(url, place, total):
    claimers.meet(place, 4)  # here, so that all make the tables and the study at once, too
    slots, _ = claimers.slots_of(url)
    claimers.meet(place, 4, "ready")
    (place / f"made-{os.getpid()}").write_text(str(slots.top_up(total)))
