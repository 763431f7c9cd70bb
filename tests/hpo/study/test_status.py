"""What `hpo status` sees, told on a real database."""

import itertools
import os
from contextlib import contextmanager
from dataclasses import replace

import pytest
from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from hpo.cli import progress
from hpo.cluster.jobs import queue_has_changed
from hpo.execution.follow import follow, look
from hpo.execution.launch import begin
from hpo.execution.plan import make_plan
from hpo.queue.leases import Owner
from hpo.records.record import EpochRow
from hpo.storage.address import url_of
from hpo.storage.open import open_storage, open_study
from hpo.study.spec import load
from hpo.study.status import Records, status_of
from hpo.study.study import STOP_ATTRIBUTE, blank_record, create_study, slots_of, trial_folder


@pytest.fixture
def opened(tmp_path, with_database):
    """A new study of six trials: itself, what it searches, its slots, its records."""
    spec = load("quick")
    storage = open_storage(url_of(None, tmp_path))
    study = create_study(storage, spec, runs=tmp_path, fingerprint="f")
    slots = slots_of(study, spec)
    slots.set_total(6)
    return study, spec, slots, Records(tmp_path / "quick")


def read_status(study, spec, slots, records):
    return status_of(study, spec, slots.look(), records)


def test_every_trial_is_counted_once_where_it_is(opened):
    _, _, slots, _ = opened
    us = Owner.this_process()
    slots.finish(slots.claim(us), TrialState.COMPLETE, 4.5)
    slots.finish(slots.claim(us), TrialState.FAIL)
    slots.claim(us)

    seen = read_status(*opened)

    assert (seen.complete, seen.failed, len(seen.running), seen.waiting) == (1, 1, 1, 3)
    assert (seen.total, seen.finished) == (6, 2)
    assert (seen.best_trial, seen.best_val_nll) == (0, 4.5)


def test_a_running_trial_tells_who_holds_it_and_how_far_it_is(opened, tmp_path):
    study, _, slots, _ = opened
    claim = slots.claim(Owner.this_process())
    record = blank_record(study, claim.number)
    row = {"train_nll": 4.6, "learning_rate": 1e-3, "samples_per_second": 1e4, "loss_rate": None}
    rows = tuple(EpochRow(epoch=n, val_nll=4.5, seconds=3.0, **row) for n in (1, 2))
    where = replace(record.environment, device="cuda (NVIDIA H200)", stack=16)
    replace(record, epochs=rows, environment=where).write(trial_folder(tmp_path, "quick", 0))

    status = read_status(*opened)

    [running] = status.running
    assert (running.trial, running.epoch, running.epochs) == (0, 2, 9)
    assert running.val_nll == 4.5
    assert running.eta_s == 7 * 3.0
    assert (running.device, running.at_a_time) == ("cuda", 16)
    assert running.pid == Owner.this_process().pid
    assert running.stale is None
    names, row = progress.running(status).splitlines()
    assert names.endswith("at a time")
    assert row.endswith(" 16")


def test_a_trial_whose_worker_is_gone_is_stale_and_says_why(opened):
    _, _, slots, _ = opened
    us = Owner.this_process()
    slots.claim(replace(us, started=us.started - 100))

    [running] = read_status(*opened).running

    assert f"(process {us.pid} on {us.host}) is gone" in running.stale
    assert "hpo launch" in running.stale


@pytest.mark.parametrize(
    ("squeue", "stale"),
    [
        pytest.param("echo '12|12|SUSPENDED|None'", None, id="suspended"),
        pytest.param("true", "is gone", id="ended"),
        pytest.param("exit 1", "squeue does not answer", id="no answer"),
    ],
)
def test_a_job_that_was_silent_for_a_day_is_what_squeue_says(
    opened, squeue, stale, tmp_path, monkeypatch, request
):
    _, _, slots, _ = opened
    slots.claim(Owner(host="node", pid=1, started=0.0, job="12"))
    with slots.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE hpo_leases SET renewed = renewed - 86400")
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{squeue}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    queue_has_changed()
    request.addfinalizer(queue_has_changed)  # the next test shall not have this one's answer

    [running] = read_status(*opened).running

    assert running.stale is None if stale is None else stale in running.stale


