"""A real MariaDB server on 127.0.0.1, with its data in a folder of its own."""

import os
import secrets
import signal
import subprocess

import pymysql
from sqlalchemy.engine import URL

from .daemons import PATH, Daemon, free_ports, need, which

USER = "mysql"
"""Whom the server runs as, since it refuses to as root."""


def need_mariadb():
    """Skip, or in CI fail, where MariaDB is not installed."""
    need({"mariadbd": "mariadb-server", "mariadb-install-db": "mariadb-server"})


class MariaDB:
    """A server that can be stopped and started again on the same data and port.

    Args:
        folder: Empty, and with parents that everybody may enter.
    """

    def __init__(self, folder):
        self._folder = folder
        self._port = free_ports(1)[0]
        self._daemon = None
        self._password = f"{secrets.token_hex(12)}@:/%{{}}'"
        for name in ("data", "tmp"):
            (folder / name).mkdir(mode=0o700)
        folder.chmod(0o755)
        words = [
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            f"--tmpdir={folder / 'tmp'}",  # a server empties that of another one as it starts
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ]
        if self._user:
            subprocess.run(["chown", f"{USER}:{USER}", folder / "data", folder / "tmp"], check=True)
            words.append(f"--user={USER}")
        done = subprocess.run(
            [which("mariadb-install-db"), *words],
            env={"PATH": PATH, "HOME": "/tmp"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def _user(self):
        return USER if os.geteuid() == 0 else None

    def start(self):
        settings = {
            "datadir": self._folder / "data",
            "tmpdir": self._folder / "tmp",
            "bind-address": "127.0.0.1",
            "port": self._port,
            "socket": self._folder / "data" / "socket",
            "pid-file": self._folder / "data" / "pid",
            "innodb-flush-log-at-trx-commit": 0,  # a power cut is not tested
            "innodb-buffer-pool-size": "64M",
            "max-connections": 100,
        }
        words = [f"--{name}={value}" for name, value in settings.items()]
        self._daemon = Daemon(
            "mariadbd",
            [which("mariadbd"), "--no-defaults", "--skip-name-resolve", *words],
            folder=self._folder,
            user=self._user,
        )
        self._daemon.wait_until(self._ready)
        self.ask(f"create user if not exists hpo@'127.0.0.1' identified by {self._password!r}")

    def create(self, database):
        """Make an empty database and give back its URL."""
        self.ask(f"create database {database}")
        self.ask(f"grant all on {database}.* to hpo@'127.0.0.1'")
        url = URL.create(
            "mariadb",
            username="hpo",
            password=self._password,
            host="127.0.0.1",
            port=self._port,
            database=database,
        )
        return url.render_as_string(hide_password=False)

    def stop(self, how=signal.SIGTERM):
        """End the server, which breaks all connections off."""
        if self._daemon is not None:
            self._daemon.stop(how)

    def ask(self, statement):
        """The first value of a statement's answer, as the server's superuser."""
        with pymysql.connect(host="127.0.0.1", port=self._port, user="root") as connection:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                row = cursor.fetchone()
            connection.commit()
        return row and row[0]

    def _ready(self):
        try:
            self.ask("select 1")
        except pymysql.OperationalError:
            return False
        return True
