"""A study on a cluster whose machines, jobs, database and folders change behind its back.

The launch is typed inside `salloc`, with variables of the shell that are meant for other jobs. Two
of the four nodes have process ids of their own, one of these another host name, too. While trials
run, one job is suspended for hours, and one node freezes and is given up; its worker goes on for a
moment when another one has ended its trial. Then everything is stopped, the project moves to
another folder, a backup takes the database's place, and the same command is typed again.

Hours pass by dating the lease of a worker that stands still back. What such a worker does, and what
SLURM says of it, is real.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from hpo.records.folder import read
from models.evaluation.nll import nll
from models.training.checkpoint import best_flow
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
from tests.cluster.slurm import Slurm, need_slurm
from tests.conftest import running

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

NAME, TRIALS, WORKERS, EPOCHS = "surprises", 20, 4, 24
ALONE, NAMESAKE = "n2", "n1"
"""Nodes that are apart: with a host name of its own, and with that of this machine."""
BEFORE, AFTER = 6, 5
"""Trials that have ended when the database is backed up, and that end after it."""

STUDY = f"""
[study]
name = "{NAME}"
trials = {TRIALS}

[data]
path = "prepared"

[space]
base = "normal"
hidden = [16, 32]
blocks = {{ low = 2, high = 3 }}
learning_rate = {{ low = 1e-4, high = 1e-2, log = true }}

[training]
epochs = {EPOCHS}
batch_size = 128
patience = 0

[pruner]
kind = "median"
min_epochs = 12

