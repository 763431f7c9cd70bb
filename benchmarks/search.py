"""What the default study finds in twenty minutes, beside random search and the thesis's grid.

    python benchmarks/search.py [--minutes 20] [--workers 2] [--seed 0] [--prune-check 24]
                                [--out FOLDER] [--report] [--fresh]

Three searches, one after another, each by `hpo launch` in a process of its own that is interrupted
(Ctrl-C) when the minutes are over, its start included, so that its trials are handed back:

    ours     the study `bbh` as it is shipped
    random   the same space, every trial drawn at random and trained to its end
    thesis   the study `thesis`, the grid of the thesis, in its own order

A search is judged by its finished trial with the lowest validation NLL, of which the test NLL is
given. As trials of the thesis take long, the table also tells of the best weights of any trial,
ended or not, whose test NLL is measured here; ours has to beat those, too.

Then, was pruning worth it? Trials of ours that were pruned, `--prune-check` of them at random (all
by default), are trained anew from their own seeds and nothing else changed, but not pruned:

    epochs   that ours spent, over what the same trials take without pruning. One that stopped by
             itself, for want of patience, costs its own length on both sides; where not all pruned
             trials were trained again, the others count as those do in the mean.
    regret   the best value with pruning above the best one without, of the same trials.

Every search and every training is a line of the results file once it is done, and is not repeated:
an interrupted benchmark goes on where it was. Lines are known by what was searched, not by the
code: `--fresh` forgets them, `--report` searches nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from orchestration import verdict

from hpo.records import weights
from hpo.records.folder import read, read_all
from hpo.records.record import FINISHED, RunRecord
from hpo.storage.address import FILE_VARIABLE, VARIABLE
from hpo.study.space import grid
from hpo.study.spec import load
from hpo.study.study import trial_folder
from models.config import FlowConfig, TrainConfig
from models.evaluation import nll
from models.training.train import NonFiniteLoss, train

RESULTS = Path(__file__).resolve().parent / "results" / "search.jsonl"
PER_MINUTE = 15
"""Trials that a search is given for each of its minutes: more than it can begin."""
GRACE_S = 60.0
"""How long a search may take to end."""
FRACTION = 0.40
"""Aim: epochs that pruning leaves."""
REGRET = 0.005
"""Aim: nats that pruning loses."""
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One way to search."""

    name: str
    study: str
    settings: tuple[str, ...] = ()


OURS = Side(name="ours", study="bbh")
SIDES = (
    OURS,
    Side(name="random", study="bbh", settings=("sampler.kind=random", "pruner.kind=none")),
    Side(name="thesis", study="thesis"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """The results file."""

    path: Path

    def lines(self) -> list[Line]:
        """Whatever is done; a line that was cut off while written is not."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines

    def of(self, key: Mapping[str, Any]) -> Line | None:
        """The line that has all of this."""
        lines = [line for line in self.lines() if key.items() <= line.items()]
        return lines[-1] if lines else None

    def add(self, line: Mapping[str, Any]) -> None:
        """Append, on a line of its own even after one that was cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            file.seek(0)
            whole = file.read()
            file.write("\n" * (bool(whole) and not whole.endswith("\n")) + json.dumps(line) + "\n")


def main() -> None:
    options = parsed()
    results = Results(path=options.results)
    if options.fresh:
        options.results.unlink(missing_ok=True)
    sides = [side for side in SIDES if side.name in options.sides]
    if not options.report:
        for side in sides:
            if results.of(key_of(side, options)) is None:
                results.add(search(side, options))
    lines = [line for side in sides if (line := results.of(key_of(side, options)))]
    report(lines, options)
    ours = next((line for line in lines if line["side"] == OURS.name), None)
    if ours is not None:
        if not options.report:
            train_on(ours, options, results)
        report_pruning(ours, options, results)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20, help="of each search")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, help=f"of each search [{PER_MINUTE} a minute]")
    parser.add_argument("--seed", type=int, default=0, help="of the studies")
    parser.add_argument("--data", type=Path, help="a prepared dataset [the shipped sample]")
    parser.add_argument("--sides", default=",".join(side.name for side in SIDES))
    parser.add_argument("--prune-check", type=int, metavar="K", help="pruned trials [all]")
    parser.add_argument("--out", type=Path, help="of the runs [beside the results]")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="search nothing")
    parser.add_argument("--fresh", action="store_true", help="forget older results")
    options = parser.parse_args()
    options.sides = [name.strip() for name in options.sides.split(",")]
    if unknown := set(options.sides) - {side.name for side in SIDES}:
        parser.error(f"no {', '.join(sorted(unknown))}: there are ours, random, thesis")
    options.out = (options.out or options.results.with_suffix("")).absolute()
    options.trials = options.trials or max(30, math.ceil(PER_MINUTE * options.minutes))
    return options


# ---- the searches


def key_of(side: Side, options: argparse.Namespace) -> Line:
    """What a search is known by."""
    return {
        "side": side.name,
        "minutes": options.minutes,
        "workers": options.workers,
        "seed": options.seed,
        "data": str(options.data.absolute()) if options.data else "sample",
    }


