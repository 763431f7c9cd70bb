"""What a search finds beside random search and beside the default, at equal processor time.

    python benchmarks/search.py [--seconds 300] [--seeds 5] [--study bbh] [--data FOLDER]
                                [--set TABLE.KEY=VALUE ...] [--results FILE] [--report] [--fresh]

Three ways to spend the same seconds of processor time on one thread:

    default   the shipped configuration, again and again, each time from another seed
    random    the study's space, every trial drawn at random and trained to its end
    ours      the study as it is shipped: its sampler, which begins with the default, and its pruner

All train for the study's epochs; a training under way when the time is over does not count. A way
is judged by the NLL on the test rows of its trial with the lowest validation NLL. As all ways are
tested on the same rows, their differences are more certain than their NLLs: the table tells the
mean over seeds of the difference to `default`, its standard error from the spread of the seeds, and
the one from the spread of the test rows. The random trials, all trained to their end, tell how well
the NLL at each rung of the pruner ranks them.

Seeds and ways alternate. Each search is a line of the results file once it is done, and is not
repeated: an interrupted benchmark goes on where it was. Lines are known by what was searched, not
by the code: `--fresh` forgets them, `--report` searches nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from data_prep.dataset import SAMPLE, Dataset
from data_prep.stream import read_split
from hpo.study.sampling import pruner_of, sampler_of
from hpo.study.space import default_point, seed_of, suggest
from hpo.study.spec import PrunerTable, SamplerTable, StudySpec, load
from models.bundle import batched
from models.flow.atoms import OneFlow
from models.training.history import Epoch
from models.training.train import NonFiniteLoss, train

RESULTS = Path(__file__).resolve().parent / "results" / "search.jsonl"
DEFAULT, RANDOM, OURS = WAYS = ("default", "random", "ours")
COMPLETE = "complete"
Line = dict[str, Any]
Floats = NDArray[np.floating]


class Spent(Exception):
    """The processor time is over."""


@dataclass(kw_only=True, slots=True)
class Search:
    """A search under way, and what it came to."""

    spec: StudySpec
    folder: Path
    """The prepared dataset."""
    seconds: float
    start_s: float
    trials: list[Line]
    best: OneFlow | None = None

    def run(self) -> None:
        """One trial after another until the time is over."""
        study = optuna.create_study(pruner=pruner_of(self.spec))
        if self.spec.sampler.kind == "tpe":
            study.enqueue_trial(default_point(self.spec.space, self.spec.flow, self.spec.training))
        for number in count():
            study.sampler = sampler_of(self.spec, number)
            trial = study.ask()
            line: Line = {"state": "running", "nll": [], "params": trial.params}
            self.trials.append(line)
            try:
                value = self.trained(trial, line["nll"])
            except Spent:
                return
            except (optuna.TrialPruned, NonFiniteLoss) as error:
                pruned = isinstance(error, optuna.TrialPruned)
                state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.FAIL
                study.tell(trial, state=state)
                line["state"] = state.name.lower()
            else:
                study.tell(trial, value)
                line["state"] = COMPLETE
            line["params"] = trial.params

    def trained(self, trial: optuna.Trial, nll: list[float]) -> float:
        """The lowest NLL of a trial that is trained to its end; `nll` gets that of each epoch."""
        spec, seed = self.spec, seed_of(self.spec.study.seed, trial.number)
        flow, training = suggest(trial, spec.space, spec.flow, spec.training, seed=seed)

        def on_epoch(epoch: Epoch) -> None:
            nll.append(epoch.objective(training))
            if time.process_time() - self.start_s > self.seconds:
                raise Spent
            trial.report(nll[-1], epoch.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        trained, _ = train(self.folder, flow, training, on_epoch=on_epoch)
        if min(nll) < min((min(one["nll"]) for one in complete(self.trials)), default=math.inf):
            self.best = trained
        return min(nll)


def main() -> None:
    options = parsed()
    if options.fresh:
        options.results.unlink(missing_ok=True)
        shutil.rmtree(options.results.with_suffix(""), ignore_errors=True)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    specs = {(way, seed): spec_of(way, seed, options) for seed in options.seeds for way in WAYS}
    done = known(options.results)
    for (way, seed), spec in specs.items():
        if options.report or digest(spec, options) in done:
            continue
        line, log_prob_N = searched(spec, options)
        line = {"way": way, "seed": seed, "digest": digest(spec, options), **line}
        arrays(options, line).parent.mkdir(parents=True, exist_ok=True)
        np.save(arrays(options, line), log_prob_N.astype(np.float32))
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        done[line["digest"]] = line
        print(f"seed {seed}, {way}: {told(line)}", flush=True)
    found = {key: done[d] for key, spec in specs.items() if (d := digest(spec, options)) in done}
    report(found, options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="processor time of a search")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--study", default="bbh")
    parser.add_argument("--data", type=Path, default=SAMPLE, help="[the shipped sample]")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="search nothing")
    parser.add_argument("--fresh", action="store_true", help="forget older results")
    options = parser.parse_args()
    options.seeds = range(options.seeds)
    return options


# ---- the searches


def spec_of(way: str, seed: int, options: argparse.Namespace) -> StudySpec:
    """The study that this way runs."""
    spec = load(options.study, settings=options.set)
    spec = replace(spec, study=replace(spec.study, seed=seed))
    if way == OURS:
        return spec
    space = spec.space if way == RANDOM else {}
    never, random = PrunerTable(kind="none"), SamplerTable(kind="random")
    return replace(spec, space=space, pruner=never, sampler=random)


def digest(spec: StudySpec, options: argparse.Namespace) -> str:
    """Names a search among all that were ever done."""
    data = Dataset.read(options.data).fingerprint
    text = json.dumps([options.seconds, data, asdict(spec)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def searched(spec: StudySpec, options: argparse.Namespace) -> tuple[Line, Floats]:
    """The results of a search, and the log density of every test row by its best flow."""
    start_s = time.process_time()
    search = Search(
        spec=spec, folder=options.data, seconds=options.seconds, start_s=start_s, trials=[]
    )
    search.run()
    if search.best is None:
        raise SystemExit(f"no training ended within {options.seconds:g} s: give more --seconds")
    test = read_split(options.data, "test")
    log_prob_N = batched.log_prob(search.best, test.events, test.conditions)
    line = {
        "val_nll": min(min(one["nll"]) for one in complete(search.trials)),
        "test_nll": float(-log_prob_N.mean()),
        "trials": search.trials,
    }
    return line, log_prob_N


def complete(trials: Sequence[Line]) -> list[Line]:
    """Those that were trained to their end."""
    return [one for one in trials if one["state"] == COMPLETE]


def arrays(options: argparse.Namespace, line: Line) -> Path:
    folder: Path = options.results.with_suffix("")
    return folder / f"{line['digest']}.npy"


def known(path: Path) -> dict[str, Line]:
    """Whatever is done, by digest; a line that was cut off while written is not."""
    lines: dict[str, Line] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines[line["digest"]] = line
    return lines


# ---- the report


def told(line: Line) -> str:
    states = [one["state"] for one in line["trials"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{counts}; val NLL {line['val_nll']:.4f}, test NLL {line['test_nll']:.4f}"


def report(found: Mapping[tuple[str, int], Line], options: argparse.Namespace) -> None:
    """A row for each way, means over the seeds of which all ways are done."""
    seeds = [seed for seed in options.seeds if all((way, seed) in found for way in WAYS)]
    if not seeds:
        print("no seed is done yet")
        return
    test_nll = {
        way: [-np.load(arrays(options, found[way, seed])).astype(float) for seed in seeds]
        for way in WAYS
    }
    print(
        f"\n{options.seconds:g} s of processor time each, means over {len(seeds)} seeds\n{'':10}"
        f"{'ended':>7}{'pruned':>8}{'epochs':>8}{'val NLL':>9}{'test NLL':>10}"
        f"{'- default':>11}{'+- seeds':>10}{'+- rows':>9}"
    )
    for way in WAYS:
        lines = [found[way, seed] for seed in seeds]
        ended, pruned = (mean_count(lines, state) for state in (COMPLETE, "pruned"))
        epochs = np.mean([sum(len(one["nll"]) for one in line["trials"]) for line in lines])
        val, test = (np.mean([line[name] for line in lines]) for name in ("val_nll", "test_nll"))
        counts = f"{ended:7.1f}{pruned:8.1f}{epochs:8.0f}"
        pairs = [a - b for a, b in zip(test_nll[way], test_nll[DEFAULT], strict=True)]
        print(f"{way:10}{counts}{val:9.4f}{test:10.4f}{'' if way == DEFAULT else paired(pairs)}")
    pairs = [a - b for a, b in zip(test_nll[OURS], test_nll[RANDOM], strict=True)]
    print(f"{'ours - random':52}{paired(pairs)}")
    lines = [one for seed in seeds for one in complete(found[RANDOM, seed]["trials"])]
    report_rungs(lines, load(options.study, settings=options.set))


def report_rungs(trials: Sequence[Line], spec: StudySpec) -> None:
    """How well the NLL at each rung ranks random trials, and what the pruner would lose of them."""
    rung, factor, epochs = spec.pruner.min_epochs, spec.pruner.reduction_factor, []
    while rung < spec.training.epochs:
        epochs.append(rung)
        rung *= factor
    end_T = np.array([min(one["nll"]) for one in trials])
    for rung in epochs:
        at_T = np.array([one["nll"][min(rung, len(one["nll"])) - 1] for one in trials])
        promoted = np.argsort(at_T)[: max(1, len(at_T) // factor)]
        print(
            f"after {rung} epochs: rank correlation with the end of {len(trials)} random trials "
            f"{spearmanr(at_T, end_T).statistic:.2f}, lost by the best of their first "
            f"{1 / factor:.0%} {end_T[promoted].min() - end_T.min():.4f} nats"
        )


def mean_count(lines: Sequence[Line], state: str) -> float:
    return float(np.mean([sum(one["state"] == state for one in line["trials"]) for line in lines]))


def paired(pairs: Sequence[Floats]) -> str:
    """Mean difference, and its standard errors from the seeds and from the rows."""
    means, rows_N = [pair.mean() for pair in pairs], np.mean(pairs, axis=0)
    of_seeds = np.std(means, ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    of_rows = rows_N.std(ddof=1) / math.sqrt(len(rows_N))
    return f"{np.mean(means):+11.4f}{of_seeds:10.4f}{of_rows:9.4f}"


if __name__ == "__main__":
    main()
