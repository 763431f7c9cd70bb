"""The `hpo` command: parse, one call, print.

Heavy imports stand inside the commands, so that `hpo --help` does not wait for torch.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from data_prep.errors import InputError
from hpo import options
from hpo.options import FILE, FOLDER, KEYED, listed, placed

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy.engine import URL

    from hpo.launch import Launch
    from hpo.listing import Format
    from hpo.record import RunRecord
    from hpo.status import Look
    from models import Emulator


class _Commands(click.Group):
    """A group whose errors are one sentence: exit code 2 for the user's, 1 for anything else's."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except InputError as error:
            _end(ctx, f"Error: {error}", code=2, error=error)
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            _end(ctx, f"Error: {error.filename}: {error.strerror}", code=2, error=error)
        except KeyboardInterrupt:
            _end(ctx, "Interrupted.", code=130)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(1)
        except Exception as error:
            text = str(error) or type(error).__name__
            _end(ctx, f"Failed: {text} (hpo --debug shows where)", code=1, error=error)


def _end(ctx: click.Context, text: str, *, code: int, error: Exception | None = None) -> NoReturn:
    if error is not None and ctx.params.get("debug"):
        raise error
    click.echo(text, err=True)
    sys.exit(code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="hpo-flows", prog_name="hpo")
def main(debug: bool) -> None:
    """Search for, train and export normalizing-flow emulators of population synthesis.

    From a table of simulated mergers to p(M0, M1 | Z, alpha):

    \b
        hpo prepare mergers.csv --out prepared
        hpo launch --set data.path=prepared --trials 30
        hpo export bbh --out emulator
        hpo sample emulator -n 100000 --Z 0.001 --alpha 1.0 --out events.parquet
    """
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    click.echo(f"Warning: {message}", err=True)


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=FILE)
@click.option("--out", type=FOLDER, required=True, help="Folder to be made.")
@click.option("--columns", multiple=True, metavar="OLD=NEW", help="Rename a column. Repeatable.")
@click.option("--events", default="Mass_0,Mass_1", show_default=True, help="Event columns.")
@click.option("--conditions", default="Z,alpha", show_default=True, help="Condition columns.")
@click.option("--where", metavar="EXPRESSION", help="Keep rows such as 'Mass_0 > 3 and Z != 0.03'.")
@click.option("--split", default="0.6,0.2,0.2", show_default=True, help="train,val,test.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seeds the split and the shuffle.",
)
@click.option("--drop-invalid", is_flag=True, help="Drop and count bad rows instead of refusing.")
@listed
def prepare(
    sources: tuple[Path, ...],
    out: Path,
    columns: tuple[str, ...],
    events: str,
    conditions: str,
    where: str | None,
    split: str,
    seed: int,
    drop_invalid: bool,
    style: Format,
) -> None:
    """Turn simulation tables into a small Parquet dataset for training.

    SOURCE is a SEVN merger table (.csv, .csv.gz, whitespace .dat), Parquet with the same names, a
    COSMIC bpp table, or any table whose columns are named with --columns.

    \b
        hpo prepare mergers.csv --out prepared
        hpo prepare run1.parquet run2.parquet --out prepared --columns m1=Mass_0 --columns m2=Mass_1
    """
    from data_prep.prepare import prepare as prepare_dataset
    from hpo.listing import render

    console = _console()
    with _counting(console, "rows read") as on_progress:
        dataset = prepare_dataset(
            list(sources),
            out,
            event_columns=options.names(events, "--events"),
            condition_columns=options.names(conditions, "--conditions"),
            columns=options.renames(columns),
            where=where,
            split=options.fractions(split),
            seed=seed,
            drop_invalid=drop_invalid,
            command=_command_line(),
            on_progress=on_progress,
        )
    rows = sum(dataset.rows.values())
    summary = {
        "rows": rows,
        **dataset.rows,
        "dropped": sum(dataset.dropped.values()),
        "cells": len(dataset.cells),
        "bytes before": dataset.bytes_before,
        "bytes after": dataset.bytes_after,
        "bytes a row": round(dataset.bytes_after / rows, 2),
    }
    click.echo(render([summary], style))
    if style == "table":
        click.echo(f"{out} is ready: hpo launch --set data.path={out}")


