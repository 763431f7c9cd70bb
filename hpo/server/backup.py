"""A copy of the database in a file, made while workers run, and brought back from there.

Of a SQLite file by SQLite's own backup, of PostgreSQL by its `pg_dump` and `psql`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from data_prep.atomic import draft_of
from data_prep.errors import InputError
from hpo.server.programs import find_client
from hpo.storage.address import StorageError, masked
from hpo.storage.open import answering
from hpo.storage.sqlite import copy

SQLITE, POSTGRESQL = b"SQLite format 3\0", b"PGDMP"
"""How a file of each begins."""


def back_up(url: URL, file: Path) -> None:
    """Copy the database into the file, whole or not at all.

    Raises:
        StorageError: If it does not answer, or is of another kind.
        InputError: If PostgreSQL's programs are not here.
        ServerError: If they fail.
    """
    kind = _kind(url)
    major = _server_version(url) if kind == POSTGRESQL else ""
    with draft_of(file) as draft:
        draft.chmod(0o600)
        if kind == SQLITE:
            copy(Path(str(url.database)), draft)
        else:
            programs = find_client(major, "pg_dump")
            programs.run("pg_dump", "--format=custom", "--file", draft, environment=_login(url))


def restore(url: URL, file: Path, *, overwrite: bool) -> None:
    """Bring back what the file holds, whole or not at all.

    Args:
        url: Of the database.
        file: As `back_up` wrote it.
        overwrite: Whether studies that are there are replaced.

    Raises:
        InputError: If the database holds studies, the file is of another kind of database, or
            PostgreSQL's programs are not here.
        StorageError: If the database does not answer.
        ServerError: If the programs fail.
    """
    kind = _kind(url)
    _refuse_other(file, kind, url)
    studies = _studies(url)
    if studies and not overwrite:
        raise InputError(
            f"{masked(url)} holds {studies} studies, which would be replaced: give --overwrite if "
            "that is meant, while no worker runs"
        )
    if kind == SQLITE:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        copy(file, Path(str(url.database)))
        return
    _replace(url, file)


def _replace(url: URL, file: Path) -> None:
    """Run the file as one transaction, in which our tables of a later version go as well."""
    programs = find_client(_server_version(url), "psql", "pg_restore")
    words = ("--clean", "--if-exists", "--no-owner", "--no-privileges", "--file=-")
    script = programs.run("pg_restore", *words, file)
    with _connected(url) as connection:
        ours = [one for one in inspect(connection).get_table_names() if one.startswith("hpo_")]
    drops = "".join(f'drop table "{one}" cascade;\n' for one in ours)
    strict = ("--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1")
    programs.run("psql", *strict, "--file=-", typed=drops + script, environment=_login(url))


def _kind(url: URL) -> bytes:
    kinds = {"sqlite": SQLITE, "postgresql": POSTGRESQL}
    found = kinds.get(url.get_backend_name())
    if found is None or (found == SQLITE and not url.database):
        raise StorageError(
            f"{masked(url)} is not copied by hpo: use the programs of its own, as mysqldump"
        )
    return found


def _refuse_other(file: Path, kind: bytes, url: URL) -> None:
    with file.open("rb") as opened:
        if opened.read(16).startswith(kind):
            return
    wanted = "a SQLite" if kind == SQLITE else "a PostgreSQL"
    raise InputError(
        f"{file} is no copy of {wanted} database, as {masked(url)} is: give one that hpo db backup "
        "made of such a database"
    )


def _studies(url: URL) -> int:
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        return 0
    with _connected(url) as connection:
        if not inspect(connection).has_table("studies"):
            return 0
        return int(connection.exec_driver_sql("select count(*) from studies").scalar() or 0)


def _server_version(url: URL) -> str:
    """The server's major version."""
    with _connected(url) as connection:
        version = connection.exec_driver_sql("show server_version_num").scalar()
    return str(int(str(version)) // 10_000)


@contextmanager
def _connected(url: URL) -> Iterator[Connection]:
    with answering(url), create_engine(url, poolclass=NullPool).connect() as connection:
        yield connection


def _login(url: URL) -> dict[str, str]:
    """How PostgreSQL's programs log in: in the environment, since anyone reads a command line."""
    from psycopg.pq import Conninfo

    _, given = create_engine(url).dialect.create_connect_args(url)
    names = {one.keyword.decode(): one.envvar for one in Conninfo.get_defaults()}
    return {
        str(variable.decode()): str(given[word])
        for word, variable in names.items()
        if variable and word in given
    }
