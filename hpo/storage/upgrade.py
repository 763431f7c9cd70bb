"""Optuna's tables brought up to the installed version."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from optuna.storages import RDBStorage
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from hpo.storage.address import StorageError, masked
from hpo.storage.open import engine_options, template
from hpo.storage.retry import cause


def upgrade_tables(url: URL) -> tuple[str, str, Path | None]:
    """Bring Optuna's tables up to the installed version.

    Returns:
        The version before, the one now, and the path of the copy of a SQLite file. A server is not
        copied: its owner uses `pg_dump` or `mysqldump`.

    Raises:
        StorageError: If the database does not answer or cannot be brought up to date.
    """
    copy = None
    try:
        storage = RDBStorage(
            template(url), engine_kwargs=engine_options(url), skip_compatibility_check=True
        )
        before, head = storage.get_current_version(), storage.get_head_version()
        if before != head:
            if url.get_backend_name() == "sqlite" and url.database:
                copy = Path(f"{url.database}.before-upgrade")
                with closing(sqlite3.connect(url.database)) as file:  # while others may write
                    with closing(sqlite3.connect(copy)) as target:
                        file.backup(target)
            storage.upgrade()
    except (SQLAlchemyError, RuntimeError) as error:
        raise StorageError(f"{masked(url)} was not upgraded: {cause(error)}") from None
    return before, storage.get_current_version(), copy
