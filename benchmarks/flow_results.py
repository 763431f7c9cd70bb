"""The results file of `benchmarks/flow.py`: a line for each training, long arrays beside it.

Array names end in their axes:
    N rows
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset import Dataset

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

    def add(self, line: Line) -> None:
        """Append, on a line of its own even after one that was cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            file.seek(0)
            whole = file.read()
            file.write("\n" * (bool(whole) and not whole.endswith("\n")) + json.dumps(line) + "\n")

    def fingerprint(self, data: str) -> str:
        """Of the dataset of this name."""
        return Dataset.read(self.folders[data]).fingerprint

    def arrays(self, digest: str) -> Path:
        """Where the long results of a training are."""
        return self.path.with_suffix("") / f"{digest}.npz"

    def array_N(self, line: Line, name: str) -> NDArray[np.float64]:
        """`test_N` or `between_N`: the log density of each event."""
        with np.load(self.arrays(line["digest"])) as stored:
            return np.asarray(stored[name], np.float64)
