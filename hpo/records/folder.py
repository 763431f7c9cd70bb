"""A folder of runs: which files in it are records, and what they hold.

Decides by a file's name who reads it: `run.json` is ours (`record`), any other JSON is the thesis's
(`thesis`). Files may be anybody's: links are followed only inside the folder.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from data_prep.dataset import located
from hpo.records import record, thesis
from hpo.records.record import NAME, RecordError, RunRecord, contents

SET_ASIDE = "set-aside"
"""The folder in a study's for what lay in a trial's and was not of it; it is not listed."""

_ENDLESS = re.compile(rb"[0-9]{101}")
"""No measured number, but what no float can hold, or hardly."""


def read(path: Path, *, last_epoch: bool = False) -> RunRecord:
    """The record in a `run.json`, or in a run JSON of the thesis.

    `last_epoch` leaves out all epochs of a `run.json` but the last, which takes a third of the
    time: for lists of many runs.

    Raises:
        RecordError: If the file cannot be read, is not a record, is larger than `LARGEST_JSON`,
            or was written by a newer version. One sentence, naming file and key.
    """
    text = contents(path)
    if _ENDLESS.search(text):
        raise RecordError(f"{path} is not a record: it has a number of over 100 digits")
    if path.name == NAME:
        return record.parse(path, text, last_epoch=last_epoch)
    return thesis.parse(path, text)


def data_found(record: RunRecord, near: Path) -> RunRecord:
    """The record with the folder of its data as it is now; `near` is a folder moved with it."""
    recorded, fingerprint = Path(record.data.path), record.data.fingerprint
    path = located(recorded, fingerprint, near.absolute()) if fingerprint else recorded
    return dataclasses.replace(record, data=dataclasses.replace(record.data, path=str(path)))


Stamp = tuple[int | None, ...]


def stamp(path: Path) -> Stamp:
    """A value that changes when the file does, or comes or goes."""
    try:
        status = os.stat(path)
    except OSError as error:
        return (error.errno,)
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


def read_all(folder: Path) -> list[tuple[Path, RunRecord | RecordError]]:
    """Every record below `folder`, in the order of their paths; for a broken one, its fault.

    Raises:
        RecordError: If `folder` is not a folder.
    """
    root = root_of(folder)
    found: list[tuple[Path, RunRecord | RecordError]] = []
    for path in candidates(folder):
        try:
            found.append((path, read_within(root, path)))
        except RecordError as error:
            found.append((path, error))
    return found


def root_of(folder: Path) -> Path:
    """The folder with its links resolved: nothing outside is read. RecordError if it is none."""
    if not folder.is_dir():
        raise RecordError(f"{folder} is not a folder: give the one that holds the studies' folders")
    return folder.resolve()


def candidates(folder: Path) -> list[Path]:
    """Files below `folder` that may be records, in the order of their paths.

    These are `run.json`, `trial-*/run.json` and `<study>/trial-*/run.json`, and run JSONs of the
    thesis in `folder` itself.
    """
    inside = _inside(folder)
    return [
        *(each for each in inside if each.suffix == ".json" and not each.name.startswith(".")),
        *_of_trials(inside),
        # A hidden one is being deleted.
        *(
            path
            for study in inside
            if study.name[0] != "." and study.name != SET_ASIDE
            for path in _of_trials(_inside(study))
        ),
    ]


def read_within(root: Path, path: Path, *, last_epoch: bool = False) -> RunRecord:
    """As `read`, for a file that has to lie inside of `root`, whatever links lead to it."""
    try:
        if not path.resolve().is_relative_to(root):
            raise RecordError(f"{path} is a link that leads out of {root}: not followed")
    except (OSError, RuntimeError) as error:  # a loop of links
        raise RecordError(f"{path} cannot be read: {error}") from error
    return read(path, last_epoch=last_epoch)


def _inside(folder: Path) -> list[Path]:
    """A folder's contents by name; nothing where it is none, is closed to us or has just gone."""
    # Not Path.glob: a folder that is deleted meanwhile would break off the search of all others.
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _of_trials(folders: list[Path]) -> list[Path]:
    paths = (each / NAME for each in folders if each.name.startswith("trial-"))
    return [path for path in paths if os.path.exists(path)]
