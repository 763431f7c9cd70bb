"""Optuna-dashboard's application on a database, and the studies' numbers in its addresses.

It only reads. `hpo.execution.optuna_note` writes the notes that it shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, get_storage
from sqlalchemy.exc import SQLAlchemyError

from data_prep.dataset import located

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from hpo.study.status import StudyStatus


def wsgi(storage: RDBStorage) -> WSGIApplication:
    """optuna-dashboard on the database, which keeps the trials that ended in memory."""
    import optuna_dashboard

    application: WSGIApplication = optuna_dashboard.wsgi(get_storage(storage))
    return application


def studies(storage: RDBStorage) -> dict[str, int]:
    """The studies' numbers in optuna-dashboard's addresses, by name."""
    return {one.study_name: one._study_id for one in storage.get_all_studies()}


def progress(storage: RDBStorage, runs: Path) -> list[StudyStatus]:
    """How the studies stand of which trials run or wait; those of other programs are passed over.

    `runs` is the folder of the runs. A database that does not answer tells nothing: the runs' own
    files are shown.
    """
    from hpo.study.place import PlaceError, folder_of
    from hpo.study.spec import SpecError
    from hpo.study.status import Records, status_of
    from hpo.study.study import load_study, slots_of

    def of(name: str) -> StudyStatus | None:
        try:
            study, spec = load_study(storage, name)
            records = Records(folder_of(storage, study, runs))
        except (SpecError, PlaceError):
            return None
        return status_of(study, spec, slots_of(study, spec).look(), records)

    try:
        found = [each for name in studies(storage) if (each := of(name)) is not None]
    except (SQLAlchemyError, StorageInternalError):
        return []
    return [each for each in found if each.running or each.waiting]


def data_folders(storage: RDBStorage, runs: Path) -> list[Path]:
    """Folders of the data that the database's studies were launched on; some may be gone.

    `runs` is the folder of the runs, which may have been moved together with the data.
    """
    from hpo.study.study import DATA_ATTRIBUTE, SPEC_ATTRIBUTE

    stored = [one.user_attrs for one in storage.get_all_studies()]
    known = [
        (Path(json.loads(each[SPEC_ATTRIBUTE])["data"]["path"]), each[DATA_ATTRIBUTE])
        for each in stored
        if SPEC_ATTRIBUTE in each
    ]
    near = runs.absolute()
    return list(dict.fromkeys(located(*one, near) for one in known if one[0].is_absolute()))