@main.command()
@click.argument("study", default="bbh", metavar="[STUDY.toml]")
@click.option("--trials", type=click.IntRange(min=1), help="Trials in total [default: study's].")
@click.option("--workers", type=click.IntRange(min=1), help="Workers [default: one for each core].")
@click.option("--on", type=click.Choice(["local", "slurm"]), default="local", show_default=True)
@click.option("--name", help="Name of the study [default: the file's].")
@click.option("--set", "settings", multiple=True, metavar="TABLE.KEY=VALUE", help="Change a line.")
@click.option("--detach", is_flag=True, help="Go on in the background and return.")
@click.option("--dry-run", is_flag=True, help="Show what would be run; touch nothing.")
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
    from hpo import launch as launching
    from hpo.spec import load
    from hpo.storage import url_of

    spec = load(study, settings=settings, name=name)
    url = url_of(storage, runs)
    plan = launching.prepare(spec, trials=trials, workers=workers, on=on, runs=runs, url=url)
    console = _console()
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


def _show_dry_run(plan: Launch) -> None:
    from hpo.cluster import sbatch_text

    resolved = json.dumps(json.loads(plan.plan.spec.to_json()), indent=2)
    click.echo(f"\nstudy, resolved:\n{resolved}")
    if plan.plan.on == "slurm":
        click.echo(f"\nsbatch script:\n{sbatch_text(plan.plan)}")


def _follow(plan: Launch, console: Console) -> None:
    from hpo import launch as launching

    name = plan.plan.spec.study.name
    try:
        look = launching.follow(plan, *launching.begin(plan), console)
    except KeyboardInterrupt:
        what = "its jobs run on" if plan.plan.on == "slurm" else "its trials were handed back"
        click.echo(f"Interrupted: {what}. The same command goes on with {name}.", err=True)
        sys.exit(130)
    click.echo(
        f"{name}: {look.complete} complete, {look.pruned} pruned, {look.failed} failed, "
        f"{look.waiting} waiting"
    )
    if look.best_objective is not None:
        click.echo(_best(look))
    if look.stopping:
        click.echo(f"stopped by hpo stop: hpo launch goes on with {name}")
    elif look.complete == 0:
        raise click.ClickException(f"no trial of {name} ended well: see the log.txt in {look.runs}")


@main.command()
@click.argument("study", required=False, metavar="[STUDY]")
@click.option("--watch", is_flag=True, help="Keep looking until it is done.")
@placed
@listed
def status(study: str | None, watch: bool, runs: Path, storage: str | None, style: Format) -> None:
    """Show what a study does: counts, the best so far, running trials, stale ones and why.

    \b
        hpo status bbh --watch
    """
    from hpo.storage import open_storage, url_of

    opened = open_storage(_existing(url_of(storage, runs)))
    if study is None:
        _list_studies(opened, style)
    else:
        _look(opened, _study_name(study), watch=watch, style=style)


def _list_studies(storage: Any, style: Format) -> None:
    import optuna

    from hpo.listing import render
    from hpo.study import objective_of

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


def _look(storage: Any, name: str, *, watch: bool, style: Format) -> None:
    import dataclasses
    import time

    from hpo import status as looking
    from hpo.listing import render
    from hpo.slots import Slots
    from hpo.study import opened

    study, spec = opened(storage, name)
    slots = Slots(study, max_restarts=spec.study.max_restarts)
    while True:
        look = looking.look(study, spec, slots)
        running = [dataclasses.asdict(one) for one in look.running]
        if style == "json":
            click.echo(json.dumps(dataclasses.asdict(look), indent=2, default=str))
        else:
            if style == "table":
                click.echo(_summary(look))
            else:
                counts = {**dataclasses.asdict(look), "running": len(running)}
                click.echo(render([counts], style))
            if running and style == "table":
                click.echo(render(running, style))
        if not watch or not (look.running or look.waiting):
            return
        time.sleep(2)


def _summary(look: Look) -> str:
    text = (
        f"{look.study}: {look.finished} of {look.total} trials done ({look.complete} complete, "
        f"{look.pruned} pruned, {look.failed} failed), {len(look.running)} running, "
        f"{look.waiting} waiting"
    )
    if look.best_objective is not None:
        text += f"\n{_best(look)}"
    if look.stopping:
        text += "\nstopping: no new trial starts until the next hpo launch"
    return text


def _best(look: Look) -> str:
    named = {"held-out NLL": look.best_held_out_nll, "val NLL": look.best_val_nll}
    told = [f"{name} {nll:.4f}" for name, nll in named.items() if nll is not None]
    return f"best: trial {look.best_trial}, {', '.join(told)} nats per event"


