"""The results file of `benchmarks/flow.py`: a line for each training, long arrays beside it.

Array names end in their axes:
    N rows
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flow_runs import Job
from numpy.typing import NDArray

Line = Mapping[str, Any]
"""The settings and results of one training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """The results file and the arrays beside it."""

    path: Path
    folders: Mapping[str, Path]
    """Prepared dataset by name."""

    def lines(self) -> list[Line]:
        """Every finished training; a line that was cut off while written is left out."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines

    def of(self, jobs: Iterable[Job]) -> list[Line]:
        """The finished ones of these trainings."""
        done = {line["digest"]: line for line in self.lines() if "digest" in line}
        digests = [job.digest(self.folders[job.data]) for job in jobs]
        return [done[digest] for digest in digests if digest in done]

    def add(self, line: Line) -> None:
        """Append, on a line of its own even after one that was cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            file.seek(0)
            whole = file.read()
            file.write("\n" * (bool(whole) and not whole.endswith("\n")) + json.dumps(line) + "\n")

    def arrays(self, digest: str) -> Path:
        """Where the long results of a training are."""
        return self.path.with_suffix("") / f"{digest}.npz"

    def log_prob_N(self, line: Line) -> NDArray[np.float64]:
        """Log density of each test row."""
        with np.load(self.arrays(line["digest"])) as stored:
            return np.asarray(stored["log_prob_N"], np.float64)
