"""The commands of single runs: logs, runs, rerun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_prep.errors import InputError
from data_prep.words.numbers import counted
from hpo.cli.options import FILE, FOLDER, listed, names, opened, placed, prepared

if TYPE_CHECKING:
    from hpo.records.listing import Format

MOST_REASONS = 5
"""Runs without a result whose reasons are told below a list."""


class _Trial(click.ParamType[int | str]):
    """The number of a trial, or `best`."""

    name = "number|best"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        return "best" if value == "best" else click.IntRange(min=0).convert(value, param, ctx)


@click.command()
@click.argument("study", metavar="STUDY")
@click.argument("trial", type=_Trial(), metavar="NUMBER|best")
@click.option("--follow", is_flag=True, help="Go on until the trial ends.")
@placed
def logs(
    study: str, trial: int | str, follow: bool, runs: Path | None, storage: str | None
) -> None:
    """Print the log of a trial.

    \b
        hpo logs bbh best
        hpo logs bbh 17 --follow
    """
    import time

    from hpo.queue.trials import TrialReader
    from hpo.study.study import trial_name

    found, folder = opened(study, storage, runs)
    reader = TrialReader(found)
    seen = reader.look()
    number = seen.ranked[0].number if trial == "best" and seen.ranked else trial
    if number == "best":
        raise InputError(f"no trial of {found.study_name} has ended well yet: give a number")
    path = folder / trial_name(int(number)) / "log.txt"
    if not path.is_file():
        begun = {one.number for one in seen.trials if one.began}
        if number in begun:
            raise InputError(f"trial {number} has begun, but {path} is not there: was it deleted?")
        raise InputError(f"trial {number} has not begun: {len(begun)} of {found.study_name} have")
    with path.open(encoding="utf-8", errors="replace") as log:
        while True:
            ended = not follow or number in reader.look().finished
            click.echo(log.read(), nl=False)
            if ended:
                return
            time.sleep(1)


@click.command()
@click.argument("folder", default=Path("runs"), type=FOLDER, metavar="[DIR]")
@click.option(
    "--where", metavar="EXPRESSION", help="Such as 'blocks >= 10 and activation == \"relu\"'."
)
@click.option("--sort", multiple=True, metavar="COLUMN", help="Repeatable; -COLUMN: downwards.")
@click.option("--differing", is_flag=True, help="Of all options only those that differ.")
@click.option("--columns", metavar="A,B", help="These columns; --format csv has the names of all.")
@click.option("--all", "every", is_flag=True, help="All columns, however wide.")
@click.option("--best", type=click.IntRange(min=1), is_flag=False, flag_value=1, help="The K best.")
@listed
def runs(
    folder: Path,
    where: str | None,
    sort: tuple[str, ...],
    differing: bool,
    columns: str | None,
    every: bool,
    best: int | None,
    style: Format,
) -> None:
    """List runs with rank, state, NLL and parameters.

    They are run JSONs, ours and the thesis's. JSON and CSV have every column of every run.

    \b
        hpo runs --where 'blocks >= 10 and activation == "relu"' --sort best_val_nll
        hpo runs --columns trial,best_val_nll,learning_rate --best 5
        hpo runs thesis_runs --differing --format latex
    """
    from hpo.records import table
    from hpo.records.listing import columns_of, render

    rows = table.rows(folder)
    chosen = None
    if where and rows:
        from data_prep.where import Filter  # Arrow's functions take longer than a short list

        chosen = Filter.parse(where, columns_of(rows))
    for_people = style in ("table", "latex") and not (columns or every)
    shown = list(names(columns, "--columns")) if columns else None
    kept = table.select(
        rows, where=chosen, sort=sort, best=best, differing=differing and not for_people
    )
    table.check_columns(rows, shown or ())
    if not kept:
        none = f"no runs in {folder}: name the folder that hpo launch tells"
        some = f"of {counted(len(rows), 'run')} in {folder} none is as asked"
        click.echo(some if rows else none, err=True)
        if style == "table":
            return
        shown = shown or columns_of(rows) or [*table.IDENTITY, *table.USUAL]  # for a program
    found = table.short(kept, differing=differing) if for_people else kept
    remedy = "--columns A,B shows some, --all everything"
    click.echo(render(found, style, columns=shown, fit=not every, more=remedy))
    told = table.reasons(kept) if for_people and style == "table" else []
    for sentence in told[:MOST_REASONS]:
        click.echo(f"\n{sentence}")
    if len(told) > MOST_REASONS:
        click.echo(f"\n... and {len(told) - MOST_REASONS} more: --columns trial,reason")


@click.command()
@click.argument("run_json", type=FILE, metavar="RUN_JSON")
@click.option("--out", type=FOLDER, help="Keep the new run.json and checkpoint in this folder.")
@click.option("--data", help="Prepared dataset [default: the folder that the record names].")
@listed
def rerun(run_json: Path, out: Path | None, data: str | None, style: Format) -> None:
    """Repeat a run from its run.json and say how close it came.

    The same machine, versions and number of threads give the same weights, bit for bit; a GPU
    gives them to the accuracy of float32.

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
