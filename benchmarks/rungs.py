"""Rank correlation of trials at an early rung with their rank at the end, under two schedules.

    python benchmarks/rungs.py [DATASET] [--trials 20] [--epochs 50] [--threads 1] [--processes 2]
                               [--study studies/bbh.toml] [--report] [--fresh]

Successive halving ends a trial by its NLL at a rung, while a learning rate that falls to the last
planned epoch gives its best only there: trials that would win can look bad early. So configurations
are drawn at random from the study's `[space]`, and each is trained to the end, neither pruned nor
stopped, once under every schedule, from the same seed. Of each rung that the study's pruner would
use, and of half of the epochs, the table gives

    Spearman   rank correlation of the validation NLL at the rung with the trial's value, its best
    regret     nats lost if only the best 1 / reduction_factor at the rung go on: their
               best value above that of all trials; the median over studies of half the trials

A training whose loss stops being finite is worse than any other, from there on and in the end: in
a study such a trial fails.

A finished training is a line of the results file and is not repeated, so an interrupted benchmark
goes on where it was. Lines are known by configuration, schedule and data, not by code:
`--fresh` forgets them. `--report` trains nothing.

Array names end in their axes:
    T trials    E epochs    D draws of half the trials
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from data_prep.dataset import SAMPLE, Dataset
from hpo.study.space import seed_of, suggest
from hpo.study.spec import PrunerTable, StudySpec, load
from models.config import FlowConfig, TrainConfig
from models.training.train import NonFiniteLoss, train

Floats = NDArray[np.float64]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "rungs.jsonl"
SCHEDULES = ("cosine", "plateau")
DRAWS = 1000
"""Of half the trials, each a small study of its own."""
LEAST = 4
"""Trials that a table is printed of."""
Line = Mapping[str, Any]
"""A line of the results file: the course of one training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training."""

    trial: int
    schedule: str
    flow: FlowConfig
    training: TrainConfig
    folder: Path
    fingerprint: str
    """Of the dataset in `folder`."""
    threads: int

    @property
    def digest(self) -> str:
        """Names the training among all that were ever done."""
        settings = {
            "flow": dataclasses.asdict(self.flow),
            "training": dataclasses.asdict(self.training),
            "dataset": self.fingerprint,
        }
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """All trials under one schedule, in the same order for each."""

    nll_TE: Floats
    """On the validation split; infinite from where a training was no longer finite."""
    end_T: Floats
    """The trial's value, its best NLL; infinite if it did not end, since it fails then."""
    seconds_T: Floats


def main() -> None:
    options = parsed()
    spec = load(str(options.study))
    epochs = options.epochs or spec.training.epochs
    if spec.pruner.min_epochs >= epochs:
        raise SystemExit(f"the first rung, {spec.pruner.min_epochs} epochs, is not below {epochs}")
    if options.fresh:
        options.results.unlink(missing_ok=True)

    jobs = jobs_of(spec, options.dataset, options.trials, epochs, options.threads)
    if not options.report:
        work(jobs, options.results, options.processes)
    report(jobs, read(options.results), spec.pruner, epochs)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, help="of each training; the study's own by default")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--study", type=Path, default=ROOT / "studies" / "bbh.toml")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true", help="forget older results")
    parser.add_argument("--report", action="store_true", help="train nothing")
    return parser.parse_args()


