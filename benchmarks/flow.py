"""Ours beside stock flows of nflows and zuko and the flow of the thesis: same data, same seconds.

    pip install '.[benchmark]'
    python benchmarks/flow.py [--data cosmic|known|both] [--seconds 150] [--seeds 3]
                              [--flows ours,'zuko NSF'] [--threads 2] [--picture docs/flow.png]

Two data sets: the shipped sample (COSMIC, 47,227 training rows, the density unknown), and 801,038
rows with a known density, whose NLL is given as the excess over the true one. Each training has a
fresh process and the same wall-clock budget; figures are medians over seeds. The top of `rivals.py`
tells how the others are trained.

A finished training is a line of the results file and is not repeated, so an interrupted benchmark
goes on where it was; ours is repeated when a file of `models/` or `data_prep/` changed.
`--report` prints what there is and trains nothing; `--fresh` starts anew; `--endurance` adds the
1,000 epochs at a learning rate of 1e-2.

Curves are of the validation split on both sides: test rows are only for the end.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import known_density
import numpy as np
import rivals
from epoch import fresh
from flow_results import Line, Results
from flow_runs import FLOWS, HALF, HELD_OUT, OURS, Job, code, endure, in_cell, run

from data_prep.dataset import SAMPLE
from data_prep.stream import read_split

RESULTS = Path(__file__).resolve().parent / "results" / "flow.jsonl"
ENSEMBLE = 4
"""Flows of ours whose densities are averaged."""
ENDURANCE_EPOCHS = 1000


def main() -> None:
    options = parsed()
    folders = {name: prepared(name, options.results, options.rows) for name in options.data}
    results = Results(path=options.results, folders=folders)
    if options.fresh:
        options.results.unlink(missing_ok=True)
    jobs = [job for name in folders for job in jobs_of(name, options)]
    if not options.report:
        work(jobs, results)
        if options.endurance and "cosmic" in folders and endurance(results) is None:
            results.add(endured(folders["cosmic"], options.threads))
    for name in folders:
        report(name, [job for job in jobs if job.data == name], options.seeds, results)
    if options.picture:
        from flow_picture import draw

        draw(options.picture, jobs, results)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("cosmic", "known", "both"), default="both")
    parser.add_argument("--seconds", type=float, default=150, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flows", default=",".join(FLOWS), help=", ".join(FLOWS))
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rows", type=int, default=known_density.ROWS, help="of known density")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--fresh", action="store_true", help="forget older results")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--endurance", action="store_true")
    options = parser.parse_args()
    options.data = ("cosmic", "known") if options.data == "both" else (options.data,)
    options.flows = [flow.strip() for flow in options.flows.split(",")]
    if unknown := set(options.flows) - set(FLOWS):
        parser.error(f"no flow {', '.join(sorted(unknown))}: there are {', '.join(FLOWS)}")
    return options


def prepared(name: str, results: Path, rows: int) -> Path:
    """The dataset of this name; that of known density is made once, beside the results."""
    if name == "cosmic":
        return SAMPLE
    folder = results.parent / f"known-{rows}"
    if not folder.exists():
        known_density.write(folder, rows)
    return folder


def jobs_of(data: str, options: argparse.Namespace) -> list[Job]:
    """Every training of a data set; seed after seed, so that a slow hour hits all flows alike."""
    jobs = []
    for seed in range(options.seeds):
        for flow in options.flows:
            job = Job(
                flow=flow, data=data, seed=seed, seconds=options.seconds, threads=options.threads
            )
            jobs.append(job)
            if data == "cosmic" and flow == OURS:
                jobs.append(replace(job, flow=HALF))
            # The rival with held-out cells is for comparison only: one seed.
            if data == "cosmic" and (flow == OURS or (flow == rivals.NSF and not seed)):
                jobs.append(replace(job, held_out=True))
    if data == "cosmic" and OURS in options.flows:
        first = next(job for job in jobs if job.flow == OURS)
        jobs += [replace(first, seed=seed) for seed in range(options.seeds, ENSEMBLE)]
    # Last and one after another: nothing else of ours then has the machine.
    first_of = {job.flow: job for job in reversed(jobs) if job.flow in FLOWS and not job.held_out}
    return jobs + [replace(first_of[flow], speed=True) for flow in options.flows]


def work(jobs: Sequence[Job], results: Results) -> None:
    """Do the trainings that are not done."""
    for number, job in enumerate(jobs, 1):
        if results.of([job]):
            continue
        folder = results.folders[job.data]
        line = fresh(run, job, folder, results.arrays(job.digest(folder)))
        results.add(line)
        print(
            f"[{number} of {len(jobs)}] {job.data}, {job.flow}{', cells held out' * job.held_out}, "
            f"seed {job.seed}: val NLL {line['val_nll']:.4f}, test NLL {line['test_nll']:.4f}, "
            f"{line['took_s']:.0f} s, {line['rows_per_s']:,.0f} rows/s",
            flush=True,
        )


def endured(folder: Path, threads: int) -> Line:
    """The results of a training of 1,000 epochs."""
    val_nll = fresh(endure, folder, ENDURANCE_EPOCHS, threads)
    return {"endurance": ENDURANCE_EPOCHS, "code": code(), "val_nll": val_nll}


def endurance(results: Results) -> Line | None:
    """The results of 1,000 epochs, if they are of this code."""
    lines = [line for line in results.lines() if "endurance" in line and line["code"] == code()]
    return lines[-1] if lines else None


# ---- the report


def report(data: str, jobs: Sequence[Job], seeds: int, results: Results) -> None:
    """The table of a data set, and the verdicts on its aims."""
    # More seeds than these are for the ensemble alone.
    plain = [job for job in jobs if is_plain(job) and job.seed < seeds]
    by_flow = {
        flow: lines
        for flow in dict.fromkeys(job.flow for job in plain)
        if (lines := results.of(job for job in plain if job.flow == flow))
    }
    if not by_flow:
        print(f"\n{data}: nothing is done yet")
        return
    speeds = {job.flow: line for job in jobs if job.speed for line in results.of([job])}
    print_table(data, by_flow, speeds, jobs[0])
    if OURS in by_flow:
        (known_targets if data == "known" else cosmic_targets)(by_flow, jobs, results)
        speed_targets(by_flow, speeds, "excess" if data == "known" else "test_nll")
    late = [line for lines in by_flow.values() for line in lines if overdue(line)]
    for line in late:
        print(f"note: {line['flow']}, seed {line['seed']} took {line['took_s']:.0f} s")


def is_plain(job: Job) -> bool:
    """Whether it is a training with the whole budget and all cells."""
    return job.flow in FLOWS and not job.held_out and not job.speed


def print_table(
    data: str, by_flow: Mapping[str, Sequence[Line]], speeds: Mapping[str, Line], job: Job
) -> None:
    """One row for each flow, medians over seeds."""
    measure = "excess" if data == "known" else "test_nll"
    print(f"\n{data}: {job.seconds:g} s of training, {job.threads} threads, medians over seeds")
    head = ("excess NLL" if data == "known" else "test NLL", "off grid" * (data == "known"))
    print(
        f"{'':18}{head[0]:>11}{head[1]:>9}{'seeds':>6}{'rows/s':>9}{'log_prob/s':>12}"
        f"{'samples/s':>11}{'parameters':>11}"
    )
    for flow, lines in by_flow.items():
        off = f"{median(lines, 'off_grid_excess'):9.4f}" if data == "known" else " " * 9
        print(
            f"{flow:18}{median(lines, measure):11.4f}{off}{len(lines):6}"
            f"{median(lines, 'rows_per_s'):9,.0f}{shown(speeds, flow, 'log_prob_per_s'):>12}"
            f"{shown(speeds, flow, 'samples_per_s'):>11}{median(lines, 'parameters'):11,.0f}"
        )
    if data == "known":
        print(f"true NLL of the test rows: {next(iter(by_flow.values()))[0]['true_nll']:.4f}")


def shown(speeds: Mapping[str, Line], flow: str, name: str) -> str:
    return f"{speeds[flow][name]:,.0f}" if flow in speeds else "-"


def known_targets(
    by_flow: Mapping[str, Sequence[Line]], jobs: Sequence[Job], results: Results
) -> None:
    ours = median(by_flow[OURS], "excess")
    stock = [flow for flow in by_flow if flow not in (OURS, rivals.THESIS)]
    if stock:
        best = min(stock, key=lambda flow: median(by_flow[flow], "excess"))
        ratio = ours / median(by_flow[best], "excess")
        verdict(f"excess NLL / that of the best other ({best})", ratio, "<=", 0.6)
    if rivals.THESIS in by_flow:
        ratio = ours / median(by_flow[rivals.THESIS], "excess")
        verdict("excess NLL / that of the thesis's design", ratio, "<=", 0.15)
    off = statistics.median(line["off_grid_excess"] / line["excess"] for line in by_flow[OURS])
    verdict("excess NLL off the grid / on it", off, "<=", 1.5)


def cosmic_targets(
    by_flow: Mapping[str, Sequence[Line]], jobs: Sequence[Job], results: Results
) -> None:
    if rivals.NSF in by_flow:
        reached_target(by_flow, results.of(job for job in jobs if job.flow == HALF))
    others = [flow for flow in by_flow if flow != OURS]
    ours = median(by_flow[OURS], "test_nll")
    if others:
        best = min(others, key=lambda flow: median(by_flow[flow], "test_nll"))
        gap = ours - median(by_flow[best], "test_nll")
        verdict(f"test NLL - that of the best other ({best})", gap, "<=", 0.0)
    plain = [job for job in jobs if job.flow == OURS and is_plain(job)]
    ensemble_target(results.of(plain), ours, results)
    for flow in (OURS, rivals.NSF):
        mine = [job for job in jobs if job.flow == flow and not job.speed]
        held_out_target(flow, mine, results)
    verdict("median KS distance / floor", median(by_flow[OURS], "ks_over_floor"), "<=", 1.3)
    if line := endurance(results):
        verdict(
            f"val NLL after {line['endurance']:,} epochs at 1e-2", line["val_nll"], "<", math.inf
        )
    else:
        print("       1,000 epochs at 1e-2: not run (--endurance)")


def reached_target(by_flow: Mapping[str, Sequence[Line]], half: Sequence[Line]) -> None:
    """Seconds that ours needs for the best validation NLL of zuko's spline flow.

    The sooner of a training with the full budget and one with half: the learning rate of each
    comes down at its own end.
    """
    goal = median(by_flow[rivals.NSF], "val_nll")
    seeds = {line["seed"] for line in by_flow[OURS]}
    soonest = [
        min(first_s(line, goal) for line in (*by_flow[OURS], *half) if line["seed"] == seed)
        for seed in seeds
    ]
    budget_s = by_flow[rivals.NSF][0]["seconds"]
    verdict(
        f"time to zuko NSF's val NLL ({goal:.4f}) / {budget_s:g} s",
        statistics.median(soonest) / budget_s,
        "<=",
        0.5,
    )


def first_s(line: Line, goal: float) -> float:
    """When a training first had a validation NLL as low as this; infinity if never."""
    return min((seconds for seconds, nll in line["curve"] if nll <= goal), default=math.inf)


def ensemble_target(lines: Sequence[Line], single: float, results: Results) -> None:
    """NLL of the mean of several densities."""
    if len(lines) < ENSEMBLE:
        print(f"       ensemble of {ENSEMBLE}: {len(lines)} are done")
        return
    members = np.stack([results.log_prob_N(line) for line in lines[:ENSEMBLE]])
    together = -float((np.logaddexp.reduce(members) - math.log(ENSEMBLE)).mean())
    verdict(f"NLL of one - that of {ENSEMBLE} together", single - together, ">=", 0.01)


def held_out_target(flow: str, jobs: Sequence[Job], results: Results) -> None:
    """How much worse a flow is in cells that it never saw than one that saw them."""
    test = read_split(results.folders["cosmic"], "test")
    gaps = []
    for seed in sorted({job.seed for job in jobs}):
        pair = [
            results.of(j for j in jobs if j.seed == seed and j.held_out is held_out)
            for held_out in (False, True)
        ]
        if all(pair):
            with_N, without_N = (results.log_prob_N(lines[0]) for lines in pair)
            worse_N = with_N - without_N
            gaps.append(np.mean([worse_N[in_cell(test, cell)].mean() for cell in HELD_OUT]))
    if gaps and flow == OURS:
        verdict("NLL in held-out cells - with them", float(np.median(gaps)), "<=", 0.03)
    elif gaps:
        print(f"       the same for {flow}: {np.median(gaps):.4f}")


def speed_targets(
    by_flow: Mapping[str, Sequence[Line]], speeds: Mapping[str, Line], score: str
) -> None:
    if OURS not in speeds:
        return
    if rivals.SPLINE in speeds and rivals.SPLINE in by_flow:
        ratio = speeds[OURS]["log_prob_per_s"] / speeds[rivals.SPLINE]["log_prob_per_s"]
        better = median(by_flow[OURS], score) <= median(by_flow[rivals.SPLINE], score)
        verdict(
            f"log_prob/s / {rivals.SPLINE}'s, at {'no worse' if better else 'WORSE'} NLL",
            ratio if better else 0.0,
            ">=",
            10,
        )
    millions = speeds[OURS]["samples_per_s"] / 1e6
    verdict("samples/s at one (Z, alpha), millions", millions, ">=", 1)


def verdict(what: str, found: float, sign: str, aim: float) -> None:
    """One line that says whether an aim is met."""
    met = {">=": found >= aim, "<=": found <= aim, "<": found < aim}[sign]
    print(f"{'met   ' if met else 'MISSED'} {what}: {found:.4g} (aim {sign} {aim:g})")


def median(lines: Sequence[Line], name: str) -> float:
    return statistics.median(line[name] for line in lines)


def overdue(line: Line) -> bool:
    """Whether a training took notably longer than its budget."""
    return bool(line["took_s"] > 1.05 * line["seconds"])


if __name__ == "__main__":
    main()
