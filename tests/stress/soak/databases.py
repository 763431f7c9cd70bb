"""The soak's database: a PostgreSQL server that is restarted, or a SQLite file that is locked."""

import contextlib
import signal
import sqlite3
import time
from pathlib import Path

import psutil
from sqlalchemy.engine import make_url

from hpo.storage.address import url_of
from tests.cluster.postgres import Postgres


class Server:
    """A PostgreSQL server of its own."""

    ways = ("fast", "immediate")
    """How it is stopped: connections broken off, or as in a crash."""
    harms = "restarts"

    def __init__(self, folder):
        folder.mkdir()
        self._postgres = Postgres(folder)
        self._postgres.start()
        self.url = self._postgres.url()
        # Told apart from the connections that are watched.
        ours = make_url(self.url).update_query_dict({"application_name": "soak"})
        self.our_url = ours.render_as_string(hide_password=False)

    def harm(self, way, seconds):
        """Stop the server in one of the ways, and start it again after so many seconds."""
        self._postgres.stop(signal.SIGQUIT if way == "immediate" else signal.SIGINT)
        time.sleep(seconds)
        self._postgres.start()
        return f"{way} restart of the database"

    def backends(self):
        """The server's processes for the connections of launch and workers."""
        said = self._postgres.ask(
            "select pid from pg_stat_activity where usename = 'hpo' and application_name <> 'soak'"
        )
        found = []
        for pid in said.split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def stop(self):
        self._postgres.stop()


class File:
    """A SQLite file: instead of a restart, another program holds its lock."""

    ways = ("lock",)
    harms = "locks"

    def __init__(self, path):
        self._path = Path(path)
        self.url = f"sqlite:///{self._path}"
        self.our_url = self.url

    def harm(self, way, seconds):
        """Let nobody else write for three times so many seconds."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=60)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(3 * seconds)
            connection.execute("ROLLBACK")
        return f"{way} of the database"

    def backends(self):
        return []

    def stop(self):
        pass


def opened(database):
    """The database's URL as `hpo` takes it, for the soak's own looks."""
    return url_of(database.our_url, Path())
