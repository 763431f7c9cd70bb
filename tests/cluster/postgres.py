"""A real PostgreSQL server on 127.0.0.1, with its data in a folder of its own."""

import glob
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

from sqlalchemy.engine import URL

from .daemons import PATH, Daemon, free_ports, need, which

USER = "postgres"
"""Whom the server runs as, since it refuses to as root."""


def binaries():
    """Folder of the newest version's programs, which Debian keeps off the PATH."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
    elsewhere = which("initdb")
    return Path(found[-1]) if found else Path(elsewhere).parent if elsewhere else None


def need_postgres():
    """Skip, or in CI fail, where PostgreSQL is not installed."""
    if not (found := binaries()) or not (found / "initdb").exists():
        need({"initdb": "postgresql"})


class Postgres:
    """A server that can be stopped and started again on the same data and port.

    Args:
        folder: Empty, and with parents that everybody may enter.
        max_connections: The server's own default.
    """

    def __init__(self, folder, *, max_connections=100):
        self._folder = folder
        self._max_connections = max_connections
        self._port = free_ports(1)[0]
        self._daemon = None
        self.secret = secrets.token_hex(12)
        """Part of the password that is the same whichever way a URL spells the rest."""
        self._password = f"{self.secret}@:/%{{}}'"
        (folder / "socket").mkdir()
        (folder / "data").mkdir(mode=0o700)
        folder.chmod(0o755)
        if self._user:
            for name in ("socket", "data"):
                subprocess.run(["chown", f"{USER}:{USER}", folder / name], check=True)
        self._run(
            "initdb",
            f"--pgdata={folder / 'data'}",
            f"--username={USER}",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--no-sync",
        )

    @property
    def _user(self):
        return USER if os.geteuid() == 0 else None

    def url(self, database="hpo"):
        """Of a database of this server, with the password."""
        url = URL.create(
            "postgresql",
            username="hpo",
            password=self._password,
            host="127.0.0.1",
            port=self._port,
            database=database,
        )
        return url.render_as_string(hide_password=False)

    def start(self):
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self._port,
            "unix_socket_directories": self._folder / "socket",
            "max_connections": self._max_connections,
            "fsync": "off",  # a power cut is not tested
            "logging_collector": "off",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._daemon = Daemon(
            "postgres",
            [binaries() / "postgres", "-D", self._folder / "data", *words],
            folder=self._folder,
            environment={"LC_ALL": "C.UTF-8"},
            user=self._user,
        )
        self._daemon.wait_until(self._ready)
        if not self.ask("select 1 from pg_roles where rolname = 'hpo'"):
            password = self._password.replace("'", "''")
            self.ask(f"create role hpo login password '{password}'")
            self.create("hpo")

    def create(self, database):
        """Make an empty database and give back its URL."""
        self.ask(f"create database {database} owner hpo")
        return self.url(database)

    def stop(self, how=signal.SIGINT):
        """End the server; SIGINT breaks all connections off first, SIGQUIT is as a crash."""
        if self._daemon is not None:
            self._daemon.stop(how)

    def restart(self, *, away_s=0.0):
        """Stop the server and start it again on the same data and port."""
        self.stop()
        time.sleep(away_s)
        self.start()

    def ask(self, statement, *, database="postgres"):
        """What `psql` prints for a statement, as the server's superuser."""
        return self._psql(f"--dbname={database}", "-c", statement).strip()

    def backup(self, database, file):
        """Write what is in a database now."""
        file.write_text(self._run("pg_dump", *self._here, database))

    def restore(self, database, file):
        """Put a backup in the place of a database, whoever is connected to it."""
        self.ask(f"drop database {database} with (force)")
        self.create(database)
        self._psql(f"--dbname={database}", said=file.read_text())

    def _psql(self, *words, said=""):
        fixed = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]
        return self._run("psql", *fixed, *self._here, *words, said=said)

    def _ready(self):
        command = [binaries() / "pg_isready", "--quiet", *self._here]
        return subprocess.run(command, check=False).returncode == 0

    @property
    def _here(self):
        socket = self._folder / "socket"
        return [f"--host={socket}", f"--port={self._port}", f"--username={USER}"]

    def _run(self, program, *words, said=""):
        other = {"user": USER, "group": USER, "extra_groups": []} if self._user else {}
        done = subprocess.run(
            [binaries() / program, *words],
            cwd="/",
            env={"PATH": PATH, "HOME": "/tmp", "LC_ALL": "C.UTF-8"},
            input=said,
            capture_output=True,
            text=True,
            check=False,
            **other,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
