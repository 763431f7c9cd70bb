"""A folder with a PostgreSQL of one's own, run by who is not root."""

import json
import os
import pwd
import shutil
import tempfile
from pathlib import Path

import pytest

from hpo.storage.address import url_of
from tests.cluster.postgres import USER, need_postgres


class Own:
    """The commands of `hpo db`, as a user calls them whose home is this folder."""

    def __init__(self, forks, **environment):
        self._forks = forks
        # In memory, where a thousand files are on the disk at once.
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.home = Path(tempfile.mkdtemp(prefix="hpo-own-", dir=place))
        self.home.chmod(0o755)
        self.data, self.file = self.home / "data", self.home / "config" / "hpo" / "storage"
        for folder in (self.home, self.home / "config"):
            folder.mkdir(exist_ok=True)
            if os.geteuid() == 0:
                found = pwd.getpwnam(USER)
                os.chown(folder, found.pw_uid, found.pw_gid)
        above = {"XDG_CONFIG_HOME": self.home / "config", "HOME": self.home}
        self.environment = above | {"HPO_STORAGE_FILE": ""} | environment

    def db(self, command, *words, **options):
        """Run a command of the server on its folder."""
        return self.hpo("db", command, "--data", self.data, *words, **options)

    def hpo(self, *words, user=USER, **options):
        options = {"cwd": self.home, "environment": self.environment, **options}
        return self._forks.hpo(*words, user=user, **options)

    def start(self, *words):
        done = self.db("start", *words)
        assert done.code == 0, done.said
        return done

    def at_once(self, *commands):
        words = [("hpo", "db", *one, "--data", self.data) for one in commands]
        return self._forks.at_once(words, cwd=self.home, user=USER, environment=self.environment)

    @property
    def url(self):
        return url_of(self.file.read_text().strip(), self.home)

    @property
    def port(self):
        """That it keeps while it does not run."""
        return json.loads((self.data / "hpo.json").read_text())["port"]

    def log(self):
        return "".join(path.read_text() for path in (self.data / "log").iterdir())

    def remove(self):
        if self.data.exists():
            self.db("stop")
        shutil.rmtree(self.home)


@pytest.fixture(scope="module")
def own(forks):
    """One that runs at the start of each test that asks for it, on 127.0.0.1."""
    need_postgres()
    place = Own(forks)
    place.start("--host", "127.0.0.1")
    yield place
    place.remove()


@pytest.fixture
def other(forks):
    """A folder with nothing in it yet."""
    need_postgres()
    place = Own(forks)
    yield place
    place.remove()


@pytest.fixture(scope="module")
def raced(forks):
    """A server that two commands made at once, where openssl is not installed; how they ended."""
    need_postgres()
    place = Own(forks, PATH="/nowhere")
    yield place, place.at_once(*2 * [("start", "--host", "127.0.0.1")])
    place.remove()
