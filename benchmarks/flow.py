"""Ours beside tuned flows of nflows and zuko, histograms, and the flow of the thesis.

    pip install '.[benchmark]'
    python benchmarks/flow.py [--data cosmic,known,peak] [--flows ours,'zuko NSF'] [--seeds 3]
                              [--parts tune,train,more,speed] [--picture docs/flow.png]

Three data sets: the shipped sample (COSMIC, 47,227 training rows, the density unknown); 801,038
rows of a known density with edges (`known_density`); as many of gwpopulation's power law and peak
(`power_law_peak`). A training has a fresh process, one thread and a budget of that thread's
processor time (60 s on COSMIC, 150 s else), of which validation takes none. The rivals have the
coordinates of ours, its kind of training, and the best of 20 random configurations
(`rival_tuning`); ours is the default. The thesis's design makes as many steps as others do,
however long that takes.

Flows take turns, seed after seed. A finished training is a line of the results file and is not
repeated, so an interrupted benchmark goes on where it was; ours is repeated when a file of
`models/` or `data_prep/` changed. `--report` prints what there is and trains nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import known_density
import rivals
import torch
from epoch import fresh
from flow_data import COSMIC, KNOWN, SECONDS, folder_of, truth_of
from flow_jobs import FLOWS, OURS, UNSEEDED, Job
from flow_report import Report, show_speeds
from flow_results import Results
from flow_runs import run, splits, tensors
from rival_tuning import Read, tuned
from rivals import Rows

RESULTS = Path(__file__).resolve().parent / "results" / "flow.jsonl"
ENSEMBLE = 4
"""Members of ours whose densities are mixed: by seeds alone, and bagged."""
LONG_S = 600.0
"""Processor time of a long training of ours on the known density."""
PARTS = ("tune", "train", "more", "speed")
"""Rivals; all with the budget; ours as members, without some cells, and long; speed of use."""


def main() -> None:
    options = parsed()
    results = Results(
        path=options.results,
        folders={name: folder_of(name, options.results.parent, options.rows) for name in SECONDS},
    )
    jobs = list(jobs_of(options, results))
    if not options.report:
        for name in options.data:
            truth_of(name, results.folders[name])
        work([job for job in jobs if part_of(job, options.seeds) in options.parts], results)
    for name in options.data:
        Report(name, jobs, budget(name, options), results).show()
    show_speeds(jobs, results)
    if options.picture:
        from flow_picture import draw

        draw(options.picture, jobs, results)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=_listed(SECONDS), default=list(SECONDS))
    parser.add_argument("--flows", type=_listed(FLOWS), default=list(FLOWS), help=", ".join(FLOWS))
    parser.add_argument("--parts", type=_listed(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="of each training, instead of 60 and 150")
    parser.add_argument("--rows", type=int, default=known_density.ROWS, help="of known densities")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--report", action="store_true", help="train nothing")
    return parser.parse_args()


def jobs_of(options: argparse.Namespace, results: Results) -> Iterator[Job]:
    """Every training, flows in turn, so that an hour that is slow is so for all alike.

    A rival is among them when it is tuned.
    """
    first = {}
    for data in options.data:
        for flow in options.flows:
            config = None
            if flow in rivals.TUNED:
                read = None if options.report or "tune" not in options.parts else _reader
                reader = read and read(results, data)
                config = tuned(flow, data, budget(data, options), results, reader)
                if config is None:
                    print(f"{flow} is not tuned to {data}: --parts tune")
                    continue
            first[data, flow] = Job(
                flow=flow, data=data, seed=0, seconds=budget(data, options), config=config
            )
    for seed in range(options.seeds):
        for (_, flow), job in first.items():
            if not (seed and flow in UNSEEDED):
                yield from variants(replace(job, seed=seed))
    if ours := first.get((COSMIC, OURS)):
        yield from (replace(ours, seed=seed) for seed in range(options.seeds, ENSEMBLE))
        yield from (replace(ours, seed=seed, bag=True) for seed in range(ENSEMBLE))
    if ours := first.get((KNOWN, OURS)):
        yield replace(ours, seconds=LONG_S)
    one_each = {job.flow: job for job in first.values()}
    yield from (replace(job, speed=True) for job in one_each.values())


def variants(job: Job) -> Iterator[Job]:
    """The training, and on COSMIC the same without some cells: of ours, and of one rival once."""
    yield job
    if job.data == COSMIC and (job.flow == OURS or (job.flow == rivals.NSF and not job.seed)):
        yield replace(job, held_out=True)


def part_of(job: Job, seeds: int) -> str:
    """The part of the benchmark that the training belongs to."""
    if job.speed:
        return "speed"
    usual = job.plain and job.seed < seeds and job.seconds <= SECONDS[job.data]
    return "train" if usual else "more"


def budget(data: str, options: argparse.Namespace) -> float:
    """Processor seconds of a training."""
    return options.seconds or SECONDS[data]


def work(jobs: Sequence[Job], results: Results) -> None:
    """Do the trainings that are not done."""
    for number, job in enumerate(jobs, 1):
        digest = job.digest(results.fingerprint(job.data))
        if any(line.get("digest") == digest for line in results.lines()):
            continue
        line = fresh(run, job, results.folders[job.data], results.arrays(digest))
        results.add(line)
        notes = [word for word in ("held_out", "bag", "speed") if getattr(job, word)]
        print(
            f"[{number} of {len(jobs)}] {', '.join([job.data, job.flow, *notes])}, "
            f"seed {job.seed}: test NLL {line['test_nll']:.4f}, {line['took_s']:.0f} s, "
            f"{line['rows_per_s']:,.0f} rows/s",
            flush=True,
        )


def _reader(results: Results, data: str) -> Read:
    def read() -> tuple[Rows, Rows]:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        train, val = (tensors(rows) for rows in splits(results.folders[data]))
        return train, val

    return read


def _listed(known: Sequence[str] | dict[str, float]) -> Callable[[str], list[str]]:
    """Reads names that are parted by commas."""

    def names(text: str) -> list[str]:
        found = [name.strip() for name in text.split(",")]
        if unknown := set(found) - set(known):
            raise argparse.ArgumentTypeError(
                f"no {', '.join(sorted(unknown))}: there are {', '.join(known)}"
            )
        return found

    return names


if __name__ == "__main__":
    main()
