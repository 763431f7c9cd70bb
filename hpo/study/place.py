"""Where the folder of a study's trials is: as `--runs` says, beside the database, as it was stored.

A project is moved or copied, with its database or without, so no path is believed: a folder is the
study's where trials or workers of it are. The next launch stores where it is now.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL

from data_prep.errors import InputError
from hpo.queue.trials import TrialReader
from hpo.storage.address import RUNS, StorageError
from hpo.storage.open import open_storage

RUNS_ATTRIBUTE = "hpo:runs"
DATABASE_ATTRIBUTE = "hpo:database"
"""The folder of a SQLite file when `RUNS_ATTRIBUTE` was stored: the two may be moved together."""
WORKERS = "workers"
"""The folder within that of a study in which submitit keeps its workers' pickles and output."""


class PlaceError(InputError):
    """A study whose folder is not where it should be. The message says where it was looked for."""

    def __init__(self, message: str, folder: Path, *, lost: bool) -> None:
        super().__init__(message)
        self.folder = folder
        """The study's: where it is, or should be if it is lost."""
        self.lost = lost


def folder_of(storage: RDBStorage, study: optuna.Study, told: Path | None) -> Path:
    """The folder of the study's trials, which is not there yet if none has begun.

    Args:
        storage: The study's database.
        study: As it was opened.
        told: The folder of all runs as `--runs` says it; None where it says nothing.

    Raises:
        PlaceError: If trials have begun and their folder is nowhere, or not in the one told.
    """
    name = study.study_name
    looked = places(storage, study, told)
    folder = next((one / name for one in looked if holds(one / name)), None)
    if folder and told and folder.parent != looked[0]:
        raise PlaceError(
            f"{looked[0]} has no folder of the study {name!r}, which is in {folder.parent}: leave "
            "--runs out, or move the folder there",
            folder,
            lost=False,
        )
    if folder:
        return folder
    if not any(one.began for one in TrialReader(study).look().trials):
        stored = _stored(storage.engine.url, study.user_attrs)
        there = next((one for one in stored if one.is_dir()), RUNS.absolute())
        return (looked[0] if told else there) / name
    raise PlaceError(
        f"the folder of the study {name!r} is not in {' or '.join(map(str, looked))}: bring it "
        "back (is its disk mounted?), or name the folder that it is in now by --runs; if it is "
        f"lost, mkdir -p {looked[-1] / name / WORKERS} goes on without what it held",
        looked[-1] / name,
        lost=True,
    )


def places(storage: RDBStorage, study: optuna.Study, told: Path | None) -> list[Path]:
    """The folders of all runs in which that of the study is looked for, in this order."""
    url = storage.engine.url
    first = (told and told.absolute(), _folder_of_file(url))
    every = [*first, *_stored(url, study.user_attrs)]
    return list(dict.fromkeys(one for one in every if one))


def runs_of_launch(url: URL, name: str, told: Path | None) -> Path:
    """The folder of all runs for a launch of a study, which may be new; PlaceError as above."""
    try:
        storage = open_storage(url, reading=True, retrying=False)
    except StorageError:  # none yet; any other fault is told by the launch, with all others
        return (told or RUNS).absolute()
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        return folder_of(storage, study, told).parent
    except KeyError:
        return (told or RUNS).absolute()
    finally:
        storage.engine.dispose()


def holds(folder: Path) -> bool:
    """Whether it is the folder of a study; it may be anything that has the name of one."""
    return (folder / WORKERS).is_dir() or any(folder.glob("trial-*"))


def store_place(storage: RDBStorage, study: optuna.Study, runs: Path) -> None:
    """Remember where the study's runs are."""
    here = {DATABASE_ATTRIBUTE: _folder_of_file(storage.engine.url), RUNS_ATTRIBUTE: runs}
    before = study.user_attrs
    for key, folder in here.items():
        if folder and before.get(key) != str(folder):
            study.set_user_attr(key, str(folder))


def _stored(url: URL, attributes: Mapping[str, Any]) -> list[Path]:
    """Where the runs are by what is stored: as far from the SQLite file as they were, or there."""
    runs = Path(attributes.get(RUNS_ATTRIBUTE, RUNS)).absolute()
    was, now = attributes.get(DATABASE_ATTRIBUTE), _folder_of_file(url)
    if was is None or now is None:
        return [runs]
    return [Path(os.path.normpath(now / os.path.relpath(runs, was))), runs]


def _folder_of_file(url: URL) -> Path | None:
    """The folder of a SQLite file; None for a server."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    return Path(url.database).absolute().parent
