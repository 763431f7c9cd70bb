"""Starts and stops the server, and tells how it is."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from data_prep.errors import InputError
from hpo.server import guard, network
from hpo.server.folder import (
    CERTIFICATE,
    CONFIGURATION,
    URL_FILE,
    Settings,
    kept_url,
    make,
    settings_of,
    version_of,
    write,
    write_private,
    write_settings,
)
from hpo.server.programs import Programs, ServerError, fault_of, find
from hpo.storage.address import default_file, url_of
from hpo.storage.open import answering
from hpo.storage.retry import cause

DRIVEN = URL.create("postgresql+psycopg")
ANSWER_S = 10
"""Longest wait for the server to take a connection."""
READY_S = 300
"""Longest wait for the server to be ready, or gone: after a crash it repeats what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How the server is."""

    state: str
    """`running`, `stopped`, or `does not answer` and why."""
    host: str | None = None
    """The machine that it was started on."""
    address: str | None = None
    since: str | None = None
    encrypted: bool | None = None
    connections: int | None = None
    """In use, this one among them."""
    allowed: int | None = None
    """Connections that it allows at once."""
    size_mb: float | None = None
    studies: int | None = None
    data: str

    @property
    def runs(self) -> bool:
        return self.state == "running"


def start(folder: Path, *, takeover: bool = False, **changes: Any) -> bool:
    """Start the server, unless it runs; whether it did not. Makes the data if they are not there.

    A server that runs lets in the nodes that the cluster has by now.

    Args:
        folder: Of the data.
        takeover: Whether another machine's server on these data is known to be gone.
        **changes: Fields of `Settings`, which are kept.

    Raises:
        InputError: If this user, this machine or the data are not fit for it.
        ServerError: If PostgreSQL does not start. The message has its reason.
    """
    _refuse_root("start")
    with answering(DRIVEN):
        create_engine(DRIVEN)
    programs = find(version_of(folder))
    _refuse_other(folder)
    settings = replace(settings_of(folder), **changes)
    host, nodes = network.place(settings.host)
    if version_of(folder) is None:
        make(folder, programs, replace(settings, port=network.free_port(host, settings.port)))
        settings = replace(settings_of(folder), **changes)
    new = guard.claim(folder, takeover=takeover)
    runs = guard.process_of(folder) is not None
    if runs:
        _refuse_changes(settings_of(folder), settings)
    _configure(folder, settings, host=host, nodes=nodes)
    try:
        if runs:
            programs.run("pg_ctl", "reload", "-D", folder)
        else:
            _start(folder, programs, host, settings.port)
    except (InputError, ServerError):
        if guard.process_of(folder) is None:
            if new:
                guard.release(folder)
            raise
        runs = True  # another command has just started it
    _wait_for(folder)
    _publish(folder)
    return not runs


def stop(folder: Path) -> bool:
    """Stop the server; whether it ran. Who is connected is cut off.

    Raises:
        InputError: If there is none, or it is another machine's.
        ServerError: If it does not end.
    """
    _refuse_root("stop")
    version = version_of(folder)
    if version is None:
        raise InputError(f"there is no server in {folder}: hpo db start makes one")
    if host := guard.elsewhere(folder):
        raise InputError(f"the server of {folder} was started on {host}: run hpo db stop there")
    runs = guard.process_of(folder) is not None
    if runs:
        programs = find(version)
        programs.run("pg_ctl", "stop", "-D", folder, "-m", "fast", "-w", "-t", str(READY_S))
    if _is_published(folder):
        default_file().unlink()
    guard.release(folder)
    return runs


def state_of(folder: Path) -> State:
    """How the server is, seen from any machine that sees its folder.

    Raises:
        InputError: If there is none.
    """
    if version_of(folder) is None:
        raise InputError(f"there is no server in {folder}: hpo db start makes one")
    host = guard.host_of(folder)
    if host is None:
        return State(state="stopped", data=str(folder))
    url = url_of(kept_url(folder).render_as_string(hide_password=False), folder)
    state = State(state="running", host=host, address=_address(url), data=str(folder))
    wait = {"connect_timeout": ANSWER_S}
    try:
        with create_engine(url, connect_args=wait, poolclass=NullPool).connect() as connection:
            row = connection.exec_driver_sql(_QUESTION).mappings().one()
            counted = "select count(*) from studies" if row["has_studies"] else "select 0"
            studies = connection.exec_driver_sql(counted).scalar()
    except SQLAlchemyError as error:
        why = f"does not answer: run hpo db start on {host} ({cause(error)})"
        return replace(state, state=why)
    since: datetime = row["since"]
    return replace(
        state,
        since=since.astimezone().isoformat(sep=" ", timespec="seconds"),
        encrypted=row["encrypted"],
        connections=row["connections"],
        allowed=row["allowed"],
        size_mb=round(row["bytes"] / 1e6, 1),
        studies=studies,
    )


_QUESTION = """
select pg_postmaster_start_time() as since,
       pg_database_size(current_database()) as bytes,
       to_regclass('studies') is not null as has_studies,
       (select ssl from pg_stat_ssl where pid = pg_backend_pid()) as encrypted,
       (select cast(sum(numbackends) as int) from pg_stat_database) as connections,
       cast(current_setting('max_connections') as int)
       - cast(current_setting('superuser_reserved_connections') as int) as allowed
