"""The cluster and the database server that the tests here share, started when first asked for."""

import shutil
import tempfile
from pathlib import Path

import pytest

from .postgres import Postgres, need_postgres
from .slurm import Slurm, need_slurm


@pytest.fixture(scope="session")
def slurm():
    """A SLURM cluster of four nodes."""
    need_slurm()
    yield from running(Slurm, "hpo-slurm-")


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server."""
    need_postgres()
    yield from running(Postgres, "hpo-postgres-")


def running(kind, prefix):
    # Not in pytest's folders, which other users may not enter and whose names are too long for
    # sockets.
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        server = kind(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