@main.command()
@click.argument("study", metavar="STUDY")
@placed
def stop(study: str, runs: Path, storage: str | None) -> None:
    """Let the running trials end and start no new one. hpo launch goes on with the study."""
    from hpo.storage import open_storage, open_study, url_of
    from hpo.study import STOP

    name = _study_name(study)
    open_study(open_storage(_existing(url_of(storage, runs))), name).set_user_attr(STOP, True)
    click.echo(f"{name}: no new trial starts; hpo launch goes on with it")


@main.command()
@click.argument("study", metavar="STUDY")
@click.argument("trial", type=click.IntRange(min=0))
@placed
def logs(study: str, trial: int, runs: Path, storage: str | None) -> None:
    """Print a trial's log."""
    from hpo.storage import open_storage, open_study, url_of
    from hpo.study import runs_of, trial_folder

    found = open_study(open_storage(_existing(url_of(storage, runs))), _study_name(study))
    path = trial_folder(runs_of(found).parent, found.study_name, trial) / "log.txt"
    if not path.is_file():
        raise InputError(f"{path} is not there: trial {trial} has not begun")
    click.echo(path.read_text(encoding="utf-8", errors="replace"), nl=False)


@main.command()
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
    from data_prep.filter import Filter
    from hpo import runs as listing
    from hpo.listing import columns_of, render

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


@main.command()
@click.argument("study", metavar="STUDY")
@click.option("--out", type=FOLDER, required=True, help="Folder to be made.")
@click.option("--trial", type=click.IntRange(min=0), help="That trial [default: the best].")
@click.option("--max-cost", type=click.IntRange(min=1), metavar="FLOPS", help="Per event at most.")
@placed
def export(
    study: str, out: Path, trial: int | None, max_cost: int | None, runs: Path, storage: str | None
) -> None:
    """Write the best trial's emulator: what downstream analysis loads.

    \b
        hpo export bbh --out emulator
        python -c 'from models import Emulator; print(Emulator.load("emulator").card)'
    """
    from hpo import export as exporting
    from hpo.storage import open_storage, url_of
    from hpo.study import opened, runs_of

    found, _ = opened(open_storage(_existing(url_of(storage, runs))), _study_name(study))
    record = exporting.export(runs_of(found), out, trial=trial, max_cost=max_cost)
    told = [f"val NLL {record.best_val_nll:.4f}"]
    for what, score in (("test", record.test), ("held-out", record.held_out)):
        if score and score.nll is not None:
            told.append(f"{what} NLL {score.nll:.4f} +- {score.error:.4f}")
    click.echo(f"{out}: trial {record.trial} of {record.study}, {', '.join(told)} nats per event")


@main.command()
@click.argument("emulator", type=FOLDER, metavar="EMULATOR")
@click.argument("data", metavar="DATA")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test")
@listed
def evaluate(emulator: Path, data: str, split: str, style: Format) -> None:
    """Measure an emulator on a prepared dataset: NLL, distances per cell, unphysical events, speed.

    DATA is the folder that hpo prepare wrote, or `sample`.

    \b
        hpo evaluate emulator prepared --format json
    """
    from hpo.listing import render
    from models import Emulator, measure

    loaded, folder = Emulator.load(emulator), _data(data)
    _say_if_other_data(loaded, folder)
    found = measure.evaluate(loaded, folder, split)
    if style == "json":
        click.echo(json.dumps(found, indent=2))
        return
    cells = [_flat(cell) for cell in found.pop("cells")]
    if style == "table":
        rows = [{"measure": key, "value": value} for key, value in _flat(found).items()]
        click.echo(f"{render(rows, style)}\n")
    click.echo(render(cells, style))


