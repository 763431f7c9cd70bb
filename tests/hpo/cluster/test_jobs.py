"""SLURM's commands, stood in for by scripts; `tests/cluster` has the real ones."""

import os
import stat

import pytest

from hpo.cluster.jobs import (
    SQUEUE_S,
    JobState,
    SchedulerError,
    ask_slurm,
    cancel_jobs,
    cluster_settings,
    job_of_this_process,
    job_states,
    outside_of_jobs,
    queue_has_changed,
    requeue_job,
    slurm_available,
)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Makes a command that prints a text, notes its arguments and ends with a code."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    queue_has_changed()

    def make(name, prints="", code=0):
        (tmp_path / f"{name}.out").write_text(prints)
        script = f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.in\ncat {tmp_path}/{name}.out\n'
        (tmp_path / name).write_text(f"{script}exit {code}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
        return tmp_path / f"{name}.in"

    return make


def test_tasks_of_arrays_are_told_apart_and_jobs_of_others_left_out(command):
    command("squeue", "12_0|12|RUNNING|None\n12_1|12|PENDING|Resources\n15|15|RUNNING|None\n")

    found = job_states(["12_0", "12_1", "12_2"])

    assert found == {
        "12_0": JobState("12_0", "RUNNING", "None"),
        "12_1": JobState("12_1", "PENDING", "Resources"),
    }


def test_no_answer_is_not_no_job(command):
    command("squeue", "slurm_load_jobs error: Unable to contact slurm controller", code=1)

    assert job_states(["12"]) is None
    assert job_states([]) == {}


def test_squeue_is_asked_once_for_all_until_the_queue_has_changed(command, monkeypatch):
    asked = command("squeue", "12_0|12|RUNNING|None\n15|15|RUNNING|None\n")
    command("scancel")
    now_s = [1000.0]
    monkeypatch.setattr("hpo.cluster.jobs.time.monotonic", lambda: now_s[0])

    def times():
        job_states(["12_0"])
        assert [*job_states(["15"])] == ["15"]
        return len(asked.read_text().splitlines())

    assert times() == 1
    now_s[0] += SQUEUE_S
    assert times() == 1
    now_s[0] += 1
    assert times() == 2
    cancel_jobs(["12_0"])
    assert times() == 3


def test_no_answer_of_squeue_is_not_asked_for_again_at_once(command):
    asked = command("squeue", "slurm_load_jobs error", code=1)

    assert [job_states(["12"]) for _ in range(3)] == [None] * 3
    assert len(asked.read_text().splitlines()) == 1


def test_commands_get_an_environment_without_jobs_and_presets(monkeypatch):
    clean = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CLUSTERS": "big", "HPO_STORAGE": "sqlite://"}
    for name, value in clean.items():
        monkeypatch.setenv(name, value)
    for name in ("SLURM_JOB_ID", "SBATCH_EXPORT", "SQUEUE_FORMAT", "SUBMITIT_EXECUTOR"):
        monkeypatch.setenv(name, "x")
    before = {**os.environ}

    with outside_of_jobs():
        inside = {**os.environ}

    assert {**os.environ} == before
    assert before.keys() - inside.keys() >= {"SLURM_JOB_ID", "SBATCH_EXPORT", "SQUEUE_FORMAT"}
    assert clean.items() <= inside.items()
    assert ask_slurm("env").split().count("SLURM_CLUSTERS=big") == 1
    assert "SLURM_JOB_ID" not in ask_slurm("env")


@pytest.mark.parametrize(
    ("state", "reason", "started", "alive", "stuck"),
    [
        pytest.param("RUNNING", "None", True, True, False, id="runs"),
        pytest.param("COMPLETING", "None", True, True, False, id="is being ended"),
        pytest.param("PENDING", "Resources", False, True, False, id="waits for room"),
        pytest.param("PENDING", "BeginTime", False, False, False, id="was queued again"),
        pytest.param("PENDING", "PartitionTimeLimit", False, True, True, id="asks for too much"),
        pytest.param("FAILED", "NonZeroExitCode", False, False, False, id="ended"),
    ],
)
def test_what_a_state_means(state, reason, started, alive, stuck):
    job = JobState("1", state, reason)

    assert (job.started, job.alive, job.stuck) == (started, alive, stuck)


def test_an_error_says_what_the_command_said(command):
    command("scontrol", "Job/step already completing or completed", code=1)

    with pytest.raises(SchedulerError, match="scontrol: Job/step already completing"):
        requeue_job("12_0")


def test_a_command_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert not slurm_available()
    with pytest.raises(SchedulerError, match="squeue is not on this machine"):
        ask_slurm("squeue")


def test_nothing_is_cancelled_when_there_is_nothing_to_cancel(command):
    asked = command("scancel")

    cancel_jobs([])
    assert not asked.exists()
    cancel_jobs(["12_0", "13"])
    assert asked.read_text() == "12_0 13\n"


def test_settings_are_read_by_name(command):
    command("scontrol", "Configuration data as of now\nMaxArraySize            = 1001\nX = a=b\n")

    assert cluster_settings()["MaxArraySize"] == "1001"
    assert cluster_settings()["X"] == "a=b"


def test_a_task_of_an_array_has_the_name_that_users_see(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    assert job_of_this_process() is None

    monkeypatch.setenv("SLURM_JOB_ID", "31")
    assert job_of_this_process() == "31"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "24")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    assert job_of_this_process() == "24_7"