[slurm]
partition = "low"
gpus = 0
cpus = 1
memory_gb = 2
timeout_min = 30
"""

HOSTILE = {"SBATCH_PARTITION": "high", "SBATCH_TIMELIMIT": "1", "SBATCH_EXPORT": "NONE"}
ALLOCATION = ("salloc", "--quiet", "--partition=high", "--ntasks=1", "--mem-per-cpu=300")
ALLOCATION += ("--nodelist=n0",)

LAUNCH = (*HPO, "launch", f"{NAME}.toml", "--on", "slurm", "--workers", str(WORKERS))
LAUNCH += ("--runs", "runs")

TOLERANCE = 1e-9
"""Nats. Where it was looked into, not a bit differed; those of two epochs differ by far more."""


@pytest.fixture(scope="module")
def cluster():
    need_slurm()

    def kind(folder):
        return Slurm(folder, cpus=2, apart={ALONE: "localhost", NAMESAKE: socket.gethostname()})

    yield from running(kind, "hpo-slurm-")


@pytest.fixture(scope="module")
def ended(cluster, postgres, prepared, tmp_path_factory):
    """The study as it ended, and what was seen on the way."""
    place = tmp_path_factory.mktemp(NAME)
    project = place / "project"
    project.mkdir()
    (project / f"{NAME}.toml").write_text(STUDY)
    shutil.copytree(prepared, project / "prepared")
    url = postgres.create(NAME)
    environment = {**os.environ, **cluster.environment, "HPO_STORAGE": url}
    backup, seen, began = place / "backup.sql", {}, time.monotonic()

    command = (*ALLOCATION, *LAUNCH)
    with (
        storage_of(url) as storage,
        launched(command, project, {**environment, **HOSTILE}, place / "said-1.txt") as launcher,
    ):
        watch = Watch(slots_of(storage, NAME, launcher), cluster, launcher)
        first = Surprises(watch, postgres, project, seen)
        first.bring_about()
        postgres.backup(NAME, backup)
        seen["ended at the backup"] = len(first.ended())
        watch.until(lambda *_: len(first.ended()) >= BEFORE + AFTER, 120, "more trials end")
        subprocess.run([*HPO, "stop", NAME, "--now"], cwd=project, env=environment, check=True)
        launcher.wait(timeout=60)
        seen["ended at the stop"] = len(first.ended())

    moved = place / "elsewhere" / "renamed"
    moved.parent.mkdir()
    project.rename(moved)
    postgres.restore(NAME, backup)
    postgres.ask("update hpo_leases set renewed = renewed - 3600", database=NAME)

    with launched(LAUNCH, moved, environment, place / "said-2.txt") as launcher:
        code = launcher.wait(timeout=900)
    seen["seconds"] = time.monotonic() - began
    with storage_of(url) as storage:
        study = optuna.load_study(study_name=NAME, storage=storage)
        yield {"place": place, "moved": moved, "code": code, "study": study, "seen": seen}


class Surprises:
    """What happens to the first launch."""

    def __init__(self, watch, postgres, project, seen):
        self.watch = watch
        self.slurm = watch.slurm
        self._postgres = postgres
        self._project = project
        self._seen = seen

    def ended(self):
        """Numbers of the trials that the database takes for ended."""
        rows = self._sql("select number from trials where state not in ('RUNNING', 'WAITING')")
        return {int(row) for row in rows.split()}

    def bring_about(self):
        """One job is suspended and one node frozen, and both go on."""
        leases = self.watch.until(
            lambda leases, _: leases if len(leases) == WORKERS else None,
            120,
            "all workers have a trial",
        )
        said = self.slurm.ask("squeue", "--noheader", "--array", "--format=%i|%P|%l")
        self._seen["jobs"] = [
            rest for job, *rest in (line.split("|") for line in said.splitlines()) if job in leases
        ]
        suspended, frozen = self._lease_on(NAMESAKE), self._lease_on(ALONE)

        self.slurm.ask("scontrol", "suspend", suspended.owner.job)
        self._freeze()
        self.watch.until(lambda *_: self._stands_still(NAMESAKE, suspended), 30, "a job stands")
        self._date_back(suspended, frozen)
        taken = self.watch.until(
            lambda leases, _: self._taken(leases, frozen), 60, "the frozen trial is taken"
        )
        self.watch.until(
            lambda *_: frozen.number in self.ended(), 120, "the frozen trial ends elsewhere"
        )
        self._seen["took the frozen trial"] = taken.owner.job != frozen.owner.job
        self._see_that_late_writes_do_not_land(frozen)

        now = {lease.number: lease.token for lease in self.watch.look().values()}
        self._seen["suspended trial was left alone"] = now.get(suspended.number) == suspended.token
        self.slurm.ask("scontrol", "resume", suspended.owner.job)
        self._seen["suspended trial"] = suspended.number
        self.watch.until(
            lambda *_: suspended.number in self.ended(), 120, "the suspended trial ends"
        )
        self.watch.until(lambda *_: len(self.ended()) >= BEFORE, 60, "trials end before the backup")

    def _lease_on(self, node):
        """A lease of a job there that has ended some epochs."""

        def look(leases, jobs):
            for job, lease in leases.items():
                folder = self._folder(lease)
                there = jobs.get(job, {}).get("node") == node and (folder / "log.txt").exists()
                if there and len(epochs_of(folder)) >= 3:
                    return lease
            return None

        return self.watch.until(look, 120, f"a trial runs on {node}")

    def _freeze(self):
        """The node stands still, and SLURM gives its jobs up: another node shall run them."""
        self._signal(ALONE, signal.SIGSTOP)
        self.slurm.ask("scontrol", "update", f"nodename={ALONE}", "state=down", "reason=frozen")

    def _see_that_late_writes_do_not_land(self, frozen):
        """Let the frozen worker go on, and then its node; compare the trial's files."""
        before = self._files(frozen)
        (worker,) = self._workers(ALONE, frozen)
        self._signal(ALONE, signal.SIGCONT, only=worker)

        def has_noticed(leases, _):
            mine = leases.get(frozen.owner.job)
            return not worker.is_running() or (mine and mine.token != frozen.token)

        self.watch.until(has_noticed, 60, "the frozen worker notices")
        after = self._files(frozen)
        self._seen["late writes"] = sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        )
        # Its node stays down, and what the worker began since is lost with it.
        self._signal(ALONE, signal.SIGKILL)
        if again := self.watch.look().get(frozen.owner.job):
            self._date_back(again)

    def _signal(self, node, number, only=None):
        for process in self.slurm.processes_of(node):
            if only is None or process == only or only in process.parents():
                process.send_signal(number)

    def _stands_still(self, node, lease):
        state = self.slurm.jobs()[lease.owner.job]["state"]
        workers = self._workers(node, lease)
        still = all(one.status() == psutil.STATUS_STOPPED for one in workers)
        return state == "SUSPENDED" and workers and still

    def _workers(self, node, lease):
        """The lease's process, which has another id there."""
        return [
            process
            for process in self.slurm.processes_of(node)
            if namespaced(process.pid) == lease.owner.pid
        ]

    def _date_back(self, *leases):
        """Three hours pass without a word of these workers."""
        ids = ", ".join(str(lease.trial_id) for lease in leases)
        self._sql(f"update hpo_leases set renewed = renewed - 10800 where trial_id in ({ids})")

    def _sql(self, statement):
        return self._postgres.ask(statement, database=NAME)

    def _taken(self, leases, lost):
        """The lease of the trial once it is another's."""
        of_trial = (one for one in leases.values() if one.number == lost.number)
        return next((one for one in of_trial if one.token != lost.token), None)

    def _files(self, lease):
        """What is in a trial's folder but the log, in which a worker may say why it ends."""
        folder = self._folder(lease)
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != "log.txt")
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    def _folder(self, lease):
        return trial_folder(self._project, NAME, lease.number)


