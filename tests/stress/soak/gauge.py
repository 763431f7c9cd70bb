"""Memory and open files of the soak's processes, and how they grow from trial to trial.

A process belongs to the soak if its environment has the soak's mark, whoever its parent is by now.
"""

import contextlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "HPO_SOAK"
"""The environment variable that all processes of a soak have from the first launch."""

ENDED = re.compile(r"hpo\.trial: trial \d+ (complete|pruned|stopped_early|failed)")
"""What a worker logs of each trial that it ended."""

ROLES = {
    "submitit.core._submit": "worker",
    "submitit.local._local": "controller",
    "hpo.cli": "launch",
}


@dataclass(frozen=True)
class Reading:
    """What a process held at one moment."""

    role: str
    process: tuple
    """Its pid and when it began."""

    trials: int
    """That had ended in the study."""

    megabytes: float
    """Of memory that it took itself, without files and what it shares with others."""

    files: int


def marked(mark):
    """The processes that have the mark, by role; one that is between two programs has none."""
    found = {role: [] for role in (*ROLES.values(), "other")}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found[role_of(process)].append(process)
    return found


def role_of(process):
    words = process.cmdline()
    return next((role for word, role in ROLES.items() if word in words), "other")


def trials_run(worker, folder):
    """How many trials a worker has ended, by its own log."""
    job = worker.environ()["SUBMITIT_LOCAL_JOB_ID"]
    log = folder / f"{job}_0_log.err"
    return len(ENDED.findall(log.read_text(errors="replace"))) if log.exists() else 0


def read(role, process, trials):
    """A reading of a process, or None if it has just ended."""
    with contextlib.suppress(psutil.Error):
        name = (process.pid, process.create_time())
        return Reading(role, name, trials, own_megabytes(process.pid), process.num_fds())
    return None


def own_megabytes(pid):
    """Memory that a process took itself, as proc(5) tells it.

    Not psutil's USS: pages of torch's libraries come and go in that with the last other process
    that uses them.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise psutil.NoSuchProcess(pid) from None
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    if found is None:  # a zombie has none
        raise psutil.NoSuchProcess(pid)
    return int(found[1]) * 1024 / 1e6


def settled(readings, warm_up):
    """The readings after each process's first trials, of processes that have several."""
    first = {}
    for one in readings:
        first[one.process] = min(one.trials, first.get(one.process, one.trials))
    late = [one for one in readings if one.trials - first[one.process] >= warm_up]
    times = Counter(one.process for one in late)
    return [one for one in late if times[one.process] > 2]


def slope(readings, what):
    """How much more a process holds after 1,000 trials: least squares, each about its own mean."""
    rise = run = 0.0
    for process in {one.process for one in readings}:
        mine = [one for one in readings if one.process == process]
        trials = [one.trials for one in mine]
        values = [getattr(one, what) for one in mine]
        mean_trials, mean_value = sum(trials) / len(trials), sum(values) / len(values)
        for x, y in zip(trials, values, strict=True):
            rise += (x - mean_trials) * (y - mean_value)
            run += (x - mean_trials) ** 2
    return 1000 * rise / run if run else float("nan")


def longest(readings):
    """Trials between the first and the last reading of the process that has the most."""
    spans = {}
    for one in readings:
        low, high = spans.get(one.process, (one.trials, one.trials))
        spans[one.process] = min(low, one.trials), max(high, one.trials)
    return max((high - low for low, high in spans.values()), default=0)
