"""SQLite files: how they are locked, read without being changed, and guarded against removal."""

from __future__ import annotations

import errno
import functools
import os
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import URL

from hpo.storage import filesystem
from hpo.storage.address import StorageError, masked

READING = "hpo_reading"
"""Execution option of a connection whose transactions take no write lock."""


def serialise(engine: Engine, url: URL) -> None:
    """Make every SQLite transaction that may write take its lock as it begins; guard the file.

    Optuna reads before it writes. With SQLite's own, late, lock two workers read the same row and
    the second one fails or overwrites (optuna#4002). A file that was taken away is refused: writes
    to a file without a name are lost.

    Raises:
        FileNotFoundError: In each transaction, if the file is gone or is another one.
    """
    path = url.database or ":memory:"
    shared = filesystem.is_network(filesystem.kind_of(Path(path)))
    file = _identity(path)

    def _refuse_other(*_: Any) -> None:
        if _identity(path) != file:
            told = (
                "the database is gone, or another one was put in its place: bring it back (is its "
                "disk mounted?), then run the same command again"
            )
            raise FileNotFoundError(errno.ENOENT, told, path)

    event.listen(engine, "do_connect", _refuse_other)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        if not shared:  # its index is memory that the processes of one machine share
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        reading = connection.get_execution_options().get(READING)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
        _refuse_other()

    engine.dispose()  # RDBStorage has opened connections before the listeners were there


def reader_options(url: URL) -> dict[str, Any]:
    """Connections to a SQLite file that is not made and not written.

    Raises:
        StorageError: If there is no such file, or SQLite cannot read it.
    """
    path = Path(url.database or "")
    if not path.is_file():
        raise StorageError(f"there is no study database {path}: run hpo launch first")
    connect = functools.partial(_connected_to_read, f"{path.absolute().as_uri()}?mode=rw")
    try:
        try:
            connect().close()
        except sqlite3.Error as error:
            if "readonly" not in str(error) and "unable to open" not in str(error):
                raise
            # A folder in which nothing can be written has no place for the index of the write-ahead
            # log either, without which SQLite only reads a file that it may take for unchanging.
            address = f"{path.absolute().as_uri()}?immutable=1"
            connect = functools.partial(_connected_to_read, address)
            connect().close()
            log = Path(f"{path}-wal")
            recent = " without its latest changes" if log.exists() and log.stat().st_size else ""
            warnings.warn(
                f"{path} is in a folder that cannot be written, so it is shown as it is now"
                f"{recent}: to follow it, look as a user who may write there",
                stacklevel=2,
            )
    except sqlite3.Error as error:
        raise StorageError(f"{masked(url)} cannot be read: {error}") from None
    return {"creator": connect}


def copy(source: Path, target: Path) -> None:
    """Copy a database, while others may write to it, over what the target holds.

    Raises:
        StorageError: If the source cannot be read, or the target cannot be written.
    """
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)) as file:
            with closing(sqlite3.connect(target, timeout=60)) as other:
                file.backup(other)
    except sqlite3.Error as error:
        raise StorageError(f"{source} was not copied to {target}: {error}") from None


def _connected_to_read(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, uri=True, timeout=10, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA query_only=ON")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
