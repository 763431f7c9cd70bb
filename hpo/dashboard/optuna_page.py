"""Optuna-dashboard's application on a database, and the studies' numbers in its addresses.

It only reads. `hpo.execution.optuna_note` writes the notes that it shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.storages import RDBStorage, get_storage

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def wsgi(storage: RDBStorage) -> WSGIApplication:
    """optuna-dashboard on the database, which keeps the trials that ended in memory."""
    import optuna_dashboard

    application: WSGIApplication = optuna_dashboard.wsgi(get_storage(storage))
    return application


def studies(storage: RDBStorage) -> dict[str, int]:
    """The studies' numbers in optuna-dashboard's addresses, by name."""
    return {one.study_name: one._study_id for one in storage.get_all_studies()}


def data_folders(storage: RDBStorage) -> list[Path]:
    """Folders of the data that the database's studies were launched on; some may be gone."""
    from hpo.study.study import SPEC_ATTRIBUTE

    stored = [one.user_attrs.get(SPEC_ATTRIBUTE) for one in storage.get_all_studies()]
    paths = [Path(json.loads(text)["data"]["path"]) for text in stored if text]
    return [path for path in dict.fromkeys(paths) if path.is_absolute()]