def search(side: Side, options: argparse.Namespace) -> Line:
    """Search for the minutes, and say what was found."""
    key = key_of(side, options)
    runs = options.out / "-".join(str(key[name]) for name in ("side", "minutes", "seed"))
    shutil.rmtree(runs, ignore_errors=True)  # of a search that was broken off
    runs.mkdir(parents=True)
    print(f"{side.name}: searching for {options.minutes:g} minutes in {runs}", flush=True)
    took_s = launched(command_of(side, key, runs, options), runs, 60 * options.minutes)
    records = [one for _, one in read_all(runs) if isinstance(one, RunRecord)]
    if not records:
        raise SystemExit(f"{side.name} began no trial: see {runs / 'launch.log'}")
    line = key | {"runs": str(runs), "took_s": took_s, "commit": records[0].environment.git_commit}
    return line | counts_of(records) | found_by(records, runs)


def command_of(side: Side, key: Line, runs: Path, options: argparse.Namespace) -> list[str]:
    """`hpo launch` of a side."""
    settings = [f"data.path={key['data']}", f"study.seed={options.seed}", *side.settings]
    spec = load(side.study, settings=settings)
    # A study file that lists fewer points than it may have trials would be refused.
    most = len(grid(spec.space)) if spec.sampler.kind == "grid" else options.trials
    command = [sys.executable, "-m", "hpo.cli", "launch", side.study]
    command += ["--runs", str(runs), "--name", side.name]
    command += ["--trials", str(min(most, options.trials)), "--workers", str(options.workers)]
    return command + [word for setting in settings for word in ("--set", setting)]


def launched(command: Sequence[str], runs: Path, seconds: float) -> float:
    """Run the command for so long, interrupt it as Ctrl-C does, and say how long it ran."""
    variables = {k: v for k, v in os.environ.items() if k not in (VARIABLE, FILE_VARIABLE)}
    start_s = time.monotonic()
    with (runs / "launch.log").open("wb") as log:
        process = psutil.Popen(
            command, stdout=log, stderr=log, env=variables, start_new_session=True
        )
        try:
            process.wait(seconds)
        except psutil.TimeoutExpired:
            pass
        finally:
            took_s = time.monotonic() - start_s
            if process.poll() is None:
                end(process)
    if took_s < seconds:
        print(f"it ended by itself after {took_s / 60:.1f} minutes, with {process.returncode}")
    return took_s


def end(process: psutil.Popen) -> None:
    """Interrupt the launcher, which lets its workers hand their trials back."""
    family = process.children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs([process, *family], timeout=GRACE_S)
    for one in left:
        print(f"process {one.pid} did not end within {GRACE_S:.0f} s and is killed")
        one.kill()


def counts_of(records: Sequence[RunRecord]) -> Line:
    """How many trials came to what."""
    states = [record.state for record in records]
    return {
        "begun": len(records),
        "finished": sum(state in FINISHED for state in states),
        **{state: states.count(state) for state in ("pruned", "failed", "running")},
        "epochs": sum(len(record.epochs) for record in records),
    }


def found_by(records: Sequence[RunRecord], runs: Path) -> Line:
    """The best finished trial, and the best weights of any trial."""
    trials = [record for record in records if record.best_val_nll is not None]
    ended = [record for record in trials if record.state in FINISHED and record.test]
    line: Line = {"best": None, "any": None}
    if ended:
        best = min(ended, key=value_of)
        assert best.test is not None
        line["best"] = [best.trial, best.best_val_nll, best.test.nll, best.test.error]
    if trials:
        best = min(trials, key=value_of)
        flow = weights.flow_of(best, trial_folder(runs, best.study, best.trial))
        test = nll.nll(flow, Path(best.data.path), "test")
        line["any"] = [best.trial, best.best_val_nll, test.mean, test.error, best.state]
    return line


def value_of(record: RunRecord) -> float:
    assert record.best_val_nll is not None
    return record.best_val_nll


def report(lines: Sequence[Line], options: argparse.Namespace) -> None:
    """The table of the searches, and what it must show."""
    print(
        f"\n{options.minutes:g} minutes each, {options.workers} workers; of finished trials, and "
        f"of the best weights of any\n{'':8}{'begun':>6}{'finished':>9}{'pruned':>7}{'failed':>7}"
        f"{'epochs':>7}{'val NLL':>9}{'test NLL':>19}{'any val':>9}{'any test':>9}  of a trial"
    )
    for line in lines:
        best, every = line["best"], line["any"]
        shown = f"{best[1]:9.4f}{best[2]:10.4f} +- {best[3]:.4f}" if best else f"{'none':>9}{'':19}"
        weights = f"{every[1]:9.4f}{every[2]:9.4f}  {every[4]}" if every else ""
        counts = f"{line['begun']:6}{line['finished']:9}{line['pruned']:7}{line['failed']:7}"
        print(f"{line['side']:8}{counts}{line['epochs']:7}{shown}{weights}")
    by_side = {line["side"]: line for line in lines}
    ours = by_side.pop(OURS.name, None)
    if ours is None or not by_side:
        return
    for field, what in (("best", "finished trials"), ("any", "any weights")):
        rivals = {name: line[field][2] for name, line in by_side.items() if line[field]}
        if not ours["best"] or not rivals:
            print(f"       test NLL against {what} of others: nothing to compare")
            continue
        lowest = min(rivals, key=lambda name: rivals[name])
        gap = ours["best"][2] - rivals[lowest]
        verdict(f"test NLL of ours - the lowest of others' {what} ({lowest})", gap, "<=", 0.0)


