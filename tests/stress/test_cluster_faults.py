"""A study on a real cluster and a real database, and what may happen to both on the way.

While 24 trials are run by six workers, one job comes to its time limit, one is preempted, one
worker is killed, one job is cancelled, and the database is restarted. All trials end, and each
fault costs the trials it hit one epoch at most.
"""

import itertools
import os
import re
import signal
import time
from dataclasses import dataclass, field

import optuna
import pytest
from optuna.trial import TrialState

from hpo.records.folder import read
from tests.cluster.launches import (
    HPO,
    Watch,
    epochs_of,
    files_with,
    launched,
    slots_of,
    storage_of,
    trial_folder,
)
from tests.cluster.slurm import CPUS

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TRIALS, WORKERS, EPOCHS = 24, 6, 40

STUDY = f"""
[study]
name = "faults"
trials = {TRIALS}

[space]
base = "normal"
hidden = [16, 32]
blocks = {{ low = 2, high = 3 }}

[training]
epochs = {EPOCHS}
batch_size = 128
patience = 0

[pruner]
kind = "none"

[slurm]
partition = "low"
gpus = 0
cpus = 1
memory_gb = 2
timeout_min = 30
"""


@dataclass
class Fault:
    """Something that went wrong, and whom it hit."""

    what: str
    jobs: set = field(default_factory=set)
    begun: float = field(default_factory=time.time)
    over: float = 0.0
    seen: str = ""
    trials: set = field(default_factory=set)
    repeated: list = field(default_factory=list)
    """Trial and epoch, for each epoch that was run again."""


@pytest.fixture(scope="module")
def ended(slurm, postgres, prepared, tmp_path_factory):
    """The study as it ended, and the faults on the way."""
    place = tmp_path_factory.mktemp("faults")
    (place / "faults.toml").write_text(STUDY + f'\n[data]\npath = "{prepared}"\n')
    url = postgres.create("faults")
    environment = {**os.environ, **slurm.environment, "HPO_STORAGE": url}
    command = [*HPO, "launch", "faults.toml", "--on", "slurm", "--workers", str(WORKERS)]

    began = time.monotonic()
    with storage_of(url) as storage:
        with launched(command, place, environment, place / "said.txt") as launcher:
            watch = Watch(slots_of(storage, "faults", launcher), slurm, launcher)
            faults = list(bring_about(watch, postgres))
            code = launcher.wait(timeout=900)
        seconds = time.monotonic() - began
        study = optuna.load_study(study_name="faults", storage=storage)
        attribute(place, faults)
        yield {
            "place": place,
            "code": code,
            "faults": faults,
            "seconds": seconds,
            "study": study,
            "slots": watch.slots,
        }


def bring_about(watch, postgres):
    """One fault after another, each on a job of its own."""
    slurm, hit = watch.slurm, set()

    def at_work(leases, jobs):
        """Jobs that run a trial and were not hit yet, with their leases, if there are enough."""
        free = {
            job: lease
            for job, lease in leases.items()
            if job not in hit and jobs.get(job, {}).get("state") == "RUNNING"
        }
        return free if len(free) >= 3 else None

    watch.until(lambda leases, jobs: len(leases) == WORKERS, 120, "all workers have a trial")
    time.sleep(3)  # some epochs

    # Comes true at SLURM's next look at the limits, within 15 to 45 s.
    free = watch.until(at_work, 60, "a job to be timed out")
    late = Fault("time limit", {sorted(free)[0]})
    slurm.ask("scontrol", "update", f"jobid={one(late.jobs)}", "EndTime=now+15")
    hit |= late.jobs

    preempted = Fault("preemption")
    before, node, more = watch.until(
        lambda leases, jobs: room(jobs, at_work(leases, jobs), late.jobs), 60, "a node to preempt"
    )
    said = slurm.ask(
        *("sbatch", "--parsable", "--partition=high", f"--nodelist={node}", "--nodes=1"),
        *(f"--ntasks={more}", "--mem=100", "--output=/dev/null", "--wrap=sleep 5"),
    )
    # The job in the high partition runs as soon as one of the low has gone.
    watch.until(
        lambda leases, jobs: jobs[said.strip()]["state"] not in ("PENDING", "CONFIGURING"),
        60,
        "the job in the high partition runs",
    )
    now = slurm.jobs()
    preempted.jobs = {job for job in before if now[job]["state"] != "RUNNING"}
    preempted.over = time.time()
    preempted.seen = ", ".join(shown(now[job]) for job in sorted(preempted.jobs))
    hit |= preempted.jobs

    free = watch.until(at_work, 60, "a worker to be killed")
    job = sorted(free)[-1]
    killed = Fault("SIGKILL of a worker", {job})
    killed.trials = {watch.look()[job].number}
    os.kill(free[job].owner.pid, signal.SIGKILL)
    hit |= killed.jobs
    settle(watch, killed)

    free = watch.until(at_work, 60, "a job to be cancelled")
    cancelled = Fault("scancel", {sorted(free)[-1]})
    slurm.ask("scancel", one(cancelled.jobs))
    hit |= cancelled.jobs
    settle(watch, cancelled)

    free = watch.until(at_work, 60, "workers that lose their database")
    restarted = Fault("PostgreSQL restart", {lease.owner.job for lease in watch.look().values()})
    postgres.restart(away_s=3)
    restarted.over = time.time()
    restarted.seen = f"away for {restarted.over - restarted.begun:.1f} s"
    settle(watch, late)

    for fault in (late, preempted, killed, cancelled, restarted):
        begun = max(fault.begun, fault.over - 8.0) if fault is late else fault.begun
        fault.trials |= watch.held(fault.jobs, begun, fault.over)
        yield fault