def jobs_of(spec: StudySpec, folder: Path, trials: int, epochs: int, threads: int) -> list[Job]:
    """Random points of the study's space, each under every schedule; more trials add to fewer."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base = dataclasses.replace(
        spec.training, epochs=epochs, patience=0, min_rate=0.0, max_minutes=None, device="cpu"
    )
    fingerprint = Dataset.read(folder).fingerprint
    jobs = []
    for number in range(trials):
        seed = seed_of(spec.study.seed, number)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        flow, training = suggest(study.ask(), spec.space, spec.flow, base, seed=seed)
        jobs += [
            Job(
                trial=number,
                schedule=schedule,
                flow=flow,
                training=dataclasses.replace(training, schedule=schedule),
                folder=folder,
                fingerprint=fingerprint,
                threads=threads,
            )
            for schedule in SCHEDULES
        ]
    return jobs


def work(jobs: Sequence[Job], results: Path, processes: int) -> None:
    """Train what is not yet in the results file, and add it as it ends."""
    done = read(results)
    waiting = [job for job in jobs if job.digest not in done]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            for number, ended in enumerate(as_completed(pool.submit(run, job) for job in waiting)):
                line = ended.result()
                add(results, line)
                print(f"[{number + 1} of {len(waiting)}] {told(line)}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run(job: Job) -> Line:
    """Train to the end, in a process of its own."""
    torch.set_num_threads(job.threads)
    val_nll: list[float] = []
    start_s, reason = time.perf_counter(), None
    try:
        train(
            job.folder,
            job.flow,
            job.training,
            on_epoch=lambda epoch: val_nll.append(epoch.val_nll),
        )
    except NonFiniteLoss as error:
        reason = str(error)
    return {
        "digest": job.digest,
        "trial": job.trial,
        "schedule": job.schedule,
        "flow": dataclasses.asdict(job.flow),
        "training": dataclasses.asdict(job.training),
        "dataset": job.fingerprint,
        "threads": job.threads,
        "val_nll": val_nll,
        "seconds": time.perf_counter() - start_s,
        "reason": reason,
    }


def told(line: Line) -> str:
    end = line["reason"] or f"val NLL {min(line['val_nll']):.4f}"
    return f"trial {line['trial']}, {line['schedule']}: {end}, {line['seconds']:.0f} s"


def read(results: Path) -> dict[str, Line]:
    """Every training that is done, by digest; a line cut off while it was written is none."""
    if not results.exists():
        return {}
    lines = {}
    for text in results.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines[line["digest"]] = line
    return lines


def add(results: Path, line: Line) -> None:
    """Append, on a line of its own even after one that was cut off."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a+", encoding="utf-8") as file:
        file.seek(0)
        whole = file.read()
        file.write("\n" * (bool(whole) and not whole.endswith("\n")) + json.dumps(line) + "\n")


