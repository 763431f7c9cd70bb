"""The commands of what a study runs on: doctor, and db with all that it has."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from data_prep.errors import InputError
from data_prep.words.numbers import size
from hpo.cli.options import FILE, FOLDER, Command, existing, listed, placed, planned

if TYPE_CHECKING:
    from hpo.doctor.check import Check
    from hpo.records.listing import Format


@click.group()
def db() -> None:
    """Look after the studies' database, or run one of your own."""


def kept(command: Command) -> Command:
    """Give a command `--data`."""
    option = click.option(
        "--data", type=FOLDER, help="Its folder [default: ~/.local/share/hpo/postgres]."
    )
    return option(command)


def _folder(data: Path | None) -> Path:
    from hpo.server.folder import default_folder

    return Path(os.path.realpath(data or default_folder()))


@db.command()
@click.option("--host", metavar="ADDRESS", help="Listen on it [default: the one nodes reach].")
@click.option("--port", type=click.IntRange(1, 65_535), help="[default: a free one, then kept]")
@click.option("--connections", type=click.IntRange(min=10), help="Allowed at once [default: 300].")
@click.option("--allow", multiple=True, metavar="NETWORK", help="Let in more, as 10.0.0.0/8.")
@click.option("--takeover", is_flag=True, help="The machine that ran it is gone for good.")
@kept
def start(data: Path | None, takeover: bool, **changes: object) -> None:
    """Run a PostgreSQL of your own on this machine.

    The other commands then find it. It needs no administrator, and refuses to run as root. The
    nodes of the cluster reach it, and nobody else. It runs until hpo db stop, or a reboot; the same
    command brings it back with all that it holds. What is said once about host, port, connections
    and networks is kept.

    \b
        hpo db start
        hpo launch bbh --on slurm --workers 20 --trials 200
    """
    from hpo.server import server
    from hpo.storage.address import FILE_VARIABLE, VARIABLE, default_file

    folder = _folder(data)
    given = {name: value for name, value in changes.items() if value not in (None, ())}
    began = server.start(folder, takeover=takeover, **given)
    state = server.state_of(folder)
    click.echo(
        f"PostgreSQL {'runs' if began else 'runs already'} on {state.host} ({state.address})"
    )
    click.echo(f"found by      {default_file()}, which holds its password")
    click.echo(f"kept in       {folder}")
    if not state.encrypted and not str(state.address).startswith("127."):
        click.echo("Warning: these programs cannot encrypt what is sent to it", err=True)
    for name in (VARIABLE, FILE_VARIABLE):
        if os.environ.get(name) not in (None, "", str(default_file())):
            click.echo(f"Warning: {name} is set and comes first: unset {name}", err=True)


@db.command()
@kept
@listed
def status(data: Path | None, style: Format) -> None:
    """Tell whether your PostgreSQL runs, and what it holds.

    Also where, and since when. The exit code is 1 if it does not run.
    """
    import dataclasses

    from hpo.records.listing import render
    from hpo.server.server import state_of

    state = state_of(_folder(data))
    told = dataclasses.asdict(state)
    if style == "table":
        rows = [{"what": what, "found": found} for what, found in told.items() if found is not None]
        click.echo(render(rows, style))
    else:
        click.echo(render([told], style))
    if state.state != "running":
        sys.exit(1)


@db.command()
@kept
def stop(data: Path | None) -> None:
    """Stop your PostgreSQL, and keep what it holds.

    Workers wait for it up to ten minutes.
    """
    from hpo.server import server

    folder = _folder(data)
    ran = server.stop(folder)
    click.echo(f"PostgreSQL {'is stopped' if ran else 'did not run'}; its data stay in {folder}")


@db.command()
@click.argument("file", type=FILE)
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@placed
def backup(file: Path, overwrite: bool, runs: Path | None, storage: str | None) -> None:
    """Copy the database into FILE, while workers may run.

    \b
        hpo db backup studies.backup
    """
    from hpo.server.backup import back_up
    from hpo.storage.address import masked, url_of

    url = existing(url_of(storage, runs))
    if os.path.lexists(file) and not overwrite:
        raise InputError(f"{file} is there already: name another file, or give --overwrite")
    back_up(url, file)
    click.echo(f"{masked(url)} is copied to {file} ({size(file.stat().st_size)})")


@db.command()
@click.argument("file", type=FILE)
@click.option("--overwrite", is_flag=True, help="Replace the studies that are there.")
@placed
def restore(file: Path, overwrite: bool, runs: Path | None, storage: str | None) -> None:
    """Bring back what hpo db backup wrote into FILE.

    No worker may run meanwhile.
    """
    from hpo.server import backup
    from hpo.storage.address import masked, url_of

    url = url_of(storage, runs)
    backup.restore(url, file, overwrite=overwrite)
    click.echo(f"{masked(url)} holds what {file} holds")


@db.command()
@placed
def upgrade(runs: Path | None, storage: str | None) -> None:
    """Bring the database up to the installed versions.

    Optuna and hpo-flows each have tables in it. A SQLite file is copied first; of a server make a
    copy yourself (hpo db backup). No worker may run meanwhile.
    """
    from hpo.queue.upgrade import upgrade_tables
    from hpo.storage.address import masked, url_of

    url = existing(url_of(storage, runs))
    before, now, copy = upgrade_tables(url)
    if before == now:
        click.echo(f"{masked(url)} is up to date ({now})")
    else:
        kept = f"; the old one is kept as {copy}" if copy else ""
        click.echo(f"{masked(url)} was {before} and is {now}{kept}")


@click.command()
@click.argument("study", required=False, metavar="[STUDY.toml]")
@planned
@placed
@listed
def doctor(
    study: str | None,
    on: str,
    workers: int | None,
    force_sqlite: bool,
    settings: tuple[str, ...],
    runs: Path | None,
    storage: str | None,
    style: Format,
) -> None:
    """Check this machine and cluster before a launch.

    What is ok is listed; a warning or a failure has its remedy below.

    \b
        hpo doctor
        hpo doctor bbh --on slurm --workers 50
    """
    from hpo.doctor import machine
    from hpo.execution.slurm import sbatch_text
    from hpo.records.listing import render
    from hpo.storage.address import RUNS, url_of
    from hpo.study.place import runs_of_launch
    from hpo.study.spec import load

    spec, url = load(study, settings=settings) if study else None, url_of(storage, runs)
    workers = workers or machine.default_workers(spec)
    place = runs_of_launch(url, spec.study.name, runs) if spec else (runs or RUNS).absolute()
    checks = machine.check(
        spec,
        on=on,
        runs=place,
        url=url,
        workers=workers,
        force_sqlite=force_sqlite,
        script=sbatch_text(spec, place, workers) if spec and on == "slurm" else None,
    )
    if style == "table":
        fine = [one for one in checks if one.verdict == "ok"]
        click.echo(render([{"ok": one.what, "found": one.found} for one in fine], style))
        for one in checks:
            if one.verdict != "ok":
                click.echo(f"\n{_block(one)}")
    else:
        click.echo(render([dataclasses.asdict(one) for one in checks], style))
    if any(one.verdict == "failed" for one in checks):
        sys.exit(1)


def _block(check: Check) -> str:
    """A check that is not all right, and what to do."""
    from hpo.records.listing import paragraph

    told = [check.found, *([f"remedy: {check.remedy}"] if check.remedy else [])]
    lines = [paragraph(one, "    ") for one in told]
    return "\n".join([f"{check.verdict}: {check.what}", *lines])
