"""The catalog of the runs below a folder: a row for each, read again only where a file changed.

The catalog reads only, and only inside the folder: a link that leads out of it is a row that says
so. A run is known by its key, the path of its `run.json` below the folder without that name; a key
that comes from outside is looked up here, and never made into a path.

Of a listed run only the last epoch is read; its curves are read when somebody looks at them.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from hpo.dashboard.cache import Cache
from hpo.records import table
from hpo.records.folder import candidates, read_within, root_of, stamp
from hpo.records.record import NAME, RecordError, RunRecord
from hpo.records.table import Row

PAUSE_S = 0.3
"""The files are looked at so often at most, however many pages ask."""

KEPT = 64
"""Whole records that are kept in memory: as many as a comparison shows, and some."""

TAIL, LINES = 256 * 1024, 200
"""Bytes and lines of a log that are read at most, from its end."""

Stamp = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """A run as it was last read."""

    path: Path
    stamp: Stamp
    """A value that changes with its files."""
    found: RunRecord | RecordError
    row: Row


class Catalog:
    """Every run below a folder, for several threads at once."""

    def __init__(self, folder: Path) -> None:
        """Knows nothing before the first `refresh`.

        Raises:
            RecordError: If `folder` is not a folder.
        """
        self.folder = folder.absolute()
        self.version = 0
        """Goes up whenever a run appeared, changed or vanished."""
        self._root = root_of(folder)
        self._runs: dict[str, _Run] = {}
        self._changed: dict[str, int] = {}
        self._rows: list[Row] = []
        self._whole: Cache[tuple[str, Stamp], RunRecord] = Cache(KEPT)
        self._looking = Lock()
        self._looked_s = -PAUSE_S

    def refresh(self) -> int:
        """Look at the files, unless somebody just did, and give back the version."""
        # While another thread looks, the rows of the last look are served; the first is waited for.
        if self._looking.acquire(blocking=not self.version):
            try:
                if time.monotonic() - self._looked_s >= PAUSE_S:
                    self._look()
                    self._looked_s = time.monotonic()
            finally:
                self._looking.release()
        return self.version

    def rows(self) -> list[Row]:
        """A row for each run, as `hpo.records.table.rows` gives it, its key before all as `run`."""
        return self._rows

    def changed_since(self, version: int) -> set[str]:
        """Keys of the runs that appeared, changed or vanished since then."""
        return {key for key, when in self._changed.items() if when > version}

    def record(self, key: str) -> RunRecord:
        """The whole record of a run, all epochs with it.

        Raises:
            KeyError: If there is no run of that key.
            RecordError: If its file cannot be read.
        """
        run = self._runs[key]
        if isinstance(run.found, RecordError):
            raise run.found
        return self._whole.get((key, run.stamp), lambda: read_within(self._root, run.path))

    def trial_folder(self, key: str) -> Path | None:
        """The folder of a run's checkpoint and log, links resolved; None for a run without one.

        Raises KeyError if there is no run of that key.
        """
        path = self._runs[key].path
        if path.name != NAME:
            return None
        folder = path.parent.resolve()
        return folder if folder.is_relative_to(self._root) else None

    def log_tail(self, key: str) -> str:
        """The last lines of a run's log; nothing where there is none.

        Raises KeyError if there is no run of that key.
        """
        folder = self.trial_folder(key)
        text = _tail(folder / "log.txt") if folder else ""
        return "\n".join(text.splitlines()[-LINES:])

    def _look(self) -> None:
        """Read what changed, and make all rows anew if anything did."""
        known, seen = self._runs, {}
        paths = candidates(self.folder)
        beside = tuple(path.name for path in paths if path.name != NAME)
        for path in paths:
            key = _key(path, self.folder)
            stamp = _stamp(path, beside)
            run = known.get(key)
            seen[key] = run if run and run.stamp == stamp else self._read(path, stamp)
        every = known.keys() | seen.keys()
        changed = [key for key in every if known.get(key) is not seen.get(key)]
        if not changed and self.version:
            return
        found = [run.found for run in seen.values()]
        aligned = table.aligned([run.row for run in seen.values()], found)
        # A parameter may be called `run`, in a file that anybody wrote: the key stands.
        keyed = zip(seen, aligned, strict=True)
        self._rows = [{"run": key} | row | {"run": key} for key, row in keyed]
        self._runs = seen
        self._changed = self._changed | dict.fromkeys(changed, self.version + 1)
        self.version += 1  # last: a reader of the version finds its rows

    def _read(self, path: Path, stamp: Stamp) -> _Run:
        found: RunRecord | RecordError
        try:
            found = read_within(self._root, path, last_epoch=True)
        except RecordError as error:
            found = error
        return _Run(path, stamp, found, table.flat(path, found))


def _key(path: Path, folder: Path) -> str:
    below = path.relative_to(folder)
    if path.name == NAME and below.parent != Path():
        below = below.parent
    return below.as_posix()


def _stamp(path: Path, beside: tuple[str, ...]) -> Stamp:
    """A value that changes with the run's files.

    A run of the thesis has its curves in a second file, and its number from its neighbours.
    """
    of_thesis = path.name != NAME
    paths = [path, path.with_name(f"{path.stem}_loss.npz")] if of_thesis else [path]
    return beside if of_thesis else (), *map(stamp, paths)


def _tail(path: Path) -> str:
    """The end of a plain file; nothing for anything else, links among it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # not there yet, or not to be followed
        return ""
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return ""
        file.seek(max(status.st_size - TAIL, 0))
        return file.read(TAIL).decode("utf-8", errors="replace")
