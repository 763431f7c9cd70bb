"""The data folder of the server: what `hpo db` keeps there beside PostgreSQL's own files.

hpo.json      what `hpo db start` was told last
hpo.conf      the settings that PostgreSQL reads after its own
hpo.url       the address with the password
hpo.machine   the machine that the server was started on; there until it is stopped
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from data_prep.atomic import draft_of, folder_draft_of
from data_prep.errors import InputError
from hpo.server.programs import Programs

SETTINGS, URL_FILE, CONFIGURATION = "hpo.json", "hpo.url", "hpo.conf"
CERTIFICATE, KEY = "server.crt", "server.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the server was told."""

    host: str | None = None
    """The address that it listens on; None for the one that the nodes reach."""
    port: int | None = None
    connections: int = 300
    allow: tuple[str, ...] = ()
    """Addresses and networks that are let in beside this host and the nodes."""


def default_folder() -> Path:
    """Where the data are if nothing else is said."""
    above = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(above, "hpo", "postgres")


def version_of(folder: Path) -> str | None:
    """The PostgreSQL whose data the folder holds; None if it is new.

    Raises:
        InputError: If it holds something else.
    """
    if (folder / SETTINGS).is_file():
        return (folder / "PG_VERSION").read_text().strip()
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} holds what hpo db start did not make: give another --data")
    return None


def make(folder: Path, programs: Programs, settings: Settings) -> None:
    """Make the data, whole or not at all, with the role and the database `hpo`."""
    password = secrets.token_urlsafe(32)
    with contextlib.suppress(FileExistsError), folder_draft_of(folder) as draft:
        # Nobody can log in as its superuser: pg_hba.conf has the role hpo alone.
        words = ("--username=postgres", "--encoding=UTF8", "--locale=C", "--auth=reject")
        programs.run("initdb", "--pgdata", draft, *words, "--no-sync")
        alone = ("--single", "-D", str(draft), "-c", "exit_on_error=true")
        # No password may come into a message.
        quiet = ("-c", "log_min_error_statement=panic", "-c", "password_encryption=scram-sha-256")
        typed = f"create role hpo login password '{password}'\ncreate database hpo owner hpo\n"
        programs.run("postgres", *alone, *quiet, "postgres", typed=typed)
        _certify(draft, programs)
        url = URL.create("postgresql", username="hpo", password=password, database="hpo")
        write_private(draft / URL_FILE, url.render_as_string(hide_password=False))
        with (draft / "postgresql.conf").open("a") as file:
            file.write(f"include '{CONFIGURATION}'\n")
        write_settings(draft, settings)


def _certify(draft: Path, programs: Programs) -> None:
    """Make a certificate, if the programs can encrypt and openssl is there."""
    openssl = shutil.which("openssl")
    asked = ("-D", draft, "-C", "ssl", "-c", "ssl=on")
    if openssl is None or not programs.succeeds("postgres", *asked):
        return
    made = ("-keyout", draft / KEY, "-out", draft / CERTIFICATE)
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    words = ("req", "-x509", *kind, "-days", "36500", "-subj", "/CN=hpo", *made)
    replace(programs, folder=Path(openssl).parent).run("openssl", *words)
    (draft / KEY).chmod(0o600)


def settings_of(folder: Path) -> Settings:
    """What the server was told last; nothing yet where there is none."""
    if not (folder / SETTINGS).is_file():
        return Settings()
    told = json.loads((folder / SETTINGS).read_text())
    return Settings(**{**told, "allow": tuple(told["allow"])})


def write_settings(folder: Path, settings: Settings) -> None:
    """Keep what the server is told."""
    write(folder / SETTINGS, json.dumps(asdict(settings)))


def kept_url(folder: Path) -> URL:
    """The server's address with its password."""
    return make_url((folder / URL_FILE).read_text(encoding="utf-8").strip())


def write(path: Path, text: str) -> None:
    """Write a file, whole."""
    with draft_of(path) as draft:
        draft.write_text(text)


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else could read at any moment, whole."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(number, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(number)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
