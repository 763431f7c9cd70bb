"""The address of a study's database: a URL that may carry a password.

It travels in the environment, or in a file that only its owner can read, and is shown masked.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from data_prep.errors import InputError
from hpo.storage import filesystem

VARIABLE = "HPO_STORAGE"
FILE_VARIABLE = "HPO_STORAGE_FILE"
"""Names a file that holds the URL, so that no password is in the environment."""
RUNS = Path("runs")
"""The folder of all runs, unless `--runs` says another one."""


class StorageError(InputError):
    """A database that cannot be used. The message shows its URL without the password."""


def default_file() -> Path:
    """The file that is read where `HPO_STORAGE_FILE` names none.

    `hpo db start` makes it, and `hpo db stop` removes it.
    """
    above = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(above, "hpo", "storage")


def named(option: str | None) -> str | None:
    """The URL that the option, `HPO_STORAGE` or the file of `HPO_STORAGE_FILE` gives, if one does.

    Raises:
        StorageError: If others can read the file, or it is named and not there.
    """
    return option or os.environ.get(VARIABLE) or _text_of_file()


def url_of(option: str | None, runs: Path | None) -> URL:
    """The database that is `named`, else `hpo.db` in the runs folder, `RUNS` where none was told.

    Raises:
        StorageError: If it is not a URL of a database that SQLAlchemy knows, or others can read
            the file.
    """
    text = named(option)
    if not text:
        return URL.create("sqlite", database=str((runs or RUNS).absolute() / "hpo.db"))
    try:
        url = make_url(text)
        wrong = "@" in (url.host or "")  # then it would be part of a password
    except (ArgumentError, ValueError):  # whose own text would show the password
        wrong = True
    if wrong:
        raise StorageError(
            "the storage is not a database URL: write it as sqlite:///runs/hpo.db or "
            "postgresql://user@host/database, with %40 for @, %3A for : and %2F for / in a password"
        )
    if url.drivername in _DRIVERS:
        url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).absolute()))
    return url


def masked(url: URL) -> str:
    """The URL as it may be shown: no password, and nothing of the query, which can hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


def hand_down(url: URL) -> None:
    """Put the URL into the environment, for worker processes, or the file that has it."""
    text = _text_of_file()
    if VARIABLE in os.environ or text is None or url != url_of(text, Path()):
        os.environ[VARIABLE] = url.render_as_string(hide_password=False)
    elif not os.environ.get(FILE_VARIABLE):
        if filesystem.is_network(filesystem.kind_of(default_file())):  # nodes see it, too
            os.environ[FILE_VARIABLE] = str(default_file())
        else:
            os.environ[VARIABLE] = url.render_as_string(hide_password=False)


def is_own(url: URL) -> bool:
    """Whether it is of the server that `hpo db start` runs."""
    file = default_file()
    return os.path.isfile(file) and url == url_of(_text_of(file), None)


def way_out(url: URL) -> str:
    """The end of a sentence about a database that does not answer, if one knows the way out."""
    return f": run hpo db start on {url.host}" if is_own(url) else ""


_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
"""The drivers that are extras of ours."""


def _text_of_file() -> str | None:
    if file := os.environ.get(FILE_VARIABLE):
        return _text_of(Path(file))
    return _text_of(default_file()) if os.path.isfile(default_file()) else None


def _text_of(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path == default_file():
            raise StorageError(
                f"the server that {path} named is stopped: run hpo db start"
            ) from None
        raise StorageError(f"{FILE_VARIABLE}: {path}: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StorageError(f"{FILE_VARIABLE}: others can read {path}: run chmod 600 {path}")
    return text