def _say_if_other_data(emulator: Emulator, folder: Path) -> None:
    from data_prep.columns import Dataset

    trained_on = emulator.card.get("provenance", {}).get("data_fingerprint")
    if trained_on != Dataset.read(folder).fingerprint:
        click.echo(f"Note: {folder} is not the dataset that the emulator was trained on.", err=True)


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """`{"cost": {"parameters": 3}}` -> `{"cost parameters": 3}`; conditions by their own names."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            prefix = "" if key == "conditions" else f"{key} "
            flat |= {f"{prefix}{name}": one for name, one in _flat(value).items()}
        else:
            flat[key] = value
    return flat


@main.command(context_settings=KEYED)
@click.argument("emulator", type=FOLDER, metavar="EMULATOR")
@click.option("-n", "count", type=click.IntRange(min=1), required=True, help="Events to draw.")
@click.option("--out", type=FILE, required=True, help="A .parquet or .csv file.")
@click.option("--seed", type=click.IntRange(min=0), help="Makes the draw repeatable.")
@click.pass_context
def sample(ctx: click.Context, emulator: Path, count: int, out: Path, seed: int | None) -> None:
    """Draw events at one value of every condition, given as --NAME VALUE.

    \b
        hpo sample emulator -n 100000 --Z 0.001 --alpha 1.0 --out events.parquet
    """
    from hpo.events import write
    from models import Emulator

    loaded = Emulator.load(emulator)
    at = options.conditions(ctx.args, loaded.condition_columns)
    options.missing(at, loaded.condition_columns)
    events = loaded.sample(count, seed=seed, **at)
    write(out, loaded.event_columns, events, at)
    click.echo(f"{out}: {count:,} events")


@main.command(context_settings=KEYED)
@click.argument("source", metavar="EMULATOR|STUDY")
@click.argument("kind", type=click.Choice(["contours", "losses"]))
@click.option("--out", type=FILE, required=True, help="A .png, .pdf or .svg file.")
@click.option("--data", help="Prepared dataset to compare with [default: that of the training].")
@placed
@click.pass_context
def plot(
    ctx: click.Context,
    source: str,
    kind: str,
    out: Path,
    data: str | None,
    runs: Path,
    storage: str | None,
) -> None:
    """Draw a picture: an emulator's `contours` against data, or a study's `losses`.

    Contours are drawn for the whole test split, or for one cell given as --NAME VALUE.

    \b
        hpo plot emulator contours --data prepared --Z 0.001 --alpha 1.0 --out contours.pdf
        hpo plot bbh losses --out losses.png
    """
    from hpo import plot as plotting

    if kind == "losses":
        options.conditions(ctx.args, ())
        plotting.losses(_records(source, runs, storage), out)
    else:
        from models import Emulator

        loaded = Emulator.load(Path(source))
        at = options.conditions(ctx.args, loaded.condition_columns)
        folder = _data(data) if data else _data_of_training(Path(source))
        _say_if_other_data(loaded, folder)
        plotting.contours(loaded, folder, conditions=at or None, out=out)
    click.echo(str(out))


def _records(study: str, runs: Path, storage: str | None) -> list[RunRecord]:
    from hpo.record import RunRecord, read_all
    from hpo.storage import open_storage, url_of
    from hpo.study import opened, runs_of

    found, _ = opened(open_storage(_existing(url_of(storage, runs))), _study_name(study))
    records = [record for _, record in read_all(runs_of(found))]
    return [record for record in records if isinstance(record, RunRecord)]


def _study_name(reference: str) -> str:
    """A study by its name, or by the file that defines it."""
    if Path(reference).suffix == ".toml":
        from hpo.spec import load

        return load(reference).study.name
    return reference


def _data(reference: str) -> Path:
    from data_prep.columns import SAMPLE

    return SAMPLE if reference == "sample" else Path(reference)


def _data_of_training(emulator: Path) -> Path:
    """The dataset that the bundle's own record names."""
    from hpo.record import NAME, read

    folder = Path(read(emulator / NAME).data.path)
    if not folder.is_dir():
        raise InputError(f"{folder}, on which {emulator} was trained, is not here: give --data")
    return folder


def _existing(url: URL) -> URL:
    """The URL, unless it is of a SQLite file that is not there: looking must not make one."""
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise InputError(
            f"there is no study database {url.database}: run hpo launch first, or give --runs or "
            "--storage"
        )
    return url


def _command_line() -> str:
    return shlex.join(["hpo", *sys.argv[1:]])


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


@contextlib.contextmanager
def _counting(console: Console, what: str) -> Iterator[Callable[[int], None]]:
    """A live count on a terminal, a line for every ten million elsewhere."""
    if console.is_terminal:
        with console.status(f"0 {what}") as live:
            yield lambda count: live.update(f"{count:,} {what}")
        return
    told = 0

    def tell(count: int) -> None:
        nonlocal told
        if count // 10_000_000 > told:
            told = count // 10_000_000
            console.print(f"{count:,} {what}", highlight=False)

    yield tell


if __name__ == "__main__":
    main(prog_name="hpo")
