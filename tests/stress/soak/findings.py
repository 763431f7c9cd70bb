"""What has to be true when the soak is over, each in a line that says whether it is."""

import operator
import re

import optuna
from optuna.trial import TrialState
from sqlalchemy import text

from hpo.records.folder import read
from hpo.records.record import NAME, RecordError
from hpo.storage.open import open_storage

from . import gauge
from .databases import opened

MEMORY_MB = 10.0
"""By how much a process may grow in 1,000 trials of the study: Optuna keeps all of them in each."""
FILES = {"launch": 1.0, "worker": 1.0, "backend": 3.0}
"""Likewise, by how many open files. A backend opens each table and index when it first needs it."""
WARM_UP = 100
"""Trials before a process's memory counts: caches fill, and torch loads what it needs."""
ENOUGH = 100
"""Trials after that from which a slope can be told."""

TRIAL_FILES = ["checkpoint.json", "checkpoint.safetensors", "log.txt", "run.json"]
WORKER_FILE = re.compile(r"\d+(_submitted\.pkl|_0_log\.(out|err)|_0_result\.pkl)")
"""What submitit leaves of each worker of an undisturbed launch."""
CACHES = re.compile(r"torchinductor_\w+|\.(cache|config)(/matplotlib(/fontlist-[\w.-]+\.json)?)?")
"""What torch and matplotlib keep for the next process, of an undisturbed launch, too."""
WORK_FILES = {"soak.toml", "mergers.parquet", "data", "runs"}

TOLD = {
    "complete": TrialState.COMPLETE,
    "stopped_early": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
SIGNS = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}


class Findings:
    """Lines of `met` and `MISSED`."""

    def __init__(self, say=print):
        self._say = say
        self.missed = []

    def verdict(self, what, found, sign, aim, detail=""):
        """One line that says whether an aim is met; what is no number is no less than any aim."""
        met = SIGNS[sign](found, aim)
        more = f": {detail}" if detail and not met else ""
        line = f"{'met   ' if met else 'MISSED'} {what}: {found:.4g} (aim {sign} {aim:g}){more}"
        self._say(line)
        if not met:
            self.missed.append(line)


def judge(soak, say=print):
    """All findings on a soak that is over; gives back the lines of those that are missed."""
    findings = Findings(say)
    left = soak.left()
    judge_trials(soak, findings)
    judge_processes(soak, left, findings)
    judge_files(soak, findings)
    for role in ("launch", "worker", "backend"):
        judge_growth(soak, role, findings)
    return findings.missed


def judge_trials(soak, findings):
    soak.close()
    storage = open_storage(opened(soak.database))
    trials = optuna.load_study(study_name="soak", storage=storage).trials
    with storage.engine.begin() as connection:
        leases = connection.scalar(text("select count(*) from hpo_leases"))
    storage.engine.dispose()

    total = soak.options.trials
    states = [trial.state for trial in trials]
    wrong = [trial.number for trial in trials if not trial.state.is_finished()]
    failed = [trial.number for trial in trials if trial.state is TrialState.FAIL]
    numbers = [trial.number for trial in trials]
    verdict = findings.verdict
    verdict("exit code of the last launch", -1 if soak.code is None else soak.code, "=", 0)
    verdict("trials that ended", sum(state.is_finished() for state in states), "=", total)
    verdict("trials that wait or run", len(wrong), "=", 0, str(wrong[:9]))
    verdict("trials that failed", len(failed), "=", 0, str(failed[:9]))
    verdict("numbers that are not there once", len(set(range(total)) ^ set(numbers)), "=", 0)
    verdict("trials beyond their numbers", len(numbers) - len(set(numbers)), "=", 0)
    verdict("leases left", leases, "=", 0)
    faults = [fault for trial in trials for fault in disagreements(soak.folder, trial)]
    verdict("records that disagree with the database", len(faults), "=", 0, "; ".join(faults[:5]))


def disagreements(folder, trial):
    """What a trial's record says otherwise than the database does, a sentence each."""
    name = f"trial-{trial.number:05d}"
    try:
        record = read(folder / name / NAME)
    except RecordError as error:
        yield str(error)
        return
    values = {row.epoch: row.val_nll for row in record.epochs}
    if TOLD.get(record.state) is not trial.state:
        yield f"{name} is {record.state} there and {trial.state.name} in the database"
    if (record.trial, record.params) != (trial.number, trial.params):
        yield f"{name} has other parameters"
    if values != trial.intermediate_values or list(values) != list(range(1, len(values) + 1)):
        yield f"{name} has other epochs"
    if trial.state is TrialState.COMPLETE and record.best_val_nll != trial.value:
        yield f"{name} has another value"


def judge_processes(soak, left, findings):
    words = ", ".join(f"{role} {one.pid}" for role, some in left.items() for one in some)
    findings.verdict("processes left", sum(map(len, left.values())), "=", 0, words)
    if backends := soak.database.backends():
        words = ", ".join(str(one.pid) for one in backends)
    findings.verdict("connections left on the database", len(backends), "=", 0, words)
    most = soak.most.get("worker", 0)
    findings.verdict("workers at once", most, "<=", soak.options.workers)


def judge_files(soak, findings):
    """Whether only those files are left that an undisturbed launch leaves."""
    strange = [path for path in soak.work.iterdir() if path.name not in WORK_FILES]
    strange += [path for path in (soak.work / "runs").iterdir() if path != soak.folder]
    for folder in soak.folder.iterdir():
        if folder.name == "workers":
            strange += [one for one in folder.iterdir() if not WORKER_FILE.fullmatch(one.name)]
        elif re.fullmatch(r"trial-\d{5}", folder.name):
            names = sorted(one.name for one in folder.iterdir())
            strange += [folder / one for one in names if one not in TRIAL_FILES]
            strange += [folder / one for one in TRIAL_FILES if one not in names]
        else:
            strange.append(folder)
    shown = ", ".join(str(path.relative_to(soak.work)) for path in strange[:9])
    findings.verdict("files that do not belong, or lack", len(strange), "=", 0, shown)
    scratch = [
        str(path.relative_to(place))
        for place in (soak.scratch, soak.home)
        for path in place.rglob("*")
    ]
    scratch = [name for name in scratch if not CACHES.fullmatch(name)]
    shown = ", ".join(scratch[:9])
    findings.verdict("temporary files left", len(scratch), "=", 0, shown)


def judge_growth(soak, role, findings):
    if role == "backend" and soak.options.database != "postgresql":
        return
    if soak.options.trials < 5 * (WARM_UP + ENOUGH):
        return  # too few to tell growth
    settled = gauge.settled([one for one in soak.readings if one.role == role], WARM_UP)
    span = gauge.longest(settled)
    findings.verdict(f"{role}: trials of the longest watched, after {WARM_UP}", span, ">=", ENOUGH)
    for what, unit, aim in (("megabytes", "MB", MEMORY_MB), ("files", "open files", FILES[role])):
        grown = gauge.slope(settled, what)
        findings.verdict(f"{role}: {unit} more after 1,000 trials", grown, "<=", aim)
