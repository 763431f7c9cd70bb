"""What the two-sample test of `hpo evaluate` says of draws that are right, and of wrong ones.

    python benchmarks/two_sample.py EMULATOR [--data FOLDER] [--seeds 2]

    exact         the data are draws of the emulator itself, so that its draws are exact
    exchanged     the same, but a tenth of the draws have changed places, over all cells
    emulator      the data are the simulation's
    real          one half of the simulation's rows against the other

One line for each of them and each seed of the draws: AUC, standard error, deviations from 0.5.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset import Dataset
from data_prep.stream import Batch, read_split
from models import Emulator
from models.bundle import batched
from models.evaluation.two_sample import (
    DRAWS,
    TwoSample,
    ask,
    beside_draws,
    outcome,
    real_against_real,
)

SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample"
EXCHANGED = 0.1

Draws = list[NDArray[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emulator", type=Path)
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    flow = Emulator.load(options.emulator).module
    learnt, asked = (read_split(options.data, split) for split in ("val", "test"))
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        (first, *some), (second, *others) = (
            [batched.draw(flow, part.conditions, rng).astype(np.float32) for _ in range(1 + DRAWS)]
            for part in (learnt, asked)
        )
        own = learnt._replace(events=first), asked._replace(events=second)
        wrong = [[exchanged(each, rng) for each in draws] for draws in (some, others)]
        say("exact", answer(own, (some, others), flow.event_columns))
        say("exchanged", answer(own, (wrong[0], wrong[1]), flow.event_columns))
        say("emulator", answer((learnt, asked), (some, others), flow.event_columns))
        say("real", real_against_real(Dataset.read(options.data), asked, learnt, seed=seed))


def exchanged(drawn_NF: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """The draws, a part of which have changed places with each other."""
    wrong_N = rng.permutation(len(drawn_NF))[: round(EXCHANGED * len(drawn_NF))]
    mixed_NF = drawn_NF.copy()
    mixed_NF[wrong_N] = drawn_NF[rng.permutation(wrong_N)]
    return mixed_NF


def answer(parts: tuple[Batch, Batch], drawn: tuple[Draws, Draws], columns: Any) -> TwoSample:
    """The outcome of the test, which learns from the first part."""
    learnt, asked = (
        beside_draws(part, each, columns) for part, each in zip(parts, drawn, strict=True)
    )
    answers = ask(learnt, asked)
    assert answers
    return outcome(answers)


def say(name: str, found: TwoSample | None) -> None:
    if found:
        z = (found.auc - 0.5) / found.error
        print(f"{name:12}{found.auc:.4f} +-{found.error:.4f}{z:6.1f}", flush=True)


if __name__ == "__main__":
    main()
