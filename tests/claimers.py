"""Workers without training, started by the dozen: they claim trials, tell a value and go on.

Everything that they do is also written where neither Optuna nor `hpo` counts it: claims and ends
in a journal, to which each line is appended at once, and the end of every trial in a file of its
own, which can be made only once.
"""

import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import optuna
from optuna.trial import TrialState

from hpo.queue.leases import Owner
from hpo.queue.reaper import reap
from hpo.queue.slots import Slots
from hpo.queue.tables import make_tables
from hpo.storage.address import url_of
from hpo.storage.open import open_storage

STUDY = "many"

# Forked from a process that has loaded what they need: 64 that load Optuna take half a minute.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["hpo.queue.slots", "hpo.storage.open", "psycopg", "pymysql"])


ENGINES = []
"""Those opened by this process: a connection that is forgotten while open is an error."""


def close():
    """Close the connections of all studies that this process opened."""
    while ENGINES:
        ENGINES.pop().dispose()


def slots_of(url, *, max_restarts=3):
    storage = open_storage(url_of(url, Path()))
    ENGINES.append(storage.engine)
    make_tables(storage.engine)
    study = optuna.create_study(study_name=STUDY, storage=storage, load_if_exists=True)
    return Slots(study, max_restarts=max_restarts), study


@contextlib.contextmanager
def ended(workers):
    """The list of processes; those of them that still run at the end are killed."""
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()


def start(count, url, place, *, pause_s=0.0, together=0):
    """So many workers that journal in the folder.

    Args:
        count: How many.
        url: Of the study's database.
        place: Folder of the journal and of the trials' files.
        pause_s: What a trial takes beside its dealings with the database.
        together: How many workers must have opened the storage before one claims.
    """
    arguments = (url, place, pause_s, together)
    workers = [PROCESSES.Process(target=drain, args=arguments) for _ in range(count)]
    for worker in workers:
        worker.start()
    return workers


def drain(url, place, pause_s=0.0, together=0):
    """Claim and finish trials until none waits."""
    slots, _ = slots_of(url)
    owner = Owner.this_process()
    meet(place, together)
    while True:
        reap(slots)
        claim = slots.claim(owner)
        if claim is None:
            return
        note(place, "claimed", claim)
        run(slots, claim, place, pause_s)
        note(place, "finished", claim)


def meet(place, count, name="there"):
    """Wait until so many processes are here."""
    (place / f"{name}-{os.getpid()}").touch()
    deadline = time.monotonic() + 120
    while len(list(place.glob(f"{name}-*"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(slots, claim, place, pause_s):
    """As `trial.run`: what has its end on disk is not run again, the study is told it alone."""
    record = place / f"trial-{claim.number}.json"
    if not record.exists():
        trial = slots.trial_of(claim)
        value = trial.suggest_float("x", 0.0, 1.0)
        trial.report(value, 1)
        time.sleep(pause_s)
        slots.renew(claim)
        write_once(record, {"value": value, "pid": os.getpid()})
    value = json.loads(record.read_text())["value"]
    slots.finish(claim, TrialState.COMPLETE, value)


def write_once(path, content):
    """Make the file whole or not at all; it is an error if it is there."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix="new-") as new:
        json.dump(content, new)
        new.flush()
        os.link(new.name, path)


def note(place, what, claim):
    line = {"what": what, "trial": claim.number, "restarts": claim.restarts, "pid": os.getpid()}
    journal = os.open(place / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(journal, (json.dumps(line) + "\n").encode())
    os.close(journal)


def journal(place, what):
    """The journal's lines of a kind, in their order."""
    path = place / "journal"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["what"] == what]


def records(place):
    """What the trials' own files tell, by number."""
    return {
        int(path.stem.removeprefix("trial-")): json.loads(path.read_text())
        for path in place.glob("trial-*.json")
    }