def namespaced(pid):
    """A process's own idea of its id."""
    with open(f"/proc/{pid}/status") as file:
        (line,) = (line for line in file if line.startswith("NSpid:"))
    return int(line.split()[-1])


def test_the_second_launch_ends_well(ended):
    print("\n" + "\n".join(f"{what}: {value}" for what, value in ended["seen"].items()))
    states = Counter(trial.state.name for trial in ended["study"].trials)
    print(", ".join(f"{number} {state}" for state, number in states.items()))

    assert ended["code"] == 0
    assert ended["seen"]["ended at the stop"] > ended["seen"]["ended at the backup"]


def test_jobs_are_what_the_study_says_whatever_the_shell_says(ended):
    assert ended["seen"]["jobs"] == [["low", "30:00"]] * WORKERS


def test_a_suspended_job_keeps_its_trial_for_hours(ended):
    folder = folder_of(ended, ended["seen"]["suspended trial"])

    assert ended["seen"]["suspended trial was left alone"]
    assert read(folder / "run.json").restarts == 0
    numbers = [epoch for _, epoch in epochs_of(folder)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_worker_that_lost_its_trial_writes_nothing_more(ended):
    assert ended["seen"]["took the frozen trial"]
    assert ended["seen"]["late writes"] == []


def test_no_trial_is_lost_or_added_or_of_other_parameters_than_its_folder(ended):
    trials = ended["study"].trials
    ends = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    records = [read(folder_of(ended, trial.number) / "run.json") for trial in trials]

    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert [trial.state for trial in trials] == [ends.get(record.state) for record in records]
    assert all(trial.params for trial in trials)
    assert [trial.params for trial in trials] == [record.params for record in records]
    for record in records:
        assert [row.epoch for row in record.epochs] == list(range(1, len(record.epochs) + 1))
        assert (record.state == "complete") == (len(record.epochs) == EPOCHS)


def test_the_weights_of_every_trial_have_the_nll_that_record_and_database_say(ended):
    rows = []
    for trial in ended["study"].trials:
        folder = folder_of(ended, trial.number)
        record = read(folder / "run.json")
        nlls = [row.val_nll for row in record.epochs]
        # The value of a pruned trial is the last that it reported.
        told = min(nlls) if trial.state is TrialState.COMPLETE else nlls[-1]
        computed = nll(best_flow(folder), ended["moved"] / "prepared", "val").mean
        rows.append((trial.number, trial.state.name, trial.value, told, min(nlls), computed))
    print("\ntrial, state, value by database and by record, best NLL by record and as computed")
    print("\n".join(" ".join(map(str, row)) for row in rows))

    assert [row for row in rows if row[2] != row[3] or abs(row[4] - row[5]) > TOLERANCE] == []


def test_nothing_of_a_claim_is_left(ended):
    assert list((ended["moved"] / "runs").rglob(".claim-*")) == []
    assert not (ended["place"] / "project").exists()


def test_the_password_is_in_no_file(ended, postgres):
    assert len(list(ended["moved"].rglob("run.json"))) >= TRIALS
    assert files_with(postgres.secret.encode(), ended["place"]) == []


def folder_of(ended, number):
    return trial_folder(ended["moved"], NAME, number)
