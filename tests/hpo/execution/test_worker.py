import contextlib
import dataclasses
import math
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from hpo.cluster import signals
from hpo.cluster.jobs import end_of_job
from hpo.cluster.signals import HandBack, handing_back
from hpo.execution import worker
from hpo.execution.worker import NoGpuError
from hpo.queue.crew import Crew
from hpo.queue.leases import Owner
from hpo.queue.slots import Slots
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.spec import load
from hpo.study.study import blank_record, create_study
from models.training.stack.meeting import Meeting


@pytest.fixture
def job(monkeypatch):
    """This process is in a job of SLURM that tells no end."""
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)


def test_a_process_outside_of_slurm_has_no_limit(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)

    assert end_of_job(timeout_min=1) == math.inf


def test_a_job_ends_when_slurm_says_else_as_was_asked_for(job, monkeypatch):
    started = psutil.Process().create_time()
    assert end_of_job(timeout_min=10) == started + 600

    monkeypatch.setenv("SLURM_JOB_END_TIME", "123456")
    assert end_of_job(timeout_min=10) == 123456


def a_worker(waiting):
    study, spec, slots = waiting
    return worker._Worker(
        study=study, spec=spec, slots=slots, owner=Owner.this_process(), runs=Path("runs")
    )


@pytest.mark.parametrize(("spare_s", "begun"), [(-30, False), (30, True)])
def test_a_trial_is_begun_only_if_it_gets_somewhere_before_slurms_signal(
    waiting, job, monkeypatch, spare_s, begun
):
    needed_s = worker.WORTHWHILE_EPOCHS * 100
    end = int(time.time()) + worker.SIGNAL_S + needed_s + spare_s
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(end))
    monkeypatch.setattr(worker, "requeue_job", lambda _: None)
    taking = a_worker(waiting)
    taking.crew.count(100.0)

    assert (taking._next() is not None) == begun


def test_a_job_that_has_no_time_left_asks_once_to_be_started_again(waiting, job, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time())))
    asked = []

    def ask(job):
        assert not asked
        asked.append(job)

    monkeypatch.setattr(worker, "requeue_job", ask)
    monkeypatch.setattr("hpo.queue.crew.LOOK_S", 0.0)
    taking = a_worker(waiting)
    taking.crew.count(1.0)

    with taking.crew.training():
        for _ in range(3):  # as each of its threads
            taking._take()
        assert not asked  # it would end what is trained here
    taking.work()

    assert asked == ["31"]


def test_a_thread_that_found_no_trial_takes_one_that_comes_while_others_train(waiting, monkeypatch):
    study, spec, slots = waiting
    monkeypatch.setattr("hpo.queue.crew.LOOK_S", 0.05)
    slots.set_total(1)
    looked, beside = threading.Event(), threading.Event()
    wait = Crew.wait

    def waited(crew):
        looked.set()
        return wait(crew)

    monkeypatch.setattr(Crew, "wait", waited)

    def running(job):
        job.suggested({})
        if job.claim.number:
            beside.set()
        else:
            assert looked.wait(30)
            slots.set_total(2)
            assert beside.wait(30)
        slots.finish(job.claim, TrialState.COMPLETE, 0.0)
        return blank_record(study, job.claim.number)

    monkeypatch.setattr("hpo.execution.trial.run", running)
    crew, met = Crew(), Meeting(size=2)
    whole, *mates = (
        dataclasses.replace(a_worker(waiting), crew=crew, meeting=met) for _ in range(3)
    )
    whole.mates = mates

    assert whole.work() == 2


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises_where_the_process_is_and_only_once(monkeypatch, number):
    monkeypatch.setattr(signals, "INSIST_S", 0.01)
    before = signal.getsignal(number)
    reached = []

    with handing_back(*SIGNALS):
        with pytest.raises(HandBack) as told:
            signal.raise_signal(number)
        told.value.heard = True
        signal.raise_signal(number)  # while the trial is handed back
        time.sleep(0.05)
        reached.append("the end")

    assert told.value.signal_number == number
    assert reached == ["the end"]
    assert signal.getsignal(number) == before


