"""A file or a folder that appears whole or not at all.

A draft is written beside its place, under a hidden name that says which process writes it, and
renamed at the end. A draft that a killed process left is never read, and the next draft of the
place removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SILENT_S = 24 * 3600.0
"""Seconds without a write after which a draft counts as left, wherever its process was."""
DRAFT, ASIDE = ".draft", ".old"
"""Endings: of what is being written, and of a whole folder that makes room for a new one."""


@contextmanager
def draft_of(path: Path, *, parents: bool = True, within: Path | None = None) -> Iterator[Path]:
    """A path beside `path` to be written to; it takes the place of `path` when the body ends well.

    A reader finds the old file or the new one, after a crash of the machine too. Folders above are
    made, unless `parents` says that they have to be there. If the body raises, the old file stays
    and nothing is left of the draft. An `OSError` names `path`.

    With `within`, a folder of this writer alone on the same file system, the draft lies there: once
    another process has removed that folder, the draft cannot take its place any more.
    """
    draft = _hidden(path, DRAFT) if within is None else within / path.name
    with naming(path, draft), _draft(path, draft, Path.touch, parents=parents):
        yield draft
        _sync(draft)
        os.replace(draft, path)


@contextmanager
def folder_draft_of(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder beside `folder` to be filled; it takes its place when the body ends well.

    A reader finds what was there or the new folder, whole. On file systems that cannot exchange two
    folders in one step (NFS, Lustre) there is a moment without either: if the process is killed
    just then, the next draft puts the old folder back. If the body raises, the old one stays. A
    link is followed.

    Raises:
        OSError: If the folder cannot be written; names `folder`. FileExistsError if it holds
            something and is not to be replaced.
    """
    place = Path(os.path.realpath(folder))
    draft = _hidden(place, DRAFT)
    with naming(folder, draft), _draft(place, draft, _empty, parents=True):
        yield draft
        for path in draft.rglob("*"):
            _sync(path)
        _take_place(draft, place, replace=replace)


@contextmanager
def naming(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Have the body's `OSError` name `path`, if it names nothing, or the draft."""
    try:
        yield
    except OSError as error:
        nameless = error.filename is None or Path(os.fsdecode(error.filename)) == draft
        if error.errno is None or not nameless:
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error


@contextmanager
def _draft(
    place: Path, draft: Path, make: Callable[[Path], None], *, parents: bool
) -> Iterator[None]:
    if parents:
        place.parent.mkdir(parents=True, exist_ok=True)
    try:
        make(draft)
        _clear(place, draft)
        yield
    finally:
        _remove(draft)


def _hidden(path: Path, ending: str) -> Path:
    # Its own for each process: a worker given up for lost may come back and write too.
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{ending}")


def _empty(draft: Path) -> None:
    _remove(draft)  # of a dead process with the same number
    draft.mkdir()


def _sync(path: Path) -> None:
    """Have the bytes on the disk: a name must never point at some that a crash can lose."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _take_place(draft: Path, place: Path, *, replace: bool) -> None:
    """Rename the draft; afterwards the old folder is in the draft's place or gone."""
    aside = _hidden(place, ASIDE)
    while True:
        try:
            os.rename(draft, place)  # over an empty folder too
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                if aside.exists():
                    os.rename(aside, place)
                raise
            if not replace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place) from None
        try:
            _exchange(draft, place)
            return
        except NotImplementedError:
            _remove(aside)
            with contextlib.suppress(FileNotFoundError):  # another process makes room as well
                os.rename(place, aside)
        except FileNotFoundError:
            pass  # another process had set it aside for a moment
    if aside.exists():
        os.rename(aside, draft)  # to be removed: what has the other ending is always whole


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change places in one step.

    Raises:
        NotImplementedError: If system or file system cannot.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux's
    if rename is None:
        raise NotImplementedError
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange):
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV):
            raise NotImplementedError
        raise OSError(number, os.strerror(number), os.fspath(other))


def _clear(place: Path, draft: Path) -> None:
    """Remove what dead processes left; a folder set aside from an empty place is put back."""
    now_s = draft.stat().st_mtime  # the draft is new: its time is the file server's
    for left in place.parent.glob(f".{glob.escape(place.name)}.*"):
        if left == draft or left.suffix not in (DRAFT, ASIDE) or _is_written(left, now_s):
            continue
        if left.suffix == ASIDE and not os.path.lexists(place):
            os.rename(left, place)
        else:
            _remove(left)


def _is_written(draft: Path, now_s: float) -> bool:
    """Whether a process may still be at it: looked up on this host, else told by its last write."""
    host, _, pid = draft.stem.rpartition(".")
    if host.endswith(f".{socket.gethostname()}") and pid.isdecimal() and not _runs(int(pid)):
        return False
    times = [0.0]  # of a draft that has just gone
    within = [Path(root, name) for root, _, names in os.walk(draft) for name in names]
    for path in (draft, *within):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return now_s - max(times) < SILENT_S


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
