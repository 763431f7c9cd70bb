"""Races between launches on a server, and what its connections may do."""

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sql
from optuna.trial import TrialState

from hpo.queue.leases import Owner
from hpo.queue.slots import Slots
from hpo.queue.tables import LEASES
from hpo.storage.address import StorageError, url_of
from hpo.storage.open import open_storage, open_study
from hpo.storage.retry import retried, transient
from tests import claimers

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_racing_launches_make_no_row_twice(database, tmp_path):
    context = claimers.PROCESSES
    arguments = (database, tmp_path, 100)
    launches = [context.Process(target=launch, args=arguments) for _ in range(4)]
    with claimers.ended(launches):
        for process in launches:
            process.start()
        for process in launches:
            process.join(timeout=100)

        assert [process.exitcode for process in launches] == [0] * 4
    slots, _ = claimers.slots_of(database)
    made = [int(path.read_text()) for path in tmp_path.glob("made-*")]
    assert sorted(made) == [0, 0, 0, 100]
    assert slots.look().counts[TrialState.WAITING] == 100


def test_who_only_looks_can_neither_write_nor_make_tables(database):
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
    assert re.search("read.only transaction", str(caught.value.__cause__), flags=re.IGNORECASE)
    storage.engine.dispose()


@pytest.mark.parametrize("server", ["postgres"], indirect=True)
@pytest.mark.parametrize("reading", [False, True])
def test_a_connection_keeps_nothing_from_one_transaction_to_the_next(database, reading):
    # As a pooler needs it: the next transaction may get another connection of the server.
    slots, _ = claimers.slots_of(database)
    slots.set_total(1)
    storage = open_storage(url_of(database, Path()), reading=reading)
    seen = Slots(open_study(storage, claimers.STUDY), max_restarts=0)

    for _ in range(10):  # the driver would prepare what it has seen five times
        assert seen.look().counts[TrialState.WAITING] == 1

    with storage.engine.connect() as connection:
        kept = "select count(*) from pg_prepared_statements"
        asked = "select count(*) from pg_settings where source = 'client' and name ~ 'read'"
        assert connection.exec_driver_sql(kept).scalar() == 0
        assert connection.exec_driver_sql(asked).scalar() == 0
    storage.engine.dispose()


def test_of_two_transactions_that_wait_for_each_other_none_is_lost(database):
    slots, _ = claimers.slots_of(database)
    slots.set_total(2)
    trials = [slots.claim(Owner.this_process()).trial_id for _ in range(2)]
    both, tries = threading.Barrier(2), []

    @retried
    def count(order):
        tries.append(order)
        first = len(tries) <= 2
        with slots.engine.begin() as connection:
            for trial in order:
                here = LEASES.c.trial_id == trial
                connection.execute(sql.update(LEASES).where(here).values(rank=LEASES.c.rank + 1))
                if first and trial == order[0]:
                    both.wait(timeout=30)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(count, [trials, trials[::-1]]))

    assert len(tries) == 3, "the server broke one off, which was tried again"
    assert [lease.owner.rank for lease in slots.leases()] == [2, 2]


def test_who_stands_still_in_a_transaction_keeps_nobody_waiting_for_its_locks(
    database, monkeypatch
):
    monkeypatch.setattr("hpo.storage.open.STANDSTILL_S", 1)
    slots, _ = claimers.slots_of(database)
    slots.set_total(1)
    claim = slots.claim(Owner.this_process())
    storage = open_storage(url_of(database, Path()))

    with ThreadPoolExecutor(1) as pool, storage.engine.connect() as suspended:
        suspended.execute(sql.update(LEASES).values(rank=1))
        pool.submit(slots.renew, claim).result(timeout=20)
        with pytest.raises(sql.exc.DBAPIError) as lost:
            suspended.execute(sql.update(LEASES).values(rank=2))

    assert transient(lost.value), "it is tried again"
    assert [lease.owner.rank for lease in slots.leases()] == [0]
    storage.engine.dispose()


def launch(url, place, total):
    claimers.meet(place, 4)  # here, so that all make the tables and the study at once, too
    slots, _ = claimers.slots_of(url)
    claimers.meet(place, 4, "ready")
    (place / f"made-{os.getpid()}").write_text(str(slots.set_total(total).added))
