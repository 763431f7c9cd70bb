"""The command that checks this machine: doctor."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.options import listed, placed, planned

if TYPE_CHECKING:
    from hpo.doctor.check import Check
    from hpo.records.listing import Format


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
        hpo doctor studies/bbh.toml --on slurm --workers 50
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
