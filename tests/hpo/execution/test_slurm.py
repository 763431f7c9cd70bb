"""Jobs of a launch on a real cluster, sent from places whose environment could spoil them."""

import contextlib
import os
import shlex
import subprocess
import sys

import psutil
import pytest
from optuna.trial import TrialState

from data_prep.errors import InputError
from hpo.cluster import jobs
from hpo.cluster.jobs import cancel_jobs, job_states
from hpo.doctor.machine import PreflightError
from hpo.execution.follow import follow
from hpo.execution.launch import begin
from hpo.execution.plan import make_plan
from hpo.execution.slurm import LaunchError, SlurmJobs, sbatch_text
from hpo.storage.address import url_of
from hpo.study.spec import load
from tests.cluster.slurm import wait_for

pytestmark = pytest.mark.cluster

STUDY = """
[study]
name = "tiny"
trials = 2

[space]
components = [4, 8]

[training]
epochs = 1
batch_size = 512

[pruner]
kind = "none"

[slurm]
gpus = 0
cpus = 1
memory_gb = 2
timeout_min = 30
"""
HOSTILE = {
    "SBATCH_PARTITION": "high",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_MEM_PER_CPU": "100",
    "SBATCH_TEST_ONLY": "1",
    "SBATCH_ARRAY_INX": "0-3",
    "SQUEUE_FORMAT": "%P",
    "SQUEUE_STATES": "FAILED",
    "SQUEUE_PARTITION": "high",
    "SCANCEL_STATE": "PENDING",
    "SLURM_BITSTR_LEN": "1",
    "SINFO_PARTITION": "high",
}
"""What a shell's profile may have set."""


