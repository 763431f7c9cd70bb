import os
import signal
import time

import pytest

from hpo.execution import worker
from hpo.execution.worker import HandBack, TimeLeft
from hpo.queue.leases import Owner
from hpo.queue.slots import Slots
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.spec import load
from hpo.study.study import create_study


def test_a_job_without_a_limit_has_room_for_anything(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)

    assert TimeLeft.of_this_job(timeout_min=1).suffices_for(1e9)


def test_a_trial_is_begun_only_if_it_gets_somewhere_before_slurms_signal(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 1000))
    left = TimeLeft.of_this_job(timeout_min=1)

    assert left.suffices_for(1000 - worker.SIGNAL_S - 30)
    assert not left.suffices_for(1000 - worker.SIGNAL_S + 30)


def test_the_limit_that_was_asked_for_stands_in_for_one_that_slurm_does_not_tell(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)

    assert not TimeLeft.of_this_job(timeout_min=1).suffices_for(60)
    assert TimeLeft.of_this_job(timeout_min=60 * 24 * 365).suffices_for(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_raises_where_the_process_is_and_only_once(number):
    before = signal.getsignal(number)
    reached = []

    with worker._handing_back():
        with pytest.raises(HandBack) as told:
            signal.raise_signal(number)
        signal.raise_signal(number)  # while the trial is handed back
        reached.append("the end")

    assert told.value.signal_number == number
    assert reached == ["the end"]
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(
    ("visible", "rank", "chosen"),
    [("0,1", 0, "0"), ("0,1", 1, "1"), ("0,1", 2, "0"), ("3", 5, "3"), ("", 1, "")],
)
def test_workers_of_a_job_spread_over_its_gpus(monkeypatch, visible, rank, chosen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    worker._choose_gpu(rank)

    assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen


def test_a_claim_that_a_signal_cut_short_is_handed_back(tmp_path, monkeypatch):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    spec = load("quick")
    study = create_study(open_storage(url_of(None, tmp_path)), spec, runs=tmp_path, fingerprint="f")
    slots = Slots(study, max_restarts=3)
    slots.top_up(2)
    elsewhere = slots.claim(Owner(host="elsewhere", pid=1, started=0.0))
    owner = Owner.this_process()

    def cut_short(_slots, claiming):
        claim(_slots, claiming)
        raise HandBack(signal.SIGTERM)

    claim = Slots.claim
    monkeypatch.setattr(Slots, "claim", cut_short)
    worker._Worker(study, spec, slots, owner, tmp_path).work()

    assert slots.claims_of(owner) == []
    assert [lease.number for lease in slots.leases()] == [elsewhere.number]