def report(
    jobs: Sequence[Job], lines: Mapping[str, Line], pruner: PrunerTable, epochs: int
) -> None:
    """Print both tables and the verdict, of the trials that are done under every schedule."""
    ran = {schedule: ran_under(schedule, jobs, lines, epochs) for schedule in SCHEDULES}
    trials = len(ran[SCHEDULES[0]].end_T)
    if trials < LEAST:
        raise SystemExit(f"{trials} trials are done under both schedules: {LEAST} say something")
    factor, rungs = pruner.reduction_factor, rungs_of(pruner, epochs)

    print(f"\n{trials} random trials of {epochs} epochs, 1 in {factor} goes on from each rung")
    print(f"{'schedule':10}{'epoch':>7}{'Spearman':>10}{'regret, nats':>14}")
    for schedule, mine in ran.items():
        for rung in sorted({*rungs, epochs // 2}):
            at_T, half = mine.nll_TE[:, rung - 1], "" if rung in rungs else "  half"
            lost = np.median([regret(at_T[d], mine.end_T[d], factor) for d in halves(trials)])
            print(f"{schedule:10}{rung:7}{spearman(at_T, mine.end_T):10.2f}{lost:14.4f}{half}")
    report_ends(ran)
    print(verdict(ran, rungs[0]))


def report_ends(ran: Mapping[str, Ran]) -> None:
    """Print what each schedule comes to in the end."""
    print(
        f"\n{'schedule':10}{'best':>9}{'median':>9}{'not finite':>12}{'median s':>10}   NLL in nats"
    )
    for schedule, mine in ran.items():
        failed = int(np.isinf(mine.end_T).sum())
        ends = f"{mine.end_T.min():9.4f}{np.median(mine.end_T):9.4f}"
        print(f"{schedule:10}{ends}{failed:12}{np.median(mine.seconds_T):10.0f}")
    cosine_T, plateau_T = (ran[schedule].end_T for schedule in SCHEDULES)
    both_T = np.isfinite(cosine_T) & np.isfinite(plateau_T)
    change_T = plateau_T[both_T] - cosine_T[both_T]
    if len(change_T):
        print(
            f"plateau - cosine, trial by trial: median {np.median(change_T):+.4f} nats, "
            f"plateau better in {np.sum(change_T < 0)} of {len(change_T)}"
        )


def verdict(ran: Mapping[str, Ran], rung: int) -> str:
    """Which schedule ranks better at this rung, and how often it does among half of the trials."""
    at = {schedule: (mine.nll_TE[:, rung - 1], mine.end_T) for schedule, mine in ran.items()}
    found = {schedule: spearman(*both) for schedule, both in at.items()}
    better, worse = sorted(found, key=lambda schedule: -found[schedule])
    drawn = {
        schedule: np.array([spearman(rung_T[d], end_T[d]) for d in halves(len(end_T))])
        for schedule, (rung_T, end_T) in at.items()
    }
    ahead, behind = (drawn[a] > drawn[b] for a, b in ((better, worse), (worse, better)))
    return (
        f"\n{better} ranks better at the first rung, {rung} epochs: Spearman {found[better]:.2f} "
        f"against {found[worse]:.2f}; of {DRAWS} draws of half the trials, ahead in "
        f"{np.mean(ahead):.0%}, behind in {np.mean(behind):.0%}"
    )


def rungs_of(pruner: PrunerTable, epochs: int) -> list[int]:
    """Epochs after which successive halving decides, before the last."""
    rungs, rung = [], pruner.min_epochs
    while rung < epochs:
        rungs.append(rung)
        rung *= pruner.reduction_factor
    return rungs


def ran_under(schedule: str, jobs: Sequence[Job], lines: Mapping[str, Line], epochs: int) -> Ran:
    """The trainings of one schedule whose trials are done under all of them."""
    missing = {job.trial for job in jobs if job.digest not in lines}
    mine = [lines[j.digest] for j in jobs if j.schedule == schedule and j.trial not in missing]
    return Ran(
        nll_TE=np.array([whole(line["val_nll"], epochs) for line in mine]),
        end_T=np.array(
            [min(line["val_nll"]) if line["reason"] is None else np.inf for line in mine]
        ),
        seconds_T=np.array([line["seconds"] for line in mine]),
    )


def whole(val_nll: Sequence[float], epochs: int) -> list[float]:
    """With what a training that broke off has not reached as infinite."""
    return [*val_nll, *[math.inf] * (epochs - len(val_nll))]


def spearman(a_T: Floats, b_T: Floats) -> float:
    """Rank correlation; equal values share the mean of their ranks."""
    return float(np.corrcoef(ranks(a_T), ranks(b_T))[0, 1])


def ranks(values_T: Floats) -> Floats:
    """Place of each value among all, from 1; equal values share the mean of theirs."""
    _, which_T, counts = np.unique(values_T, return_inverse=True, return_counts=True)
    means: Floats = np.cumsum(counts) - (counts - 1) / 2
    return means[which_T]


def regret(rung_T: Floats, end_T: Floats, factor: int) -> float:
    """How far the best end among the best 1 / factor at the rung is above the best of all.

    As Optuna counts it: rounded down, but at least one trial goes on.
    """
    promoted = np.argsort(rung_T, kind="stable")[: max(1, len(rung_T) // factor)]
    return float(end_T[promoted].min() - end_T.min())


def halves(trials: int) -> list[NDArray[np.intp]]:
    """Half of the trials, drawn many times; the same whenever it is asked."""
    rng = np.random.default_rng(0)
    return [rng.permutation(trials)[: -(-trials // 2)] for _ in range(DRAWS)]


if __name__ == "__main__":
    main()