@pytest.fixture
def place(with_database, prepared, slurm, monkeypatch):
    """A working folder with a study file and a database; this process uses the cluster."""
    tmp_path = with_database
    monkeypatch.chdir(tmp_path)
    for name in [one for one in os.environ if one.startswith(("HPO_", "SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tiny.toml").write_text(STUDY + f'\n[data]\npath = "{prepared}"\n')
    jobs.queue_has_changed()
    return tmp_path


def plan_of(place, *settings, **options):
    wanted = {"trials": None, "workers": 1, "on": "slurm", "force_sqlite": True} | options
    spec = load(str(place / "tiny.toml"), settings=settings)
    runs = wanted.pop("runs", place / "runs")
    return make_plan(spec, runs=runs, url=url_of(None, place), **wanted)


def environment_of_a_job(place, *settings, **options):
    """The environment in which a job's workers would start. The job ends before they do."""
    told = place / "told"
    step = f"srun --export=ALL env -0 >{told}.part && mv {told}.part {told}"
    plan = plan_of(place, f'slurm.setup=["{step}", "exit"]', *settings, **options)
    _, slots = begin(plan)
    SlurmJobs(plan, slots, print).add(plan.workers)
    folder = plan.worker_folder
    wait_for(
        lambda: told.exists() or any(path.stat().st_size for path in folder.glob("*.err")),
        timeout_s=30,
        why="the job starts",
    )
    assert told.exists(), [path.read_text() for path in folder.glob("*.err")]
    return dict(line.partition("=")[::2] for line in told.read_text().split("\0") if line)


@contextlib.contextmanager
def hostile(monkeypatch):
    with monkeypatch.context() as setting:
        for name, value in HOSTILE.items():
            setting.setenv(name, value)
        yield


def inside(*command):
    """The environment of a command that SLURM runs in an allocation."""
    said = subprocess.run([*command, "env", "-0"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    return dict(line.partition("=")[::2] for line in said.stdout.split("\0") if line)


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("salloc --quiet --ntasks=1 --mem-per-cpu=500", id="memory of each core"),
        pytest.param("salloc --quiet --ntasks=1 --gpus=1 --mem-per-gpu=500", id="of each GPU"),
        pytest.param("srun --quiet --ntasks=1 --mem=500 --time=1", id="in a step"),
    ],
)
def test_jobs_that_are_sent_from_an_allocation_know_nothing_of_it(place, monkeypatch, where):
    for name, value in inside(*where.split()).items():
        monkeypatch.setenv(name, value)

    job = environment_of_a_job(place)

    assert job["SLURM_MEM_PER_NODE"] == "2048"
    assert not {"SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU", "CUDA_VISIBLE_DEVICES"} & {*job}


def test_a_job_that_is_sent_from_a_task_of_an_array_is_no_task_of_one(place, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")

    assert "SLURM_ARRAY_TASK_ID" not in environment_of_a_job(place)


def test_what_a_shell_has_set_for_sbatch_does_not_outrank_the_study(place, monkeypatch, slurm):
    monkeypatch.setenv("MINE", "kept")
    with hostile(monkeypatch):
        job = environment_of_a_job(place, "slurm.partition=low", workers=2)

    assert (job["SLURM_JOB_PARTITION"], job["MINE"]) == ("low", "kept")
    array = job["SLURM_ARRAY_JOB_ID"]
    assert {f"{array}_0", f"{array}_1"} <= {*slurm.jobs()}
    assert "TimeLimit=00:30:00" in slurm.ask("scontrol", "show", "job", array)


@pytest.mark.parametrize("export", ["NONE", "MINE"])
def test_a_job_that_inherits_little_finds_its_database(place, monkeypatch, export):
    monkeypatch.setenv("HPO_STORAGE", f"sqlite:///{place}/hpo.db")
    monkeypatch.setenv("MINE", "1")
    monkeypatch.setenv("YOURS", "1")

    job = environment_of_a_job(place, f'slurm.extra={{export="{export}"}}')

    assert job["HPO_STORAGE"] == os.environ["HPO_STORAGE"]
    assert ("MINE" in job, "YOURS" in job) == (export == "MINE", False)
    scripts = [path.read_text() for path in (place / "runs").rglob("*submission.sh")]
    assert scripts
    assert not any("hpo.db" in text for text in scripts)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("NIL", "HPO_STORAGE,HPO_STORAGE_FILE"),
        ("A,B=1", "A,B=1,HPO_STORAGE,HPO_STORAGE_FILE"),
        ("ALL,B=1", "ALL,B=1"),
        ("all", "all"),
    ],
)
def test_a_list_of_what_jobs_inherit_is_kept(place, asked, sent):
    spec = load(str(place / "tiny.toml"), settings=[f'slurm.extra={{export="{asked}"}}'])

    assert f"#SBATCH --export={sent}\n" in sbatch_text(spec, place, 1).replace("'", "")


def test_squeue_tells_the_same_whatever_a_shell_has_set_for_it(place, monkeypatch, slurm):
    sleep = ("sbatch", "--parsable", "--mem=100", "--wrap=sleep 60", "--output=/dev/null")
    job = slurm.ask(*sleep).strip()
    with hostile(monkeypatch):
        assert job_states([job])[job].alive
        cancel_jobs([job])

    wait_for(lambda: slurm.jobs()[job]["state"] == "CANCELLED", timeout_s=20, why="it ends")


def test_jobs_count_as_soon_as_they_were_sent(place):
    plan = plan_of(place, 'slurm.setup=["sleep 60", "exit"]')
    _, slots = begin(plan)
    workers = SlurmJobs(plan, slots, print)
    assert job_states(["1"]) == {}  # an answer that is kept

    workers.add(1)

    assert workers.count(0) == 1
    cancel_jobs(slots.jobs())


def test_an_account_that_a_shell_has_set_holds_where_the_study_names_none(place, monkeypatch):
    monkeypatch.setenv("SBATCH_ACCOUNT", "ligo")

    script, other = (
        sbatch_text(load(str(place / "tiny.toml"), settings=words), place, 1)
        for words in ([], ["slurm.account=virgo"])
    )

    assert "#SBATCH --account=ligo" in script
    assert "#SBATCH --account=virgo" in other


@pytest.mark.parametrize("name", ["100%jobs", "a\\b", "two\nlines"])
def test_a_folder_whose_name_slurm_would_change_is_refused_before_anything_is_made(place, name):
    with pytest.raises(InputError, match="--runs must be a path of printable text"):
        begin(plan_of(place, runs=place / name))

    assert not (place / name).exists()


def test_a_folder_of_any_other_name_is_used(place):
    runs = place / """it's a "$HOME" & #1"""

    assert environment_of_a_job(place, runs=runs)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        pytest.param(["slurm.gpus=a100:1", "slurm.memory_gb=0"], None, id="a type of GPUs"),
        pytest.param(["slurm.gpus=v100:1"], "configuration is not available", id="another type"),
        pytest.param(["slurm.memory_gb=0", 'slurm.extra={mem-per-cpu="300"}'], None, id="memory"),
        pytest.param(["slurm.partition=gone"], "there is no partition", id="no partition"),
        pytest.param(["slurm.gpus=3"], "configuration is not available", id="too many"),
        pytest.param(['slurm.extra={exclusive="x"}'], "xclusive", id="an option that is none"),
    ],
)
def test_what_the_doctor_says_sbatch_does(place, settings, refused):
    if refused:
        with pytest.raises(PreflightError, match=refused):
            begin(plan_of(place, *settings))
        return
    job = environment_of_a_job(place, *settings)

    assert job.get("CUDA_VISIBLE_DEVICES") == ("0" if "slurm.gpus=a100:1" in settings else None)
    assert "SLURM_MEM_PER_NODE" not in job


