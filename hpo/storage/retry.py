"""Retries while a database is away: a restarted server costs seconds, not trials.

Every transaction of ours and of Optuna's goes through `retried`. A retried transaction must be safe
to run twice: its commit may have come through although its answer did not.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    TimeoutError,
)

from data_prep.errors import REMEDIES, first_line

LONGEST_OUTAGE_S = 600.0
"""How long a server may be away."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
LONGEST_CONFLICT_PAUSE_S = 0.5
"""Longest pause after a deadlock: the server is there, and a longer one loses to busy workers."""

_CONFLICTS = frozenset({1205, 1213, "40001", "40P01"})
"""MySQL's and PostgreSQL's codes of a transaction that was given up for another one."""

_DISK_FAULTS = ("disk is full", "readonly database", "disk I/O error", "unable to open database")
"""How SQLite says it: https://sqlite.org/rescode.html"""

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger("hpo.storage.retry")


def transient(error: BaseException) -> bool:
    """Whether the database was away or busy, so that a later try may succeed."""
    if isinstance(error, StorageInternalError) and error.__cause__:
        error = error.__cause__
    # The pool's; and Optuna's of a lost connection, when it asks another time on it.
    if isinstance(error, (TimeoutError, PendingRollbackError)):
        return True
    if not isinstance(error, DBAPIError):
        return _of_a_driver(error)
    if "sqlite" in type(error.orig).__module__:
        return "locked" in str(error.orig) or "busy" in str(error.orig)
    return error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))


def _of_a_driver(error: BaseException) -> bool:
    """Whether a server's driver lost its connection: SQLAlchemy does not wrap the errors of setting
    a connection's isolation level.

    Source:
        PEP 249: the names of a driver's exceptions.
    """
    names = {each.__name__ for each in type(error).__mro__ if "sqlite" not in each.__module__}
    return not names.isdisjoint(("OperationalError", "InterfaceError"))


def conflicted(error: BaseException) -> bool:
    """Whether a server gave the transaction up for the sake of another one."""
    if isinstance(error, StorageInternalError) and error.__cause__:
        error = error.__cause__
    driver = error.orig if isinstance(error, DBAPIError) else None
    codes = (getattr(driver, "sqlstate", None), *getattr(driver, "args", ())[:1])
    return not _CONFLICTS.isdisjoint(codes)


def clashed(error: DBAPIError) -> bool:
    """Whether another process made the same table or row at the same moment (optuna#4621)."""
    return any(word in str(error.orig).lower() for word in ("exist", "unique", "duplicate"))


def of_disk(error: BaseException) -> bool:
    """Whether a disk is full or cannot be written: a disk of the runs, or of a SQLite file."""
    if isinstance(error, StorageInternalError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, DBAPIError) and "sqlite" in type(error.orig).__module__:
        return any(words in str(error.orig) for words in _DISK_FAULTS)
    return isinstance(error, OSError) and error.errno in REMEDIES


def retried(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called again with growing pauses while the database cannot be reached.

    Its error is raised as it is when the server stays away for `LONGEST_OUTAGE_S`.
    """

    @functools.wraps(function)
    def retrying(*args: P.args, **kwargs: P.kwargs) -> R:
        deadline, pause_s = time.monotonic() + LONGEST_OUTAGE_S, FIRST_PAUSE_S
        while True:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if not transient(error) or time.monotonic() > deadline:
                    raise
                if pause_s == FIRST_PAUSE_S:
                    log.warning("the database is away, trying again: %s", cause(error))
                if conflicted(error):
                    pause_s = min(pause_s, LONGEST_CONFLICT_PAUSE_S)
            # Not all at once: a server that comes back is met by every worker.
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    return retrying


def cause(error: BaseException) -> str:
    """The driver's own message, in a line, without the statement and its values."""
    while error.__cause__ is not None and not isinstance(error, DBAPIError):
        error = error.__cause__
    return first_line(error)
