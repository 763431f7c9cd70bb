"""The commands of an emulator: export, evaluate, sample."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_prep.words.numbers import counted
from hpo.cli import options
from hpo.cli.options import FILE, FOLDER, KEYED, OfEmulator, listed, opened, placed, prepared
from hpo.cli.pictures import say_if_other_data

if TYPE_CHECKING:
    from hpo.emulator.choice import Run
    from hpo.records.listing import Format


@click.command()
@click.argument("study", metavar="STUDY|RUN")
@click.option("--out", type=FOLDER, required=True, help="Folder to be made.")
@click.option("--trial", type=click.IntRange(min=0), help="That trial [default: the best].")
@click.option("--max-cost", type=click.IntRange(min=1), metavar="FLOPS", help="Per event at most.")
@click.option(
    "--ensemble", type=click.IntRange(min=2), metavar="K", help="Mix the K best with equal weights."
)
@click.option("--train-on", is_flag=True, help="Train the configuration anew, on all cells.")
@click.option(
    "--members", type=click.IntRange(min=2), metavar="M", help="Of --train-on, mixed [default: 2]."
)
@click.option("--bag", is_flag=True, help="Of --train-on: each has a bootstrap of the rows, too.")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of --train-on [default: those of the configuration].",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Of --train-on: another option of flow or training. Repeatable.",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="T",
    help="Of --train-on, for all trainings together [default: no limit].",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    metavar="K",
    help="Of --train-on: K times as many flows more, each time without some interior cells, to "
    "measure how well it interpolates, and for how many events.",
)
@click.option("--overwrite", is_flag=True, help="Replace an emulator of another trial in --out.")
@options.catalogs
@click.option("--license", "--licence", metavar="SPDX", help="Of the emulator: CC-BY-4.0.")
@click.option("--author", "authors", multiple=True, metavar="NAME", help="Who made it. Repeatable.")
@click.option(
    "--cite",
    multiple=True,
    metavar="TEXT",
    help="What its users should cite: its paper, the simulation behind the data. Repeatable.",
)
@placed
def export(
    study: str,
    out: Path,
    trial: int | None,
    max_cost: int | None,
    ensemble: int | None,
    train_on: bool,
    members: int | None,
    bag: bool,
    epochs: int | None,
    settings: tuple[str, ...],
    max_minutes: float | None,
    folds: int | None,
    overwrite: bool,
    catalogs: int,
    license: str | None,
    authors: tuple[str, ...],
    cite: tuple[str, ...],
    runs: Path | None,
    storage: str | None,
) -> None:
    """Write the best trial's emulator, or train it to its end.

    RUN is the run.json of a single run, in place of a study's best. --train-on takes the
    configuration alone: it is trained anew to its end, on all cells, once for each member of an
    ensemble. The same command goes on with what was interrupted.

    Posteriors of catalogues of validation rows tell for how many events it is good. They take time
    in proportion to the members, and --catalogs 0 leaves them out.

    An emulator of another trial that is in --out stays there, unless --overwrite is given.

    Its README.md tells people what it is. --license, --author and --cite say there, and in
    emulator.json, what only you know.

    \b
        hpo export bbh --out emulator
        hpo export bbh --out emulator --ensemble 4
        hpo export bbh --out emulator --train-on --members 4 --folds 2 --max-minutes 60
        hpo export bbh --out emulator --train-on --set flow.components=64
        hpo export bbh --out emulator --license CC-BY-4.0 --author 'A. Maker' --cite 'Maker 2026'
        python -c 'from models import Emulator; print(Emulator.load("emulator").card)'
    """
    if trial is not None and ensemble:
        raise click.UsageError("give either --trial or --ensemble: an ensemble is of the best")
    if train_on and ensemble:
        raise click.UsageError("--train-on takes --members: its ensemble is of one configuration")
    training: dict[str, Any] = {"members": members, "bag": bag or None, "epochs": epochs}
    training |= {"max_minutes": max_minutes, "folds": folds, "set": settings or None}
    asked = {name: value for name, value in training.items() if value is not None}
    if asked and not train_on:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise click.UsageError(f"{words} of what? give --train-on, too")
    # What can be said without them does not wait for them.
    from hpo.cli import progress
    from hpo.emulator import choice
    from hpo.emulator.export import write
    from hpo.emulator.members import changed
    from hpo.emulator.outcome import replaced, told
    from models.bundle.readme.card import Terms

    terms = Terms(license=license, authors=authors, citation=cite)
    if Path(study).suffix == ".json":
        if trial is not None or max_cost or ensemble:
            raise click.UsageError("--trial, --max-cost and --ensemble choose in a study")
        best = [choice.named(Path(study))]
    else:
        found, folder = opened(study, storage, runs)
        best = choice.best(found, folder, trial=trial, max_cost=max_cost, count=ensemble or 1)
    old = replaced(out, [run.record for run in best], anew=train_on, overwrite=overwrite)
    runs_of: dict[str, Any] = {"runs": best}
    if train_on:
        run = changed(best[0], asked.pop("set", ()))
        trained, unseen = _trained_on(run, out, asked)
        runs_of = {"runs": trained, "chosen": best[0].record, "folds": unseen}
    with progress.of_steps("catalogues") as step:
        write(**runs_of, out=out, terms=terms, catalogs=catalogs, step=step)
    click.echo(f"{out}: {told([run.record for run in best], out, anew=train_on)}")
    if old:
        click.echo(f"replaced: {old}")


def _trained_on(run: Run, out: Path, asked: dict[str, Any]) -> tuple[list[Run], list[list[Run]]]:
    """The trainings by the configuration of a run, with their progress."""
    from rich.console import Console

    from hpo.cli import progress
    from hpo.emulator.members import Step, place_of, train_on

    place, console = place_of(out), Console(stderr=True)
    click.echo(f"training in {place}", err=True)
    try:
        with progress.of_steps("epochs", console) as show:

            def tell(step: Step) -> None:
                show(step.reached, step.count * step.epochs)
                if step.ended:
                    words = progress.line(step.ended, step.name)
                    progress.say(console, f"{words}  [{step.number + 1} of {step.count} done]")

            return train_on(run, place, tell=tell, **asked)
    except KeyboardInterrupt:
        click.echo(f"Interrupted: the same command goes on with {place}.", err=True)
        sys.exit(130)


@click.command()
@click.argument("emulator", type=FOLDER, metavar="EMULATOR")
@click.argument("data", metavar="DATA")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Part of the data.",
)
@click.option("--against", type=FOLDER, metavar="OTHER", help="A second emulator, beside it.")
@click.option("--worst", type=click.IntRange(min=1), metavar="N", help="Cells that are listed.")
@options.catalogs
@listed
def evaluate(
    emulator: Path,
    data: str,
    split: str,
    against: Path | None,
    worst: int | None,
    catalogs: int,
    style: Format,
) -> None:
    """Measure how good an emulator is on a prepared dataset.

    NLL, distances per cell, whether a classifier tells its draws from the data, coverage of events
    and of catalogues, draws outside the data's range, speed. DATA is the folder that hpo prepare
    wrote, or `sample`. A number in parentheses is the floor: what a perfect emulator would reach
    with as many events. --against OTHER shows two emulators side by side; differences are taken
    event by event, and so are their errors. Cells that an emulator was trained without are told
    from the others.

    A sentence comes first. Cells are sorted, the worst at the top. A mark (!) stands at a cell
    further from the data than chance would put any, and at a number more than three standard
    errors, or a distance once in a thousand, from what a perfect emulator has.

    JSON holds everything; CSV is one table of one number a row, of the whole part and then of each
    cell; LaTeX has the same two tables as the terminal.

    \b
        hpo evaluate emulator prepared --worst 5
        hpo evaluate emulator prepared --format csv
        hpo evaluate emulator prepared --against other
    """
    from hpo.emulator.evaluation_table import cells, numbers, scores, whole
    from hpo.emulator.verdict import verdict, worst_first
    from hpo.records.listing import paragraph, render
    from models import Emulator
    from models.evaluation.comparison import compare
    from models.evaluation.report import evaluate as evaluated

    loaded, folder = Emulator.load(emulator), prepared(data)
    other = Emulator.load(against) if against else None
    for each in (loaded, other) if other else (loaded,):
        say_if_other_data(each, folder)
    # Of one emulator, or of two with their differences.
    if other:
        found = compare(loaded, other, folder, split, catalogs=catalogs)
    else:
        found = evaluated(loaded, folder, split, catalogs=catalogs)
    if style == "json":
        click.echo(json.dumps(found, indent=2))
        return
    if why := found.get("emulator", found).get("catalogs", {}).get("missing", {}).get("cells"):
        click.echo(f"Note: coverage of catalogues is not measured: {why}.", err=True)
    units = {column.name: column.unit for column in loaded.module.event_columns}
    names = (str(emulator), f"{against} again" if against == emulator else str(against))
    told = scores(found, split, units, names if other else None)
    if style == "csv":
        click.echo(render(numbers(told), style))
        return
    both = [(loaded, found["emulator"]), (other, found["against"])] if other else [(loaded, found)]
    if style == "table":
        for name, (each, own) in zip(names, both, strict=False):
            told_of = f"{name}: " if other else ""
            click.echo(paragraph(told_of + verdict(own, each.reliability)) + "\n")
    listings = [whole(told), list(worst_first(cells(told), both[0][1], worst))]
    click.echo("\n\n".join(render(rows, style) for rows in listings if rows))
    if style == "table" and worst and worst < (count := len(both[0][1]["cells"])):
        click.echo(f"... and {counted(count - worst, 'cell')} more")


@click.command(cls=OfEmulator, context_settings=KEYED)
@click.argument("emulator", type=FOLDER, metavar="EMULATOR")
@click.option("-n", "count", type=click.IntRange(1, 10**9), required=True, help="Events to draw.")
@click.option("--out", type=FILE, required=True, help="A .parquet or .csv file; - prints CSV.")
@click.option("--seed", type=click.IntRange(min=0), help="Makes the draw repeatable.")
@click.pass_context
def sample(ctx: click.Context, emulator: Path, count: int, out: Path, seed: int | None) -> None:
    """Draw events from an emulator.

    Every condition is given as --NAME VALUE, or --NAME VALUE,VALUE,...: then -n events are drawn at
    each combination. `hpo sample EMULATOR --help` lists the conditions of that emulator.

    \b
        hpo sample emulator -n 100000 --Z 0.001 --alpha 1.0 --out events.parquet
        hpo sample emulator -n 1000 --Z 0.001,0.002 --alpha 1,3 --seed 7 --out grid.csv
        hpo sample emulator -n 3 --Z 0.001 --alpha 1.0 --out -
    """
    import itertools

    import numpy as np

    from hpo.emulator.draws import write
    from models import Emulator

    loaded = Emulator.load(emulator)
    given = options.conditions(ctx.args, loaded.module.condition_columns, several=True)
    options.missing(given, loaded.condition_columns)
    points = [dict(zip(given, point, strict=True)) for point in itertools.product(*given.values())]
    at: Any = {name: np.repeat([point[name] for point in points], count) for name in given}
    events = loaded.sample(count * len(points), seed=seed, **at)
    write(out, loaded.event_columns, events, at)
    if str(out) != "-":
        click.echo(f"{out}: {counted(len(events), 'event')}")
