"""The long run itself: a launch, the harms done to it and to its workers, and readings of all."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid

import optuna
import psutil
import pyarrow.parquet as pq

from data_prep.preparation.prepare import prepare
from hpo.queue.slots import Slots
from hpo.storage.open import open_storage
from tests.conftest import draw_table

from . import gauge
from .databases import opened
from .harms import KILLS, Harms
from .options import STUDY

SAY_S = 30.0
"""Seconds from one line of how it goes to the next."""
REFUSED = 2
"""Exit code of a launch that is told why it cannot begin."""
TOLD = 130
"""Exit code of a launch that heard SIGTERM while it followed its workers, and ended them first."""
GRACE_S = 60.0
"""Seconds that workers and controllers have to end after the launch that was the last."""


class Soak:
    """One study from its first launch to its end.

    Args:
        options: How long, how rough.
        place: Empty folder, of which all is in here but the database's own.
        database: That of the study.
        say: Is given each line of how it goes.
    """

    def __init__(self, options, place, database, say=print):
        self.options = options
        self.database = database
        self.work, self.scratch, self.home = (place / name for name in ("work", "tmp", "home"))
        for folder in (self.work, self.scratch, self.home):
            folder.mkdir()
        self.mark = uuid.uuid4().hex
        self.harms = Harms(
            options.seed,
            {
                "worker": options.kill_s,
                "launch": 60 * options.launch_min,
                "database": 60 * options.restart_min,
            },
        )
        self.readings = []
        self.most = {}
        """Most processes of each role that were there at once."""
        self.code = None
        """How the last launch ended, which nobody killed."""
        self.spared_trials = 0
        """That the longest spared worker ran."""
        self.study = self.slots = None
        self.minutes = 0.0
        self._say = say
        self._spared = None
        self._launcher = None
        self._launched_s = self._away_s = 0.0

    @property
    def folder(self):
        """Of the study's trials."""
        return self.work / "runs" / "soak"

    def run(self):
        """To the end of the study; whatever runs then, or after an error, is left to `end`."""
        self._make()
        self._began_s = time.monotonic()
        self._start()
        looked_s = said_s = opened_s = 0.0
        while not self._over():
            time.sleep(0.2)
            now_s = time.monotonic() - self._began_s
            if not self._is_open():
                opened_s = now_s
                continue
            ended = self._ended()
            if ended < self.options.trials:
                pace_s = self.options.pace_s
                at_s = ended * pace_s if pace_s else now_s - opened_s
                for kind in self.harms.due(at_s):
                    self._harm(kind)
            if now_s - looked_s > self.options.sample_s:
                looked_s = now_s
                self._read()
            if now_s - said_s > SAY_S:
                said_s = now_s
                self._tell(now_s)
        self.minutes = (time.monotonic() - self._began_s) / 60
        self._is_open()

    def left(self):
        """Processes that are still there when all should be gone, by role."""
        deadline = time.monotonic() + GRACE_S
        while True:
            found = {role: some for role, some in gauge.marked(self.mark).items() if some}
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.5)

    def end(self):
        """Kill what is left of it."""
        for some in gauge.marked(self.mark).values():
            for process in some:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        if self._launcher is not None:
            self._launcher.wait()
        self.close()

    def close(self):
        """End the soak's own connections."""
        if self.study is not None:
            self.study._storage._backend.engine.dispose()

    def _make(self):
        source = self.work / "mergers.parquet"
        pq.write_table(draw_table(self.options.rows, seed=self.options.seed), source)
        prepare([source], self.work / "data")
        (self.work / "soak.toml").write_text(STUDY.format(epochs=self.options.epochs))

    def _start(self):
        self._launched_s = time.monotonic()
        words = ["launch", "soak.toml", "--trials", self.options.trials]
        words += ["--workers", self.options.workers]
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HPO_")},
            gauge.MARK: self.mark,
            "HPO_STORAGE": self.database.url,
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.scratch),
            "HOME": str(self.home),
        }
        with (self.work.parent / "said.txt").open("ab") as said:
            self._launcher = subprocess.Popen(
                [sys.executable, "-m", "hpo.cli", *map(str, words)],
                cwd=self.work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def _over(self):
        """Whether the launch has ended by itself, or the time is up."""
        self.code = self._launcher.poll()
        if self.code == REFUSED and self._away_s > self._launched_s:
            # A launch looks whether the database is there, and does not wait for it.
            self.harms.note("launch that was refused as the database was away")
            self._start()
            return False
        late = time.monotonic() - self._began_s > 60 * self.options.minutes
        return self.code is not None or late

    def _is_open(self):
        """Whether the study is there to be looked at; made by the launch, not by us."""
        if self.study is None and any(self.folder.glob("trial-*")):
            storage = open_storage(opened(self.database))
            self.study = optuna.load_study(study_name="soak", storage=storage)
            self.slots = Slots(self.study, max_restarts=0)
        return self.study is not None

    def _ended(self):
        return len(self.slots.look().finished)

    def _harm(self, kind):
        {"worker": self._harm_worker, "launch": self._harm_launch, "database": self._harm_database}[
            kind
        ]()

    def _harm_worker(self):
        workers = [one for one in gauge.marked(self.mark)["worker"] if one != self._spared]
        if not workers or self._spared is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            how = self.harms.choice("worker", KILLS)
            self.harms.choice("worker", workers).send_signal(how)
            self.harms.note(f"{how.name} of a worker")

    def _harm_launch(self):
        how = self.harms.choice("launch", KILLS)
        self._launcher.send_signal(how)
        code = self._launcher.wait(timeout=120)
        if code not in (-how, TOLD):  # it had just ended by itself: `_over` says of what
            return
        self.harms.note(f"{how.name} of the launch")
        time.sleep(self.harms.seconds("launch", 0.0, 5.0))
        self._start()

    def _harm_database(self):
        way = self.harms.choice("database", self.database.ways)
        self.harms.note(self.database.harm(way, self.harms.seconds("database", 1.0, 4.0)))
        self._away_s = time.monotonic()

    def _read(self):
        """Take a reading of each long-lived process, and choose which worker is spared."""
        ended = self._ended()
        there = gauge.marked(self.mark)
        if self._spared is None or not self._spared.is_running():
            self._spared = min(there["worker"], key=psutil.Process.create_time, default=None)
        for role in there:
            self.most[role] = max(self.most.get(role, 0), len(there[role]))
        there["backend"] = self.database.backends()
        self.most["backend"] = max(self.most.get("backend", 0), len(there["backend"]))
        for role in ("launch", "worker", "backend"):
            found = (gauge.read(role, process, ended) for process in there[role])
            self.readings += filter(None, found)
        if self._spared is not None:
            with contextlib.suppress(psutil.Error):
                trials = gauge.trials_run(self._spared, self.folder / "workers")
                self.spared_trials = max(self.spared_trials, trials)

    def _tell(self, now_s):
        latest = {}
        for one in self.readings:
            latest[one.process] = one
        there = gauge.marked(self.mark)
        names = {(one.pid, one.create_time()) for one in there["launch"] + there["worker"]}
        now = [one for one in latest.values() if one.process in names]
        parts = [
            " ".join(f"{one.megabytes:.0f}/{one.files}" for one in now if one.role == role)
            for role in ("launch", "worker")
        ]
        self._say(
            f"{now_s / 60:5.1f} min  {self._ended():5} ended  launch {parts[0]}  workers {parts[1]}"
            f" (MB/files)  {self.harms.count('of a worker')} workers and "
            f"{self.harms.count('of the launch')} launches killed, "
            f"{self.harms.count('of the database')} {self.database.harms}"
        )


def interrupted(number, _):
    """Has SIGTERM end the soak as Ctrl-C does, with all that it started."""
    raise KeyboardInterrupt(signal.Signals(number).name)
