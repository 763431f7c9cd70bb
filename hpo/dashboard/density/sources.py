"""The sources of a density plot: the checkpoint in a run's folder, the rows of known datasets.

Weights are read only where the catalog says that a run lies, rows only from the shipped sample and
from folders that the user named. A dataset is found by its fingerprint: a run's own `data.path`,
which anybody may have written, is never opened.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.dataset import SAMPLE, Dataset
from data_prep.errors import DataError, InputError
from data_prep.stream import Batch, Stream, read_split
from data_prep.words.numbers import size
from hpo.dashboard.cache import Cache

LARGEST = 512 * 10**6
"""Bytes of the largest checkpoint that is read."""

MOST_ROWS = 2_000_000
"""Test rows of a dataset that are kept in memory; of more, about so many at random."""

PART = 2**18
"""Rows that are read at once of a part that is too large to be kept whole."""


class DensityError(InputError):
    """A flow that cannot be drawn from, or data that are not there. One sentence, for people."""


Stamp = tuple[Path, int, int]
"""A checkpoint's path, time of change in ns, and size in bytes."""


def stamp_of(folder: Path) -> Stamp:
    """The stamp of the checkpoint in a run's folder.

    Raises:
        DensityError: If there is none, if it lies elsewhere, or if it is too large.
    """
    path = folder / "checkpoint.safetensors"
    try:
        real, found = path.resolve(strict=True), path.stat()
    except FileNotFoundError:
        raise DensityError(
            "this run has no checkpoint yet, or none any more: there is no flow to draw from"
        ) from None
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        raise DensityError(f"{path.name} of this run cannot be read ({error})") from error
    if real.parent != folder.resolve() or real.name != path.name:
        raise DensityError(
            f"{path.name} of this run is a link to another place, which is not followed: "
            "put the file itself there"
        )
    if not stat.S_ISREG(found.st_mode):
        raise DensityError(f"{path.name} of this run is no file")
    if found.st_size > LARGEST:
        raise DensityError(
            f"{path.name} of this run has {size(found.st_size)}, more than the "
            f"{size(LARGEST)} that this page reads: use `hpo plot` on its emulator"
        )
    return real, found.st_mtime_ns, found.st_size


@dataclass(frozen=True, slots=True)
class TestRows:
    """Test rows of a dataset, in memory."""

    __test__ = False  # else pytest takes it for a class of tests

    rows: Batch
    of: int
    """All test rows; `rows` is a random part of them where there are more than `MOST_ROWS`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence, if only a part of the rows is in memory."""
        kept = len(self.rows.events)
        return (f"Of the {self.of:,} test rows {kept:,} were drawn.",) if kept < self.of else ()


class Datasets:
    """The prepared datasets that are known, by fingerprint: the shipped sample and more."""

    def __init__(self, folders: Sequence[Path], of_studies: Sequence[Path] = ()) -> None:
        """Raises DataError if one of `folders` is no prepared dataset; `of_studies` may be gone."""
        found = [(Dataset.read(folder), Path(folder)) for folder in (SAMPLE, *folders)]
        for folder in of_studies:
            with contextlib.suppress(DataError):
                found.append((Dataset.read(folder), folder))
        self._known = {dataset.fingerprint: (dataset, folder) for dataset, folder in found}
        self._rows: Cache[str, TestRows] = Cache(2)

    def find(self, fingerprint: str | None) -> tuple[Dataset, Path] | None:
        """The dataset of that fingerprint and its folder; None where it is not known."""
        return self._known.get(fingerprint or "")

    def test_rows(self, fingerprint: str) -> TestRows:
        """The test rows of a known dataset.

        Raises:
            DensityError: If the folder was prepared anew since.
            DataError: If its files cannot be read any more.
        """
        return self._rows.get(fingerprint, lambda: self._read(fingerprint))

    def _read(self, fingerprint: str) -> TestRows:
        _, folder = self._known[fingerprint]
        now = Dataset.read(folder)
        if now.fingerprint != fingerprint:
            raise DensityError(
                f"{folder} was prepared anew since the dashboard was started: start it again"
            )
        of = now.rows["test"]
        return TestRows(read_split(folder, "test") if of <= MOST_ROWS else _some(folder, of), of)


def _some(folder: Path, of: int) -> Batch:
    """About `MOST_ROWS` test rows at random, read part by part; each call gives equal rows."""
    rng = np.random.default_rng(0)
    kept = []
    for part in Stream(folder, "test", batch_size=PART, shuffle=False, memory_mb=0).epoch(0):
        chosen = rng.random(len(part.events)) < MOST_ROWS / of
        kept.append(part.take(chosen).arrays)
    return Batch(*(np.concatenate(columns) for columns in zip(*kept, strict=True)))