def settle(watch, fault):
    """Wait until SLURM shows that the fault has happened, and what came of the job."""
    job = one(fault.jobs)
    watch.until(lambda _, jobs: jobs[job]["state"] != "RUNNING", 90, f"{fault.what} of job {job}")
    fault.over = time.time()
    passing = ("RUNNING", "SIGNALING", "COMPLETING")
    watch.until(lambda _, jobs: jobs[job]["state"] not in passing, 60, f"the end of job {job}")
    fault.seen = shown(watch.slurm.jobs()[job])


def shown(job):
    return f"{job['state']} ({job['reason']})"


def room(jobs, free, but):
    """Jobs of a node of which none is to be timed out, the node, and CPUs one more than free."""
    if not free:
        return None
    nodes = {}
    for job, state in jobs.items():
        if state["state"] == "RUNNING":
            nodes.setdefault(state["node"], set()).add(job)
    for node, here in sorted(nodes.items()):
        if not here & but and here <= set(free):
            return here, node, CPUS - len(here) + 1
    return None


def one(jobs):
    (job,) = jobs
    return job


def attribute(place, faults):
    """Lay each repeated epoch to the last fault before it that hit its trial."""
    for number in range(TRIALS):
        seen = set()
        for at, epoch in epochs_of(trial_folder(place, "faults", number)):
            if epoch in seen:
                guilty = [fault for fault in faults if number in fault.trials and fault.begun <= at]
                assert guilty, f"trial {number} ran epoch {epoch} again though nothing hit it"
                max(guilty, key=lambda fault: fault.begun).repeated.append((number, epoch))
            seen.add(epoch)


def table(ended):
    rows = [("fault", "jobs", "trials hit", "what SLURM showed", "epochs repeated")]
    for fault in ended["faults"]:
        trials = " ".join(map(str, sorted(fault.trials)))
        rows.append(
            (fault.what, str(len(fault.jobs)), trials, fault.seen, str(len(fault.repeated)))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join([*lines, f"{TRIALS} trials, {ended['seconds']:.0f} s"])


def test_no_trial_is_lost_or_added_by_any_fault(ended):
    print("\n" + table(ended))

    assert ended["code"] == 0
    assert [trial.number for trial in ended["study"].trials] == list(range(TRIALS))
    assert [trial.state for trial in ended["study"].trials] == [TrialState.COMPLETE] * TRIALS
    assert ended["slots"].leases() == []
    for trial in ended["study"].trials:
        record = read(folder_of(ended, trial.number) / "run.json")
        assert [row.epoch for row in record.epochs] == list(range(1, EPOCHS + 1))
        assert record.best_val_nll == trial.value == min(row.val_nll for row in record.epochs)


def test_a_fault_costs_the_trials_it_hit_one_epoch_at_most(ended):
    assert all(fault.trials for fault in ended["faults"])
    for fault in ended["faults"]:
        again = [number for number, _ in fault.repeated]
        assert len(again) == len(set(again)), f"{fault.what}: {fault.repeated}"


def test_every_epoch_that_was_not_run_again_follows_the_one_before(ended):
    for number in range(TRIALS):
        numbers = [epoch for _, epoch in epochs_of(folder_of(ended, number))]
        # A worker can end between the checkpoint of an epoch and its line in the log.
        log = (folder_of(ended, number) / "log.txt").read_text()
        saved = {int(epoch) for epoch in re.findall(r"goes on after epoch (\d+)", log)}
        assert set(numbers) | saved == set(range(1, EPOCHS + 1))
        for before, after in itertools.pairwise(numbers):
            assert after - before in (0, 1) or (after - before == 2 and after - 1 in saved)


def test_the_password_is_in_no_file_of_the_study(ended, postgres):
    assert len(list(ended["place"].rglob("run.json"))) == TRIALS
    assert files_with(postgres.secret.encode(), ended["place"]) == []


def folder_of(ended, number):
    return trial_folder(ended["place"], "faults", number)