"""


def _start(folder: Path, programs: Programs, host: str, port: int | None) -> None:
    network.free_port(host, port)
    output = folder / "start.log"
    output.write_text("")
    try:
        programs.run("pg_ctl", "start", "-D", folder, "-l", output, "-w", "-t", str(READY_S))
    except ServerError:
        text = output.read_text(errors="replace")
        raise ServerError(f"PostgreSQL did not start: {fault_of(text)} (see {output})") from None


def _wait_for(folder: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not guard.is_ready(folder):
        if guard.process_of(folder) is None or time.monotonic() > deadline:
            raise ServerError(f"PostgreSQL did not start: see {folder / 'log'}")
        time.sleep(0.1)


def _configure(folder: Path, settings: Settings, *, host: str, nodes: list[str]) -> None:
    """Write what PostgreSQL reads, and the address. Two commands at once write the same."""
    encrypted = (folder / CERTIFICATE).exists()
    let_in = network.networks([host, *network.LOOPBACK, *nodes, *settings.allow])
    lines = {
        "listen_addresses": host,
        "port": settings.port,
        "max_connections": settings.connections,
        "unix_socket_directories": "",
        "ssl": "on" if encrypted else "off",
        "password_encryption": "scram-sha-256",
        # Logs of a week, in the data folder.
        "logging_collector": "on",
        "log_directory": "log",
        "log_filename": "postgresql-%a.log",
        "log_rotation_size": 0,
        "log_truncate_on_rotation": "on",
        # A node that is gone, and a job that is suspended within a transaction, hold no lock long.
        "tcp_keepalives_idle": 60,
        "tcp_keepalives_interval": 10,
        "tcp_keepalives_count": 6,
        "idle_in_transaction_session_timeout": "60s",
    }
    url = kept_url(folder).set(host=socket.gethostname(), port=settings.port)
    url = url.set(query={"hostaddr": host, **_safely(folder, encrypted)})
    ours = _is_published(folder)
    write_private(folder / URL_FILE, url.render_as_string(hide_password=False))
    if ours:  # of another port, while the server was away
        _publish(folder)
    write(folder / CONFIGURATION, "".join(f"{key} = '{value}'\n" for key, value in lines.items()))
    write(folder / "pg_hba.conf", network.rules(let_in, encrypted=encrypted))
    write_settings(folder, settings)


def _safely(folder: Path, encrypted: bool) -> dict[str, str]:
    """How a client has to log in, so that who takes the port of a stopped server learns nothing.

    The password is proved, never sent, by SCRAM; bound to the encrypted channel it proves that the
    server is the one that knows the password, too.
    """
    if not encrypted:
        return {"require_auth": "scram-sha-256"}
    # Without a name of ours libpq checks against ~/.postgresql/root.crt, if that is there.
    certificate = str(folder / CERTIFICATE)
    return {"sslmode": "require", "channel_binding": "require", "sslrootcert": certificate}


def _publish(folder: Path) -> None:
    """Write the file by which the other commands find the server."""
    file = default_file()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(file, (folder / URL_FILE).read_text().strip())


def _is_published(folder: Path) -> bool:
    file, kept = default_file(), folder / URL_FILE
    return file.is_file() and kept.is_file() and file.read_text() == kept.read_text()


def _refuse_other(folder: Path) -> None:
    file = default_file()
    if os.path.lexists(file) and not _is_published(folder):
        raise InputError(
            f"{file} names another database already: stop that one with hpo db stop, or move the "
            "file away"
        )


def _refuse_changes(before: Settings, settings: Settings) -> None:
    fixed = ("host", "port", "connections")
    changed = [f"--{one}" for one in fixed if getattr(before, one) != getattr(settings, one)]
    if changed:
        raise InputError(f"the server runs: before a change of {' and '.join(changed)} stop it")


def _refuse_root(what: str) -> None:
    if os.geteuid() == 0:
        raise InputError(
            f"PostgreSQL refuses to run as root: run hpo db {what} as a user of your own, as by "
            f"su - USER or sudo -u USER hpo db {what}"
        )


def _address(url: URL) -> str:
    return f"{url.query.get('hostaddr', url.host)}:{url.port}"
