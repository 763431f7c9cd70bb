"""The trainings of `benchmarks/flow.py`: each is named by its `Job`."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rivals
import smoothed_histogram
import thesis

from models.config import FlowConfig, TrainConfig

OURS, NORMAL, HISTOGRAMS = "ours", "ours (normal base)", "histograms"
FLOWS = (OURS, NORMAL, *rivals.TUNED, HISTOGRAMS, rivals.THESIS)
UNSEEDED = (HISTOGRAMS, rivals.THESIS)
"""Flows of which one seed is enough."""
MEASURES = 3
"""Raised when what is measured changes, so that old results are not taken for new ones."""
OLD_FLOW: Mapping[str, Any] = {
    "kind": "spline",
    "base": "normal",
    "coordinates": "log_ratio",
    "blocks": 2,
    "bins": 16,
    "bound": 5.0,
    "conditioner": "separate",
    "hidden": 48,
    "depth": 2,
    "activation": "silu",
}
"""The default flow before there was a mixture as its base, and its training."""
OLD_TRAINING: Mapping[str, Any] = {
    "epochs": 120,
    "batch_size": 1024,
    "learning_rate": 1e-2,
    "weight_decay": 0.0,
    "decay_rows": 0.0,
    "ema": 0.999,
    "jitter": 0.7,
    "blend": "rows",
    "patience": 15,
}
THESIS_STEPS, THESIS_BATCH = 5000, 1024
"""Of the thesis's design: as many steps as others make in their time, smaller ones than its own."""

HELD_OUT = (
    {"Z": 0.0002, "alpha": 3.0},
    {"Z": 0.0006, "alpha": 1.0},
    {"Z": 0.001, "alpha": 3.0},
    {"Z": 0.002, "alpha": 1.0},
)
"""Cells of the COSMIC table with neighbours on all sides."""
POINT = {"Z": 0.0014, "alpha": 2.2}
"""Where density is shown and speed measured: between the cells of all grids."""
SPEED_TRAINING_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training."""

    flow: str
    data: str
    seed: int
    seconds: float
    """Its budget of processor time, on one thread."""
    config: Mapping[str, Any] | None = None
    """What a rival was tuned to."""
    held_out: bool = False
    """Whether it never sees the cells in `HELD_OUT`."""
    bag: bool = False
    """Whether it learns from a bootstrap of the rows (ours)."""
    speed: bool = False
    """Whether a short training is measured for its speed of use, and for nothing else."""

    @property
    def ours(self) -> bool:
        return self.flow in (OURS, NORMAL)

    @property
    def plain(self) -> bool:
        """Whether all rows are learned from and accuracy is measured."""
        return not (self.held_out or self.bag or self.speed)

    @property
    def budget_s(self) -> float:
        return SPEED_TRAINING_S if self.speed else self.seconds

    def configs(self) -> tuple[FlowConfig, TrainConfig]:
        """What ours is and how it is trained."""
        old = self.flow == NORMAL
        options: dict[str, Any] = {**OLD_TRAINING} if old else {}
        training = TrainConfig(
            max_minutes=self.budget_s / 60, seed=self.seed, device="cpu", bag=self.bag, **options
        )
        return FlowConfig(**OLD_FLOW) if old else FlowConfig(), training

    def digest(self, fingerprint: str) -> str:
        """Names the job among all that were ever done on this dataset."""
        text = json.dumps(self.settings(fingerprint), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def settings(self, fingerprint: str) -> dict[str, Any]:
        """Everything but the machine on which the result depends; for ours the code, too."""
        settings: dict[str, Any] = {**asdict(self), "measures": MEASURES, "dataset": fingerprint}
        if self.held_out:
            settings["cells"] = list(HELD_OUT)
        if self.ours:
            shape, training = self.configs()
            settings |= {"shape": asdict(shape), "training": asdict(training), "code": code()}
        if self.flow == rivals.THESIS:
            settings |= {"steps": THESIS_STEPS, "batch": THESIS_BATCH, "blocks": thesis.BLOCKS}
        if self.flow == HISTOGRAMS:
            widths = list(map(float, smoothed_histogram.WIDTHS))
            settings |= {"bins": smoothed_histogram.BINS, "widths": widths}
        return settings


def code() -> str:
    """Digest of the sources that decide what ours does, committed or not."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted((*root.glob("models/**/*.py"), *root.glob("data_prep/**/*.py"))):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str:
    """Of the working tree, with a + where files differ from it; empty outside git."""
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    folder = Path(__file__).resolve().parent
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return found.stdout.strip()