@pytest.mark.slow
@pytest.mark.parametrize("server", ["postgres"], indirect=True)
def test_a_launch_in_a_hostile_job_runs_its_trials_and_shows_nobody_the_password(
    place, monkeypatch, slurm, postgres, database
):
    """The launch is a task of an array with memory for each core, under `HOSTILE`."""
    words = [sys.executable, "-m", "hpo.cli", "launch", "tiny.toml", "--on", "slurm"]
    words += ["--workers", "1", "--set", 'slurm.extra={export="NONE"}']
    presets = " ".join(f"{name}={value}" for name, value in HOSTILE.items())
    (place / "launch.sh").write_text(f"#!/bin/sh\nexport {presets}\nexec {shlex.join(words)}\n")
    monkeypatch.setenv("HPO_STORAGE", database)
    sent = ("sbatch", "--parsable", "--array=3", "--mem-per-cpu=900", "--output=said.txt")
    job = f"{slurm.ask(*sent, 'launch.sh').strip()}_3"

    shown = set()

    def ended():
        for process in psutil.process_iter(["cmdline"]):
            shown.update(process.info["cmdline"] or [])
        return slurm.jobs()[job]["state"] not in ("PENDING", "RUNNING", "COMPLETING")

    wait_for(ended, timeout_s=150, why="the launch ends")

    said = (place / "said.txt").read_text()
    assert slurm.jobs()[job]["state"] == "COMPLETED", said
    assert "2 of 2 trials done (2 complete" in said
    assert "submitit.core._submit" in shown
    assert not any(postgres.secret in word for word in shown)
    files = [path for path in place.rglob("*") if path.is_file()]
    assert [path for path in files if postgres.secret.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_a_launch_ends_when_its_jobs_have_a_gpu_that_torch_does_not_see(place, slurm):
    plan = plan_of(place, "slurm.gpus=1")
    study, slots = begin(plan)

    with pytest.raises(LaunchError, match=r"sees no GPU there, but \[slurm\] gpus is 1: install"):
        follow(plan, study, slots, show=lambda *_: None, tell=print)

    assert len(slots.jobs()) == 1
    assert slots.look().counts[TrialState.WAITING] == 2
