"""Races between launches on a server, and what its connections may do."""

import os
import re
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hpo.queue.slots import Slots
from hpo.storage.address import StorageError, url_of
from hpo.storage.open import open_storage, open_study
from tests import claimers

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_racing_launches_make_no_row_twice(database, tmp_path):
    context = claimers.PROCESSES
    arguments = (database, tmp_path, 100)
    launches = [context.Process(target=launch, args=arguments) for _ in range(4)]
    with claimers.ended(launches):
        for launch in launches:
            launch.start()
        for launch in launches:
            launch.join(timeout=100)

        assert [launch.exitcode for launch in launches] == [0] * 4
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


def launch(url, place, total):
    claimers.meet(place, 4)  # here, so that all make the tables and the study at once, too
    slots, _ = claimers.slots_of(url)
    claimers.meet(place, 4, "ready")
    (place / f"made-{os.getpid()}").write_text(str(slots.set_total(total).added))
