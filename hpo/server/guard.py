"""One server on the data, wherever their folder is seen.

PostgreSQL's own guard, `postmaster.pid`, names a process of some machine. On a shared file system
another machine takes it for dead, and two servers on the same data destroy them. So the folder says
on which machine the server was started, in a link: one is made whole, or not if it is there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from pathlib import Path

import psutil

from data_prep.errors import InputError
from hpo.queue.leases import this_machine

MACHINE, PROCESS = "hpo.machine", "postmaster.pid"
NAMELESS = ("localhost", "localhost.localdomain")
"""Names that many hosts have."""
RECHECK_S = 75.0
"""A server looks every minute whether `postmaster.pid` is still its own, and ends if not."""


def claim(folder: Path, *, takeover: bool = False) -> bool:
    """Say that the server is this machine's; False if it was before.

    Args:
        folder: Of the data.
        takeover: Whether another machine's server is known to be gone.

    Raises:
        InputError: If it is another machine's, and was not stopped there.
    """
    if host := elsewhere(folder):
        if not takeover:
            raise InputError(
                f"the server of {folder} was started on {host} and not stopped there: run "
                f"hpo db start or hpo db stop on {host}; if it is gone for good, run "
                "hpo db start --takeover here"
            )
        _take_over(folder)
    place = folder / MACHINE
    try:
        os.symlink(this_machine(), place)
        return True
    except FileExistsError:
        if host := elsewhere(folder):  # it was quicker
            raise InputError(f"the server of {folder} is being started on {host}") from None
    if os.readlink(place) != this_machine():  # of this machine, before it was booted
        draft = place.with_name(f".{MACHINE}.{secrets.token_hex(4)}")
        os.symlink(this_machine(), draft)
        os.replace(draft, place)
    return False


def release(folder: Path) -> None:
    """Say that no server uses the data."""
    (folder / MACHINE).unlink(missing_ok=True)


def host_of(folder: Path) -> str | None:
    """The host of the machine whose server is said to use the data."""
    try:
        return _host(os.readlink(folder / MACHINE))
    except FileNotFoundError:
        return None


def elsewhere(folder: Path) -> str | None:
    """The host of another machine whose server uses the data; None if it is none or this one's."""
    try:
        theirs = os.readlink(folder / MACHINE)
    except FileNotFoundError:
        return None
    mine, host = this_machine(), _host(theirs)
    alike = host == socket.gethostname()
    rebooted = alike and host not in NAMELESS and theirs.split(":")[0] != mine.split(":")[0]
    if theirs == mine or rebooted:
        return None
    return f"another machine called {host}" if alike else host


def _host(machine: str) -> str:
    return machine.split(":", 2)[2]


def process_of(folder: Path) -> int | None:
    """The server's process on this machine; None if it does not run.

    A process id that a crashed server left may be another process's of the same user by now. Then
    PostgreSQL would not start, so the file is put away.
    """
    place = folder / PROCESS
    try:
        text = place.read_text()
    except FileNotFoundError:
        return None
    if not text.strip():
        return None  # just being written
    number = int(text.split("\n")[0])
    try:
        if psutil.Process(number).cwd() == os.path.realpath(folder):
            return number
    except psutil.ZombieProcess:
        pass
    except psutil.Error:
        return None  # gone, or another user's: PostgreSQL knows that
    aside = place.with_name(f".{PROCESS}.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(place, aside)  # of two commands only one finds it
        if aside.read_text() != text:
            os.rename(aside, place)  # of a server that has just been started
        aside.unlink(missing_ok=True)
    return None


def is_ready(folder: Path) -> bool:
    """Whether the server takes connections, as it says in the last line of its file."""
    try:
        lines = (folder / PROCESS).read_text().split("\n")
    except FileNotFoundError:
        return False
    return "ready" in "".join(lines[7:8])


def _take_over(folder: Path) -> None:
    """Make room, and give a server that runs in spite of it the time to notice."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / PROCESS)
        time.sleep(RECHECK_S)
    aside = folder / f".{MACHINE}.{secrets.token_hex(4)}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder / MACHINE, aside)
        aside.unlink()
