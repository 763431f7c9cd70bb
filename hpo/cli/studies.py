"""The commands of a study and of its runs: launch, status, stop, logs, runs."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_prep.errors import InputError
from hpo.cli.options import FILE, FOLDER, listed, placed
from hpo.cli.places import existing, prepared, study_name

if TYPE_CHECKING:
    from rich.console import Console

    from hpo.execution.plan import Plan
    from hpo.records.listing import Format
    from hpo.study.status import StudyStatus


@click.command()
@click.argument("study", default="bbh", metavar="[STUDY.toml]")
@click.option("--trials", type=click.IntRange(min=1), help="Trials in total [default: study's].")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Workers [default: one for each core here, at most 8].",
)
@click.option(
    "--on",
    type=click.Choice(["local", "slurm"]),
    default="local",
    show_default=True,
    help="Where the workers are.",
)
@click.option("--name", help="Name of the study [default: the file's].")
@click.option("--set", "settings", multiple=True, metavar="TABLE.KEY=VALUE", help="Change a line.")
@click.option("--detach", is_flag=True, help="Go on in the background and return.")
@click.option("--dry-run", is_flag=True, help="Show what would be run; touch nothing.")
@click.option(
    "--force-sqlite", is_flag=True, help="Use a SQLite file where its locks may not hold."
)
@placed
def launch(
    study: str,
    trials: int | None,
    workers: int | None,
    on: str,
    name: str | None,
    settings: tuple[str, ...],
    detach: bool,
    dry_run: bool,
    force_sqlite: bool,
    runs: Path,
    storage: str | None,
) -> None:
    """Run a study until it has --trials trials in total.

    STUDY.toml is a file or the name of a shipped study (bbh, quick, thesis). The same command, run
    again after anything, finishes what is missing, and does nothing when all is there.

    \b
        hpo launch --trials 6
        hpo launch studies/bbh.toml --trials 200 --set data.path=prepared --set training.epochs=50
    """
    from rich.console import Console

    from hpo.execution import launch as launching
    from hpo.execution.plan import make_plan
    from hpo.storage.address import url_of
    from hpo.study.spec import load

    spec = load(study, settings=settings, name=name)
    url = url_of(storage, runs)
    plan = make_plan(
        spec,
        trials=trials,
        workers=workers,
        on=on,
        runs=runs,
        url=url,
        force_sqlite=force_sqlite,
        command=shlex.join(["hpo", *_in_background(sys.argv[1:])]),
    )
    console = Console(stderr=True)
    click.echo(plan.describe())
    if dry_run:
        _show_dry_run(plan)
    elif detach:
        launching.begin(plan)
        output = launching.detach(_in_background(sys.argv[1:]), plan)
        click.echo(f"running in the background: hpo status {spec.study.name}, or see {output}")
    else:
        _follow(plan, console)


def _in_background(arguments: list[str]) -> list[str]:
    """The command line of a launch without what the environment carries or has happened."""
    kept, skip = [], False
    for word in arguments:
        if not (skip or word == "--detach" or word.startswith("--storage")):
            kept.append(word)
        skip = word == "--storage"
    return kept


def _show_dry_run(plan: Plan) -> None:
    from hpo.execution.slurm import sbatch_text

    resolved = json.dumps(json.loads(plan.spec.to_json()), indent=2)
    click.echo(f"\nstudy, resolved:\n{resolved}")
    if plan.on == "slurm":
        click.echo(f"\nsbatch script:\n{sbatch_text(plan)}")


def _follow(plan: Plan, console: Console) -> None:
    from hpo.cli import progress
    from hpo.execution.follow import follow
    from hpo.execution.launch import begin
    from hpo.storage.open import explaining_disk_errors

    name = plan.spec.study.name
    try:
        with explaining_disk_errors(plan.url):
            made = begin(plan)
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
    click.echo(
        f"{name}: {status.complete} complete, {status.pruned} pruned, {status.failed} failed, "
        f"{status.waiting} waiting"
    )
    if status.best_objective is not None:
        click.echo(_best(status))
    if status.stopping:
        click.echo(f"{status.stopping}: hpo launch goes on with {name} when that is changed")
    elif status.complete == 0:
        raise click.ClickException(
            f"no trial of {name} ended well: see the log.txt in {status.runs}"
        )


@click.command()
@click.argument("study", required=False, metavar="[STUDY]")
@click.option("--watch", is_flag=True, help="Keep looking until it is done.")
@placed
@listed
def status(study: str | None, watch: bool, runs: Path, storage: str | None, style: Format) -> None:
    """Show what a study does: counts, the best so far, running trials, stale ones and why.

    \b
        hpo status bbh --watch
    """
    from hpo.storage.address import url_of
    from hpo.storage.open import open_storage

    opened = open_storage(existing(url_of(storage, runs)), reading=True)
    if study is None:
        _list_studies(opened, style)
    else:
        _show_status(opened, study_name(study), watch=watch, style=style)


def _list_studies(storage: Any, style: Format) -> None:
    import optuna

    from hpo.records.listing import render
    from hpo.study.study import objective_of

    rows = [
        {
            "study": one.study_name,
            "trials": one.n_trials,
            f"best_{objective_of(one.user_attrs)}": best.value
            if (best := one.best_trial)
            else None,
        }
        for one in optuna.get_all_study_summaries(storage)
    ]
    click.echo(render(rows, style))


def _show_status(storage: Any, name: str, *, watch: bool, style: Format) -> None:
    import time

    from hpo.cli.progress import in_place
    from hpo.queue.slots import Slots
    from hpo.study.status import read_status
    from hpo.study.study import load_study

    study, spec = load_study(storage, name)
    slots = Slots(study, max_restarts=spec.study.max_restarts)
    with in_place(watch and style == "table") as show:
        while True:
            status = read_status(study, spec, slots)
            show(_told(status, style))
            if not watch or not (status.running or status.waiting):
                return
            time.sleep(2)


def _told(status: StudyStatus, style: Format) -> str:
    """A status as `hpo status` prints it."""
    import dataclasses

    from hpo.records.listing import render

    if style == "json":
        return json.dumps(dataclasses.asdict(status), indent=2, default=str)
    if style != "table":
        return render([{**dataclasses.asdict(status), "running": len(status.running)}], style)
    running = [dataclasses.asdict(one) for one in status.running]
    return "\n".join([_summary(status), *([render(running, style)] if running else [])])


def _summary(status: StudyStatus) -> str:
    from hpo.cli.progress import duration

    text = (
        f"{status.study}: {status.finished} of {status.total} trials done "
        f"({status.complete} complete, {status.pruned} pruned, {status.failed} failed), "
        f"{len(status.running)} running, {status.waiting} waiting"
    )
    if status.eta_s is not None:
        text += f", about {duration(status.eta_s)} left"
    if status.best_objective is not None:
        text += f"\n{_best(status)}"
    if status.stopping:
        text += f"\nno new trial starts: {status.stopping}"
    return text


def _best(status: StudyStatus) -> str:
    named = {"held-out NLL": status.best_held_out_nll, "val NLL": status.best_val_nll}
    told = [f"{name} {nll:.4f}" for name, nll in named.items() if nll is not None]
    return f"best: trial {status.best_trial}, {', '.join(told)} nats per event"


@click.command()
@click.argument("study", metavar="STUDY")
@click.option("--now", is_flag=True, help="End the running trials, too: they go back as they are.")
@placed
def stop(study: str, now: bool, runs: Path, storage: str | None) -> None:
    """Let the running trials end and start no new one. hpo launch goes on with the study.

    \b
        hpo stop bbh
        hpo stop bbh --now
    """
    from hpo.execution.stop import end_workers, stop_study
    from hpo.storage.address import url_of
    from hpo.storage.open import open_storage

    found = open_storage(existing(url_of(storage, runs)))
    name = study_name(study)
    stop_study(found, name)
    if not now:
        click.echo(f"{name}: no new trial starts; hpo launch goes on with it")
        return
    ended = end_workers(found, name)
    click.echo(
        f"{name}: {ended.jobs} jobs cancelled, {ended.processes} local workers ended, "
        f"{ended.running} trials still running; hpo launch goes on with it"
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
    study: str, file: Path | None, source: str | None, best: int, runs: Path, storage: str | None
) -> None:
    """Have a study try given parameters next: those in FILE, or the best of another study.

    FILE is JSON: a list of objects of parameters, one a line, or a run.json. They take the place
    of trials that wait; a study that is a .toml file is made if it is new. What a point leaves
    open is chosen by the sampler.

    \b
        hpo enqueue studies/bbh.toml points.json
        hpo enqueue bbh-2 --from bbh --best 5
    """
    from hpo.execution.launch import open_or_make
    from hpo.storage.address import url_of
    from hpo.storage.open import open_storage, open_study
    from hpo.study.enqueue import best_points, fitting_points, read_points

    if (file is None) == (source is None):
        raise click.UsageError("give either FILE or --from STUDY")
    url = url_of(storage, runs)
    if source is not None:
        earlier = open_study(open_storage(existing(url), reading=True), study_name(source))
        given = best_points(earlier, best)
    else:
        assert file is not None
        given = read_points(file)
    spec, slots = open_or_make(study, runs=runs, url=url)
    fitting = fitting_points(given, spec.space, source=str(file or source))
    numbers = slots.enqueue(fitting)
    click.echo(f"{spec.study.name}: tried next, as trials {', '.join(map(str, numbers))}")


@click.command()
@click.argument("study", metavar="STUDY")
@click.argument("trial", type=click.IntRange(min=0))
@placed
def logs(study: str, trial: int, runs: Path, storage: str | None) -> None:
    """Print a trial's log."""
    from hpo.storage.address import url_of
    from hpo.storage.open import open_storage, open_study
    from hpo.study.study import runs_of, trial_folder

    opened = open_storage(existing(url_of(storage, runs)), reading=True)
    found = open_study(opened, study_name(study))
    path = trial_folder(runs_of(found).parent, found.study_name, trial) / "log.txt"
    if not path.is_file():
        raise InputError(f"{path} is not there: trial {trial} has not begun")
    click.echo(path.read_text(encoding="utf-8", errors="replace"), nl=False)


