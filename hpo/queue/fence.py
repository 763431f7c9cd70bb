"""A claim's hold on the folder of its trial: what a worker that lost the trial writes cannot land.

Each claim has a folder inside of the trial's, `.claim-<token>`. Every write is: the lease is shown,
a draft is written in there, and renamed to its place. The next claimant removes all older claims'
folders before it reads anything, so that of a write that is under way the source of the renaming is
gone. Files are deleted, not moved: on NFS a client that knows a folder follows it to its new name.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpo.queue.leases import Claim
from hpo.queue.slots import Slots
from hpo.records.folder import SET_ASIDE
from hpo.records.record import NAME

PREFIX = ".claim-"
_SILLY = ".nfs"
"""Begins the name under which an NFS client keeps a deleted file that one of its processes has
open: it goes when that process closes it."""


class Fence:
    """The trial's folder, to be written to while the trial is this claim's."""

    def __init__(self, slots: Slots, claim: Claim, folder: Path) -> None:
        """Use `fenced`, which makes the claim's folder."""
        self.folder = folder
        self.drafts = folder / f"{PREFIX}{claim.token}"
        self._slots, self._claim = slots, claim

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """The folder in which the body may write drafts, the lease just shown.

        Raises:
            LeaseLost: If the trial was taken away, before the body or during it: then the body's
                files have not taken their places.
        """
        self._slots.renew(self._claim)
        try:
            yield self.drafts
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # ESTALE is NFS's
                self._slots.renew(self._claim)
            raise

    def set_aside(self) -> Path:
        """Put what is in the folder out of the way, to be looked into; the place of its copy.

        Each file leaves by way of the claim's folder: a worker that lost the trial takes nothing
        away.
        """
        above, name = self.folder.parent / SET_ASIDE, self.folder.name
        with self.writing() as drafts:
            copy = shutil.copytree(
                self.folder, drafts / SET_ASIDE, ignore=shutil.ignore_patterns(f"{PREFIX}*")
            )
            above.mkdir(exist_ok=True)
            places = (above / f"{name}-{number}" for number in itertools.count())
            place = next(place for place in places if not place.exists())
            copy.rename(place)
            # The log goes on, and the record goes last: a checkpoint alone is of nobody.
            left = {path.name for path in place.iterdir()} - {"log.txt"}
            for each in sorted(left, key=lambda file: file == NAME):
                os.rename(self.folder / each, drafts / each)
        return place


@contextmanager
def fenced(slots: Slots, claim: Claim, folder: Path) -> Iterator[Fence]:
    """The folder of the claimed trial, made if need be, out of the reach of all earlier claims.

    Raises:
        LeaseLost: If the trial was taken away.
        FileNotFoundError: If the folder above the study's is not there.
    """
    for each in (folder.parent, folder):  # that of all runs has to be there, mounted
        each.mkdir(exist_ok=True)
    fence = Fence(slots, claim, folder)
    try:
        # The order is what makes it hold. A worker that lost the trial and makes its folder late
        # meets the end of its lease before it writes. What it saw before that has no folder of a
        # later claim among it, so that it removes none either.
        fence.drafts.mkdir(exist_ok=True)
        older = [path for path in folder.glob(f"{PREFIX}*") if path != fence.drafts]
        slots.renew(claim)
        for path in older:
            _remove(path)
        yield fence
    finally:
        _remove(fence.drafts)


def _remove(folder: Path) -> None:
    """Delete a claim's folder, whose owner may be writing in it."""
    while True:
        with suppress(FileNotFoundError):  # another process does the same
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif not path.name.startswith(_SILLY):
                    path.unlink(missing_ok=True)
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # A draft that is open in its owner's hands has lost its name: it will not be renamed.
        with suppress(FileNotFoundError):
            if all(name.startswith(_SILLY) for name in os.listdir(folder)):
                return
