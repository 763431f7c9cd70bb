"""The commands of studies: launch, status, stop, enqueue; studies, rename, delete."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_prep.words.numbers import counted, size
from hpo.cli.options import FILE, at_a_time, database, listed, placed, planned, study_name

if TYPE_CHECKING:
    from hpo.execution.plan import Plan
    from hpo.records.listing import Format
    from hpo.study.status import StudyStatus


@click.command()
@click.argument("study", default="bbh", metavar="[STUDY]")
@click.option("--trials", type=click.IntRange(min=1), help="Trials in total [default: study's].")
@click.option(
    "--stack",
    callback=at_a_time,
    metavar="auto|K",
    help="Trials that each worker trains at a time [default: the study's].",
)
@click.option("--name", help="Name of the study [default: the file's].")
@click.option("--detach", is_flag=True, help="Go on in the background and return.")
@click.option("--dry-run", is_flag=True, help="Print the study as a file; touch nothing.")
@planned
@placed
def launch(
    study: str,
    name: str | None,
    settings: tuple[str, ...],
    detach: bool,
    dry_run: bool,
    runs: Path | None,
    storage: str | None,
    **asked: Any,
) -> None:
    """Run a study until it has --trials trials in total.

    STUDY is a study that was launched before, by its name and with all its options; else a file,
    with or without .toml, or a shipped study (bbh, quick, thesis). Without STUDY it is bbh. The
    same command, run again after anything, finishes what is missing, and does nothing when all
    is there.

    \b
        hpo launch --trials 6
        hpo launch mine.toml --trials 200 --set data.path=prepared --set training.epochs=50
        hpo launch mine --trials 300
        hpo launch bbh --name long --set training.epochs=100 --dry-run
    """
    from hpo.execution import launch as launching
    from hpo.execution.plan import make_plan
    from hpo.execution.slurm import sbatch_text
    from hpo.storage.address import url_of
    from hpo.study.place import runs_of_launch

    words, url = _in_background(sys.argv[1:]), url_of(storage, runs)
    spec = launching.asked_for(study, settings=settings, name=name, runs=runs, url=url)
    place = runs_of_launch(url, spec.study.name, runs)
    plan = make_plan(spec, runs=place, url=url, command=shlex.join(["hpo", *words]), **asked)
    click.echo(plan.describe(), err=dry_run)
    if dry_run:
        click.echo(plan.spec.to_toml(), nl=False)
        if plan.on == "slurm":
            script = sbatch_text(plan.spec, plan.runs, plan.workers)
            click.echo(f"\nsbatch script:\n{script}", err=True)
    elif detach:
        launching.begin(plan, tell=click.echo)
        output = launching.detach(words, plan)
        click.echo(f"running in the background: hpo status {spec.study.name}, or see {output}")
    else:
        _follow(plan)


def _in_background(arguments: list[str]) -> list[str]:
    """The command line of a launch without what the environment carries or has happened."""
    kept, skip = [], False
    for word in arguments:
        if not (skip or word == "--detach" or word.startswith("--storage")):
            kept.append(word)
        skip = word == "--storage"
    return kept


def _follow(plan: Plan) -> None:
    from rich.console import Console

    from hpo.cli import progress
    from hpo.execution.follow import follow
    from hpo.execution.launch import begin
    from hpo.storage.open import explaining_disk_errors

    name, console = plan.spec.study.name, Console(stderr=True)
    try:
        with explaining_disk_errors(plan.url):
            made = begin(plan, tell=click.echo)
            with progress.of_study(console) as show:
                tell = functools.partial(progress.say, console)
                status = follow(plan, *made, show=show, tell=tell)
    except KeyboardInterrupt:
        if plan.on == "slurm":
            what = f"its jobs run on (hpo status {name}; hpo stop {name} --now ends them)"
        else:
            what = "its trials were handed back"
        click.echo(f"Interrupted: {what}. The same command goes on with {name}.", err=True)
        sys.exit(130)
    click.echo(progress.summary(status))
    if not status.stopping and status.complete == 0:
        raise click.ClickException(
            f"no trial of {name} ended well: see the log.txt in {status.runs}"
        )


@click.command()
@click.argument("study", required=False, metavar="[STUDY]")
@click.option("--watch", is_flag=True, help="Keep looking until it is done.")
@placed
@listed
def status(
    study: str | None, watch: bool, runs: Path | None, storage: str | None, style: Format
) -> None:
    """Show how far a study is, and its best trial.

    Running trials are listed, and of stale ones why. Without STUDY it lists all studies, as hpo
    studies does.

    \b
        hpo status bbh --watch
    """
    import dataclasses
    import time

    from hpo.cli import progress
    from hpo.records.listing import render
    from hpo.study.place import PlaceError, folder_of
    from hpo.study.register import listing
    from hpo.study.status import Records, status_of
    from hpo.study.study import load_study, slots_of

    opened = database(storage, runs)
    if study is None:
        click.echo(render(listing(opened, runs), style))
        return
    found, spec = load_study(opened, study_name(study))
    slots = slots_of(found, spec)
    try:
        folder = folder_of(opened, found, runs)
    except PlaceError as error:  # the database tells the most of it
        folder = error.folder
        click.echo(f"Note: {error}", err=True)
    records = Records(folder)
    with progress.in_place(watch and style == "table") as show:
        while True:
            status = status_of(found, spec, slots.look(), records)
            told = dataclasses.asdict(status)
            if style == "json":
                show(json.dumps(told, indent=2, default=str))
            elif style == "table":
                running = [progress.running(status)] if status.running else []
                show("\n".join([progress.summary(status), *running, *_next(status, runs, storage)]))
            else:
                show(render([{**told, "running": len(status.running)}], style))
            if not watch or not (status.running or status.waiting):
                return
            time.sleep(2)


def _next(status: StudyStatus, runs: Path | None, storage: str | None) -> list[str]:
    """The command that goes on with the study, where nobody works at it."""
    if status.running and not status.stopping:
        return []
    words = ["hpo", "launch", status.study]
    words += ["--on", status.on] if status.on != "local" else []
    words += ["--runs", str(runs)] if runs else []
    words += ["--storage", "URL"] if storage else []  # which may hold a password
    if status.waiting or status.stopping:
        return [f"go on: {shlex.join(words)}"]
    return [f"more: {shlex.join([*words, '--trials', str(2 * status.total)])}"]


@click.command()
@placed
@listed
def studies(runs: Path | None, storage: str | None, style: Format) -> None:
    """List the studies of the database.

    Trials that ended and in all, the best, the folder, when last active.

    \b
        hpo studies
        hpo studies --format json
    """
    from hpo.records.listing import render
    from hpo.study.register import listing

    click.echo(render(listing(database(storage, runs), runs), style))


@click.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@placed
def rename(old: str, new: str, runs: Path | None, storage: str | None) -> None:
    """Rename a study and the folder of its runs.

    No worker may be at it. Where it was broken off, the same command finishes. The study goes on
    under its new name.

    \b
        hpo rename bbh bbh-coarse
        hpo launch bbh-coarse --trials 200
    """
    from hpo.execution import optuna_note
    from hpo.storage.open import open_study
    from hpo.study import register

    opened, name = database(storage, runs, reading=False), study_name(old)
    folder = register.rename(opened, name, new, runs)
    optuna_note.rename(open_study(opened, new), name)
    click.echo(f"{name} is {new} now, its runs are in {folder}")


@click.command()
@click.argument("study", metavar="STUDY")
@click.option("--yes", is_flag=True, help="Do not ask.")
@placed
def delete(study: str, yes: bool, runs: Path | None, storage: str | None) -> None:
    """Delete a study and all that is of it.

    Its rows in the database, its runs, checkpoints and logs. It asks first. No worker may be at it.
    Where it was broken off, the same command finishes.

    \b
        hpo delete bbh
    """
    from hpo.study import register

    opened, name = database(storage, runs, reading=False), study_name(study)
    found = register.belongings(opened, name, runs)
    trials = counted(found.trials, "trial")
    text = (
        f"{trials} of {name} in the database, and {found.folder} with "
        f"{counted(found.files, 'file')} ({size(found.size)})"
        if found.folder
        else f"{trials} of {name} in the database; a folder of its runs is not there"
    )
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"this would delete {text}: give --yes")
        click.confirm(f"Delete {text}?", abort=True)
    register.delete(opened, name, runs)
    click.echo(f"deleted: {text}")


@click.command()
@click.argument("study", metavar="STUDY")
@click.option("--now", is_flag=True, help="End the running trials, too: they go back as they are.")
@placed
def stop(study: str, now: bool, runs: Path | None, storage: str | None) -> None:
    """Let a study's running trials end, and start no new one.

    With hpo launch it goes on.

    \b
        hpo stop bbh
        hpo stop bbh --now
    """
    from hpo.execution.stop import end_workers, stop_study

    found, name = database(storage, runs, reading=False), study_name(study)
    stop_study(found, name)
    if not now:
        click.echo(f"{name}: no new trial starts; hpo launch {name} goes on with it")
        return
    ended = end_workers(found, name)
    click.echo(
        f"{name}: {counted(ended.jobs, 'job')} cancelled, "
        f"{counted(ended.processes, 'local worker')} ended, "
        f"{counted(ended.running, 'trial')} still running; hpo launch {name} goes on with it"
    )
    for host in ended.elsewhere:
        click.echo(f"Note: a worker runs on {host}: run the same command there", err=True)


@click.command()
@click.argument("study", metavar="STUDY[.toml]")
@click.argument("file", required=False, type=FILE, metavar="[FILE]")
@click.option("--from", "source", metavar="STUDY", help="The best of another study instead.")
@click.option(
    "--best",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="K",
    help="How many of the best.",
)
@placed
def enqueue(
    study: str,
    file: Path | None,
    source: str | None,
    best: int,
    runs: Path | None,
    storage: str | None,
) -> None:
    """Have a study try given parameters next.

    Those in FILE, or the best of another study. FILE is JSON: a list of objects of parameters, one
    a line, or a run.json. They take the place of trials that wait; a study that is a .toml file is
    made if it is new. What a point leaves open is chosen by the sampler.

    \b
        hpo enqueue bbh points.json
        hpo enqueue bbh-2 --from bbh --best 5
    """
    from hpo.execution.launch import open_or_make
    from hpo.storage.address import url_of
    from hpo.storage.open import open_study
    from hpo.study.enqueue import best_points, fitting_points, read_points

    if (file is None) == (source is None):
        raise click.UsageError("give either FILE or --from STUDY")
    if source is not None:
        given = best_points(open_study(database(storage, runs), study_name(source)), best)
    elif file is not None:
        given = read_points(file)
    spec, slots = open_or_make(study, runs=runs, url=url_of(storage, runs))
    fitting = fitting_points(given, spec.space, source=str(file or source))
    numbers = slots.enqueue(fitting)
    trials = "trial" if len(numbers) == 1 else "trials"
    click.echo(f"{spec.study.name}: tried next, as {trials} {', '.join(map(str, numbers))}")
