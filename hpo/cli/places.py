"""Which study, and which database, the words on a command line mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


def study_name(reference: str) -> str:
    """A study by its name, or by the file that defines it."""
    if Path(reference).suffix == ".toml":
        from hpo.study.spec import load

        return load(reference).study.name
    return reference


def existing(url: URL) -> URL:
    """The URL, unless it is of a SQLite file that is not there: looking must not make one."""
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise InputError(
            f"there is no study database {url.database}: run hpo launch first, or give --runs or "
            "--storage"
        )
    return url


def prepared(reference: str) -> Path:
    """Folder of a prepared dataset; `sample` is the shipped one."""
    from data_prep.dataset import SAMPLE

    return SAMPLE if reference == "sample" else Path(reference)
