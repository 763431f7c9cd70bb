import contextlib
import os
import signal

import psutil
import pytest

from hpo.doctor.machine import gpus
from hpo.execution import local
from hpo.execution.plan import make_plan
from hpo.storage.address import url_of
from hpo.study.spec import load


def test_an_interrupt_while_workers_are_started_is_not_lost():
    with pytest.raises(KeyboardInterrupt), local._deaf_to_interrupts():
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_started_hears_no_interrupt_and_this_process_does_again():
    with local._deaf_to_interrupts():
        assert {signal.SIGINT, signal.SIGHUP} <= signal.pthread_sigmask(signal.SIG_BLOCK, [])

    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Workers of a study that is not in any database, killed at the end."""
    plan = make_plan(
        load("quick"), trials=9, workers=4, on="local", runs=tmp_path, url=url_of(None, tmp_path)
    )
    plan.worker_folder.mkdir(parents=True)
    workers = local.LocalWorkers(plan)
    yield workers, lambda: local._top_processes(plan)
    while tops := local._top_processes(plan):
        for top in tops:
            kill(top)
    workers.count(0)  # sees that they have ended


def kill(top):
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [top, *top.children(recursive=True)]:
            process.kill()
        top.wait(timeout=10)


def devices_of(processes):
    return sorted(process.environ()["CUDA_VISIBLE_DEVICES"] for process in processes)


@pytest.mark.parametrize("visible", ["GPU-c4a6,MIG-b2/1/0", "0,3"])
def test_workers_get_the_gpus_as_they_are_named_those_that_fewest_use_first(
    started, monkeypatch, visible
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    workers, there = started
    first, second = visible.split(",")

    workers.add(1)
    workers.add(2)
    assert devices_of(there()) == sorted([first, second, first])

    gone = next(one for one in there() if devices_of([one]) == [second])
    kill(gone)
    workers.add(1)
    assert devices_of(there()) == sorted([first, second, first])


LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 2g.10gb     Device  1: (UUID: MIG-GPU-5d5ba0d6/1/0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aa)
"""


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (LISTED, ["MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-GPU-5d5ba0d6/1/0", "GPU-aa"]),
        ("No devices were found\n", []),
    ],
)
def test_where_no_variable_names_gpus_the_driver_lists_them(tmp_path, monkeypatch, listed, found):
    (tmp_path / "listed").write_text(listed)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat {tmp_path}/listed\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    assert gpus() == found

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []
