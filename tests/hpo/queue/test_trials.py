"""What a look at a study sees, on real databases."""

from pathlib import Path

import pytest
from optuna.trial import TrialState
from sqlalchemy import event

from hpo.queue.leases import Owner
from hpo.queue.slots import Slots
from hpo.storage.address import StorageError, url_of
from hpo.storage.open import open_storage, open_study
from tests.claimers import STUDY, slots_of


def test_a_look_sees_one_moment(url):
    slots, study = slots_of(url)
    slots.set_total(3)
    claim = slots.claim(Owner.this_process())
    other = open_study(open_storage(url_of(url, Path())), STUDY)

    def end_once(_connection, _cursor, text, *_):
        if not other.user_attrs and text.startswith("SELECT"):
            other.set_user_attr("stop", True)
            Slots(other, max_restarts=0).finish(claim, TrialState.COMPLETE, 4.5)

    event.listen(slots.engine, "after_cursor_execute", end_once)
    seen = slots.look()  # its first statement saw no attribute

    assert (seen.attributes, seen.finished, len(seen.leases), seen.total) == ({}, set(), 1, 3)
    seen = slots.look()
    assert (seen.attributes, seen.finished, seen.leases) == ({"stop": True}, {0}, ())
    assert seen.counts == {TrialState.COMPLETE: 1, TrialState.WAITING: 2}
    other._storage._backend.engine.dispose()


def test_a_study_that_was_deleted_is_not_taken_for_one_without_trials(url):
    slots, study = slots_of(url)
    study._storage.delete_study(study._study_id)

    with pytest.raises(StorageError, match=f"the study '{STUDY}' is not in its database any more"):
        slots.look()
