"""A launch on a cluster under the eyes of a test: who holds which trial, and what is in the way."""

import contextlib
import datetime
import re
import subprocess
import sys
import time

import optuna
import psutil
from sqlalchemy.engine import make_url

from hpo.queue.slots import Slots
from hpo.storage.open import open_storage
from tests.cluster.slurm import wait_for

HPO = (sys.executable, "-m", "hpo.cli")

EPOCH = re.compile(r"^(\S+ \S+) INFO \S+: epoch (\d+): train ")


class Watch:
    """Who holds which trial, looked up whenever something is waited for."""

    def __init__(self, slots, slurm, launcher):
        self.slots = slots
        self.slurm = slurm
        self._launcher = launcher
        self._history = []

    def look(self):
        """The leases of now, by job."""
        leases = {lease.owner.job: lease for lease in self.slots.leases()}
        self._history += [(time.time(), job, lease.number) for job, lease in leases.items()]
        return leases

    def until(self, happened, timeout_s, why):
        """What `happened` gives of the leases and the jobs, once it gives something."""

        def look():
            assert self._launcher.poll() is None, f"the launch ended before this: {why}"
            return happened(self.look(), self.slurm.jobs())

        return wait_for(look, timeout_s=timeout_s, why=why)

    def held(self, jobs, begun, over):
        """Trials that the jobs held in that time, or last before it."""
        found = set()
        for job in jobs:
            mine = [(at, trial) for at, owner, trial in self._history if owner == job]
            found |= {trial for at, trial in mine if begun - 0.5 <= at <= over + 0.5}
            found |= {trial for at, trial in [one for one in mine if one[0] < begun][-1:]}
        return found


@contextlib.contextmanager
def launched(command, place, environment, said):
    """The process of a command that runs in `place`; with its children it ends with the block.

    What it prints goes to the file `said`, and its end to the test's own output.
    """
    with said.open("w") as output:
        launcher = subprocess.Popen(
            [str(word) for word in command],
            cwd=place,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield launcher
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(launcher.pid).children(recursive=True):
                    process.kill()
            launcher.kill()
            launcher.wait()
            print(said.read_text()[-6000:])


@contextlib.contextmanager
def storage_of(url):
    """The storage of that URL, and its connections for so long."""
    storage = open_storage(make_url(url).set(drivername="postgresql+psycopg"))
    try:
        yield storage
    finally:
        storage.engine.dispose()


def slots_of(storage, name, launcher):
    """The trials of a study, once the launch has made one."""

    def study():
        assert launcher.poll() is None, "the launch ended at once"
        with contextlib.suppress(KeyError):
            found = optuna.load_study(study_name=name, storage=storage)
            return found if found.trials else None

    return Slots(wait_for(study, timeout_s=60, why="the launch makes the study"), max_restarts=3)


def trial_folder(place, study, number):
    return place / "runs" / study / f"trial-{number:05d}"


def epochs_of(folder):
    """Time and number of each epoch that a trial's log tells of."""
    lines = (folder / "log.txt").read_text().splitlines()
    found = [EPOCH.match(line) for line in lines]
    return [(told(match[1]), int(match[2])) for match in found if match]


def told(text):
    return datetime.datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").timestamp()


def files_with(secret, folder):
    """Files that hold those bytes, of all that there are."""
    return [path for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]