def test_looking_changes_nothing(opened):
    before = opened[0].trials
    read_status(*opened)

    assert opened[0].trials == before
    assert not opened[-1].folder.exists()


@contextmanager
def after_statement(slots, number, act):
    """Lets `act` happen once, after so many statements of whatever these slots do next."""
    statements = itertools.count(1)

    def acting(*_):
        if next(statements) == number:
            act()

    event.listen(slots.engine, "after_cursor_execute", acting)
    yield
    event.remove(slots.engine, "after_cursor_execute", acting)


@pytest.mark.parametrize("statement", range(1, 5))
def test_a_look_is_of_one_moment_whatever_happens_meanwhile(opened, statement, with_database):
    study, spec, slots, records = opened
    claim = slots.claim(Owner.this_process())
    other = open_study(open_storage(url_of(None, with_database)), "quick")

    def end_and_stop():
        slots_of(other, spec).finish(claim, TrialState.COMPLETE, 4.5)
        other.set_user_attr(STOP_ATTRIBUTE, True)

    with after_statement(slots, statement, end_and_stop):
        seen = read_status(study, spec, slots, records)

    assert seen.finished + len(seen.running) + seen.waiting == seen.total
    before = (0, 1, None, None)
    after = (1, 0, 0, "stopped by hpo stop")
    assert (seen.complete, len(seen.running), seen.best_trial, seen.stopping) in (before, after)


def test_the_time_left_follows_from_the_trials_that_ended(opened):
    study, _, slots, _ = opened
    us = Owner.this_process()
    assert read_status(*opened).eta_s is None  # nothing ended yet

    slots.finish(slots.claim(us), TrialState.COMPLETE, 4.5)
    took_s = study.get_trials()[0].duration.total_seconds()
    assert read_status(*opened).eta_s is None  # nothing runs
    slots.claim(us)
    slots.claim(us)

    # Three wait, two run: between a trial and a half, and two and a half, of both workers.
    assert 1.5 * took_s <= read_status(*opened).eta_s <= 2.5 * took_s


def test_a_launchers_look_asks_the_database_no_more_for_many_trials_than_for_few(opened):
    study, spec, slots, records = opened
    asked = []
    event.listen(slots.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    reports = {epoch: 4.5 for epoch in range(3)}

    def asked_by_a_look():
        asked.clear()
        look(study, spec, slots, records)
        return list(asked)

    finished = {"state": TrialState.COMPLETE, "value": 4.5, "intermediate_values": reports}
    study.add_trial(create_trial(**finished))
    few = asked_by_a_look()
    study.add_trials(create_trial(**finished) for _ in range(50))
    slots.set_total(60)
    for rank in range(4):
        slots.claim(Owner.this_process(rank=rank))
    many = asked_by_a_look()

    assert many == few
    assert [text.split()[0] for text in many] == ["BEGIN", "SELECT", "SELECT"]
    assert not [text for text in many if "trial_intermediate_values" in text]


def test_a_launch_reads_no_record_of_a_trial_that_ended_before_it(tmp_path, monkeypatch):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    url = url_of(None, tmp_path)
    plan = make_plan(load("quick"), trials=3, workers=1, on="local", runs=tmp_path, url=url)
    study, slots = begin(plan)
    us, read = Owner.this_process(), []
    while claim := slots.claim(us):
        slots.finish(claim, TrialState.COMPLETE, 4.5)
    monkeypatch.setattr("hpo.execution.follow.record_of", lambda _, number: read.append(number))
    monkeypatch.setattr("hpo.study.status.read", lambda path, **_: read.append(path))

    seen = follow(plan, study, slots, show=lambda *_: None, tell=print)

    assert seen.complete == 3
    assert read == []
