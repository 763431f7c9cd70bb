"""Servers that the tests start for themselves: in the foreground, ended by their own pid.

The pid and the start time of each are in `NAME.pid` beside its output, for whoever has to clear up
after a test session that was killed.
"""

import os
import shutil
import signal
import socket
import subprocess
import time

import psutil
import pytest

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/bin", "/bin"])
"""Debian keeps daemons where only root looks."""


def need(commands):
    """Skip the test where a command is missing, naming the packages; fail it where CI is set.

    Args:
        commands: Debian package of each command.
    """
    missing = {package for command, package in commands.items() if not which(command)}
    if missing:
        words = " ".join(sorted(missing))
        lack(f"apt-get install --no-install-recommends {words}")


def need_root():
    if os.geteuid() != 0:
        lack("be root")


def lack(remedy):
    """Skip the test; fail it where CI is set, which has all that the tests need."""
    reason = f"to run this: {remedy}"
    pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def which(command):
    return shutil.which(command, path=PATH)


def free_ports(count):
    """So many TCP ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Daemon:
    """One server, from its start to its end."""

    def __init__(self, name, command, *, folder, environment=None, user=None):
        self.name = name
        self.output = folder / f"{name}.out"
        self._record = folder / f"{name}.pid"
        other = {"user": user, "group": user, "extra_groups": []} if user else {}
        # Where the limit is a thousand million, as in some containers, they close that many files.
        limits = ["prlimit", "--nofile=8192:8192", "--core=0"]
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [*limits, *map(str, command)],
                cwd="/",
                env={**os.environ, "PATH": PATH, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the tests, which then end it in order
                **other,
            )
        started = psutil.Process(self._process.pid).create_time()
        self._record.write_text(f"{self._process.pid} {started}\n")

    @property
    def pid(self):
        return self._process.pid

    @property
    def runs(self):
        return self._process.poll() is None

    def wait_until(self, ready, *, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while not ready():
            said = self.output.read_text(errors="replace")[-2000:]
            assert self.runs, f"{self.name} ended with {self._process.returncode}:\n{said}"
            assert time.monotonic() < deadline, f"{self.name} is not ready:\n{said}"
            time.sleep(0.1)

    def stop(self, how=signal.SIGTERM, *, timeout_s=20):
        """End it; on our own child a pid is not used again before we have waited for it."""
        if self.runs:
            self._process.send_signal(how)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._record.unlink(missing_ok=True)