# ---- was pruning worth it?


def train_on(ours: Line, options: argparse.Namespace, results: Results) -> None:
    """Train what is not done of the pruned trials to the end."""
    left = [
        record
        for record in checked(ours, options)
        if results.of(key_of_training(ours, record)) is None
    ]
    if not left:
        return
    print(f"\ntraining {len(left)} pruned trials to their end", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        futures = {
            pool.submit(unpruned, record, Path(ours["runs"]) / "unpruned"): record
            for record in left
        }
        for number, future in enumerate(as_completed(futures), 1):
            record = futures[future]
            line = future.result()
            results.add(key_of_training(ours, record) | line)
            print(
                f"[{number} of {len(left)}] trial {record.trial}: {len(record.epochs)} -> "
                f"{line['epochs']} epochs, val NLL {record.best_val_nll} -> {line['value']}",
                flush=True,
            )


def key_of_training(ours: Line, record: RunRecord) -> Line:
    """What a training without pruning is known by."""
    # A search that was repeated in the same folder has other trials.
    return {"unpruned": record.trial, "runs": ours["runs"], "started": record.started}


def checked(ours: Line, options: argparse.Namespace) -> list[RunRecord]:
    """The pruned trials that are to be trained again, in random order."""
    pruned = [record for record in records_of(ours) if record.state == "pruned"]
    order = np.random.default_rng(0).permutation(len(pruned))
    return [pruned[index] for index in order[: options.prune_check]]


def records_of(line: Line) -> list[RunRecord]:
    """The trials of a search, by number."""
    paths = sorted(Path(line["runs"]).glob("*/trial-*/run.json"))
    return [read(path) for path in paths]


def unpruned(record: RunRecord, scratch: Path) -> Line:
    """The trial once more, from its own seed and with its own threads, to its end."""
    torch.set_num_threads(record.environment.threads or 1)
    folder = scratch / f"trial-{record.trial:05d}"  # of an interrupted one: it goes on from there
    val_nll: list[float] = []
    start_s = time.monotonic()
    try:
        _, fit = train(
            Path(record.data.path),
            FlowConfig.from_dict(record.flow),
            TrainConfig.from_dict(record.training),
            hold_out=record.data.hold_out_cells,
            report=record.data.report_cells,
            checkpoint=folder,
        )
        val_nll = [epoch.val_nll for epoch in fit.history]
        value, stopped = fit.best.val_nll, fit.stopped
    except NonFiniteLoss as error:  # in a study, such a trial fails
        value, stopped = None, str(error)
    shutil.rmtree(folder, ignore_errors=True)
    pairs = zip([row.val_nll for row in record.epochs], val_nll, strict=False)
    return {
        "epochs": len(val_nll) or len(record.epochs),
        "value": value,
        "stopped": stopped,
        "took_s": time.monotonic() - start_s,
        "differs": max((abs(was - now) for was, now in pairs if was is not None), default=0.0),
    }


def report_pruning(ours: Line, options: argparse.Namespace, results: Results) -> None:
    """What pruning spared, and what it lost."""
    records = [record for record in records_of(ours) if record.state != "running"]
    pruned = [record for record in records if record.state == "pruned"]
    pairs = [
        (record, line)
        for record in checked(ours, options)
        if (line := results.of(key_of_training(ours, record)))
    ]
    if not pairs:
        print("\nno pruned trial was trained to its end")
        return
    spent = sum(len(record.epochs) for record in records)
    mean = sum(line["epochs"] for _, line in pairs) / len(pairs)
    others = sum(len(record.epochs) for record in records if record.state != "pruned")
    without = others + mean * len(pruned)
    print(
        f"\npruning: {len(records)} trials ended, {len(pruned)} of them pruned, {len(pairs)} of "
        f"these trained to their end"
    )
    verdict("epochs spent / epochs without pruning", spent / without, "<=", FRACTION)
    finished = [value_of(one) for one in records if one.state in FINISHED and one.best_val_nll]
    regained = [line["value"] for _, line in pairs if line["value"] is not None]
    if finished:
        lost = min(finished) - min([*finished, *regained])
        verdict("best value with pruning - without", lost, "<=", REGRET)
        better = sum(value < min(finished) for value in regained)
        print(f"       pruned trials that would have been the best: {better}")
    same = sum(line["differs"] == 0 for _, line in pairs)
    print(f"       trained again, {same} of {len(pairs)} went to the last bit as they had before")


if __name__ == "__main__":
    main()