@click.command()
@click.argument("folder", default=Path("runs"), type=FOLDER, metavar="[DIR]")
@click.option(
    "--where", metavar="EXPRESSION", help="Such as 'blocks >= 10 and activation == \"relu\"'."
)
@click.option("--sort", multiple=True, metavar="COLUMN", help="Repeatable; -COLUMN: downwards.")
@click.option("--differing", is_flag=True, help="Only the columns that differ.")
@click.option("--best", type=click.IntRange(min=1), is_flag=False, flag_value=1, help="The K best.")
@listed
def runs(
    folder: Path,
    where: str | None,
    sort: tuple[str, ...],
    differing: bool,
    best: int | None,
    style: Format,
) -> None:
    """List run JSONs, ours and the thesis's.

    \b
        hpo runs --where 'blocks >= 10 and activation == "relu"' --sort best_val_nll
        hpo runs thesis_runs --differing --format latex
    """
    from data_prep.where import Filter
    from hpo.records import table as listing
    from hpo.records.listing import columns_of, render

    every = listing.rows(folder)
    chosen = listing.select(
        every,
        where=Filter.parse(where, columns_of(every)) if where else None,
        sort=sort,
        best=best or False,
        differing=differing,
    )
    shown = listing.usual(chosen) if style in ("table", "latex") and not differing else None
    click.echo(render(chosen, style, columns=shown))


@click.command()
@click.argument("run_json", type=FILE, metavar="RUN_JSON")
@click.option("--out", type=FOLDER, help="Keep the new run.json and checkpoint in this folder.")
@click.option("--data", help="Prepared dataset [default: the folder that the record names].")
@listed
def rerun(run_json: Path, out: Path | None, data: str | None, style: Format) -> None:
    """Repeat a run from its run.json and say how close it came.

    The same machine, versions and number of threads give the same weights, bit for bit.

    \b
        hpo rerun runs/bbh/trial-00017/run.json
        hpo rerun runs/bbh/trial-00017/run.json --data prepared --out again
    """
    import tempfile

    from hpo.records.listing import render
    from hpo.records.rerun import rerun as run_again

    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch) / "again"
        done = run_again(run_json, folder, data=prepared(data) if data else None)
    click.echo(render(done.comparisons, style))
    click.echo(done.verdict, err=style != "table")