class Finalized:
    """Something that is told to end while it is thrown away."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_within_a_finalizer_hands_the_trial_back_though_python_swallows_it(
    waiting, monkeypatch
):
    monkeypatch.setattr(signals, "INSIST_S", 0.2)
    reached = []

    def running(_claimed):
        Finalized()
        reached.append("swallowed")
        signal.raise_signal(signal.SIGHUP)  # a second one does no harm
        time.sleep(60)

    monkeypatch.setattr("hpo.execution.trial.run", running)
    began_s = time.monotonic()
    with handing_back(*SIGNALS):
        assert a_worker(waiting).work() == 0

    assert reached == ["swallowed"]
    assert time.monotonic() - began_s < 30
    assert waiting[-1].leases() == []
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_command_started_with_nohup_is_ended_by_no_hang_up(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handing_back(*SIGNALS):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("visible", "rank", "chosen"),
    [
        ("0,1", 0, "0"),
        ("0,1", 1, "1"),
        ("0, 1", 3, "1"),
        ("3", 5, "3"),
        ("", 1, ""),
        ("GPU-c4a6,MIG-77/1/0", 1, "MIG-77/1/0"),
    ],
)
def test_workers_of_a_job_spread_over_its_gpus(monkeypatch, visible, rank, chosen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    worker._choose_gpu(rank)

    assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen


@pytest.mark.parametrize(
    ("settings", "in_job", "asked"),
    [
        pytest.param(["training.device=cuda"], False, "device is 'cuda'", id="cuda"),
        pytest.param(["training.device=cuda", "slurm.gpus=0"], True, "is 'cuda'", id="in a job"),
        pytest.param([], True, "gpus is 1", id="a job with a GPU"),
        pytest.param(["slurm.gpus=a100:2"], True, "gpus is 'a100:2'", id="a type"),
        pytest.param([], False, None, id="none asked for"),
        pytest.param(["slurm.gpus=0"], True, None, id="a job without"),
        pytest.param(["training.device=cpu"], True, None, id="a processor"),
    ],
)
def test_no_worker_trains_on_a_processor_where_a_gpu_was_asked_for(
    tmp_path, monkeypatch, caplog, settings, in_job, asked
):
    caplog.set_level("INFO")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(worker, "job_of_this_process", lambda: "31" if in_job else None)
    spec, refused = load("quick", settings=settings), tmp_path / "refused.txt"

    with pytest.raises(NoGpuError, match=asked) if asked else contextlib.nullcontext():
        worker._choose_device(spec, refused)

    assert "trains on cpu" in caplog.text
    assert ("sees no GPU" in refused.read_text()) if asked else not refused.exists()


@pytest.fixture
def waiting(tmp_path):
    """A study of which two trials wait, what it searches, and its slots."""
    spec = load("quick")
    storage = open_storage(url_of(f"sqlite:///{tmp_path}/hpo.db", tmp_path))
    study = create_study(storage, spec, runs=tmp_path, fingerprint="f")
    slots = Slots(study, max_restarts=3)
    slots.set_total(2)
    return study, spec, slots


def test_a_claim_that_a_signal_cut_short_is_handed_back(waiting, monkeypatch):
    slots = waiting[-1]
    elsewhere = slots.claim(Owner(host="elsewhere", pid=1, started=0.0))
    owner = Owner.this_process()

    def cut_short(_slots, claiming):
        claim(_slots, claiming)
        raise HandBack(signal.SIGTERM)

    claim = Slots.claim
    monkeypatch.setattr(Slots, "claim", cut_short)
    a_worker(waiting).work()

    assert slots.claims_of(owner) == []
    assert [lease.number for lease in slots.leases()] == [elsewhere.number]
