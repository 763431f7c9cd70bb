"""Where a picture of a flow comes from: the weights in a run's folder, the rows of known datasets.

Neither is followed by name out of a file: weights are read only where the catalog says that a run
lies, rows only from the shipped sample and from folders that the user named. A dataset is known by
its fingerprint, so that a run's own `data.path`, which anybody may have written, is never opened.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from data_prep.dataset import SAMPLE, Dataset
from data_prep.errors import InputError
from data_prep.stream import Batch, Stream, read_split

if TYPE_CHECKING:
    from models.flow.density import ConditionalFlow

LARGEST = 512 * 10**6
"""Bytes of the largest checkpoint that is read."""

MOST_ROWS = 2_000_000
"""Test rows of a dataset that are kept in memory; of more, about so many at random."""

PART = 2**18
"""Rows that are read at once of a part that is too large to be kept whole."""


class DensityError(InputError):
    """A flow that cannot be drawn from, or data that are not there. One sentence, for people."""


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """A few values, those asked for last; only one is being made at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._looking, self._making = Lock(), Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of that key, made at its first need; whoever asks meanwhile waits for it."""
        with self._looking:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._making:
            with self._looking:
                if key in self._kept:
                    return self._kept[key]
            value = make()
            with self._looking:
                self._kept[key] = value
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            return value


Stamp = tuple[Path, int, int]
"""Of a checkpoint: its path, its time of change in ns, its bytes."""


class Weights:
    """The flows in the runs' folders, read once for each state of the file."""

    def __init__(self) -> None:
        self._flows: Cache[Stamp, ConditionalFlow] = Cache(4)

    def flow(self, stamp: Stamp) -> ConditionalFlow:
        """The flow of a checkpoint with its best weights.

        Raises:
            CheckpointError: If the file is damaged, or holds no weights yet.
        """
        from models.training.checkpoint import best_flow  # here: torch waits until somebody looks

        # Replaced in the meantime, the newer one is read: nobody will ask for this stamp again.
        return self._flows.get(stamp, lambda: best_flow(stamp[0].parent))


def stamp_of(folder: Path) -> Stamp:
    """Which checkpoint a run's folder holds.

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
            f"{path.name} of this run has {found.st_size / 1e6:,.0f} MB, more than the "
            f"{LARGEST / 1e6:,.0f} MB that this page reads: use `hpo plot` on its emulator"
        )
    return real, found.st_mtime_ns, found.st_size


@dataclass(frozen=True, slots=True)
class TestRows:
    """Test rows of a dataset, in memory."""

    __test__ = False  # else pytest takes it for a class of tests

    rows: Batch
    of: int
    """All there are: more than `rows` where these are drawn from them."""

    @property
    def note(self) -> str | None:
        """Said where not all rows are there."""
        kept = len(self.rows.events)
        return f"Of the {self.of:,} test rows {kept:,} were drawn." if kept < self.of else None


class Datasets:
    """The prepared datasets that are known, by fingerprint."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Args: folders that the user named; the shipped sample is always known.

        Raises:
            DataError: If one holds no prepared dataset.
        """
        found = [(Dataset.read(folder), Path(folder)) for folder in (SAMPLE, *folders)]
        self._known = {dataset.fingerprint: (dataset, folder) for dataset, folder in found}
        self._rows: Cache[str, TestRows] = Cache(2)

    def find(self, fingerprint: str | None) -> tuple[Dataset, Path] | None:
        """The dataset of that fingerprint and its folder; None where it is not known."""
        return None if fingerprint is None else self._known.get(fingerprint)

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
    """About `MOST_ROWS` test rows at random, the same each time, read part by part."""
    rng = np.random.default_rng(0)
    kept = []
    for part in Stream(folder, "test", batch_size=PART, shuffle=False, memory_mb=0).epoch(0):
        chosen = rng.random(len(part.events)) < MOST_ROWS / of
        kept.append(Batch(part.events[chosen], part.conditions[chosen]))
    return Batch(*(np.concatenate(columns) for columns in zip(*kept, strict=True)))
